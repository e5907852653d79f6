"""Settings of a `Recommender`'s beam search."""

from dataclasses import dataclass

from genrec_hf.generation.diversity import PrefixCap
from genrec_hf.item_rows import is_whole


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a `Recommender`'s beam search over the catalogue.

    Args:
        num_beams (`int`, *optional*): number of beams for each user, at least `k` for lists of `k` items. More beams
            take longer and find the most probable items more reliably. `max(k, 20)` when not given.
        prefix_cap (`PrefixCap`, *optional*): maximum number of items in a list whose SIDs share a prefix, for diverse
            lists. No maximum when not given.
        batch_size (`int`, defaults to 32): number of users in a batch. Users with histories of similar length form a
            batch.
        distributed (`bool`, defaults to `False`): distribute the batches over the processes of `accelerate launch`.
            Every process has to make the call, and each returns all lists. They equal those of a single process,
            because the batches are the same.

    Raises:
        ValueError: a value has another type, or is out of range.

    Example:
        ```python
        search = SearchSettings(num_beams=50, prefix_cap=PrefixCap(items=2))
        recommender.recommend([["50", "172"]], k=10, search=search)
        ```
    """

    num_beams: int | None = None
    prefix_cap: PrefixCap | None = None
    batch_size: int = 32
    distributed: bool = False

    def __post_init__(self) -> None:
        if self.num_beams is not None and (not is_whole(self.num_beams) or self.num_beams < 1):
            raise ValueError(f"got num_beams={self.num_beams!r}: it must be a whole number, at least 1")
        if self.prefix_cap is not None and not isinstance(self.prefix_cap, PrefixCap):
            raise ValueError(f"got prefix_cap={self.prefix_cap!r}: pass PrefixCap(items, length)")
        if not is_whole(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"got batch_size={self.batch_size!r}: it must be a whole number, at least 1")

    def beams_for(self, k: int) -> int:
        """Return the number of beams of a search for lists of `k` items.

        Args:
            k (`int`): length of the lists.

        Returns:
            `int`: `num_beams`, or `max(k, 20)` where that is `None`.

        Raises:
            ValueError: `k` is not a whole number of at least 1, or larger than `num_beams`.
        """
        if not is_whole(k) or k < 1:
            raise ValueError(f"got k={k!r}: it must be a whole number, at least 1")
        if self.num_beams is None:
            return max(int(k), 20)
        if self.num_beams < k:
            raise ValueError(f"got num_beams={self.num_beams!r} for k={k} items: num_beams must be at least k")
        return int(self.num_beams)
