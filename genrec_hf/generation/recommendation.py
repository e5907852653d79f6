"""Recommended items with scores and titles."""

from collections.abc import Sequence
from typing import NamedTuple

from genrec_hf.ranking import Ranking


class Recommendation(NamedTuple):
    """Recommended item.

    Attributes:
        item_id (`str`): id of the item.
        score (`float`): log-probability of its SID under the recommender's `normalization`.
        title (`str` or `None`): title of the item; `None` for a recommender without titles.
    """

    item_id: str
    score: float
    title: str | None


def make_recommendations(
    ranking: Ranking, item_ids: Sequence[Sequence[str]], titles: Sequence[str] | None
) -> list[list[Recommendation]]:
    """Combine a ranking with item ids and titles.

    Args:
        ranking (`Ranking`): `[users, k]`; empty ranks are last.
        item_ids (`Sequence[Sequence[str]]`): for each user, ids of the ranks that hold an item.
        titles (`Sequence[str]`, *optional*): `[items]`.

    Returns:
        `list[list[Recommendation]]`: one list for each user, without empty ranks.
    """
    return [
        [
            Recommendation(item_id, score, None if titles is None else titles[item])
            for item_id, score, item in zip(user_ids, scores, items, strict=False)
        ]
        for user_ids, scores, items in zip(item_ids, ranking.scores.tolist(), ranking.items.tolist(), strict=True)
    ]
