"""Search error of a beam search: its lists compared with those by the exact scores of all items."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genrec_hf.evaluation.bootstrap import paired_bootstrap
from genrec_hf.evaluation.metrics import per_case_metrics
from genrec_hf.evaluation.ranked_cases import RankedCases, rank_cases
from genrec_hf.ranking import Ranker

if TYPE_CHECKING:  # importing the metrics needs NumPy only
    from genrec_hf.data.dataset import EvaluationCases


def compare_with_exact(
    beams: ArrayLike, exact: ArrayLike, users: ArrayLike, *, targets: ArrayLike, k: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Compare lists of a beam search with lists by the exact scores of the same model.

    A difference is due to the search and not to the model (search errors and model errors; Stahlberg and Byrne 2019).
    Beams can miss the most probable items, and their metrics can be higher for it as well as lower.

    Args:
        beams (`ArrayLike`): integers `[cases, ranks]`, item rows, best first; `-1` for an empty rank.
        exact (`ArrayLike`): integers `[cases, ranks]`, of the same cases.
        users (`ArrayLike`): `[cases]`, user of each case; intervals resample users.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        k (`int`, defaults to 10): cutoff, at most `ranks`.
        seed (`int`, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: `k`; `identical`, share of the cases whose first `k` items are the same in the same order; and
        `above_exact`, for `recall@k` and `ndcg@k` the metric of the beams minus the exact one, as `paired_bootstrap`
        returns it.

    Raises:
        ValueError: as of `per_case_metrics` and `paired_bootstrap`.

    Example:
        >>> compare_with_exact([[3, 1], [2, 0]], [[3, 1], [0, 2]], [0, 1], targets=[3, 2], k=2)["identical"]
        0.5
    """
    beams, exact = np.asarray(beams)[:, :k], np.asarray(exact)[:, :k]
    of_beams, of_exact = (per_case_metrics(lists, targets, ks=(k,)) for lists in (beams, exact))
    return {
        "k": k,
        "identical": float((beams == exact).all(axis=1).mean()),
        "above_exact": {
            metric: paired_bootstrap(of_beams[metric], of_exact[metric], users, seed=seed)
            for metric in (f"recall@{k}", f"ndcg@{k}")
        },
    }


def add_search_error(report: dict[str, Any], ranked: RankedCases, exact: Ranker, *, cases: "EvaluationCases") -> None:
    """Add `search_error` to a report of a recommender, for seen items filtered and for seen items allowed.

    Args:
        report (`dict`): from `evaluate_data`; changed in place.
        ranked (`RankedCases`): lists of the beam search for these cases.
        exact (`Ranker`): ranks by the exact scores of the same recommender, such as `ExactRanker`.
        cases (`EvaluationCases`): the cases of the report.

    Raises:
        ValueError: as of `compare_with_exact`.
    """
    items, seed = report["protocol"]["items"], report["protocol"]["bootstrap"]["seed"]
    exact_rankings = rank_cases(exact, cases.histories, items).rankings
    for filter_seen, section in ((True, report), (False, report["unfiltered"])):
        section["search_error"] = compare_with_exact(
            ranked.rankings[filter_seen].items,
            exact_rankings[filter_seen].items,
            cases.users,
            targets=cases.targets,
            k=min(10, items),
            seed=seed,
        )
