"""`ItemKnn`: item-kNN by counts of co-occurrence, in which nothing is trained by gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from transformers import PreTrainedConfig

from genrec_hf.checks import check_least
from genrec_hf.data.cooccurrence import cooccurrence_counts, item_counts
from genrec_hf.models.sequence_models import FittedRanker
from genrec_hf.ranking import Histories


class ItemKnnConfig(PreTrainedConfig):
    """Configuration of an `ItemKnn`.

    Args:
        items (`int`): size of the catalogue.
        pairs (`int`): pairs of items that were seen together.
        window (`int`, defaults to 10): most events between two items that are counted together.
        recent (`int`, defaults to 5): last items of a history that are read.
        prior (`float`, defaults to 10.0): events of popularity that are added to the counts of each item.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        dataset (`str`, *optional*): fingerprint of the data set that was counted.

    Raises:
        ValueError: when a number is out of range.
    """

    model_type = "item_knn"

    def __init__(
        self,
        items: int = 1,
        pairs: int = 0,
        *,
        window: int = 10,
        recent: int = 5,
        prior: float = 10.0,
        catalogue: str | None = None,
        dataset: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_least(1, items=items, window=window, recent=recent)
        if not 0 < prior < float("inf"):
            raise ValueError(f"got prior={prior}: an item without neighbors would have no score; give one above 0")
        self.items, self.pairs, self.window, self.recent, self.prior = items, pairs, window, recent, prior
        self.catalogue, self.dataset = catalogue, dataset
        super().__init__(**kwargs)


class ItemKnn(FittedRanker):
    """Scores the next item by how often it stood near the last items of the history in the training sequences.

    With `c(i, j)` the times that items `i` and `j` stand at most `window` events apart and `p(j)` the share of `j` in
    the training events (one event more for each item), `P(j | i) = (c(i, j) + prior p(j)) / (sum_j c(i, j) + prior)`,
    and the score of `j` is the logarithm of the mean of `P(j | i)` over the last `recent` items, which sums to 1.
    After an empty history it is `log p(j)`. Item-based nearest neighbors (Sarwar et al., 2001) with counts within a
    window and additive smoothing; the smoothing and the mean over the last items are ours.

    Args:
        config (`ItemKnnConfig`): its settings.
    """

    config: ItemKnnConfig
    config_class = ItemKnnConfig
    starts: torch.Tensor
    neighbors: torch.Tensor
    counts: torch.Tensor
    base_model_prefix = "item_knn"

    def __init__(self, config: ItemKnnConfig) -> None:
        super().__init__(config)
        self.register_buffer("starts", torch.zeros(config.items + 1, dtype=torch.int64))
        self.register_buffer("neighbors", torch.zeros(config.pairs, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(config.pairs, dtype=torch.float32))
        self.popularity = torch.nn.Parameter(torch.zeros(config.items), requires_grad=False)
        self.post_init()

    @classmethod
    def from_sequences(cls, sequences: Histories | Sequence[np.ndarray], items: int, **settings: Any) -> "ItemKnn":
        """Count the training sequences.

        Args:
            sequences (`Histories` or `Sequence`): item rows of each user, oldest first, training events alone.
            items (`int`): size of the catalogue.
            settings: `window`, `recent`, `prior`, `catalogue`, `dataset` of `ItemKnnConfig`.

        Returns:
            `ItemKnn`: with the counts.

        Raises:
            ValueError: when a sequence holds what is no item row, or a setting is out of range.
        """
        sequences = Histories.of(sequences, items)
        config = ItemKnnConfig(items, **settings)
        counts = cooccurrence_counts(sequences, items, config.window)
        config.pairs = counts.nnz
        model = cls(config)
        events = item_counts(sequences, items) + 1.0
        values = (counts.indptr, counts.indices, counts.data, events / events.sum())
        for buffer, array in zip((model.starts, model.neighbors, model.counts, model.popularity), values, strict=True):
            buffer.data.copy_(torch.from_numpy(np.asarray(array)))
        return model.eval()

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return log-probabilities `[users, items]`; see `ItemScorer.score_batch`."""
        arrays = tuple(buffer.cpu().numpy() for buffer in (self.counts, self.neighbors, self.starts))
        counts = csr_matrix(arrays, shape=(self.num_items, self.num_items))
        totals, popularity = np.asarray(counts.sum(axis=1)).ravel(), self.popularity.detach().cpu().numpy()
        last = [history[-self.config.recent :] for history in histories]
        users = np.repeat(np.arange(len(last)), [len(rows) for rows in last])
        rows = np.concatenate([np.empty(0, dtype=np.int64), *last])
        weights = 1 / (totals[rows] + self.config.prior) / np.bincount(users, minlength=len(last))[users]
        mean = csr_matrix((weights, (users, rows)), shape=(len(last), self.num_items))
        probabilities = (mean @ counts).toarray()
        weight_of_prior = np.asarray(mean.sum(axis=1)).ravel() * self.config.prior
        weight_of_prior[np.bincount(users, minlength=len(last)) == 0] = 1.0  # an empty history
        probabilities += weight_of_prior[:, None] * popularity
        return np.log(probabilities).astype(np.float32)
