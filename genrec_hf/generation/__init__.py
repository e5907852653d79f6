"""Generation constrained to the catalogue: trie, beam search, sampling, logits processor, and `Recommender`."""

from genrec_hf.generation.beam_scores import BeamScores
from genrec_hf.generation.beam_search import sid_beam_search
from genrec_hf.generation.custom_generate import SidOutput
from genrec_hf.generation.diversity import Mmr, PrefixCap
from genrec_hf.generation.exact_ranker import ExactRanker
from genrec_hf.generation.filters import RequestFilters
from genrec_hf.generation.generation_config import clean_generation_config
from genrec_hf.generation.logits_processor import SidLogitsProcessor
from genrec_hf.generation.recommendation import Recommendation
from genrec_hf.generation.recommender import Recommender
from genrec_hf.generation.sampling import sid_sample
from genrec_hf.generation.search_settings import SearchSettings
from genrec_hf.generation.trie import SidTrie
from genrec_hf.generation.validity import unconstrained_validity

__all__ = [
    "BeamScores",
    "ExactRanker",
    "Mmr",
    "PrefixCap",
    "Recommendation",
    "Recommender",
    "RequestFilters",
    "SearchSettings",
    "SidLogitsProcessor",
    "SidOutput",
    "SidTrie",
    "clean_generation_config",
    "sid_beam_search",
    "sid_sample",
    "unconstrained_validity",
]
