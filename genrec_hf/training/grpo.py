"""`SidGrpoTrainer`: TRL's `GRPOTrainer` for completions that are items."""

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
    """`GRPOTrainer` whose completions are SIDs from `SidRollouts`, and whose loss reads each prompt once per group.

    Group relative policy optimization (arXiv:2402.03300) over items. The loss uses the same log-probabilities as the
    sampling of the rollouts: over the allowed child codes if they are constrained to the catalogue, temperature
    included, dropout off; so the first importance ratio is 1. Rewards, advantages, clipping and the KL term against
    the initial adapter are TRL's. Logged in addition: `zero_advantage`, the share of groups whose advantages are all
    0; `unique`, the number of distinct items of the groups divided by the number of completions; and
    `unconstrained_validity`, the share of unconstrained completions that are items.

    Args:
        model (`PeftModel` or `PreTrainedModel`): trained by SFT on the same prompts.
        reward_funcs (`Sequence[Callable]`): from `genrec_hf.training.rewards`, or any callables of TRL's form.
        args (`GRPOConfig`): settings of the run; `max_completion_length` and `temperature` are set from `rollouts`,
            and dropout is turned off.
        rollouts (`SidRollouts`): generates the completions.
        mask_target_prefix (`bool`, defaults to `False`): do not apply a negative advantage to the prefix that a
            completion shares with the target.
        filter_seen (`bool`, defaults to `True`): give items of the history the mean reward of the other completions
            of their group, so that they have no advantage: recommendations leave them out, and a model that is
            penalized for them unlearns popular items. In completions that are lists they are removed before the
            rewards are computed. `False` for data where users choose items repeatedly.
        resample (`int`, defaults to 0): how many times groups whose advantages are all 0 are sampled again. DAPO
            (arXiv:2503.14476) replaces their prompts; here the prompts stay, so that hard ones are not left out.
        kwargs: of `GRPOTrainer`.

    Raises:
        ValueError: `resample` is negative, `mask_target_prefix` comes with lists, weights are sharded over processes,
            or the data set lacks a column that a setting reads, has targets that are no items, or has fewer prompts
            than one step reads. While training: groups of one, or activation checkpointing.
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
                f"got mask_target_prefix=True with list_length={rollouts.list_length}: a list shares no prefix with "
                "the target; leave one of them out"
            )
        self.targets: list[int] = []
        self.rollouts, self.mask_target_prefix, self.resample = rollouts, mask_target_prefix, resample
        self.filter_seen = filter_seen
        args.max_completion_length, args.temperature = rollouts.tokens, rollouts.temperature
        args.disable_dropout = True  # completions are scored as they were sampled
        rewards: Any = [_raise_on_nan(reward) for reward in reward_funcs]
        if filter_seen:
            # Not for validity: an item of the history is a valid completion.
            filtered = _average_on_seen if rollouts.list_length == 1 else _remove_seen
            pairs = zip(reward_funcs, rewards, strict=True)
            rewards = [reward if given is validity_reward else filtered(reward) for given, reward in pairs]
        if rewards:
            rewards[0] = _log_unique(rewards[0])
        with no_experimental_warning():
            super().__init__(model, rewards, args, rollout_func=rollouts, **kwargs)
        columns = getattr(self.train_dataset, "column_names", None) or []
        needed = {"target": mask_target_prefix or rollouts.inject_target, "history": filter_seen}
        for column in (name for name in needed if needed[name] and name not in columns):
            raise ValueError(
                f"got a data set with the columns {columns}, and settings that read {column!r}: make it with "
                "next_item_prompts"
            )
        prompts = cast(int, args.generation_batch_size) // cast(int, self.num_generations)
        _check_dataset(self.train_dataset, len(rollouts.vocabulary.semantic_ids), prompts)
        if is_deepspeed_zero3_enabled() or self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "got ZeRO-3 or FSDP, which shard the weights: rollouts read them outside of a training step; use "
                "deepspeed_zero2.yaml or multi_gpu.yaml"
            )
        unwrapped: Any = self.accelerator.unwrap_model(self.model)
        if isinstance(unwrapped, PeftModel) and "ref" in unwrapped.peft_config:
            _copy_sid_rows(unwrapped)
        reference: Any = self.ref_model
        for network in (unwrap(unwrapped), reference):
            if network is not None:
                score_rollouts(network, rollouts)

    @property
    def group_size(self) -> int:
        """Number of completions per prompt, in training or in evaluation."""
        model: Any = self.model
        return cast(int, self.num_generations if model.training else self.num_generations_eval)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Call TRL's method, then resample groups and mask advantages as the settings say."""
        batch = self._generate_and_score_once(inputs)
        model: Any = self.model
        mode, size = "train" if model.training else "eval", self.group_size
        for _ in range(self.resample if mode == "train" else 0):
            is_zero = self._has_zero_advantages(batch["advantages"], size)
            # All processes resample the same number of groups, so that the tensors they gather have one shape.
            count = int(self.accelerator.gather(is_zero.sum()[None]).max())
            if count == 0:
                break
            groups = torch.argsort(~is_zero, stable=True)[:count]
            rows = (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()
            resampled = self._generate_and_score_once([inputs[row] for row in rows.tolist()])
            replaced = is_zero[groups].repeat_interleave(size)
            _replace_rows(batch, resampled, rows, replaced=replaced, tokenizer=self.rollouts.tokenizer)
        is_zero = self._has_zero_advantages(batch["advantages"], size)
        log_metric(self, mode, "zero_advantage", value=self.accelerator.gather(is_zero.float()).mean().item())
        if self.rollouts.inject_target:
            # Sampled completions keep their ratio of 1. An injected target has a log-probability of 0 here, so its
            # ratio is the probability that the policy gives it.
            batch["old_per_token_logps"] = batch["sampling_per_token_logps"]
        if self.rollouts.normalization == "full":
            # The prefix of an invalid completion that items share is not penalized for the code that follows it.
            mask = self.rollouts.advantage_mask(batch["completion_ids"])
            batch["advantages"] = batch["advantages"][:, None] * mask
        if self.mask_target_prefix:
            targets = self.rollouts.codes_of([row["target"] for row in inputs]).to(batch["completion_ids"].device)
            is_shared = (batch["completion_ids"] == targets).cumprod(dim=1).bool()
            advantages = batch["advantages"].view(len(is_shared), -1).expand_as(is_shared)
            batch["advantages"] = advantages.masked_fill(is_shared & (advantages < 0), 0.0)
        return batch

    def _has_zero_advantages(self, advantages: torch.Tensor, size: int) -> torch.Tensor:
        """Return which groups have advantages of 0 only, up to the rounding of a mean: bool `[groups]`."""
        tolerance = 1e-7 if self.scale_rewards == "none" else 1e-3  # scaled rewards are divided by std + 1e-4
        return advantages.view(-1, size).abs().amax(dim=1) < tolerance

    def _generate_and_score_once(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Call TRL's method with the targets of `inputs` set for the rollouts."""
        self.targets = [row["target"] for row in inputs if "target" in row]
        return super()._generate_and_score_completions(inputs)


def _check_dataset(dataset: Any, items: int, prompts: int) -> None:
    """Raise if a data set in memory has targets that are no items, or fewer prompts than one step reads."""
    if not isinstance(dataset, Dataset):
        return
    if len(dataset) < prompts:
        raise ValueError(
            f"got {len(dataset)} prompts, fewer than the {prompts} of one step: no step would be made; give more "
            "prompts or a smaller per_device_train_batch_size"
        )
    targets = np.asarray(dataset["target"]) if "target" in dataset.column_names else np.zeros(1, dtype=np.int64)
    if targets.min() < 0 or targets.max() >= items:
        raise ValueError(
            f"got targets from {targets.min()} to {targets.max()} and a catalogue of {items} items: no completion "
            "could match them; make the prompts from the data set of these semantic ids"
        )


def _replace_rows(
    batch: dict[str, Any], resampled: dict[str, Any], rows: torch.Tensor, *, replaced: torch.Tensor, tokenizer: Any
) -> None:
    """Replace `rows` of a batch by the resampled ones, where `replaced` is true; their prompts are the same."""
    length = batch["prompt_ids"].shape[1]
    for name, values in resampled.items():
        if not torch.is_tensor(values) or values.dim() == 0:
            continue
        if name in ("prompt_ids", "prompt_mask"):
            missing = length - values.shape[1]
            padding = tokenizer.pad_token_id if name == "prompt_ids" else 0
            values = nn.functional.pad(values, (missing, 0), value=padding)
        batch[name][rows[replaced]] = values[replaced]


def _copy_sid_rows(model: PeftModel) -> None:
    """Copy the SID rows to the reference adapter; TRL copies only names with `.default.`, and theirs end in it."""
    for name, parameter in model.named_parameters():
        if name.endswith(".default"):
            model.get_parameter(f"{name.removesuffix('default')}ref").data.copy_(parameter.data)


def _raise_on_nan(reward: Callable) -> Callable:
    """Wrap a reward to raise on NaN, which TRL takes for "not applicable", leaving the completion out."""

    @functools.wraps(reward)
    def checked(**columns: Any) -> list[float]:
        values = reward(**columns)
        invalid = [row for row, value in enumerate(values) if value is not None and not math.isfinite(value)]
        if invalid:
            raise ValueError(
                f"{reward.__name__} returned {values[invalid[0]]} for {len(invalid)} of {len(values)} completions, "
                f"the first at index {invalid[0]}: advantages need finite rewards; return numbers, or None where the "
                "reward does not apply"
            )
        return values

    return checked


def _average_on_seen(reward: Callable) -> Callable:
    """Wrap a reward to give items of the history the mean of the other completions of their group."""

    @functools.wraps(reward)
    def averaged(**columns: Any) -> list[float | None]:
        values = reward(**columns)
        is_seen = [item in set(seen) for item, seen in zip(columns["items"], columns["history"], strict=True)]
        unseen: dict[int, list[float]] = {}
        for value, group, is_filtered in zip(values, columns["group"], is_seen, strict=True):
            if not is_filtered and value is not None:
                unseen.setdefault(group, []).append(value)
        means = {group: sum(of_group) / len(of_group) for group, of_group in unseen.items()}
        return [
            means.get(group, 0.0) if is_filtered else value
            for value, group, is_filtered in zip(values, columns["group"], is_seen, strict=True)
        ]

    return averaged


def _remove_seen(reward: Callable) -> Callable:
    """Wrap a reward of lists to remove items of the history before; the items after them move up."""

    @functools.wraps(reward)
    def filtered(**columns: Any) -> list[float | None]:
        pairs = zip(columns["lists"], map(set, columns["history"]), strict=True)
        unseen = [[item for item in items if item not in seen] for items, seen in pairs]
        columns["lists"] = [
            items + [-1] * (len(original) - len(items))
            for items, original in zip(unseen, columns["lists"], strict=True)
        ]
        return reward(**columns | {"items": [items[0] for items in columns["lists"]]})

    return filtered


def _log_unique(reward: Callable) -> Callable:
    """Wrap a reward to also log `unique` and `unconstrained_validity`, see `SidGrpoTrainer`."""

    @functools.wraps(reward)
    def logged(**columns: Any) -> list[float]:
        pairs = set(zip(columns["group"], columns["items"], strict=True))
        columns["log_metric"]("unique", len(pairs) / len(columns["group"]))
        is_item = [
            item >= 0
            for item, sampling in zip(columns["items"], columns["sampling"], strict=True)
            if sampling == "unconstrained"
        ]
        if is_item:
            columns["log_metric"]("unconstrained_validity", sum(is_item) / len(is_item))
        return reward(**columns)

    return logged
