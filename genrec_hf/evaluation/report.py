"""From recommendations to a report: item-level metrics with intervals, a model beside its baselines, three files.

`metrics.json` holds `protocol`, `model` (absent when only baselines ran) and `baselines` for seen items filtered, and
the same again under `unfiltered` for seen items allowed. `metrics.md` and `metrics.png` show it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from genrec_hf.directories import as_directory, write_text
from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.evaluation.candidates import choose_candidates, evaluate_candidates
from genrec_hf.evaluation.display import draw_report, markdown_report, text_report
from genrec_hf.evaluation.filtering import filtered_targets, items_left
from genrec_hf.evaluation.metrics import (
    bootstrap_intervals,
    coverage,
    duplicate_rate,
    intra_list_similarity,
    invalid_rate,
    per_case_metrics,
)
from genrec_hf.evaluation.ranked_cases import RankedCases, list_length
from genrec_hf.evaluation.slices import age_slices, popularity_slices
from genrec_hf.ranking import Histories, Ranker, checked_ranking

if TYPE_CHECKING:  # the metrics stay importable with NumPy alone
    from genrec_hf.data import InteractionData

_CONFIDENCE, _RESAMPLES = 0.95, 1000


def evaluate_recommendations(
    recommended: ArrayLike,
    cases_users: ArrayLike,
    targets: ArrayLike,
    *,
    items: int,
    ks: Sequence[int] = (1, 5, 10, 20),
    sid_groups: ArrayLike | None = None,
    embeddings: ArrayLike | None = None,
    seed: int = 0,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
    left: ArrayLike | None = None,
) -> dict[str, Any]:
    """Score one system's lists over all cases, for one row of a report.

    `recall@k`, `ndcg@k` and `mrr@k` are item level: with colliding semantic IDs only the target itself is a hit.
    `sid_recall@k` counts any item of the target's SID, is never lower, and shows how much collisions would flatter.

    Args:
        recommended: Integer array `[cases, ranks]` of item rows, best first; -1 marks an empty rank.
        cases_users: Array `[cases]`, whose case each is; the intervals resample users.
        targets: Integer array `[cases]` of item rows.
        items: Size of the catalogue.
        ks: Cutoffs, each between 1 and `ranks`.
        sid_groups: Integer array `[items]`, equal for items that share a SID; `None` when every item has its own.
        embeddings: Float array `[items, d]`, to measure how alike the items of a list are; `None` leaves that out.
        seed: Seed of the bootstrap.
        slices: Name -> `[cases]`, which cases are looked at on their own, such as those of rare targets.
        left: Integer array `[cases]`, items that filters leave for each list, see `invalid_rate`.

    Returns:
        Means in [0, 1] under `recall@k`, `ndcg@k`, `mrr@k`, `sid_recall@k`; `invalid_rate` and `duplicate_rate` over
        the ranks; `coverage@k` (and `similarity@k`) for the largest k up to 10; the counts `cases` and `users`; and
        `intervals`, metric -> `[low, high]`, 95 % over users, for every `recall@k`, `ndcg@k`, `mrr@k`; with slices
        `slices`, name -> `cases`, and `recall@k` and `ndcg@k` for the largest k up to 10.

    Raises:
        ValueError: Lengths differ, so that a user would go uncounted; a target lies outside the catalogue; a cutoff
            exceeds `ranks`.

    Example:
        >>> lists, users, targets = [[0, 1], [2, 1]], ["ann", "bob"], [1, 0]
        >>> row = evaluate_recommendations(lists, users, targets, items=3, ks=[1, 2], sid_groups=[0, 1, 0])
        >>> row["recall@2"], row["sid_recall@2"], row["mrr@2"], row["users"]
        (0.5, 1.0, 0.25, 2)
    """
    recommended, targets, users = np.asarray(recommended), np.asarray(targets), np.asarray(cases_users)
    if not len(recommended) == len(targets) == len(users):
        raise ValueError(
            f"Got {len(recommended)} lists, {len(targets)} targets and {len(users)} users: every user counts, so the "
            "means would be wrong; pass one of each for every case, without dropping the last batch."
        )
    if len(targets) and targets.max() >= items:
        raise ValueError(f"Got target {targets.max()} for {items} items: no list can hit it; pass rows below {items}.")
    per_case = per_case_metrics(recommended, targets, ks)
    result: dict[str, Any] = {name: float(values.mean()) for name, values in per_case.items()}
    by_sid = per_case if sid_groups is None else _sid_level(recommended, targets, np.asarray(sid_groups), items, ks)
    result |= {f"sid_recall@{k}": float(by_sid[f"recall@{k}"].mean()) for k in ks}
    result |= {"invalid_rate": invalid_rate(recommended, items, left), "duplicate_rate": duplicate_rate(recommended)}
    cutoff = max([k for k in ks if k <= 10], default=min(ks))
    result[f"coverage@{cutoff}"] = coverage(recommended, items, cutoff)
    if embeddings is not None and cutoff > 1:
        result[f"similarity@{cutoff}"] = intra_list_similarity(recommended, embeddings, cutoff)
    result |= {"cases": len(targets), "users": len(np.unique(users))}
    intervals = bootstrap_intervals(per_case, users, _CONFIDENCE, resamples=_RESAMPLES, seed=seed)
    result["intervals"] = {name: list(interval) for name, interval in intervals.items()}
    if slices is not None:
        looked_at = (f"recall@{cutoff}", f"ndcg@{cutoff}")
        result["slices"] = {
            name: {"cases": int(mine.sum())} | {key: float(per_case[key][mine].mean()) for key in looked_at}
            for name, mine in slices.items()
            if mine.any()
        }
    return result


def _sid_level(
    recommended: NDArray, targets: NDArray, groups: NDArray, items: int, ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    if groups.shape != (items,):
        raise ValueError(
            f"Got sid_groups of shape {groups.shape} for {items} items: SIDs would go to wrong items; pass one group "
            "an item."
        )
    groups = np.unique(groups, return_inverse=True)[1]
    legal = (recommended >= 0) & (recommended < items)
    return per_case_metrics(np.where(legal, groups[np.where(legal, recommended, 0)], -1), groups[targets], ks)


def evaluate_baselines(
    training_sequences: Histories | Sequence[NDArray],
    histories: Histories | Sequence[NDArray],
    *,
    users: ArrayLike,
    targets: ArrayLike,
    items: int,
    ks: Sequence[int] = (1, 5, 10, 20),
    filter_seen: bool = True,
    seed: int = 0,
    progress: bool = True,
    embeddings: ArrayLike | None = None,
    others: Mapping[str, Ranker] | None = None,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Normalization the recommenders that need no training, the rows every model is read against.

    Args:
        training_sequences: One integer array of item rows a user, oldest first, without validation and test events;
            users in file order, which breaks ties (see `genrec_hf.evaluation.baselines`).
        histories: One integer array of item rows a case: everything before the target.
        users: Array `[cases]`, whose case each is.
        targets: Integer array `[cases]` of item rows.
        items: Size of the catalogue.
        ks: Cutoffs; the lists are as long as the largest.
        filter_seen: Whether items of the history may not be recommended.
        seed: Seed of the random baseline and of the bootstrap.
        progress: Whether to show a progress bar on stderr.
        embeddings: As in `evaluate_recommendations`.
        others: Further rankers by name.
        slices: As in `evaluate_recommendations`.

    Returns:
        `random`, `popularity`, `repeat` and `markov1`, then the others, each as `evaluate_recommendations` returns it.

    Raises:
        ValueError: As in `evaluate_recommendations`, a row lies outside the catalogue, or a ranker returns duplicates,
            seen items where they are filtered, or fewer rows than cases.
    """
    histories = Histories.of(histories, items)
    baselines = _baselines(training_sequences, items, seed) | dict(others or {})
    left = items_left(histories, items) if filter_seen else None
    if filter_seen:
        filtered_targets(histories, targets)
    common: dict[str, Any] = {"items": items, "ks": ks, "embeddings": embeddings, "seed": seed, "slices": slices}
    results = {}
    bar = tqdm(baselines.items(), desc="baselines", disable=not progress)
    for name, baseline in bar:
        ranking = checked_ranking(baseline, histories, max(ks), filter_seen=filter_seen)
        results[name] = evaluate_recommendations(ranking.items, users, targets, left=left, **common)
    return results


def _baselines(training_sequences: Histories | Sequence[NDArray], items: int, seed: int) -> dict[str, Ranker]:
    return {
        "random": RandomBaseline(items, seed),
        "popularity": Popularity(training_sequences, items),
        "repeat": RepeatHistory(training_sequences, items),
        "markov1": MarkovOne(training_sequences, items),
    }


def evaluate_data(
    data: "InteractionData",
    split: str,
    ranked: RankedCases | None = None,
    *,
    others: Mapping[str, Ranker] | None = None,
    embeddings: ArrayLike | None = None,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
    progress: bool = True,
    candidates: Sequence[NDArray] | None = None,
) -> dict[str, Any]:
    """Score a model and the baselines on every case of a split, seen items filtered and allowed: the whole report.

    Args:
        data: The data set.
        split: `"validation"` or `"test"`.
        ranked: The model's lists, from `rank_cases` of these cases; `None` for a report of the baselines alone.
        others: Further rankers by name, for a row each.
        embeddings: As in `evaluate_recommendations`.
        seed: Seed of the random baseline and of the bootstrap.
        info: More facts for the protocol.
        progress: Whether to show progress bars.
        candidates: For each case, item rows to choose the target from, as `EvaluationCases.candidates` draws them.

    Returns:
        What `build_report` returns, with `filtered_targets` in the protocol where there are some, and the model's
        `seconds`; with candidates also their section: `count`, `fewest` of any case, and `hit@1` and `valid_rate` of
        every system as `evaluate_candidates` returns them.
    """
    cases, items, sequences = data.cases(split), len(data.item_ids), data.training_sequences()
    ks = sorted({min(k, list_length(items)) for k in (1, 5, 10, 20)})
    slices = popularity_slices(data.item_counts(), cases.targets) | age_slices(data.target_ages(split))
    common: dict[str, Any] = {"items": items, "ks": ks, "embeddings": embeddings, "seed": seed, "slices": slices}
    left = {True: items_left(cases.histories, items), False: None}
    rows: dict[bool, dict[str, Any]] = {}
    seconds = {} if ranked is None else ranked.seconds
    for filter_seen, ranking in ({} if ranked is None else ranked.rankings).items():
        scored = evaluate_recommendations(ranking.items, cases.users, cases.targets, left=left[filter_seen], **common)
        rows[filter_seen] = scored | {"seconds": seconds[filter_seen]}
    baselines = {
        filter_seen: evaluate_baselines(
            sequences,
            cases.histories,
            users=cases.users,
            targets=cases.targets,
            filter_seen=filter_seen,
            progress=progress,
            others=others,
            **common,
        )
        for filter_seen in (True, False)
    }
    known = {key: data.info[key] for key in ("fingerprint", "k_core", "repeats") if key in data.info}
    report = build_report(
        dataset=data.info["name"],
        split=f"{data.info['split']}, {split}",
        tie_break=data.info["tie_break"],
        items=items,
        model=rows.get(True),
        baselines=baselines[True],
        unfiltered_model=rows.get(False),
        unfiltered_baselines=baselines[False],
        seed=seed,
        info=known | dict(info or {}),
    )
    if share := filtered_targets(cases.histories, cases.targets, warn=False):  # the baselines have warned
        report["protocol"]["filtered_targets"] = share
    if candidates is not None:
        systems = _baselines(sequences, items, seed) | dict(others or {})
        choices = {name: choose_candidates(system, cases.histories, candidates) for name, system in systems.items()}
        if ranked is not None and ranked.chosen is not None:
            choices["model"] = ranked.chosen
        scored = evaluate_candidates(choices, cases.users, cases.targets, candidates=candidates, seed=seed)
        counts = [len(each) for each in candidates]
        report["candidates"] = {"count": max(counts), "fewest": min(counts), "systems": scored}
    return report


def build_report(
    *,
    dataset: str,
    split: str,
    tie_break: str,
    items: int,
    baselines: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any] | None = None,
    unfiltered_baselines: Mapping[str, Mapping[str, Any]] | None = None,
    unfiltered_model: Mapping[str, Any] | None = None,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put a model and the baselines under the protocol that makes their figures comparable.

    Args:
        dataset: Name of the data set.
        split: How validation and test events were taken, such as `"leave-one-out"`.
        tie_break: What orders events of one time, such as `"file order"`; it moves every metric on day-granular data.
        items: Size of the catalogue.
        baselines: Name -> result with seen items filtered, as `evaluate_baselines` returns; more rows may be added.
        model: The model's result with seen items filtered, from `evaluate_recommendations`; `None` without a model.
        unfiltered_baselines: The baselines with seen items allowed; `None` when not measured.
        unfiltered_model: The model with seen items allowed; `None` when not measured.
        seed: Seed of the bootstrap that the results were made with.
        info: More facts for the protocol, such as the base model, the time, or the data set's `fingerprint`.

    Returns:
        The content of `metrics.json`: `protocol`, `model`, `baselines`, and `unfiltered` with the same three.

    Raises:
        ValueError: There is nothing to report, or two systems were not scored on the same number of cases and users.
    """
    filtered = _section(model, baselines)
    unfiltered = _section(unfiltered_model, unfiltered_baselines or {})
    counts = {(row["cases"], row["users"]) for section in (filtered, unfiltered) for row in _rows(section)}
    if len(counts) != 1:
        raise ValueError(
            f"Got systems scored on (cases, users) = {sorted(counts)}: figures of different cases do not compare; "
            "score every system on all cases, and at least one."
        )
    ((cases, users),) = counts
    protocol = {
        "dataset": dataset,
        "split": split,
        "tie_break": tie_break,
        "filter_seen": True,
        "users": users,
        "cases": cases,
        "items": int(items),
        "bootstrap": {"unit": "users", "resamples": _RESAMPLES, "confidence": _CONFIDENCE, "seed": seed},
        **(info or {}),
    }
    report = {"protocol": protocol, **filtered}
    if _rows(unfiltered):
        report["unfiltered"] = {"protocol": protocol | {"filter_seen": False}, **unfiltered}
    return report


def write_report(report: Mapping[str, Any], output_dir: str | os.PathLike[str]) -> None:
    """Write `metrics.json`, `metrics.md` and `metrics.png`, for the recipes and for the model card.

    Args:
        report: What `build_report` returned.
        output_dir: Where to; made when missing. A report of the same data set is replaced.

    Raises:
        ValueError: The directory holds the report of another data set.
    """
    output_dir = as_directory(output_dir)
    refuse_other_report(output_dir, report["protocol"]["dataset"], report["protocol"].get("fingerprint"))
    text = json.dumps(report, indent=2, allow_nan=False, default=_plain)
    write_text(output_dir / "metrics.md", markdown_report(report))
    draw_report(report, output_dir / "metrics.png")
    # Last: whoever finds metrics.json finds its two companions with it.
    write_text(output_dir / "metrics.json", text + "\n")


def refuse_other_report(
    output_dir: str | os.PathLike[str], dataset: str | None = None, fingerprint: str | None = None
) -> None:
    """Stop before the work is done whose report `write_report` would refuse.

    Args:
        output_dir: Where the report will go; passes when it holds none.
        dataset: Name of the data set.
        fingerprint: Of the data set; knows it under another name or path. Without two of them the name decides.

    Raises:
        ValueError: The directory holds the report of another data set.
    """
    path = Path(output_dir) / "metrics.json"
    if not path.exists():
        return
    old = json.loads(path.read_text(encoding="utf-8")).get("protocol", {})
    new = {"dataset": dataset, "fingerprint": fingerprint}
    key = "fingerprint" if "fingerprint" in old and fingerprint is not None else "dataset"
    if old.get(key) != new[key]:
        raise ValueError(
            f"Got an output directory of another data set, {path} is of {old.get('dataset')!r} and this report of "
            f"{dataset!r} ({key} differs): one would overwrite the other; choose another output_dir."
        )


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report as plain text, for the end of a run in a terminal.

    Args:
        report: What `build_report` returned.
    """
    print(text_report(report))


def _section(model: Mapping[str, Any] | None, baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = {name: dict(row) for name, row in baselines.items()}
    return ({} if model is None else {"model": dict(model)}) | {"baselines": rows}


def _rows(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*section["baselines"].values(), *([section["model"]] if "model" in section else [])]


def _plain(value: Any) -> Any:
    """Let NumPy scalars and paths, which callers put into `info` unawares, into JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)
