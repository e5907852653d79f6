"""The table: rows that hold together, and names that are found."""

import pytest

from genrec_hf.tasks import GROUNDING, TASKS, Task, find_tasks, read_weights


def test_every_family_has_its_tasks_and_every_row_its_name():
    assert {task.family for task in TASKS.values()} == {
        "grounding",
        "sequential",
        "search",
        "preference",
        "control",
        "rating",
        "review",
        "direct",
    }
    assert all(name == task.name for name, task in TASKS.items()) and set(GROUNDING) < set(TASKS)
    prompts = [prompt for task in TASKS.values() for prompt in (*task.prompts, *task.unseen)]
    assert len(set(prompts)) == len(prompts), "two tasks that ask alike cannot be told apart"


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_an_answer_in_words_starts_with_a_space_and_a_question_for_a_sid_ends_with_one(task):
    for prompt in (*task.prompts, *task.unseen):
        begins, ends = task.completion.startswith(" "), prompt.endswith((" ", "{begin}"))
        assert begins != ends, (prompt, task.completion)


def test_tasks_are_found_by_name_or_pass_as_they_are():
    own = Task("own", "direct", "items", ("{sid}",), " {title}")
    assert [task.name for task in find_tasks(["next_item", own])] == ["next_item", "own"]


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_row_has_a_weight_that_can_be_counted(weight):
    with pytest.raises(ValueError, match="task 'own': got weight="):
        Task("own", "direct", "items", ("{sid}",), " {title}", weight=weight)


@pytest.mark.parametrize(
    "pair", ["", "=1", "next_item=", "next_item=much", "next_item=-1", "next_item=nan", "next_item=inf"]
)
def test_weights_that_are_no_numbers_are_refused(pair):
    with pytest.raises(ValueError, match=r"write each name once with a number, as name=0\.5"):
        read_weights([pair])
    with pytest.raises(ValueError, match="write each name once"):
        read_weights(["a=1", "a=2"])
