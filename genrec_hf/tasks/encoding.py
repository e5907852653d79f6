"""The data set of instruction tuning: examples of a mixture, as text, or as token ids beside dense sequences."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from genrec_hf.tasks.events import Events
from genrec_hf.tasks.mixture import Mixture
from genrec_hf.tasks.prompts import Form, encode_pairs
from genrec_hf.tasks.sequential import IGNORED, dense_dataset
from genrec_hf.tasks.sources import TaskSource
from genrec_hf.tasks.table import DENSE, TITLE_CHOICE
from genrec_hf.tasks.turns import chat_turns
from genrec_hf.vocabulary import SidVocabulary

Rows = TypeVar("Rows", Dataset, IterableDataset)


def instruction_dataset(
    tasks: Sequence[str],
    sources: Mapping[str, TaskSource],
    sequences: Sequence[np.ndarray],
    *,
    vocabulary: SidVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, float] | None = None,
    dense: bool = True,
    stream: bool = False,
    form: Form = "plain",
    seed: int = 0,
) -> tuple[Dataset | IterableDataset, str]:
    """A mixture of tasks as a trainer takes it, next items with the loss on whole stretches if they are to be dense.

    Args:
        tasks (`Sequence[str]`): rows of the table.
        sources (`Mapping[str, TaskSource]`): from `make_sources`, with `"events"` of training.
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        weights (`Mapping[str, float]`, *optional*): by task; of dense tasks, whole times that sequences are read.
        dense (`bool`, defaults to `True`): `next_item` and `instructed_next_item` come from `dense_dataset`.
        stream (`bool`, defaults to `False`): make examples when they are read, and no file; not with dense tasks.
        form (`str`, defaults to `"plain"`): of `Mixture`; `"chat"` not with dense tasks.
        seed (`int`, defaults to 0): of everything that is drawn.

    Returns:
        `tuple`: `input_ids` and `labels` where a task is dense, else `prompt` and `completion`; and what is in it, for
        people.

    Raises:
        ValueError: as `Mixture` and `dense_dataset` do, and for dense tasks in a stream, in chat form, or with a
            weight that is not a whole number.
    """
    weights = dict(weights or {})
    whole = [task for task in tasks if dense and task in DENSE]
    refuse_weights(tasks, weights, whole)
    if whole and (stream or form == "chat"):
        raise ValueError(f"got {', '.join(whole)} as dense sequences, which are neither streamed nor turns of a chat")
    events = sources["events"]
    assert isinstance(events, Events)
    parts, lines, mixed = [], [], [task for task in tasks if task not in whole]
    if mixed:
        own = {task: weight for task, weight in weights.items() if task in mixed}
        mixture = Mixture(mixed, sources, own, seed=seed, form=form)
        lines.append(mixture.describe())
        if not whole:
            return mixture.stream() if stream else mixture.dataset(), lines[0]
        parts.append(encode_examples(mixture.dataset(), tokenizer))
    for task in whole:
        instructions, times = (
            events.instructions if task == "instructed_next_item" else None,
            int(weights.get(task, 1)),
        )
        most = events.limits.max_history
        parts.append(
            dense_dataset(
                sequences, vocabulary, tokenizer, max_history=most, passes=times, seed=seed, instructions=instructions
            )
        )
        lines.append(f"{len(parts[-1]):,} stretches of up to {most + 1} items: {task}")
    return concatenate_datasets(parts).shuffle(seed=seed), "\n".join(lines)


def title_choice_dataset(
    sources: Mapping[str, TaskSource],
    tokenizer: PreTrainedTokenizerBase,
    first_vector: int | None = None,
    *,
    passes: float = 1,
    seed: int = 0,
) -> Dataset:
    """LLaRA's own examples: the titles a user chose and twenty candidates', and the title that comes next.

    Args:
        sources (`Mapping[str, TaskSource]`): from `make_sources`, with `vectors` where the model reads some.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        first_vector (`int`, *optional*): as of `encode_examples`.
        passes (`float`, defaults to 1): times that a training event comes up; 0.05 draws a twentieth of them.
        seed (`int`, defaults to 0): of draws and order.

    Returns:
        `Dataset`: as of `encode_examples`.

    Raises:
        ValueError: when no item has a title.
    """
    mixture = Mixture([TITLE_CHOICE], sources, {TITLE_CHOICE: passes}, seed=seed)
    return encode_examples(mixture.dataset(), tokenizer, first_vector)


def refuse_weights(tasks: Sequence[str], weights: Mapping[str, float], dense: Sequence[str]) -> None:
    """Raise where weights would be read by no task, or a dense task cannot be read as often as it says.

    Raises:
        ValueError: on a weight for a task that is not there, or of a dense task and not 1, 2, ...
    """
    for name, weight in weights.items():
        if name not in tasks:
            raise ValueError(f"got a weight for {name!r}, which is not among the tasks {', '.join(tasks)}")
        if name in dense and not (weight >= 1 and float(weight).is_integer()):
            raise ValueError(f"got {name}={weight}; dense sequences are read whole times: give 1, 2, ...")


def encode_examples(dataset: Rows, tokenizer: PreTrainedTokenizerBase, first_vector: int | None = None) -> Rows:
    """Prompt-completion rows as token ids: the loss on the completion and what ends it.

    In plain text these are the ids that TRL makes. The turns of a chat are those of `chat_turns`, which the
    recommender asks in.

    Args:
        dataset (`Dataset` or `IterableDataset`): `prompt` and `completion`, from a `Mixture`: text, or a turn each.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`, where prompts hold places of vectors.

    Returns:
        `Dataset` or `IterableDataset`: `input_ids` and `labels`, -100 on the prompt; other columns are gone.

    Raises:
        ValueError: when a prompt and its completion share a token, so that the loss could not tell them apart, or a
            chat has more turns than a question and its answer.
    """
    first = next(iter(dataset), {"prompt": ""})
    form: Form = "plain" if isinstance(first["prompt"], str) else "chat"
    if form == "chat":
        chat_turns(tokenizer)  # before `map`, which finds rows of another day by what the tokenizer holds

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        texts: dict[str, list[str]] = {
            name: rows[name] if form == "plain" else [_content(turns, name) for turns in rows[name]]
            for name in ("prompt", "completion")
        }
        pairs = encode_pairs(texts["prompt"], texts["completion"], tokenizer, form=form, first_vector=first_vector)
        return {
            "input_ids": [asked + answer for asked, answer in pairs],
            "labels": [[IGNORED] * len(asked) + answer for asked, answer in pairs],
        }

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names or list(first))


def _content(turns: Sequence[Mapping[str, str]], name: str) -> str:
    """What is said in the one turn that a prompt or a completion has."""
    role = {"prompt": "user", "completion": "assistant"}[name]
    if [turn["role"] for turn in turns] != [role]:
        raise ValueError(
            f"got a {name} with turns of {[turn['role'] for turn in turns]}: the recommender asks in one turn of the "
            "user and is answered in one of the assistant; give these alone"
        )
    return turns[0]["content"]
