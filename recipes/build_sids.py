"""Build semantic ids: item text becomes embeddings, embeddings become codes, codes become one SID an item.

    python recipes/build_sids.py --data_dir data/ml-100k
    python recipes/build_sids.py --data_dir data/ml-100k --level_sizes 256 256 --embedding_model BAAI/bge-small-en-v1.5

Reads `data_dir/items.parquet`. Writes `data_dir/item_embeddings.safetensors`, and into `data_dir/semantic_ids/` the
`SemanticIds`, the fitted quantizer (`quantizer/`), and a report: `report.json`, `report.md`, `report.png`.

Residual k-means after OneRec (arXiv:2502.18965), without its balancing step; items that still share their codes get
one more level that numbers them, as in TIGER (arXiv:2305.05065, section 3.1). `--behaviour_weight` is an addition of
ours: item text says little about who chooses an item, so the vectors that are clustered may hold, beside the text
embedding, a factorisation of co-occurrence in the training events (never of validation or test events).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from trl import TrlParser

from genrec_hf.data import embed_items, item_texts, load_data, load_embeddings, save_embeddings
from genrec_hf.semantic_ids import (
    RqKmeans,
    SemanticIds,
    cooccurrence_embeddings,
    quantization_report,
    resolve_collisions,
    write_report,
)


@dataclass
class SidArguments:
    """What to embed and how to quantize it."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    embedding_model: str = field(
        default="all-MiniLM-L6-v2", metadata={"help": "Any sentence-transformers model, by Hub id or folder."}
    )
    text_template: str | None = field(default=None, metadata={"help": "Item text, such as '{title}|By {brand}'."})
    batch_size: int = field(default=64, metadata={"help": "Texts a batch."})
    level_sizes: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "Codes of each level."})
    behaviour_weight: float = field(
        default=0.0,
        metadata={"help": "Share of co-occurrence against text, from 0 (text only) to 1 (behaviour only)."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the k-means starts."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if not 0 <= self.behaviour_weight <= 1:
            raise ValueError(f"got behaviour_weight={self.behaviour_weight!r}; give a share from 0 to 1")
        if not self.level_sizes or min(self.level_sizes) < 1:
            raise ValueError(f"got level_sizes={self.level_sizes!r}; give at least one size, each 1 or more: 64 64")
        if self.batch_size < 1:
            raise ValueError(f"got batch_size={self.batch_size!r}; give 1 or more")


def main(arguments: SidArguments) -> None:
    """Embed, quantize, resolve collisions, report."""
    # 1. Data
    data_dir = Path(arguments.data_dir)
    output_dir = data_dir / "semantic_ids"
    data = load_data(data_dir)

    # 2. Embeddings: kept, and made again only when the model or the text changed
    texts = item_texts(data.items, arguments.text_template)
    made_from = {"embedding_model": arguments.embedding_model, "text_template": arguments.text_template}
    made_from["fingerprint"] = data.info["fingerprint"]
    file, stamp = data_dir / "item_embeddings.safetensors", data_dir / "item_embeddings.json"
    if file.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == made_from:
        embeddings = load_embeddings(file, data.item_ids)
    else:
        stamp.unlink(missing_ok=True)
        embeddings = embed_items(
            texts, arguments.embedding_model, batch_size=arguments.batch_size, progress=not arguments.quiet
        )
        save_embeddings(file, embeddings, data.item_ids)
        stamp.write_text(json.dumps(made_from, indent=2))

    # 3. Codes
    sequences = data.training_sequences()
    vectors = cooccurrence_embeddings(sequences, embeddings, arguments.behaviour_weight, arguments.seed)
    quantizer = RqKmeans(arguments.level_sizes, seed=arguments.seed).fit(vectors, progress=not arguments.quiet)
    codes = quantizer.encode(vectors)
    events = np.bincount(np.concatenate(sequences), minlength=len(codes))
    unique_codes, level_sizes = resolve_collisions(codes, quantizer.level_sizes, events)

    # 4. Save, and report
    info = made_from | {
        "quantizer": "RqKmeans",
        "seed": arguments.seed,
        "behaviour_weight": arguments.behaviour_weight,
        "collisions": "extra level" if len(level_sizes) > len(quantizer.level_sizes) else "none",
    }
    semantic_ids = SemanticIds(unique_codes, level_sizes, data.item_ids, info)
    semantic_ids.save_pretrained(output_dir)
    quantizer.save_pretrained(output_dir / "quantizer")
    report = quantization_report(codes, unique_codes, quantizer.level_sizes, embeddings)
    write_report("RqKmeans", report, codes, output_dir)
    print((output_dir / "report.md").read_text())
    print(f"{len(semantic_ids):,} items on levels of {level_sizes} codes, in {output_dir}")


if __name__ == "__main__":
    main(*TrlParser((SidArguments,)).parse_args_and_config())
