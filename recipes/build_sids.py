"""Build semantic ids: item text becomes embeddings, embeddings become codes, codes become one SID an item.

    python recipes/build_sids.py --data_dir data/ml-100k
    python recipes/build_sids.py --data_dir data/ml-100k --quantizer rq-vae --level_sizes 256 256 256 \
        --settings epochs=200 --collisions nearest

Reads `data_dir/items.parquet`. Writes `data_dir/item_embeddings.safetensors`, and into `data_dir/semantic_ids/` the
`SemanticIds`, the fitted quantizer (`quantizer/`), and a report: `report.json`, `report.md`, `report.png`.

Quantizers: `rq-vae` (TIGER, arXiv:2305.05065), `rq-kmeans` and `balanced-rq-kmeans` (OneRec, arXiv:2502.18965), `pq`
(VQ-Rec, arXiv:2210.12316), `opq` (RPG, arXiv:2506.05781), `hierarchical-kmeans` (after P5-CID, arXiv:2305.06569),
`fsq` (arXiv:2309.15505), and as controls `lsh` and `random`; what differs from the papers stands with each class.
Items that still share their codes are told apart by `--collisions`, by default one more level that numbers them, as in
TIGER.
`--behaviour_weight` is an addition of ours: item text says little about who chooses an item, so the vectors that are
quantized may hold, beside the text embedding, a factorisation of co-occurrence in the training events (never of
validation or test events). `recipes/compare_sids.py` puts quantizers side by side.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe
from genrec_hf.data import catalogue_embeddings, item_categories, item_titles, load_data
from genrec_hf.directories import one_run
from genrec_hf.semantic_ids import (
    NAMES,
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
    """What to embed and how to quantize it."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    embedding_model: str = field(
        default="all-MiniLM-L6-v2", metadata={"help": "Any sentence-transformers model, by Hub id or folder."}
    )
    text_template: str | None = field(default=None, metadata={"help": "Item text, such as '{title}|By {brand}'."})
    batch_size: int = field(default=64, metadata={"help": "Texts a batch."})
    quantizer: str = field(default="rq-kmeans", metadata={"help": f"One of {', '.join(NAMES)}."})
    level_sizes: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "Codes of each level."})
    settings: list[str] = field(
        default_factory=list, metadata={"help": "Other settings of the quantizer's class: epochs=200 ema=false."}
    )
    collisions: Strategy = field(default="extra-level", metadata={"help": "How items with the same codes part."})
    reserved_codes: int = field(default=0, metadata={"help": "Spare codes of the extra level, for new items."})
    behaviour_weight: float = field(
        default=0.0,
        metadata={"help": "Share of co-occurrence against text, from 0 (text only) to 1 (behaviour only)."},
    )
    collaborative: str | None = field(
        default=None,
        metadata={"help": "Item vectors (safetensors) that rq-vae is aligned with; ours from co-occurrence if none."},
    )
    shuffle: bool = field(default=False, metadata={"help": "A control: give the SIDs to items at random."})
    seed: int = field(default=0, metadata={"help": "Seed of everything random."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if not 0 <= self.behaviour_weight <= 1:
            raise ValueError(f"got behaviour_weight={self.behaviour_weight!r}; give a share from 0 to 1")
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(f"got level_sizes={self.level_sizes!r}; give at least one size, each 1 or more: 64 64")
        check_least(1, batch_size=self.batch_size)
        make_quantizer(self.quantizer, self.level_sizes, self.seed, settings=read_settings(self.settings))


@one_run("data_dir")
def main(arguments: SidArguments) -> None:
    """Embed, quantize, resolve collisions, report."""
    # 1. Data
    data_dir, progress = Path(arguments.data_dir), not arguments.quiet
    output_dir = data_dir / "semantic_ids"
    data = load_data(data_dir)
    sequences = data.training_sequences()

    # 2. Embeddings: kept, and made again only when the model or the text changed
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
    made = tokenize_catalogue(
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
    semantic_ids = made.semantic_ids.shuffled(arguments.seed) if arguments.shuffle else made.semantic_ids
    semantic_ids.save_pretrained(output_dir)
    chosen = np.argsort(-events, kind="stable")[:3]
    titles = item_titles(data.items)
    examples = list(zip(SidVocabulary(semantic_ids).text(chosen), [titles[item] for item in chosen], strict=True))
    name = arguments.quantizer
    write_report({name: made.report}, {name: made.codes}, embeddings, directory=output_dir, examples=examples)
    print((output_dir / "report.md").read_text())
    print(f"{len(semantic_ids):,} items on levels of {semantic_ids.level_sizes} codes, in {output_dir}")


if __name__ == "__main__":
    run_recipe(main)
