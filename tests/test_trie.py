"""The trie's arrays against sets of prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds
from genrec_hf.generation import SidTrie

codes_lists = st.integers(1, 4).flatmap(
    lambda levels: st.lists(st.tuples(*[st.integers(0, 3)] * levels), min_size=1, max_size=30)
)


def prefixes(codes, level):
    return sorted({tuple(code[:level]) for code in codes})


@given(codes_lists)
@settings(max_examples=150, deadline=None)
def test_nodes_are_the_prefixes_in_order(codes):
    trie = SidTrie(np.array(codes))
    assert trie.levels == len(codes[0]) and len(trie) == len(codes)
    for level in range(trie.levels):
        above, below = prefixes(codes, level), prefixes(codes, level + 1)
        assert [
            (*above[parent], code) for parent, code in zip(trie.parents[level], trie.codes[level], strict=True)
        ] == below
        for node, prefix in enumerate(above):
            children = slice(trie.first_child[level][node], trie.first_child[level][node + 1])
            assert below[children] == [child for child in below if child[:level] == prefix]
        assert trie.counts[level].tolist() == [sum(code[:level] == prefix for code in codes) for prefix in above]
    leaves = prefixes(codes, trie.levels)
    assert [leaves[leaf] for leaf in trie.leaf] == codes
    assert trie.counts[-1].tolist() == [codes.count(leaf) for leaf in leaves]
    assert trie.items(np.arange(len(leaves))).tolist() == [codes.index(leaf) for leaf in leaves]
    assert trie.items(np.array([-1, 0])).tolist() == [-1, codes.index(leaves[0])]


@given(codes_lists)
@settings(max_examples=100, deadline=None)
def test_child_walks_every_prefix_and_refuses_every_other(codes):
    trie = SidTrie(np.array(codes))
    for level in range(trie.levels):
        above, below = prefixes(codes, level), prefixes(codes, level + 1)
        nodes, tried = (part.reshape(-1) for part in np.meshgrid(np.arange(-1, len(above)), np.arange(-2, 6)))
        expected = []
        for node, code in zip(nodes, tried, strict=True):
            prefix = (*above[node], code) if node >= 0 else None
            expected.append(below.index(prefix) if prefix in below else -1)
        assert trie.child(level, nodes, tried).tolist() == expected


@given(codes_lists, st.data())
@settings(max_examples=100, deadline=None)
def test_dead_nodes_are_the_prefixes_that_no_item_is_left_below(codes, data):
    trie = SidTrie(np.array(codes))
    denied = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=2 * len(codes)))
    dead = trie.dead_nodes(np.array(denied, dtype=np.int64))
    left = [code for item, code in enumerate(codes) if item not in denied]
    assert len(dead) == trie.levels
    for level in range(1, trie.levels + 1):
        alive = set(prefixes(left, level))
        expected = [node for node, prefix in enumerate(prefixes(codes, level)) if prefix not in alive]
        assert dead[level - 1].tolist() == expected


def test_semantic_ids_and_their_codes_give_the_same_trie():
    sids = SemanticIds([[0, 1], [2, 0], [2, 1]], (4, 5), ["a", "b", "c"])
    one, other = SidTrie(sids), SidTrie(sids.codes)
    assert one.leaf.tolist() == other.leaf.tolist() and one.codes[0].tolist() == other.codes[0].tolist() == [0, 2]


@pytest.mark.parametrize("codes", [np.zeros((0, 2), dtype=int), np.zeros(3, dtype=int), np.array([[0, -1]])])
def test_codes_that_make_no_trie_raise(codes):
    with pytest.raises(ValueError, match="a trie needs"):
        SidTrie(codes)
