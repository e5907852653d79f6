"""What an example can be about - an item, a pair of neighbours, a prefix, an event - for mixtures of tasks."""

from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.data import InteractionData
from genrec_hf.tasks.events import EventLimits, Events
from genrec_hf.tasks.items import Items, Neighbours, Prefixes
from genrec_hf.vocabulary import SidVocabulary


class TaskSource(Protocol):
    """Things that examples are about; `Items`, `Neighbours`, `Prefixes` and `Events` are."""

    def __len__(self) -> int: ...

    def has(self, field: str) -> np.ndarray:
        """`[sources]`, whether each has the field at all."""

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """The field of an entry in words, safe to stand in a prompt."""

    def target(self, entry: int) -> int:
        """The item row that an example about it asks for or tells of; -1 where it is none."""

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes a value: what examples are cached under."""


def make_sources(
    data: InteractionData,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str = "train",
    max_characters: int = 200,
    neighbours: int = 3,
    limits: EventLimits | None = None,
    seed: int = 0,
    vectors: bool = False,
) -> dict[str, TaskSource]:
    """Everything that tasks of the table are about, for `Mixture`.

    Args:
        data (`InteractionData`): prepared.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        split (`str`, defaults to `"train"`): of the events; neighbours are of training events whatever it is.
        max_characters (`int`, defaults to 200): longest item text.
        neighbours (`int`, defaults to 3): similar items for each item.
        limits (`EventLimits`, *optional*): how much of a history a prompt holds.
        seed (`int`, defaults to 0): of candidate lists.
        vectors (`bool`, defaults to `False`): as of `Events`.

    Returns:
        `dict`: `items`, `neighbours`, `prefixes` and `events`.

    Raises:
        ValueError: on semantic ids of other items.
    """
    items = Items(data, vocabulary, tokenizer, max_characters=max_characters)
    return {
        "items": items,
        "neighbours": Neighbours(items, data.training_sequences(), neighbours),
        "prefixes": Prefixes(items, vocabulary),
        "events": Events(data, items, tokenizer, split=split, limits=limits, seed=seed, vectors=vectors),
    }
