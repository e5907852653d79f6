"""Trains a `LlaraForCausalLM`: from text to hybrid prompts, and projections that stay near their items' text."""

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
    """`SidSftTrainer` with the curriculum of LLaRA (arXiv:2312.02445) and an alignment term.

    At step `t` of `T` an example keeps its vectors with probability `min(1, t / (curriculum T))`, and is read without
    them otherwise: their places are taken out, as in a prompt that never had any. The draw follows from seed, step and
    example, so a resumed run draws the same. What differs from LLaRA: `curriculum` is the share of the run in which
    the probability rises (there 1, so that prompts are all hybrid at the last step alone).

    With `alignment` a step's loss is next items plus `alignment` times `LlaraForCausalLM.alignment` of its items.

    Args:
        model (`PeftModel`): around a `LlaraForCausalLM`.
        args (`SFTConfig`): settings of the run.
        curriculum (`float`, defaults to 0): share of the run, from 0 (every prompt is hybrid) to 1.
        alignment (`float`, defaults to 0): weight of the term.
        text_vectors (`torch.Tensor`, *optional*): `[items, hidden_size]`, see `LlaraForCausalLM.text_vectors`; needed
            with `alignment`.
        kwargs: of `SidSftTrainer`.

    Raises:
        ValueError: when the model holds no vectors, a number is out of range, `alignment` has no text, or the
            curriculum meets packed rows, whose examples are not apart any more.
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
                f"got a {type(network).__name__}, which reads no vectors: put a LlaraForCausalLM around it"
            )
        if not 0 <= curriculum <= 1 or alignment < 0:
            raise ValueError(f"got curriculum={curriculum}, alignment={alignment}; give 0 to 1, and 0 or more")
        if alignment and text_vectors is None:
            raise ValueError(f"got alignment={alignment} and no text_vectors: there is nothing to align with")
        if curriculum and args.packing:
            raise ValueError("got curriculum with packing=True: packed examples cannot lose their vectors one by one")
        self.curriculum, self.alignment, self.text_vectors = curriculum, alignment, text_vectors
        super().__init__(model, args, **kwargs)

    @property
    def hybrid_share(self) -> float:
        """Probability with which an example of the present step keeps its vectors."""
        ramp = self.curriculum * self.state.max_steps
        return 1.0 if ramp <= 0 else min(1.0, self.state.global_step / ramp)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        network = cast(LlaraForCausalLM, unwrap(self.accelerator.unwrap_model(self.model)))
        if model.training and self.hybrid_share < 1:
            inputs = self._some_without_vectors(inputs, network.config.first_vector)
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.alignment or self.text_vectors is None:
            return found
        self.text_vectors = self.text_vectors.to(inputs["input_ids"].device)
        term = self.alignment * network.alignment(inputs["input_ids"], self.text_vectors)
        # What `num_items_in_batch` divides is not divided by the number of batches a step, and this is.
        term = term / (self.current_gradient_accumulation_steps if model.training else 1)
        return (found[0] + term, found[1]) if isinstance(found, tuple) else found + term

    def _some_without_vectors(self, inputs: dict[str, Any], first_vector: int) -> dict[str, Any]:
        ids = inputs["input_ids"]
        seed = [self.args.seed, self.state.global_step, self.args.process_index, int(ids.sum())]
        hybrid = torch.from_numpy(np.random.default_rng(seed).random(len(ids)) < self.hybrid_share).to(ids.device)
        return inputs | without_vectors(inputs, first_vector, ~hybrid)


def without_vectors(inputs: dict[str, torch.Tensor], first_vector: int, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch in which some rows hold no vectors, as if their prompts had been made without.

    Args:
        inputs (`dict`): `input_ids`, `attention_mask` and `labels`, `[batch, length]`, padded on the right.
        first_vector (`int`): `LlaraConfig.first_vector`.
        rows (`torch.Tensor`): `[batch]`, bool, which rows lose theirs.

    Returns:
        `dict`: the three, `[batch, longest]`.
    """
    kept = inputs["attention_mask"].bool() & ~(rows[:, None] & (inputs["input_ids"] >= first_vector))
    order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(dim=1).max())]
    empty = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {name: inputs[name].masked_fill(~kept, value).gather(1, order) for name, value in empty.items()}
