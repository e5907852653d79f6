"""Effects of filtering seen items: how many items a list may hold, and how many targets cannot be hit."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def count_available_items(histories: Sequence[ArrayLike], items: int) -> NDArray[np.int64]:
    """Count the items of the catalogue that are not in the history of each case.

    Args:
        histories (`Sequence`): item rows of each case.
        items (`int`): size of the catalogue.

    Returns:
        `np.ndarray`: int64 `[cases]`.

    Example:
        >>> count_available_items([[3, 3, 1], []], items=4).tolist()
        [2, 4]
    """
    return np.array([items - len(np.unique(np.asarray(history))) for history in histories], dtype=np.int64)


def filtered_targets(histories: Sequence[ArrayLike], targets: ArrayLike, warn: bool = True) -> float:
    """Compute the share of targets that are in their histories, which no list can hold if seen items are filtered.

    Args:
        histories (`Sequence`): item rows of each case.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        warn (`bool`, defaults to `True`): warn if the share is above 0.

    Returns:
        `float`: share in [0, 1]; 0 for no cases.

    Example:
        >>> filtered_targets([[3, 1], [2]], [1, 0], warn=False)
        0.5
    """
    pairs = zip(histories, np.asarray(targets), strict=True)
    is_seen = [bool(np.isin(target, history)) for history, target in pairs]
    share = float(np.mean(is_seen)) if is_seen else 0.0
    if share > 0 and warn:
        warnings.warn(
            f"{share:.1%} of the targets are in their own histories, which are filtered: no system can hit them"
            f"{', and every metric is 0' if share == 1 else ''}; if users interact with items repeatedly, pass "
            "filter_seen=False, or read the results for seen items allowed",
            stacklevel=3,
        )
    return share
