"""Undocumented names of PEFT that genrec_hf uses, as in version 0.21."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _NoKernelsMessage(logging.Filter):
    """Filter of the message that bitsandbytes found no CPU kernels on the Hub; its own kernels compute the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record.

        Args:
            record (`logging.LogRecord`): the record.

        Returns:
            `bool`: false for the message about CPU kernels.
        """
        return "gemm_4bit_forward" not in record.getMessage()


# Added before PEFT is imported, which imports bitsandbytes.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_NoKernelsMessage())

import peft  # noqa: E402
from peft.tuners import trainable_tokens  # noqa: E402
from peft.utils import other  # noqa: E402

from genrec_hf.internals import parameters_of, require  # noqa: E402

require(
    "peft",
    {
        "utils.other.TrainableTokensWrapper": hasattr(other, "TrainableTokensWrapper"),
        "tuners.trainable_tokens.TrainableTokensLayer": hasattr(trainable_tokens, "TrainableTokensLayer"),
        "argument save_embedding_layers of save_pretrained": "save_embedding_layers"
        in parameters_of(peft.PeftModel.save_pretrained),
    },
)

TrainableTokensWrapper = other.TrainableTokensWrapper

# Part of the names of the parameters that hold trained rows of an embedding or a head.
TRAINED_ROWS = "trainable_tokens_delta"


def saved_copy(module: str) -> str:
    """Return the part of the parameter names that marks the trained copy of a module of `modules_to_save`.

    Args:
        module (`str`): name of the module.

    Returns:
        `str`: part of the names.
    """
    return f"{module}.modules_to_save"


def trained_rows(head: TrainableTokensWrapper, token_ids: torch.Tensor) -> torch.Tensor | None:
    """Return the rows that a wrapped head uses for some tokens.

    If one adapter holds all of the rows, the merged weight (a copy of the whole head) is not computed.

    Args:
        head (`TrainableTokensWrapper`): wrapper of an output embedding of size `d`.
        token_ids (`torch.Tensor`): `[m]`.

    Returns:
        `torch.Tensor` or `None`: `[m, d]`; `None` if the rows are not known without running the head.
    """
    adapter = head.token_adapter
    base, active = adapter.base_layer, list(adapter.active_adapters)
    if type(base) is not torch.nn.Linear or base.bias is not None or (adapter.merged and adapter.disable_adapters):
        return None
    if adapter.merged or adapter.disable_adapters:
        return base.weight[token_ids]
    if len(active) == 1:
        indices = torch.as_tensor(adapter.token_indices[active[0]], device=token_ids.device)
        order = torch.argsort(indices)
        positions = torch.searchsorted(indices[order], token_ids).clamp(max=len(indices) - 1)
        if torch.equal(indices[order][positions], token_ids):
            # PEFT keeps trained rows in float32, also for a bfloat16 head.
            return adapter.trainable_tokens_delta[active[0]][order[positions]].to(base.weight.dtype)
    return head.weight[token_ids]


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Ignore the warning that `is_gradient_checkpointing`, which PEFT 0.21 reads to wrap a model, is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
