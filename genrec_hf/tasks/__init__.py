"""Instruction tasks as data: a table of tasks, the sources of their examples, mixtures of tasks, dense sequences."""

from genrec_hf.tasks.encoding import encode_examples, instruction_dataset, refuse_weights, title_choice_dataset
from genrec_hf.tasks.events import MAX_TITLE_IN_LIST, EventLimits, Events
from genrec_hf.tasks.instructions import Instruction, Instructions, instruction_following
from genrec_hf.tasks.items import Items, Neighbours, Prefixes
from genrec_hf.tasks.mixture import Mixture
from genrec_hf.tasks.pretraining import pretraining_dataset
from genrec_hf.tasks.prompts import (
    encode_pairs,
    encode_prompt,
    next_item_prompt,
    refuse_other_prompts,
    vector_placeholder,
)
from genrec_hf.tasks.sequential import dense_dataset, next_item_prompts
from genrec_hf.tasks.sources import TaskSource, make_sources
from genrec_hf.tasks.table import DENSE, GROUNDING, TASKS, TITLE_CHOICE, Task, find_tasks, read_weights

__all__ = [
    "DENSE",
    "GROUNDING",
    "MAX_TITLE_IN_LIST",
    "TASKS",
    "TITLE_CHOICE",
    "EventLimits",
    "Events",
    "Instruction",
    "Instructions",
    "Items",
    "Mixture",
    "Neighbours",
    "Prefixes",
    "Task",
    "TaskSource",
    "dense_dataset",
    "encode_examples",
    "encode_pairs",
    "encode_prompt",
    "find_tasks",
    "instruction_dataset",
    "instruction_following",
    "make_sources",
    "next_item_prompt",
    "next_item_prompts",
    "pretraining_dataset",
    "read_weights",
    "refuse_other_prompts",
    "refuse_weights",
    "title_choice_dataset",
    "vector_placeholder",
]
