"""Fine-tunes a pretrained LLM into a recommender with transformers, peft, trl, accelerate and datasets.

Parts, in the order data flows: `data`, `semantic_ids`, `vocabulary`, `tasks`, `models`, `generation`, `evaluation`,
`hub`, `fusion`, `rankers`, `training`. The names below are imported on first use, to keep `import genrec_hf` fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Module of each public name.
_MODULES = {
    "FusedRanker": "genrec_hf.fused_ranker",
    "SemanticIds": "genrec_hf.semantic_ids",
    "SidVocabulary": "genrec_hf.vocabulary",
    "LlaraForCausalLM": "genrec_hf.models",
    "SasRec": "genrec_hf.models",
    "Recommender": "genrec_hf.generation",
    "load_ranker": "genrec_hf.rankers",
    "load_recommender": "genrec_hf.hub",
}

__all__ = [
    "FusedRanker",
    "LlaraForCausalLM",
    "Recommender",
    "SasRec",
    "SemanticIds",
    "SidVocabulary",
    "load_ranker",
    "load_recommender",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'genrec_hf' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
