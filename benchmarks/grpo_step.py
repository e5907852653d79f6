"""Benchmark of a GRPO step: `SidGrpoTrainer` compared with TRL's `GRPOTrainer`.

    python benchmarks/grpo_step.py --json grpo_step.json
    python benchmarks/grpo_step.py --layers 30 --rounds 1
    python benchmarks/grpo_step.py --layers 30 --device cuda --dtype bfloat16

A step is rollouts, rewards, loss, gradient and optimizer. Both trainers have the same model, adapter and prompts, and
take turns, round by round, so that other load on the machine affects both; times are medians over the rounds. TRL
samples as many tokens as a SID has with `model.generate`, from the whole vocabulary; `SidGrpoTrainer` samples items of
the catalogue (with `--sampling unconstrained` any tokens, as TRL does). Both losses are also computed on the same
completions, normalized over the whole vocabulary, and their difference is reported: it must be close to 0.
"""

import json
import tempfile
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from device import autocast, device_name, now
from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.directories import write_text
from genrec_hf.markdown import markdown_table
from genrec_hf.models import start_adapter
from genrec_hf.tasks import next_item_prompt, next_item_prompts
from genrec_hf.training.grpo import SidGrpoTrainer
from genrec_hf.training.rollouts import SidRollouts


@dataclass
class Setting:
    """Arguments for the model, the catalogue and the batch."""

    prompts: int = field(default=4, metadata={"help": "Number of prompts per step."})
    completions: int = field(default=16, metadata={"help": "Number of completions per prompt."})
    history: int = field(default=64, metadata={"help": "Number of items per prompt."})
    layers: int = field(default=4, metadata={"help": "Number of layers of the model."})
    vocabulary: int = field(default=49_152, metadata={"help": "Size of the vocabulary."})
    levels: int = field(default=3, metadata={"help": "Number of tokens per SID."})
    level_size: int = field(default=256, metadata={"help": "Number of codes per level."})
    items: int = field(default=2000, metadata={"help": "Number of items of the catalogue."})
    sampling: str = field(
        default="samples", metadata={"help": "How SidGrpoTrainer generates completions, as in grpo.py."}
    )
    dtype: str = field(
        default="float32", metadata={"help": "Dtype of computation: float32, or bfloat16 with autocast."}
    )
    device: str = field(default="cpu", metadata={"help": "Device: cpu or cuda."})


@dataclass
class Options:
    """Arguments for the measurement."""

    rounds: int = field(default=3, metadata={"help": "Number of measured steps per trainer."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})


def world(setting: Setting) -> tuple[SemanticIds, PreTrainedTokenizerFast, list[np.ndarray]]:
    """Make random SIDs, a tokenizer of the words of the prompt, and a sequence for each prompt."""
    item = np.arange(setting.items)
    codes = [item // setting.level_size**level % setting.level_size for level in reversed(range(setting.levels))]
    sids = SemanticIds(
        np.stack(codes, axis=1), (setting.level_size,) * setting.levels, [f"i{number}" for number in item]
    )
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    head = next_item_prompt([], SidVocabulary(sids))
    backend.train_from_iterator([head], trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<end>", padding_side="left"
    )
    rng = np.random.default_rng(0)
    return sids, tokenizer, [rng.integers(setting.items, size=setting.history + 1) for _ in range(setting.prompts)]


def make_model(setting: Setting, vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerFast) -> PeftModel:
    """Make an adapter with SID rows on a random model of SmolLM2-135M's shape with fewer layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=setting.vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=setting.layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    vocabulary.extend(tokenizer, model, init="mean")
    return start_adapter(model, vocabulary, LoraConfig(r=16, lora_dropout=0.0))


def make_trainers(setting: Setting, folder: str) -> dict[str, GRPOTrainer]:
    """Make TRL's trainer, ours, and ours on unconstrained tokens, whose loss is compared with TRL's."""
    sids, tokenizer, sequences = world(setting)
    vocabulary = SidVocabulary(sids)
    trainers_by_name = {}
    for name in ("stock", "ours", "unconstrained"):
        model = make_model(setting, vocabulary, tokenizer)
        # One event per user: the last one, with the whole history before it.
        rows = next_item_prompts(sequences, vocabulary, setting.history)
        rows = rows.filter(lambda row: len(row["history"]) == setting.history)
        arguments = GRPOConfig(
            folder,
            use_cpu=setting.device == "cpu",
            bf16=setting.dtype == "bfloat16",
            report_to="none",
            disable_tqdm=True,
            activation_checkpointing=False,
            num_generations=setting.completions,
            per_device_train_batch_size=setting.prompts * setting.completions,
            max_completion_length=setting.levels,
            learning_rate=1e-4,
            loss_type="grpo",
        )
        common: dict[str, Any] = {"train_dataset": rows, "processing_class": tokenizer}
        if name == "stock":
            model.get_base_model().get_output_embeddings().bias = None  # type: ignore[assignment]  # TRL reads it
            trainers_by_name[name] = GRPOTrainer(model, [_noise], arguments, **common)
            continue
        sampling: Any = setting.sampling if name == "ours" else "unconstrained"
        rollouts = SidRollouts(vocabulary, tokenizer, sampling=sampling)
        trainers_by_name[name] = SidGrpoTrainer(model, [_noise], arguments, rollouts=rollouts, **common)
    return trainers_by_name


def _noise(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Return arbitrary rewards that differ within a group."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def step(trainer: GRPOTrainer, setting: Setting) -> dict[str, float]:
    """Measure the seconds of the parts of a step, and of the whole step."""
    model = trainer.model
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    optimizer = trainer.optimizer or trainer.create_optimizer()
    rows = [dict(row) for row in trainer.train_dataset for _ in range(setting.completions)]
    times = [now(setting.device)]
    with autocast(setting.device, setting.dtype):
        inputs = trainer._generate_and_score_completions(rows)
        times.append(now(setting.device))
        loss = trainer.compute_loss(model, inputs)
    times.append(now(setting.device))
    loss.backward()
    times.append(now(setting.device))
    optimizer.step()
    optimizer.zero_grad()
    times.append(now(setting.device))
    parts = dict(zip(("rollouts", "loss", "gradient", "optimizer"), np.diff(times).tolist(), strict=True))
    return parts | {"whole": times[-1] - times[0]}


def loss_difference(stock: GRPOTrainer, ours: GRPOTrainer, setting: Setting) -> float:
    """Compute the difference between the losses on the same completions, sampled from the whole vocabulary."""
    rows = [dict(row) for row in ours.train_dataset for _ in range(setting.completions)]
    for trainer in (stock, ours):
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
    with autocast(setting.device, setting.dtype):
        inputs = ours._generate_and_score_completions(rows)
    # With another old policy, since the importance ratio of the policy to itself is always 1.
    inputs["old_per_token_logps"] = inputs["sampling_per_token_logps"] - 0.05
    with torch.no_grad(), autocast(setting.device, setting.dtype):
        losses = [trainer.compute_loss(trainer.model, inputs).item() for trainer in (stock, ours)]
    return abs(losses[0] - losses[1])


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        by_name = make_trainers(setting, folder)
        difference = loss_difference(by_name["stock"], by_name["unconstrained"], setting)
        measured: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
        for number in tqdm(range(options.rounds + 1), desc="Rounds", disable=options.quiet):
            for name, steps in measured.items():
                seconds = step(by_name[name], setting)
                if number:  # the first run is warmup
                    steps.append(seconds)
    parts = {
        name: {part: median(seconds[part] for seconds in steps) for part in steps[0]}
        for name, steps in measured.items()
    }
    device = device_name(setting.device)
    report = {
        "setting": asdict(setting) | {"device_name": device, "torch": torch.__version__, "rounds": options.rounds},
        "speedup": parts["stock"]["whole"] / parts["ours"]["whole"],
        "loss_difference": difference,
        "parts": parts,
    }
    header = ["trainer", "rollouts s", "loss s", "gradient s", "optimizer s", "whole step s"]
    table = [[f"`{name}`", *(f"{value:.2f}" for value in seconds.values())] for name, seconds in parts.items()]
    print(markdown_table(header, table))
    print(f"\nspeedup {report['speedup']:.1f}, losses on the same completions differ by {difference:.1e}")
    if options.json is not None:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Options)).parse_args_into_dataclasses())
