"""Reads interactions and items from files or the Hub, prepares and splits them; item texts and item embeddings."""

from genrec_hf.data.dataset import (
    EvaluationCases,
    InteractionData,
    catalogue_fingerprint,
    load_data,
    save_data,
)
from genrec_hf.data.item_embeddings import catalogue_embeddings, embed_items, load_embeddings, save_embeddings
from genrec_hf.data.item_text import clean_text, item_categories, item_texts, item_titles
from genrec_hf.data.preparation import prepare
from genrec_hf.data.readers import RawData, read_source

__all__ = [
    "EvaluationCases",
    "InteractionData",
    "RawData",
    "catalogue_embeddings",
    "catalogue_fingerprint",
    "clean_text",
    "embed_items",
    "item_categories",
    "item_texts",
    "item_titles",
    "load_data",
    "load_embeddings",
    "prepare",
    "read_source",
    "save_data",
    "save_embeddings",
]
