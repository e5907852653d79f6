"""Benchmark of catalogue sizes: time and memory to load a catalogue, and the time of a recommendation.

    python benchmarks/catalogue.py --json catalogue.json

Each catalogue has SIDs of four levels and ids such as `B000123456`, and is loaded in its own process: `peak_mb` is the
peak memory of loading above that after the imports (Linux only). `recommend_ms` is the median time of
`Recommender.recommend` for one history, on one thread. The processes take turns, call by call, so that other load on
the machine affects all of them; `ratio` is the median over the calls of the time divided by that of the first
catalogue in the same turn. `trie_s` is the time to build the trie, `index_s` that of the first lookup by id, which
builds the index for later ones.

The catalogues have in common: the model (a random Llama of two layers, so that the cost of the catalogue shows), its
vocabulary, the length of the prompts, the number of beams, and the number of forward passes: every node of a trie has
several children, about the fourth root of the number of items (10, 32, 57 by default), so that no SID is determined
before its last level. They differ in the number of children that beams are selected from.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.directories import write_text
from genrec_hf.generation import Recommender, SidTrie
from genrec_hf.resource_usage import track_resources
from genrec_hf.tasks import next_item_prompt

LEVELS = 4


@dataclass
class Setting:
    """Arguments for the catalogues and the model."""

    items: list[int] = field(
        default_factory=lambda: [10_000, 1_000_000, 10_000_000],
        metadata={"help": "Numbers of items of the catalogues."},
    )
    level_size: int = field(default=256, metadata={"help": "Number of codes per level."})
    history: int = field(default=20, metadata={"help": "Number of items of a history."})
    k: int = field(default=10, metadata={"help": "Number of recommended items."})
    hidden_size: int = field(default=32, metadata={"help": "Hidden size of the model."})

    def __post_init__(self) -> None:
        if not self.k <= min(self.items) <= max(self.items) <= self.level_size**LEVELS:
            raise ValueError(
                f"got items={self.items}: each catalogue needs at least k={self.k} items, and at most the "
                f"{self.level_size**LEVELS:,} SIDs of {LEVELS} levels of {self.level_size} codes"
            )


@dataclass
class Options:
    """Arguments for the measurement."""

    calls: int = field(
        default=50, metadata={"help": "Number of measured calls per catalogue, after a fifth as many warmup calls."}
    )
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})
    serve: str | None = field(
        default=None,
        metadata={"help": "Used by the benchmark itself: load the catalogue of this folder and time calls."},
    )


def random_catalogue(items: int, level_size: int) -> SemanticIds:
    """Make random distinct SIDs from as few codes per level as possible, with random ids."""
    rng = np.random.default_rng(0)
    used = next(codes for codes in range(1, level_size + 1) if codes**LEVELS >= items)
    number = rng.permutation(used**LEVELS)[:items]
    codes = np.stack([number // used**level % used for level in reversed(range(LEVELS))], axis=1)
    item_ids = [f"B{number:09d}" for number in rng.permutation(items).tolist()]
    return SemanticIds(codes, (level_size,) * LEVELS, item_ids)


def tiny_recommender(semantic_ids: SemanticIds, hidden_size: int) -> Recommender:
    """Make a recommender of a random Llama with two layers."""
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = next_item_prompt([], SidVocabulary(semantic_ids))
    backend.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=2 * hidden_size, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    SidVocabulary(semantic_ids).extend(tokenizer, model, init="random")
    return Recommender(model, tokenizer, semantic_ids)


def serve(folder: str, setting: Setting) -> None:
    """Load a catalogue and print the cost, then print the seconds of one call for each line of standard input."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    with track_resources() as cost:
        semantic_ids = SemanticIds.from_pretrained(folder)
    with track_resources() as building:
        SidTrie(semantic_ids)
    with track_resources() as indexing:
        semantic_ids.rows(semantic_ids.ids([0]))
    recommender, rng = tiny_recommender(semantic_ids, setting.hidden_size), np.random.default_rng(0)
    costs = {"load_s": cost.seconds, "peak_mb": cost.peak_mb, "trie_s": building.seconds, "index_s": indexing.seconds}
    print(json.dumps(costs), flush=True)
    for _ in sys.stdin:
        history = semantic_ids.ids(rng.choice(len(semantic_ids), setting.history))
        start = perf_counter()
        (ranked,) = recommender.recommend([history], setting.k)
        seconds = perf_counter() - start
        assert len(set(ranked) - set(history)) == setting.k
        print(json.dumps(seconds), flush=True)


class Served:
    """Catalogue in its own process."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        command = [sys.executable, __file__, "--serve", str(folder)]
        for name, value in asdict(setting).items():
            command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.loading = self._answer()

    def seconds(self) -> float:
        """Time one call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process of a catalogue ended with code {self.process.wait()}: see its error above"
            )
        return json.loads(line)


def measure(setting: Setting, options: Options) -> list[dict[str, Any]]:
    """Measure all catalogues; return one row for each."""
    rows, served = [], []
    with TemporaryDirectory() as directory:
        for items in tqdm(setting.items, desc="Catalogues", disable=options.quiet):
            folder = Path(directory) / str(items)
            random_catalogue(items, setting.level_size).save_pretrained(folder)
            served.append(Served(folder, setting))
        turns = []
        for turn in tqdm(range(options.calls + -(-options.calls // 5)), desc="Calls", disable=options.quiet):
            seconds = [catalogue.seconds() for catalogue in served]
            if turn >= -(-options.calls // 5):  # earlier ones are warmup
                turns.append(seconds)
        for number, (items, catalogue) in enumerate(zip(setting.items, served, strict=True)):
            catalogue.close()
            rows.append({
                "items": items, **catalogue.loading, "recommend_ms": 1000 * median(turn[number] for turn in turns),
                "ratio": median(turn[number] / turn[0] for turn in turns),
            })  # fmt: skip
    return rows


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    if options.serve is not None:
        serve(options.serve, setting)
        return
    report = {
        "setting": asdict(setting)
        | {"machine": f"1 thread, {platform.machine()} CPU", "torch": torch.__version__, "calls": options.calls},
        "rows": measure(setting, options),
    }
    print("| items | load, s | peak, MB | trie, s | index, s | recommend, ms | vs the first |")
    print("|---" * 7 + "|")
    for row in report["rows"]:
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(
            f"| {row['items']:,} | {row['load_s']:.2f} | {peak} | {row['trie_s']:.2f} | {row['index_s']:.2f} | "
            f"{row['recommend_ms']:.1f} | {row['ratio']:.2f} |"
        )
    if options.json is not None:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Options)).parse_args_into_dataclasses())
