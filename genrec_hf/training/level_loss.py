"""`LevelScores`: the cross-entropy of SID tokens over the codes of their level, for the loss of SFT."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from genrec_hf.internals.trl import FusedCausalLMOutput
from genrec_hf.models import head_logits, wrapping_of
from genrec_hf.training.fused_loss import fused_output

# Names of the factor on the logits in the configs of Cohere, Falcon-H1, Granite and similar models.
LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class LevelScores:
    """Scoring function for `answer_fused_calls`: SID tokens are normalized over their level, others over all tokens.

    Args:
        config (`PreTrainedConfig`): of the model below the adapter.
        levels (`Sequence[torch.Tensor]`): token ids of each level; if empty, every token is normalized over the whole
            vocabulary.
        sharded (`bool`): weights are sharded over processes. Calling the head gathers its weight from all of them, so
            all processes make the same calls, even without a token of a level in their batch.
        vocabulary_fraction (`float`, defaults to 0.0): probability with which a SID token is also scored for its level
            against the whole vocabulary, weighted by `1 / vocabulary_fraction`. In evaluation all are.

    Raises:
        ValueError: the model scales its logits.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        levels: Sequence[torch.Tensor],
        *,
        sharded: bool,
        vocabulary_fraction: float = 0.0,
    ) -> None:
        text_config = config.get_text_config()
        scales = {name: getattr(text_config, name, None) for name in LOGIT_SCALES}
        if scaled := {name: scale for name, scale in scales.items() if scale not in (None, 1.0)}:
            raise ValueError(
                f"got a model that scales its logits ({scaled}), which normalization='level', a vocabulary_fraction "
                "below 1, ZeRO-3 and FSDP do not support: use normalization='full', on several GPUs with "
                "multi_gpu.yaml or deepspeed_zero2.yaml"
            )
        self.softcap = getattr(text_config, "final_logit_softcapping", None)
        self.levels, self.sharded, self.vocabulary_fraction = levels, sharded, vocabulary_fraction
        rows = max((int(ids.max()) + 1 for ids in levels), default=1)
        self.level_of_token = torch.full((rows,), len(levels))
        self.code_of_token = torch.zeros_like(self.level_of_token)
        for level, ids in enumerate(levels):
            self.level_of_token[ids] = level
            self.code_of_token[ids] = torch.arange(len(ids))

    def __call__(self, model: PreTrainedModel, *args: Any, labels: torch.Tensor, **kwargs: Any) -> FusedCausalLMOutput:
        """Score labels, each given the tokens before it.

        Args:
            model (`PreTrainedModel`): below the adapter.
            args: of its `forward`.
            labels (`torch.Tensor`): `[batch, length]`, token ids, `-100` where there is no label.
            kwargs: of its `forward`.

        Returns:
            `FusedCausalLMOutput`: see `fused_output`.
        """
        kwargs["use_cache"] = False
        hidden = wrapping_of(model).hidden_states(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        scores = self._scores(model, hidden[mask], labels[mask])
        log_probs, entropy, is_top1 = (scores.new_zeros(mask.shape).masked_scatter(mask, row) for row in scores)
        return fused_output(log_probs, entropy, is_top1, label_mask=mask)

    def _scores(self, model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute the log-probability, entropy and top-1 hit of each target: `[3, n]`."""
        is_outside = targets >= len(self.level_of_token)
        inside = targets.masked_fill(is_outside, 0).cpu()
        level_of_target = self.level_of_token[inside].to(targets.device).masked_fill(is_outside, len(self.levels))
        head = model.get_output_embeddings()
        # Every column is overwritten below; a batch without labels still has a zero with a gradient.
        scores = (0.0 * hidden.float().sum()).expand(3, len(targets))
        for level in range(len(self.levels) + 1):
            rows = torch.nonzero(level_of_target == level).squeeze(1)
            if len(rows) == 0 and not self.sharded:
                continue
            if level < len(self.levels):
                logits = head_logits(head, hidden[rows], self.levels[level].to(hidden.device))
                columns = self.code_of_token[targets[rows].cpu()].to(hidden.device)
            else:
                logits, columns = head(hidden[rows]), targets[rows]
            logits = self._cap_logits(logits)
            scores = scores.index_copy(1, rows, _score_targets(logits, columns))
            if level < len(self.levels) and self.vocabulary_fraction > 0:
                fraction = self.vocabulary_fraction if model.training else 1.0
                sampled = torch.nonzero(torch.rand(len(rows), device=rows.device) < fraction).squeeze(1)
                over_vocabulary = self._cap_logits(head(hidden[rows[sampled]])).logsumexp(dim=1)
                log_prob_of_level = (logits[sampled].logsumexp(dim=1) - over_vocabulary) / fraction
                scores = scores.index_put(
                    (torch.zeros_like(sampled), rows[sampled]), log_prob_of_level, accumulate=True
                )
        return scores

    def _cap_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float() if self.softcap is None else self.softcap * torch.tanh(logits.float() / self.softcap)


def _score_targets(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the log-probability, entropy and top-1 hit of each target column of `logits`: `[3, n]`."""
    log_probs = F.log_softmax(logits, dim=-1)
    of_targets = log_probs.gather(1, targets[:, None]).squeeze(1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        top1 = (logits.argmax(dim=-1) == targets).float()
    return torch.stack([of_targets, entropy, top1])
