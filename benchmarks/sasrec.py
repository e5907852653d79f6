"""Benchmark of training steps: `SasRec` compared with RecBole's SASRec of the same shape.

    pip install --no-deps recbole colorlog texttable thop && pip install colorama psutil tensorboard
    python benchmarks/sasrec.py --json sasrec.json

A step is loss, gradient and Adam on the same sequences, whose lengths follow a geometric distribution with
`--mean_length`, or are all `--length`. The methods take turns, round by round, so that other load on the machine
affects all of them; times are medians over the rounds. All but `sampled` use the cross-entropy over the whole
catalogue.

| row | targets of a step |
|---|---|
| `recbole` | the last item of every row, as in RecBole, where each prefix of a user is one row |
| `one_target` | the same with `SasRec` |
| `padded` | every item of every row, all rows padded to the longest, with the scores of all items in memory |
| `dense` | the same loss as `train_sasrec.py` computes it: rows in groups of similar length, the softmax in chunks |
| `sampled` | the same targets with `loss: sampled_softmax` and 500 negatives |
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_table
from genrec_hf.models import SasRec, SasRecConfig


@dataclass
class Setting:
    """Arguments for the model and the batch."""

    items: int = field(default=12_101, metadata={"help": "Number of items of the catalogue."})
    batch: int = field(default=256, metadata={"help": "Number of rows per step."})
    length: int = field(default=50, metadata={"help": "Maximum number of items per row."})
    mean_length: float | None = field(
        default=None, metadata={"help": "Mean number of items per row, above 1; all rows have `length` by default."}
    )
    hidden_size: int = field(default=64, metadata={"help": "Hidden size."})
    layers: int = field(default=2, metadata={"help": "Number of layers."})
    heads: int = field(default=2, metadata={"help": "Number of attention heads."})
    dropout: float = field(default=0.5, metadata={"help": "Dropout rate of embeddings, attention and layers."})


@dataclass
class Options:
    """Arguments for the measurement."""

    rounds: int = field(default=15, metadata={"help": "Number of measured steps per method."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})


def recbole_loss(setting: Setting, rows: torch.Tensor) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Make RecBole's model, and its loss on rows `[batch, length + 1]`."""
    try:
        from recbole.model.sequential_recommender.sasrec import SASRec
    except ImportError as error:
        raise SystemExit(f"RecBole cannot be imported ({error}): install the packages named above") from error
    config: dict[str, Any] = {
        "USER_ID_FIELD": "user", "ITEM_ID_FIELD": "item", "LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "length",
        "NEG_PREFIX": "neg_", "MAX_ITEM_LIST_LENGTH": setting.length, "device": "cpu", "n_layers": setting.layers,
        "n_heads": setting.heads, "hidden_size": setting.hidden_size, "inner_size": 4 * setting.hidden_size,
        "hidden_dropout_prob": setting.dropout, "attn_dropout_prob": setting.dropout, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "initializer_range": 0.02, "loss_type": "CE",
    }  # fmt: skip

    class Catalogue:
        """Minimal data set of RecBole."""

        def num(self, name: str) -> int:
            return setting.items + 1  # its item 0 is padding

    model = SASRec(config, Catalogue()).train()
    lengths = (rows != setting.items).sum(dim=1) - 1
    histories = rows[:, :-1].masked_fill(torch.arange(setting.length) >= lengths[:, None], -1)
    batch = {"item_list": histories + 1, "length": lengths, "item": rows.gather(1, lengths[:, None]).squeeze(1) + 1}
    return model, lambda: model.calculate_loss(batch)


def our_loss(setting: Setting, rows: torch.Tensor, method: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Make a `SasRec`, and its loss on rows `[batch, length + 1]`, on the last item of a row or on all."""
    torch.manual_seed(1)
    config = SasRecConfig(
        items=setting.items,
        hidden_size=setting.hidden_size,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        intermediate_size=4 * setting.hidden_size,
        dropout=setting.dropout,
        max_history=setting.length,
        loss="sampled_softmax" if method == "sampled" else "cross_entropy",
        negatives=500,
    )
    model = SasRec(config).train()
    lengths = (rows != setting.items).sum(dim=1) - 1
    places = torch.arange(setting.length)
    histories = rows[:, :-1].masked_fill(places >= lengths[:, None], setting.items)
    unread = places != lengths[:, None] - 1 if method == "one_target" else places >= lengths[:, None]
    labels = rows[:, 1:].masked_fill(unread, -100)

    def padded_loss() -> torch.Tensor:
        known = labels != -100
        scores = model._encode(histories, lengths)[known] @ model.item_embedding.weight[: setting.items].T
        return F.cross_entropy(scores, labels[known])

    return model, padded_loss if method == "padded" else lambda: model(histories, labels).loss


def sample_rows(setting: Setting) -> torch.Tensor:
    """Sample rows `[batch, length + 1]` of items, with padding after the last item of a row."""
    rows = torch.randint(setting.items, (setting.batch, setting.length + 1))
    if setting.mean_length is None:
        return rows
    lengths = torch.empty(setting.batch).geometric_(1 / setting.mean_length).long().clamp(max=setting.length)
    return rows.masked_fill(torch.arange(setting.length + 1) > lengths[:, None], setting.items)


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    torch.manual_seed(0)
    rows = sample_rows(setting)
    methods = {"recbole": recbole_loss(setting, rows)}
    methods |= {name: our_loss(setting, rows, name) for name in ("one_target", "padded", "dense", "sampled")}
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=1e-3) for name, (model, _) in methods.items()}
    losses = {name: loss().item() for name, (_, loss) in methods.items()}  # equal without dropout, but for `sampled`
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in tqdm(range(options.rounds + 1), desc="Rounds", disable=options.quiet):
        for name, (_, loss) in methods.items():
            start = perf_counter()
            loss().backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if number:  # the first run warms up
                seconds[name].append(perf_counter() - start)
    all_targets = int((rows[:, 1:] != setting.items).sum())
    targets = {name: setting.batch if name in ("recbole", "one_target") else all_targets for name in methods}
    rates = {name: targets[name] / median(times) for name, times in seconds.items()}
    report = {
        "setting": asdict(setting)
        | {
            "device_name": f"{torch.get_num_threads()} threads, {platform.machine()} CPU",
            "torch": torch.__version__,
            "rounds": options.rounds,
        },
        "losses": losses,
        "rows": [
            {
                "name": name,
                "median_s": median(times),
                "steps_vs_recbole": median(seconds["recbole"]) / median(times),
                "targets_vs_recbole": rates[name] / rates["recbole"],
            }
            for name, times in seconds.items()
        ],
    }
    header = ["row", "median s", "steps a second, vs RecBole", "targets a second, vs RecBole"]
    forms = {"median_s": ".3f", "steps_vs_recbole": ".2f", "targets_vs_recbole": ".1f"}
    table = [[f"`{row['name']}`", *(format(row[key], form) for key, form in forms.items())] for row in report["rows"]]
    print(markdown_table(header, table))
    if options.json is not None:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Options)).parse_args_into_dataclasses())
