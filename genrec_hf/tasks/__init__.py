"""The instruction tasks as data: one module of prompts, and builders of data sets for TRL."""

from genrec_hf.tasks.grounding import grounding_dataset, similar_items
from genrec_hf.tasks.pretraining import pretraining_dataset
from genrec_hf.tasks.prompts import GROUNDING, encode_prompt, next_item_prompt
from genrec_hf.tasks.sequential import dense_dataset, next_item_dataset

__all__ = [
    "GROUNDING",
    "dense_dataset",
    "encode_prompt",
    "grounding_dataset",
    "next_item_dataset",
    "next_item_prompt",
    "pretraining_dataset",
    "similar_items",
]
