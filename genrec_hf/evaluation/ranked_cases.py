"""Ranks all cases of a split with seen items filtered and with seen items allowed, for a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from genrec_hf.evaluation.candidates import choose_candidates
from genrec_hf.ranking import Histories, Ranker, Ranking, Rows, checked_ranking


@dataclass(frozen=True)
class RankedCases:
    """Lists of one ranker for all cases.

    Args:
        rankings (`dict[bool, Ranking]`): `Ranking` `[cases, ranks]` with seen items filtered (`True`) and allowed
            (`False`).
        seconds (`dict[bool, float]`): time that each ranking took, in seconds.
        chosen (`np.ndarray`, *optional*): int64 `[cases]`, item row that was chosen among candidates; `-1` for none.
    """

    rankings: dict[bool, Ranking]
    seconds: dict[bool, float]
    chosen: NDArray[np.int64] | None = None

    def rank(
        self,
        histories: Histories | Sequence[Rows],
        k: int,
        *,
        filter_seen: bool = True,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows | None] | None = None,
        progress: bool = False,
    ) -> Ranking:
        """Return the first `k` ranks of the lists, to evaluate them as those of any other ranker.

        Args:
            histories (`Histories` or `Sequence`): those that were ranked.
            k (`int`): number of ranks, at most that of the lists.
            filter_seen (`bool`, defaults to `True`): the lists with seen items filtered, or those with them allowed.
            allow (`Sequence`, *optional*): not possible.
            deny (`Sequence`, *optional*): not possible.
            progress (`bool`, defaults to `False`): not used.

        Returns:
            `Ranking`: `[cases, k]`.

        Raises:
            ValueError: `allow` or `deny` is given, or there are other numbers of histories or ranks than were ranked.
        """
        ranking = self.rankings[filter_seen]
        if len(histories) != len(ranking) or k > ranking.items.shape[1] or allow is not None or deny is not None:
            raise ValueError(
                f"got {len(histories)} histories and k={k} for stored lists {list(ranking.items.shape)}, or allow or "
                "deny: stored lists are of the cases that were ranked; rank again"
            )
        return ranking.top(k)


def rank_cases(
    ranker: Ranker,
    histories: Histories | Sequence[Rows],
    items: int,
    *,
    candidates: Sequence[Rows] | None = None,
    progress: bool = False,
) -> RankedCases:
    """Rank every case twice, with seen items filtered and allowed, and choose among candidates if they are given.

    Args:
        ranker (`Ranker`): any ranker of the catalogue.
        histories (`Histories` or `Sequence`): item rows of each case, everything before the target.
        items (`int`): size of the catalogue; the lists have `list_length(items)` ranks.
        candidates (`Sequence`, *optional*): for each case, item rows to choose from, as `EvaluationCases.candidates`
            returns.
        progress (`bool`, defaults to `False`): show progress bars.

    Returns:
        `RankedCases`: lists, times and choices.

    Raises:
        ValueError: the ranker returns duplicates, seen items where they are filtered, or another number of rows than
            cases.
    """
    rankings, seconds = {}, {}
    for filter_seen in (True, False):
        start = perf_counter()
        rankings[filter_seen] = checked_ranking(
            ranker, histories, list_length(items), filter_seen=filter_seen, progress=progress
        )
        seconds[filter_seen] = perf_counter() - start
    chosen = None if candidates is None else choose_candidates(ranker, histories, candidates, progress=progress)
    return RankedCases(rankings, seconds, chosen)


def list_length(items: int) -> int:
    """Return the length of the lists of a report: 20, or the size of a smaller catalogue.

    Args:
        items (`int`): size of the catalogue.

    Returns:
        `int`: ranks of a list.
    """
    return min(20, items)
