"""Ranks every case of a split, with seen items filtered and allowed, for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from genrec_hf.evaluation.candidates import choose_candidates
from genrec_hf.ranking import Histories, Ranker, Ranking, Rows, checked_ranking


@dataclass(frozen=True)
class RankedCases:
    """Lists of one ranker for all cases, by whether seen items were filtered.

    Args:
        rankings: `{True: Ranking, False: Ranking}`, seen items filtered and allowed.
        seconds: What each took.
        chosen: Item rows `[cases]`, the choice among candidates, -1 for none; `None` where none were given.
    """

    rankings: dict[bool, Ranking]
    seconds: dict[bool, float]
    chosen: NDArray[np.int64] | None = None


def rank_cases(
    ranker: Ranker,
    histories: Histories | Sequence[Rows],
    items: int,
    *,
    candidates: Sequence[Rows] | None = None,
    progress: bool = False,
) -> RankedCases:
    """Rank every case twice, seen items filtered and allowed, and choose among candidates where some are given.

    Args:
        ranker: Any ranker of the catalogue.
        histories: One integer array of item rows a case, everything before the target.
        items: Size of the catalogue; the lists have `list_length(items)` ranks.
        candidates: For each case, item rows to choose one from, as `EvaluationCases.candidates` draws them.
        progress: Whether to show progress bars.

    Returns:
        `RankedCases`.

    Raises:
        ValueError: The ranker returns duplicates, seen items where they are filtered, or fewer rows than cases.
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
    """Ranks of a list in a report: 20, or all items of a smaller catalogue."""
    return min(20, items)
