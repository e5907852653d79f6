"""`SidGrpoTrainer`: TRL's `GRPOTrainer` on rollouts of items, scored over what they were drawn from."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer

from genrec_hf.checks import check_least
from genrec_hf.internals.trl import log_metric, no_experimental_warning
from genrec_hf.models import unwrap
from genrec_hf.training.rewards import validity_reward
from genrec_hf.training.rollouts import SidRollouts, score_rollouts


class SidGrpoTrainer(GRPOTrainer):
    """`GRPOTrainer` whose completions are SIDs from `SidRollouts`, and whose loss reads a prompt once a group.

    Group relative policy optimisation (arXiv:2402.03300) over items: the log-probabilities of the loss are those that
    the rollouts were drawn with (legal children when they are held to the catalogue, temperature included, dropout
    off), so the first importance ratio is 1. Everything else is TRL's: rewards, advantages, clipping, the KL term
    against the adapter as it was. `zero_advantage` in the log is the share of groups that a step learns nothing from,
    `unconstrained_validity` that of freely drawn completions that are items.

    Args:
        model (`PeftModel` or `PreTrainedModel`): trained by SFT on the same prompts.
        reward_funcs (`Sequence[Callable]`): from `genrec_hf.training.rewards`, or any of TRL's form.
        args (`GRPOConfig`): settings of the run; `max_completion_length` and `temperature` follow the rollouts, and
            dropout is off.
        rollouts (`SidRollouts`): how completions come about.
        mask_target_prefix (`bool`, defaults to `False`): a negative advantage counts from the first code on that differs
            from the target's: the codes before it were right.
        filter_seen (`bool`, defaults to `True`): items of the history count as the mean of their group's others, so
            that nothing is learnt from them: lists leave them out, and a model that is punished for them unlearns what
            is popular. In lists what follows them moves up. `False` for data where items come again.
        resample (`int`, defaults to 0): times that groups whose advantages are all 0 are drawn anew, as DAPO
            (arXiv:2503.14476) does with other prompts; here the same ones, so that none is left out for being hard.
        kwargs: of `GRPOTrainer`.

    Raises:
        ValueError: on groups of one, activations that are checkpointed, weights in shards, or a data set without the
            targets that a setting needs, with others than items, or with fewer prompts than a step.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        reward_funcs: Sequence[Callable],
        args: GRPOConfig,
        *,
        rollouts: SidRollouts,
        mask_target_prefix: bool = False,
        filter_seen: bool = True,
        resample: int = 0,
        **kwargs: Any,
    ) -> None:
        check_least(0, resample=resample)
        if mask_target_prefix and rollouts.list_length > 1:
            raise ValueError(
                f"got mask_target_prefix with lists of {rollouts.list_length}: no code of theirs is the target's"
            )
        self.targets: list[int] = []
        self.rollouts, self.mask_target_prefix, self.resample = rollouts, mask_target_prefix, resample
        self.filter_seen = filter_seen
        args.max_completion_length, args.temperature = rollouts.tokens, rollouts.temperature
        args.disable_dropout = True  # what scores a completion is what drew it
        checked: Any = [_checked(each) for each in reward_funcs]
        if filter_seen:
            # But an item of the history is a valid answer.
            neutral = _neutral_on_seen if rollouts.list_length == 1 else _without_seen
            pairs = zip(reward_funcs, checked, strict=True)
            checked = [each if given is validity_reward else neutral(each) for given, each in pairs]
        if checked:
            checked[0] = _counting(checked[0])
        with no_experimental_warning():
            super().__init__(model, checked, args, rollout_func=rollouts, **kwargs)
        columns = getattr(self.train_dataset, "column_names", None) or []
        needed = {"target": mask_target_prefix or rollouts.inject_target, "history": filter_seen}
        for column in (name for name in needed if needed[name] and name not in columns):
            raise ValueError(f"got settings that read the column {column!r}, and a data set with {columns} alone")
        prompts = cast(int, args.generation_batch_size) // cast(int, self.num_generations)
        _refuse_dataset(self.train_dataset, len(rollouts.vocabulary.semantic_ids), prompts)
        if is_deepspeed_zero3_enabled() or self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "got ZeRO-3 or FSDP, whose weights are in shards: a rollout reads them outside of a training step; "
                "use deepspeed_zero2.yaml or multi_gpu.yaml"
            )
        unwrapped: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(unwrapped, PeftModel) and "ref" in unwrapped.peft_config:
            _copy_rows(unwrapped)
        reference: Any = self.ref_model
        for each in (unwrap(unwrapped), reference):
            if each is not None:
                score_rollouts(each, rollouts)

    @property
    def group_size(self) -> int:
        """Completions of a prompt, in training or in evaluation."""
        model: Any = self.model
        return cast(int, self.num_generations if model.training else self.num_generations_eval)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, with the signal that was asked for: groups drawn anew, the target's weight, codes that were right."""
        found = self._draw_and_score(inputs)
        model: Any = self.model
        mode, size = "train" if model.training else "eval", self.group_size
        for _ in range(self.resample if mode == "train" else 0):
            flat = self._flat(found["advantages"], size)
            # All processes draw as many groups, so that what they gather has one shape.
            most = int(self.accelerator.gather(flat.sum()[None]).max())
            if most == 0:
                break
            groups = torch.argsort(~flat, stable=True)[:most]
            rows = (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()
            again = self._draw_and_score([inputs[row] for row in rows.tolist()])
            _replace(found, again, rows, flat[groups].repeat_interleave(size), self.rollouts.tokenizer)
        flat = self._flat(found["advantages"], size)
        log_metric(self, mode, "zero_advantage", value=self.accelerator.gather(flat.float()).mean().item())
        if self.rollouts.inject_target:
            # What was drawn keeps its ratio of 1; the target, put in with certainty, is weighed by its probability.
            found["old_per_token_logps"] = found["sampling_per_token_logps"]
        if self.rollouts.normalization == "full":
            # A prefix that items have is not punished for the code that left it.
            judged = self.rollouts.judged(found["completion_ids"])
            found["advantages"] = found["advantages"][:, None] * judged
        if self.mask_target_prefix:
            wanted = self.rollouts.codes_of([row["target"] for row in inputs]).to(found["completion_ids"].device)
            right = (found["completion_ids"] == wanted).cumprod(dim=1).bool()
            advantages = found["advantages"].view(len(right), -1).expand_as(right)
            found["advantages"] = advantages.masked_fill(right & (advantages < 0), 0.0)
        return found

    def _flat(self, advantages: torch.Tensor, size: int) -> torch.Tensor:
        """Which groups hold advantages of 0, but for the rounding of a mean: `[groups]`."""
        rounding = 1e-7 if self.scale_rewards == "none" else 1e-3  # what is scaled is divided by a spread of 1e-4
        return advantages.view(-1, size).abs().amax(dim=1) < rounding

    def _draw_and_score(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.targets = [row["target"] for row in inputs if "target" in row]
        return super()._generate_and_score_completions(inputs)


def _refuse_dataset(dataset: Any, items: int, prompts: int) -> None:
    """Of a data set in memory: targets that are no items, and fewer prompts than one step asks for."""
    if not isinstance(dataset, Dataset):
        return
    if len(dataset) < prompts:
        raise ValueError(
            f"got {len(dataset)} prompts and steps of {prompts}: not one step would be made; give more prompts or a "
            "smaller per_device_train_batch_size"
        )
    targets = np.asarray(dataset["target"]) if "target" in dataset.column_names else np.zeros(1, dtype=np.int64)
    if targets.min() < 0 or targets.max() >= items:
        raise ValueError(
            f"got targets from {targets.min()} to {targets.max()} and a catalogue of {items} items: nothing that is "
            "drawn could be one; make the prompts with the data set of these semantic ids"
        )


def _replace(
    found: dict[str, Any], again: dict[str, Any], rows: torch.Tensor, wanted: torch.Tensor, tokenizer: Any
) -> None:
    """Put the `wanted` rows of a second draw in place of `rows` of the first; their prompts are the same."""
    width = found["prompt_ids"].shape[1]
    for name, values in again.items():
        if not torch.is_tensor(values) or values.dim() == 0:
            continue
        if name in ("prompt_ids", "prompt_mask"):
            missing = width - values.shape[1]
            padding = tokenizer.pad_token_id if name == "prompt_ids" else 0
            values = nn.functional.pad(values, (missing, 0), value=padding)
        found[name][rows[wanted]] = values[wanted]


def _copy_rows(model: PeftModel) -> None:
    """Give the reference adapter the SID rows as well: TRL copies what has `.default.` in its name, they end in it."""
    for name, parameter in model.named_parameters():
        if name.endswith(".default"):
            model.get_parameter(f"{name.removesuffix('default')}ref").data.copy_(parameter.data)


def _checked(reward: Callable) -> Callable:
    """A reward whose NaN is an error: TRL takes it for "not applicable" and leaves the completion out."""

    @functools.wraps(reward)
    def checked(**columns: Any) -> list[float]:
        values = reward(**columns)
        broken = [row for row, value in enumerate(values) if value is not None and not math.isfinite(value)]
        if broken:
            raise ValueError(
                f"{reward.__name__} gave {values[broken[0]]} for {len(broken)} of {len(values)} completions, such as "
                f"number {broken[0]}: no advantage follows from that; return numbers, or None for no opinion"
            )
        return values

    return checked


def _neutral_on_seen(reward: Callable) -> Callable:
    """A reward that is, for items of the history, the mean of the other completions of their group."""

    @functools.wraps(reward)
    def neutral(**columns: Any) -> list[float | None]:
        values = reward(**columns)
        seen = [item in set(past) for item, past in zip(columns["items"], columns["history"], strict=True)]
        others: dict[int, list[float]] = {}
        for value, name, gone in zip(values, columns["group"], seen, strict=True):
            if not gone and value is not None:
                others.setdefault(name, []).append(value)
        means = {name: sum(mine) / len(mine) for name, mine in others.items()}
        return [
            means.get(name, 0.0) if gone else value
            for value, name, gone in zip(values, columns["group"], seen, strict=True)
        ]

    return neutral


def _without_seen(reward: Callable) -> Callable:
    """A reward of lists as they are shown: items of the history are left out, and what follows moves up."""

    @functools.wraps(reward)
    def without(**columns: Any) -> list[float | None]:
        pairs = zip(columns["lists"], map(set, columns["history"]), strict=True)
        shown = [[item for item in row if item not in seen] for row, seen in pairs]
        columns["lists"] = [
            row + [-1] * (len(whole) - len(row)) for row, whole in zip(shown, columns["lists"], strict=True)
        ]
        return reward(**columns | {"items": [row[0] for row in columns["lists"]]})

    return without


def _counting(reward: Callable) -> Callable:
    """A reward that also logs `unique`, different items of groups as a share of completions, and `unconstrained_validity`."""

    @functools.wraps(reward)
    def counting(**columns: Any) -> list[float]:
        pairs = set(zip(columns["group"], columns["items"], strict=True))
        columns["log_metric"]("unique", len(pairs) / len(columns["group"]))
        free = [
            item >= 0
            for item, how in zip(columns["items"], columns["sampling"], strict=True)
            if how == "unconstrained"
        ]
        if free:
            columns["log_metric"]("unconstrained_validity", sum(free) / len(free))
        return reward(**columns)

    return counting
