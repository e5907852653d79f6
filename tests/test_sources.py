"""Task sources: fingerprints that follow their values, and items of the catalogue alone."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_tokenizer

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.data import RawData, prepare
from genrec_hf.tasks import EventLimits, make_sources

DAY, RNG = 86_400, np.random.default_rng(0)
CODES = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]]


def world(categories=("tea, hot", "tea", "tea, hot", "pot", "iron", ""), titles="abcdef", markers=False, **limits):
    """One user who chose items 0, 1, 2, 3, 4, 5 in this order, a day apart; the last two are held out."""
    ids = [f"i{item}" for item in range(6)]
    events = pd.DataFrame(
        {"user_id": "u", "item_id": ids, "timestamp": DAY * np.arange(6), "rating": [5, 4, 3, 2, 1, 5]}
    )
    items = pd.DataFrame({"item_id": ids, "title": list(titles), "categories": list(categories)})
    data, tokenizer = prepare(RawData("odd", events, items)), make_tokenizer()
    vocabulary = SidVocabulary(SemanticIds(CODES, (3, 3), data.item_ids), markers=markers).extend(tokenizer)
    return data, vocabulary, tokenizer, EventLimits(**limits)


def make(split="train", **kwargs):
    data, vocabulary, tokenizer, limits = world(**kwargs)
    return make_sources(data, vocabulary, tokenizer, split=split, limits=limits), vocabulary


def values(source, field):
    return [source.value(field, entry, RNG) for entry in range(len(source)) if source.has(field)[entry]]


def test_fingerprints_follow_what_is_said():
    def prints(**kwargs):
        return {name: source.fingerprint for name, source in make(**kwargs)[0].items()}

    one = prints()
    assert one == prints()
    assert all(prints(titles="abcdeX")[name] != one[name] for name in ("items", "neighbours", "events"))
    assert prints(categories=["tea"] * 6)["prefixes"] != one["prefixes"]
    assert prints(max_history=2)["events"] != one["events"] and prints(split="test")["events"] != one["events"]


def test_semantic_ids_whose_rows_are_not_the_data_sets_are_refused(toy_data, toy_sids, tokenizer):
    smaller = SidVocabulary(toy_sids.remove(["i3"])).extend(tokenizer)
    with pytest.raises(ValueError, match="the 24 items of the data set are not the 23 items of the semantic ids"):
        make_sources(toy_data, smaller, tokenizer)
