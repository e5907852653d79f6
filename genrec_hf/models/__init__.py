"""Models: base checkpoints, LoRA adapters with trainable SID rows, and the head's rows."""

from genrec_hf.models.export import export_checkpoint
from genrec_hf.models.head import decoder_logits, head_logits, is_plain
from genrec_hf.models.loading import is_adapter, load_adapter, load_base, load_for_training, start_adapter

__all__ = [
    "decoder_logits",
    "export_checkpoint",
    "head_logits",
    "is_adapter",
    "is_plain",
    "load_adapter",
    "load_base",
    "load_for_training",
    "start_adapter",
]
