"""What a request's filters leave of the trie, against a trie rebuilt from the items it may get."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.generation import RequestFilters, SidTrie

codes_lists = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(0, 3)] * levels), min_size=1, max_size=25).map(
        lambda codes: codes + codes[: len(codes) % 4]
    )
)


def some_rows(items):
    """Few or many, in any order and with repeats; none; all; all but a few."""
    few = st.lists(st.integers(0, items - 1), max_size=8)
    rest = few.map(lambda rows: sorted(set(range(items)) - set(rows)))
    return few | rest | st.lists(st.integers(0, items - 1), max_size=2 * items)


@st.composite
def cases(draw):
    codes = draw(codes_lists)
    rows = some_rows(len(codes))
    requests = draw(st.integers(1, 4))
    which = draw(st.sampled_from(["deny", "allow", "both"]))
    deny = draw(st.lists(rows, min_size=requests, max_size=requests)) if which != "allow" else None
    allow = draw(st.lists(rows | st.none(), min_size=requests, max_size=requests)) if which != "deny" else None
    return codes, deny, allow


def items_left(codes, deny, allow):
    for denied, allowed in zip(deny or [[]] * len(allow), allow or [None] * len(deny), strict=True):
        yield [item for item in range(len(codes)) if item not in denied and (allowed is None or item in allowed)]


def prefixes(trie):
    levels = [[()]]
    for codes, first_child in zip(trie.codes, trie.first_child, strict=True):
        parents = torch.arange(len(levels[-1])).repeat_interleave(first_child.diff())
        levels.append([(*levels[-1][at], code) for at, code in zip(parents.tolist(), codes.tolist(), strict=True)])
    return levels


def every_child(trie, level, rows):
    return trie.children(level, torch.arange(trie.nodes(level)).expand(rows, -1))


def legal_prefixes(trie, filters):
    """For each request, the prefixes of each level that `allowed` lets through."""
    found = [[{()}] for _ in range(len(filters))]
    for level, names in enumerate(prefixes(trie)[1:]):
        children, _, real = every_child(trie, level, len(filters))
        legal = filters.allowed(level, children) & real
        for levels, mine, let in zip(found, children, legal, strict=True):
            levels.append({names[child] for child in mine[let].tolist()})
    return found


@given(cases())
@settings(max_examples=200, deadline=None)
def test_legal_is_what_a_rebuilt_trie_holds(case):
    codes, deny, allow = case
    trie = SidTrie(np.array(codes))
    filters = RequestFilters(trie, deny, allow)
    nothing = [{()}, *[set()] * trie.levels]
    expected = [
        [set(level) for level in prefixes(SidTrie(np.array(codes)[left]))] if left else nothing
        for left in items_left(codes, deny, allow)
    ]
    assert len(filters) == len(expected) and legal_prefixes(trie, filters) == expected


@given(cases())
@settings(max_examples=150, deadline=None)
def test_allows_is_asked_item_by_item(case):
    codes, deny, allow = case
    filters = RequestFilters(SidTrie(np.array(codes)), deny, allow)
    for request, left in enumerate(items_left(codes, deny, allow)):
        items = np.arange(len(codes))[::-1]
        assert filters.allows(request, items).tolist() == [item in left for item in items]


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_rows_may_name_their_request(case, data):
    codes, deny, allow = case
    trie = SidTrie(np.array(codes))
    filters = RequestFilters(trie, deny, allow)
    asked = torch.tensor(data.draw(st.lists(st.integers(0, len(filters) - 1), min_size=1, max_size=6)))
    for level in range(trie.levels):
        own = filters.allowed(level, every_child(trie, level, len(filters))[0])
        named = filters.allowed(level, every_child(trie, level, len(asked))[0], request=asked)
        assert named.dtype == torch.bool and torch.equal(named, own[asked])


def test_one_of_two_items_of_a_sid_may_be_denied():
    trie = SidTrie(np.array([[0, 0], [0, 0], [0, 1], [1, 0]]))
    filters = RequestFilters(trie, deny=[[0], [0, 1], [1, 0, 1, 0, 1], [0, 1, 2]])
    whole, half = {(0, 0), (0, 1), (1, 0)}, {(0, 1), (1, 0)}
    assert [found[2] for found in legal_prefixes(trie, filters)] == [whole, half, half, {(1, 0)}]
    assert [found[1] for found in legal_prefixes(trie, filters)] == [{(0,), (1,)}] * 3 + [{(1,)}]
    assert filters.allows(0, np.array([0, 1])).tolist() == [False, True]


def test_an_empty_allow_list_is_not_the_lack_of_one():
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
    filters = RequestFilters(trie, allow=[[], None, [2], [1, 0, 2]])
    assert [len(found[2]) for found in legal_prefixes(trie, filters)] == [0, 3, 1, 3]
    assert filters.allowed(0, torch.tensor([[[0, 1]]] * 4))[:, 0].tolist() == [
        [False, False],
        [True, True],
        [False, True],
        [True, True],
    ]


@pytest.mark.parametrize("lists", [{"deny": [[], []]}, {"allow": [None, None]}, {"allow": [[], []]}])
def test_requests_that_list_nothing_get_all_or_nothing(lists):
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
    everything = lists != {"allow": [[], []]}
    for level in range(2):
        children, _, _ = every_child(trie, level, 2)
        assert bool((RequestFilters(trie, **lists).allowed(level, children) == everything).all())


@pytest.mark.parametrize("name", ["deny", "allow"])
def test_the_shorter_side_of_a_list_is_looked_at(name):
    codes = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1)
    filters = RequestFilters(SidTrie(codes), **{name: [[7, 8]]})
    long = RequestFilters(SidTrie(codes), allow=[np.setdiff1d(np.arange(1000), [7, 8])])
    for each in (filters, long):
        assert each.listed[0].tolist() == [7, 8] and sum(map(len, each.keys)) <= 2 * 3


def test_short_lists_cost_no_more_in_a_large_catalogue():
    trie = SidTrie(np.stack(np.divmod(np.arange(300_000), 1000), axis=1))
    assert trie.leaf[299_999] == 299_999  # made once
    tracemalloc.start()
    filters = RequestFilters(trie, deny=[[5, 299_999], [0]], allow=[None, [0, 7]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each.tolist() for each in filters.listed] == [[5, 299_999], [7]] and peak < 50_000


def test_no_requests_are_no_filters():
    trie = SidTrie(np.array([[0, 1], [0, 0]]))
    for filters in (RequestFilters(trie, deny=[]), RequestFilters(trie, allow=[]), RequestFilters(trie, [], [])):
        assert len(filters) == 0 and filters.allowed(1, torch.zeros(0, 1, 2, dtype=torch.long)).shape == (0, 1, 2)


def test_rows_of_arrays_are_rows_of_lists():
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
    arrays = RequestFilters(trie, [np.array([1, 0], np.int32), np.zeros(0)], [None, np.array([2])])
    lists = RequestFilters(trie, [[1, 0], []], [None, [2]])
    assert legal_prefixes(trie, arrays) == legal_prefixes(trie, lists)


@pytest.mark.parametrize("rows", [[-1], [3], [0, 1, 2, 3], [-1, 3], [2**40]])
@pytest.mark.parametrize("name", ["deny", "allow"])
def test_rows_outside_the_catalogue_are_refused(name, rows):
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]))
    with pytest.raises(ValueError, match=f"item rows {min(rows)} to {max(rows)} for 3 items"):
        RequestFilters(trie, **{name: [[], rows]})


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "neither deny nor allow"),
        ({"deny": [[0]], "allow": [[0], None]}, "1 deny lists and 2 allow lists"),
        ({"deny": [], "allow": [[0]]}, "0 deny lists and 1 allow lists"),
        ({"deny": [[0]], "allow": []}, "1 deny lists and 0 allow lists"),
    ],
)
def test_requests_are_counted(lists, message):
    with pytest.raises(ValueError, match=message):
        RequestFilters(SidTrie(np.array([[0, 1], [0, 0]])), **lists)
