"""Build semantic ids: embed item texts, quantize the embeddings, and resolve collisions.

    python recipes/build_sids.py --data_dir data/ml-100k
    python recipes/build_sids.py --data_dir data/ml-100k --quantizer rq-vae --level_sizes 256 256 256 \
        --settings epochs=200 --collisions nearest

Reads `data_dir/items.parquet` and the training events. Writes `data_dir/item_embeddings.safetensors`, and into
`data_dir/semantic_ids/` the `SemanticIds`, the fitted quantizer (`quantizer/`), and a report: `report.json`,
`report.md`, `report.png`.

Quantizers: `rq-vae` (TIGER, arXiv:2305.05065), `rq-kmeans` and `balanced-rq-kmeans` (OneRec, arXiv:2502.18965), `pq`
(VQ-Rec, arXiv:2210.12316), `opq` (RPG, arXiv:2506.05781), `hierarchical-kmeans` (after P5-CID, arXiv:2305.06569),
`fsq` (arXiv:2309.15505), and as controls `lsh` and `random`; the docstring of each class says how it differs from the
paper. `--collisions` selects how items with the same codes get distinct SIDs: by default one more level numbers them,
as in TIGER.
`--behaviour_weight` is not from a paper: item text says little about who chooses an item, so the quantized vectors can
contain, besides the text embedding, a factorization of co-occurrences in the training events (never of validation or
test events). `recipes/compare_sids.py` compares quantizers on one catalogue.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe
from genrec_hf.data import catalogue_embeddings, item_categories, item_titles, load_data
from genrec_hf.directories import lock_for_recipe
from genrec_hf.semantic_ids import (
    QUANTIZER_NAMES,
    Strategy,
    behaviour_data,
    cooccurrence_embeddings,
    find_related_items,
    make_quantizer,
    read_settings,
    tokenize_catalogue,
    write_report,
)
from genrec_hf.vocabulary import SidVocabulary


@dataclass
class SidArguments:
    """Arguments of the embedding model, the quantizer and the collision resolution."""

    data_dir: str = field(metadata={"help": "Directory that prepare_data.py wrote."})
    embedding_model: str = field(
        default="all-MiniLM-L6-v2",
        metadata={"help": "Sentence-transformers model that embeds item texts, as Hub id or directory."},
    )
    text_template: str | None = field(
        default=None,
        metadata={
            "help": "Template of the item text, with columns of items.parquet in braces, such as '{title}|By "
            "{brand}': `|` separates parts, and a part with an empty column is left out. By default title, "
            "categories, brand and description are used."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Number of texts per batch of the embedding model."})
    quantizer: str = field(
        default="rq-kmeans",
        metadata={"help": f"Quantizer that maps embeddings to codes: one of {', '.join(QUANTIZER_NAMES)}."},
    )
    level_sizes: list[int] = field(
        default_factory=lambda: [64, 64], metadata={"help": "Number of codes of each level, one integer per level."}
    )
    settings: list[str] = field(
        default_factory=list,
        metadata={"help": "Other settings of the quantizer's class as name=value, such as `epochs=200 ema=false`."},
    )
    collisions: Strategy = field(
        default="extra-level",
        metadata={
            "help": "Strategy that gives items with the same codes distinct SIDs: `extra-level` numbers them on one "
            "more level, `random-level` samples the codes of that level, `nearest` and `sinkhorn` reassign their last "
            "codes, `none` lets items share a SID."
        },
    )
    reserved_codes: int = field(
        default=0,
        metadata={"help": "Number of additional codes of the extra level, reserved for items that are added later."},
    )
    behaviour_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of co-occurrence vectors relative to text embeddings in the quantized vectors, from 0 "
            "(text only) to 1 (co-occurrences only)."
        },
    )
    collaborative: str | None = field(
        default=None,
        metadata={
            "help": "Safetensors file of collaborative item vectors for the alignment loss of rq-vae "
            "(alignment_weight > 0). By default they are computed from co-occurrences."
        },
    )
    shuffle: bool = field(
        default=False, metadata={"help": "Whether to assign the SIDs to items at random, as a control."}
    )
    seed: int = field(default=0, metadata={"help": "Random seed of the quantizer and of all other random choices."})
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        if not 0 <= self.behaviour_weight <= 1:
            raise ValueError(f"got behaviour_weight={self.behaviour_weight!r}: it must be from 0 to 1")
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(
                f"got level_sizes={self.level_sizes!r}: every level needs at least one code, such as 64 64"
            )
        check_least(1, batch_size=self.batch_size)
        make_quantizer(self.quantizer, self.level_sizes, self.seed, settings=read_settings(self.settings))


@lock_for_recipe("data_dir")
def main(arguments: SidArguments) -> None:
    """Embed items, quantize the embeddings, resolve collisions, save and report."""
    # 1. Data
    data_dir, progress = Path(arguments.data_dir), not arguments.quiet
    output_dir = data_dir / "semantic_ids"
    data = load_data(data_dir)
    sequences = data.training_sequences()

    # 2. Embeddings: computed again only when the model or the text changed
    embeddings, made_from = catalogue_embeddings(
        data,
        data_dir,
        arguments.embedding_model,
        template=arguments.text_template,
        batch_size=arguments.batch_size,
        progress=progress,
    )

    # 3. Codes
    settings = read_settings(arguments.settings)
    quantizer = make_quantizer(arguments.quantizer, arguments.level_sizes, arguments.seed, settings=settings)
    events = data.item_counts()
    tokenized = tokenize_catalogue(
        quantizer,
        cooccurrence_embeddings(sequences, embeddings, arguments.behaviour_weight, seed=arguments.seed),
        find_related_items(embeddings, sequences, item_categories(data.items)),
        item_ids=data.item_ids,
        events=events,
        collisions=arguments.collisions,
        reserved_codes=arguments.reserved_codes,
        info=made_from | {"seed": arguments.seed, "behaviour_weight": arguments.behaviour_weight},
        progress=progress,
        **behaviour_data(quantizer, sequences, data.item_ids, collaborative=arguments.collaborative),
    )

    # 4. Save, and report
    semantic_ids = tokenized.semantic_ids.shuffled(arguments.seed) if arguments.shuffle else tokenized.semantic_ids
    semantic_ids.save_pretrained(output_dir)
    popular = np.argsort(-events, kind="stable")[:3]
    titles = item_titles(data.items)
    examples = list(zip(SidVocabulary(semantic_ids).text(popular), [titles[item] for item in popular], strict=True))
    name = arguments.quantizer
    reports, codes = {name: tokenized.report}, {name: tokenized.codes}
    write_report(reports, codes, embeddings, directory=output_dir, examples=examples)
    print((output_dir / "report.md").read_text())
    print(f"SIDs of {len(semantic_ids):,} items with level sizes {semantic_ids.level_sizes} are in {output_dir}")


if __name__ == "__main__":
    run_recipe(main)
