"""The protocol of modules that wrap a causal language model, such as LLaRA's projector, and how to find one.

Code that trains, prompts, saves or loads a model calls `wrapping_of(model)` and uses its interface; it never tests for
a class of model. A new module is one file with a subclass of `WrappedLM`, which is listed in
`genrec_hf.models.WRAPPINGS`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from genrec_hf.repositories import name_broken_files


def unwrap(model: Any) -> PreTrainedModel:
    """Return the causal model inside a PEFT adapter.

    Args:
        model (`PeftModel` or `PreTrainedModel`): with or without an adapter.

    Returns:
        `PreTrainedModel`: the model inside the adapter, which may be a `WrappedLM`; `model` itself without an adapter.
    """
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def wrapping_of(model: Any) -> "Wrapping":
    """Return the module that wraps the language model inside a model.

    Args:
        model (`PeftModel` or `PreTrainedModel`): with or without an adapter.

    Returns:
        `Wrapping`: the module; for a language model without one, a `Wrapping` with the default behavior.
    """
    network = unwrap(model)
    return network if isinstance(network, Wrapping) else _Unwrapped(network)


def restore_wrapper(language_model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Wrap a language model in the module whose tensors are saved in an adapter's folder.

    Args:
        language_model (`PreTrainedModel`): the base model of the adapter, with its SID rows.
        directory (`Path`): folder of the adapter.

    Returns:
        `PreTrainedModel`: a `WrappedLM`, or `language_model` itself if the folder holds no file of one.

    Raises:
        ValueError: the file is broken, or its tensors are not those that were saved.
    """
    from genrec_hf.models import WRAPPINGS  # not at the top: the modules in it import this one

    for wrapper in WRAPPINGS:
        if (directory / wrapper.saved_file).is_file():
            with name_broken_files(directory):
                return wrapper.restore(language_model, directory)
    return language_model


class Wrapping:
    """Interface of a module that wraps a causal language model. The defaults change nothing.

    Attributes:
        language_model (`PreTrainedModel`): the wrapped language model.
        saved_modules (`tuple[str, ...]`, defaults to `()`): names of the submodules that are trained in full in
            addition to LoRA and saved with the adapter (`modules_to_save` of PEFT). PEFT matches names by their end,
            so no other module's name may end in one of them.
    """

    language_model: PreTrainedModel
    saved_modules: ClassVar[tuple[str, ...]] = ()

    @property
    def first_vector(self) -> int | None:
        """Id of item 0's vector in `input_ids`, above every token id, or `None` if `input_ids` hold only tokens.

        The vector of an item has the id `first_vector + item`.
        """
        return None

    @property
    def holds_items(self) -> bool:
        """Whether the module has a tensor with one row for each item, in the order of the catalogue."""
        return False

    def prompt_inputs(self, input_ids: torch.Tensor) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """Return the model that generates from a prompt, and the prompt in the form that this model takes.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, ids of tokens and vectors.

        Returns:
            `tuple`: the language model, and keyword arguments for its `forward`: `input_ids`, or `inputs_embeds`
            `[batch, length, hidden_size]`.
        """
        return self.language_model, {"input_ids": input_ids}

    def hidden_states(self, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder without the language-model head.

        Args:
            *args: arguments of the decoder's `forward`.
            **kwargs: keyword arguments of the decoder's `forward`.

        Returns:
            `ModelOutput`: its `last_hidden_state` is `[batch, length, hidden_size]`.
        """
        return self.language_model.base_model(*args, **kwargs)

    def save_wrapper(self, directory: str | Path) -> None:
        """Write the file that `restore_wrapper` reads to an adapter's folder.

        Args:
            directory (`str` or `Path`): folder of the adapter.
        """

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """Raise if the module has a row for each item of another catalogue.

        Args:
            item_ids (`Sequence[str]`): item ids of the catalogue, in row order.

        Raises:
            ValueError: the module's catalogue has another size, other items, or another order.
        """

    def reindex(self, old_item_ids: Sequence[str], new_item_ids: Sequence[str]) -> None:
        """Reorder the rows of the items for another catalogue, in place; it may have new items and lack old ones.

        Args:
            old_item_ids (`Sequence[str]`): item ids of the rows before.
            new_item_ids (`Sequence[str]`): item ids of the rows afterwards.

        Raises:
            ValueError: `old_item_ids` are not the catalogue of the module, see `refuse_other_items`.
        """

    def settings(self) -> dict[str, Any]:
        """Return the entries that describe the module in the settings of a saved recommender.

        Returns:
            `dict[str, Any]`: `settings_key` and its value, as JSON.
        """
        return {}


class _Unwrapped(Wrapping):
    """A language model without a module that wraps it."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        self.language_model = language_model
