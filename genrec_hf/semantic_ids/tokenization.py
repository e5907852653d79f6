"""Tokenization of a catalogue: fits a quantizer, resolves collisions, and reports on the resulting `SemanticIds`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from genrec_hf.checks import check_choice
from genrec_hf.resource_usage import track_resources
from genrec_hf.semantic_ids.artefact import SemanticIds
from genrec_hf.semantic_ids.collisions import resolve_collisions
from genrec_hf.semantic_ids.quantizer import Quantizer, quantizer_class
from genrec_hf.semantic_ids.report import RelatedItems, quantization_report, unexplained_variance

# Names of quantizers on the command line: the class, and the settings that distinguish the variant.
QUANTIZER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "rq-kmeans": ("RqKmeans", {}),
    "balanced-rq-kmeans": ("RqKmeans", {"balanced": True}),
    "rq-vae": ("RqVae", {}),
    "pq": ("ProductQuantizer", {}),
    "opq": ("ProductQuantizer", {"rotate": True}),
    "hierarchical-kmeans": ("HierarchicalKmeans", {}),
    "fsq": ("Fsq", {}),
    "lsh": ("Lsh", {}),
    "random": ("RandomCodes", {}),
}


def make_quantizer(
    name: str, level_sizes: Sequence[int], seed: int = 0, *, settings: Mapping[str, Any] | None = None
) -> Quantizer:
    """Create a quantizer by its name on the command line; it is not fitted.

    Args:
        name (`str`): a key of `QUANTIZER_NAMES`, such as `"rq-vae"`; settings in the form of `read_settings` may
            follow, also `level_sizes` and `seed`, which override the arguments: `"rq-vae ema=false seed=1"`.
        level_sizes (`Sequence[int]`): number of codes of each level.
        seed (`int`, defaults to 0): random seed of the quantizer.
        settings (`Mapping`, *optional*): other arguments of its class by name; they override those in `name`.

    Returns:
        `Quantizer`: not fitted.

    Raises:
        ValueError: on an unknown name, or a setting that is unknown or that the class refuses.
    """
    name, *pairs = name.split() or [""]
    check_choice("quantizer", name, QUANTIZER_NAMES)
    named_settings: dict[str, Any] = {"level_sizes": level_sizes, "seed": seed} | read_settings(pairs)
    level_sizes, seed = named_settings.pop("level_sizes"), named_settings.pop("seed")
    settings = named_settings | dict(settings or {})
    class_name, variant = QUANTIZER_NAMES[name]
    quantizer = quantizer_class(class_name)
    fixed = ("level_sizes", "seed", *variant)
    known = [setting.name for setting in fields(quantizer) if setting.init and setting.name not in fixed]
    unknown = set(settings) - set(known)
    if unknown:
        raise ValueError(
            f"{name} has no setting {sorted(unknown)[0]!r}: "
            + (f"its settings are {', '.join(known)}" if known else "it takes none but level_sizes and seed")
        )
    return quantizer(level_sizes=level_sizes, seed=seed, **variant, **settings)


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse settings of the command line.

    Args:
        pairs (`Sequence[str]`): `name=value` each; a value that is not JSON is kept as text.

    Returns:
        `dict[str, Any]`: values by name.

    Raises:
        ValueError: when a pair is not of this form, or a name is given twice.

    Example:
        >>> read_settings(["epochs=200", "ema=false", "gradient=rotation", "hidden_sizes=[64, 32]"])
        {'epochs': 200, 'ema': False, 'gradient': 'rotation', 'hidden_sizes': [64, 32]}
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals) or name in settings:
            raise ValueError(f"got the setting {pair!r}: give each setting once, as name=value, such as epochs=200")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


@dataclass(frozen=True)
class TokenizedCatalogue:
    """Result of `tokenize_catalogue`.

    Attributes:
        semantic_ids (`SemanticIds`): with unique SIDs, except after `collisions="none"`.
        codes (`np.ndarray`): `[items, levels]`, codes of the quantizer, before collision resolution.
        report (`dict`): the result of `quantization_report`.
    """

    semantic_ids: SemanticIds
    codes: np.ndarray
    report: dict[str, Any]


def tokenize_catalogue(
    quantizer: Quantizer,
    vectors: np.ndarray,
    related: RelatedItems,
    *,
    item_ids: Sequence[str],
    events: np.ndarray | None = None,
    collisions: str = "extra-level",
    reserved_codes: int = 0,
    info: Mapping[str, Any] | None = None,
    progress: bool = True,
    **behaviour: Any,
) -> TokenizedCatalogue:
    """Fit a quantizer, encode all items, resolve collisions and report.

    Args:
        quantizer (`Quantizer`): fitted here, in place.
        vectors (`np.ndarray`): `[items, d]`, the vectors to quantize.
        related (`RelatedItems`): neighbors, co-occurrences and categories of the items, for the report.
        item_ids (`Sequence[str]`): outside ids in row order.
        events (`np.ndarray`, *optional*): number of training events of each item `[items]`; items with more events
            have precedence where codes collide.
        collisions (`str`, defaults to `"extra-level"`): strategy of `resolve_collisions`.
        reserved_codes (`int`, defaults to 0): additional codes of the extra level, for new items.
        info (`Mapping`, *optional*): JSON values to store in the `SemanticIds`, with the quantizer's settings.
        progress (`bool`, defaults to `True`): whether to show progress bars.
        behaviour: other arguments of the quantizer's `fit`, from `behaviour_data`.

    Returns:
        `TokenizedCatalogue`: the `SemanticIds`, the codes before collision resolution, and the report.

    Raises:
        ValueError: as `Quantizer.fit`, `resolve_collisions` and `SemanticIds`.
    """
    with track_resources() as resources:
        quantizer.fit(vectors, progress=progress, **behaviour)
        codes = quantizer.encode(vectors)
    sizes = tuple(quantizer.level_sizes)
    distances = quantizer.distances(vectors) if collisions in ("nearest", "sinkhorn") else None
    resolved, level_sizes = resolve_collisions(
        codes,
        sizes,
        events,
        strategy=collisions,
        distances=distances,
        reserved_codes=reserved_codes,
        seed=quantizer.seed,
    )
    all_info = dict(info or {}) | {"quantizer": type(quantizer).__name__, "settings": quantizer.settings}
    all_info["collisions"] = collisions if resolved.shape != codes.shape or (resolved != codes).any() else "none"
    semantic_ids = SemanticIds(
        resolved, level_sizes, item_ids, info=all_info, shared=collisions == "none", quantizer=quantizer
    )
    reconstruction = quantizer.reconstruct(codes)
    error = None if reconstruction is None else unexplained_variance(vectors, reconstruction)
    report = quantization_report(
        codes,
        resolved,
        sizes,
        related=related,
        reconstruction_error=error,
        seconds=resources.seconds,
        peak_mb=resources.peak_mb,
    )
    return TokenizedCatalogue(semantic_ids, codes, report)
