"""`LevelScores`: the loss of SFT that scores a SID among the codes of its level."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from genrec_hf.internals.trl import FusedCausalLMOutput
from genrec_hf.models import head_logits, wrapping_of
from genrec_hf.training.fused_loss import fused_output

# What configs of Cohere, Falcon-H1, Granite and kin call the factor on their logits.
LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class LevelScores:
    """Scores for `answer_fused_calls`: a SID's in its level, any other token's in the whole vocabulary.

    Args:
        config (`PreTrainedConfig`): of the model below the adapter.
        levels (`Sequence[torch.Tensor]`): token ids of each level; none scores every token in the whole vocabulary.
        sharded (`bool`): a call of the head gathers its weight from all processes, so all have to make it, also those
            whose batch holds no token of a level.
        vocabulary_fraction (`float`, defaults to 0): share of the SIDs whose level is scored against all other tokens as well,
            each weighed by one over the share; all of them, exactly, where the model does not train.

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
                f"this model scales its logits ({scaled}), which normalization='level' and ZeRO-3 do not know: use "
                "normalization='full', on several GPUs with multi_gpu.yaml or deepspeed_zero2.yaml"
            )
        self.softcap = getattr(text_config, "final_logit_softcapping", None)
        self.levels, self.sharded, self.vocabulary_fraction = levels, sharded, vocabulary_fraction
        rows = max((int(ids.max()) + 1 for ids in levels), default=1)
        self.level_of_token = torch.full((rows,), len(levels))
        self.code_of_token = torch.zeros_like(self.level_of_token)
        for number, ids in enumerate(levels):
            self.level_of_token[ids] = number
            self.code_of_token[ids] = torch.arange(len(ids))

    def __call__(self, model: PreTrainedModel, *args: Any, labels: torch.Tensor, **kwargs: Any) -> FusedCausalLMOutput:
        """Scores of `labels [batch, length]`, -100 where there is none, given what stands before each."""
        kwargs["use_cache"] = False
        hidden = wrapping_of(model).hidden_states(*args, **kwargs).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        scores = self._scores(model, hidden[mask], labels[mask])
        log_probs, entropy, is_top1 = (scores.new_zeros(mask.shape).masked_scatter(mask, row) for row in scores)
        return fused_output(log_probs, entropy, is_top1, label_mask=mask)

    def _scores(self, model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability, entropy and top-1 hit of each target, `[3, n]`."""
        beyond = targets >= len(self.level_of_token)
        known = targets.masked_fill(beyond, 0).cpu()
        level = self.level_of_token[known].to(targets.device).masked_fill(beyond, len(self.levels))
        head = model.get_output_embeddings()
        # Every column is overwritten below; without one, a batch of no labels still has a zero to send back.
        scores = (0.0 * hidden.float().sum()).expand(3, len(targets))
        for number in range(len(self.levels) + 1):
            rows = torch.nonzero(level == number).squeeze(1)
            if len(rows) == 0 and not self.sharded:
                continue
            if number < len(self.levels):
                logits = head_logits(head, hidden[rows], self.levels[number].to(hidden.device))
                wanted = self.code_of_token[targets[rows].cpu()].to(hidden.device)
            else:
                logits, wanted = head(hidden[rows]), targets[rows]
            logits = self._capped(logits)
            scores = scores.index_copy(1, rows, _token_scores(logits, wanted))
            if number < len(self.levels) and self.vocabulary_fraction > 0:
                share = self.vocabulary_fraction if model.training else 1.0
                some = torch.nonzero(torch.rand(len(rows), device=rows.device) < share).squeeze(1)
                everything = self._capped(head(hidden[rows[some]])).logsumexp(dim=1)
                of_level = (logits[some].logsumexp(dim=1) - everything) / share
                scores = scores.index_put((torch.zeros_like(some), rows[some]), of_level, accumulate=True)
        return scores

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float() if self.softcap is None else self.softcap * torch.tanh(logits.float() / self.softcap)


def _token_scores(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability, entropy and top-1 hit of each target, `[3, n]`."""
    log_probs = F.log_softmax(logits, dim=-1)
    taken = log_probs.gather(1, targets[:, None]).squeeze(1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        top1 = (logits.argmax(dim=-1) == targets).float()
    return torch.stack([taken, entropy, top1])
