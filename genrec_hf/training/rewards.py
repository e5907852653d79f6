"""Reward functions for TRL's GRPO that score the items which `SidRollouts` generates.

A reward has TRL's form: it takes columns as keyword arguments, one value per completion, ignores those that it does
not need, and returns one float per completion. The columns are:

- from `SidRollouts`: `items` (item row of the completion, its first if it is a list; `-1` where the tokens are no
  item), `lists` (rows of all its items), `likelihood` (its log-probability in nats), `group` (index of its prompt in
  the batch) and `sampling` (how it was generated);
- from `next_item_prompts`: `target` (row of the next item), `history` (rows of the items before it, oldest first) and
  `following` (rows of the items that come next, the target first).

Functions whose names start with `make_` return a reward for a catalogue. `make_rewards` of
`genrec_hf.training.reward_selection` finds all of them by name.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from genrec_hf.data.cooccurrence import cooccurrence_counts, item_counts
from genrec_hf.evaluation import per_case_metrics
from genrec_hf.evaluation.metrics import list_ndcg
from genrec_hf.models import SasRec

Reward = Callable[..., list[float]]


def validity_reward(items: Sequence[int], **columns: Any) -> list[float]:
    """Reward completions that are items of the catalogue.

    Args:
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, 1 for an item, 0 for tokens that are none.

    Example:
        >>> validity_reward(items=[4, -1])
        [1.0, 0.0]
    """
    return [float(item >= 0) for item in items]


def exact_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
    """Reward the target: the metric recall@1 of a list of one item.

    Args:
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        target (`Sequence[int]`): `[completions]`, item rows.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, 1 for the target, else 0.

    Raises:
        ValueError: a target is negative.

    Example:
        >>> exact_reward(items=[4, 2], target=[4, 4])
        [1.0, 0.0]
    """
    return per_case_metrics(np.asarray(items)[:, None], np.asarray(target), ks=(1,))["recall@1"].tolist()


def list_ndcg_reward(
    lists: Sequence[Sequence[int]], following: Sequence[Sequence[int]], **columns: Any
) -> list[float]:
    """Reward lists of items that hold the items which come next: the metric `list_ndcg`.

    `sum_p g_p / log2(p + 2)` over the ranks `p` from 0, with `g_p` 1 where the item is among `following` and
    occurs for the first time, divided by that of the best list of the same length.

    Args:
        lists (`Sequence[Sequence[int]]`): `[completions, list_length]`, item rows, `-1` for an empty rank.
        following (`Sequence[Sequence[int]]`): for each completion the rows of the next items, at least one.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, in [0, 1].

    Raises:
        ValueError: a completion has no following item.

    Example:
        >>> list_ndcg_reward(lists=[[4, 2], [0, 1]], following=[[2, 4], [5]])
        [1.0, 0.0]
    """
    return list_ndcg(lists, following).tolist()


def rank_reward(
    items: Sequence[int], target: Sequence[int], likelihood: Sequence[float], *, group: Sequence[int], **columns: Any
) -> list[float]:
    """Penalize wrong items in groups that hold the target, likelier ones more.

    The ranking reward of MiniOneRec (arXiv:2510.24431): with `p` the rank of a completion in its group from 1, the
    likeliest first, a wrong one gets `-g_p / sum_j g_j`, `g_p = 1 / log2(p + 1)`, which is the gain of NDCG (the
    paper's logarithm has another base, which cancels). Equal items of a group share the rank of the first. What
    differs: a group without the target gets 0, because there the penalty only lowers the probability of likely items.

    Args:
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        target (`Sequence[int]`): `[completions]`, item rows.
        likelihood (`Sequence[float]`): `[completions]`, log-probabilities.
        group (`Sequence[int]`): `[completions]`, index of the group of each.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, in [-1, 0]; 0 for the target and in groups without it.

    Example:
        >>> rewards = rank_reward(items=[4, 2], target=[4, 4], likelihood=[-1.0, -2.0], group=[0, 0])
        >>> [round(reward, 3) for reward in rewards]
        [0.0, -0.387]
    """
    rewards = np.zeros(len(items))
    for rows in _rows_of_groups(group):
        ranks: dict[int, int] = {}
        for row in sorted(rows, key=lambda row: -likelihood[row]):
            # Each completion that is not an item has its own key.
            ranks.setdefault(int(items[row]) if items[row] >= 0 else -2 - row, len(ranks) + 1)
        gains = {item: 1 / np.log2(rank + 1) for item, rank in ranks.items()}
        total = sum(gains.values()) if any(items[row] == target[row] for row in rows) else np.inf
        for row in rows:
            if items[row] != target[row]:
                rewards[row] = -gains[int(items[row]) if items[row] >= 0 else -2 - row] / total
    return rewards.tolist()


def history_reward(items: Sequence[int], history: Sequence[Collection[int]], **columns: Any) -> list[float]:
    """Penalize items of the user's history.

    Args:
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        history (`Sequence[Collection[int]]`): for each completion the item rows of the history.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, -1 for an item of the history, else 0.

    Example:
        >>> history_reward(items=[4, 2], history=[[1, 4], [1, 4]])
        [-1.0, 0.0]
    """
    return [-1.0 if item in set(seen) else 0.0 for item, seen in zip(items, history, strict=True)]


def diversity_reward(items: Sequence[int], group: Sequence[int], **columns: Any) -> list[float]:
    """Reward items that few other completions of the group hold.

    Args:
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        group (`Sequence[int]`): `[completions]`, index of the group of each.
        columns: not read.

    Returns:
        `list[float]`: `[completions]`, the share of the other completions of the group that are other items, in
        [0, 1]; 0 in a group of one.

    Example:
        >>> diversity_reward(items=[4, 4, 2], group=[0, 0, 0])
        [0.5, 0.5, 1.0]
    """
    rewards = np.zeros(len(items))
    for rows in _rows_of_groups(group):
        for row in rows:
            differs = [items[other] != items[row] for other in rows if other != row]
            rewards[row] = np.mean(differs) if differs else 0.0
    return rewards.tolist()


def make_prefix_reward(codes: np.ndarray) -> Reward:
    """Return a reward for the codes that an item shares with the target, from the first level on.

    Args:
        codes (`np.ndarray`): `[items, levels]`, `SemanticIds.codes`.

    Returns:
        `Reward`: reads `items` and `target`; the length of the shared prefix divided by the number of levels, in
        [0, 1]: 1 for the target, 0 for tokens that are no item.

    Example:
        >>> make_prefix_reward(np.array([[0, 0], [0, 1], [1, 0]]))(items=[0, 1, 2], target=[0, 0, 0])
        [1.0, 0.5, 0.0]
    """

    def prefix_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
        """Compute the reward of `make_prefix_reward`."""
        rows = np.asarray(items)
        shared = np.cumprod(codes[np.maximum(rows, 0)] == codes[np.asarray(target)], axis=1)
        return np.where(rows >= 0, shared.mean(axis=1), 0.0).tolist()

    return prefix_reward


def make_no_hit_reward(codes: np.ndarray) -> Reward:
    """Return the reward of `make_prefix_reward` for groups without the target, as a signal where `exact` gives none.

    Args:
        codes (`np.ndarray`): `[items, levels]`, `SemanticIds.codes`.

    Returns:
        `Reward`: reads `items`, `target` and `group`; 0 in groups that hold the target, elsewhere the length of the
        prefix shared with it divided by the number of levels, in [0, 1).

    Example:
        >>> reward = make_no_hit_reward(np.array([[0, 0], [0, 1], [1, 0]]))
        >>> reward(items=[0, 1, 1, 2], target=[0, 0, 0, 0], group=[0, 0, 1, 1])
        [0.0, 0.0, 0.5, 0.0]
    """
    prefix_reward = make_prefix_reward(codes)

    def no_hit_reward(
        items: Sequence[int], target: Sequence[int], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """Compute the reward of `make_no_hit_reward`."""
        hits = {index for item, goal, index in zip(items, target, group, strict=True) if item == goal}
        shared = prefix_reward(items=items, target=target)
        return [0.0 if index in hits else value for value, index in zip(shared, group, strict=True)]

    return no_hit_reward


def make_novelty_reward(events: np.ndarray) -> Reward:
    """Return a reward for items that are chosen rarely.

    Args:
        events (`np.ndarray`): `[items]`, number of training events of each item.

    Returns:
        `Reward`: reads `items`; the share of the training events that belong to more popular items, in [0, 1]: 0 for
        the most popular item, near 1 for the rarest; 0 for tokens that are no item. Of equally popular items the one
        with the smaller row counts as more popular.

    Example:
        >>> make_novelty_reward(np.array([6, 1, 3]))(items=[0, 1, 2, -1])
        [0.0, 0.9, 0.6, 0.0]
    """
    order = np.argsort(-events, kind="stable")
    novelty = np.empty(len(events))
    novelty[order] = (np.cumsum(events[order]) - events[order]) / max(1, events.sum())

    def novelty_reward(items: Sequence[int], **columns: Any) -> list[float]:
        """Compute the reward of `make_novelty_reward`."""
        return [float(novelty[item]) if item >= 0 else 0.0 for item in items]

    return novelty_reward


def make_deny_reward(denied: Collection[int]) -> Reward:
    """Return a penalty on items that must not be recommended.

    Args:
        denied (`Collection[int]`): item rows.

    Returns:
        `Reward`: reads `items`; -1 for a denied item, else 0.

    Example:
        >>> make_deny_reward([4])(items=[4, 2])
        [-1.0, 0.0]
    """
    denied_rows = set(denied)

    def deny_reward(items: Sequence[int], **columns: Any) -> list[float]:
        """Compute the reward of `make_deny_reward`."""
        return [-1.0 if item in denied_rows else 0.0 for item in items]

    return deny_reward


def make_semantic_reward(embeddings: np.ndarray) -> Reward:
    """Return the cosine similarity between the embeddings of item and target as a reward.

    Args:
        embeddings (`np.ndarray`): `[items, d]`, of item text; a row of zeros is similar to none.

    Returns:
        `Reward`: reads `items` and `target`; in [-1, 1], 1 for the target, -1 for tokens that are no item.

    Example:
        >>> make_semantic_reward(np.array([[1.0, 0.0], [0.0, 2.0]]))(items=[0, 1, -1], target=[0, 0, 0])
        [1.0, 0.0, -1.0]
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.where(norms > 0, norms, 1)

    def semantic_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
        """Compute the reward of `make_semantic_reward`."""
        rows = np.asarray(items)
        cosine = (directions[np.maximum(rows, 0)] * directions[np.asarray(target)]).sum(axis=1)
        return np.where(rows >= 0, cosine, -1.0).tolist()

    return semantic_reward


def make_collaborative_reward(sasrec: SasRec) -> Reward:
    """Return a reward for items that a sequence model considers likelier than chance after the user's history.

    `max(0, 1 + log p / log items)`, with `p` the probability of the item in the model's softmax over all items.

    Args:
        sasrec (`SasRec`): trained on the same catalogue.

    Returns:
        `Reward`: reads `items`, `history` and `group`; in [0, 1]: 1 for `p = 1`, 0 for `p` of at most `1 / items` and
        for tokens that are no item.
    """

    def collaborative_reward(
        items: Sequence[int], history: Sequence[Sequence[int]], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """Compute the reward of `make_collaborative_reward`."""
        groups = _rows_of_groups(group)
        users = sasrec.user_vectors([np.asarray(history[rows[0]], dtype=np.int64) for rows in groups])
        scores = users.cpu().float() @ sasrec.item_embedding.weight.detach()[:-1].float().cpu().T
        return _scaled_log_scores(scores.log_softmax(dim=1).numpy(), items, groups)

    return collaborative_reward


def make_cooccurrence_reward(
    sequences: Sequence[np.ndarray], items: int, window: int = 10, *, recent: int = 5, prior: float = 10.0
) -> Reward:
    """Return a reward for items that co-occur with the last items of the history, from counts alone.

    With `c_ij` the number of times that items `i` and `j` are at most `window` events apart in training, `c_i` its sum
    over `j`, and `q` the share of training events of each item (plus one each), `p_j` is the mean of
    `(c_ij + prior q_j) / (c_i + prior)` over the last `recent` items `i`. The reward is
    `max(0, 1 + (log p + log(p / q)) / log items)`. The likelihood `p` alone mostly measures popularity, so a model
    would learn to recommend popular items; the lift `p / q` halves the weight of popularity.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        items (`int`): size of the catalogue.
        window (`int`, defaults to 10): largest distance of two co-occurring events.
        recent (`int`, defaults to 5): number of items of the history that are looked up.
        prior (`float`, defaults to 10.0): weight of popularity, as a number of events.

    Returns:
        `Reward`: reads `items`, `history` and `group`; at least 0, and 0 for an item no likelier than chance
        (`p = q = 1 / items`) and for tokens that are no item.
    """
    counts = cooccurrence_counts(sequences, items, window)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    events = item_counts(sequences, items) + 1.0
    popularity = events / events.sum()

    def cooccurrence_reward(
        items: Sequence[int], history: Sequence[Sequence[int]], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """Compute the reward of `make_cooccurrence_reward`."""
        groups, likelihoods = _rows_of_groups(group), []
        for last_items in (list(history[rows[0]])[-recent:] for rows in groups):
            smoothed = (counts[last_items].toarray() + prior * popularity) / (totals[last_items] + prior)[:, None]
            likelihoods.append(smoothed.mean(axis=0) if last_items else popularity)
        return _scaled_log_scores(2 * np.log(likelihoods) - np.log(popularity), items, groups)

    return cooccurrence_reward


def _scaled_log_scores(scores: np.ndarray, items: Sequence[int], groups: list[list[int]]) -> list[float]:
    """Compute `max(0, 1 + score / log items)` of each completion; 0 for tokens that are no item.

    Args:
        scores (`np.ndarray`): `[groups, items]`, in nats.
        items (`Sequence[int]`): `[completions]`, item rows, `-1` for tokens that are no item.
        groups (`list[list[int]]`): indices of the completions of each group.
    """
    scaled = np.maximum(0.0, 1 + scores / np.log(max(2, scores.shape[1])))
    rewards = np.zeros(len(items))
    for rows, of_items in zip(groups, scaled, strict=True):
        for row in rows:
            rewards[row] = of_items[items[row]] if items[row] >= 0 else 0.0
    return rewards.tolist()


def _rows_of_groups(group: Sequence[int]) -> list[list[int]]:
    """Collect the completions of each group, in the order in which groups first occur."""
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(group):
        rows.setdefault(int(index), []).append(row)
    return list(rows.values())
