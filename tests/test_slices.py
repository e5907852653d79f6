"""Slices of a report: each case where its target belongs."""

import numpy as np

from genrec_hf.evaluation import age_slices, popularity_slices


def rows(slices):
    return {name: np.flatnonzero(mine).tolist() for name, mine in slices.items()}


def test_targets_by_how_often_they_were_seen():
    found = rows(popularity_slices([5, 6, 20, 21, 0, 0], [0, 1, 2, 3, 4]))
    assert found == {"unseen": [4], "1-5": [0], "6-20": [1, 2], "more": [3]}


def test_targets_by_how_long_they_were_known():
    found = rows(age_slices([8.0, np.nan, 1.0, 1.0, 1.0, 90.0, 100.0]))
    assert found == {"newest third": [2, 3, 4], "middle third": [0], "oldest third": [5, 6]}
    assert rows(age_slices([3.0, 3.0])) == {"newest third": [0, 1], "middle third": [], "oldest third": []}
    assert rows(age_slices([np.nan])) == {"newest third": [], "middle third": [], "oldest third": []}
