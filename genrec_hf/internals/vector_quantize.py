"""Undocumented names of vector-quantize-pytorch that genrec_hf uses, as in version 1.32."""

from typing import Any

from vector_quantize_pytorch import VectorQuantize, vector_quantize_pytorch

from genrec_hf.internals import require

_PROBE = VectorQuantize(dim=2, codebook_size=2)

require(
    "vector-quantize-pytorch",
    {
        "vector_quantize_pytorch.rotate_to": hasattr(vector_quantize_pytorch, "rotate_to"),
        **{
            f"VectorQuantize._codebook.{name}": hasattr(getattr(_PROBE, "_codebook", None), name)
            for name in ("gumbel_sample", "cluster_size", "embed_avg")
        },
    },
)

rotate_to = vector_quantize_pytorch.rotate_to


def codebook_of(level: VectorQuantize) -> Any:
    """Return the codebook of a level.

    Args:
        level (`VectorQuantize`): one quantization level.

    Returns:
        `nn.Module`: with `gumbel_sample`, which chooses codes, and the moving averages `cluster_size` and `embed_avg`.
    """
    return level._codebook
