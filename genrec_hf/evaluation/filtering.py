"""What is left to recommend where seen items are filtered: places in lists, and targets that can be hit."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def items_left(histories: Sequence[ArrayLike], items: int) -> NDArray[np.int64]:
    """Count the items that each case's list may hold when those of its history may not stand in it.

    Args:
        histories: One integer array of item rows a case.
        items: Size of the catalogue.

    Returns:
        Integer array `[cases]`.

    Example:
        >>> items_left([[3, 3, 1], []], items=4).tolist()
        [2, 4]
    """
    return np.array([items - len(np.unique(np.asarray(history))) for history in histories], dtype=np.int64)


def filtered_targets(histories: Sequence[ArrayLike], targets: ArrayLike, warn: bool = True) -> float:
    """Measure the share of targets that stand in their histories: with seen items filtered no list can hold them.

    Args:
        histories: One integer array of item rows a case.
        targets: Integer array `[cases]` of item rows.
        warn: Whether to warn when there are any.

    Returns:
        Share in [0, 1]; 0 for no cases.

    Example:
        >>> filtered_targets([[3, 1], [2]], [1, 0], warn=False)
        0.5
    """
    pairs = zip(histories, np.asarray(targets), strict=True)
    repeated = [bool(np.isin(target, history)) for history, target in pairs]
    share = float(np.mean(repeated)) if repeated else 0.0
    if share > 0 and warn:
        warnings.warn(
            f"{share:.1%} of the targets are items of their own histories, which are filtered: no system can hit them"
            f"{', and every metric is 0' if share == 1 else ''}; where users come back to items, allow seen items "
            "(filter_seen=False), or read that half of the report",
            stacklevel=3,
        )
    return share
