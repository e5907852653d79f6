"""Subsets of cases by the number of training events of the target and by its age, for a report."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

AGES = ("newest third", "middle third", "oldest third")


def popularity_slices(events: ArrayLike, targets: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Split cases by the number of training events of their target, for `evaluate_recommendations`.

    Args:
        events (`ArrayLike`): integers `[items]`, number of training events of each item.
        targets (`ArrayLike`): integers `[cases]`, item rows.

    Returns:
        `dict[str, np.ndarray]`: `unseen`, `1-5`, `6-20` and `more`, each `bool` `[cases]`; every case is in exactly
        one of them.

    Example:
        >>> slices = popularity_slices([6, 3, 0], [0, 1, 2])
        >>> {name: is_in_slice.tolist() for name, is_in_slice in slices.items() if is_in_slice.any()}
        {'unseen': [False, False, True], '1-5': [False, True, False], '6-20': [True, False, False]}
    """
    seen = np.asarray(events)[np.asarray(targets)]
    return {"unseen": seen == 0, "1-5": (seen > 0) & (seen <= 5), "6-20": (seen > 5) & (seen <= 20), "more": seen > 20}


def age_slices(ages: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Split cases into thirds by the age of their target, the time since its first training event.

    Args:
        ages (`ArrayLike`): float `[cases]`, as `InteractionData.target_ages` returns; NaN for a target without
            training events.

    Returns:
        `dict[str, np.ndarray]`: `newest third`, `middle third` and `oldest third`, each `bool` `[cases]`; cases of the
        same age are in the same third, and cases without an age in none.

    Example:
        >>> age_slices([5.0, np.nan, 90.0, 20.0])["newest third"].tolist()
        [True, False, False, False]
    """
    ages = np.asarray(ages, dtype=float)
    known = ~np.isnan(ages)
    low, high = np.quantile(ages[known], [1 / 3, 2 / 3]) if known.any() else (np.nan, np.nan)
    return dict(zip(AGES, (ages <= low, (ages > low) & (ages <= high), ages > high), strict=True))
