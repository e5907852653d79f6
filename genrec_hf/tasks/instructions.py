"""Instructions in words for the next item, made from item attributes, and the rate at which items satisfy them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Phrases of each kind of instruction; `{argument}` is a category.
PHRASES = {
    "in_category": ("something in {argument}", "I am looking for {argument}", "{argument}, please"),
    "not_in_category": ("anything but {argument}", "nothing in {argument}, please", "I have had enough of {argument}"),
    "popular": ("something that many people choose", "something popular"),
    "niche": ("something that few people know", "a hidden gem"),
    "different": ("something unlike my last items", "a change from what I had lately"),
}
# Number of items that "my last items" refers to.
LAST_ITEMS = 3


@dataclass(frozen=True)
class Instruction:
    """A user's words that steer a recommendation, with their meaning.

    Args:
        kind (`str`): a key of `PHRASES`.
        argument (`str`): the category that the instruction names, or an empty string.
        text (`str`): the words.
    """

    kind: str
    argument: str
    text: str


class Instructions:
    """Generator of instructions for a catalogue, and the test of which items satisfy them.

    - `in_category`, `not_in_category`: the item has, or does not have, that category;
    - `popular`: it is one of the most frequent items that together have half of all training events; `niche`: it is
      not;
    - `different`: it shares no category with the last three items of the history.

    After the instruction control of GLIDE. What differs: the kinds of instructions, their phrases and the metric.

    Args:
        categories (`Sequence[Sequence[str]]`): `[items]`, the categories of each item, safe in a prompt.
        events (`np.ndarray`): `[items]`, number of training events of each item.

    Attributes:
        names (`list[str]`): all categories, sorted.
        member (`np.ndarray`): `[items, categories]`, bool, whether an item has a category.
        popular (`np.ndarray`): `[items]`, bool.
    """

    def __init__(self, categories: Sequence[Sequence[str]], events: np.ndarray) -> None:
        self.names = sorted({name for item_categories in categories for name in item_categories})
        columns = {name: column for column, name in enumerate(self.names)}
        self.member = np.zeros((len(categories), len(self.names)), dtype=bool)
        for item, item_categories in enumerate(categories):
            self.member[item, [columns[name] for name in item_categories]] = True
        order = np.argsort(-events, kind="stable")
        cumulative_share = np.cumsum(events[order]) / max(1, events.sum())
        self.popular = np.zeros(len(categories), dtype=bool)
        self.popular[order[: int(np.searchsorted(cumulative_share, 0.5)) + 1]] = True

    def satisfied(self, instruction: Instruction, history: np.ndarray, items: np.ndarray | None = None) -> np.ndarray:
        """Return which items satisfy an instruction.

        Args:
            instruction (`Instruction`): from `for_event` or `for_history`.
            history (`np.ndarray`): item rows of the user, oldest first; read by `different`.
            items (`np.ndarray`, *optional*): `[n]`, rows of the items to test; the whole catalogue when not given.

        Returns:
            `np.ndarray`: `[n]` or `[items]`, bool.
        """
        popular, member = (values if items is None else values[items] for values in (self.popular, self.member))
        if instruction.kind in ("popular", "niche"):
            return popular if instruction.kind == "popular" else ~popular
        if instruction.kind == "different":
            recent: np.ndarray = self.member[history[-LAST_ITEMS:]].any(axis=0)
            return ~(member & recent).any(axis=1)
        in_category: np.ndarray = member[:, self.names.index(instruction.argument)]
        return in_category if instruction.kind == "in_category" else ~in_category

    def for_event(self, history: np.ndarray, target: int, rng: np.random.Generator) -> Instruction:
        """Sample an instruction that the target of an event satisfies, for training.

        Args:
            history (`np.ndarray`): item rows before the event, oldest first.
            target (`int`): item row of the event.
            rng (`np.random.Generator`): samples the kind, uniformly among those that fit, the category and the phrase.

        Returns:
            `Instruction`: one that `target` satisfies.
        """
        target_categories = self.member[target]
        history_categories = self.member[history].any(axis=0)
        arguments = {
            "in_category": np.flatnonzero(target_categories),
            "not_in_category": np.flatnonzero(history_categories & ~target_categories),
        }
        kinds = ["popular" if self.popular[target] else "niche"]
        kinds += [kind for kind, columns in arguments.items() if len(columns)]
        recent = self.member[history[-LAST_ITEMS:]].any(axis=0)
        if recent.any() and target_categories.any() and not (target_categories & recent).any():
            kinds.append("different")
        kind = kinds[int(rng.integers(len(kinds)))]
        return self._sample_phrase(kind, arguments.get(kind), rng)

    def for_history(self, history: np.ndarray, rng: np.random.Generator, min_items: int = 20) -> Instruction:
        """Sample an instruction that depends on the history and not on the next item, for `instruction_following`.

        A category to look for is sampled uniformly among those of at least `min_items` items, a category to avoid in
        proportion to its frequency in the history.

        Args:
            history (`np.ndarray`): item rows of the user, oldest first.
            rng (`np.random.Generator`): samples the kind, the category and the phrase.
            min_items (`int`, defaults to 20): minimum number of items of a category to look for.

        Returns:
            `Instruction`: of a kind that is possible for the history.
        """
        history_counts = self.member[history].sum(axis=0)
        large = np.flatnonzero(self.member.sum(axis=0) >= min_items)
        kinds = ["popular", "niche"]
        kinds += ["in_category"] if len(large) else []
        kinds += ["not_in_category"] if history_counts.any() else []
        kinds += ["different"] if self.member[history[-LAST_ITEMS:]].any() else []
        kind = kinds[int(rng.integers(len(kinds)))]
        repeated = np.repeat(np.arange(len(history_counts)), history_counts)
        return self._sample_phrase(kind, {"in_category": large, "not_in_category": repeated}.get(kind), rng)

    def _sample_phrase(self, kind: str, columns: np.ndarray | None, rng: np.random.Generator) -> Instruction:
        argument = "" if columns is None else self.names[int(rng.choice(columns))]
        phrases = PHRASES[kind]
        return Instruction(kind, argument, phrases[int(rng.integers(len(phrases)))].format(argument=argument))


def instruction_following(
    instructions: Instructions,
    user_instructions: Sequence[Instruction],
    histories: Sequence[np.ndarray],
    *,
    recommended: np.ndarray,
) -> np.ndarray:
    """Compute the share of each user's recommended items that satisfy the user's instruction.

    Args:
        instructions (`Instructions`): of the catalogue.
        user_instructions (`Sequence[Instruction]`): `[users]`.
        histories (`Sequence[np.ndarray]`): `[users]`, item rows, oldest first.
        recommended (`np.ndarray`): `[users, ranks]`, item rows; `-1` for an empty rank, which counts as not
            satisfying.

    Returns:
        `np.ndarray`: `[users]`, from 0 to 1.
    """
    satisfied = (
        instructions.satisfied(instruction, history)
        for instruction, history in zip(user_instructions, histories, strict=True)
    )
    return np.array([np.append(row, False)[items].mean() for row, items in zip(satisfied, recommended, strict=True)])
