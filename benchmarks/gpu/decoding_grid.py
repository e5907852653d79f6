"""Constrained decoding over a grid of prompts and beams, one model in one process, Hugging Face beside it if it fits.

    python benchmarks/gpu/decoding_grid.py --model smollm2-135m --dtype bfloat16 --json grid.json

What runs is `benchmarks/decoding.py`'s, see there; the file is written anew after every case, compiled decode steps
(`static`) last, so that what was measured before a limit is kept. Hugging Face's beams run once a case.
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
    """The cases, and how they are measured."""

    batches: list[int] = field(default_factory=lambda: [8, 32], metadata={"help": "Prompts."})
    beam_counts: list[int] = field(default_factory=lambda: [20, 50, 200], metadata={"help": "Beams."})
    static: bool = field(default=True, metadata={"help": "Compiled decode steps too."})
    rounds: int = field(default=3, metadata={"help": "Rounds of three runs each."})
    json: str | None = field(default=None, metadata={"help": "File to write the figures to."})


def resize(world: World, batch: int, num_beams: int, static: bool) -> None:
    """The same model and catalogue with other prompts and beams."""
    world.setting = replace(world.setting, batch=batch, num_beams=num_beams)
    world.static = {"static": True} if static else {}
    ordinary = world.setting.vocabulary - world.setting.levels * world.setting.level_size
    shape = (batch, world.setting.prompt_length)
    prompts = torch.randint(1, ordinary, shape, device=world.setting.device)
    world.inputs = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}


def measure_case(world: World, rounds: int, static: bool) -> dict[str, Any]:
    """Seconds of each row, and how many times faster than Hugging Face's beams, where those fit."""
    rows = world.rows()
    names = ("sid_level",) if static else OURS
    taken: dict[str, Any] = dict(interleaved(world, {name: rows[name] for name in names}, rounds, quiet=True))
    if not static:
        try:
            taken["hf_prefix"] = timed(world, rows["hf_prefix"])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            taken["hf_prefix"] = None
        for name in names:
            taken[f"{name}_speedup"] = taken["hf_prefix"] and taken["hf_prefix"] / taken[name]
    return taken


def main(setting: Setting, grid: Grid) -> None:
    """Measure, write after each case, print."""
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
