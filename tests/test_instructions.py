"""Instructions: the target of training satisfies the instruction, and instruction_following is computed as by hand."""

import numpy as np
import pytest

from genrec_hf.tasks import Instruction, Instructions, instruction_following

CATEGORIES = [["tea", "hot"], ["tea"], ["pot"], ["pot", "iron"], ["cup"], []]
INSTRUCTIONS = Instructions(CATEGORIES, np.array([50, 30, 8, 6, 4, 2]))


def instruction(kind, argument=""):
    return Instruction(kind, argument, "words")


@pytest.mark.parametrize(
    ("asked", "history", "expected"),
    [
        (instruction("in_category", "tea"), [2], [1, 1, 0, 0, 0, 0]),
        (instruction("not_in_category", "pot"), [2], [1, 1, 0, 0, 1, 1]),
        (instruction("popular"), [2], [1, 0, 0, 0, 0, 0]),
        (instruction("niche"), [2], [0, 1, 1, 1, 1, 1]),
        (instruction("different"), [0, 2, 2, 4], [1, 1, 0, 0, 0, 1]),
        (instruction("different"), [0], [0, 0, 1, 1, 1, 1]),
    ],
)
def test_which_items_satisfy_an_instruction(asked, history, expected):
    assert INSTRUCTIONS.satisfied(asked, np.array(history)).astype(int).tolist() == expected
    some = np.array([5, 0, 3])
    assert INSTRUCTIONS.satisfied(asked, np.array(history), some).astype(int).tolist() == [
        expected[item] for item in some
    ]


def test_the_target_of_training_satisfies_the_instruction():
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(300):
        history, target = rng.integers(6, size=int(rng.integers(1, 5))), int(rng.integers(6))
        asked = INSTRUCTIONS.for_event(history, target, rng)
        assert INSTRUCTIONS.satisfied(asked, history)[target]
        assert asked.argument in asked.text and "{" not in asked.text
        kinds.add(asked.kind)
    assert kinds == {"in_category", "not_in_category", "popular", "niche", "different"}


def test_an_instruction_for_evaluation_depends_on_the_history_alone():
    rng = np.random.default_rng(0)
    asked = [INSTRUCTIONS.for_history(np.array([2, 3]), rng, min_items=2) for _ in range(200)]
    assert {each.kind for each in asked} == {"in_category", "not_in_category", "popular", "niche", "different"}
    assert {each.argument for each in asked if each.kind == "in_category"} == {"tea", "pot"}
    assert {each.argument for each in asked if each.kind == "not_in_category"} == {"pot", "iron"}
    bare = Instructions([[], []], np.array([3, 1]))
    assert {bare.for_history(np.array([0]), rng).kind for _ in range(40)} == {"popular", "niche"}


def test_instruction_following_by_hand():
    asked = [instruction("in_category", "tea"), instruction("in_category", "pot"), instruction("popular")]
    lists = np.array([[0, 1, 2, 3], [3, 0, 1, -1], [0, 1, 2, 3]])
    found = instruction_following(INSTRUCTIONS, asked, [np.array([4])] * 3, recommended=lists)
    assert found.tolist() == [0.5, 0.25, 0.25]
