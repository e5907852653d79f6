"""`SidPreferenceTrainer`: DPO and S-DPO over items, with negatives that are sampled during training."""

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from trl import GRPOConfig

from genrec_hf.internals.trl import log_metric
from genrec_hf.training.grpo import SidGrpoTrainer
from genrec_hf.training.rewards import exact_reward
from genrec_hf.training.rollouts import SidRollouts


class SidPreferenceTrainer(SidGrpoTrainer):
    """Preference optimization over items: the target is preferred to the other items of its group.

    With `d_i = log p(i) - log p_ref(i)` for the items `i` of a group and the target `w`, the loss is
    `-log(exp(beta d_w) / sum_i exp(beta d_i))`: S-DPO (arXiv:2406.09215, equation 10), and DPO (arXiv:2305.18290) for
    groups of two. The reference is the initial adapter. What differs from both: negatives are not fixed but generated
    in every step, from the current model (`beams` or `samples`: hard negatives, as in iterated DPO with rounds of one
    step) or as `uniform` or `popular` items; log-probabilities are those of decoding, over the allowed child codes; a
    prompt is read once per group; items of the history are no negatives unless `filter_seen=False`, because
    recommendations leave them out.

    Args:
        model (`PeftModel` or `PreTrainedModel`): trained by SFT on the same prompts.
        args (`GRPOConfig`): settings of the run: `num_generations` items per group, the target included; `beta` above
            0; `steps_per_generation` and `num_iterations` of 1.
        rollouts (`SidRollouts`): generates the negatives, with `inject_target` and without `"unconstrained"`.
        kwargs: of `SidGrpoTrainer`.

    Raises:
        ValueError: `rollouts` has no `inject_target` or generates tokens that are no item, `beta` is 0,
            `steps_per_generation` or `num_iterations` is not 1, or for the reasons of `SidGrpoTrainer`.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, args: GRPOConfig, *, rollouts: SidRollouts, **kwargs: Any
    ) -> None:
        if not rollouts.inject_target or rollouts.normalization != "trie":
            raise ValueError(
                f"got rollouts with inject_target={rollouts.inject_target} and normalization="
                f"{rollouts.normalization!r}: a group must hold its target, and items only; give inject_target=True "
                "and no 'unconstrained' sampling"
            )
        if args.beta == 0:
            raise ValueError("got beta=0, with which the loss is constant: give a beta above 0")
        if args.steps_per_generation != 1 or args.num_iterations != 1:
            raise ValueError(
                f"got steps_per_generation={args.steps_per_generation}, num_iterations={args.num_iterations}: groups "
                "would be split over batches; set both to 1 and per_device_train_batch_size to the size of a step"
            )
        rewards: list[Callable] = [exact_reward]
        super().__init__(model, rewards, args, rollouts=rollouts, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Call TRL's method, and add columns that identify groups, targets and negatives after rows are shuffled."""
        batch = super()._generate_and_score_completions(inputs)
        ids, target_ids = batch["completion_ids"], self.rollouts.codes_of([row["target"] for row in inputs])
        batch["is_target"] = (ids == target_ids.to(ids.device)).all(dim=1)
        batch["group"] = torch.arange(len(ids), device=ids.device) // self.group_size
        items = self.rollouts.vocabulary.items(ids.cpu().numpy())
        is_seen = [self.filter_seen and item in row["history"] for item, row in zip(items, inputs, strict=True)]
        batch["is_compared"] = batch["is_target"] | ~torch.tensor(is_seen, device=ids.device)
        return batch

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Compute the loss of the class, and log `preference/loss`, `preference/accuracy` and `preference/margin`."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        levels = inputs["completion_ids"].shape[1]
        log_probs, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, levels)
        log_ratios = (log_probs - inputs["ref_per_token_logps"]).sum(dim=1)
        rows = inputs["is_compared"]
        figures = preference_loss(self.beta * log_ratios[rows], inputs["group"][rows], inputs["is_target"][rows])
        mode = "train" if model.training else "eval"
        for name, values in figures.items():
            log_metric(self, mode, f"preference/{name}", value=self.accelerator.gather(values.detach()).mean().item())
        return figures["loss"] / (self.current_gradient_accumulation_steps if mode == "train" else 1)


def preference_loss(log_ratios: torch.Tensor, group: torch.Tensor, is_target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compute the S-DPO loss of groups, see `SidPreferenceTrainer`.

    Args:
        log_ratios (`torch.Tensor`): `[rows]`, `beta` times the log-ratio of policy to reference, in any order.
        group (`torch.Tensor`): `[rows]`, index of the group of each row.
        is_target (`torch.Tensor`): bool `[rows]`, whether the row is the target; of several in a group the first
            counts.

    Returns:
        `dict[str, torch.Tensor]`: scalars: `loss`, the mean over groups; `accuracy`, the share of groups whose target
        has a larger log-ratio than every negative; `margin`, the mean over groups of the target's log-ratio minus the
        mean of the negatives'. A group without negatives counts as 0 in `loss`, and not at all in the other two.

    Raises:
        ValueError: a group has no target.
    """
    losses, hits, margins = [], [], []
    for index in group.unique():
        in_group = group == index
        targets, negatives = log_ratios[in_group & is_target], log_ratios[in_group & ~is_target]
        if not len(targets):
            raise ValueError(
                f"got a group of {int(in_group.sum())} items without its target, which the loss prefers: set "
                "inject_target"
            )
        losses.append(torch.cat([targets[:1], negatives]).logsumexp(dim=0) - targets[0])
        if len(negatives):
            hits.append((targets[0] > negatives.max()).float())
            margins.append(targets[0] - negatives.mean())
    zero = log_ratios.sum() * 0
    return {
        "loss": torch.stack(losses).mean(),
        "accuracy": torch.stack(hits).mean() if hits else zero,
        "margin": torch.stack(margins).mean() if margins else zero,
    }
