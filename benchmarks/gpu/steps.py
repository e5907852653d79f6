"""The steps of `run.py`, most important first: commands, time limits and reports.

Limits are for one GPU of 80 GB in bfloat16; in a trial on a CPU every step runs the same programs on a few examples. A
finished command leaves its file `done` and is skipped, so a step that needs the output of another one lists its
commands too.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

LAYERS, VOCABULARY, WIDTH, WEIGHTS = 30, 50_000, 576, 134.5e6
# Operations per weight and token: two forward, two for the gradient of its input, and two for its own gradient.
LORA_OPERATIONS, FULL_OPERATIONS = 4 * WEIGHTS, 6 * WEIGHTS


@dataclass(frozen=True)
class Place:
    """Where steps run: folder of the parts, folder of the outputs of a commit, device and memory, or a trial."""

    work: Path
    home: Path
    device: str
    memory_gib: float | None
    dry: bool

    def data(self, name: str) -> Path:
        """Return the folder of a prepared data set; of few users in a trial."""
        return (self.home / "few" if self.dry else self.work / "data") / name

    @property
    def model(self) -> Path:
        """The SmolLM2 checkpoint."""
        return self.home / "smollm2-135m"

    def output(self, name: str) -> Path:
        """Return the output folder of a command."""
        return self.home / name


@dataclass(frozen=True)
class Command:
    """Words of a command, and the file that exists when it is finished."""

    words: list[str]
    done: Path | None = None


@dataclass(frozen=True)
class Step:
    """One row of the results; the report is read even if the limit was reached.

    `limit` is in seconds, for all commands together; with less than `least` seconds left the step is not begun.
    """

    name: str
    system: str
    dataset: str | None
    commands: list[Command]
    report: Path
    read: Callable[[dict[str, Any]], dict[str, Any]]
    limit: int
    least: int = 60
    seed: int | None = None
    split: str | None = "test"
    tokens_a_step: int | None = None
    operations_a_token: float | None = None


def rows_that_fit(memory_gib: float, tokens_a_row: int, most: int = 256) -> int:
    """Estimate the rows per training step that need 0.6 of the memory: a power of two, at most `most`.

    A token needs 12 bytes per token of the vocabulary (logits in bfloat16 and float32, and their gradient) and 34
    bytes per hidden unit of a layer (activations for the gradient, arXiv:2205.05198).
    """
    row_bytes = tokens_a_row * (12 * VOCABULARY + 34 * LAYERS * WIDTH)
    rows = int(0.6 * memory_gib * 2**30 / row_bytes)
    return min(most, 2 ** int(math.log2(max(1, rows))))


def read_evaluation(report: dict[str, Any]) -> dict[str, Any]:
    """Read the metrics of the model and their intervals from an evaluation, and recall@10 of Markov-1."""
    names = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "coverage@10", "seconds")
    row = {name: report["model"][name] for name in names if name in report["model"]}
    intervals = report["model"].get("intervals", {})
    row["intervals"] = {name: intervals[name] for name in ("recall@10", "ndcg@10") if name in intervals}
    return row | {"markov1_recall@10": report["baselines"]["markov1"]["recall@10"]}


def training_speed(printed: str, operations_a_token: float, peak_tflops: float) -> dict[str, float]:
    """Compute tokens per second of the last training in a log, validation included, and the share of the peak rate."""
    seconds = re.findall(r"'train_runtime': '?([\d.e+]+)", printed)
    tokens = re.findall(r"'num_tokens': '?([\d.e+]+)", printed.rpartition("'train_runtime'")[0])
    if not seconds or not tokens:
        return {}
    rate = float(tokens[-1]) / float(seconds[-1])
    return {"tokens_per_s": rate, "share_of_peak": rate * operations_a_token / peak_tflops / 1e12}


def read_rows(report: dict[str, Any]) -> dict[str, Any]:
    """Read the report of a benchmark, without its setting."""
    return {name: value for name, value in report.items() if name != "setting"}


def read_systems(report: dict[str, Any]) -> dict[str, Any]:
    """Read the systems of a paired comparison, and the metrics of the last one."""
    systems = report["systems"]
    last = list(systems.values())[-1]
    return {"recall@10": last["recall@10"], "ndcg@10": last["ndcg@10"], **systems}


def _words(options: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(word).lower() if isinstance(word, bool) else str(word) for word in values)]
    return words


class Plan:
    """Makes the commands of all steps for one place."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def program(self, file: str, full: dict[str, Any], dry: dict[str, Any], done: Path | None = None) -> Command:
        """Make the command of a program with its options, some of which `dry` replaces in a trial."""
        options = {**full, **(dry if self.place.dry else {})}
        return Command([sys.executable, file, *_words(options)], done)

    def rows(self, items: int, levels: int, most: int = 256) -> tuple[int, int]:
        """Return the rows per training step for windows of `items` items, and their largest number of tokens."""
        tokens = 20 + items * levels
        rows = 2 if self.place.memory_gib is None else rows_that_fit(self.place.memory_gib, tokens, most)
        return rows, rows * tokens

    def train(self, recipe: str, name: str, data: str, full: dict[str, Any], dry: dict[str, Any]) -> Command:
        """Make the command of a recipe that trains a language model."""
        shared = {
            "data_dir": self.place.data(data), "output_dir": self.place.output(name), "report_to": "none",
            "activation_checkpointing": False, "bf16": True, "logging_steps": 20, "save_steps": 200,
            "save_total_limit": 1, "disable_tqdm": True,
        }  # fmt: skip
        if recipe != "grpo" and not self.place.dry:  # their examples are made before training
            shared |= {"dataset_num_proc": 8, "dataloader_num_workers": 4, "dataloader_persistent_workers": True}
        trial = {"max_steps": 2, "logging_steps": 1, "use_cpu": True, "bf16": False, **dry}
        done = self.place.output(name) / "genrec_hf.json"
        return self.program(f"recipes/{recipe}.py", {**shared, **full}, trial, done)

    def evaluate(self, name: str, data: str) -> Command:
        """Make the command of an evaluation of all users, with seen items filtered and not."""
        full = {
            "data_dir": self.place.data(data), "output_dir": self.place.output(name), "batch_size": 256,
            "dtype": "bfloat16", "quiet": True,
        }  # fmt: skip
        done = self.place.output(name) / "metrics.json"
        return self.program("recipes/evaluate.py", full, {"batch_size": 32, "dtype": "float32"}, done)

    def users(self, data: str) -> int:
        """Return the number of users of a prepared data set."""
        return json.loads((self.place.data(data) / "dataset.json").read_text(encoding="utf-8"))["users"]

    def decoding(self, model: str, dtype: str) -> Step:
        """Make step (a): time of decoding, compared with Hugging Face's beam search."""
        name = f"decoding-{model}-{dtype}"
        report = self.place.output(name) / "decoding.json"
        full = {
            "model": model, "dtype": dtype, "device": self.place.device, "prompt_length": 512, "items": 100_000,
            "batches": [8, 32], "beam_counts": [20, 50, 200], "json": report,
        }  # fmt: skip
        dry = {
            "layers": 1, "vocabulary": 2000, "level_size": 16, "levels": 3, "items": 400, "prompt_length": 16,
            "batches": [2], "beam_counts": [3, 4], "rounds": 1, "static": dtype == "float32",
        }  # fmt: skip
        command = self.program("benchmarks/gpu/decoding_grid.py", full, dry)
        limit = 70 if dtype == "bfloat16" else 50
        return Step(name, model, None, [command], report, read_rows, limit, 30, split=None)

    def beauty_grounding(self) -> Command:
        """Make the command of grounding with a new LoRA of rank 32."""
        rows, _ = self.rows(25, 4)
        full = {
            "model_name_or_path": self.place.model, "use_peft": True, "lora_r": 32, "lora_alpha": 64,
            "lora_dropout": 0.0, "num_train_epochs": 1, "per_device_train_batch_size": rows,
        }  # fmt: skip
        return self.train("sft_grounding", "beauty-grounding", "beauty", full, {"tasks": ["similar_items"]})

    def beauty_sft(self) -> Command:
        """Make the command of dense next-item training with early stopping on ndcg@10."""
        rows, _ = self.rows(41, 4)
        epoch = max(1, self.users("beauty") // rows)
        full = {
            "model_name_or_path": self.place.output("beauty-grounding"), "num_train_epochs": 12, "max_history": 40,
            "per_device_train_batch_size": rows, "train_sampling_strategy": "group_by_length",
            "save_strategy": "epoch", "validation_steps": epoch, "validation_users": 500, "patience": 3,
        }  # fmt: skip
        return self.train(
            "sft_instruct", "beauty-lora", "beauty", full, {"validation_steps": 1, "validation_users": 8}
        )

    def beauty_lora(self) -> Step:
        """Make step (b): Amazon Beauty, SmolLM2-135M with LoRA."""
        commands = [self.beauty_grounding(), self.beauty_sft(), self.evaluate("beauty-lora", "beauty")]
        report = self.place.output("beauty-lora") / "metrics.json"
        tokens = self.rows(41, 4)[1]
        return Step(
            "beauty-lora", "SmolLM2-135M, LoRA r=32", "beauty", commands, report, read_evaluation, 480, 60, 42,
            tokens_a_step=tokens, operations_a_token=LORA_OPERATIONS,
        )  # fmt: skip

    def beauty_full(self) -> Step:
        """Make step (b) with all weights trained, from the merged adapter of `beauty-lora`."""
        rows, tokens = self.rows(128, 4, most=64)
        full = {
            "model_name_or_path": self.place.output("beauty-lora"), "stage": "full", "use_peft": False,
            "item_share": 0.1, "packing": True, "max_length": 512, "learning_rate": 1e-4, "num_train_epochs": 3,
            "per_device_train_batch_size": rows, "validation_steps": 100, "validation_users": 500, "patience": 3,
        }  # fmt: skip
        trial = {"max_steps": 2, "validation_steps": 1, "validation_users": 8}
        train = self.train("pretrain", "beauty-full", "beauty", full, trial)
        commands = [self.beauty_grounding(), self.beauty_sft(), train, self.evaluate("beauty-full", "beauty")]
        report = self.place.output("beauty-full") / "metrics.json"
        return Step(
            "beauty-full", "SmolLM2-135M, all weights", "beauty", commands, report, read_evaluation, 400, 90, 42,
            tokens_a_step=tokens, operations_a_token=FULL_OPERATIONS,
        )  # fmt: skip

    def sasrec_command(self, seed: int) -> Command:
        """Make the command of SASRec with settings tuned for Beauty, validated every five epochs."""
        folder = self.place.output(f"beauty-sasrec-{seed}")
        steps = 5 * max(1, self.users("beauty") // 512)
        full = {
            "data_dir": self.place.data("beauty"), "output_dir": folder, "seed": seed, "hidden_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 1, "dropout": 0.6, "max_history": 50,
            "per_device_train_batch_size": 512, "learning_rate": 5e-4, "weight_decay": 1e-8, "num_train_epochs": 140,
            "eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps,
            "train_sampling_strategy": "random", "patience": 5, "dataloader_num_workers": 4,
            "dataloader_persistent_workers": True, "report_to": "none", "disable_tqdm": True,
        }  # fmt: skip
        dry = {
            "max_steps": 2, "eval_steps": 1, "save_steps": 1, "use_cpu": True, "dataloader_num_workers": 0,
            "dataloader_persistent_workers": False,
        }  # fmt: skip
        return self.program("recipes/train_sasrec.py", full, dry, folder / "metrics.json")

    def sasrec(self, seed: int) -> Step:
        """Make step (c): SASRec."""
        name = f"beauty-sasrec-{seed}"
        report = self.place.output(name) / "metrics.json"
        return Step(name, "SASRec", "beauty", [self.sasrec_command(seed)], report, read_evaluation, 240, 45, seed)

    def movielens(self) -> Step:
        """Make step (d): MovieLens-100K, SmolLM2-135M with all layers."""
        rows, tokens = self.rows(41, 2, most=64)
        full = {
            "config": "recipes/configs/ml-100k-smollm2/sft_grounding.yaml", "model_name_or_path": self.place.model,
            "lora_r": 32, "lora_alpha": 64, "per_device_train_batch_size": rows,
        }  # fmt: skip
        grounding = self.train("sft_grounding", "ml-100k-grounding", "ml-100k", full, {"tasks": ["title_to_sid"]})
        full = {
            "config": "recipes/configs/ml-100k-smollm2/sft_instruct.yaml", "per_device_train_batch_size": rows,
            "model_name_or_path": self.place.output("ml-100k-grounding"), "num_train_epochs": 10,
            "validation_steps": 100, "validation_users": 943, "patience": 4,
        }  # fmt: skip
        sft = self.train(
            "sft_instruct", "ml-100k-lora", "ml-100k", full, {"validation_steps": 1, "validation_users": 8}
        )
        commands = [grounding, sft, self.evaluate("ml-100k-lora", "ml-100k")]
        report = self.place.output("ml-100k-lora") / "metrics.json"
        return Step(
            "ml-100k-lora", "SmolLM2-135M, LoRA r=32", "ml-100k", commands, report, read_evaluation, 300, 60, 42,
            tokens_a_step=tokens, operations_a_token=LORA_OPERATIONS,
        )  # fmt: skip

    def llara(self) -> Step:
        """Make step (e): LLaRA with SASRec's vectors after the SIDs."""
        rows, tokens = self.rows(51, 5, most=128)
        full = {
            "config": "recipes/configs/beauty-smollm2-llara/sft_llara.yaml", "per_device_train_batch_size": rows,
            "model_name_or_path": self.place.output("beauty-grounding"),
            "vectors": self.place.output("beauty-sasrec-42"),
        }  # fmt: skip
        train = self.train("sft_llara", "beauty-llara", "beauty", full, {})
        commands = [self.sasrec_command(42), self.beauty_grounding(), train, self.evaluate("beauty-llara", "beauty")]
        report = self.place.output("beauty-llara") / "metrics.json"
        return Step(
            "beauty-llara", "LLaRA on SmolLM2-135M", "beauty", commands, report, read_evaluation, 400, 90, 42,
            tokens_a_step=tokens, operations_a_token=LORA_OPERATIONS,
        )  # fmt: skip

    def grpo(self) -> Step:
        """Make step (e): GRPO from the adapter of `beauty-lora`, and a paired comparison of the two."""
        full = {
            "model_name_or_path": self.place.output("beauty-lora"), "sasrec": self.place.output("beauty-sasrec-42"),
            "rewards": ["collaborative=1"], "sampling": ["beams"], "prompts": 20_000, "num_generations": 64,
            "per_device_train_batch_size": 1024, "learning_rate": 5e-5, "warmup_steps": 10, "max_steps": 60,
            "beta": 0.1,
        }  # fmt: skip
        dry = {"prompts": 8, "num_generations": 4, "per_device_train_batch_size": 8}
        train = self.train("grpo", "beauty-grpo", "beauty", full, dry)
        systems = [f"SFT={self.place.output('beauty-lora')}", f"GRPO={self.place.output('beauty-grpo')}"]
        folder = self.place.output("beauty-grpo-vs-sft")
        full = {
            "data_dir": self.place.data("beauty"), "output_dir": folder, "systems": systems, "batch_size": 256,
            "dtype": "bfloat16", "quiet": True,
        }  # fmt: skip
        dry = {"batch_size": 32, "dtype": "float32"}
        report = folder / "comparison.json"
        compare = self.program("recipes/compare_recommenders.py", full, dry, report)
        commands = [self.beauty_grounding(), self.beauty_sft(), self.sasrec_command(42), train, compare]
        return Step("beauty-grpo", "GRPO vs SFT", "beauty", commands, report, read_systems, 400, 90, 42)

    def bench(self, name: str, full: dict[str, Any], dry: dict[str, Any]) -> Step:
        """Make step (f): a benchmark on the device, in bfloat16."""
        report = self.place.output(name) / f"{name}.json"
        shared = {"layers": LAYERS, "device": self.place.device, "dtype": "bfloat16", "quiet": True, "json": report}
        trial = {"layers": 1, "vocabulary": 2000, "level_size": 16, "items": 300, "rounds": 1, **dry}
        command = self.program(f"benchmarks/{name}.py", {**shared, **full}, trial)
        return Step(name, "SmolLM2-135M's shape", None, [command], report, read_rows, 120, 40, split=None)

    def grpo_step(self) -> Step:
        """Make step (f): a GRPO step, compared with TRL's."""
        full = {"prompts": 16, "completions": 16, "rounds": 3}
        return self.bench("grpo_step", full, {"prompts": 2, "completions": 4, "history": 5})

    def supervision(self) -> Step:
        """Make step (f): supervised items per second, by kind of example."""
        full = {"tokens": 16_384, "users": 1000, "rounds": 5}
        return self.bench("supervision", full, {"tokens": 100, "users": 12, "history": 10})


def all_steps(place: Place) -> list[Step]:
    """Return the steps, most important first; those of data sets that were not packed have no commands."""
    plan = Plan(place)
    steps = [
        plan.decoding(model, dtype)
        for dtype in ("bfloat16", "float32")
        for model in ("smollm2-135m", "qwen3-0.6b")
    ]  # fmt: skip
    of_data: list[tuple[str, str, Callable[[], Step]]] = [
        ("beauty-lora", "beauty", plan.beauty_lora),
        ("beauty-full", "beauty", plan.beauty_full),
        *((f"beauty-sasrec-{seed}", "beauty", partial(plan.sasrec, seed)) for seed in (42, 1, 2)),
        ("ml-100k-lora", "ml-100k", plan.movielens),
        ("beauty-llara", "beauty", plan.llara),
        ("beauty-grpo", "beauty", plan.grpo),
    ]
    for name, data, make in of_data:
        is_packed = (place.data(data) / "dataset.json").is_file()
        steps.append(make() if is_packed else Step(name, "", data, [], place.output(name), read_rows, 0, 0))
    return [*steps, plan.grpo_step(), plan.supervision()]
