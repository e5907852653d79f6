"""Generation held to the catalogue: the trie, the logits processor for plain `generate`, and `Recommender`."""

from genrec_hf.generation.logits_processor import SidLogitsProcessor
from genrec_hf.generation.recommender import Recommender, clean_generation_config
from genrec_hf.generation.trie import SidTrie

__all__ = ["Recommender", "SidLogitsProcessor", "SidTrie", "clean_generation_config"]
