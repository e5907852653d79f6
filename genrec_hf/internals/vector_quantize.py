"""Names inside vector-quantize-pytorch that genrec_hf relies on; they are those of 1.32."""

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
    """The codebook of a level: `gumbel_sample` chooses codes, `cluster_size` and `embed_avg` are moving averages."""
    return level._codebook
