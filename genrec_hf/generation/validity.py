"""Share of unconstrained samples that are items of the catalogue."""

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
    """Sample as many tokens as a SID has from the whole vocabulary, and measure how many samples are items.

    The samples come from the model's own distribution, at temperature 1 and without top-k or top-p. `recommend` always
    returns items; this measures how much of the model's probability its constraint excludes.

    Args:
        recommender (`Recommender`): the recommender whose model is sampled.
        histories (`Histories` or `Sequence`): item rows of each user, oldest first.
        num_samples (`int`, defaults to 16): number of independent samples for each user.
        seed (`int`, defaults to 0): seed of the samples; the state of torch's generators is restored.
        batch_size (`int`, defaults to 32): number of users in a batch.
        progress (`bool`, defaults to `False`): show a progress bar.

    Returns:
        `np.ndarray`: `[users]`, float64, share of each user's samples that are items, in [0, 1].

    Raises:
        ValueError: `num_samples` or `batch_size` is below 1.
    """
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"got num_samples={num_samples}, batch_size={batch_size}: both must be at least 1")
    trie, network = recommender.trie.to(recommender.model.device), recommender.network
    shares = [np.empty(0)]
    with (
        torch.random.fork_rng(),
        tqdm(total=len(histories), desc="Sampling", unit="user", disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        for start in range(0, len(histories), batch_size):
            batch = recommender.encode(histories[start : start + batch_size])
            mask = batch["attention_mask"]
            model, prompt = wrapping_of(network).prompt_inputs(batch["input_ids"])
            prompt_cache = start_prompt_cache(model, length=mask.shape[1], hypotheses=num_samples, levels=trie.levels)
            tokens, _ = sample_sids(
                prompt_cache, prompt, mask, trie=trie, num_samples=num_samples, normalization="full"
            )
            shares.append((recommender.vocabulary.items(tokens.cpu().numpy()) >= 0).mean(axis=1))
            bar.update(len(mask))
    return np.concatenate(shares)
