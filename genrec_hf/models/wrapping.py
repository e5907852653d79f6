"""What stands around a causal language model, such as the projector of LLaRA: the protocol, and how to find it.

Everything that trains, asks, saves or loads a model calls `wrapping_of(model)` and uses what it says. A new wrapper is
one file with a subclass of `WrappedLM`, named in `genrec_hf.models.WRAPPINGS`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from genrec_hf.repositories import naming_broken_files


def unwrap(model: Any) -> PreTrainedModel:
    """The causal model below an adapter, or the model itself where it has none."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def wrapping_of(model: Any) -> "Wrapping":
    """What stands around the language model in a `PeftModel` or `PreTrainedModel`; without any, a neutral one."""
    network = unwrap(model)
    return network if isinstance(network, Wrapping) else _Bare(network)


def restore_around(language_model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """A language model in the wrapper whose file stands beside the adapter in a folder; as it is where none does.

    Raises:
        ValueError: the file is broken, or holds something else than was saved.
    """
    from genrec_hf.models import WRAPPINGS  # here, as the wrappers are made with this module

    for kind in WRAPPINGS:
        if (directory / kind.saved_file).is_file():
            with naming_broken_files(directory):
                return kind.restore_around(language_model, directory)
    return language_model


class Wrapping:
    """What a module around a causal language model contributes. These defaults contribute nothing.

    Attributes:
        language_model (`PreTrainedModel`): the model inside.
        saved_modules (`tuple`): names of modules that train whole beside LoRA and are saved in the adapter; no other
            module's name ends in one of them, or PEFT takes that for it.
        first_vector (`int`, *optional*): id that stands in prompts for a vector of item 0, above every token;
            `first_vector + item` for another. `None` where prompts hold tokens alone.
        holds_items (`bool`): whether something is held for each item, in the order of the catalogue.
    """

    language_model: PreTrainedModel
    saved_modules: ClassVar[tuple[str, ...]] = ()

    @property
    def first_vector(self) -> int | None:
        """See the class."""
        return None

    @property
    def holds_items(self) -> bool:
        """See the class."""
        return False

    def prompt_inputs(self, input_ids: torch.Tensor) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """The model that reads a prompt and what is generated behind it, and the prompt as that model takes it.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, as the wrapped model reads them.

        Returns:
            `tuple`: the language model, and `input_ids` or `inputs_embeds`.
        """
        return self.language_model, {"input_ids": input_ids}

    def hidden_states(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the decoder below the head, whose `last_hidden_state` is `[batch, length, hidden_size]`."""
        return self.language_model.base_model(*args, **kwargs)

    def save_beside(self, directory: str | Path) -> None:
        """Write what is needed beside the adapter in a folder to make this wrapper again."""

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """Raise where this wrapper holds something for each item, and not for these.

        Raises:
            ValueError: the catalogue has another size, other items, or another order.
        """

    def reindex(self, before: Sequence[str], now: Sequence[str]) -> None:
        """Put what is held for each item in the order of another catalogue, which may have new items.

        Args:
            before (`Sequence[str]`): outside ids of the rows as they are.
            now (`Sequence[str]`): outside ids of the rows as they are to be.

        Raises:
            ValueError: as `refuse_other_items`, of the ids before.
        """

    def settings(self) -> dict[str, Any]:
        """What the settings of a saved recommender say of this wrapper, by `settings_key`."""
        return {}


class _Bare(Wrapping):
    """A language model with nothing around it."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        self.language_model = language_model
