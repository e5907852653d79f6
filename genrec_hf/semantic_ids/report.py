"""What the codes look like: use of each level, collisions, and whether codes keep embedding neighbours together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors


def quantization_report(
    codes: np.ndarray,
    unique_codes: np.ndarray,
    level_sizes: tuple[int, ...],
    embeddings: np.ndarray,
    neighbours: int = 10,
) -> dict[str, Any]:
    """Figures of one quantizer, for `report.json` and for choosing between quantizers.

    `perplexity = exp(H)` with `H` the entropy of a level's code use: the number of codes in even use. The neighbour
    hit rate of a prefix length is the share of an item's nearest neighbours (cosine) that share its first codes.

    Args:
        codes (`np.ndarray`): `[items, levels]`, before collision resolution.
        unique_codes (`np.ndarray`): `[items, levels or more]`, after it.
        level_sizes (`tuple[int, ...]`): sizes of the levels of `codes`.
        embeddings (`np.ndarray`): `[items, d]`, what the codes were made from.
        neighbours (`int`, defaults to 10): neighbours of each item that are looked at.

    Returns:
        `dict`: `levels` (a dict a level), `collision_before` and `collision_after` (shares of items that share their
        codes with another), `largest_group` (items), `neighbour_hit_rate` and `neighbour_hit_rate_chance` (shares, a
        figure a prefix length).
    """
    groups = _group_sizes(codes)
    return {
        "levels": [_level(codes[:, level], size) for level, size in enumerate(level_sizes)],
        "collision_before": float((groups > 1).mean()),
        "collision_after": float((_group_sizes(unique_codes) > 1).mean()),
        "largest_group": int(groups.max()),
        "neighbour_hit_rate": _neighbour_hits(codes, embeddings, neighbours),
        "neighbour_hit_rate_chance": [_chance(codes[:, : level + 1]) for level in range(codes.shape[1])],
    }


def write_report(name: str, report: dict[str, Any], codes: np.ndarray, directory: str | Path) -> None:
    """Write `report.json`, `report.md` and `report.png` (how often each code is used) into `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps({"quantizers": {name: report}}, indent=2), encoding="utf-8")
    (directory / "report.md").write_text(_markdown(name, report), encoding="utf-8")
    _picture(name, report, codes, directory / "report.png")


def _level(codes: np.ndarray, size: int) -> dict[str, float]:
    counts = np.bincount(codes, minlength=size)
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log(share)).sum())
    return {
        "codes": size,
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(entropy)),
        "entropy": entropy,
        "largest": int(counts.max()),
    }


def _group_sizes(codes: np.ndarray) -> np.ndarray:
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return sizes[group.reshape(-1)]


def _neighbour_hits(codes: np.ndarray, embeddings: np.ndarray, neighbours: int) -> list[float]:
    neighbours = min(neighbours, len(codes) - 1)
    if neighbours < 1:
        return [1.0] * codes.shape[1]
    index = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(embeddings)
    near = index.kneighbors(embeddings, return_distance=False)
    near = np.stack([row[row != item][:neighbours] for item, row in enumerate(near)])
    same = codes[near] == codes[:, None, :]
    return np.logical_and.accumulate(same, axis=2).mean(axis=(0, 1)).tolist()


def _chance(codes: np.ndarray) -> float:
    """Share of all other items with the same prefix: what neighbours picked at random would give."""
    sizes = _group_sizes(codes)
    return float(((sizes - 1) / max(len(codes) - 1, 1)).mean())


def _markdown(name: str, report: dict[str, Any]) -> str:
    lines = [
        f"# Codes of {name}",
        "",
        f"Collisions: {report['collision_before']:.1%} of items before resolution (largest group "
        f"{report['largest_group']}), {report['collision_after']:.1%} after.",
        "",
        "| level | codes | used | perplexity | largest code | neighbour hit rate | by chance |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, level in enumerate(report["levels"]):
        lines.append(
            f"| {number + 1} | {level['codes']} | {level['used']} | {level['perplexity']:.1f} | {level['largest']} | "
            f"{report['neighbour_hit_rate'][number]:.3f} | {report['neighbour_hit_rate_chance'][number]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _picture(name: str, report: dict[str, Any], codes: np.ndarray, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    levels = report["levels"]
    figure, axes = plt.subplots(1, len(levels), figsize=(4.5 * len(levels), 3), squeeze=False, layout="constrained")
    for number, (axis, level) in enumerate(zip(axes[0], levels, strict=True)):
        counts = np.sort(np.bincount(codes[:, number], minlength=level["codes"]))[::-1]
        axis.bar(range(len(counts)), counts, width=1.0, color="#3b6ea5")
        axis.axhline(len(codes) / level["codes"], color="#c4552d", linewidth=1, linestyle="--", label="even use")
        axis.set_title(f"level {number + 1}: {level['used']} of {level['codes']} used", fontsize=10)
        axis.set_xlabel("codes, most used first")
        axis.set_ylabel("items")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{name}: how often each code is used", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)
