"""Names inside PEFT that genrec_hf relies on; they are those of 0.21."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _NoKernelsMessage(logging.Filter):
    """Leave out that bitsandbytes found no CPU kernels on the Hub: its own ones compute the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        return "gemm_4bit_forward" not in record.getMessage()


# Before PEFT is imported, which imports bitsandbytes.
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

# Part of the names of parameters that are trained rows of an embedding or a head.
TRAINED_ROWS = "trainable_tokens_delta"


def saved_copy(module: str) -> str:
    """Part of the names of parameters in the copy of a module of `modules_to_save` that trains."""
    return f"{module}.modules_to_save"


def trained_rows(head: TrainableTokensWrapper, token_ids: torch.Tensor) -> torch.Tensor | None:
    """Rows `[m, d]` of some tokens that a wrapped head uses; `None` where they cannot be told without running it.

    When one adapter holds all of the rows, the merged weight (a copy of the whole head) is not built.

    Args:
        head (`TrainableTokensWrapper`): around an output embedding.
        token_ids (`torch.Tensor`): `[m]`.
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
        place = torch.searchsorted(indices[order], token_ids).clamp(max=len(indices) - 1)
        if torch.equal(indices[order][place], token_ids):
            # PEFT keeps trained rows in float32 beside a bfloat16 head.
            return adapter.trainable_tokens_delta[active[0]][order[place]].to(base.weight.dtype)
    return head.weight[token_ids]


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Hide that PEFT 0.21 reads `is_gradient_checkpointing` of transformers when it wraps a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
