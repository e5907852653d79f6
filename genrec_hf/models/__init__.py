"""Models: base checkpoints, LoRA adapters with trainable SID rows, the head's rows; SASRec; LLaRA around a model."""

from genrec_hf.models.checkpoints import is_adapter, load_adapter, load_base
from genrec_hf.models.collaborative import collaborative_vectors
from genrec_hf.models.head import decoder_log_norm, decoder_logits, head_logits, is_plain, log_sum_exp
from genrec_hf.models.llara import LlaraConfig, LlaraForCausalLM, plain_prompt
from genrec_hf.models.loading import load_for_training, start_adapter
from genrec_hf.models.sasrec import SasRec, SasRecConfig, load_sasrec

__all__ = [
    "LlaraConfig",
    "LlaraForCausalLM",
    "SasRec",
    "SasRecConfig",
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
    "plain_prompt",
    "start_adapter",
]
