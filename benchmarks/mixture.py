"""Benchmark of building a mixture of tasks: time and memory for a million examples, written to disk as Arrow.

    python benchmarks/mixture.py --examples 1000000 --processes 2 --json mixture.json

The data set is synthetic, with titles, categories, times, and users of 10 to 100 events. All tasks that it has the
fields for are mixed in equal parts. Memory is the peak of this process above that before (Linux only); with several
processes each needs about as much.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import HfArgumentParser, PreTrainedTokenizerFast

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import InteractionData, RawData, prepare
from genrec_hf.directories import write_text
from genrec_hf.resource_usage import track_resources
from genrec_hf.tasks import TASKS, Mixture, make_sources


@dataclass
class Setting:
    """Arguments for the mixture."""

    examples: int = field(default=1_000_000, metadata={"help": "Approximate number of examples."})
    items: int = field(default=10_000, metadata={"help": "Number of items of the catalogue."})
    users: int = field(default=5_000, metadata={"help": "Number of users."})
    processes: int = field(default=1, metadata={"help": "Number of processes that write."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})


def synthetic_data(setting: Setting) -> InteractionData:
    """Make a synthetic data set with twenty categories."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 101, setting.users)
    events = pd.DataFrame({"user_id": np.repeat([f"u{user}" for user in range(setting.users)], lengths)})
    item_rows = rng.integers(setting.items, size=len(events))
    events["item_id"] = [f"i{item}" for item in item_rows]
    events["timestamp"], events["rating"] = (
        np.arange(len(events)) * 3_600,
        rng.integers(1, 6, len(events)).astype(float),
    )
    names = [f"i{item}" for item in range(setting.items)]
    titles = [f"{rng.choice(['Red', 'Old', 'Great', 'Small'])} thing number {item}" for item in range(setting.items)]
    kinds = [f"kind {item % 20}, all things" for item in range(setting.items)]
    items = pd.DataFrame({"item_id": names, "title": titles, "categories": kinds})
    return prepare(RawData("made up", events, items))


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of bytes: the mixture is text, for which only added tokens matter."""
    alphabet = {character: place for place, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")


def main(setting: Setting) -> None:
    """Build the mixture, print and write the report."""
    data = synthetic_data(setting)
    tokenizer, size = bytes_tokenizer(), int(np.ceil(len(data.items) ** 0.5))
    rows = np.arange(len(data.items))
    semantic_ids = SemanticIds(np.stack([rows // size, rows % size], axis=1), (size, size), data.item_ids)
    vocabulary = SidVocabulary(semantic_ids).extend(tokenizer)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as directory, track_resources() as cost:
        datasets.config.HF_DATASETS_CACHE = Path(directory)
        sources = make_sources(data, vocabulary, tokenizer)
        counts = Mixture(list(TASKS), sources).counts
        weights = {name: setting.examples / len(counts) / count for name, count in counts.items()}
        mixture = Mixture(list(counts), sources, weights)
        dataset = mixture.dataset(setting.processes if setting.processes > 1 else None)
        written = sum(Path(file["filename"]).stat().st_size for file in dataset.cache_files)
    report = {
        "setting": asdict(setting),
        "examples": len(dataset),
        "tasks": len(counts),
        "seconds": cost.seconds,
        "peak_mb": cost.peak_mb,
        "arrow_mb": written / 1e6,
    }
    print(json.dumps(report, indent=2))
    if setting.json:
        write_text(setting.json, json.dumps(report, indent=2))


if __name__ == "__main__":
    main(*HfArgumentParser(Setting).parse_args_into_dataclasses())
