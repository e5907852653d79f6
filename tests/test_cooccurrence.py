import numpy as np
import pytest

from genrec_hf.data.cooccurrence import cooccurrence_counts


def brute_force(sequences: list[np.ndarray], items: int, window: int) -> np.ndarray:
    counts = np.zeros((items, items))
    for sequence in sequences:
        for left, first in enumerate(sequence):
            for second in sequence[left + 1 : left + 1 + window]:
                if first != second:
                    counts[first, second] += 1
                    counts[second, first] += 1
    return counts


@pytest.mark.parametrize("window", [1, 3, 50])
def test_counts_equal_a_loop_over_all_pairs(window: int) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(8, size=length) for length in (0, 1, 2, 9, 20)]
    counted = cooccurrence_counts(sequences, items=8, window=window).toarray()
    assert np.array_equal(counted, brute_force(sequences, 8, window))


def test_nothing_co_occurs_without_two_events() -> None:
    assert cooccurrence_counts([np.array([3])], items=5, window=2).nnz == 0
