"""`SidGrpoTrainer`: TRL's `GRPOTrainer` on rollouts of items, scored over what they were drawn from."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer

from genrec_hf.models import LlaraForCausalLM
from genrec_hf.training.rollouts import SidRollouts, score_rollouts


class SidGrpoTrainer(GRPOTrainer):
    """`GRPOTrainer` whose completions are SIDs from `SidRollouts`, and whose loss reads a prompt once a group.

    Group relative policy optimisation (arXiv:2402.03300) over items: the log-probabilities of the loss are those that
    the rollouts were drawn with (legal children when they are held to the catalogue, temperature included, dropout
    off), so the first importance ratio is 1. Everything else is TRL's: rewards, advantages, clipping, the KL term
    against the adapter as it was.

    Args:
        model (`PeftModel` or `PreTrainedModel`): trained by SFT on the same prompts.
        reward_funcs (`Sequence[Callable]`): from `genrec_hf.training.rewards`, or any of TRL's form.
        args (`GRPOConfig`): settings of the run; `max_completion_length` and `temperature` follow the rollouts, and
            dropout is off.
        rollouts (`SidRollouts`): how completions come about.
        kwargs: of `GRPOTrainer`.

    Raises:
        ValueError: on groups of one, activations that are checkpointed, weights in shards, or a model that reads
            collaborative vectors.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        reward_funcs: Sequence[Callable],
        args: GRPOConfig,
        *,
        rollouts: SidRollouts,
        **kwargs: Any,
    ) -> None:
        network: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        if isinstance(network, LlaraForCausalLM):
            raise ValueError("got a model that reads collaborative vectors: prompts of rollouts hold none")
        args.max_completion_length, args.temperature = rollouts.trie.levels, rollouts.temperature
        args.disable_dropout = True  # what scores a completion is what drew it
        checked: Any = [_checked(each) for each in reward_funcs]
        if checked:
            checked[0] = _counting(checked[0])
        super().__init__(model, checked, args, rollout_func=rollouts, **kwargs)
        if is_deepspeed_zero3_enabled() or self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "got ZeRO-3 or FSDP, whose weights are in shards: a rollout reads them outside of a training step; "
                "use deepspeed_zero2.yaml or multi_gpu.yaml"
            )
        unwrapped: Any = self.accelerator.unwrap_model(self.model)
        base: Any = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
        if isinstance(unwrapped, PeftModel) and "ref" in unwrapped.peft_config:
            _copy_rows(unwrapped)
        reference: Any = self.ref_model
        for each in (base, reference):
            if each is not None:
                score_rollouts(each, rollouts.trie, rollouts.support, rollouts.temperature)


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


def _counting(reward: Callable) -> Callable:
    """A reward that also logs `unique`: the different items of a group, as a share of its completions."""

    @functools.wraps(reward)
    def counting(**columns: Any) -> list[float]:
        pairs = set(zip(columns["group"], columns["items"], strict=True))
        columns["log_metric"]("unique", len(pairs) / len(columns["group"]))
        return reward(**columns)

    return counting
