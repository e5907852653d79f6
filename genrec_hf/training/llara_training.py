"""`LlaraSftTrainer`: SFT of a `LlaraForCausalLM` with LLaRA's curriculum and an alignment loss."""

from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from trl import SFTConfig

from genrec_hf.models import LlaraForCausalLM, unwrap
from genrec_hf.training.sft import SidSftTrainer


class LlaraSftTrainer(SidSftTrainer):
    """`SidSftTrainer` with the curriculum of LLaRA (arXiv:2312.02445) and an alignment loss.

    At step `t` of `T` an example keeps its vectors with probability `min(1, t / (curriculum T))` (a hybrid prompt);
    otherwise they are removed, as in a prompt that was made without vectors. The random number depends on seed, step
    and example, so a resumed run repeats it. What differs from LLaRA: `curriculum` is the share of the run in which
    the probability rises; in the paper it is 1, so that all prompts are hybrid only in the last step.

    With `alignment`, the loss is that of the next items plus `alignment` times `LlaraForCausalLM.alignment` of the
    items in the batch.

    Args:
        model (`PeftModel`): an adapter on a `LlaraForCausalLM`.
        args (`SFTConfig`): settings of the run.
        curriculum (`float`, defaults to 0.0): share of the run, from 0 (every prompt is hybrid) to 1.
        alignment (`float`, defaults to 0.0): weight of the alignment loss, 0 or more.
        text_vectors (`torch.Tensor`, *optional*): `[items, hidden_size]`, see `LlaraForCausalLM.text_vectors`;
            required with `alignment`.
        kwargs: of `SidSftTrainer`.

    Raises:
        ValueError: the model is no `LlaraForCausalLM`, `curriculum` or `alignment` is out of range, `alignment` comes
            without `text_vectors`, or `curriculum` with packing, where examples share a row.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: SFTConfig,
        *,
        curriculum: float = 0.0,
        alignment: float = 0.0,
        text_vectors: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        network = unwrap(model)
        if not isinstance(network, LlaraForCausalLM):
            raise ValueError(
                f"got a {type(network).__name__}, which reads no vectors: wrap it with "
                "LlaraForCausalLM.from_language_model"
            )
        if not 0 <= curriculum <= 1 or alignment < 0:
            raise ValueError(f"got curriculum={curriculum}, alignment={alignment}: give 0 to 1, and 0 or more")
        if alignment and text_vectors is None:
            raise ValueError(
                f"got alignment={alignment} without text_vectors, which projected vectors are aligned with: give both"
            )
        if curriculum and args.packing:
            raise ValueError(
                f"got curriculum={curriculum} with packing=True: vectors cannot be removed from one example of a "
                "packed row; set packing=False"
            )
        self.curriculum, self.alignment, self.text_vectors = curriculum, alignment, text_vectors
        super().__init__(model, args, **kwargs)

    @property
    def hybrid_share(self) -> float:
        """Probability that an example of the current step keeps its vectors."""
        ramp = self.curriculum * self.state.max_steps
        return 1.0 if ramp <= 0 else min(1.0, self.state.global_step / ramp)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of the class.

        Args:
            model (`nn.Module`): as the Trainer calls it.
            inputs (`dict`): `input_ids`, `attention_mask` and `labels`, `[batch, length]`.
            args: of `Trainer.compute_loss`.
            kwargs: of `Trainer.compute_loss`.

        Returns:
            `torch.Tensor` or `tuple`: the loss, with the outputs of the model if they were asked for.
        """
        network = cast(LlaraForCausalLM, unwrap(self.accelerator.unwrap_model(self.model)))
        if model.training and self.hybrid_share < 1:
            inputs = self._apply_curriculum(inputs, network.config.first_vector)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.alignment or self.text_vectors is None:
            return loss
        self.text_vectors = self.text_vectors.to(inputs["input_ids"].device)
        term = self.alignment * network.alignment(inputs["input_ids"], self.text_vectors)
        # The loss of the next items is divided by `num_items_in_batch`, so the Trainer does not divide it by the
        # accumulation steps; this term is divided here.
        term = term / (self.current_gradient_accumulation_steps if model.training else 1)
        return (loss[0] + term, loss[1]) if isinstance(loss, tuple) else loss + term

    def _apply_curriculum(self, inputs: dict[str, Any], first_vector: int) -> dict[str, Any]:
        """Remove the vectors of randomly chosen examples, see the class."""
        ids = inputs["input_ids"]
        seed = [self.args.seed, self.state.global_step, self.args.process_index, int(ids.sum())]
        is_hybrid = torch.from_numpy(np.random.default_rng(seed).random(len(ids)) < self.hybrid_share).to(ids.device)
        return inputs | remove_vectors(inputs, first_vector, ~is_hybrid)


def remove_vectors(inputs: dict[str, torch.Tensor], first_vector: int, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Remove the vectors from some rows of a batch, as if their prompts had been made without.

    Args:
        inputs (`dict`): `input_ids`, `attention_mask` and `labels`, `[batch, length]`, padded on the right.
        first_vector (`int`): `LlaraConfig.first_vector`.
        rows (`torch.Tensor`): bool `[batch]`, the rows to remove vectors from.

    Returns:
        `dict`: the same three, `[batch, longest]`, padded on the right.
    """
    is_kept = inputs["attention_mask"].bool() & ~(rows[:, None] & (inputs["input_ids"] >= first_vector))
    order = (~is_kept).int().argsort(dim=1, stable=True)[:, : int(is_kept.sum(dim=1).max())]
    empty = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {name: inputs[name].masked_fill(~is_kept, value).gather(1, order) for name, value in empty.items()}
