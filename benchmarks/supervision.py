"""Benchmark of supervised items per second: one target per prompt, dense windows, and packed sequences.

    python benchmarks/supervision.py --json supervision.json
    python benchmarks/supervision.py --layers 30 --tokens 2048 --normalization level
    python benchmarks/supervision.py --layers 30 --tokens 16384 --device cuda --dtype bfloat16

Measured is `SidSftTrainer`'s loss and its gradient, on batches as the trainer makes them, padding included. The
methods take turns, round by round, so that other load on the machine affects all of them; times are medians over the
rounds. The model has the shape of SmolLM2-135M with fewer layers and random weights; LoRA and the SID rows are
trained. Users have 5 to 700 events, log-normal around 60.

| row | content of a batch |
|---|---|
| `one_target` | prompts of up to `history` items, each with the SID of the next item (task `next_item`) |
| `dense` | windows of up to `history + 1` items, the loss on all but the first (`dense_dataset`) |
| `dense_share` | the same with `normalization="full"`, `vocabulary_fraction=0.125` |
| `dense_level` | the same with `normalization="level"` |
| `packed` | whole users in one row of `tokens` (`pretraining_dataset`, `packing=True`) |
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from device import autocast, device_name, wait
from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import InteractionData, RawData, prepare
from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_table
from genrec_hf.models import start_adapter
from genrec_hf.tasks import (
    EventLimits,
    Mixture,
    dense_dataset,
    make_sources,
    next_item_prompt,
    pretraining_dataset,
)
from genrec_hf.training.sft import SidSftTrainer


@dataclass
class Setting:
    """Arguments for the model, the data and the batch."""

    history: int = field(default=50, metadata={"help": "Number of items per prompt, and one fewer than per window."})
    tokens: int = field(default=1024, metadata={"help": "Number of tokens per batch, padding included."})
    layers: int = field(default=4, metadata={"help": "Number of layers of the model."})
    vocabulary: int = field(default=49_152, metadata={"help": "Size of the vocabulary."})
    levels: int = field(default=3, metadata={"help": "Number of tokens per SID."})
    level_size: int = field(default=256, metadata={"help": "Number of codes per level."})
    items: int = field(default=2000, metadata={"help": "Number of items of the catalogue."})
    users: int = field(default=100, metadata={"help": "Number of users."})
    normalization: str = field(
        default="full", metadata={"help": "Tokens that SID tokens are normalized over: full or level."}
    )
    attention: str = field(default="sdpa", metadata={"help": "Attention implementation: sdpa or eager."})
    dtype: str = field(
        default="float32", metadata={"help": "Dtype of computation: float32, or bfloat16 with autocast."}
    )
    device: str = field(default="cpu", metadata={"help": "Device: cpu or cuda."})


@dataclass
class Options:
    """Arguments for the measurement."""

    rounds: int = field(default=9, metadata={"help": "Number of measured batches per method."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})


def random_world(setting: Setting) -> InteractionData:
    """Make users with random items, on which the times do not depend."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(60), 1.0, setting.users)).clip(5, 700).astype(int)
    events = pd.DataFrame({"user_id": np.repeat([f"u{user}" for user in range(setting.users)], lengths)})
    events["item_id"] = [f"i{item}" for item in rng.integers(setting.items, size=len(events))]
    events["timestamp"] = np.arange(len(events))
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(setting.items)]})
    return prepare(RawData("random", events, items))


def random_sids(setting: Setting, item_ids: list[str]) -> SemanticIds:
    """Make a distinct SID for each item by counting."""
    item = np.arange(len(item_ids))
    codes = [item // setting.level_size**level % setting.level_size for level in reversed(range(setting.levels))]
    return SemanticIds(np.stack(codes, axis=1), (setting.level_size,) * setting.levels, item_ids)


def word_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the words of `text`."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator([text], trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<end>")


class Method:
    """Trainer on one kind of examples, with an endless iterator over its batches."""

    def __init__(
        self, setting: Setting, dataset: Dataset, sids: SemanticIds, rows: int, folder: str, **loss: Any
    ) -> None:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=setting.vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=setting.layers,
            num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=None, pad_token_id=0, attn_implementation=setting.attention,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        tokenizer = word_tokenizer(next_item_prompt([], SidVocabulary(sids)))
        self.vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="mean")
        arguments = SFTConfig(
            output_dir=folder,
            use_cpu=setting.device == "cpu",
            bf16=setting.dtype == "bfloat16",
            report_to="none",
            activation_checkpointing=False,
            packing=rows == 1,
            max_length=setting.tokens,
            per_device_train_batch_size=rows,
            disable_tqdm=True,
        )
        self.trainer = SidSftTrainer(
            start_adapter(model, self.vocabulary, LoraConfig(r=16)),
            arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            vocabulary=self.vocabulary,
            **({"normalization": setting.normalization} | loss),
        )
        self.setting, self.batches = setting, self._batches()

    def _batches(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from self.trainer.get_train_dataloader()

    def step(self) -> tuple[int, int, float]:
        """Measure one batch: supervised items, tokens and seconds."""
        batch = next(self.batches)
        last = torch.as_tensor(self.vocabulary.level_token_ids[-1])
        items, tokens = int(torch.isin(batch["labels"][:, 1:], last).sum()), batch["input_ids"].numel()
        batch = self.trainer._prepare_inputs(batch)
        wait(self.setting.device)
        start = perf_counter()
        with autocast(self.setting.device, self.setting.dtype):
            loss = self.trainer.compute_loss(self.trainer.model, batch)
        loss.backward()
        wait(self.setting.device)
        seconds = perf_counter() - start
        self.trainer.model.zero_grad()
        return items, tokens, seconds


def all_methods(setting: Setting, folder: str) -> dict[str, Method]:
    """Make the compared methods by name."""
    data = random_world(setting)
    sids = random_sids(setting, data.item_ids)
    head = next_item_prompt([], SidVocabulary(sids))
    tokenizer = word_tokenizer(head)
    vocabulary = SidVocabulary(sids).extend(tokenizer)
    longest = len(tokenizer(head)["input_ids"]) + (setting.history + 1) * setting.levels
    if setting.tokens < 2 * longest:
        raise ValueError(f"got tokens={setting.tokens}, too few for two prompts per batch: give {2 * longest} or more")
    sequences, rows = data.training_sequences(), setting.tokens // longest
    sources = make_sources(data, vocabulary, tokenizer, limits=EventLimits(max_history=setting.history))
    dense = dense_dataset(sequences, vocabulary, tokenizer, max_history=setting.history)
    methods: dict[str, tuple[Dataset, int, dict[str, Any]]] = {
        "one_target": (Mixture(["next_item"], sources).dataset(), rows, {}),
        "dense": (dense, rows, {}),
        "dense_share": (dense, rows, {"normalization": "full", "vocabulary_fraction": 0.125}),
        "dense_level": (dense, rows, {"normalization": "level"}),
        "packed": (pretraining_dataset(data, vocabulary, tokenizer, max_length=setting.tokens, item_share=0), 1, {}),
    }
    return {
        name: Method(setting, dataset, sids, rows, folder, **loss) for name, (dataset, rows, loss) in methods.items()
    }


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        methods = all_methods(setting, folder)
        measured: dict[str, list[tuple[int, int, float]]] = {name: [] for name in methods}
        for number in tqdm(range(options.rounds + 1), desc="Rounds", disable=options.quiet):
            for name, method in methods.items():
                step = method.step()
                if number:  # the first run is warmup
                    measured[name].append(step)
    rates = {name: median(items / seconds for items, _, seconds in steps) for name, steps in measured.items()}
    rows = [
        {
            "name": name,
            "supervised_items_per_s": rate,
            "ratio_to_one_target": rate / rates["one_target"],
            "items_per_batch": median(items for items, _, _ in measured[name]),
            "tokens_per_batch": median(tokens for _, tokens, _ in measured[name]),
            "median_s": median(seconds for _, _, seconds in measured[name]),
        }
        for name, rate in rates.items()
    ]
    device = device_name(setting.device)
    report = {
        "setting": asdict(setting) | {"device_name": device, "torch": torch.__version__, "rounds": options.rounds},
        "rows": rows,
    }
    header = ["row", "supervised items/s", "vs one target", "items per batch", "tokens per batch", "median s"]
    forms = {"supervised_items_per_s": ".1f", "ratio_to_one_target": ".1f", "items_per_batch": ".0f"}
    forms |= {"tokens_per_batch": ".0f", "median_s": ".2f"}
    print(
        markdown_table(
            header, [[f"`{row['name']}`", *(format(row[key], form) for key, form in forms.items())] for row in rows]
        )
    )
    if options.json is not None:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Options)).parse_args_into_dataclasses())
