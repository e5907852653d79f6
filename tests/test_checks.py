import pytest

from genrec_hf.checks import check_choice, check_least


def test_a_choice_names_what_was_got_and_what_there_is():
    check_choice("split", "test", ("validation", "test"))
    with pytest.raises(ValueError, match=r"^got split='train'; use one of validation, test$"):
        check_choice("split", "train", ("validation", "test"))
    with pytest.raises(ValueError, match=r"^got collisions=\['none'\]; use one of none$"):
        check_choice("collisions", ["none"], iter(["none"]))


def test_numbers_below_the_least_are_refused_and_what_was_not_given_passes():
    check_least(1, epochs=1, examples=None)
    with pytest.raises(ValueError, match=r"^got examples=0; give 1 or more$"):
        check_least(1, epochs=1, examples=0)
    with pytest.raises(ValueError, match=r"^got share=nan; give 0 or more$"):
        check_least(0, share=float("nan"))
