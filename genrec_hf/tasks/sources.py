"""Sources of task examples: items, pairs of neighbors, prefixes of SIDs, and events."""

from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from genrec_hf.data import InteractionData
from genrec_hf.tasks.events import EventLimits, Events
from genrec_hf.tasks.items import Items, Neighbours, Prefixes
from genrec_hf.vocabulary import SidVocabulary


class TaskSource(Protocol):
    """Protocol of a sequence of entries that task examples are made from, one entry for each example.

    An entry is a row of the source, such as an item or an event, and has named fields, which templates refer to.
    `Items`, `Neighbours`, `Prefixes` and `Events` implement the protocol.
    """

    def __len__(self) -> int: ...

    def has(self, field: str) -> np.ndarray:
        """Return which entries have a field.

        Args:
            field (`str`): name of the field; none has an unknown one.

        Returns:
            `np.ndarray`: `[entries]`, bool.
        """

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """Return a field of an entry as text that is safe in a prompt.

        Args:
            field (`str`): name of a field that the entry has.
            entry (`int`): row of the source.
            rng (`np.random.Generator`): for fields with a random part.

        Returns:
            `str`: the text; outside text in it cannot be encoded as SID or control tokens.
        """

    def target(self, entry: int) -> int:
        """Return the item row that an example of the entry asks for or describes.

        Args:
            entry (`int`): row of the source.

        Returns:
            `int`: an item row, or `-1` for none.
        """

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the values depend on; the key under which examples are cached."""


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
    """Return the sources of all tasks of the table, for `Mixture`.

    Args:
        data (`InteractionData`): the data set.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        split (`str`, defaults to `"train"`): split of the events; neighbors always come from training events.
        max_characters (`int`, defaults to 200): maximum length of an item's text.
        neighbours (`int`, defaults to 3): maximum number of similar items for each item.
        limits (`EventLimits`, *optional*): maximum lengths of the lists in prompts.
        seed (`int`, defaults to 0): seed of the candidate lists.
        vectors (`bool`, defaults to `False`): see `Events`.

    Returns:
        `dict[str, TaskSource]`: `items`, `neighbours`, `prefixes` and `events`.

    Raises:
        ValueError: the semantic ids are of other items than the data.
    """
    items = Items(data, vocabulary, tokenizer, max_characters=max_characters)
    return {
        "items": items,
        "neighbours": Neighbours(items, data.training_sequences(), neighbours),
        "prefixes": Prefixes(items, vocabulary),
        "events": Events(data, items, tokenizer, split=split, limits=limits, seed=seed, vectors=vectors),
    }
