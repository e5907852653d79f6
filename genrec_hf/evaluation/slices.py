"""Parts of the cases that a report looks at on their own: by how often and how long their targets were seen."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

AGES = ("newest third", "middle third", "oldest third")


def popularity_slices(events: ArrayLike, targets: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Split cases by how often their target was seen in training, for `evaluate_recommendations`.

    Args:
        events: Integer array `[items]`, training events of each item.
        targets: Integer array `[cases]` of item rows.

    Returns:
        `unseen`, `1-5`, `6-20`, `more`, each `[cases]`; every case is in one of them.

    Example:
        >>> slices = popularity_slices([6, 3, 0], [0, 1, 2])
        >>> {name: mine.tolist() for name, mine in slices.items() if mine.any()}
        {'unseen': [False, False, True], '1-5': [False, True, False], '6-20': [True, False, False]}
    """
    seen = np.asarray(events)[np.asarray(targets)]
    return {"unseen": seen == 0, "1-5": (seen > 0) & (seen <= 5), "6-20": (seen > 5) & (seen <= 20), "more": seen > 20}


def age_slices(ages: ArrayLike) -> dict[str, NDArray[np.bool_]]:
    """Split cases by how long before the case their target was first seen in training, into thirds.

    Args:
        ages: Float array `[cases]`, as `InteractionData.target_ages` gives them; NaN where the target was never seen.

    Returns:
        `newest third`, `middle third`, `oldest third`, each `[cases]`; cases of one age are not parted, and those
        without an age are in none.

    Example:
        >>> {name: mine.tolist() for name, mine in age_slices([5.0, np.nan, 90.0, 20.0]).items()}["newest third"]
        [True, False, False, False]
    """
    ages = np.asarray(ages, dtype=float)
    known = ~np.isnan(ages)
    low, high = np.quantile(ages[known], [1 / 3, 2 / 3]) if known.any() else (np.nan, np.nan)
    return dict(zip(AGES, (ages <= low, (ages > low) & (ages <= high), ages > high), strict=True))
