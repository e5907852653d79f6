"""Data sets for instruction tuning: the examples of a mixture as text or token ids, and dense sequences."""

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
    """Return the training set of a mixture of tasks, with dense sequences for next-item tasks if `dense` is set.

    Args:
        tasks (`Sequence[str]`): names of tasks of the table.
        sources (`Mapping[str, TaskSource]`): from `make_sources`, with the training events as `"events"`.
        sequences (`Sequence[np.ndarray]`): training sequences, item rows, oldest first.
        vocabulary (`SidVocabulary`): bound to `tokenizer`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        weights (`Mapping[str, float]`, *optional*): weights by name of the task; for dense tasks, the number of passes
            over the sequences, a whole number.
        dense (`bool`, defaults to `True`): make `next_item` and `instructed_next_item` with `dense_dataset`.
        stream (`bool`, defaults to `False`): make examples when they are read, without a file on disk; not with dense
            tasks.
        form (`str`, defaults to `"plain"`): see `Mixture`; `"chat"` not with dense tasks.
        seed (`int`, defaults to 0): seed of everything that is random.

    Returns:
        `tuple`: the data set, with the columns `input_ids` and `labels` if a task is dense, otherwise `prompt`,
        `completion`, `task` and `target`; and a summary of it for logs.

    Raises:
        ValueError: as `Mixture`, `dense_dataset` and `refuse_weights` do, or a dense task is to be streamed or in chat
            form.
    """
    weights = dict(weights or {})
    dense_tasks = [task for task in tasks if dense and task in DENSE]
    refuse_weights(tasks, weights, dense_tasks)
    if dense_tasks and (stream or form == "chat"):
        raise ValueError(
            f"got {', '.join(dense_tasks)} as dense sequences, which can be neither streamed nor turns of a chat: "
            "pass dense=False (--supervision one_target)"
        )
    events = sources["events"]
    assert isinstance(events, Events)
    parts, lines, mixed_tasks = [], [], [task for task in tasks if task not in dense_tasks]
    if mixed_tasks:
        mixture_weights = {task: weight for task, weight in weights.items() if task in mixed_tasks}
        mixture = Mixture(mixed_tasks, sources, mixture_weights, seed=seed, form=form)
        lines.append(mixture.describe())
        if not dense_tasks:
            return mixture.stream() if stream else mixture.dataset(), lines[0]
        parts.append(encode_examples(mixture.dataset(), tokenizer))
    max_history = events.limits.max_history
    for task in dense_tasks:
        rows = dense_dataset(
            sequences,
            vocabulary,
            tokenizer,
            max_history=max_history,
            passes=int(weights.get(task, 1)),
            seed=seed,
            instructions=events.instructions if task == "instructed_next_item" else None,
        )
        parts.append(rows)
        lines.append(f"{len(rows):,} windows of up to {max_history + 1} items: {task}")
    return concatenate_datasets(parts).shuffle(seed=seed), "\n".join(lines)


def title_choice_dataset(
    sources: Mapping[str, TaskSource],
    tokenizer: PreTrainedTokenizerBase,
    first_vector: int | None = None,
    *,
    passes: float = 1,
    seed: int = 0,
) -> Dataset:
    """Return the examples of LLaRA's protocol: the next title, given a user's titles and those of twenty candidates.

    Args:
        sources (`Mapping[str, TaskSource]`): from `make_sources`, with `vectors=True` for a model that reads
            collaborative vectors.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        first_vector (`int`, *optional*): see `encode_examples`.
        passes (`float`, defaults to 1): number of times that every training event occurs; 0.05 samples a twentieth.
        seed (`int`, defaults to 0): seed of the sampling and the order.

    Returns:
        `Dataset`: columns `input_ids` and `labels`, see `encode_examples`.

    Raises:
        ValueError: no item has a title, or `passes` is negative.
    """
    mixture = Mixture([TITLE_CHOICE], sources, {TITLE_CHOICE: passes}, seed=seed)
    return encode_examples(mixture.dataset(), tokenizer, first_vector)


def refuse_weights(tasks: Sequence[str], weights: Mapping[str, float], dense: Sequence[str]) -> None:
    """Raise if a weight is for a task that is not trained, or is not a whole number for a dense task.

    Args:
        tasks (`Sequence[str]`): names of the tasks that are trained.
        weights (`Mapping[str, float]`): weights by name of the task.
        dense (`Sequence[str]`): names of those that are made with `dense_dataset`.

    Raises:
        ValueError: a weight is for another task, or a dense task has one that is not 1, 2, ...
    """
    for name, weight in weights.items():
        if name not in tasks:
            raise ValueError(f"got a weight for {name!r}, which is not among the tasks {', '.join(tasks)}")
        if name in dense and not (weight >= 1 and float(weight).is_integer()):
            raise ValueError(
                f"got {name}={weight}, the number of passes over dense sequences: it must be a whole number, 1 or more"
            )


def encode_examples(dataset: Rows, tokenizer: PreTrainedTokenizerBase, first_vector: int | None = None) -> Rows:
    """Tokenize rows of prompts and completions, with the loss on the completion and its end.

    In plain text these are the ids that TRL makes. In chat form the template's text is that of `chat_turns`, as in
    the recommender.

    Args:
        dataset (`Dataset` or `IterableDataset`): columns `prompt` and `completion`, from a `Mixture`: text, or one
            turn each.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.
        first_vector (`int`, *optional*): `LlaraConfig.first_vector`, required for prompts with placeholders of
            vectors.

    Returns:
        `Dataset` or `IterableDataset`: columns `input_ids` and `labels` (`-100` on the prompt); other columns are
        removed.

    Raises:
        ValueError: a prompt and its completion share a token, so that no boundary for the loss exists, or a chat has
            more turns than a question and its answer; or as `encode_pairs` does.
    """
    first = next(iter(dataset), {"prompt": ""})
    form: Form = "plain" if isinstance(first["prompt"], str) else "chat"
    if form == "chat":
        chat_turns(tokenizer)  # before `map`, whose cache key depends on the turns that the tokenizer keeps

    def encode(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        texts: dict[str, list[str]] = {
            name: rows[name] if form == "plain" else [_content(turns, name) for turns in rows[name]]
            for name in ("prompt", "completion")
        }
        pairs = encode_pairs(texts["prompt"], texts["completion"], tokenizer, form=form, first_vector=first_vector)
        return {
            "input_ids": [prompt_ids + answer_ids for prompt_ids, answer_ids in pairs],
            "labels": [[IGNORED] * len(prompt_ids) + answer_ids for prompt_ids, answer_ids in pairs],
        }

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names or list(first))


def _content(turns: Sequence[Mapping[str, str]], name: str) -> str:
    """Return the content of the only turn of a prompt or a completion."""
    role = {"prompt": "user", "completion": "assistant"}[name]
    if [turn["role"] for turn in turns] != [role]:
        raise ValueError(
            f"got a {name} with turns of {[turn['role'] for turn in turns]}: the recommender uses one turn of the "
            "user and one of the assistant; pass only these"
        )
    return turns[0]["content"]
