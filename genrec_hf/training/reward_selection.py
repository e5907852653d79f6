"""Selects the rewards of `genrec_hf.training.rewards` by name and weight, for the command line."""

from collections.abc import Collection, Sequence

import numpy as np

from genrec_hf.data import InteractionData
from genrec_hf.models import SasRec
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.item_ids import read_ids
from genrec_hf.tasks import read_weights
from genrec_hf.training.rewards import (
    Reward,
    diversity_reward,
    exact_reward,
    history_reward,
    list_ndcg_reward,
    make_collaborative_reward,
    make_cooccurrence_reward,
    make_deny_reward,
    make_no_hit_reward,
    make_novelty_reward,
    make_prefix_reward,
    make_semantic_reward,
    rank_reward,
    validity_reward,
)

# The names that `make_rewards` accepts.
REWARDS = (
    "validity", "exact", "prefix", "no_hit", "rank", "history", "diversity", "novelty", "deny", "semantic",
    "collaborative", "cooccurrence", "list_ndcg",
)  # fmt: skip


def read_rewards(pairs: Sequence[str]) -> dict[str, float]:
    """Parse rewards of the command line.

    Args:
        pairs (`Sequence[str]`): `"name=weight"` each, or `"name"` for weight 1. A reward of weight 0 is logged and not
            trained on.

    Returns:
        `dict[str, float]`: name to weight, in the order given.

    Raises:
        ValueError: a name is not in `REWARDS` or comes twice, a weight is negative or no number, or all are 0.

    Example:
        >>> read_rewards(["exact", "rank=0.5"])
        {'exact': 1.0, 'rank': 0.5}
    """
    weights = read_weights(pairs)
    unknown = [name for name in weights if name not in REWARDS]
    if unknown:
        raise ValueError(f"got the reward {unknown[0]!r}: use some of {', '.join(REWARDS)}")
    if not any(weights.values()):
        raise ValueError(
            f"got rewards={list(pairs)} without a weight above 0: nothing would be learned; give one above 0"
        )
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
    """Return rewards by name, for a data set.

    Args:
        names (`Sequence[str]`): names of `REWARDS`, each once.
        data (`InteractionData`): its training events give popularity and co-occurrence.
        semantic_ids (`SemanticIds`): the catalogue.
        denied (`Collection[str]`, defaults to `()`): item ids, for `"deny"`.
        embeddings (`np.ndarray`, *optional*): `[items, d]`, of item text, for `"semantic"`.
        sasrec (`SasRec`, *optional*): trained on the same catalogue, for `"collaborative"`.

    Returns:
        `list[Reward]`: one for each name, in their order.

    Raises:
        ValueError: there is no name, one is unknown or comes twice, a reward lacks `denied`, `embeddings` or
            `sasrec`, or `denied` holds an unknown item or the whole catalogue.
    """
    unknown = [name for name in names if name not in REWARDS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"got the rewards {list(names)}: name each once, of {', '.join(REWARDS)}")
    inputs = {
        "deny": ("denied", bool(denied)),
        "semantic": ("embeddings", embeddings is not None),
        "collaborative": ("sasrec", sasrec is not None),
    }
    for name in names:
        argument, is_given = inputs.get(name, ("", True))
        if not is_given:
            raise ValueError(f"got the reward {name!r} without {argument}, which it is computed from: give {argument}")
    plain: dict[str, Reward] = {
        "validity": validity_reward,
        "exact": exact_reward,
        "rank": rank_reward,
        "history": history_reward,
        "diversity": diversity_reward,
        "list_ndcg": list_ndcg_reward,
    }
    rewards: list[Reward] = []
    for name in names:
        if name in plain:
            rewards.append(plain[name])
        elif name == "prefix":
            rewards.append(make_prefix_reward(semantic_ids.codes))
        elif name == "no_hit":
            rewards.append(make_no_hit_reward(semantic_ids.codes))
        elif name == "novelty":
            events = np.concatenate(data.training_sequences())
            rewards.append(make_novelty_reward(np.bincount(events, minlength=len(semantic_ids))))
        elif name == "deny":
            rows = semantic_ids.rows(read_ids(denied, "denied", ordered=False), "denied").tolist()
            if len(set(rows)) == len(semantic_ids):
                raise ValueError(
                    f"got a deny list of all {len(semantic_ids)} items: no item could be recommended; shorten it"
                )
            rewards.append(make_deny_reward(rows))
        elif name == "cooccurrence":
            rewards.append(make_cooccurrence_reward(data.training_sequences(), len(semantic_ids)))
        elif name == "semantic" and embeddings is not None:
            rewards.append(make_semantic_reward(embeddings))
        elif name == "collaborative" and sasrec is not None:
            rewards.append(make_collaborative_reward(sasrec))
        else:
            raise NotImplementedError(
                f"the reward {name!r} is in REWARDS and make_rewards does not make it: add its branch there"
            )
    return rewards
