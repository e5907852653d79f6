"""Evaluation of the choice of one item among a few candidates, the protocol of LLaRA."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec_hf.evaluation.bootstrap import bootstrap_intervals
from genrec_hf.ranking import Histories, Ranker, Rows, checked_ranking


def choose_candidates(
    ranker: Ranker, histories: Histories | Sequence[Rows], candidates: Sequence[Rows], *, progress: bool = False
) -> NDArray[np.int64]:
    """Return the candidate that a ranker ranks first if it may recommend candidates only.

    Args:
        ranker (`Ranker`): any ranker of the catalogue.
        histories (`Histories` or `Sequence`): item rows of each case, oldest first; items of the history may be
            chosen.
        candidates (`Sequence`): item rows of each case.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `np.ndarray`: int64 `[cases]`, item rows; `-1` where the ranker recommends no candidate.

    Raises:
        ValueError: as of `checked_ranking`.
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
    """Compute the hit rate and the share of valid choices of systems that chose among candidates.

    Args:
        chosen (`Mapping[str, np.ndarray]`): name of each system to its choices, item rows `[cases]`; `-1` for none.
        users (`ArrayLike`): `[cases]`, user of each case.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        candidates (`Sequence[np.ndarray]`): item rows of each case, the target among them.
        seed (`int`, defaults to 0): seed of the bootstrap.

    Returns:
        `dict[str, dict]`: for each system `hit@1` and `valid_rate` (share of cases in which the choice is a
        candidate), in [0, 1], and `intervals` with that of `hit@1`, 95 % over users.

    Raises:
        ValueError: a system has another number of choices than there are cases, or a target is not among its
            candidates.

    Example:
        >>> lists = [np.array([3, 4]), np.array([5, 6])]
        >>> results = evaluate_candidates({"model": np.array([4, 7])}, [0, 1], [4, 5], candidates=lists)
        >>> results["model"]["hit@1"], results["model"]["valid_rate"]
        (0.5, 0.5)
    """
    users, targets = np.asarray(users), np.asarray(targets)
    missing = [case for case, rows in enumerate(candidates) if targets[case] not in rows]
    if missing or len(candidates) != len(targets):
        raise ValueError(
            f"got {len(candidates)} candidate lists for {len(targets)} cases, {len(missing)} of them without the "
            "target, which no system could hit: pass the candidates of these cases"
        )
    results = {}
    for name, items in chosen.items():
        if len(items) != len(targets):
            raise ValueError(
                f"got {len(items)} choices of {name!r} for {len(targets)} cases: pass one for each case, -1 for none"
            )
        hits = {"hit@1": (np.asarray(items) == targets).astype(float)}
        valid = np.mean([item in rows for item, rows in zip(items, candidates, strict=True)])
        interval = bootstrap_intervals(hits, users, seed=seed)["hit@1"]
        results[name] = {
            "hit@1": float(hits["hit@1"].mean()),
            "valid_rate": float(valid),
            "intervals": {"hit@1": list(interval)},
        }
    return results
