"""Mixtures of tasks as examples; choice, order and prompt of each example depend only on (seed, epoch, index)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value

from genrec_hf.checks import check_choice, check_least
from genrec_hf.digests import hex_digest
from genrec_hf.tasks.events import Events
from genrec_hf.tasks.prompts import Form
from genrec_hf.tasks.sources import TaskSource
from genrec_hf.tasks.table import Task, find_tasks


class Mixture(Sequence[dict[str, Any]]):
    """Sequence of the examples of several tasks: `mixture[index]`, `mixture.dataset()` or `mixture.stream()`.

    Examples are made on access. Every entry that has the fields of a task occurs `weight` times in an epoch; for a
    fractional weight, each epoch samples another part of the entries. The order within an epoch and the prompt
    template of each example are random. Tasks whose fields the data set lacks are left out and named in `skipped`.

    Args:
        tasks (`Sequence[str | Task]`): names of the table, or custom tasks.
        sources (`Mapping[str, TaskSource]`): sources by the name that tasks use: `"items"`, `"neighbours"`,
            `"prefixes"`, `"events"`.
        weights (`Mapping[str, float]`, *optional*): weights by name of the task, instead of those of the table.
        epochs (`int`, defaults to 1): number of epochs, one after another, each in another order.
        seed (`int`, defaults to 0): seed of everything that is random.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"`: the prompt is a turn of the user and the
            completion a turn of the assistant, for the model's chat template.
        unseen (`bool`, defaults to `False`): use the paraphrases that training leaves out, where a task has some.

    Attributes:
        tasks (`list[Task]`): tasks that have examples.
        skipped (`list[str]`): names of the tasks without examples.
        plan (`np.ndarray`): `[examples, 4]`, int32: task, entry, epoch, and index within the epoch.

    Raises:
        ValueError: a task, `form` or source is unknown, a weight is negative or for a task that is not in the mixture,
            `epochs` is below 1, or no example is left.

    Example:
        >>> class Pets:
        ...     def __len__(self): return 2
        ...     def has(self, field): return np.array([True, True])
        ...     def value(self, field, entry, rng): return ["cat", "dog"][entry]
        ...     def target(self, entry): return entry
        >>> task = Task("name", "grounding", "pets", ("A pet is a:",), " {title}")
        >>> sorted(example["completion"] for example in Mixture([task], {"pets": Pets()}))
        [' cat', ' dog']
    """

    def __init__(
        self,
        tasks: Sequence[str | Task],
        sources: Mapping[str, TaskSource],
        weights: Mapping[str, float] | None = None,
        *,
        epochs: int = 1,
        seed: int = 0,
        form: Form = "plain",
        unseen: bool = False,
    ) -> None:
        check_choice("form", form, get_args(Form))
        check_least(1, epochs=epochs)
        all_tasks, weights = find_tasks(tasks), dict(weights or {})
        _check_weights(all_tasks, weights)
        usable = {task.name: _usable_entries(task, sources) for task in all_tasks}
        self.skipped = [task.name for task in all_tasks if not len(usable[task.name])]
        self.tasks = [task for task in all_tasks if len(usable[task.name])]
        self.sources, self.seed, self.form, self.unseen = sources, seed, form, unseen
        self.plan = np.concatenate([self._plan_epoch(epoch, usable, weights) for epoch in range(epochs)])
        if not len(self.plan):
            raise ValueError(
                f"no example is left of {', '.join(task.name for task in all_tasks)}: the data lacks the fields of "
                f"{', '.join(self.skipped) or 'none'}, or the weights are too small; add a task or raise a weight"
            )

    def _plan_epoch(self, epoch: int, usable: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
        """Return the rows of `plan` for an epoch, in its order."""
        parts = [np.empty((0, 2), dtype=np.int64)]
        for task_index, task in enumerate(self.tasks):
            entries, weight = usable[task.name], weights.get(task.name, task.weight)
            rng = np.random.default_rng([self.seed, epoch, 0, task_index])
            sampled = rng.choice(entries, round(weight % 1 * len(entries)), replace=False)
            chosen = np.concatenate([np.tile(entries, int(weight)), sampled])
            parts.append(np.stack([np.full(len(chosen), task_index), chosen], axis=1))
        rows = np.random.default_rng([self.seed, epoch, 1]).permutation(np.concatenate(parts))
        index = np.stack([np.full(len(rows), epoch), np.arange(len(rows))], axis=1)
        return np.concatenate([rows, index], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        task_index, entry, epoch, index_in_epoch = self.plan[index].tolist()
        task = self.tasks[task_index]
        rng = np.random.default_rng([self.seed, epoch, 2, index_in_epoch])
        source = self.sources[task.source]
        prompts = (task.unseen if self.unseen else ()) or task.prompts
        fields = _Fields(source, entry, rng)
        prompt = prompts[int(rng.integers(len(prompts)))].format_map(fields)
        completion = task.completion.format_map(fields)
        texts: dict[str, Any] = {"prompt": prompt, "completion": completion}
        if self.form == "chat":
            texts["prompt"] = [{"role": "user", "content": prompt.strip()}]
            texts["completion"] = [{"role": "assistant", "content": completion.strip()}]
        return {**texts, "task": task.name, "target": source.target(entry)}

    def describe(self) -> str:
        """Return a summary for logs: examples by task, tasks left out, histories truncated."""
        lines = [f"{len(self):,} examples"]
        lines += [f"  {name:<30} {count:>9,}" for name, count in self.counts.items()]
        if self.skipped:
            lines.append(f"left out, since the data lacks their fields: {', '.join(self.skipped)}")
        events = self.sources.get("events")
        if isinstance(events, Events) and events.truncated and any(task.source == "events" for task in self.tasks):
            longest = events.limits.max_history
            lines.append(
                f"{events.truncated:,} of {len(events):,} histories are truncated to their last {longest} items"
            )
        return "\n".join(lines)

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples by name of the task."""
        return {task.name: int((self.plan[:, 0] == index).sum()) for index, task in enumerate(self.tasks)}

    def dataset(self, num_proc: int | None = None) -> Dataset:
        """Write all examples to disk as Arrow, in the cache of `datasets`, with `fingerprint` as the key.

        Args:
            num_proc (`int`, *optional*): number of processes that write.

        Returns:
            `Dataset`: columns `prompt`, `completion`, `task` and `target` (the item row that is asked for or
            described, `-1` for none).
        """
        return Dataset.from_generator(
            _generate_examples,
            features=self._features(),
            gen_kwargs=self._shards(num_proc or 1),
            num_proc=num_proc,
            fingerprint=self.fingerprint,
        )

    def stream(self, shards: int = 1) -> IterableDataset:
        """Return the same examples in the same order without a file on disk, for mixtures that are too large for one.

        Args:
            shards (`int`, defaults to 1): number of shards, at least the number of workers of the data loader.

        Returns:
            `IterableDataset`: the columns of `dataset`.
        """
        return IterableDataset.from_generator(
            _generate_examples, features=self._features(), gen_kwargs=self._shards(shards)
        )

    def _shards(self, count: int) -> dict[str, list[Any]]:
        """Return the arguments of `_generate_examples`, in lists that `datasets` divides among processes."""
        edges = np.linspace(0, len(self), min(count, len(self)) + 1).astype(int).tolist()
        return {"mixtures": [self] * (len(edges) - 1), "ranges": list(pairwise(edges))}

    @property
    def fingerprint(self) -> str:
        """Digest of everything that the examples depend on, 16 hexadecimal digits."""
        used_sources = sorted({task.source for task in self.tasks})
        digests = (f"{name}:{self.sources[name].fingerprint}" for name in used_sources)
        return hex_digest([repr((self.tasks, self.seed, self.form, self.unseen)), self.plan, *digests])

    def _features(self) -> Features:
        text: Any = Value("string")
        if self.form == "chat":
            text = [{"role": Value("string"), "content": Value("string")}]
        return Features({"prompt": text, "completion": text, "task": Value("string"), "target": Value("int64")})


class _Fields(dict[str, str]):
    """Fields of one entry, computed when a template names them, so that prompt and completion have the same value."""

    def __init__(self, source: TaskSource, entry: int, rng: np.random.Generator) -> None:
        self.source, self.entry, self.rng = source, entry, rng

    def __missing__(self, field: str) -> str:
        self[field] = self.source.value(field, self.entry, self.rng)
        return self[field]


def _generate_examples(mixtures: list[Mixture], ranges: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for mixture, (start, stop) in zip(mixtures, ranges, strict=True):
        for index in range(start, stop):
            yield mixture[index]


def _usable_entries(task: Task, sources: Mapping[str, TaskSource]) -> np.ndarray:
    """Return the entries that have every field of the task."""
    if task.source not in sources:
        raise ValueError(
            f"got sources {', '.join(sources)}, and the task {task.name!r} is made from {task.source!r}: pass that "
            "source, or leave the task out"
        )
    source = sources[task.source]
    has_fields = np.ones(len(source), dtype=bool)
    for field in sorted(task.fields):
        has_fields &= source.has(field)
    return np.flatnonzero(has_fields)


def _check_weights(tasks: Sequence[Task], weights: Mapping[str, float]) -> None:
    names = [task.name for task in tasks]
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"got a weight for {name!r}, which is not in the mixture of {', '.join(names)}")
        if not 0 <= weight < np.inf:
            raise ValueError(f"got the weight {weight!r} for {name!r}: it must be a finite number, 0 or more")
    if all(weights.get(task.name, task.weight) == 0 for task in tasks):
        raise ValueError(f"got only weights of 0 for {', '.join(names)}: give at least one a weight above 0")
