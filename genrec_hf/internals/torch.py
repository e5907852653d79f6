"""Undocumented names of torch and accelerate that genrec_hf uses, as in torch 2.13 and accelerate 1.15."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

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
    """Return the version counter of a tensor, which increases with every write to its memory, also through a view.

    Args:
        tensor (`torch.Tensor`): the tensor.

    Returns:
        `int`: the counter.
    """
    return tensor._version


def holders_of(tensor: torch.Tensor) -> int:
    """Return how many references to the storage of a tensor exist.

    Args:
        tensor (`torch.Tensor`): the tensor.

    Returns:
        `int`: number of references; -1 if the installed version of torch does not report it.
    """
    count = getattr(torch._C, "_storage_Use_Count", None)
    return -1 if count is None else count(tensor.untyped_storage()._cdata)


def compiled_by_shape(function: Callable[..., Any], shapes: int) -> Any:
    """Compile a function into one graph per shape of its inputs.

    torch 2.13 takes the limit as an argument. In earlier versions it is a setting of the process, which is raised here
    and never lowered.

    Args:
        function (`Callable`): the function to compile.
        shapes (`int`): maximum number of shapes.

    Returns:
        `Callable`: the compiled function.
    """
    compile: Any = torch.compile
    if "recompile_limit" in signature(torch.compile).parameters:
        return compile(function, fullgraph=True, dynamic=False, recompile_limit=shapes)
    config: Any = torch._dynamo.config
    config.recompile_limit = max(shapes, config.recompile_limit)
    return compile(function, fullgraph=True, dynamic=False)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module or a part of it has hooks: of users, of PEFT (`adapter_names`), or for offloading.

    Args:
        module (`nn.Module`): the module.

    Returns:
        `bool`: whether there are forward hooks, forward pre-hooks or hooks of accelerate.
    """
    return any(
        part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook") for part in module.modules()
    )


def linear_cross_entropy(states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute the summed cross-entropy of the logits `states @ weight.T`.

    torch from 2.13 on computes it in chunks, with the gradients, and never holds all logits; an older one holds them.

    Args:
        states (`torch.Tensor`): `[n, hidden_size]`.
        weight (`torch.Tensor`): `[classes, hidden_size]`.
        targets (`torch.Tensor`): `[n]`, each from 0 to `classes - 1`.

    Returns:
        `torch.Tensor`: a scalar.
    """
    if torch.is_grad_enabled() and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(states, weight, targets, reduction="sum", options=options)
    return F.cross_entropy(states @ weight.T, targets, reduction="sum")
