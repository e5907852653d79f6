"""From item vectors to `SemanticIds` and their report: a quantizer by name, fitted, resolved, measured."""

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
from genrec_hf.semantic_ids.report import RelatedItems, lost_variance, quantization_report

# What users call them: a class, and the settings that make the variant.
NAMES: dict[str, tuple[str, dict[str, Any]]] = {
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
    """A quantizer by its name on the command line, not fitted yet.

    Args:
        name (`str`): a key of `NAMES`, such as `"rq-vae"`; settings may follow it, as in `read_settings`, level sizes
            and seed among them: `"rq-vae ema=false seed=1"`.
        level_sizes (`Sequence[int]`): codes of each level.
        seed (`int`, defaults to 0): of everything random.
        settings (`Mapping`, *optional*): other arguments of its class, by name.

    Raises:
        ValueError: on an unknown name or setting.
    """
    name, *pairs = name.split() or [""]
    check_choice("quantizer", name, NAMES)
    named: dict[str, Any] = {"level_sizes": level_sizes, "seed": seed} | read_settings(pairs)
    level_sizes, seed = named.pop("level_sizes"), named.pop("seed")
    settings = named | dict(settings or {})
    kind, variant = NAMES[name]
    quantizer = quantizer_class(kind)
    known = [
        each.name for each in fields(quantizer) if each.init and each.name not in ("level_sizes", "seed", *variant)
    ]
    unknown = set(settings) - set(known)
    if unknown:
        raise ValueError(f"{name} has no setting {sorted(unknown)[0]!r}, only {', '.join(known) or 'none'}")
    return quantizer(level_sizes=level_sizes, seed=seed, **variant, **settings)


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings of the command line, `name=value` each, the value as in JSON, or else text.

    Example:
        >>> read_settings(["epochs=200", "ema=false", "gradient=rotation", "hidden_sizes=[64, 32]"])
        {'epochs': 200, 'ema': False, 'gradient': 'rotation', 'hidden_sizes': [64, 32]}
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals) or name in settings:
            raise ValueError(f"got the setting {pair!r}; write each once, as name=value: epochs=200")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


@dataclass(frozen=True)
class Tokenized:
    """What became of a catalogue: `SemanticIds`, the codes before resolution `[items, levels]`, and the figures."""

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
) -> Tokenized:
    """Fit, encode, resolve collisions and report.

    Args:
        quantizer (`Quantizer`): not fitted yet.
        vectors (`np.ndarray`): `[items, d]`, what is quantized.
        related (`RelatedItems`): which items belong together, for the report.
        item_ids (`Sequence[str]`): outside ids in row order.
        events (`np.ndarray`, *optional*): training events of each item; the popular come first where codes collide.
        collisions (`str`, defaults to `"extra-level"`): strategy of `resolve_collisions`.
        spare (`int`, defaults to 0): spare codes of an extra level, for new items.
        info (`Mapping`, *optional*): kept with the artefact, beside the quantizer's settings.
        progress (`bool`, defaults to `True`): show bars.
        behaviour: what the quantizer's `fit` takes beside vectors.
    """
    with track_resources() as cost:
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
    known = dict(info or {}) | {"quantizer": type(quantizer).__name__, "settings": quantizer.settings}
    known["collisions"] = collisions if resolved.shape != codes.shape or (resolved != codes).any() else "none"
    semantic_ids = SemanticIds(
        resolved, level_sizes, item_ids, info=known, shared=collisions == "none", quantizer=quantizer
    )
    reconstruction = quantizer.reconstruct(codes)
    error = None if reconstruction is None else lost_variance(vectors, reconstruction)
    report = quantization_report(
        codes, resolved, sizes, related=related, reconstruction_error=error, seconds=cost.seconds, peak_mb=cost.peak_mb
    )
    return Tokenized(semantic_ids, codes, report)
