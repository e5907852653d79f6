"""Events with what came before them as what examples are about, with the fields that they have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from genrec_hf.checks import check_least
from genrec_hf.data import InteractionData
from genrec_hf.data.dataset import draw_candidates
from genrec_hf.data.item_text import clean_text
from genrec_hf.data.times import units_per_second
from genrec_hf.tasks.instructions import Instructions
from genrec_hf.tasks.items import Items, digest, safe_texts
from genrec_hf.tasks.prompts import vector_place

# Longest title in a list of titles, characters: a prompt of ten stays short.
LISTED_TITLE = 80
# Ratings from here on count as liked; on scales of five, as in P5's data.
LIKED = 4
# Fields of an event that come from a column of the interactions.
TOLD = {
    "rated_history": "rating",
    "stars": "rating",
    "liked": "rating",
    "review": "review",
    "headline": "headline",
}


@dataclass(frozen=True)
class EventLimits:
    """How much of a history a prompt holds.

    Args:
        max_history (`int`, defaults to 40): SIDs; the oldest are left out whole.
        max_titles (`int`, defaults to 10): titles.
        candidates (`int`, defaults to 20): items of a candidate list, the target among them.
        next_count (`int`, defaults to 3): items of a list of next items.
    """

    max_history: int = 40
    max_titles: int = 10
    candidates: int = 20
    next_count: int = 3

    def __post_init__(self) -> None:
        check_least(1, max_history=self.max_history, max_titles=self.max_titles)
        check_least(2, candidates=self.candidates, next_count=self.next_count)


class Events:
    """Events of a split with what came before them; the event's item is the target.

    Fields of the target: those of `Items`, `rest` (its SID without the begin marker, which ends a prompt as `begin`),
    and where the data has them `stars`, `liked`, `review` and `headline`. Fields of the history: `history` (SIDs),
    `history_titles`, `rated_history`, `timed_history`, `preference`; then `candidates`, `candidate_titles`, `pair`,
    `next_sids` with `count`, `query`, and `instruction` (`genrec_hf.tasks.instructions`).

    Candidate lists are drawn by (seed, user, place of the event in the user's sequence) from the items that are not in
    the history, never by what the answer is like; the place of the target in a list is drawn likewise. Held-out events
    have the lists of `EvaluationCases.candidates`.

    Args:
        data (`InteractionData`): the events.
        items (`Items`): the catalogue.
        tokenizer (`PreTrainedTokenizerBase`): extended, makes reviews safe.
        split (`str`, defaults to `"train"`): histories of training events hold training events alone; those of
            `"validation"` and `"test"` hold everything before the event.
        limits (`EventLimits`, *optional*): how much a prompt holds.
        seed (`int`, defaults to 0): of candidate lists.
        vectors (`bool`, defaults to `False`): put the place of its collaborative vector behind every item that a
            history or a list to choose from names, for a model with collaborative vectors.
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
        # A list of next items ends with the split: training never looks into what is held out.
        inside = np.flatnonzero(table["split"].to_numpy() != split)
        following = np.searchsorted(inside, self.rows)
        self.ends = np.minimum(ends, np.append(inside, len(table))[following])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cut(self) -> int:
        """Events whose history is longer than `max_history`, and is cut to its last items."""
        return int((self.rows - self.starts > self.limits.max_history).sum())

    def has(self, field: str) -> np.ndarray:
        """See `TaskSource`."""
        if field in ("history", "begin", "rest", "count", "candidates", "pair", "instruction"):
            return np.ones(len(self), dtype=bool)
        if field in TOLD:
            name = TOLD[field]
            known = ~pd.isna(self.extra[name]) if name in self.extra else np.zeros(len(self.item), dtype=bool)
            if name in self.extra and name != "rating":
                known &= np.array([bool(str(text).strip()) for text in self.extra[name]])
            return known[self.rows]
        if field == "timed_history":
            # A time of 0 beside dates is not known, and positions say nothing of days.
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
        written = getattr(self, f"_{field}", None)
        if written is not None:
            return str(written(entry, rng))
        return self.items.value(field, self.target(entry), rng)

    def target(self, entry: int) -> int:
        """See `TaskSource`."""
        return int(self.item[self.rows[entry]])

    @property
    def fingerprint(self) -> str:
        """See `TaskSource`."""
        said = [text for column in self.extra.values() for text in map(str, column)]
        how = repr((self.limits, self.seed, self.vectors))
        return digest(self.items.fingerprint, how, self.rows, self.item, self.time, *said)

    def history(self, entry: int, most: int | None = None) -> np.ndarray:
        """Item rows before the event, oldest first, at most `most` (defaults to all)."""
        row, start = self.rows[entry], self.starts[entry]
        return self.item[start if most is None else max(start, row - most) : row]

    def candidates(self, entry: int, count: int | None = None) -> np.ndarray:
        """Item rows `[count]` to choose from, the target among them; fewer when the catalogue holds fewer."""
        place = int(self.rows[entry] - self.starts[entry])
        rng = np.random.default_rng([self.seed, int(self.users[entry]), place])
        wanted = count or self.limits.candidates
        return draw_candidates(self.history(entry), self.target(entry), len(self.items), count=wanted, rng=rng)

    @cached_property
    def instructions(self) -> Instructions:
        """What users may instruction for; what is popular is counted in the training events alone."""
        rows = self.item[self.train]
        return Instructions(self.items.categories, np.bincount(rows, minlength=len(self.items)))

    def _instruction(self, entry: int, rng: np.random.Generator) -> str:
        return self.instructions.of_event(self.history(entry), self.target(entry), rng).words

    def _begin(self, entry: int, rng: np.random.Generator) -> str:
        return self.items.begin

    def _rest(self, entry: int, rng: np.random.Generator) -> str:
        return self._sids([self.target(entry)])[0].removeprefix(self.items.begin)

    def _history(self, entry: int, rng: np.random.Generator) -> str:
        return "".join(self._named(self.history(entry, self.limits.max_history)))

    def _history_titles(self, entry: int, rng: np.random.Generator) -> str:
        return self._list_of_titles(self.history(entry, self.limits.max_titles))

    def _rated_history(self, entry: int, rng: np.random.Generator) -> str:
        sids = self._named(self.history(entry, self.limits.max_history))
        ratings = self.extra["rating"][self.rows[entry] - len(sids) : self.rows[entry]]
        told = zip(sids, ratings, strict=True)
        return ", ".join(sid if np.isnan(rating) else f"{sid} {rating:g}" for sid, rating in told)

    def _timed_history(self, entry: int, rng: np.random.Generator) -> str:
        sids, row = self._named(self.history(entry, self.limits.max_history)), self.rows[entry]
        ages = (self.time[row] - self.time[row - len(sids) : row]) / units_per_second(self.time[row])
        return ", ".join(f"{sid} {_age(age)}" for sid, age in zip(sids, ages, strict=True))

    def _preference(self, entry: int, rng: np.random.Generator) -> str:
        history = self.history(entry, self.limits.max_history).tolist()
        often = Counter(category for item in history for category in self.items.categories[item]).most_common(3)
        lately = self.items.categories[history[-1]][:1]
        text = ", ".join(category for category, _ in often) or "nothing in particular"
        return text + (f", of late {lately[0]}" if lately and lately[0] not in dict(often) else "")

    def _candidates(self, entry: int, rng: np.random.Generator) -> str:
        return ", ".join(self._named(self.candidates(entry)))

    def candidate_titles(self, entry: int) -> list[str]:
        """Titles of `candidates`, as prompts show them."""
        return self._titles(self.candidates(entry))

    def _candidate_titles(self, entry: int, rng: np.random.Generator) -> str:
        return self._list_of_titles(self.candidates(entry), whole=True)

    def _pair(self, entry: int, rng: np.random.Generator) -> str:
        return " and ".join(self._named(self.candidates(entry, 2)))

    def _next_sids(self, entry: int, rng: np.random.Generator) -> str:
        row = self.rows[entry]
        return "".join(self._sids(self.item[row : row + self.limits.next_count]))

    def _count(self, entry: int, rng: np.random.Generator) -> str:
        return str(self.limits.next_count)

    def _stars(self, entry: int, rng: np.random.Generator) -> str:
        return f"{self.extra['rating'][self.rows[entry]]:g}"

    def _liked(self, entry: int, rng: np.random.Generator) -> str:
        return "yes" if self.extra["rating"][self.rows[entry]] >= LIKED else "no"

    def _review(self, entry: int, rng: np.random.Generator) -> str:
        return self._said("review", entry, 300)

    def _headline(self, entry: int, rng: np.random.Generator) -> str:
        return self._said("headline", entry, 100)

    def _said(self, column: str, entry: int, most: int) -> str:
        return safe_texts([clean_text(str(self.extra[column][self.rows[entry]]), most)], self.tokenizer)[0]

    def _sids(self, items: Sequence[int] | np.ndarray) -> list[str]:
        sids = self.items.columns["sid"]
        return [sids[item] for item in items]

    def _named(self, items: np.ndarray) -> list[str]:
        """SIDs in a prompt, each with its vector's place where there are vectors."""
        return [sid + self._place(item) for sid, item in zip(self._sids(items), items.tolist(), strict=True)]

    def _place(self, item: int) -> str:
        return vector_place(item) if self.vectors else ""

    def _titles(self, items: np.ndarray) -> list[str]:
        return [self.items.columns["title"][item] or "an item without a title" for item in items.tolist()]

    def _list_of_titles(self, items: np.ndarray, whole: bool = False) -> str:
        titles = self._titles(items)
        shown = titles if whole else [clean_text(title, LISTED_TITLE) for title in titles]
        return "\n".join(f"- {title}{self._place(item)}" for title, item in zip(shown, items.tolist(), strict=True))


def _age(seconds: float) -> str:
    """Seconds in words, one unit.

    Example:
        >>> [_age(seconds) for seconds in (0, 90_000, 3_000_000, 20_000_000, 70_000_000)]
        ['today', '1 day', '4 weeks', '7 months', '2 years']
    """
    days = int(seconds // 86_400)
    for most, length, unit in ((1, 1, ""), (14, 1, "day"), (70, 7, "week"), (730, 30, "month")):
        if days < most:
            count = days // length
            return "today" if not unit else f"{count} {unit}{'s' * (count > 1)}"
    return f"{days // 365} years"
