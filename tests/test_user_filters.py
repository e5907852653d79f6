"""Filters of a ranking request, against a loop over users and items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf.ranking import Histories
from genrec_hf.user_filters import filter_scores, user_filters

ROWS = st.lists(st.integers(0, 4), max_size=3)
USER = st.tuples(ROWS, st.none() | ROWS, st.none() | ROWS)


@settings(max_examples=50, deadline=None)
@given(st.lists(USER, max_size=3), st.booleans())
def test_excluded_items_have_no_score(users, filter_seen):
    histories = Histories.of([history for history, _, _ in users], 5)
    allow = user_filters([allowed for _, allowed, _ in users], users=len(users), items=5, name="allow")
    deny = user_filters([denied for _, _, denied in users], users=len(users), items=5, name="deny")
    scores = np.ones((len(users), 5), dtype=np.float32)
    filter_scores(scores, histories, filter_seen=filter_seen, allow=allow, deny=deny)
    for user, (history, allowed, denied) in enumerate(users):
        for item in range(5):
            excluded = (filter_seen and item in history) or item in (denied or ())
            excluded |= allowed is not None and item not in allowed
            assert scores[user, item] == (-np.inf if excluded else 1)


def test_filters_have_one_entry_per_user():
    assert user_filters(None, users=2, items=5, name="deny") == [None, None]
    with pytest.raises(ValueError, match="got 1 deny entries for 2 histories: pass one for each"):
        user_filters([[1]], users=2, items=5, name="deny")
    with pytest.raises(ValueError, match=r"deny\[1\] holds item rows 5 to 5 for 5 items"):
        user_filters([None, [5]], users=2, items=5, name="deny")
