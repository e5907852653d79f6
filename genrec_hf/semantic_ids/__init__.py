"""Semantic ids: embeddings become codes, and codes become the artefact `SemanticIds` that the rest reads."""

from genrec_hf.semantic_ids.artefact import SemanticIds
from genrec_hf.semantic_ids.behaviour import cooccurrence_embeddings
from genrec_hf.semantic_ids.collisions import resolve_collisions
from genrec_hf.semantic_ids.report import quantization_report, write_report
from genrec_hf.semantic_ids.rq_kmeans import RqKmeans

__all__ = [
    "RqKmeans",
    "SemanticIds",
    "cooccurrence_embeddings",
    "quantization_report",
    "resolve_collisions",
    "write_report",
]
