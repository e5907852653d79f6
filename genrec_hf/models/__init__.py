"""Models: base checkpoints, LoRA adapters with trainable SID rows, wrappers (LLaRA), SASRec, and kNN and EASE."""

from genrec_hf.models.adapters import load_adapter
from genrec_hf.models.checkpoints import is_adapter, load_base
from genrec_hf.models.collaborative import collaborative_vectors
from genrec_hf.models.ease import Ease, EaseConfig
from genrec_hf.models.head import decoder_log_norm, decoder_logits, head_logits, is_plain, log_sum_exp
from genrec_hf.models.item_knn import ItemKnn, ItemKnnConfig
from genrec_hf.models.llara import LlaraConfig, LlaraForCausalLM
from genrec_hf.models.loading import load_for_training, start_adapter
from genrec_hf.models.sasrec import SasRec, SasRecConfig, load_sasrec
from genrec_hf.models.text_knn import TextKnn, TextKnnConfig
from genrec_hf.models.wrapped_lm import WrappedConfig, WrappedLM
from genrec_hf.models.wrapping import Wrapping, unwrap, wrapping_of

# Modules that can wrap a language model; loading finds the one of an adapter by its `saved_file`.
WRAPPINGS: tuple[type[WrappedLM], ...] = (LlaraForCausalLM,)

__all__ = [
    "WRAPPINGS",
    "Ease",
    "EaseConfig",
    "ItemKnn",
    "ItemKnnConfig",
    "LlaraConfig",
    "LlaraForCausalLM",
    "SasRec",
    "SasRecConfig",
    "TextKnn",
    "TextKnnConfig",
    "WrappedConfig",
    "WrappedLM",
    "Wrapping",
    "collaborative_vectors",
    "decoder_log_norm",
    "decoder_logits",
    "head_logits",
    "is_adapter",
    "is_plain",
    "load_adapter",
    "load_base",
    "load_for_training",
    "load_sasrec",
    "log_sum_exp",
    "start_adapter",
    "unwrap",
    "wrapping_of",
]
