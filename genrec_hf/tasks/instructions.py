"""Instructions in words for the next item, made from item attributes, so that instruction_following can be counted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What a user may say, by kind of instruction; `{argument}` is a category.
PHRASES = {
    "in_category": ("something in {argument}", "I am looking for {argument}", "{argument}, please"),
    "not_in_category": ("anything but {argument}", "nothing in {argument}, please", "I have had enough of {argument}"),
    "popular": ("something that many people choose", "something popular"),
    "niche": ("something that few people know", "a hidden gem"),
    "different": ("something unlike my last items", "a change from what I had lately"),
}
# Items that "my last items" stands for.
LAST = 3


@dataclass(frozen=True)
class Instruction:
    """An instruction: its kind, its category if it names one, and the words."""

    kind: str
    argument: str
    words: str


class Instructions:
    """Makes instructions and tells which items fulfil them.

    - `in_category`, `not_in_category`: the item is, or is not, of that category;
    - `popular`: it is one of the most chosen items that make up half of all training events; `niche`: it is not;
    - `different`: it shares no category with the last three items of the history.

    After the instruction control of GLIDE; the kinds of instruction, their words and how they are counted are ours.

    Args:
        categories (`Sequence[Sequence[str]]`): `[items]`, the categories of each item, safe to stand in a prompt.
        events (`np.ndarray`): `[items]`, training events of each item.
    """

    def __init__(self, categories: Sequence[Sequence[str]], events: np.ndarray) -> None:
        self.names = sorted({name for each in categories for name in each})
        column = {name: place for place, name in enumerate(self.names)}
        self.member = np.zeros((len(categories), len(self.names)), dtype=bool)
        for item, each in enumerate(categories):
            self.member[item, [column[name] for name in each]] = True
        order = np.argsort(-events, kind="stable")
        share = np.cumsum(events[order]) / max(1, events.sum())
        self.popular = np.zeros(len(categories), dtype=bool)
        self.popular[order[: int(np.searchsorted(share, 0.5)) + 1]] = True

    def fulfilled(self, instruction: Instruction, history: np.ndarray, items: np.ndarray | None = None) -> np.ndarray:
        """`[items]`, which of `items` (rows, by default all) do what the instruction says, after `history` (oldest first)."""
        popular, member = (each if items is None else each[items] for each in (self.popular, self.member))
        if instruction.kind in ("popular", "niche"):
            return popular if instruction.kind == "popular" else ~popular
        if instruction.kind == "different":
            last: np.ndarray = self.member[history[-LAST:]].any(axis=0)
            return ~(member & last).any(axis=1)
        inside: np.ndarray = member[:, self.names.index(instruction.argument)]
        return inside if instruction.kind == "in_category" else ~inside

    def of_event(self, history: np.ndarray, target: int, rng: np.random.Generator) -> Instruction:
        """An instruction that the target fulfils, drawn among the kinds that fit: for training, where the answer is known."""
        own = self.member[target]
        past = self.member[history].any(axis=0)
        arguments = {"in_category": np.flatnonzero(own), "not_in_category": np.flatnonzero(past & ~own)}
        kinds = ["popular" if self.popular[target] else "niche"]
        kinds += [kind for kind, columns in arguments.items() if len(columns)]
        last = self.member[history[-LAST:]].any(axis=0)
        if last.any() and own.any() and not (own & last).any():
            kinds.append("different")
        kind = kinds[int(rng.integers(len(kinds)))]
        return self._say(kind, arguments.get(kind), rng)

    def of_history(self, history: np.ndarray, rng: np.random.Generator, least: int = 20) -> Instruction:
        """An instruction that knows nothing of what comes next: for counting instruction_following.

        A category to look for is drawn evenly among those of at least `least` items, one to avoid by how often the
        history has it.
        """
        past = self.member[history].sum(axis=0)
        large = np.flatnonzero(self.member.sum(axis=0) >= least)
        kinds = ["popular", "niche"]
        kinds += ["in_category"] if len(large) else []
        kinds += ["not_in_category"] if past.any() else []
        kinds += ["different"] if self.member[history[-LAST:]].any() else []
        kind = kinds[int(rng.integers(len(kinds)))]
        often = np.repeat(np.arange(len(past)), past)
        return self._say(kind, {"in_category": large, "not_in_category": often}.get(kind), rng)

    def _say(self, kind: str, columns: np.ndarray | None, rng: np.random.Generator) -> Instruction:
        argument = "" if columns is None else self.names[int(rng.choice(columns))]
        phrases = PHRASES[kind]
        return Instruction(kind, argument, phrases[int(rng.integers(len(phrases)))].format(argument=argument))


def instruction_following(
    instructions: Instructions,
    asked: Sequence[Instruction],
    histories: Sequence[np.ndarray],
    *,
    recommended: np.ndarray,
) -> np.ndarray:
    """How far each user's list does what was asked: the share of its items that fulfil the instruction.

    Args:
        instructions (`Instructions`): of the catalogue.
        asked (`Sequence[Instruction]`): `[users]`.
        histories (`Sequence[np.ndarray]`): `[users]`, item rows, oldest first.
        recommended (`np.ndarray`): `[users, ranks]` item rows, -1 for an empty rank, which fulfils nothing.

    Returns:
        `np.ndarray`: `[users]`, from 0 to 1.
    """
    does = (
        instructions.fulfilled(instruction, history) for instruction, history in zip(asked, histories, strict=True)
    )
    return np.array([np.append(each, False)[items].mean() for each, items in zip(does, recommended, strict=True)])
