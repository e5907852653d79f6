"""Overlap of several rankers: the share of targets that at least one hits, and the similarity of hits and lists."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec_hf.evaluation.bootstrap import bootstrap_intervals, paired_bootstrap
from genrec_hf.evaluation.metrics import per_case_metrics
from genrec_hf.markdown import markdown_table, with_interval


def compare_overlap(
    lists: Mapping[str, ArrayLike],
    users: ArrayLike,
    targets: ArrayLike,
    *,
    fused: ArrayLike,
    cutoff: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the union and the overlap of the hits of several rankers, and the differences of a fused one to each.

    The share of cases that at least one ranker hits is the recall of an oracle that chooses the ranker of each case:
    more than choosing can reach, and what weighing scores may exceed.

    Args:
        lists (`Mapping`): name of each ranker to integers `[cases, ranks]`: item rows, best first, `-1` for an empty
            rank; no item twice in a list.
        users (`ArrayLike`): `[cases]`, user of each case; intervals resample users.
        targets (`ArrayLike`): integers `[cases]`, item rows.
        fused (`ArrayLike`): lists of the ranker that combines them, as one of `lists`.
        cutoff (`int`, defaults to 10): cutoff `k`; the length of the shortest list if that is less.
        seed (`int`, defaults to 0): seed of the bootstrap.

    Returns:
        `dict`: section `overlap` of a report: `cutoff`; `systems`, the names; `hit_by_any` and `hit_by_all`, shares of
        the cases in [0, 1], and their `intervals`; `pairs`, for each two `systems` the Jaccard index of the cases that
        they hit, `hits`, 0 where they hit none, and the mean share of items that both lists hold, `lists`; and
        `differences`, for each ranker the metrics `recall@k` and `ndcg@k` of the fused ranker minus its own, as
        `paired_bootstrap` returns them.

    Raises:
        ValueError: there are no lists, or their numbers of cases differ.

    Example:
        >>> lists = {"a": [[0, 1], [2, 3]], "b": [[1, 0], [4, 5]]}
        >>> overlap = compare_overlap(lists, [0, 1], [0, 4], fused=lists["b"])
        >>> overlap["hit_by_any"], overlap["hit_by_all"], overlap["pairs"]
        (1.0, 0.5, [{'systems': ['a', 'b'], 'hits': 0.5, 'lists': 0.5}])
    """
    tables = {name: np.asarray(table) for name, table in lists.items()}
    together, targets = np.asarray(fused), np.asarray(targets)
    shapes = {table.shape[0] for table in (*tables.values(), together)} | {len(targets)}
    if not tables or len(shapes) != 1:
        raise ValueError(
            f"got {len(tables)} rankers with {sorted(shapes)} cases: hits of different cases cannot be compared; pass "
            "the lists of each ranker for all cases"
        )
    k = min(cutoff, *(table.shape[1] for table in (*tables.values(), together)))
    keys = (f"recall@{k}", f"ndcg@{k}")
    metrics = {name: per_case_metrics(table, targets, ks=(k,)) for name, table in tables.items()}
    hits = {name: values[keys[0]] > 0 for name, values in metrics.items()}
    shares = {
        "hit_by_any": np.any(list(hits.values()), axis=0).astype(float),
        "hit_by_all": np.all(list(hits.values()), axis=0).astype(float),
    }
    intervals = bootstrap_intervals(shares, users, seed=seed)
    combined = per_case_metrics(together, targets, ks=(k,))
    return {
        "cutoff": k,
        "systems": list(tables),
        **{name: float(share.mean()) for name, share in shares.items()},
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "pairs": [
            {
                "systems": [a, b],
                "hits": float((hits[a] & hits[b]).sum() / max(1, (hits[a] | hits[b]).sum())),
                "lists": float(_common_share(tables[a][:, :k], tables[b][:, :k]).mean()),
            }
            for a, b in combinations(tables, 2)
        ],
        "differences": {
            name: {key: paired_bootstrap(combined[key], values[key], users, seed=seed) for key in keys}
            for name, values in metrics.items()
        },
    }


def _common_share(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Return the share of items that two lists have in common, `[cases]`, of the length of the longer one."""
    common = ((one[:, :, None] == other[:, None, :]) & (one[:, :, None] >= 0)).sum(axis=(1, 2))
    return common / np.maximum(1, np.maximum((one >= 0).sum(axis=1), (other >= 0).sum(axis=1)))


def overlap_blocks(overlap: Mapping[str, Any]) -> list[str]:
    """Render the section `overlap` of a report as paragraphs and tables in Markdown.

    Args:
        overlap (`Mapping`): from `compare_overlap`.

    Returns:
        `list[str]`: blocks, without newlines at their ends.
    """
    k, intervals = overlap["cutoff"], overlap["intervals"]
    shares = [with_interval(overlap[name], *intervals[name]) for name in ("hit_by_any", "hit_by_all")]
    blocks = [
        f"Share of cases whose target is in the top {k}, seen items filtered: of at least one of "
        f"{', '.join(overlap['systems'])}: {shares[0]}; of all of them: {shares[1]}."
    ]
    if overlap["pairs"]:
        rows = [[*pair["systems"], f"{pair['hits']:.3f}", f"{pair['lists']:.3f}"] for pair in overlap["pairs"]]
        blocks.append(markdown_table(["", "", "Jaccard index of hits", f"common items in the top {k}"], rows))
    rows = []
    for name, tests in overlap["differences"].items():
        cells = [with_interval(each["difference"], each["low"], each["high"], form="+.4f") for each in tests.values()]
        rows.append([name, *cells, *(f"{each['p']:.3f}" for each in tests.values())])
    metrics = list(next(iter(overlap["differences"].values())))
    header = ["fused, minus", *metrics, *(f"p, {metric}" for metric in metrics)]
    return [*blocks, markdown_table(header, rows)]
