"""Rewards of rollouts for TRL's GRPO: functions of what `SidRollouts` and the data set say about each completion.

Each is a TRL reward function: it takes columns by name, one value a completion, and returns one number a completion.
Columns of `SidRollouts`: `items` (item row, -1 for none; of a list the first), `lists` (all of them), `likelihood`,
`group`, `sampling`; of `next_item_prompts`: `target`, `history` and `following` (item rows). Those that know a
catalogue are made by the functions whose names start with `make_`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from genrec_hf.data import InteractionData
from genrec_hf.data.cooccurrence import cooccurrence_counts, item_counts
from genrec_hf.evaluation import per_case_metrics
from genrec_hf.evaluation.metrics import list_ndcg
from genrec_hf.models import SasRec
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.item_ids import read_ids
from genrec_hf.tasks import read_weights

Reward = Callable[..., list[float]]
# What `make_rewards` knows by name.
REWARDS = (
    "validity", "exact", "prefix", "no_hit", "rank", "history", "diversity", "novelty", "deny", "semantic",
    "collaborative", "cooccurrence", "list_ndcg",
)  # fmt: skip


def read_rewards(pairs: Sequence[str]) -> dict[str, float]:
    """Rewards of the command line, `name=weight` each; 0 measures a reward without training on it.

    Raises:
        ValueError: on a name that is not among `REWARDS` or comes twice, a weight that is no number from 0, or none
            above 0.

    Example:
        >>> read_rewards(["exact", "rank=0.5"])
        {'exact': 1.0, 'rank': 0.5}
    """
    weights = read_weights(pairs)
    unknown = [name for name in weights if name not in REWARDS]
    if unknown:
        raise ValueError(f"got the reward {unknown[0]!r}; use some of {', '.join(REWARDS)}")
    if not any(weights.values()):
        raise ValueError(f"got rewards={list(pairs)}, nothing to learn from: give one of them a weight above 0")
    return weights


def make_rewards(
    names: Sequence[str],
    data: InteractionData,
    semantic_ids: SemanticIds,
    *,
    denied: Collection[str] = (),
    embeddings: np.ndarray | None = None,
    sasrec: SasRec | None = None,
) -> list[Reward]:
    """Rewards by name, for a data set.

    Args:
        names (`Sequence[str]`): among `REWARDS`.
        data (`InteractionData`): whose training events tell what is popular.
        semantic_ids (`SemanticIds`): the catalogue.
        denied (`Collection[str]`): outside ids of items, for `"deny"`.
        embeddings (`np.ndarray`, *optional*): `[items, d]`, for `"semantic"`.
        sasrec (`SasRec`, *optional*): for `"collaborative"`.

    Raises:
        ValueError: on a name that is not known or comes twice, none at all, one that lacks what it reads, or a deny
            list of the whole catalogue.
    """
    unknown = [name for name in names if name not in REWARDS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"got the rewards {list(names)}; name each once, of {', '.join(REWARDS)}")
    needs = {"deny": bool(denied), "semantic": embeddings is not None, "collaborative": sasrec is not None}
    for name in names:
        if not needs.get(name, True):
            raise ValueError(f"the reward {name!r} lacks what it reads: give denied items, embeddings or a SASRec")
    plain: dict[str, Reward] = {
        "validity": validity_reward,
        "exact": exact_reward,
        "rank": rank_reward,
        "history": history_reward,
        "diversity": diversity_reward,
        "list_ndcg": list_ndcg_reward,
    }
    found: list[Reward] = []
    for name in names:
        if name in plain:
            found.append(plain[name])
        elif name == "prefix":
            found.append(make_prefix_reward(semantic_ids.codes))
        elif name == "no_hit":
            found.append(make_no_hit_reward(semantic_ids.codes))
        elif name == "novelty":
            chosen = np.concatenate(data.training_sequences())
            found.append(make_novelty_reward(np.bincount(chosen, minlength=len(semantic_ids))))
        elif name == "deny":
            rows = semantic_ids.rows(read_ids(denied, "denied", ordered=False), "denied").tolist()
            if len(set(rows)) == len(semantic_ids):
                raise ValueError(
                    f"got a deny list of all {len(semantic_ids)} items: nothing would be left to recommend"
                )
            found.append(make_deny_reward(rows))
        elif name == "cooccurrence":
            found.append(make_cooccurrence_reward(data.training_sequences(), len(semantic_ids)))
        elif name == "semantic" and embeddings is not None:
            found.append(make_semantic_reward(embeddings))
        elif sasrec is not None:
            found.append(make_collaborative_reward(sasrec))
    return found


def validity_reward(items: Sequence[int], **columns: Any) -> list[float]:
    """1 for an item of the catalogue, 0 for tokens that are none."""
    return [float(item >= 0) for item in items]


def exact_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
    """1 for the target, else 0: the metric recall@1 of a list of one."""
    return per_case_metrics(np.asarray(items)[:, None], np.asarray(target), ks=(1,))["recall@1"].tolist()


def list_ndcg_reward(
    lists: Sequence[Sequence[int]], following: Sequence[Sequence[int]], **columns: Any
) -> list[float]:
    """How well a list of items holds those that came next: the metric `list_ndcg`."""
    return list_ndcg(lists, following).tolist()


def rank_reward(
    items: Sequence[int], target: Sequence[int], likelihood: Sequence[float], *, group: Sequence[int], **columns: Any
) -> list[float]:
    """A penalty for wrong items beside the target, the larger the likelier they are; 0 for the target.

    With `p` the place of a completion in its group, the likeliest first, a wrong one gets `-g_p / sum_j g_j`,
    `g_p = 1 / log2(p + 1)`, the gain of NDCG (MiniOneRec, arXiv:2510.24431, whose logarithm has another base, which
    cancels). Equal items of a group share the place of the first. What differs: a group without the target gets 0,
    since there the penalty says nothing but that likely items are bad, and flattens what the model knows.
    """
    rewards = np.zeros(len(items))
    for mine in _members(group):
        order = sorted(mine, key=lambda row: -likelihood[row])
        places: dict[int, int] = {}
        for row in order:
            places.setdefault(int(items[row]) if items[row] >= 0 else -2 - row, len(places) + 1)
        gain = {item: 1 / np.log2(place + 1) for item, place in places.items()}
        whole = sum(gain.values()) if any(items[row] == target[row] for row in mine) else np.inf
        for row in mine:
            if items[row] != target[row]:
                rewards[row] = -gain[int(items[row]) if items[row] >= 0 else -2 - row] / whole
    return rewards.tolist()


def history_reward(items: Sequence[int], history: Sequence[Collection[int]], **columns: Any) -> list[float]:
    """-1 for an item that the user had already, else 0."""
    return [-float(item in set(seen)) for item, seen in zip(items, history, strict=True)]


def diversity_reward(items: Sequence[int], group: Sequence[int], **columns: Any) -> list[float]:
    """The share of the other completions of a group that are other items, in [0, 1]."""
    found = np.zeros(len(items))
    for mine in _members(group):
        for row in mine:
            others = [items[other] != items[row] for other in mine if other != row]
            found[row] = np.mean(others) if others else 0.0
    return found.tolist()


def make_prefix_reward(codes: np.ndarray) -> Reward:
    """How many codes from the first on are those of the target, as a share of the levels: 1 for the target.

    Args:
        codes (`np.ndarray`): `[items, levels]`, `SemanticIds.codes`.
    """

    def prefix_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
        """See `make_prefix_reward`; 0 for tokens that are no item."""
        chosen = np.asarray(items)
        same = np.cumprod(codes[np.maximum(chosen, 0)] == codes[np.asarray(target)], axis=1)
        return np.where(chosen >= 0, same.mean(axis=1), 0.0).tolist()

    return prefix_reward


def make_no_hit_reward(codes: np.ndarray) -> Reward:
    """The reward of `make_prefix_reward` in groups without the target, 0 in others: a signal where a hit gives none.

    Args:
        codes (`np.ndarray`): `[items, levels]`, `SemanticIds.codes`.
    """
    prefix_reward = make_prefix_reward(codes)

    def no_hit_reward(
        items: Sequence[int], target: Sequence[int], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """See `make_no_hit_reward`."""
        hit = {name for item, wanted, name in zip(items, target, group, strict=True) if item == wanted}
        near = prefix_reward(items=items, target=target)
        return [0.0 if name in hit else value for value, name in zip(near, group, strict=True)]

    return no_hit_reward


def make_novelty_reward(events: np.ndarray) -> Reward:
    """The share of training events that are of items chosen more often: 0 for the most popular, near 1 for the rarest.

    Args:
        events (`np.ndarray`): `[items]`, training events of each.
    """
    order = np.argsort(-events, kind="stable")
    above = np.empty(len(events))
    above[order] = (np.cumsum(events[order]) - events[order]) / max(1, events.sum())

    def novelty_reward(items: Sequence[int], **columns: Any) -> list[float]:
        """See `make_novelty_reward`; 0 for tokens that are no item."""
        return [float(above[item]) if item >= 0 else 0.0 for item in items]

    return novelty_reward


def make_deny_reward(denied: Collection[int]) -> Reward:
    """-1 for items that must not be recommended, else 0.

    Args:
        denied (`Collection[int]`): item rows.
    """
    barred = set(denied)

    def deny_reward(items: Sequence[int], **columns: Any) -> list[float]:
        """See `make_deny_reward`."""
        return [-float(item in barred) for item in items]

    return deny_reward


def make_semantic_reward(embeddings: np.ndarray) -> Reward:
    """The cosine between the embeddings of item and target, in [-1, 1].

    Args:
        embeddings (`np.ndarray`): `[items, d]`, of item text.
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = embeddings / np.where(norms > 0, norms, 1)

    def semantic_reward(items: Sequence[int], target: Sequence[int], **columns: Any) -> list[float]:
        """See `make_semantic_reward`; -1 for tokens that are no item."""
        chosen = np.asarray(items)
        cosine = (directions[np.maximum(chosen, 0)] * directions[np.asarray(target)]).sum(axis=1)
        return np.where(chosen >= 0, cosine, -1.0).tolist()

    return semantic_reward


def make_collaborative_reward(sasrec: SasRec) -> Reward:
    """How much likelier than by chance a sequence model finds the item after the user's history.

    `1 + log p / log items`, at least 0, with `p` its softmax over all items: 1 for certain, 0 for not likelier.

    Args:
        sasrec (`SasRec`): trained on the same catalogue.
    """

    def collaborative_reward(
        items: Sequence[int], history: Sequence[Sequence[int]], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """See `make_collaborative_reward`; 0 for tokens that are no item."""
        members = _members(group)
        users = sasrec.user_vectors([np.asarray(history[mine[0]], dtype=np.int64) for mine in members])
        scores = users.cpu().float() @ sasrec.item_embedding.weight.detach()[:-1].float().cpu().T
        return _worth(scores.log_softmax(dim=1).numpy(), items, members)

    return collaborative_reward


def make_cooccurrence_reward(
    sequences: Sequence[np.ndarray], items: int, window: int = 10, *, recent: int = 5, prior: float = 10.0
) -> Reward:
    """How often the item stands near the last items of the history, and how much oftener than anywhere: by counting.

    With `c_ij` how often items stand at most `window` events apart in training and `q` how often they are chosen (plus
    one), `p_j` is the mean of `(c_ij + prior q_j) / (c_i + prior)` over the last `recent` items `i`. The reward is
    `1 + (log p + log(p / q)) / log items`, at least 0, and 0 where `p` and `q` are those of chance. Likelihood alone
    is mostly popularity, and a model learns from it that popular is good; the lift takes half of that out.

    Args:
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        items (`int`): size of the catalogue.
        window (`int`, defaults to 10): events.
        recent (`int`, defaults to 5): items of the history that are looked up.
        prior (`float`, defaults to 10): events that popularity weighs as much as.
    """
    counts = cooccurrence_counts(sequences, items, window)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    events = item_counts(sequences, items) + 1.0
    popular = events / events.sum()

    def cooccurrence_reward(
        items: Sequence[int], history: Sequence[Sequence[int]], group: Sequence[int], **columns: Any
    ) -> list[float]:
        """See `make_cooccurrence_reward`; 0 for tokens that are no item."""
        members, likely = _members(group), []
        for last in (list(history[mine[0]])[-recent:] for mine in members):
            rows = (counts[last].toarray() + prior * popular) / (totals[last] + prior)[:, None]
            likely.append(rows.mean(axis=0) if last else popular)
        return _worth(2 * np.log(likely) - np.log(popular), items, members)

    return cooccurrence_reward


def _worth(scores: np.ndarray, items: Sequence[int], members: list[list[int]]) -> list[float]:
    """`1 + score / log items`, at least 0, with `scores` `[groups, items]` in nats; 0 for tokens that are no item."""
    worth = np.maximum(0.0, 1 + scores / np.log(max(2, scores.shape[1])))
    found = np.zeros(len(items))
    for mine, own in zip(members, worth, strict=True):
        for row in mine:
            found[row] = own[items[row]] if items[row] >= 0 else 0.0
    return found.tolist()


def _members(group: Sequence[int]) -> list[list[int]]:
    """Rows of each group, in the order in which groups come."""
    rows: dict[int, list[int]] = {}
    for row, name in enumerate(group):
        rows.setdefault(int(name), []).append(row)
    return list(rows.values())
