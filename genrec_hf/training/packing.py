"""Checks that packed examples do not attend to each other; TRL packs them, and transformers masks."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from trl import SFTConfig

from genrec_hf.internals.transformers import attention_of


def refuse_unsafe_packing(training: SFTConfig, dataset: Any) -> None:
    """Raise on settings with which TRL 1.16 packs examples that attend to each other, or truncates one.

    `packing_strategy="bfd"` keeps examples whole and restarts the positions at each, from which transformers makes a
    block-diagonal causal mask. `"wrapped"` does not restart them. Both truncate examples longer than `max_length`.

    Args:
        training (`SFTConfig`): with `packing=True`.
        dataset (`Any`): the training data set of the trainer.

    Raises:
        ValueError: another strategy, no `max_length`, or a data set without `input_ids`, the length of whose examples
            is not known yet.
    """
    if training.packing_strategy != "bfd":
        raise ValueError(
            f"got packing_strategy={training.packing_strategy!r}, which truncates examples or lets them attend to "
            "each other: use 'bfd'"
        )
    if training.max_length is None:
        raise ValueError(
            "got packing=True with max_length=None: set max_length to the number of tokens of a packed row"
        )
    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names:
        raise ValueError(
            "got packing=True with examples that are text or a stream: packing would truncate long ones unchecked; "
            "set packing=False"
        )


def refuse_attention_across(
    model: nn.Module, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], tokens: torch.Tensor
) -> None:
    """Run two packed examples through the model, and raise if the first one changes the logits of the second.

    Whether packed examples are masked from each other depends on the attention implementation, the model and the
    libraries underneath, none of which reports a failure; so it is tested.

    Args:
        model (`nn.Module`): as the trainer calls it, wrapped or not.
        collate (`Callable`): TRL's collator with `padding_free=True`.
        tokens (`torch.Tensor`): `[n]`, any token ids of the training data, `n` at least 1.

    Raises:
        ValueError: the second example attends to the first.
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
            # With a cache, transformers treats restarting positions as those of one example.
            logits.append(model(**batch, use_cache=False).logits[0, length:])
    model.train(training)
    noise = 4 * torch.finfo(logits[0].dtype).eps * logits[0].abs().max()
    if (logits[0] - logits[1]).abs().max() > noise:
        config = getattr(model, "module", model).config
        raise ValueError(
            f"got packing=True with attn_implementation={attention_of(config)!r}, with which packed examples of this "
            "model attend to each other: choose 'sdpa', 'eager' or 'flash_attention_2', or set packing=False"
        )
