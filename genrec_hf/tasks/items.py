"""Items, pairs of neighbours and prefixes of SIDs as what examples are about, with the fields that they have."""

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

# Categories of an item that are read, and characters of each: paths of whole shops are told in fewer.
MOST_CATEGORIES, MOST_CATEGORY = 8, 40


class Items:
    """The items of a catalogue, with `sid`, `title`, `category`, `text` and `query`.

    `query` is what someone might type who looks for the item: its categories, one of them, or the first words of its
    text, drawn anew for each example.

    Args:
        data (`InteractionData`): its item table.
        vocabulary (`SidVocabulary`): the SIDs.
        tokenizer (`PreTrainedTokenizerBase`): extended; tells which outside text would read as a SID or control token.
        max_characters (`int`, defaults to 200): longest item text.
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
        self.categories = [safe_texts(_split(text), tokenizer) for text in item_categories(items)]
        written = items.drop(columns="item_id").fillna("").astype(str).apply(lambda column: column.str.strip() != "")
        described = written.any(axis=1)
        named = written["title"] if "title" in written else described & False
        texts = safe_texts(item_texts(items, max_characters=max_characters), tokenizer)
        self.columns = {
            "sid": vocabulary.text(np.arange(len(items))),
            # A made-up name for an item without one is nothing to learn.
            "title": [
                title * known for title, known in zip(safe_texts(item_titles(items), tokenizer), named, strict=True)
            ],
            "category": [", ".join(each) for each in self.categories],
            "text": [text * known for text, known in zip(texts, described, strict=True)],
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
        """Words that someone might type who looks for the item."""
        words = self.columns["text"][item].split()
        choices = [" ".join(words[: int(rng.integers(3, 9))]).rstrip(".,;:")]
        if self.categories[item]:
            choices += [self.columns["category"][item], str(rng.choice(self.categories[item]))]
        return choices[int(rng.integers(len(choices)))]


class Neighbours:
    """Pairs of items that users chose close together: `sid`, `title` of the one, `other`, `other_title` of the other.

    Args:
        items (`Items`): the catalogue.
        sequences (`Sequence[np.ndarray]`): training sequences of item rows; nothing else tells who goes with whom.
        neighbours (`int`, defaults to 3): of each item, see `similar_items`.
    """

    def __init__(self, items: Items, sequences: Sequence[np.ndarray], neighbours: int = 3) -> None:
        self.items = items
        self.pairs = similar_items(sequences, len(items), neighbours)[["item", "neighbour"]].to_numpy(dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        column = self.pairs[:, 1 if field.startswith("other") else 0]
        return self.items.has(_OTHER.get(field, field))[column]

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """See `TaskSource`."""
        item = self.pairs[entry, 1 if field.startswith("other") else 0]
        return self.items.value(_OTHER.get(field, field), int(item), rng)

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return int(self.pairs[entry, 1])

    @property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        return digest(self.items.fingerprint, self.pairs)


_OTHER = {"other": "sid", "other_title": "title"}


class Prefixes:
    """Prefixes of SIDs that several items have: `prefix`, and `shared`, the categories of more than half of them.

    Args:
        items (`Items`): the catalogue.
        vocabulary (`SidVocabulary`): the SIDs.
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
                    self.shared.append(_in_most([items.categories[row] for row in rows.tolist()]))

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
    """For each item, the items most often within `window` events of it, by cosine of co-occurrence.

    `similarity(i, j) = c_ij / sqrt(n_i n_j)`, with `c_ij` the times `i` and `j` stand at most `window` apart in a
    user's sequence and `n_i` the events of `i`; an item is no neighbour of itself.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows.
        items (`int`): size of the catalogue.
        neighbours (`int`): most neighbours of an item.
        window (`int`, defaults to 5): events.

    Returns:
        `pd.DataFrame`: columns `item`, `neighbour`, `similarity`; the nearest first within an item.
    """
    counts = cooccurrence_counts(sequences, items, window).tocoo()
    events = item_counts(sequences, items)
    table = pd.DataFrame({"item": counts.row, "neighbour": counts.col, "count": counts.data})
    table["similarity"] = table["count"] / np.sqrt(events[table["item"]] * events[table["neighbour"]])
    table = table.sort_values(["item", "similarity", "neighbour"], ascending=[True, False, True])
    return table.groupby("item").head(neighbours)[["item", "neighbour", "similarity"]].reset_index(drop=True)


def _split(categories: str) -> list[str]:
    names = (clean_text(each, MOST_CATEGORY) for each in categories.split(",")[:MOST_CATEGORIES])
    return list(dict.fromkeys(name for name in names if name))


def _in_most(lists: list[list[str]]) -> str:
    """The categories, up to three and the commonest first, that more than half of the lists hold."""
    counts = Counter(category for each in lists for category in dict.fromkeys(each))
    return ", ".join(category for category, count in counts.most_common(3) if 2 * count > len(lists))


def digest(*parts: str | np.ndarray) -> str:
    """Sixteen hex digits that change with any of the parts."""
    return hex_digest(each for part in parts for each in (part, b"\0"))


def safe_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of which nothing reads as a SID or control token, see `escape_added_tokens`."""
    return [escape_added_tokens(text, tokenizer) for text in texts]
