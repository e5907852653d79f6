"""Ranks and scores users in batches of similar length; ranking can be distributed over processes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from tqdm.auto import tqdm

from genrec_hf.ranking import Ranking

# The progress bar is shown by default for more batches than this.
MANY_BATCHES = 10


def rank_in_batches(
    rank_batch: Callable[[list[int]], Ranking],
    lengths: Sequence[int],
    *,
    k: int,
    batch_size: int,
    state: PartialState | None = None,
    progress: bool | None = None,
) -> Ranking:
    """Rank all users with a function that ranks a batch of them.

    The batches do not depend on the number of processes, and so neither do the lists.

    Args:
        rank_batch (`Callable`): returns a `Ranking` `[n, k]` for the indices of `n` users.
        lengths (`Sequence[int]`): `[users]`, length of each history; batches are formed in this order.
        k (`int`): length of the lists.
        batch_size (`int`): number of users in a batch.
        state (`PartialState`, *optional*): distribute the batches over its processes; this process ranks all of them
            when not given.
        progress (`bool`, *optional*): show a progress bar; from 11 batches on when not given.

    Returns:
        `Ranking`: `[users, k]`, in every process.
    """
    batches = _batches_by_length(lengths, batch_size)
    own_batches = batches if state is None else batches[state.process_index :: state.num_processes]
    # Item rows plus 1, so that the users of other processes stay 0 and the sum over processes is the result.
    shifted_items = torch.zeros(len(lengths), k, dtype=torch.long)
    scores = torch.zeros(len(lengths), k)
    progress = len(batches) > MANY_BATCHES if progress is None else progress
    is_shown = progress and (state is None or state.is_main_process)
    with tqdm(total=sum(map(len, own_batches)), desc="Recommending", unit="user", disable=not is_shown) as bar:
        for users in own_batches:
            ranking = rank_batch(users)
            shifted_items[users] = torch.from_numpy(ranking.items) + 1
            scores[users] = torch.from_numpy(ranking.scores)
            bar.update(len(users))
    if state is not None and state.num_processes > 1:
        shifted_items = reduce(shifted_items.to(state.device), "sum").cpu()
        scores = reduce(scores.to(state.device), "sum").cpu()
    return Ranking(shifted_items.numpy() - 1, scores.numpy())


def score_in_batches(
    score_batch: Callable[[list[int]], np.ndarray],
    lengths: Sequence[int],
    *,
    items: int,
    batch_size: int,
    progress: bool = False,
) -> np.ndarray:
    """Score items for all users with a function that scores them for a batch of users.

    Args:
        score_batch (`Callable`): returns scores `[n, items]` for the indices of `n` users.
        lengths (`Sequence[int]`): `[users]`, length of each history; batches are formed in this order.
        items (`int`): number of items that are scored for each user.
        batch_size (`int`): number of users in a batch.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `np.ndarray`: `[users, items]`, float32.
    """
    scores = np.empty((len(lengths), items), dtype=np.float32)
    with tqdm(total=len(lengths), desc="Scoring", unit="user", disable=not progress) as bar:
        for users in _batches_by_length(lengths, batch_size):
            scores[users] = score_batch(users)
            bar.update(len(users))
    return scores


def _batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of users, those with short histories first."""
    order = sorted(range(len(lengths)), key=lambda user: lengths[user])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
