"""Collision resolution: every item its own SID, and only what the strategy promises to change changes."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.semantic_ids import resolve_collisions
from genrec_hf.semantic_ids.reassignment import AssignedSids, reassign_items

SIZES = (3, 3, 4)
CODES = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=36)
FEW = st.lists(st.tuples(st.integers(0, 1), st.just(0), st.integers(0, 3)), min_size=1, max_size=9)


def by_hand(codes, seed=0):
    """Distances of items to codes, as a quantizer would give them, by a table of what each code stands for."""
    rng = np.random.default_rng(seed)
    books, points = [rng.normal(size=(size, 3)) for size in SIZES], rng.normal(size=(len(codes), 3))

    def distances(items, rows, level):
        rows = np.array(rows).repeat(SIZES[level], axis=0)
        rows[:, level] = np.tile(np.arange(SIZES[level]), len(items))
        stands_for = sum(book[rows[:, at]] for at, book in enumerate(books))
        return np.square(stands_for.reshape(len(items), -1, 3) - points[items][:, None]).sum(axis=2)

    return distances


def favourites(codes, events):
    """The item of each group that is most popular, the first among equals; and the items without collision."""
    groups = {}
    for item, code in enumerate(codes):
        groups.setdefault(tuple(code), []).append(item)
    return {max(group, key=lambda item: (events[item], -item)) for group in groups.values()}, {
        group[0] for group in groups.values() if len(group) == 1
    }


def check_unique(codes, sizes, items):
    assert codes.shape == (items, len(sizes)) and codes.dtype == np.int64
    assert len(np.unique(codes, axis=0)) == items
    assert (codes >= 0).all() and (codes < np.array(sizes)).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_items_of_a_group_are_numbered_in_row_order(codes):
    unique, sizes = resolve_collisions(np.array(codes), (3, 3))
    numbers = [codes[:row].count(code) for row, code in enumerate(codes)]
    if max(numbers) == 0:
        assert unique.tolist() == [list(code) for code in codes] and sizes == (3, 3)
    else:
        assert unique.tolist() == [[*code, number] for code, number in zip(codes, numbers, strict=True)]
        assert sizes == (3, 3, max(numbers) + 1)
    assert len(np.unique(unique, axis=0)) == len(codes)


def test_numbers_follow_popularity_and_spare_leaves_room():
    codes, events = np.array([[1], [0], [1], [1]]), np.array([2, 9, 5, 5])
    assert resolve_collisions(codes, (2,), events)[0].tolist() == [[1, 2], [0, 0], [1, 0], [1, 1]]
    unique, sizes = resolve_collisions(codes, (2,), events.astype(np.uint8), reserved_codes=2)
    assert sizes == (2, 5) and unique[:, 1].tolist() == [2, 0, 0, 1]
    assert resolve_collisions(codes, (2,), extra_size=8, reserved_codes=1)[1] == (2, 9)
    # Room was asked for, so the level is there although nothing collides.
    unique, sizes = resolve_collisions(np.array([[1], [0]]), (2,), reserved_codes=3)
    assert unique.tolist() == [[1, 0], [0, 0]] and sizes == (2, 4)


@given(CODES, st.integers(0, 3), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_random_levels_are_unique_and_as_large_as_said(codes, seed, reserved_codes):
    codes = np.array(codes)
    unique, sizes = resolve_collisions(codes, SIZES, strategy="random-level", seed=seed, reserved_codes=reserved_codes)
    largest = np.unique(codes, axis=0, return_counts=True)[1].max()
    if largest == 1 and not reserved_codes:
        assert unique.tolist() == codes.tolist() and sizes == SIZES
        return
    assert sizes == (*SIZES, int(np.ceil(1.5 * largest)) + reserved_codes)
    check_unique(unique, sizes, len(codes))
    assert unique[:, :3].tolist() == codes.tolist()
    again = resolve_collisions(codes, SIZES, strategy="random-level", seed=seed, reserved_codes=reserved_codes)[0]
    assert unique.tolist() == again.tolist()


def test_every_random_draw_is_as_likely_as_another():
    codes = np.repeat(np.arange(6000), 2)[:, None]
    numbers = resolve_collisions(codes, (6000,), strategy="random-level", seed=1)[0][:, 1].reshape(-1, 2)
    pairs, counts = np.unique(numbers, axis=0, return_counts=True)
    assert pairs.tolist() == [list(pair) for pair in permutations(range(3), 2)]
    assert abs(counts - 1000).max() < 5 * np.sqrt(6000 * (1 / 6) * (5 / 6))


@given(CODES, st.integers(0, 5), st.data())
@settings(max_examples=200, deadline=None)
def test_nearest_keeps_all_but_the_less_popular_of_a_group(codes, seed, data):
    events = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes))))
    distances = by_hand(codes, seed)
    unique, sizes = resolve_collisions(np.array(codes), SIZES, events, strategy="nearest", distances=distances)
    assert sizes == SIZES
    check_unique(unique, sizes, len(codes))
    kept, _ = favourites(codes, events)
    assert all(tuple(unique[item]) == codes[item] for item in kept)
    # An item leaves its prefix only when every last code there is assigned.
    for item, code in enumerate(codes):
        if tuple(unique[item][:2]) != code[:2]:
            assert (unique[:, :2] == code[:2]).all(axis=1).sum() == SIZES[2]
    again = resolve_collisions(np.array(codes), SIZES, events, strategy="nearest", distances=distances)[0]
    assert unique.tolist() == again.tolist()


def test_nearest_is_the_nearest_that_is_free_by_popularity():
    codes, events = np.array([[0, 0], [0, 0], [0, 0], [0, 2], [1, 1]]), np.array([1, 3, 2, 0, 0])
    table = np.array([[0.0, 1.0, 0.1, 5.0], [0, 1, 2, 3], [0, 2, 0.1, 3], [0, 0, 0, 0], [0, 0, 0, 0]])
    # Item 1 stays; item 2 chooses before item 0 and takes 1, as code 2 is item 3's; item 0 gets what is left.
    unique, _ = resolve_collisions(codes, (2, 4), events, strategy="nearest", distances=table)
    assert unique.tolist() == [[0, 3], [0, 0], [0, 1], [0, 2], [1, 1]]
    table[0] = np.inf  # a code that stands for nothing is still a code
    assert (
        resolve_collisions(codes, (2, 4), events, strategy="nearest", distances=table)[0].tolist() == unique.tolist()
    )


def test_a_full_prefix_sends_items_to_the_nearest_other():
    # Codes stand for 10 a + b on a line, and one item more than codes stands near 10.
    items = np.array([9.0, 10.0, 10.1, 10.2, 29.0])
    codes = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [2, 1]])

    def distances(rows, codes, level):
        size, scale = ((3, 10), (3, 1))[level]
        rest = codes @ np.array([10, 1]) - codes[:, level] * scale
        return np.abs(rest[:, None] + np.arange(size) * scale - items[rows][:, None])

    unique, _ = resolve_collisions(codes, (3, 3), np.array([0, 3, 2, 1, 0]), strategy="nearest", distances=distances)
    assert unique.tolist() == [[0, 2], [1, 0], [1, 1], [1, 2], [2, 1]]  # item 0, at 9, is nearer to 2 than to 20
    with pytest.raises(ValueError, match=r"prefix \(1,\) of item row 0 has more items than the 3 codes"):
        resolve_collisions(codes, (3, 3), np.array([0, 3, 2, 1, 0]), strategy="nearest", distances=np.zeros((5, 3)))


@given(FEW, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_sinkhorn_changes_last_codes_of_colliding_items_at_the_least_cost(codes, seed):
    distances = by_hand(codes, seed)
    fullest = max(sum(other[:2] == code[:2] for other in codes) for code in codes)
    if fullest > SIZES[2]:
        with pytest.raises(ValueError, match=f"at most {fullest} .* cannot distinguish them"):
            resolve_collisions(np.array(codes), SIZES, strategy="sinkhorn", distances=distances)
        return
    unique, sizes = resolve_collisions(np.array(codes), SIZES, strategy="sinkhorn", distances=distances)
    assert sizes == SIZES
    check_unique(unique, sizes, len(codes))
    assert (unique[:, :2] == np.array(codes)[:, :2]).all()
    _, alone = favourites(codes, [0] * len(codes))
    assert all(tuple(unique[item]) == codes[item] for item in alone)
    for prefix in {code[:2] for code in codes}:
        items = [item for item, code in enumerate(codes) if code[:2] == prefix and item not in alone]
        if not items:
            continue
        others = {codes[item][2] for item in alone if codes[item][:2] == prefix}
        free = [code for code in range(SIZES[2]) if code not in others]
        costs = distances(np.array(items), np.array(codes)[items], 2)
        totals = [sum(costs[range(len(items)), list(way)]) for way in permutations(free, len(items))]
        assert costs[range(len(items)), unique[items, 2]].sum() == pytest.approx(min(totals))


def test_batches_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 4, (40, 3)), axis=0) % SIZES
    distances = by_hand(codes)
    one_a_prefix = codes[np.unique(codes[:, :2], axis=0, return_index=True)[1]]
    for strategy, ours in {"nearest": codes, "sinkhorn": np.repeat(one_a_prefix, 3, axis=0)}.items():
        whole = resolve_collisions(ours, SIZES, None, strategy=strategy, distances=distances)[0]
        for entries in (1, 9, 20):
            monkeypatch.setattr("genrec_hf.semantic_ids.reassignment.ENTRIES", entries)
            assert (
                resolve_collisions(ours, SIZES, None, strategy=strategy, distances=distances)[0].tolist()
                == whole.tolist()
            )
        monkeypatch.undo()


@given(CODES, CODES)
@settings(max_examples=100, deadline=None)
def test_places_are_free_and_wanted_ones_are_given(there, wanted):
    there = sorted(set(there))
    wanted = wanted[: 36 - len(there)] if len(there) < 36 else []
    if not wanted:
        return
    assigned = AssignedSids(np.array(there), SIZES)
    placed = reassign_items(np.arange(len(wanted)), np.array(wanted), assigned, distances=by_hand(wanted))
    assert len({*there, *map(tuple, placed.tolist())}) == len(there) + len(wanted)
    for item, code in enumerate(wanted):
        if code not in there and code not in wanted[:item]:
            assert tuple(placed[item]) == code
    assert sum(assigned._count(()).tolist()) == len(there) + len(wanted)


def test_none_returns_what_it_got():
    codes = np.array([[1, 1], [1, 1]])
    assert resolve_collisions(codes, (2, 2), strategy="none")[0].tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("codes", "given", "match"),
    [
        ([[0, 0]], {"strategy": "best"}, "use one of extra-level, random-level"),
        ([[0.5, 1.0]], {}, "pass integers"),
        ([0, 1], {}, r"shape \(2,\)"),
        ([[0, 2]], {}, "outside of the level sizes"),
        ([[0, 0]] * 2, {"events": np.ones(3)}, "3 event counts for 2 items"),
        ([[0, 0]] * 3, {"extra_size": 2}, "extra_size=2 for a group of 3"),
        ([[0, 0]] * 3, {"reserved_codes": -1}, "reserved_codes=-1"),
        ([[0, 0]] * 2, {"strategy": "nearest", "reserved_codes": 1}, "adds no level"),
        ([[0, 0]] * 2, {"strategy": "nearest"}, r"pass distances=quantizer\.distances"),
        ([[0, 0]] * 2, {"strategy": "sinkhorn", "distances": np.zeros((2, 3))}, r"distances of shape \(2, 3\)"),
        ([[0, 0]] * 2, {"strategy": "sinkhorn", "distances": np.full((2, 2), np.nan)}, "with NaN"),
        (
            [[0, 0]] * 3,
            {"strategy": "sinkhorn", "distances": np.zeros((3, 2))},
            r"1 prefixes .* at most 3 \(prefix \(0,\)\)",
        ),
        ([[0, 0]] * 5, {"strategy": "nearest", "distances": np.zeros((5, 2))}, "5 items for the 4 SIDs"),
    ],
)
def test_what_cannot_be_resolved_raises(codes, given, match):
    with pytest.raises(ValueError, match=match):
        resolve_collisions(np.array(codes), (2, 2), **given)


def test_a_prefix_is_looked_up_without_a_pass_over_the_catalogue():
    codes = np.stack(np.unravel_index(np.arange(300_000), (30, 100, 100)), axis=1)
    assigned = AssignedSids(codes, (30, 100, 101))
    assert assigned.has_unassigned(()).all()  # an unassigned SID under each
    tracemalloc.start()
    assert np.flatnonzero(assigned.has_unassigned((3, 7))).tolist() == [100]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000
