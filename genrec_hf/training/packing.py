"""Packing: many examples in one row of the batch, none of which sees another. TRL packs, transformers masks."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from trl import SFTConfig

from genrec_hf.internals.transformers import attention_of


def refuse_unsafe_packing(training: SFTConfig, dataset: Any) -> None:
    """Stop settings under which TRL 1.16 packs examples that see each other, or cuts one.

    `packing_strategy="bfd"` keeps examples whole and restarts the positions at each, from which transformers makes a
    block-diagonal causal mask. `"wrapped"` does not restart them; both cut what is longer than `max_length`.

    Args:
        training (`SFTConfig`): with `packing=True`.
        dataset (`Dataset`): what the trainer is given.

    Raises:
        ValueError: on another strategy, no `max_length`, or examples that are text, whose length nobody knows yet.
    """
    if training.packing_strategy != "bfd":
        raise ValueError(
            f"packing_strategy={training.packing_strategy!r} cuts examples or lets one user's items see another's: "
            "use 'bfd'"
        )
    if training.max_length is None:
        raise ValueError("packing=True with max_length=None: give the tokens of a packed row as max_length")
    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names:
        raise ValueError(
            "packing=True needs a data set of input_ids, and these examples are text, of which packing would cut what "
            "is too long: set packing=False"
        )


def refuse_attention_across(
    model: nn.Module, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], tokens: torch.Tensor
) -> None:
    """Run two packed examples through the model, and raise if the second notices what the first one is.

    Whether packed examples are kept apart depends on the attention, on the model and on the libraries underneath, none
    of which complains when they are not; so the model is asked.

    Args:
        model (`nn.Module`): as the trainer calls it, wrapped or not.
        collate (`Callable`): TRL's collator with `padding_free=True`.
        tokens (`torch.Tensor`): any token ids `[n]` of the training data, `n` at least 1.

    Raises:
        ValueError: the attention reaches from one example into the next.
    """
    length = 4
    first, second = tokens.repeat(2 * length)[: 2 * length].cpu().split(length)
    training, logits = model.training, []
    model.eval()
    with torch.no_grad():
        for neighbour in (first, (first - 1).clamp(min=0)):
            ids = torch.cat([neighbour, second]).tolist()
            batch = collate([{"input_ids": ids, "seq_lengths": [length, length]}])
            del batch["labels"]
            batch = {key: value.to(tokens.device) if torch.is_tensor(value) else value for key, value in batch.items()}
            # With a cache, transformers takes restarting positions for those of one example.
            logits.append(model(**batch, use_cache=False).logits[0, length:])
    model.train(training)
    noise = 4 * torch.finfo(logits[0].dtype).eps * logits[0].abs().max()
    if (logits[0] - logits[1]).abs().max() > noise:
        config = getattr(model, "module", model).config
        raise ValueError(
            f"packing=True, but with attn_implementation={attention_of(config)!r} this model "
            "lets packed users see each other's items: choose 'sdpa', 'eager' or 'flash_attention_2', or set "
            "packing=False"
        )
