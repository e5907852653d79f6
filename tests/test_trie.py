"""The trie's tensors against sets of prefixes, in both ways of sorting and both ways of looking a child up."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.generation import SidTrie

# The first and last codes of each integer type that the trie stores codes in.
EDGES = [0, 1, 2**8 - 1, 2**8, 2**15 - 1, 2**15, 2**31 - 1]


def lists_of_codes(code):
    return st.integers(1, 4).flatmap(
        lambda levels: st.lists(st.tuples(*[code] * levels), min_size=1, max_size=30).map(
            lambda codes: codes + codes[: len(codes) % 4]
        )
    )


codes_lists = lists_of_codes(st.integers(0, 3)) | lists_of_codes(st.sampled_from(EDGES))


def prefixes(codes, level):
    return sorted({tuple(code[:level]) for code in codes})


@given(codes_lists)
@settings(max_examples=150, deadline=None)
def test_nodes_are_the_prefixes_in_order(codes):
    trie = SidTrie(np.array(codes))
    assert trie.levels == len(codes[0]) and len(trie) == len(codes)
    assert trie.sizes == [max(column) + 1 for column in zip(*codes, strict=True)]
    assert trie.token_ids is None and trie.nodes(0) == 1
    for level in range(trie.levels):
        above, below = prefixes(codes, level), prefixes(codes, level + 1)
        assert trie.nodes(level + 1) == len(below)
        assert trie.codes[level].tolist() == [prefix[-1] for prefix in below]
        bounds = trie.first_child[level].tolist()
        assert len(bounds) == len(above) + 1
        families = [[child for child in below if child[:level] == prefix] for prefix in above]
        assert [below[first:stop] for first, stop in pairwise(bounds)] == families
        assert trie.max_children[level] == max(map(len, families))


@given(codes_lists, st.data())
@settings(max_examples=150, deadline=None)
def test_children_stand_side_by_side(codes, data):
    trie = SidTrie(np.array(codes))
    level = data.draw(st.integers(0, trie.levels - 1))
    above, below = prefixes(codes, level), prefixes(codes, level + 1)
    node = st.integers(0, len(above) - 1)
    asked = data.draw(st.lists(st.tuples(node, node), min_size=1, max_size=4))
    families = [[[c for c in below if c[:level] == above[node]] for node in row] for row in asked]
    needed = max(len(family) for row in families for family in row)
    for most in (None, needed, trie.max_children[level], needed + data.draw(st.integers(1, 40))):
        children, last, real = trie.children(level, torch.tensor(asked), most)
        assert children.shape == last.shape == real.shape == (len(asked), 2, needed if most is None else most)
        assert children.dtype == last.dtype == torch.long
        assert children.min() >= 0 and children.max() < len(below)
        for row, family_of in enumerate(families):
            for beam, family in enumerate(family_of):
                exist = real[row, beam]
                assert exist.tolist() == [True] * len(family) + [False] * (len(exist) - len(family))
                assert [below[child] for child in children[row, beam, exist].tolist()] == family
                assert last[row, beam, exist].tolist() == [child[-1] for child in family]


@pytest.mark.parametrize("entries", [None, 0], ids=["tables", "bisection"])
@given(codes=codes_lists)
@settings(max_examples=100, deadline=None)
def test_child_walks_every_prefix_and_refuses_every_other(entries, codes):
    with pytest.MonkeyPatch.context() as patch:
        if entries is not None:
            patch.setattr("genrec_hf.generation.trie.DENSE_ENTRIES", entries)
        trie = SidTrie(np.array(codes))
    assert entries is None or trie.tables == [None] * trie.levels
    tries = [-(2**40), -2, -1, *range(6), *(edge + step for edge in EDGES for step in (-1, 0, 1)), 2**40]
    for level in range(trie.levels):
        above, below = prefixes(codes, level), {prefix: n for n, prefix in enumerate(prefixes(codes, level + 1))}
        pairs = [(node, code) for node in range(-1, len(above)) for code in tries]
        expected = [below.get((*above[node], code), -1) if node >= 0 else -1 for node, code in pairs]
        nodes, tried = torch.tensor(pairs).T
        assert trie.child(level, nodes, tried).tolist() == expected


def test_bisection_finds_each_of_many_children(monkeypatch):
    monkeypatch.setattr("genrec_hf.generation.trie.DENSE_ENTRIES", 0)
    for many in [1, 2, 3, 4, 7, 8, 9, 255, 256, 257]:
        trie = SidTrie(np.array([[0, 500], *([1, 2 * code + 1] for code in range(many)), [2, 0]]))
        tried = torch.arange(-1, 2 * many + 2)
        expected = [1 + code // 2 if code in range(1, 2 * many, 2) else -1 for code in tried.tolist()]
        assert trie.child(1, torch.ones_like(tried), tried).tolist() == expected


@given(codes_lists)
@settings(max_examples=150, deadline=None)
def test_parents_and_counts_are_those_of_the_prefixes(codes):
    trie = SidTrie(np.array(codes))
    for level in range(trie.levels + 1):
        nodes = prefixes(codes, level)
        below = [sum(code[:level] == prefix for code in codes) for prefix in nodes]
        assert trie.count(level, torch.arange(len(nodes))).tolist() == below
        assert trie.count(level, torch.arange(len(nodes)).flip(0)[None]).tolist() == [below[::-1]]
        if level > 0:
            above = prefixes(codes, level - 1)
            parents = [above.index(prefix[:-1]) for prefix in nodes]
            assert trie.parent(level - 1, torch.arange(len(nodes))).tolist() == parents


@given(codes_lists)
@settings(max_examples=150, deadline=None)
def test_leaves_lead_to_their_items_and_back(codes):
    trie = SidTrie(np.array(codes))
    leaves = prefixes(codes, trie.levels)
    assert trie.shares_sids == (len(leaves) < len(codes))
    assert trie.leaf.dtype == torch.int32 and [leaves[leaf] for leaf in trie.leaf.tolist()] == codes
    first = [codes.index(leaf) for leaf in leaves]
    assert trie.items(torch.arange(len(leaves))).tolist() == first
    assert trie.items(torch.tensor([[-1, 0], [len(leaves) - 1, -1]])).tolist() == [[-1, first[0]], [first[-1], -1]]
    assert trie.items(trie.leaf).tolist() == [codes.index(code) for code in codes]
    for leaf, prefix in enumerate(leaves):
        assert trie.items_of(leaf).tolist() == [item for item, code in enumerate(codes) if code == prefix]


def test_items_of_one_sid_come_in_the_order_of_their_rows():
    trie = SidTrie(np.array([[1, 1], [0, 2], [1, 1], [0, 0], [1, 1], [0, 2]]))
    assert [trie.items_of(leaf).tolist() for leaf in range(3)] == [[3], [1, 5], [0, 2, 4]]
    assert trie.items(torch.tensor([2, 1, 0])).tolist() == [0, 1, 3] and trie.shares_sids


@pytest.mark.parametrize("last", [2**20 - 1, 2**31 - 1], ids=["whole numbers of 63 bits", "lexsort"])
def test_codes_may_be_large(last):
    codes = [(last, last, last), (last, 0, last), (0, last, 1), (last, last, last - 1), (last, last, 0), (0, 0, 0)]
    trie = SidTrie(np.array(codes, dtype=np.int64))
    assert [codes[item] for item in trie.items(torch.arange(6)).tolist()] == sorted(codes)
    assert trie.codes[2].tolist() == [0, 1, last, 0, last - 1, last]
    found = torch.zeros(len(codes), dtype=torch.long)
    for level in range(3):
        found = trie.child(level, found, torch.tensor(codes)[:, level])
    assert found.tolist() == trie.leaf.tolist()


def test_a_million_items_take_ten_bytes_each():
    spread = np.arange(1_000_000) * 2654435761 % 2**32  # an odd factor: no two alike
    trie = SidTrie(spread[:, None] >> np.array([24, 16, 8, 0]) & 255)
    assert trie.nodes(4) == len(trie) == 1_000_000 and not trie.shares_sids
    assert 8e6 < trie.nbytes < 12e6


def test_bytes_are_those_of_the_tensors():
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1], [2, 1]]))
    codes, first_child, tables, order, repeats = 2 + 3, 4 * (2 + 3), 4 * (1 * 3 + 2 * 2), 4 * 4, 4 * 1
    assert trie.nbytes == codes + first_child + tables + order + repeats


def test_a_trie_where_it_should_be_is_not_copied():
    trie = SidTrie(np.array([[0, 1], [0, 0]]))
    assert trie.to("cpu") is trie and trie.to(torch.device("cpu")) is trie and trie.device.type == "cpu"


def test_semantic_ids_and_their_codes_give_the_same_trie():
    sids = SemanticIds([[0, 1], [2, 0], [2, 1]], (4, 5), ["a", "b", "c"])
    one, other = SidTrie(sids), SidTrie(sids.codes)
    assert one.sizes == other.sizes == [3, 2] and one.leaf.tolist() == other.leaf.tolist() == [0, 1, 2]
    for name in ("codes", "first_child", "tables"):
        for mine, its in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(mine, its)


def test_one_item_is_a_path():
    trie = SidTrie(np.array([[3, 0, 7]]))
    assert [trie.nodes(level) for level in range(4)] == [1, 1, 1, 1] and trie.max_children == [1, 1, 1]
    assert trie.leaf.tolist() == trie.items(torch.tensor([0])).tolist() == trie.items_of(0).tolist() == [0]
    assert trie.child(2, torch.tensor([0, 0]), torch.tensor([7, 6])).tolist() == [0, -1]


def test_one_level_is_a_sorted_list():
    trie = SidTrie(np.array([[5], [2], [5], [0]]))
    assert trie.codes[0].tolist() == [0, 2, 5] and trie.first_child[0].tolist() == [0, 3]
    assert trie.leaf.tolist() == [2, 1, 2, 0] and trie.count(0, torch.tensor([0])).tolist() == [4]


@pytest.mark.parametrize(
    "codes", [np.zeros((0, 2), int), np.zeros((2, 0), int), np.zeros(3, int), np.zeros((1, 1, 1), int), [[0, -1]]]
)
def test_codes_that_make_no_trie_raise(codes):
    with pytest.raises(ValueError, match="a trie needs"):
        SidTrie(np.array(codes))


def test_binding_adds_the_token_of_each_code(toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    trie = SidTrie(toy_sids)
    for bound in (trie.bind(vocabulary), SidTrie(toy_sids, vocabulary), SidTrie(toy_sids.codes[:7]).bind(vocabulary)):
        for letter, size, ids in zip("ab", toy_sids.level_sizes, bound.token_ids, strict=True):
            assert ids.tolist() == [tokenizer.convert_tokens_to_ids(f"<s_{letter}_{code}>") for code in range(size)]
    bound = trie.bind(vocabulary)
    assert trie.token_ids is None and all(a is b for a, b in zip(trie.codes, bound.codes, strict=True))


@pytest.mark.parametrize("codes", [[[0, 6]], [[4, 0]], [[0, 0, 0]], [[0]]])
def test_the_vocabulary_of_another_catalogue_is_refused(toy_sids, tokenizer, codes):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    with pytest.raises(ValueError, match=r"does not fit a vocabulary of \[4, 6\]"):
        SidTrie(np.array(codes)).bind(vocabulary)
    with pytest.raises(ValueError, match="does not fit"):
        SidTrie(np.array(codes), vocabulary)


def test_token_ids_may_come_from_anywhere():
    ids = [np.array([7, 5, 6], dtype=np.int32), [9, 8]]
    trie = SidTrie(np.array([[0, 1], [0, 0], [2, 1]]), ids)
    assert [level.tolist() for level in trie.token_ids] == [[7, 5, 6], [9, 8]]
    assert {level.dtype for level in trie.token_ids} == {torch.int64}
    ids[0][0] = 0
    assert trie.token_ids[0].tolist() == [7, 5, 6]
    for lacking in (ids[:1], [ids[0][:2], ids[1]]):
        with pytest.raises(ValueError, match=r"a trie of \[3, 2\] codes that does not fit a vocabulary of "):
            trie.bind(lacking)


def test_the_leaves_of_items_are_made_once_and_kept(monkeypatch):
    trie, made, scatter = SidTrie(np.array([[0, 1], [0, 0], [2, 1], [0, 1]])), [], torch.Tensor.scatter_

    def slow(*arguments):
        made.append(threading.get_ident())
        time.sleep(0.05)
        return scatter(*arguments)

    monkeypatch.setattr(torch.Tensor, "scatter_", slow)
    with ThreadPoolExecutor(4) as threads:
        leaves = list(threads.map(lambda _: trie.leaf, range(4)))
    assert len(made) == 1 and all(leaf is trie.leaf for leaf in leaves)
    assert trie.leaf.tolist() == [1, 0, 2, 1] and copy.deepcopy(trie).leaf.tolist() == [1, 0, 2, 1]
    before = trie.nbytes
    trie._leaf = None
    assert before - trie.nbytes == 4 * 4


def test_another_thread_may_ask_for_the_leaves_while_a_trie_moves(monkeypatch):
    trie, move = SidTrie(np.array([[0, 1], [0, 0], [2, 1]])), torch.Tensor.to

    def slow(tensor, *arguments, **kwargs):
        assert trie.leaf.tolist() == [1, 0, 2]
        return move(tensor, *arguments, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", slow)
    assert trie.to("meta").device.type == "meta"
