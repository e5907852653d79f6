"""Context for training with torch that is reproducible on any number of threads and has no side effects."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run torch on one thread, so that sums have one order, with its own random state; restore both at the end.

    Args:
        seed (`int`): random seed of torch inside the context.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
