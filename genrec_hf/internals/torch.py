"""Names inside torch and accelerate that genrec_hf relies on; they are those of torch 2.13 and accelerate 1.15."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn

from genrec_hf.internals import require

require(
    "torch",
    {
        "Tensor._version": hasattr(torch.zeros(0), "_version"),
        "nn.Module._forward_hooks": hasattr(nn.Module(), "_forward_hooks"),
        "nn.Module._forward_pre_hooks": hasattr(nn.Module(), "_forward_pre_hooks"),
    },
)


def version_of(tensor: torch.Tensor) -> int:
    """A number that grows with every write into a tensor, through whatever view of it."""
    return tensor._version


def holders_of(tensor: torch.Tensor) -> int:
    """How many hold the storage of a tensor; -1 in a version of torch that does not say."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return -1 if count is None else count(tensor.untyped_storage()._cdata)


def compiled_by_shape(function: Callable[..., Any], shapes: int) -> Any:
    """A function compiled into one graph for each of at most so many shapes.

    torch 2.13 takes the limit as an argument; before, it is a setting of the process, which is only ever raised here.
    """
    compile: Any = torch.compile
    if "recompile_limit" in signature(torch.compile).parameters:
        return compile(function, fullgraph=True, dynamic=False, recompile_limit=shapes)
    config: Any = torch._dynamo.config
    config.recompile_limit = max(shapes, config.recompile_limit)
    return compile(function, fullgraph=True, dynamic=False)


def has_hooks(module: nn.Module) -> bool:
    """Whether something acts on calls of a module: hooks of users, of PEFT (`adapter_names`), offloading."""
    parts = module.modules()
    return any(part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook") for part in parts)
