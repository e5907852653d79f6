"""Task source of events: the target item of each, the history before it, and their fields."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from genrec_hf.checks import check_least
from genrec_hf.data import InteractionData
from genrec_hf.data.dataset import sample_candidates
from genrec_hf.data.item_text import clean_text
from genrec_hf.data.times import units_per_second
from genrec_hf.tasks.instructions import Instructions
from genrec_hf.tasks.items import Items, digest, safe_texts
from genrec_hf.tasks.prompts import vector_placeholder

# Maximum length of a title in a list of titles, in characters, so that prompts with ten titles stay short.
MAX_TITLE_IN_LIST = 80
# The lowest rating that counts as liked, on a scale of five, as in the data of P5.
MIN_LIKED_RATING = 4
# Fields of an event that need a column of the interactions, and that column.
COLUMN_OF_FIELD = {
    "rated_history": "rating",
    "stars": "rating",
    "liked": "rating",
    "review": "review",
    "headline": "headline",
}


@dataclass(frozen=True)
class EventLimits:
    """Maximum lengths of the lists in prompts.

    Args:
        max_history (`int`, defaults to 40): maximum number of SIDs of a history; the most recent items are kept.
        max_titles (`int`, defaults to 10): maximum number of titles of a history.
        candidates (`int`, defaults to 20): number of items in a candidate list, the target included.
        next_count (`int`, defaults to 3): number of items in a list of next items.

    Raises:
        ValueError: a maximum is below 1, or `candidates` or `next_count` below 2.
    """

    max_history: int = 40
    max_titles: int = 10
    candidates: int = 20
    next_count: int = 3

    def __post_init__(self) -> None:
        check_least(1, max_history=self.max_history, max_titles=self.max_titles)
        check_least(2, candidates=self.candidates, next_count=self.next_count)


class Events:
    """Task source of the events of a split that have a history; the item of an event is its target.

    Fields of the target: those of `Items`, `rest` (its SID without the begin marker, which ends a prompt as `begin`),
    and where the data has them `stars`, `liked`, `review` and `headline`. Fields of the history: `history` (SIDs),
    `history_titles`, `rated_history`, `timed_history`, `preference`. Others: `candidates`, `candidate_titles`, `pair`,
    `next_sids` with `count`, `query`, and `instruction` (`genrec_hf.tasks.instructions`).

    Candidate lists are sampled with the seed (seed, user, position of the event in the user's sequence) from the items
    that are not in the history, independently of the properties of the target; the position of the target in a list is
    sampled too. Held-out events have the lists of `EvaluationCases.candidates`.

    Args:
        data (`InteractionData`): the data set.
        items (`Items`): its items as a task source.
        tokenizer (`PreTrainedTokenizerBase`): extended; names the special tokens that are escaped in reviews.
        split (`str`, defaults to `"train"`): histories of training events hold training events only; those of
            `"validation"` and `"test"` hold all earlier events.
        limits (`EventLimits`, *optional*): maximum lengths of the lists in prompts.
        seed (`int`, defaults to 0): seed of the candidate lists.
        vectors (`bool`, defaults to `False`): append the placeholder of its collaborative vector to every item of a
            history or a candidate list, for a model that reads collaborative vectors.
    """

    def __init__(
        self,
        data: InteractionData,
        items: Items,
        tokenizer: PreTrainedTokenizerBase,
        *,
        split: str = "train",
        limits: EventLimits | None = None,
        seed: int = 0,
        vectors: bool = False,
    ) -> None:
        self.items, self.tokenizer, self.split, self.limits = items, tokenizer, split, limits or EventLimits()
        self.vectors = vectors
        self.seed = seed
        table = data.interactions
        user = pd.factorize(table["user_id"])[0]
        self.item = pd.Index(data.items["item_id"]).get_indexer(table["item_id"]).astype(np.int64)
        self.time = table["timestamp"].to_numpy()
        self.time_unit = data.info.get("times", {}).get("unit")
        self.extra = {name: table[name].to_numpy() for name in ("rating", "review", "headline") if name in table}
        starts = np.searchsorted(user, user, side="left")
        self.train = table["split"].to_numpy() == "train"
        rows = np.arange(len(table))
        self.rows = rows[(table["split"].to_numpy() == split) & (rows > starts)]
        self.users, self.starts = user[self.rows], starts[self.rows]
        ends = np.searchsorted(user, user, side="right")[self.rows]
        # A list of next items ends with the split, so that training targets hold no held-out event.
        other_split = np.flatnonzero(table["split"].to_numpy() != split)
        following = np.searchsorted(other_split, self.rows)
        self.ends = np.minimum(ends, np.append(other_split, len(table))[following])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def truncated(self) -> int:
        """Number of events whose history is longer than `max_history`."""
        return int((self.rows - self.starts > self.limits.max_history).sum())

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        if field in ("history", "begin", "rest", "count", "candidates", "pair", "instruction"):
            return np.ones(len(self), dtype=bool)
        if field in COLUMN_OF_FIELD:
            name = COLUMN_OF_FIELD[field]
            known = ~pd.isna(self.extra[name]) if name in self.extra else np.zeros(len(self.item), dtype=bool)
            if name in self.extra and name != "rating":
                known &= np.array([bool(str(text).strip()) for text in self.extra[name]])
            return known[self.rows]
        if field == "timed_history":
            # Among dates, a time of 0 means unknown; positions are no dates.
            known = np.full(len(self), self.time_unit not in ("positions", "unknown"))
            known &= (self.time[self.starts] != 0) | (self.time_unit is None)
            return known & (self.time[self.rows] > self.time[self.starts])
        if field == "next_sids":
            return self.ends - self.rows >= self.limits.next_count
        if field in ("history_titles", "candidate_titles"):
            return np.full(len(self), bool(self.items.has("title").any()))
        if field == "preference":
            return np.full(len(self), bool(self.items.has("category").any()))
        return self.items.has(field)[self.item[self.rows]]

    def value(self, field: str, entry: int, rng: np.random.Generator) -> str:
        """See `TaskSource`."""
        method = getattr(self, f"_{field}", None)
        if method is not None:
            return str(method(entry, rng))
        return self.items.value(field, self.target(entry), rng)

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return int(self.item[self.rows[entry]])

    @property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        texts = [text for column in self.extra.values() for text in map(str, column)]
        options = repr((self.limits, self.seed, self.vectors))
        return digest(self.items.fingerprint, options, self.rows, self.item, self.time, *texts)

    def history(self, entry: int, max_items: int | None = None) -> np.ndarray:
        """Return the items before an event.

        Args:
            entry (`int`): row of this source.
            max_items (`int`, *optional*): number of most recent items; all when not given.

        Returns:
            `np.ndarray`: item rows, oldest first.
        """
        row, start = self.rows[entry], self.starts[entry]
        return self.item[start if max_items is None else max(start, row - max_items) : row]

    def candidates(self, entry: int, count: int | None = None) -> np.ndarray:
        """Return the items that an event's candidate list has.

        Args:
            entry (`int`): row of this source.
            count (`int`, *optional*): number of candidates, the target included; `limits.candidates` when not given.

        Returns:
            `np.ndarray`: `[count]`, item rows, or fewer in a catalogue with fewer items outside the history.
        """
        position = int(self.rows[entry] - self.starts[entry])
        rng = np.random.default_rng([self.seed, int(self.users[entry]), position])
        count = count or self.limits.candidates
        return sample_candidates(self.history(entry), self.target(entry), len(self.items), count=count, rng=rng)

    @cached_property
    def instructions(self) -> Instructions:
        """Instructions for this catalogue, with the popularity of items in the training events."""
        rows = self.item[self.train]
        return Instructions(self.items.categories, np.bincount(rows, minlength=len(self.items)))

    def _instruction(self, entry: int, rng: np.random.Generator) -> str:
        return self.instructions.for_event(self.history(entry), self.target(entry), rng).text

    def _begin(self, entry: int, rng: np.random.Generator) -> str:
        return self.items.begin

    def _rest(self, entry: int, rng: np.random.Generator) -> str:
        return self._sids([self.target(entry)])[0].removeprefix(self.items.begin)

    def _history(self, entry: int, rng: np.random.Generator) -> str:
        return "".join(self._items_in_prompt(self.history(entry, self.limits.max_history)))

    def _history_titles(self, entry: int, rng: np.random.Generator) -> str:
        return self._list_of_titles(self.history(entry, self.limits.max_titles))

    def _rated_history(self, entry: int, rng: np.random.Generator) -> str:
        sids = self._items_in_prompt(self.history(entry, self.limits.max_history))
        ratings = self.extra["rating"][self.rows[entry] - len(sids) : self.rows[entry]]
        rated = zip(sids, ratings, strict=True)
        return ", ".join(sid if np.isnan(rating) else f"{sid} {rating:g}" for sid, rating in rated)

    def _timed_history(self, entry: int, rng: np.random.Generator) -> str:
        sids, row = self._items_in_prompt(self.history(entry, self.limits.max_history)), self.rows[entry]
        ages = (self.time[row] - self.time[row - len(sids) : row]) / units_per_second(self.time[row])
        return ", ".join(f"{sid} {_age(age)}" for sid, age in zip(sids, ages, strict=True))

    def _preference(self, entry: int, rng: np.random.Generator) -> str:
        history = self.history(entry, self.limits.max_history).tolist()
        frequent = Counter(category for item in history for category in self.items.categories[item]).most_common(3)
        latest = self.items.categories[history[-1]][:1]
        text = ", ".join(category for category, _ in frequent) or "nothing in particular"
        return text + (f", of late {latest[0]}" if latest and latest[0] not in dict(frequent) else "")

    def _candidates(self, entry: int, rng: np.random.Generator) -> str:
        return ", ".join(self._items_in_prompt(self.candidates(entry)))

    def candidate_titles(self, entry: int) -> list[str]:
        """Return the titles of an event's `candidates` as they are in prompts.

        Args:
            entry (`int`): row of this source.

        Returns:
            `list[str]`: titles in the order of the candidates.
        """
        return self._titles(self.candidates(entry))

    def _candidate_titles(self, entry: int, rng: np.random.Generator) -> str:
        return self._list_of_titles(self.candidates(entry), truncate=False)

    def _pair(self, entry: int, rng: np.random.Generator) -> str:
        return " and ".join(self._items_in_prompt(self.candidates(entry, 2)))

    def _next_sids(self, entry: int, rng: np.random.Generator) -> str:
        row = self.rows[entry]
        return "".join(self._sids(self.item[row : row + self.limits.next_count]))

    def _count(self, entry: int, rng: np.random.Generator) -> str:
        return str(self.limits.next_count)

    def _stars(self, entry: int, rng: np.random.Generator) -> str:
        return f"{self.extra['rating'][self.rows[entry]]:g}"

    def _liked(self, entry: int, rng: np.random.Generator) -> str:
        return "yes" if self.extra["rating"][self.rows[entry]] >= MIN_LIKED_RATING else "no"

    def _review(self, entry: int, rng: np.random.Generator) -> str:
        return self._user_text("review", entry, 300)

    def _headline(self, entry: int, rng: np.random.Generator) -> str:
        return self._user_text("headline", entry, 100)

    def _user_text(self, column: str, entry: int, max_characters: int) -> str:
        return safe_texts([clean_text(str(self.extra[column][self.rows[entry]]), max_characters)], self.tokenizer)[0]

    def _sids(self, items: Sequence[int] | np.ndarray) -> list[str]:
        sids = self.items.columns["sid"]
        return [sids[item] for item in items]

    def _items_in_prompt(self, items: np.ndarray) -> list[str]:
        """Return the SIDs of items, each with the placeholder of its vector if `vectors` is set."""
        return [sid + self._placeholder(item) for sid, item in zip(self._sids(items), items.tolist(), strict=True)]

    def _placeholder(self, item: int) -> str:
        return vector_placeholder(item) if self.vectors else ""

    def _titles(self, items: np.ndarray) -> list[str]:
        return [self.items.columns["title"][item] or "an item without a title" for item in items.tolist()]

    def _list_of_titles(self, items: np.ndarray, truncate: bool = True) -> str:
        titles = self._titles(items)
        if truncate:
            titles = [clean_text(title, MAX_TITLE_IN_LIST) for title in titles]
        pairs = zip(titles, items.tolist(), strict=True)
        return "\n".join(f"- {title}{self._placeholder(item)}" for title, item in pairs)


def _age(seconds: float) -> str:
    """Format a number of seconds in words, in one unit.

    Example:
        >>> [_age(seconds) for seconds in (0, 90_000, 3_000_000, 20_000_000, 70_000_000)]
        ['today', '1 day', '4 weeks', '7 months', '2 years']
    """
    days = int(seconds // 86_400)
    for limit, length, unit in ((1, 1, ""), (14, 1, "day"), (70, 7, "week"), (730, 30, "month")):
        if days < limit:
            count = days // length
            return "today" if not unit else f"{count} {unit}{'s' * (count > 1)}"
    return f"{days // 365} years"
