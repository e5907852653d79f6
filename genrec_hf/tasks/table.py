"""The table of tasks: name, family, source, prompt templates and completion template of each."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from genrec_hf.checks import check_choice

FAMILIES = ("grounding", "sequential", "search", "preference", "control", "rating", "review", "direct")


@dataclass(frozen=True)
class Task:
    """One row of the table; a custom task is another instance.

    Templates name fields in braces. The fields are those of the source (`genrec_hf.tasks.items`,
    `genrec_hf.tasks.events`). A completion in words starts with a space and a prompt for a SID ends with one, so that
    the boundary between prompt and completion is a boundary between tokens.

    Args:
        name (`str`): name on the command line.
        family (`str`): one of `FAMILIES`, for reports.
        source (`str`): name of the `TaskSource` whose entries the examples are made from: `"items"`, `"neighbours"`,
            `"prefixes"` or `"events"`.
        prompts (`tuple[str, ...]`): templates of the question, paraphrases of each other; evaluation uses the first.
        completion (`str`): template of the answer.
        unseen (`tuple[str, ...]`, defaults to `()`): paraphrases that no training example uses, for evaluation on
            unseen prompts, as in P5 (arXiv:2203.13366).
        answer_in_prompt (`bool`, defaults to `False`): whether the prompt holds the answer by design, as with
            candidates.
        weight (`float`, defaults to 1.0): number of times that every example occurs in an epoch, unless the mixture
            has a weight for the task.

    Raises:
        ValueError: the family is unknown, the weight is negative or not finite, there is no prompt, or the completion
            names no field.
    """

    name: str
    family: str
    source: str
    prompts: tuple[str, ...]
    completion: str
    unseen: tuple[str, ...] = ()
    answer_in_prompt: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice(f"{self.name}.family", self.family, FAMILIES)
        if not self.prompts:
            raise ValueError(f"task {self.name!r} has no prompt: give at least one")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"task {self.name!r}: got weight={self.weight!r}; it must be a finite number, 0 or more")
        if not names_in(self.completion):
            raise ValueError(
                f"task {self.name!r}: the completion {self.completion!r} names no field, so all answers would be the "
                "same: put a field in braces, such as {sid}"
            )

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields that an entry must have for an example of the task."""
        return frozenset().union(*map(names_in, (*self.prompts, *self.unseen, self.completion)))


def names_in(template: str) -> set[str]:
    """Return the names of the fields in a template.

    Args:
        template (`str`): text with fields in braces.

    Returns:
        `set[str]`: the names.

    Example:
        >>> sorted(names_in("{sid} is {title}"))
        ['sid', 'title']
    """
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


# Grounding: the meaning of the SID tokens. After LC-Rec (arXiv:2311.09049), which aligns SIDs with titles and
# descriptions; similar items and shared prefixes are additions.
_GROUNDING = (
    Task(
        "sid_to_title", "grounding", "items",
        ("The title of the item {sid} is:", "What is the item {sid} called? It is called:", "{sid} goes by the name:"),
        " {title}",
        unseen=("Tell me the title of {sid}:",),
    ),
    Task(
        "title_to_sid", "grounding", "items",
        ('The item with the title "{title}" is: ', 'Which item is called "{title}"? It is: ', '"{title}" means: '),
        "{sid}",
        unseen=('Find the item titled "{title}": ',),
    ),
    Task(
        "sid_to_category", "grounding", "items",
        ("The categories of the item {sid} are:", "What kind of item is {sid}? It is:", "{sid} is filed under:"),
        " {category}",
        unseen=("Name the categories of {sid}:",),
    ),
    Task(
        "sid_to_text", "grounding", "items",
        ("The item {sid} is described as:", "What is there to say about the item {sid}? This:"),
        " {text}",
        unseen=("Describe {sid}:",),
    ),
    Task(
        "text_to_sid", "grounding", "items",
        ("{text}\nThe item described above is: ", 'Which item does "{text}" describe? It is: '),
        "{sid}",
        unseen=("{text}\nName that item: ",),
    ),
    Task(
        "similar_items", "grounding", "neighbours",
        ("Users who chose the item {sid} also chose: ", "An item that often goes with {sid} is: "),
        "{other}",
        unseen=("People with {sid} like as well: ",),
    ),
    Task(
        "prefix_to_category", "grounding", "prefixes",
        ("The items that start with {prefix} are mostly:", "What do the items under {prefix} share? They are:"),
        " {shared}",
        unseen=("Most items whose id begins with {prefix} belong to:",),
    ),
)  # fmt: skip

# The next item, given the history as SIDs, as titles, or with times or ratings in words; one item, or a list of the
# next few (session-wise, OneRec, arXiv:2502.18965). `next_item` is `next_item_prompt`, byte for byte.
_SEQUENTIAL = (
    Task(
        "next_item", "sequential", "events",
        ("A user's items, oldest first, and the one that comes next:\n{history}{begin}",),
        "{rest}",
        unseen=("What does a user choose after these items?\n{history}{begin}",),
    ),
    Task(
        "next_title", "sequential", "events",
        ("A user's items, oldest first:\n{history}\nThe title of the next one is:",
         "After the items {history} the user chose one called:"),
        " {title}",
        unseen=("{history}\nName the title that follows:",),
    ),
    Task(
        "titles_to_next_item", "sequential", "events",
        ("A user chose, oldest first:\n{history_titles}\nThe next item is: ",
         "These were a user's choices, oldest first:\n{history_titles}\nThen came: "),
        "{sid}",
        unseen=("{history_titles}\nGuess the item that follows: ",),
    ),
    Task(
        "rated_next_item", "sequential", "events",
        ("A user's items with the ratings that they gave, oldest first:\n{rated_history}\nThe next item is: ",),
        "{sid}",
        unseen=("Items and ratings of a user:\n{rated_history}\nThen came: ",),
    ),
    Task(
        "timed_next_item", "sequential", "events",
        ("A user's items and how long before now, oldest first:\n{timed_history}\nThe item of now is: ",),
        "{sid}",
        unseen=("Items of a user with their age:\n{timed_history}\nNow comes: ",),
    ),
    Task(
        "next_items", "sequential", "events",
        ("A user's items, oldest first, and the {count} that come next:\n{history}\nThey are: ",),
        "{next_sids}",
        unseen=("{history}\nThe next {count} items: ",),
    ),
)  # fmt: skip

# A query, an intention and a preference in words: the asymmetric and intention tasks of LC-Rec. What differs: the
# words come from item text and categories; in LC-Rec a larger model writes them from reviews.
_SEARCH = (
    Task(
        "query_to_sid", "search", "items",
        ('A user searches for "{query}". A fitting item is: ', 'Looking for "{query}"? Take: '),
        "{sid}",
        unseen=('An item for the words "{query}": ',),
    ),
    Task(
        "intention_to_next_item", "search", "events",
        ('A user\'s items, oldest first:\n{history}\nNow they search for "{query}" and choose: ',
         'With the history {history} and the search "{query}", the user takes: '),
        "{sid}",
        unseen=('{history}\nThe user types "{query}" and picks: ',),
    ),
    Task(
        "history_to_preference", "preference", "events",
        ("A user's items, oldest first:\n{history}\nThis user likes:",
         "What does the user with the items {history} prefer? They prefer:"),
        " {preference}",
        unseen=("{history}\nSum up the taste of this user:",),
    ),
)  # fmt: skip

# The next item that satisfies an instruction in words, after GLIDE. Instructions are made from item attributes, see
# `genrec_hf.tasks.instructions`.
_CONTROL = (
    Task(
        "instructed_next_item",
        "control",
        "events",
        (
            "A user's items, oldest first, and the one that comes next:\nThe user says: {instruction}\n"
            "{history}{begin}",
        ),
        "{rest}",
    ),
)

# P5's families (arXiv:2203.13366): rating, review, explanation and direct recommendation; its sequential one is above.
# What differs: items are SIDs, a user is a history instead of an id, and the templates are new.
_P5 = (
    Task(
        "rating_stars", "rating", "events",
        ("A user's items with the ratings that they gave, oldest first:\n{rated_history}\nThe rating of {sid} is:",
         "How will the user with {rated_history} rate {sid}? With:"),
        " {stars}",
        unseen=("{rated_history}\nStars for {sid}:",),
    ),
    Task(
        "rating_liked", "rating", "events",
        ("A user's items with the ratings that they gave, oldest first:\n{rated_history}\nWill they like {sid}?",),
        " {liked}",
        unseen=("{rated_history}\nIs {sid} to the taste of this user?",),
    ),
    Task(
        "review_headline", "review", "events",
        ('A user wrote about the item {sid}: "{review}"\nThe headline is:', 'In a line, "{review}" says:'),
        " {headline}",
        unseen=('"{review}"\nA headline for that:',),
    ),
    Task(
        "review_stars", "review", "events",
        ('A user wrote about the item {sid}: "{review}"\nTheir rating is:',),
        " {stars}",
        unseen=('"{review}"\nHow many stars is that?',),
    ),
    Task(
        "explanation", "review", "events",
        ("A user's items, oldest first:\n{history}\nThey rated {sid} with {stars}, because:",
         "Why does the user with the items {history} give {sid} {stars}? Because:"),
        " {review}",
        unseen=("{history}\nExplain the rating {stars} of {sid}:",),
    ),
    Task(
        "candidates_to_next_item", "direct", "events",
        ("A user's items, oldest first:\n{history}\nCandidates:\n{candidates}\nOf these the user chooses: ",
         "From {candidates} the user with the items {history} takes: "),
        "{sid}",
        unseen=("{history}\nPick one of {candidates}: ",),
        answer_in_prompt=True,
    ),
    Task(
        "candidate_titles_to_next_title", "direct", "events",
        ("A user chose, oldest first:\n{history_titles}\nCandidates:\n{candidate_titles}\nThe user chooses:",),
        " {title}",
        unseen=("{history_titles}\nPick one of:\n{candidate_titles}\nIt is:",),
        answer_in_prompt=True,
    ),
    Task(
        "better_of_two", "direct", "events",
        ("A user's items, oldest first:\n{history}\nOf {pair} they choose: ",
         "Which of {pair} suits the user with the items {history}? It is: "),
        "{sid}",
        unseen=("{history}\n{pair}: which one? ",),
        answer_in_prompt=True,
    ),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in (*_GROUNDING, *_SEQUENTIAL, *_SEARCH, *_CONTROL, *_P5)}
GROUNDING = tuple(task.name for task in _GROUNDING)
# Tasks that can also train on every next item of a window at once, see `genrec_hf.tasks.sequential`.
DENSE = ("next_item", "instructed_next_item")
# The protocol of LLaRA.
TITLE_CHOICE = "candidate_titles_to_next_title"


def find_tasks(names: Iterable[str | Task]) -> list[Task]:
    """Return the tasks with the given names.

    Args:
        names (`Iterable[str | Task]`): names of the table; a `Task` is returned as it is.

    Returns:
        `list[Task]`: in the given order.

    Raises:
        ValueError: a name is not in the table (the message suggests similar ones), occurs twice, or none is given.
    """
    tasks: list[Task] = []
    for name in names:
        if isinstance(name, str) and name not in TASKS:
            raise ValueError(f"got the task {name!r}{_suggest_names(name, list(TASKS))}")
        tasks.append(name if isinstance(name, Task) else TASKS[name])
    task_names = [task.name for task in tasks]
    repeated = [name for name in task_names if task_names.count(name) > 1]
    if repeated:
        raise ValueError(f"got the task {repeated[0]!r} twice: give it once, with a weight")
    if not tasks:
        raise ValueError(f"got no task; use some of {', '.join(TASKS)}")
    return tasks


def read_weights(pairs: Sequence[str]) -> dict[str, float]:
    """Parse weights of the command line, such as those of tasks.

    Args:
        pairs (`Sequence[str]`): `name=weight` each, or a name alone for a weight of 1.

    Returns:
        `dict[str, float]`: weights by name, finite and not negative.

    Raises:
        ValueError: a pair has another form, or a name occurs twice.

    Example:
        >>> read_weights(["next_item=2", "sid_to_title=0.5", "title_to_sid"])
        {'next_item': 2.0, 'sid_to_title': 0.5, 'title_to_sid': 1.0}
    """
    weights: dict[str, float] = {}
    for pair in pairs:
        name, equals, weight = pair.partition("=")
        try:
            number = float(weight) if equals else 1.0
        except ValueError:
            number = -1.0
        if not name or name in weights or not 0 <= number < float("inf"):
            raise ValueError(f"got the weight {pair!r}; write each name once with a number, as name=0.5")
        weights[name] = number
    return weights


def _suggest_names(name: str, known: Sequence[str]) -> str:
    similar = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(similar)}?" if similar else f"; use some of {', '.join(known)}"
