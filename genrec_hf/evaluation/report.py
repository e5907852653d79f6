"""Evaluation reports: item-level metrics with intervals of a model and of the baselines.

A report holds `protocol`, `model` (absent in a report of baselines only) and `baselines` for seen items filtered, and
the same three under `unfiltered` for seen items allowed.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.evaluation.bootstrap import bootstrap_intervals
from genrec_hf.evaluation.candidates import choose_candidates, evaluate_candidates
from genrec_hf.evaluation.filtering import count_available_items, filtered_targets
from genrec_hf.evaluation.metrics import (
    coverage,
    duplicate_rate,
    intra_list_similarity,
    invalid_rate,
    per_case_metrics,
)
from genrec_hf.evaluation.ranked_cases import RankedCases, list_length
from genrec_hf.evaluation.report_baselines import choose_baselines, make_baselines
from genrec_hf.evaluation.slices import age_slices, popularity_slices
from genrec_hf.ranking import Histories, Ranker, checked_ranking

if TYPE_CHECKING:  # importing the metrics needs NumPy only
    from genrec_hf.data import InteractionData

_CONFIDENCE, _RESAMPLES = 0.95, 1000


def evaluate_recommendations(
    recommended: ArrayLike,
    users: ArrayLike,
    targets: ArrayLike,
    *,
    items: int,
    ks: Sequence[int] = (1, 5, 10, 20),
    sid_groups: ArrayLike | None = None,
    embeddings: ArrayLike | None = None,
    seed: int = 0,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
    available: ArrayLike | None = None,
) -> dict[str, Any]:
    """Compute the metrics of one system's lists over all cases.

    `recall@k`, `ndcg@k` and `mrr@k` are at item level: if several items share a semantic ID, only the target itself is
    a hit. `sid_recall@k` counts every item with the target's SID as a hit, so it is never lower; the difference is the
    effect of collisions.

    Args:
        recommended (`ArrayLike`): integers `[cases, ranks]`, item rows, best first; `-1` for an empty rank.
        users (`ArrayLike`): `[cases]`, user of each case; intervals resample users.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        items (`int`): size of the catalogue.
        ks (`Sequence[int]`, defaults to `(1, 5, 10, 20)`): cutoffs, each from 1 to `ranks`.
        sid_groups (`ArrayLike`, *optional*): integers `[items]`, equal for items that share a SID; all different when
            not given.
        embeddings (`ArrayLike`, *optional*): float `[items, d]`, for the similarity within lists, which is not
            computed when not given.
        seed (`int`, defaults to 0): seed of the bootstrap.
        slices (`Mapping[str, np.ndarray]`, *optional*): name to `bool` `[cases]`, subsets of the cases to report
            separately, such as those with rare targets.
        available (`ArrayLike`, *optional*): integers `[cases]`, number of items that filters allow in each list, see
            `invalid_rate`.

    Returns:
        `dict`: means in [0, 1] of `recall@k`, `ndcg@k`, `mrr@k` and `sid_recall@k`; `invalid_rate` and
        `duplicate_rate` over the ranks; `coverage@k`, and `similarity@k` in [-1, 1], for the largest k up to 10; the
        counts `cases` and `users`; `intervals`, metric name to `[low, high]`, 95 % over users, for every `recall@k`,
        `ndcg@k` and `mrr@k`; and with `slices`, for each name `cases`, `recall@k` and `ndcg@k` for the largest k up to
        10.

    Raises:
        ValueError: lengths differ, a target is outside the catalogue, a cutoff is larger than `ranks`, or `sid_groups`
            has another length than the catalogue.

    Example:
        >>> lists, users, targets = [[0, 1], [2, 1]], ["ann", "bob"], [1, 0]
        >>> row = evaluate_recommendations(lists, users, targets, items=3, ks=[1, 2], sid_groups=[0, 1, 0])
        >>> row["recall@2"], row["sid_recall@2"], row["mrr@2"], row["users"]
        (0.5, 1.0, 0.25, 2)
    """
    recommended, targets, users = np.asarray(recommended), np.asarray(targets), np.asarray(users)
    if not len(recommended) == len(targets) == len(users):
        raise ValueError(
            f"got {len(recommended)} lists, {len(targets)} targets and {len(users)} users: means are over all cases; "
            "pass one of each for every case, including the last batch"
        )
    if len(targets) and targets.max() >= items:
        raise ValueError(
            f"got target {targets.max()} for {items} items, which no list can hit: pass item rows below {items}"
        )
    per_case = per_case_metrics(recommended, targets, ks)
    result: dict[str, Any] = {name: float(values.mean()) for name, values in per_case.items()}
    by_sid = per_case if sid_groups is None else _sid_level(recommended, targets, np.asarray(sid_groups), items, ks)
    result |= {f"sid_recall@{k}": float(by_sid[f"recall@{k}"].mean()) for k in ks}
    result["invalid_rate"] = invalid_rate(recommended, items, available)
    result["duplicate_rate"] = duplicate_rate(recommended)
    cutoff = max([k for k in ks if k <= 10], default=min(ks))
    result[f"coverage@{cutoff}"] = coverage(recommended, items, cutoff)
    if embeddings is not None and cutoff > 1:
        result[f"similarity@{cutoff}"] = intra_list_similarity(recommended, embeddings, cutoff)
    result |= {"cases": len(targets), "users": len(np.unique(users))}
    intervals = bootstrap_intervals(per_case, users, _CONFIDENCE, resamples=_RESAMPLES, seed=seed)
    result["intervals"] = {name: list(interval) for name, interval in intervals.items()}
    if slices is not None:
        keys = (f"recall@{cutoff}", f"ndcg@{cutoff}")
        result["slices"] = {
            name: {"cases": int(in_slice.sum())} | {key: float(per_case[key][in_slice].mean()) for key in keys}
            for name, in_slice in slices.items()
            if in_slice.any()
        }
    return result


def _sid_level(
    recommended: NDArray, targets: NDArray, groups: NDArray, items: int, ks: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Compute `per_case_metrics` with SIDs in place of items."""
    if groups.shape != (items,):
        raise ValueError(f"got sid_groups of shape {groups.shape} for {items} items: pass one group for each item")
    groups = np.unique(groups, return_inverse=True)[1]
    is_item = (recommended >= 0) & (recommended < items)
    return per_case_metrics(np.where(is_item, groups[np.where(is_item, recommended, 0)], -1), groups[targets], ks)


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
    other_rankers: Mapping[str, Ranker] | None = None,
    slices: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of the simple baselines, and of further rankers.

    Args:
        training_sequences (`Histories` or `Sequence`): item rows of each user, oldest first, without validation and
            test events; users in file order, which breaks ties (see `genrec_hf.evaluation.baselines`).
        histories (`Histories` or `Sequence`): item rows of each case: everything before the target.
        users (`ArrayLike`): `[cases]`, user of each case.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        items (`int`): size of the catalogue.
        ks (`Sequence[int]`, defaults to `(1, 5, 10, 20)`): cutoffs; the lists are as long as the largest one.
        filter_seen (`bool`, defaults to `True`): do not recommend items of the history.
        seed (`int`, defaults to 0): seed of the random baseline and of the bootstrap.
        progress (`bool`, defaults to `True`): show a progress bar.
        embeddings (`ArrayLike`, *optional*): float `[items, d]`, for the similarity within lists.
        other_rankers (`Mapping[str, Ranker]`, *optional*): further rankers by name.
        slices (`Mapping[str, np.ndarray]`, *optional*): subsets of the cases, see `evaluate_recommendations`.

    Returns:
        `dict[str, dict]`: for `random`, `popularity`, `repeat`, `markov1` and then `other_rankers`, what
        `evaluate_recommendations` returns.

    Raises:
        ValueError: as of `evaluate_recommendations`; a row is outside the catalogue; or a ranker returns duplicates,
            seen items where they are filtered, or another number of rows than cases.
    """
    simple: dict[str, Ranker] = {
        "random": RandomBaseline(items, seed),
        "popularity": Popularity(training_sequences, items),
        "repeat": RepeatHistory(training_sequences, items),
        "markov1": MarkovOne(training_sequences, items),
    }
    common: dict[str, Any] = {"items": items, "ks": ks, "embeddings": embeddings, "seed": seed, "slices": slices}
    rankers = simple | dict(other_rankers or {})
    if filter_seen:
        filtered_targets(Histories.of(histories, items), targets)
    return _evaluate_rankers(rankers, histories, users, targets, filter_seen=filter_seen, progress=progress, **common)


def _evaluate_rankers(
    rankers: Mapping[str, Ranker],
    histories: Histories | Sequence[NDArray],
    users: ArrayLike,
    targets: ArrayLike,
    *,
    items: int,
    ks: Sequence[int],
    filter_seen: bool,
    progress: bool,
    **common: Any,
) -> dict[str, dict[str, Any]]:
    """Rank the cases with each ranker, and compute the metrics with `common` settings."""
    histories = Histories.of(histories, items)
    available = count_available_items(histories, items) if filter_seen else None
    results = {}
    for name, ranker in tqdm(rankers.items(), desc="baselines", disable=not progress):
        ranking = checked_ranking(ranker, histories, max(ks), filter_seen=filter_seen)
        results[name] = evaluate_recommendations(
            ranking.items, users, targets, items=items, ks=ks, available=available, **common
        )
    return results


def evaluate_data(
    data: "InteractionData",
    split: str,
    ranked: RankedCases | None = None,
    *,
    other_rankers: Mapping[str, Ranker] | None = None,
    embeddings: ArrayLike | None = None,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
    progress: bool = True,
    candidates: Sequence[NDArray] | None = None,
    baselines: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Evaluate a model and the baselines on all cases of a split, with seen items filtered and allowed.

    Args:
        data (`InteractionData`): the data set.
        split (`str`): `"validation"` or `"test"`.
        ranked (`RankedCases`, *optional*): lists of the model, from `rank_cases` for these cases; the report holds
            baselines only when not given.
        other_rankers (`Mapping[str, Ranker]`, *optional*): further rankers by name.
        embeddings (`ArrayLike`, *optional*): float `[items, d]`, for the similarity within lists and the baselines
            that read text.
        seed (`int`, defaults to 0): seed of the random baseline and of the bootstrap.
        info (`Mapping`, *optional*): further facts for the protocol.
        progress (`bool`, defaults to `True`): show progress bars.
        candidates (`Sequence[np.ndarray]`, *optional*): for each case, item rows to choose from, as
            `EvaluationCases.candidates` returns.
        baselines (`Sequence[str]`, *optional*): names of `genrec_hf.evaluation.report_baselines.BASELINES`; all that
            can be made when not given, see `choose_baselines`.

    Returns:
        `dict`: what `build_report` returns, with the model's `seconds`; in the protocol `baseline_settings`,
        `baselines_left_out` (name to reason), and `filtered_targets` if that share is above 0. With `candidates` also
        the section `candidates`: `count` and `fewest`, the largest and the smallest number of candidates of a case,
        and `systems`, as `evaluate_candidates` returns them.

    Raises:
        ValueError: as of `evaluate_baselines`, `choose_baselines` and `make_baselines`.
    """
    cases, items = data.cases(split), len(data.item_ids)
    names, left_out = choose_baselines(
        baselines,
        items=items,
        has_embeddings=embeddings is not None,
        has_validation=len(data.cases("validation")) > 0,
    )
    if "ease" in left_out:
        warnings.warn(f"the report has no baseline 'ease': {left_out['ease']}", stacklevel=2)
    rankers, settings = make_baselines(data, names, embeddings=embeddings, seed=seed)
    rankers |= dict(other_rankers or {})
    ks = sorted({min(k, list_length(items)) for k in (1, 5, 10, 20)})
    slices = popularity_slices(data.item_counts(), cases.targets) | age_slices(data.target_ages(split))
    common: dict[str, Any] = {"items": items, "ks": ks, "embeddings": embeddings, "seed": seed, "slices": slices}
    available = {True: count_available_items(cases.histories, items), False: None}
    rows: dict[bool, dict[str, Any]] = {}
    seconds = {} if ranked is None else ranked.seconds
    for filter_seen, ranking in ({} if ranked is None else ranked.rankings).items():
        metrics = evaluate_recommendations(
            ranking.items, cases.users, cases.targets, available=available[filter_seen], **common
        )
        rows[filter_seen] = metrics | {"seconds": seconds[filter_seen]}
    results = {
        filter_seen: _evaluate_rankers(
            rankers, cases.histories, cases.users, cases.targets, filter_seen=filter_seen, progress=progress, **common
        )
        for filter_seen in (True, False)
    }
    facts = {"baseline_settings": settings, "baselines_left_out": left_out}
    data_info = {key: data.info[key] for key in ("fingerprint", "k_core", "repeats") if key in data.info}
    report = build_report(
        dataset=data.info["name"],
        split=f"{data.info['split']}, {split}",
        tie_break=data.info["tie_break"],
        items=items,
        model=rows.get(True),
        baselines=results[True],
        unfiltered_model=rows.get(False),
        unfiltered_baselines=results[False],
        seed=seed,
        info=data_info | {name: value for name, value in facts.items() if value} | dict(info or {}),
    )
    if share := filtered_targets(cases.histories, cases.targets):
        report["protocol"]["filtered_targets"] = share
    if candidates is not None:
        choices = {name: choose_candidates(ranker, cases.histories, candidates) for name, ranker in rankers.items()}
        if ranked is not None and ranked.chosen is not None:
            choices["model"] = ranked.chosen
        systems = evaluate_candidates(choices, cases.users, cases.targets, candidates=candidates, seed=seed)
        counts = [len(rows) for rows in candidates]
        report["candidates"] = {"count": max(counts), "fewest": min(counts), "systems": systems}
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
    """Combine results of a model and of baselines to a report with the protocol that they share.

    Args:
        dataset (`str`): name of the data set.
        split (`str`): how validation and test events were selected, such as `"leave-one-out"`.
        tie_break (`str`): order of events with the same time, such as `"file order"`; it affects every metric if times
            are as coarse as days.
        items (`int`): size of the catalogue.
        baselines (`Mapping`): name to results with seen items filtered, as `evaluate_baselines` returns; it may hold
            further systems.
        model (`Mapping`, *optional*): results of the model with seen items filtered, from `evaluate_recommendations`.
        unfiltered_baselines (`Mapping`, *optional*): results of the baselines with seen items allowed.
        unfiltered_model (`Mapping`, *optional*): results of the model with seen items allowed.
        seed (`int`, defaults to 0): seed of the bootstrap that the results were computed with.
        info (`Mapping`, *optional*): further facts for the protocol, such as the base model, the time, or the
            `fingerprint` of the data set.

    Returns:
        `dict`: content of `metrics.json`: `protocol`, `model`, `baselines`, and `unfiltered` with the same three.

    Raises:
        ValueError: there are no results, or two of them have different numbers of cases or users.
    """
    filtered = _section(model, baselines)
    unfiltered = _section(unfiltered_model, unfiltered_baselines or {})
    counts = {(row["cases"], row["users"]) for section in (filtered, unfiltered) for row in _rows(section)}
    if len(counts) != 1:
        raise ValueError(
            f"got results with (cases, users) = {sorted(counts)}: results of different cases are not comparable; "
            "evaluate every system on all cases, and at least one system"
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


def _section(model: Mapping[str, Any] | None, baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Copy the results of one setting of `filter_seen` into a section of a report."""
    rows = {name: dict(row) for name, row in baselines.items()}
    return ({} if model is None else {"model": dict(model)}) | {"baselines": rows}


def _rows(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of all systems of a section."""
    return [*section["baselines"].values(), *([section["model"]] if "model" in section else [])]
