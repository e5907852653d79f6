"""How often a model answers with an item when nothing holds it to the catalogue."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm.auto import tqdm

from genrec_hf.generation.prompt_cache import start_prompt_cache
from genrec_hf.generation.recommender import Recommender
from genrec_hf.generation.scoring import sample_sids
from genrec_hf.models import wrapping_of
from genrec_hf.ranking import Histories, Rows


@torch.no_grad()
def unconstrained_validity(
    recommender: Recommender,
    histories: Histories | Sequence[Rows],
    *,
    num_samples: int = 16,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> np.ndarray:
    """Sample from the whole vocabulary behind each user's prompt, as many tokens as a SID has, and counts the items.

    At temperature 1, without top-k or top-p: the model's own distribution. What `recommend` gives is always an item;
    this tells how much of the model's probability the constraint leaves out.

    Args:
        recommender (`Recommender`): a trained one.
        histories (`Histories` or `Sequence`): item rows of each user, oldest first.
        num_samples (`int`, defaults to 16): independent draws a user.
        seed (`int`, defaults to 0): of the draws; the state of torch's generators stays as it is.
        batch_size (`int`, defaults to 32): users a batch.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `np.ndarray`: `[users]` float64, the share of each user's draws that are items.

    Raises:
        ValueError: on no num_samples, or an empty batch.
    """
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"got num_samples={num_samples}, batch_size={batch_size}; give 1 or more of each")
    trie, network = recommender.trie.to(recommender.model.device), recommender.network
    found = [np.empty(0)]
    with torch.random.fork_rng(), tqdm(total=len(histories), desc="Drawing", unit="user", disable=not progress) as bar:
        torch.manual_seed(seed)
        for start in range(0, len(histories), batch_size):
            batch = recommender.encode(histories[start : start + batch_size])
            mask = batch["attention_mask"]
            plain, prompt = wrapping_of(network).prompt_inputs(batch["input_ids"])
            prompt_cache = start_prompt_cache(plain, length=mask.shape[1], hypotheses=num_samples, levels=trie.levels)
            tokens, _ = sample_sids(
                prompt_cache, prompt, mask, trie=trie, num_samples=num_samples, normalization="full"
            )
            found.append((recommender.vocabulary.items(tokens.cpu().numpy()) >= 0).mean(axis=1))
            bar.update(len(mask))
    return np.concatenate(found)
