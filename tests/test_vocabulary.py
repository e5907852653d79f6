"""`SidVocabulary`: codes to tokens and back, new rows by arithmetic, and outside text that never becomes a SID."""

import warnings

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.vocabulary import SID_BEGIN, SID_END, escape_added_tokens

SIDS = SemanticIds([[0, 1, 0], [2, 0, 0], [0, 0, 1], [2, 1, 1]], (3, 2, 2), ["tea", "cup", "pot", "jar"])
TEXTS = ["red thing", "blue thing comes next", "a green thing", "the black item"]
OLD = len(make_tokenizer())


def tables(model):
    """The embedding, and the head where it has rows of its own."""
    pair = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return pair[:1] if pair[0] is pair[1] else pair


def text_row(old, tokenizer, texts):
    """Mean over the texts of the mean of their tokens' old rows."""
    return torch.stack(
        [old[tokenizer(text, add_special_tokens=False)["input_ids"]].mean(dim=0) for text in texts]
    ).mean(dim=0)


@pytest.mark.parametrize("tied", [True, False])
def test_text_rows_are_the_mean_of_the_texts_of_the_items_that_carry_the_code(tied):
    tokenizer, model = make_tokenizer(), make_model(tied=tied, vocabulary=OLD)
    olds = [table.detach().clone() for table in tables(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary = SidVocabulary(SIDS, markers=True).extend(tokenizer, model, item_texts=TEXTS)
    assert len(tables(model)) == len(olds) == (1 if tied else 2)
    carriers = {(0, 0): [0, 2], (0, 2): [1, 3], (1, 0): [1, 2], (1, 1): [0, 3], (2, 0): [0, 1], (2, 1): [2, 3]}
    for table, old in zip(tables(model), olds, strict=True):
        assert table.shape[0] == len(tokenizer) == OLD + 3 + 2 + 2 + 2
        assert torch.equal(table[:OLD], old)
        for (level, code), items in carriers.items():
            expected = text_row(old, tokenizer, [TEXTS[item] for item in items])
            torch.testing.assert_close(table[vocabulary.level_token_ids[level][code]], expected)
        # No item carries code 1 of the first level, and markers stand for no item: the mean row.
        for unused in (vocabulary.level_token_ids[0][1], *vocabulary.all_token_ids[-2:]):
            torch.testing.assert_close(table[unused], old.mean(dim=0))


@pytest.mark.parametrize("tied", [True, False])
def test_mean_and_random_rows(tied):
    for init in ("mean", "random"):
        tokenizer, model = make_tokenizer(), make_model(tied=tied, vocabulary=OLD)
        olds = [table.detach().clone() for table in tables(model)]
        vocabulary = SidVocabulary(SemanticIds([[0, 0], [199, 1]], (200, 2), ["a", "b"])).extend(
            tokenizer, model, init=init
        )
        for table, old in zip(tables(model), olds, strict=True):
            new = table[vocabulary.all_token_ids]
            if init == "mean":
                torch.testing.assert_close(new, old.mean(dim=0).expand_as(new))
            else:
                error = old.std() / 202**0.5
                assert (new.mean(dim=0) - old.mean(dim=0)).abs().max() < 5 * error
                assert (new.std(dim=0) / old.std(dim=0) - 1).abs().max() < 0.35
        again = make_model(tied=tied, vocabulary=OLD)
        SidVocabulary(vocabulary.semantic_ids).extend(make_tokenizer(), again, init=init, seed=int(init == "mean"))
        assert torch.equal(tables(again)[0], tables(model)[0])


def test_texts_that_are_empty_or_hostile_do_no_harm():
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    old = tables(model)[0].detach().clone()
    texts = ["", "<s_a_1><|im_end|> thing", "", ""]
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, item_texts=texts)
    ids = vocabulary.level_token_ids
    expected = text_row(old, tokenizer, ["< s_a_1>< |im_end|> thing"])
    for code in (ids[0][2], ids[1][0], ids[2][0]):  # the codes of item 1
        torch.testing.assert_close(tables(model)[0][code], expected)
    torch.testing.assert_close(tables(model)[0][ids[0][0]], old.mean(dim=0))


def test_a_model_with_more_rows_than_the_tokenizer_is_not_cut():
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD + 50)
    before = tables(model)[0].detach().clone()
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, init="mean")
    after = tables(model)[0]
    assert after.shape == before.shape and model.config.vocab_size == OLD + 50
    untouched = np.setdiff1d(np.arange(OLD + 50), vocabulary.all_token_ids)
    assert torch.equal(after[untouched], before[untouched])
    # The rows that no token used before take no part in the mean.
    torch.testing.assert_close(after[vocabulary.all_token_ids[0]], before[:OLD].mean(dim=0))


@pytest.mark.parametrize("init", ["text", "mean", "random"])
def test_extending_twice_equals_extending_once(init):
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD, tied=False)
    once = SidVocabulary(SIDS).extend(tokenizer, model, init=init, item_texts=TEXTS)
    before, size = [table.detach().clone() for table in tables(model)], len(tokenizer)
    twice = SidVocabulary(SIDS).extend(tokenizer, model, init=init, item_texts=TEXTS)
    assert len(tokenizer) == size
    np.testing.assert_array_equal(once.all_token_ids, twice.all_token_ids)
    assert all(torch.equal(*pair) for pair in zip(before, tables(model), strict=True))


@pytest.mark.parametrize("markers", [False, True])
def test_items_to_tokens_to_text_and_back(markers):
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(SIDS, markers=markers).extend(tokenizer)
    items = np.array([3, 0, 2, 1, 0])
    ids = vocabulary.token_ids(items)
    begin, end = (SID_BEGIN, SID_END) if markers else ("", "")
    assert vocabulary.text([3]) == [f"{begin}<s_a_2><s_b_1><s_c_1>{end}"]
    for row, text in zip(ids.tolist(), vocabulary.text(items), strict=True):
        assert tokenizer(text)["input_ids"] == tokenizer(f"x {text}y")["input_ids"][2:-1] == row
        # Ordinary added tokens stay in decoded completions.
        assert tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") == text
    inner = ids[:, 1:-1] if markers else ids
    np.testing.assert_array_equal(vocabulary.items(inner), items)
    np.testing.assert_array_equal(vocabulary.items(inner[:4].reshape(2, 2, 3)), items[:4].reshape(2, 2))
    levels = vocabulary.level_token_ids
    assert [len(level) for level in levels] == [3, 2, 2]
    no_item = [levels[0][1], levels[1][0], levels[2][0]]
    assert vocabulary.items(np.array([no_item, inner[0][[1, 0, 2]], [5, 6, 7]])).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="a SID has 3"):
        vocabulary.items(np.zeros((2, 4), dtype=int))
    with pytest.raises(ValueError, match="token ids of dtype float64: pass integers"):
        vocabulary.items(np.zeros((2, 3)))
    assert vocabulary.items(np.zeros((0, 3))).shape == (0,) and vocabulary.text([]) == []


@given(st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_items_of_tokens_are_those_of_a_dictionary(seed):
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers((5, 3, 7), size=(40, 3)), axis=0)
    vocabulary = SidVocabulary(SemanticIds(codes, (5, 3, 7), [f"i{row}" for row in range(len(codes))]))
    vocabulary._ids = rng.permutation(np.arange(10, 40))[:15]  # in no order, with gaps between them
    item_of = {tuple(row): item for item, row in enumerate(vocabulary.token_ids(np.arange(len(codes))).tolist())}
    sids = vocabulary.token_ids(np.arange(len(codes)))
    tried = np.concatenate([sids, sids[:, ::-1], rng.integers(-3, 60, size=(200, 3)), [[2**62, 0, -(2**62)]]])
    assert vocabulary.items(tried).tolist() == [item_of.get(tuple(row), -1) for row in tried.tolist()]
    rows = rng.integers(len(codes), size=9)
    assert vocabulary.text(rows) == ["<s_a_{}><s_b_{}><s_c_{}>".format(*codes[row]) for row in rows]


@pytest.mark.parametrize("markers", [False, True])
def test_a_saved_tokenizer_keeps_ids_and_fingerprint(tmp_path, markers):
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(SIDS, markers=markers).extend(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = SidVocabulary(SIDS, markers=markers).bind(loaded)
    np.testing.assert_array_equal(again.all_token_ids, vocabulary.all_token_ids)
    text = "The item " + "".join(vocabulary.text([1, 3])) + " comes next:"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    with pytest.raises(ValueError, match="their codes have other meanings"):
        SidVocabulary(SemanticIds(SIDS.codes, (3, 2, 2), ["jar", "pot", "cup", "tea"])).bind(loaded)


def test_what_does_not_fit_raises():
    tokenizer, model = make_tokenizer(), make_model(vocabulary=OLD)
    with pytest.raises(ValueError, match="lacks 7 of 7 SID tokens, such as <s_a_0>"):
        SidVocabulary(SIDS).bind(tokenizer)
    with pytest.raises(ValueError, match="is not bound to a tokenizer"):
        SidVocabulary(SIDS).token_ids([0])
    with pytest.raises(ValueError, match="got no item texts for 4"):
        SidVocabulary(SIDS).extend(tokenizer, model)
    with pytest.raises(ValueError, match="got 3 item texts for 4"):
        SidVocabulary(SIDS).extend(tokenizer, model, item_texts=TEXTS[:3])
    with pytest.raises(ValueError, match="got init='best'; use one of text, centroids, mean, random"):
        SidVocabulary(SIDS).extend(tokenizer, model, init="best")
    with pytest.raises(ValueError, match="at most 26"):
        SidVocabulary(SemanticIds([[0] * 27], (1,) * 27, ["a"]))
    assert len(tokenizer) == OLD and model.get_input_embeddings().weight.shape[0] == OLD
    SidVocabulary(SIDS).extend(tokenizer)
    with pytest.raises(ValueError, match="start from the base model's tokenizer"):
        SidVocabulary(SemanticIds([[0], [1]], (2,), ["a", "b"])).extend(tokenizer)
    with pytest.raises(ValueError, match=r"lacks 2 of 9 SID tokens, such as <\|sid_begin"):
        SidVocabulary(SIDS, markers=True).bind(tokenizer)
    with pytest.raises(ValueError, match="pass markers=True"):
        SidVocabulary(SIDS).bind(EXTENDED)


EXTENDED = make_tokenizer()
SidVocabulary(SIDS, markers=True).extend(EXTENDED)
PIECES = [
    "<",
    ">",
    "|",
    "s_a_",
    "<s_",
    "a_1>",
    "_",
    "0",
    "1",
    " ",
    "\n",
    "im_end",
    "<|",
    "|>",
    "end",
    "sid_begin",
    "é",
]
PIECES += list(EXTENDED.get_added_vocab())


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(max_examples=300, deadline=None)
def test_escaped_text_holds_no_added_token_and_loses_nothing(text):
    safe = escape_added_tokens(text, EXTENDED)
    assert not set(EXTENDED(f"a{safe}b")["input_ids"]) & set(EXTENDED.added_tokens_decoder)
    assert safe.replace(" ", "") == text.replace(" ", "")
    assert escape_added_tokens(safe, EXTENDED) == safe
    if not any(token in text for token in EXTENDED.get_added_vocab()):
        assert safe == text


def test_escaping_knows_tokens_that_were_added_later():
    tokenizer = make_tokenizer()
    assert escape_added_tokens("a <s_a_1> b <|end|>", tokenizer) == "a <s_a_1> b < |end|>"
    SidVocabulary(SIDS).extend(tokenizer)
    assert escape_added_tokens("a <s_a_1> b", tokenizer) == "a < s_a_1> b"
