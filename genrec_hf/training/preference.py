"""`SidPreferenceTrainer`: the item that came is preferred to many that did not (DPO, S-DPO), drawn as it trains."""

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
    """Preference optimisation of items behind prompts: the target against the other items of its group.

    With `d_i = log p(i) - log p_ref(i)` of the items of a group, the target `w` costs
    `-log(exp(beta d_w) / sum_i exp(beta d_i))`: S-DPO (arXiv:2406.09215, equation 10), and DPO (arXiv:2305.18290) for
    groups of two. The reference is the adapter as it was. What differs from both: negatives are not fixed, every step
    asks the present model for those it would recommend (`beams`, `samples`: hard ones of its own, with a round of
    iterated DPO a step) or takes `uniform` or `popular` items; the log-probabilities are those of decoding, over the
    legal children; a prompt is read once a group; items of the history are no negatives unless `filter_seen=False`,
    since lists leave them out.

    Args:
        model (`PeftModel` or `PreTrainedModel`): trained by SFT on the same prompts.
        args (`GRPOConfig`): settings of the run: `num_generations` items a group, the target among them, `beta`, and
            batches of whole groups.
        rollouts (`SidRollouts`): where the negatives come from, with `inject_target`.
        kwargs: of `SidGrpoTrainer`.

    Raises:
        ValueError: without a reference (`beta=0`), without the target in every group, with tokens that are no item, or
            where groups would be cut over several batches.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, args: GRPOConfig, *, rollouts: SidRollouts, **kwargs: Any
    ) -> None:
        if not rollouts.inject_target or rollouts.normalization != "trie":
            raise ValueError(
                "got rollouts without inject_target, or 'unconstrained' ones: a group needs its target, and items"
            )
        if args.beta == 0:
            raise ValueError("got beta=0: a preference is measured against the model as it was; give one above 0")
        if args.steps_per_generation != 1 or args.num_iterations != 1:
            raise ValueError(
                f"got steps_per_generation={args.steps_per_generation}, num_iterations={args.num_iterations}: a group "
                "would be cut over batches; set both to 1, and the batch as large as a step is to be"
            )
        rewards: list[Callable] = [exact_reward]
        super().__init__(model, rewards, args, rollouts=rollouts, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, with what tells groups and targets apart after rows were shuffled."""
        found = super()._generate_and_score_completions(inputs)
        ids, wanted = found["completion_ids"], self.rollouts.codes_of([row["target"] for row in inputs])
        found["is_target"] = (ids == wanted.to(ids.device)).all(dim=1)
        found["group"] = torch.arange(len(ids), device=ids.device) // self.group_size
        items = self.rollouts.vocabulary.items(ids.cpu().numpy())
        seen = [self.filter_seen and item in row["history"] for item, row in zip(items, inputs, strict=True)]
        found["counts"] = found["is_target"] | ~torch.tensor(seen, device=ids.device)
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """See the class; logs how often the target is preferred to all others, and by how much on average."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        levels = inputs["completion_ids"].shape[1]
        scored, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, levels)
        gained = (scored - inputs["ref_per_token_logps"]).sum(dim=1)
        counts = inputs["counts"]
        found = preference_loss(self.beta * gained[counts], inputs["group"][counts], inputs["is_target"][counts])
        mode = "train" if model.training else "eval"
        for name, values in found.items():
            log_metric(self, mode, f"preference/{name}", value=self.accelerator.gather(values.detach()).mean().item())
        return found["loss"] / (self.current_gradient_accumulation_steps if mode == "train" else 1)


def preference_loss(gained: torch.Tensor, group: torch.Tensor, is_target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The S-DPO loss of groups whose rows are in any order.

    Args:
        gained (`torch.Tensor`): `[rows]`, `beta` times the log-ratio to the reference.
        group (`torch.Tensor`): `[rows]`, whose row each is.
        is_target (`torch.Tensor`): `[rows]`, whether it is the target; of several in a group one counts.

    Returns:
        `dict`: `loss`, the mean over groups; `accuracy`, the share of groups whose target gained more than every other
        item; `margin`, the mean over groups of what it gained above the mean of the others. Groups without another
        item than the target count as 0 in the loss and not in the others.

    Raises:
        ValueError: when a group has no target.
    """
    losses, right, margins = [], [], []
    for name in group.unique():
        mine = group == name
        targets, others = gained[mine & is_target], gained[mine & ~is_target]
        if not len(targets):
            raise ValueError(f"got a group of {int(mine.sum())} items without its target: there is nothing to prefer")
        losses.append(torch.cat([targets[:1], others]).logsumexp(dim=0) - targets[0])
        if len(others):
            right.append((targets[0] > others.max()).float())
            margins.append(targets[0] - others.mean())
    nothing = gained.sum() * 0
    return {
        "loss": torch.stack(losses).mean(),
        "accuracy": torch.stack(right).mean() if right else nothing,
        "margin": torch.stack(margins).mean() if margins else nothing,
    }
