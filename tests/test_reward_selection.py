"""Rewards by name and weight."""

import re

import numpy as np
import pytest
from test_rewards import COLUMNS, ITEMS

from genrec_hf import SasRec
from genrec_hf.models import SasRecConfig
from genrec_hf.training import reward_selection
from genrec_hf.training.reward_selection import REWARDS, make_rewards, read_rewards


def test_rewards_by_name(toy_data, toy_sids):
    sasrec = SasRec(SasRecConfig(items=24, hidden_size=8))
    rewards = make_rewards(REWARDS, toy_data, toy_sids, denied=["i3"], embeddings=np.eye(24), sasrec=sasrec)
    assert [reward.__name__ for reward in rewards] == [f"{name}_reward" for name in REWARDS]
    for reward in rewards:
        values = reward(items=ITEMS, **COLUMNS)
        assert len(values) == len(ITEMS) and all(isinstance(value, float) for value in values)
    assert rewards[REWARDS.index("deny")](ITEMS, **COLUMNS) == [-1, 0, 0, 0, 0, 0, 0, -1]
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


def test_a_name_that_is_listed_and_not_made_raises(toy_data, toy_sids, monkeypatch):
    """It is not left out, which would give the next weight to another reward, nor made as the collaborative one."""
    monkeypatch.setattr(reward_selection, "REWARDS", (*REWARDS, "own"))
    for sasrec in (None, SasRec(SasRecConfig(items=24, hidden_size=8))):
        with pytest.raises(NotImplementedError, match="'own' is in REWARDS and make_rewards does not make it"):
            make_rewards(["exact", "own"], toy_data, toy_sids, sasrec=sasrec)


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
