"""Weighted sums of the scores of several rankers, with weights that are fitted on validation cases."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from genrec_hf.checks import check_choice
from genrec_hf.data.dataset import EvaluationCases
from genrec_hf.item_rows import Rows, is_whole
from genrec_hf.item_scores import ItemScorer
from genrec_hf.ranking import Histories

NORMALIZATIONS = ("log_softmax", "z_score")


class Scores(Protocol):
    """Interface of the rankers that are fused, such as `SasRec`, `ItemKnn` and every other `ItemScorer`."""

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""

    def score(
        self, histories: Histories | Sequence[Rows], items: Rows | None = None, *, progress: bool = False
    ) -> np.ndarray:
        """Score all items for each user.

        Args:
            histories (`Histories` or `Sequence`): item rows of each user, oldest first; empty for a new user.
            items (`Sequence[int]`, *optional*): item rows to score; all when not given.
            progress (`bool`, defaults to `False`): show a progress bar.

        Returns:
            `np.ndarray`: `[users, num_items]`; `-inf` for an item that it cannot score.
        """


class WeightedSum(ItemScorer):
    """Ranks by a weighted sum of the normalized scores of several rankers.

    The score of item `j` is `sum_r w_r n_r(s_r)[j]`, with `n_r` either `"log_softmax"`, `s - log sum_i exp(s_i)`,
    which makes the sum a product of experts (Hinton, 2002), or `"z_score"`, `(s - mean(s)) / std(s)` over the
    catalogue, for scores that are not logits. An item that a ranker cannot score (`-inf`) gets the lowest score that
    this ranker gives to another item. `FusedRanker` is one that can be saved.

    Args:
        rankers (`Mapping[str, Scores]`): by name, of the same catalogue in the same order of rows.
        weights (`Mapping[str, float]`): of each ranker, 0 or more, at least one above 0; a ranker of weight 0 is not
            called.
        normalizations (`Mapping[str, str]`, *optional*): `"log_softmax"` or `"z_score"` of each ranker;
            `"log_softmax"` for those that are not named.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids of the rows; that of the rankers, where
            one of them has it, when not given.

    Raises:
        ValueError: when names differ, catalogues differ, or the weights are all 0, negative or not finite.
    """

    def __init__(
        self,
        rankers: Mapping[str, Scores],
        weights: Mapping[str, float],
        normalizations: Mapping[str, str] | None = None,
        *,
        catalogue: str | None = None,
    ) -> None:
        normalizations = dict(normalizations or {})
        if set(weights) != set(rankers) or not set(normalizations) <= set(rankers):
            raise ValueError(
                f"got rankers {sorted(rankers)}, weights of {sorted(weights)} and normalizations of "
                f"{sorted(normalizations)}: each ranker needs its own weight; use the same names"
            )
        values = np.array(list(weights.values()), dtype=np.float64)
        if not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise ValueError(f"got weights {dict(weights)}: all items would tie; give 0 or more, one above 0")
        sizes = {name: ranker.num_items for name, ranker in rankers.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"got catalogues of {sizes} items: a row stands for another item in each; load all rankers with the "
                "item_ids of one data set"
            )
        catalogues = {name: _catalogue_of(ranker) for name, ranker in rankers.items()}
        fingerprints = {each for each in (catalogue, *catalogues.values()) if each is not None}
        if len(fingerprints) > 1:
            raise ValueError(
                f"got rankers of the catalogues {catalogues} for {catalogue}: a row stands for another item in each; "
                "train or load all of them with the item_ids of one data set"
            )
        for name, normalization in normalizations.items():
            check_choice(f"normalizations[{name!r}]", normalization, NORMALIZATIONS)
        self.rankers, self.weights = dict(rankers), {name: float(weights[name]) for name in rankers}
        self.normalizations = {name: normalizations.get(name, "log_softmax") for name in rankers}
        self.catalogue = next(iter(fingerprints), None)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return next(iter(self.rankers.values())).num_items

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return the weighted sums `[users, items]`; see `ItemScorer.score_batch`."""
        used = [name for name in self.rankers if self.weights[name] > 0]
        return self.sum_scores({name: self.rankers[name].score(histories) for name in used})

    def sum_scores(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the weighted sum of scores that the rankers have given.

        Args:
            scores (`Mapping[str, np.ndarray]`): name of a ranker to `[users, items]`; those of weight 0 may be absent.

        Returns:
            `np.ndarray`: `[users, items]`, float32, a new array.
        """
        total = np.zeros(next(iter(scores.values())).shape, dtype=np.float32)
        for name, table in scores.items():
            if self.weights[name] > 0:
                total += self.weights[name] * normalize_scores(table, self.normalizations[name])
        return total


def _catalogue_of(ranker: Any) -> str | None:
    """Return the fingerprint of the catalogue of a ranker, `None` where it does not say."""
    return getattr(ranker if isinstance(ranker, WeightedSum) else getattr(ranker, "config", None), "catalogue", None)


def normalize_scores(scores: np.ndarray, normalization: str) -> np.ndarray:
    """Normalize the scores of each user over the items; see `WeightedSum`.

    Args:
        scores (`np.ndarray`): `[users, items]`; an item whose score is not finite gets the lowest score of its row.
        normalization (`str`): `"log_softmax"` or `"z_score"`.

    Returns:
        `np.ndarray`: `[users, items]`, float32, finite.

    Example:
        >>> normalize_scores(np.array([[1.0, 3.0]]), "z_score").tolist()
        [[-1.0, 1.0]]
    """
    scores = np.asarray(scores, dtype=np.float32)
    unknown = ~np.isfinite(scores)
    if unknown.any():
        lowest = np.where(unknown, np.inf, scores).min(axis=1, keepdims=True)
        scores = np.where(unknown, np.where(np.isfinite(lowest), lowest, 0), scores)
    if normalization == "z_score":
        spread = scores.std(axis=1, keepdims=True)
        return (scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def fit_weights(
    rankers: Mapping[str, Scores],
    cases: EvaluationCases,
    normalizations: Mapping[str, str] | None = None,
    *,
    steps: int = 10,
    k: int = 10,
    max_cases: int = 5000,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Choose the weights of a `WeightedSum` by the NDCG@k of validation cases, seen items filtered.

    All weights that are multiples of `1 / steps` and sum to 1 are tried; of equally good ones, those
    with the larger weight on the rankers that are named first are chosen.

    Args:
        rankers (`Mapping[str, Scores]`): by name, of one catalogue.
        cases (`EvaluationCases`): validation cases, never those of the test.
        normalizations (`Mapping[str, str]`, *optional*): as of `WeightedSum`.
        steps (`int`, defaults to 10): steps from 0 to 1.
        k (`int`, defaults to 10): cutoff.
        max_cases (`int`, defaults to 5000): cases that are ranked, sampled with `seed` where there are more.
        seed (`int`, defaults to 0): of that sample.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `dict`: the weight of each ranker; they sum to 1.

    Raises:
        ValueError: when there is no case or no ranker, or as `WeightedSum`.
    """
    if not rankers or not len(cases) or not is_whole(steps) or steps < 1:
        raise ValueError(f"got {len(rankers)} rankers, {len(cases)} cases, steps={steps!r}: give 1 or more of each")
    weighted = WeightedSum(rankers, dict.fromkeys(rankers, 1.0), normalizations)
    if len(cases) > max_cases:
        cases = cases.select(np.sort(np.random.default_rng(seed).permutation(len(cases))[:max_cases]))
    scores = np.stack(
        [
            normalize_scores(ranker.score(cases.histories, progress=progress), weighted.normalizations[name])
            for name, ranker in rankers.items()
        ]
    )
    users, seen = Histories.of(cases.histories).flat()
    targets = np.asarray(cases.targets)
    reachable = np.ones(len(cases), dtype=bool)  # a target that was seen before is filtered
    reachable[users[seen == targets[users]]] = False
    best, chosen = -1.0, np.zeros(len(rankers))
    grid = list(_simplex(len(rankers), steps))
    for weights in tqdm(grid, desc="Fitting weights", unit="point", disable=not progress):
        total = np.einsum("r,rui->ui", weights.astype(np.float32), scores)
        total[users, seen] = -np.inf
        own = total[np.arange(len(total)), targets]
        above = (total > own[:, None]).sum(axis=1)
        above += ((total == own[:, None]) & (np.arange(total.shape[1]) < targets[:, None])).sum(axis=1)
        gain = np.where(reachable & (above < k), 1 / np.log2(above + 2), 0.0).mean()
        if gain > best:
            best, chosen = float(gain), weights
    return {name: float(weight) for name, weight in zip(rankers, chosen, strict=True)}


def _simplex(parts: int, steps: int) -> "list[np.ndarray]":
    """Return all weights `[parts]`, multiples of `1 / steps`, that sum to 1; larger first weights come first."""
    bars = combinations(range(steps + parts - 1), parts - 1)
    points = [np.diff([-1, *bar, steps + parts - 1]) - 1 for bar in bars]
    return [point / steps for point in sorted(points, key=lambda point: [-each for each in point])]
