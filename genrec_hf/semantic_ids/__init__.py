"""Semantic ids: quantizers map item embeddings to codes, and `SemanticIds` holds the codes of a catalogue.

The quantizer classes are imported on first use, since some need torch, which the other modules do not.
"""

from typing import Any

from genrec_hf.semantic_ids.artefact import SemanticIds
from genrec_hf.semantic_ids.behaviour import (
    behaviour_data,
    cold_embeddings,
    cooccurrence_embeddings,
    quantized_vectors,
)
from genrec_hf.semantic_ids.collisions import Strategy, resolve_collisions
from genrec_hf.semantic_ids.display import write_report
from genrec_hf.semantic_ids.quantizer import QUANTIZERS, Quantizer, load_quantizer, quantizer_class
from genrec_hf.semantic_ids.report import find_related_items, quantization_report
from genrec_hf.semantic_ids.tokenization import QUANTIZER_NAMES, make_quantizer, read_settings, tokenize_catalogue

__all__ = [
    "QUANTIZER_NAMES",
    "Fsq",
    "HierarchicalKmeans",
    "Lsh",
    "ProductQuantizer",
    "Quantizer",
    "RandomCodes",
    "RqKmeans",
    "RqVae",
    "SemanticIds",
    "Strategy",
    "behaviour_data",
    "cold_embeddings",
    "cooccurrence_embeddings",
    "find_related_items",
    "load_quantizer",
    "make_quantizer",
    "quantization_report",
    "quantized_vectors",
    "read_settings",
    "resolve_collisions",
    "tokenize_catalogue",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in QUANTIZERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return quantizer_class(name)
