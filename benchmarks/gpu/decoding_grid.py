"""Benchmark of constrained decoding over numbers of prompts and beams, compared with Hugging Face if it fits.

    python benchmarks/gpu/decoding_grid.py --model smollm2-135m --dtype bfloat16 --json grid.json

The methods are those of `benchmarks/decoding.py`, with one model in one process. The file is written again after every
case, so that results are kept when a time limit ends the run; compiled decoding steps (`static`) come last. Hugging
Face's beam search runs once per case.
"""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import HfArgumentParser

from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_row, markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from decoding import Setting, World, interleaved, timed
from device import device_name

OURS = ("sid_full", "sid_level", "sid_trie", "floor")


@dataclass
class Grid:
    """Arguments for the cases and the measurement."""

    batches: list[int] = field(default_factory=lambda: [8, 32], metadata={"help": "Numbers of prompts."})
    beam_counts: list[int] = field(default_factory=lambda: [20, 50, 200], metadata={"help": "Numbers of beams."})
    static: bool = field(default=True, metadata={"help": "Also measure compiled decoding steps."})
    rounds: int = field(default=3, metadata={"help": "Number of rounds, of three runs each."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})


def resize(world: World, batch: int, num_beams: int, static: bool) -> None:
    """Set the numbers of prompts and beams, and whether decoding steps are compiled."""
    world.setting = replace(world.setting, batch=batch, num_beams=num_beams)
    world.static = {"static": True} if static else {}
    ordinary = world.setting.vocabulary - world.setting.levels * world.setting.level_size
    shape = (batch, world.setting.prompt_length)
    prompts = torch.randint(1, ordinary, shape, device=world.setting.device)
    world.inputs = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}


def measure_case(world: World, rounds: int, static: bool) -> dict[str, Any]:
    """Measure the seconds of each method, and its speedup over Hugging Face's beam search, if that fits."""
    rows = world.rows()
    names = ("sid_level",) if static else OURS
    measured: dict[str, Any] = dict(interleaved(world, {name: rows[name] for name in names}, rounds, quiet=True))
    if not static:
        try:
            measured["hf_prefix"] = timed(world, rows["hf_prefix"])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            measured["hf_prefix"] = None
        for name in names:
            measured[f"{name}_speedup"] = measured["hf_prefix"] and measured["hf_prefix"] / measured[name]
    return measured


def main(setting: Setting, grid: Grid) -> None:
    """Measure all cases; write and print after each."""
    world, cases = World(setting), []
    shape = {"setting": asdict(setting) | {"device_name": device_name(setting.device), "torch": torch.__version__}}
    print(markdown_table(["prompts", "beams", "static", *OURS, "hf_prefix"], []))
    for static in (False, True)[: 1 + grid.static]:
        for batch, num_beams in ((batch, num_beams) for batch in grid.batches for num_beams in grid.beam_counts):
            start = perf_counter()
            resize(world, batch, num_beams, static)
            case: dict[str, Any] = {"batch": batch, "num_beams": num_beams, "static": static}
            try:
                case |= measure_case(world, grid.rounds, static)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                case["out_of_memory"] = True
            cases.append(case | {"minutes": (perf_counter() - start) / 60})
            values = [case.get(name) for name in (*OURS, "hf_prefix")]
            shown = ("-" if value is None else f"{value:.4f}" for value in values)
            print(markdown_row([batch, num_beams, static, *shown]), flush=True)
            if grid.json is not None:
                write_text(grid.json, json.dumps({**shape, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Grid)).parse_args_into_dataclasses())
