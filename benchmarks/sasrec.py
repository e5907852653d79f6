"""Benchmark of training steps: `SasRec` compared with RecBole's SASRec of the same shape.

    pip install --no-deps recbole colorlog texttable thop && pip install colorama psutil tensorboard
    python benchmarks/sasrec.py --json sasrec.json

A step is loss, gradient and Adam on the same sequences. The methods take turns, round by round, so that other load on
the machine affects all of them; times are medians over the rounds. All use the cross-entropy over the whole catalogue.

| row | targets of a step |
|---|---|
| `recbole` | the last item of every row, as in RecBole, where each prefix of a user is one row |
| `one_target` | the same with `SasRec` |
| `dense` | every item of every row, as `train_sasrec.py` does |
"""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import torch
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
    length: int = field(default=50, metadata={"help": "Number of items per row."})
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
    batch = {
        "item_list": rows[:, :-1] + 1,
        "length": torch.full((len(rows),), setting.length),
        "item": rows[:, -1] + 1,
    }
    return model, lambda: model.calculate_loss(batch)


def our_loss(setting: Setting, rows: torch.Tensor, dense: bool) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Make a `SasRec`, and its loss on rows `[batch, length + 1]`, on every item or on the last."""
    config = SasRecConfig(
        items=setting.items,
        hidden_size=setting.hidden_size,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        intermediate_size=4 * setting.hidden_size,
        dropout=setting.dropout,
        max_history=setting.length,
    )
    model, labels = SasRec(config).train(), rows[:, 1:].clone()
    if not dense:
        labels[:, :-1] = -100
    return model, lambda: model(rows[:, :-1], labels).loss


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    torch.manual_seed(0)
    rows = torch.randint(setting.items, (setting.batch, setting.length + 1))
    methods = {
        "recbole": recbole_loss(setting, rows),
        "one_target": our_loss(setting, rows, dense=False),
        "dense": our_loss(setting, rows, dense=True),
    }
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=1e-3) for name, (model, _) in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in tqdm(range(options.rounds + 1), desc="Rounds", disable=options.quiet):
        for name, (_, loss) in methods.items():
            start = perf_counter()
            loss().backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if number:  # the first run warms up
                seconds[name].append(perf_counter() - start)
    targets = {name: setting.batch * (setting.length if name == "dense" else 1) for name in methods}
    rates = {name: targets[name] / median(times) for name, times in seconds.items()}
    report = {
        "setting": asdict(setting)
        | {
            "device_name": f"{torch.get_num_threads()} threads, {platform.machine()} CPU",
            "torch": torch.__version__,
            "rounds": options.rounds,
        },
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
