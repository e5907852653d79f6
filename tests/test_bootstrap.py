"""Bootstrap intervals and paired tests against theory."""

import math

import numpy as np
import pytest

from genrec_hf.evaluation.bootstrap import bootstrap_interval, bootstrap_intervals, paired_bootstrap


def test_interval_of_a_share_has_the_binomial_width():
    values = np.repeat([0.0, 1.0], [900, 100])
    low, high = bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.1 * 0.9 / 1000)
    assert low == pytest.approx(0.1 - half, abs=0.003)
    assert high == pytest.approx(0.1 + half, abs=0.003)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < 0.1 < narrow[1] < high


def test_cases_of_one_user_are_resampled_together():
    # Ten equal cases a user hold no more than one: the interval of 100 users, not of 1,000 cases.
    per_user = np.repeat([0.0, 1.0], 50)
    users = np.repeat(np.arange(100), 10)
    clustered = bootstrap_interval(np.repeat(per_user, 10), users)
    np.testing.assert_allclose(clustered, bootstrap_interval(per_user))
    low, high = bootstrap_interval(np.repeat(per_user, 10))
    assert high - low < 0.5 * (clustered[1] - clustered[0])


def test_users_with_more_cases_weigh_more():
    values, users = [1.0, 0.0, 0.0, 0.0], ["ann", "bob", "bob", "bob"]
    assert bootstrap_interval(values, users) == (0.0, 1.0)
    low, high = bootstrap_interval(values * 50, [f"{name}{i}" for i in range(50) for name in users])
    assert low < np.mean(values) < high


def test_chunks_do_not_change_the_draws_sizes(monkeypatch):
    values = np.arange(10.0)
    whole = bootstrap_interval(values, resamples=400)
    monkeypatch.setattr("genrec_hf.evaluation.bootstrap._MAX_INDICES", 35)
    assert bootstrap_interval(values, resamples=400) == whole


def test_intervals_share_their_draws_and_repeat():
    rng = np.random.default_rng(0)
    per_case = {"a": rng.random(50), "b": rng.random(50)}
    both = bootstrap_intervals(per_case, seed=3)
    for name, values in per_case.items():
        np.testing.assert_allclose(both[name], bootstrap_interval(values, seed=3))
    assert both == bootstrap_intervals(per_case, seed=3) != bootstrap_intervals(per_case, seed=4)


def test_no_hit_gives_an_interval_of_zero():
    assert bootstrap_interval(np.zeros(10)) == (0.0, 0.0)


def test_pairing_finds_a_small_steady_gain():
    rng = np.random.default_rng(0)
    b = (rng.random(2000) < 0.1).astype(float)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:20]] = 1
    result = paired_bootstrap(a, b)
    assert result["difference"] == pytest.approx(20 / 2000)
    assert 0 < result["low"] < 20 / 2000 < result["high"]
    assert result["p"] == pytest.approx(2 / 1001)
    swapped = paired_bootstrap(b, a)
    assert (swapped["difference"], swapped["p"]) == (pytest.approx(-20 / 2000), result["p"])
    # Unpaired, the same gain drowns in how much users differ.
    assert bootstrap_interval(a)[0] < b.mean()


def test_pairing_needs_the_same_cases():
    with pytest.raises(ValueError, match="a paired comparison needs the same cases"):
        paired_bootstrap([1.0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "at least one case"),
        ({"values": [1.0], "users": [1, 2]}, "got 2 users for 1 values"),
        ({"values": [1.0], "confidence": 95}, "got confidence=95"),
    ],
)
def test_bootstrap_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)
