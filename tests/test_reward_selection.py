"""Rewards by name and weight."""

import re

import numpy as np
import pytest
from test_rewards import COLUMNS, ITEMS

from genrec_hf.training.reward_selection import make_rewards, read_rewards


def test_rewards_by_name(toy_data, toy_sids):
    names = ["validity", "exact", "prefix", "no_hit", "rank", "history", "diversity", "novelty", "deny", "semantic"]
    names += ["cooccurrence", "list_ndcg"]
    rewards = make_rewards(names, toy_data, toy_sids, denied=["i3"], embeddings=np.eye(24))
    assert [reward.__name__ for reward in rewards] == [f"{name}_reward" for name in names]
    for reward in rewards:
        values = reward(items=ITEMS, **COLUMNS)
        assert len(values) == len(ITEMS) and all(isinstance(value, float) for value in values)
    assert rewards[8](ITEMS, **COLUMNS) == [-1, 0, 0, 0, 0, 0, 0, -1]
    with pytest.raises(ValueError, match="a deny list of all 24 items"):
        make_rewards(["deny"], toy_data, toy_sids, denied=toy_sids.item_ids)
    for asked, message in (
        ([], "got the rewards \\[\\]"),
        (["exact", "exact"], "name each once"),
        (["exakt"], "of validity, exact"),
        (["semantic"], "'semantic' without embeddings"),
        (["collaborative"], "'collaborative' without sasrec"),
        (["deny"], "'deny' without denied"),
    ):
        with pytest.raises(ValueError, match=message):
            make_rewards(asked, toy_data, toy_sids)


@pytest.mark.parametrize(
    ("denied", "message"),
    [
        ("i3", "denied='i3' would be read letter by letter"),
        (["i3", 4], "denied holds 4 (int): item ids are text, pass '4'"),
        (["i3", "x", "y"], "denied: 'x', 'y' are not in the catalogue of 24 items"),
    ],
)
def test_denied_items_are_ids_of_the_catalogue(denied, message, toy_data, toy_sids):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_rewards(["deny"], toy_data, toy_sids, denied=denied)
    assert len(make_rewards(["deny"], toy_data, toy_sids, denied={"i3", "i4"})) == 1


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["exact=0"], "nothing would be learned; give one above 0"),
        (["exact=0", "rank=0.0"], "nothing would be learned"),
        ([], "nothing would be learned"),
        (["exact=1", "popular=1"], "got the reward 'popular': use some of validity, exact"),
        (["Exact=1"], "got the reward 'Exact'"),
        (["exact=1", "exact=2"], "got the weight 'exact=2'; write each name once"),
        (["exact=abc"], "got the weight 'exact=abc'"),
        (["exact=nan"], "got the weight 'exact=nan'"),
        (["exact=inf"], "got the weight 'exact=inf'"),
        (["exact=-1"], "got the weight 'exact=-1'"),
        (["exact="], "got the weight 'exact='"),
        (["=1"], "got the weight '=1'"),
        (["exact=1,rank=1"], "got the weight 'exact=1,rank=1'"),
    ],
)
def test_weights_that_teach_nothing_or_something_else_are_refused(pairs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_rewards(pairs)
    assert read_rewards(["exact=0", "rank=2"]) == {"exact": 0.0, "rank": 2.0}
