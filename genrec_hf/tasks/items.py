"""Task sources of a catalogue: items, pairs of neighboring items, and prefixes of SIDs, with their fields."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from string import ascii_lowercase

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from genrec_hf.data import InteractionData, item_categories, item_texts, item_titles
from genrec_hf.data.cooccurrence import cooccurrence_counts, item_counts
from genrec_hf.data.item_text import clean_text
from genrec_hf.digests import hex_digest
from genrec_hf.vocabulary import SidVocabulary, escape_added_tokens

# Maximum number of an item's categories in prompts, and of characters of each; longer category paths are truncated.
MAX_CATEGORIES, MAX_CATEGORY_CHARACTERS = 8, 40


class Items:
    """Task source of the items of a catalogue, with the fields `sid`, `title`, `category`, `text` and `query`.

    `query` is a search query for the item: its categories, one of them, or the first words of its text, sampled for
    each example.

    Args:
        data (`InteractionData`): data set; only the item table is read.
        vocabulary (`SidVocabulary`): the SIDs of its items.
        tokenizer (`PreTrainedTokenizerBase`): extended; names the special tokens that are escaped in text from
            outside.
        max_characters (`int`, defaults to 200): maximum length of an item's text.

    Raises:
        ValueError: the semantic ids are of other items than the data.
    """

    def __init__(
        self,
        data: InteractionData,
        vocabulary: SidVocabulary,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_characters: int = 200,
    ) -> None:
        vocabulary.semantic_ids.refuse_other_items(data.item_ids)
        items = data.items
        self.begin = vocabulary.begin
        self.categories = [safe_texts(_split_categories(text), tokenizer) for text in item_categories(items)]
        filled = items.drop(columns="item_id").fillna("").astype(str).apply(lambda column: column.str.strip() != "")
        has_text = filled.any(axis=1)
        has_title = filled["title"] if "title" in filled else has_text & False
        texts = safe_texts(item_texts(items, max_characters=max_characters), tokenizer)
        self.columns = {
            "sid": vocabulary.text(np.arange(len(items))),
            # The placeholder name of an item without a title is not a training target.
            "title": [
                title * known
                for title, known in zip(safe_texts(item_titles(items), tokenizer), has_title, strict=True)
            ],
            "category": [", ".join(categories) for categories in self.categories],
            "text": [text * known for text, known in zip(texts, has_text, strict=True)],
        }

    def __len__(self) -> int:
        return len(self.columns["sid"])

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        if field == "query":
            return self.has("text")
        return np.array([bool(value) for value in self.columns.get(field, [""] * len(self))])

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """See `TaskSource`."""
        return self.query(entry, rng) if field == "query" else self.columns[field][entry]

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return entry

    @cached_property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        return digest(*(text for column in self.columns.values() for text in column))

    def query(self, item: int, rng: np.random.Generator) -> str:
        """Sample a search query for an item.

        Args:
            item (`int`): item row.
            rng (`np.random.Generator`): samples the query.

        Returns:
            `str`: its categories, one of them, or the first 3 to 8 words of its text.
        """
        words = self.columns["text"][item].split()
        choices = [" ".join(words[: int(rng.integers(3, 9))]).rstrip(".,;:")]
        if self.categories[item]:
            choices += [self.columns["category"][item], str(rng.choice(self.categories[item]))]
        return choices[int(rng.integers(len(choices)))]


class Neighbours:
    """Task source of pairs of items that users chose close together.

    Fields: `sid` and `title` of the first item, `other` (SID) and `other_title` of the second.

    Args:
        items (`Items`): the catalogue.
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, the only data that pairs are made from.
        neighbours (`int`, defaults to 3): maximum number of pairs of each item, see `similar_items`.
    """

    def __init__(self, items: Items, sequences: Sequence[np.ndarray], neighbours: int = 3) -> None:
        self.items = items
        self.pairs = similar_items(sequences, len(items), neighbours)[["item", "neighbour"]].to_numpy(dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        column = self.pairs[:, 1 if field.startswith("other") else 0]
        return self.items.has(_FIELD_OF_NEIGHBOUR.get(field, field))[column]

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """See `TaskSource`."""
        item = self.pairs[entry, 1 if field.startswith("other") else 0]
        return self.items.value(_FIELD_OF_NEIGHBOUR.get(field, field), int(item), rng)

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return int(self.pairs[entry, 1])

    @property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        return digest(self.items.fingerprint, self.pairs)


_FIELD_OF_NEIGHBOUR = {"other": "sid", "other_title": "title"}


class Prefixes:
    """Task source of the prefixes of SIDs that several items share.

    Fields: `prefix`, and `shared`, the categories of more than half of the items with the prefix.

    Args:
        items (`Items`): the catalogue.
        vocabulary (`SidVocabulary`): the SIDs of its items.
    """

    def __init__(self, items: Items, vocabulary: SidVocabulary) -> None:
        self.texts: list[str] = []
        self.shared: list[str] = []
        codes = vocabulary.semantic_ids.codes
        for length in range(1, codes.shape[1]):
            prefixes, group = np.unique(codes[:, :length], axis=0, return_inverse=True)
            members = np.split(np.argsort(group.ravel(), kind="stable"), np.cumsum(np.bincount(group.ravel()))[:-1])
            for prefix, rows in zip(prefixes.tolist(), members, strict=True):
                if len(rows) > 1:
                    tokens = "".join(f"<s_{ascii_lowercase[level]}_{code}>" for level, code in enumerate(prefix))
                    self.texts.append(vocabulary.begin + tokens)
                    self.shared.append(_majority_categories([items.categories[row] for row in rows.tolist()]))

    def __len__(self) -> int:
        return len(self.texts)

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        column = {"prefix": self.texts, "shared": self.shared}.get(field, [""] * len(self))
        return np.array([bool(value) for value in column], dtype=bool)

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """See `TaskSource`."""
        return (self.texts if field == "prefix" else self.shared)[entry]

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return -1

    @property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        return digest(*self.texts, *self.shared)


def similar_items(sequences: Sequence[np.ndarray], items: int, neighbours: int, *, window: int = 5) -> pd.DataFrame:
    """Compute the nearest neighbors of each item by the cosine of co-occurrence.

    `similarity(i, j) = c_ij / sqrt(n_i n_j)`, where `c_ij` is the number of times that `i` and `j` are at most
    `window` events apart in a user's sequence, and `n_i` the number of events of `i`. An item is not a neighbor of
    itself.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows.
        items (`int`): size of the catalogue.
        neighbours (`int`): maximum number of neighbors of an item.
        window (`int`, defaults to 5): maximum distance of two events, in events.

    Returns:
        `pd.DataFrame`: columns `item`, `neighbour`, `similarity`; the neighbors of an item in descending similarity.
    """
    counts = cooccurrence_counts(sequences, items, window).tocoo()
    events = item_counts(sequences, items)
    table = pd.DataFrame({"item": counts.row, "neighbour": counts.col, "count": counts.data})
    table["similarity"] = table["count"] / np.sqrt(events[table["item"]] * events[table["neighbour"]])
    table = table.sort_values(["item", "similarity", "neighbour"], ascending=[True, False, True])
    return table.groupby("item").head(neighbours)[["item", "neighbour", "similarity"]].reset_index(drop=True)


def _split_categories(categories: str) -> list[str]:
    names = (clean_text(name, MAX_CATEGORY_CHARACTERS) for name in categories.split(",")[:MAX_CATEGORIES])
    return list(dict.fromkeys(name for name in names if name))


def _majority_categories(lists: list[list[str]]) -> str:
    """Join the categories that more than half of the lists hold: at most three, the most frequent first."""
    counts = Counter(category for categories in lists for category in dict.fromkeys(categories))
    return ", ".join(category for category, count in counts.most_common(3) if 2 * count > len(lists))


def digest(*parts: str | np.ndarray) -> str:
    """Return a digest of the parts and of the boundaries between them.

    Args:
        parts (`str` or `np.ndarray`): content, in order.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    return hex_digest(data for part in parts for data in (part, b"\0"))


def safe_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Escape the special tokens in texts from outside, see `escape_added_tokens`.

    Args:
        texts (`Sequence[str]`): text from outside.
        tokenizer (`PreTrainedTokenizerBase`): names the special tokens.

    Returns:
        `list[str]`: texts that are never encoded as SID or control tokens.
    """
    return [escape_added_tokens(text, tokenizer) for text in texts]
