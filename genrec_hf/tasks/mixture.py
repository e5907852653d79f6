"""Any mixture of tasks as examples: which, in what order and in which words follow from (seed, epoch, index)."""

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
    """Examples of several tasks, made when asked for: `mixture[index]`, `mixture.dataset()` or `mixture.stream()`.

    Every entry that has the fields of a task comes up `weight` times an epoch; of a fraction, another part is drawn
    in each epoch. The order within an epoch is drawn, and so are the words of each example among the task's prompts.
    Tasks whose fields a data set lacks are left out and named in `skipped`.

    Args:
        tasks (`Sequence[str | Task]`): rows of the table, or tasks of your own.
        sources (`Mapping[str, TaskSource]`): what examples are about, by the name that tasks use: `"items"`,
            `"neighbours"`, `"prefixes"`, `"events"`.
        weights (`Mapping[str, float]`, *optional*): by task, instead of the table's.
        epochs (`int`, defaults to 1): laid out one after another, each mixed anew.
        seed (`int`, defaults to 0): of everything that is drawn.
        form (`str`, defaults to `"plain"`): `"plain"` text, or `"chat"` for the model's chat template: the prompt is
            what the user says, the completion what the assistant answers.
        unseen (`bool`, defaults to `False`): ask in the paraphrases that training leaves out, where a task has some.

    Raises:
        ValueError: on an unknown task, a weight below 0 or for a task that is not in the mixture, or when no example
            is left.

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
        found, weights = find_tasks(tasks), dict(weights or {})
        _check_weights(found, weights)
        usable = {task.name: _usable(task, sources) for task in found}
        self.skipped = [task.name for task in found if not len(usable[task.name])]
        self.tasks = [task for task in found if len(usable[task.name])]
        self.sources, self.seed, self.form, self.unseen = sources, seed, form, unseen
        parts = [self._epoch(epoch, usable, weights) for epoch in range(epochs)]
        self.plan = np.concatenate(parts)
        if not len(self.plan):
            raise ValueError(
                f"no example is left of {', '.join(task.name for task in found)}: the data lacks the fields of "
                f"{', '.join(self.skipped) or 'none'}, or the weights leave nothing"
            )

    def _epoch(self, epoch: int, usable: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
        """Rows (task, entry, epoch, index in the epoch), in the order of the epoch."""
        parts = [np.empty((0, 2), dtype=np.int64)]
        for place, task in enumerate(self.tasks):
            sources, weight = usable[task.name], weights.get(task.name, task.weight)
            rng = np.random.default_rng([self.seed, epoch, 0, place])
            part = rng.choice(sources, round(weight % 1 * len(sources)), replace=False)
            chosen = np.concatenate([np.tile(sources, int(weight)), part])
            parts.append(np.stack([np.full(len(chosen), place), chosen], axis=1))
        rows = np.random.default_rng([self.seed, epoch, 1]).permutation(np.concatenate(parts))
        index = np.stack([np.full(len(rows), epoch), np.arange(len(rows))], axis=1)
        return np.concatenate([rows, index], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place, entry, epoch, number = self.plan[index].tolist()
        task = self.tasks[place]
        rng = np.random.default_rng([self.seed, epoch, 2, number])
        about = self.sources[task.source]
        prompts = (task.unseen if self.unseen else ()) or task.prompts
        fields = _Fields(about, entry, rng)
        prompt = prompts[int(rng.integers(len(prompts)))].format_map(fields)
        completion = task.completion.format_map(fields)
        texts: dict[str, Any] = {"prompt": prompt, "completion": completion}
        if self.form == "chat":
            texts["prompt"] = [{"role": "user", "content": prompt.strip()}]
            texts["completion"] = [{"role": "assistant", "content": completion.strip()}]
        return {**texts, "task": task.name, "target": about.target(entry)}

    def describe(self) -> str:
        """What is in it, for people: examples by task, tasks left out, histories cut."""
        lines = [f"{len(self):,} examples"]
        lines += [f"  {name:<30} {count:>9,}" for name, count in self.counts.items()]
        if self.skipped:
            lines.append(f"left out, since the data lacks their fields: {', '.join(self.skipped)}")
        events = self.sources.get("events")
        if isinstance(events, Events) and events.cut and any(task.source == "events" for task in self.tasks):
            most = events.limits.max_history
            lines.append(f"{events.cut:,} of {len(events):,} histories are cut to their last {most} items")
        return "\n".join(lines)

    @property
    def counts(self) -> dict[str, int]:
        """Examples of each task."""
        return {task.name: int((self.plan[:, 0] == place).sum()) for place, task in enumerate(self.tasks)}

    def dataset(self, num_proc: int | None = None) -> Dataset:
        """All examples, written to disk as Arrow and kept in the cache of `datasets` under what they are made from.

        Args:
            num_proc (`int`, *optional*): processes that write.

        Returns:
            `Dataset`: `prompt`, `completion`, `task` and `target` (the item row that is asked for or told of, -1 for
            none).
        """
        return Dataset.from_generator(
            _write,
            features=self._features(),
            gen_kwargs=self._parts(num_proc or 1),
            num_proc=num_proc,
            fingerprint=self.fingerprint,
        )

    def stream(self, shards: int = 1) -> IterableDataset:
        """The same examples in the same order without a file, for mixtures that do not fit; `shards` for workers."""
        return IterableDataset.from_generator(_write, features=self._features(), gen_kwargs=self._parts(shards))

    def _parts(self, count: int) -> dict[str, list[Any]]:
        """Arguments of `_write`, in lists that `datasets` shares out."""
        edges = np.linspace(0, len(self), min(count, len(self)) + 1).astype(int).tolist()
        return {"mixture": [self] * (len(edges) - 1), "part": list(pairwise(edges))}

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with whatever changes an example."""
        # Every entry of the plan says all that it knows once: texts, histories and seeds.
        about = (f"{name}:{self.sources[name].fingerprint}" for name in sorted({task.source for task in self.tasks}))
        return hex_digest([repr((self.tasks, self.seed, self.form, self.unseen)), self.plan, *about])

    def _features(self) -> Features:
        text: Any = Value("string")
        if self.form == "chat":
            text = [{"role": Value("string"), "content": Value("string")}]
        return Features({"prompt": text, "completion": text, "task": Value("string"), "target": Value("int64")})


class _Fields(dict[str, str]):
    """The fields of one entry, made when a template names them, the same in prompt and completion."""

    def __init__(self, about: TaskSource, entry: int, rng: np.random.Generator) -> None:
        self.about, self.entry, self.rng = about, entry, rng

    def __missing__(self, field: str) -> str:
        self[field] = self.about.value(field, self.entry, self.rng)
        return self[field]


def _write(mixture: list[Mixture], part: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for each, (start, stop) in zip(mixture, part, strict=True):
        for index in range(start, stop):
            yield each[index]


def _usable(task: Task, sources: Mapping[str, TaskSource]) -> np.ndarray:
    """The sources that have every field of the task."""
    if task.source not in sources:
        raise ValueError(f"task {task.name!r} is about {task.source!r}; got sources for {', '.join(sources)} only")
    about = sources[task.source]
    has = np.ones(len(about), dtype=bool)
    for field in sorted(task.fields):
        has &= about.has(field)
    return np.flatnonzero(has)


def _check_weights(tasks: Sequence[Task], weights: Mapping[str, float]) -> None:
    names = [task.name for task in tasks]
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"got a weight for {name!r}, which is not in the mixture of {', '.join(names)}")
        if not 0 <= weight < np.inf:
            raise ValueError(f"got the weight {weight!r} for {name!r}; give 0 or more, times an example comes up")
    if all(weights.get(task.name, task.weight) == 0 for task in tasks):
        raise ValueError(f"got weights that sum to nothing for {', '.join(names)}: give one of them more than 0")
