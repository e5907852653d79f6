"""What ranks: histories, rankings, what is refused, and a ranker and a reranker of a user's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig, PreTrainedModel

from genrec_hf import Recommender, SasRec, SidVocabulary, load_ranker
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.evaluation import compare_lists, evaluate_baselines, evaluate_data, rank_cases
from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.generation import Mmr, SearchSettings
from genrec_hf.models import Ease, ItemKnn, SasRecConfig, TextKnn
from genrec_hf.ranking import Histories, Ranking, Reranked, checked_ranking, checked_reranking

ITEMS = 24
TRAINING = [np.array([3, 1, 0, 7]), np.array([1, 3, 1]), np.array([3, 0, 2, 9, 11])]


class ToyConfig(PreTrainedConfig):
    model_type = "toy-ranker"

    def __init__(self, items=1, catalogue=None, dataset=None, **kwargs):
        self.items, self.catalogue, self.dataset = items, catalogue, dataset
        super().__init__(**kwargs)


class ToyRanker(PreTrainedModel):
    """The items behind the last one of a history, by row."""

    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.shift = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def rank(self, histories, k, *, filter_seen=True, allow=None, deny=None, progress=False):
        items = np.full((len(histories), k), -1)
        for user, history in enumerate(histories):
            start = (int(history[-1]) if len(history) else 0) + int(self.shift)
            order = [(start + step) % self.config.items for step in range(self.config.items)]
            only = order if allow is None or allow[user] is None else list(allow[user])
            barred = {*(history.tolist() if filter_seen else []), *([] if deny is None else deny[user])}
            row = [item for item in order if item in only and item not in barred][:k]
            items[user, : len(row)] = row
        return Ranking(items, np.where(items >= 0, -np.arange(k, dtype=np.float32), -np.inf))


class Backwards:
    """The candidates in the opposite order."""

    def rerank(self, histories, ranking, k):
        return Ranking(ranking.items[:, ::-1][:, :k], ranking.scores[:, ::-1][:, :k])


def toy(data=None):
    known = {"catalogue": catalogue_fingerprint(data.item_ids), "dataset": data.info["fingerprint"]} if data else {}
    return ToyRanker(ToyConfig(items=ITEMS, **known))


def test_a_ranker_and_a_reranker_of_ones_own_go_everywhere(toy_data, tmp_path, hub):
    ranker, cases = toy(toy_data), toy_data.cases("test")
    both = Reranked(ranker, Backwards(), candidates=20)
    ranked = rank_cases(ranker, cases.histories, ITEMS, candidates=cases.candidates(ITEMS, 5))
    report = evaluate_data(
        toy_data,
        "test",
        ranked,
        other_rankers={"backwards": both},
        candidates=cases.candidates(ITEMS, 5),
        progress=False,
    )
    # A user of the toy data goes round a cluster of six, so the next item is the next row five times of six.
    assert report["model"]["recall@1"] > 0.6 > 0.1 > report["baselines"]["backwards"]["recall@1"]
    assert list(report["candidates"]["systems"])[-3:] == ["ease", "backwards", "model"]
    lists = {"toy": [ranked.rankings[True].items], "backwards": [both.rank(cases.histories, 20).items]}
    events = np.ones(ITEMS)
    compared = compare_lists(lists, cases.users, cases.targets, events=events, reference="toy")
    assert compared["systems"]["backwards"]["above_reference"]["recall@10"]["difference"] < 0
    ranker.save_pretrained(tmp_path)
    hub.put("someone/toy", tmp_path)
    for name in (tmp_path, "someone/toy"):
        loaded = load_ranker(name, toy_data.item_ids, dataset=toy_data.info, classes=[ToyRanker])
        assert (loaded.rank(cases.histories, 5).items == ranked.rankings[True].items[:, :5]).all()
    with pytest.raises(ValueError, match=r"knows 24 items .*, not these 23"):
        load_ranker(tmp_path, toy_data.item_ids[:-1], classes=[ToyRanker])
    with pytest.raises(FileNotFoundError, match="is not the output of a training recipe: it holds neither"):
        load_ranker(tmp_path)


def test_load_ranker_opens_every_ranker_of_the_library(toy_data, toy_sids, tmp_path, hub):
    from genrec_hf.hub import save_recommender

    model, tokenizer = make_model(), make_tokenizer()
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    save_recommender(tmp_path / "llm", model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="level")
    sasrec = SasRec(SasRecConfig(items=ITEMS, catalogue=catalogue_fingerprint(toy_data.item_ids)))
    sasrec.save_pretrained(tmp_path / "sasrec")
    known = {"catalogue": catalogue_fingerprint(toy_data.item_ids), "dataset": toy_data.info["fingerprint"]}
    tables = {
        "item_knn": ItemKnn.from_sequences(toy_data.training_sequences(), ITEMS, **known),
        "ease": Ease.from_sequences(toy_data.training_sequences(), ITEMS, **known),
        "text_knn": TextKnn.from_embeddings(np.eye(ITEMS) + 0.1, **known),
    }
    for name, table in tables.items():
        table.save_pretrained(tmp_path / name)
    hub.put("someone/llm", tmp_path / "llm")
    cases = toy_data.cases("test")
    llm = Recommender(model, tokenizer, toy_sids, max_history=5, normalization="level", search=SearchSettings(24))
    rankers = {tmp_path / "llm": llm, "someone/llm": llm, tmp_path / "sasrec": sasrec}
    for name, expected in (rankers | {tmp_path / name: table for name, table in tables.items()}).items():
        loaded = load_ranker(name, toy_data.item_ids, search=SearchSettings(24), device="cpu")
        np.testing.assert_array_equal(loaded.rank(cases.histories, 10).items, expected.rank(cases.histories, 10).items)
    assert load_ranker(tmp_path / "llm").search == SearchSettings()


def test_rows_of_a_data_set_in_another_order(toy_data, toy_sids, tmp_path):
    from genrec_hf.hub import save_recommender

    model, tokenizer = make_model(), make_tokenizer()
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    save_recommender(tmp_path, model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="level")
    ids = list(reversed(toy_data.item_ids))
    forwards, backwards = load_ranker(tmp_path), load_ranker(tmp_path, ids)
    expected = ITEMS - 1 - forwards.rank([[3, 4]], 5).items
    assert (backwards.rank([[ITEMS - 4, ITEMS - 5]], 5).items == expected).all()
    assert backwards.recommend([["i3", "i4"]], 5) == forwards.recommend([["i3", "i4"]], 5)


def rankers(toy_sids):
    tokenizer, model = make_tokenizer(), make_model()
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    torch.manual_seed(0)
    return {
        "random": RandomBaseline(ITEMS),
        "popularity": Popularity(TRAINING, ITEMS),
        "repeat": RepeatHistory(TRAINING, ITEMS),
        "markov1": MarkovOne(TRAINING, ITEMS),
        "sasrec": SasRec(SasRecConfig(items=ITEMS, hidden_size=8, intermediate_size=8)).eval(),
        "recommender": Recommender(model, tokenizer, toy_sids, search=SearchSettings(ITEMS)),
        "toy": toy(),
    } | scorers()


def scorers():
    item_knn, ease = ItemKnn.from_sequences(TRAINING, ITEMS), Ease.from_sequences(TRAINING, ITEMS)
    text_knn = TextKnn.from_embeddings(np.random.default_rng(0).normal(size=(ITEMS, 5)))
    fused = FusedRanker({"ease": ease, "item_knn": item_knn}, {"ease": 0.5, "item_knn": 1.0}, {"ease": "z_score"})
    return {"item_knn": item_knn, "ease": ease, "text_knn": text_knn, "fused": fused}


@pytest.mark.parametrize("filter_seen", [True, False])
def test_every_ranker_keeps_to_its_filters(toy_sids, filter_seen):
    histories = [np.array([3, 1, 3]), np.array([], dtype=np.int64), np.array([9])]
    allow, deny = [[0, 1, 2, 3, 4], None, range(ITEMS)], [[4], [0, 5, 5], []]
    for name, ranker in rankers(toy_sids).items():
        ranking = checked_ranking(ranker, histories, 24, filter_seen=filter_seen, allow=allow, deny=deny)
        for user, history in enumerate(histories):
            may = set(range(ITEMS)) if allow[user] is None else set(allow[user])
            may -= {*deny[user], *(history.tolist() if filter_seen else [])}
            got = ranking.items[user]
            assert sorted(got[got >= 0].tolist()) == sorted(may), (name, user)
            scores = ranking.scores[user][got >= 0]
            assert ranking.scores.dtype == np.float32 and (np.diff(scores) <= 1e-5).all(), name
        same = ranker.rank(Histories.of(histories), 24, filter_seen=filter_seen, allow=allow, deny=deny)
        np.testing.assert_array_equal(same.items, ranking.items)
        assert len(ranker.rank([], 3)) == 0


def test_every_ranker_refuses_filters_of_other_users_and_rows(toy_sids):
    for name, ranker in rankers(toy_sids).items():
        if name == "toy":
            continue
        with pytest.raises(ValueError, match="2 allow entries for 1 histories: pass one for each"):
            ranker.rank([[1]], 2, allow=[[1], [2]])
        with pytest.raises(ValueError, match=r"deny\[0\] holds item rows 24 to 24 for 24 items"):
            ranker.rank([[1]], 2, deny=[[24]])
        with pytest.raises(ValueError, match=r"without padding"):
            ranker.rank([[24]], 2)


def fixed(items, scores=None):
    """A ranker, and a reranker, that gives these lists."""
    items = np.asarray(items)
    ranking = Ranking(items, np.where(items >= 0, np.float32(0), -np.inf)) if scores is None else scores
    return SimpleNamespace(rank=lambda *args, **kwargs: ranking, rerank=lambda *args, **kwargs: ranking)


WRONG = {
    "duplicates": ([[1, 2, 1]], [[0]], "gave user 0 the item row 1 twice (1 of 1 users)"),
    "fewer rows": ([[1, 2, 3]], [[0], [0]], "a ranking of shape (1, 3) for 2 users and k=3"),
    "fewer ranks": ([[1, 2]], [[0]], "a ranking of shape (1, 2) for 1 users and k=3"),
    "seen": ([[1, 2, 3]], [[5, 3]], "gave user 0 an item of the history with filter_seen=True (1 of 1 users)"),
}


@pytest.mark.parametrize(("items", "histories", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_ranking_is_refused(items, histories, message):
    import re

    for call in (
        lambda: checked_ranking(fixed(items), histories, 3),
        lambda: evaluate_baselines(
            TRAINING,
            histories,
            users=range(len(histories)),
            targets=[9] * len(histories),
            items=20,
            ks=[3],
            progress=False,
            other_rankers={"mine": fixed(items)},
        ),
        lambda: rank_cases(fixed(items), histories, 3),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_a_reranker_returns_candidates_alone():
    candidates = fixed([[1, 2, 3, -1]]).rank()
    assert checked_reranking(fixed([[3, 1]]), [[0]], candidates, k=2).items.tolist() == [[3, 1]]
    with pytest.raises(ValueError, match="gave user 0 the item row 4, which is not a candidate"):
        checked_reranking(fixed([[3, 4]]), [[0]], candidates, k=2)
    with pytest.raises(ValueError, match="the item row 3 twice"):
        checked_reranking(fixed([[3, 3]]), [[0]], candidates, k=2)
    with pytest.raises(ValueError, match="not a candidate"):
        Reranked(fixed([[1, 2, 3]]), fixed([[5, 1]]), 3).rank([[0]], 2)


def test_a_ranking_has_a_score_for_each_item():
    zero = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match=r"items of shape \(1, 3\) and scores of shape \(1, 2\)"):
        Ranking(np.array([[1, 2, 3]]), zero)
    with pytest.raises(ValueError, match="dtype float32"):
        Ranking(zero, zero)
    for items, scores in (([[1, -1]], zero), ([[1, 2]], np.array([[0.0, -np.inf]])), ([[1, 2]], zero * np.nan)):
        with pytest.raises(ValueError, match=r"pad with -1 and -inf"):
            Ranking(np.array(items), scores)
    assert Ranking(np.array([[1, 2]]), zero).top(1).items.tolist() == [[1]]


def test_mmr_as_a_reranker_is_mmr_in_the_search(toy_sids):
    recommender = rankers(toy_sids)["recommender"]
    mmr = Mmr(np.random.default_rng(0).normal(size=(ITEMS, 4)), 0.4)
    histories = [[1, 2], [], [5]]
    inside = recommender.rank(histories, 6, reranker=mmr)
    outside = Reranked(recommender, mmr, ITEMS).rank(histories, 6)
    np.testing.assert_array_equal(inside.items, outside.items)
    assert (inside.items != recommender.rank(histories, 6).items).any()
    ids = [[toy_sids.item_ids[item] for item in history] for history in histories]
    listed = recommender.recommend(ids, 6, reranker=mmr)
    assert [toy_sids.rows(row).tolist() for row in listed] == inside.items.tolist()
    with pytest.raises(ValueError, match="embeddings of 23 items"):
        recommender.rank(histories, 6, reranker=Mmr(np.eye(23)))


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
def test_histories_are_a_sequence_of_arrays(lists):
    histories = Histories.of(lists, 10)
    assert [row.tolist() for row in histories] == lists and Histories.of(histories) is histories
    assert histories.lengths.tolist() == [len(row) for row in lists]
    users, items = histories.flat()
    assert list(zip(users, items, strict=True)) == [(user, item) for user, row in enumerate(lists) for item in row]
    order = list(range(len(lists)))[::-1] * 2
    assert [row.tolist() for row in histories.select(order)] == [lists[user] for user in order]
    assert [row.tolist() for row in histories[1:3]] == lists[1:3]


def test_histories_of_a_data_set_hold_times_and_copy_nothing(toy_data):
    cases, table = toy_data.cases("test"), toy_data.interactions
    for user, (history, target) in enumerate(zip(cases.histories, cases.targets, strict=True)):
        of_user = table[table["user_id"] == toy_data.user_ids[user]]
        assert [toy_data.item_ids[item] for item in [*history, target]] == of_user["item_id"].tolist()
        start, stop = cases.histories.starts[user], cases.histories.stops[user]
        assert cases.histories.times[start:stop].tolist() == of_user["timestamp"].tolist()[:-1]
    assert np.shares_memory(cases.histories.items, toy_data.cases("validation").histories.items)
    training = toy_data.training_sequences()
    assert training.lengths.sum() == (table["split"] == "train").sum() and len(training) == len(toy_data.user_ids)


def test_times_that_fall_and_arrays_that_do_not_fit_are_refused():
    items, starts, stops = np.array([4, 2, 9, 1]), np.array([0, 2]), np.array([2, 4])
    Histories(items, starts, stops, np.array([5, 6, 1, 1]))  # of another user, so it may fall
    with pytest.raises(ValueError, match=r"the times of history 1 decrease \(1 of 2 histories\)"):
        Histories(items, starts, stops, np.array([5, 6, 3, 1]))
    with pytest.raises(ValueError, match="2 starts, 2 stops, 4 items and 3 times"):
        Histories(items, starts, stops, np.array([5, 6, 1]))
    with pytest.raises(ValueError, match="do not fit"):
        Histories(items, starts, np.array([2, 5]))
    for wrong in ("ab", {1: [2]}, {(1,)}):
        with pytest.raises(ValueError, match="pass a list with the item rows of each user"):
            Histories.of(wrong)
