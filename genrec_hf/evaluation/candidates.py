"""Which of a few candidates a system would choose: the protocol of LLaRA and kin, beside ranking every item."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec_hf.evaluation.metrics import bootstrap_intervals
from genrec_hf.ranking import Histories, Ranker, Rows, checked_ranking


def choose_candidates(
    ranker: Ranker, histories: Histories | Sequence[Rows], candidates: Sequence[Rows], *, progress: bool = False
) -> NDArray[np.int64]:
    """The candidate that a ranker puts first when it may recommend nothing else.

    Args:
        ranker: Any ranker of the catalogue.
        histories: One integer array of item rows a case, oldest first; items of the history may be chosen.
        candidates: One integer array of item rows a case.
        progress: Whether to show a progress bar.

    Returns:
        Item rows `[cases]`, -1 where the ranker recommends no candidate.
    """
    ranking = checked_ranking(ranker, histories, 1, filter_seen=False, allow=candidates, progress=progress)
    return ranking.items[:, 0]


def evaluate_candidates(
    chosen: Mapping[str, NDArray],
    users: ArrayLike,
    targets: ArrayLike,
    *,
    candidates: Sequence[NDArray],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Score what systems chose among candidates.

    Args:
        chosen: Name -> item rows `[cases]`; -1 for none.
        users: Array `[cases]`, whose case each is.
        targets: Integer array `[cases]` of item rows.
        candidates: One integer array of item rows a case, the target among them.
        seed: Seed of the bootstrap.

    Returns:
        Name -> `hit@1` and `valid_rate` (of all cases, how many were answered with a candidate), in [0, 1], and
        `intervals` of `hit@1`, 95 % over users.

    Raises:
        ValueError: A system has no answer for some case, or a target is not among its candidates.

    Example:
        >>> lists = [np.array([3, 4]), np.array([5, 6])]
        >>> rows = evaluate_candidates({"mine": np.array([4, 7])}, [0, 1], [4, 5], candidates=lists)
        >>> rows["mine"]["hit@1"], rows["mine"]["valid_rate"]
        (0.5, 0.5)
    """
    users, targets = np.asarray(users), np.asarray(targets)
    missing = [case for case, mine in enumerate(candidates) if targets[case] not in mine]
    if missing or len(candidates) != len(targets):
        raise ValueError(
            f"Got {len(candidates)} candidate lists for {len(targets)} cases, {len(missing)} of them without the "
            "target: nobody could hit it; draw candidates of these cases."
        )
    rows = {}
    for name, items in chosen.items():
        if len(items) != len(targets):
            raise ValueError(f"Got {len(items)} choices of {name!r} for {len(targets)} cases: every user counts.")
        hits = {"hit@1": (np.asarray(items) == targets).astype(float)}
        valid = np.mean([item in mine for item, mine in zip(items, candidates, strict=True)])
        interval = bootstrap_intervals(hits, users, seed=seed)["hit@1"]
        rows[name] = {
            "hit@1": float(hits["hit@1"].mean()),
            "valid_rate": float(valid),
            "intervals": {"hit@1": list(interval)},
        }
    return rows
