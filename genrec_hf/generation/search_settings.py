"""`SearchSettings`: how a `Recommender` searches the catalogue."""

from dataclasses import dataclass

from genrec_hf.generation.diversity import PrefixCap
from genrec_hf.item_rows import is_whole


@dataclass(frozen=True)
class SearchSettings:
    """How a `Recommender` searches the catalogue.

    Args:
        num_beams (`int`, *optional*): beams of a search; `max(k, 20)` for lists of `k` when not given.
        prefix_cap (`PrefixCap`, *optional*): at most so many items of a list under one prefix of their SIDs.
        batch_size (`int`, defaults to 32): users a batch; batches are formed by length.
        distributed (`bool`, defaults to `False`): share the batches out over the processes of `accelerate launch`; all
            of them have to call, and each gets every list. The batches, and so the lists, are those of one process.

    Raises:
        ValueError: when one is of another type, or out of range.
    """

    num_beams: int | None = None
    prefix_cap: PrefixCap | None = None
    batch_size: int = 32
    distributed: bool = False

    def __post_init__(self) -> None:
        if self.num_beams is not None and (not is_whole(self.num_beams) or self.num_beams < 1):
            raise ValueError(f"num_beams={self.num_beams!r}: pass a whole number of beams, at least 1")
        if self.prefix_cap is not None and not isinstance(self.prefix_cap, PrefixCap):
            raise ValueError(f"prefix_cap={self.prefix_cap!r}: pass PrefixCap(items, length)")
        if not is_whole(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r}: pass a whole number of histories, at least 1")

    def beams_for(self, k: int) -> int:
        """Beams of a search for lists of `k`.

        Raises:
            ValueError: when they are fewer than `k`.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"k={k!r} items asked for: ask for a whole number, at least 1")
        if self.num_beams is None:
            return max(int(k), 20)
        if self.num_beams < k:
            raise ValueError(f"num_beams={self.num_beams!r} cannot give k={k} items: pass a whole number, at least k")
        return int(self.num_beams)
