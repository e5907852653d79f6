"""`TextKnn`: item-kNN by the text embeddings of items, in which nothing is trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from genrec_hf.checks import check_choice, check_least
from genrec_hf.models.sequence_models import FittedRanker
from genrec_hf.ranking import Histories

POOLINGS = ("max", "mean")

# Users whose similarities are one product of matrices, which takes a tenth of the time of one product each.
_USERS_PER_PRODUCT = 32


class TextKnnConfig(PreTrainedConfig):
    """Configuration of a `TextKnn`.

    Args:
        items (`int`): size of the catalogue.
        embedding_size (`int`): size of an embedding.
        recent (`int`, defaults to 5): last items of a history that are read.
        pooling (`str`, defaults to `"max"`): how the similarities to these are pooled, `"max"` or `"mean"`.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        dataset (`str`, *optional*): fingerprint of the data set; nothing of its events is read.

    Raises:
        ValueError: when a number is out of range or the pooling is not known.
    """

    model_type = "text_knn"

    def __init__(
        self,
        items: int = 1,
        embedding_size: int = 1,
        *,
        recent: int = 5,
        pooling: str = "max",
        catalogue: str | None = None,
        dataset: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_least(1, items=items, embedding_size=embedding_size, recent=recent)
        check_choice("pooling", pooling, POOLINGS)
        self.items, self.embedding_size, self.recent, self.pooling = items, embedding_size, recent, pooling
        self.catalogue, self.dataset = catalogue, dataset
        super().__init__(**kwargs)


class TextKnn(FittedRanker):
    """Scores items by the cosine of their text embedding with those of the last items of the history.

    The score is the maximum or the mean over the last `recent` items, and 0 for all after an empty history. Nothing is
    counted or trained: items that nobody has chosen yet are scored as any other.

    Args:
        config (`TextKnnConfig`): its settings.
    """

    config: TextKnnConfig
    config_class = TextKnnConfig
    base_model_prefix = "text_knn"

    def __init__(self, config: TextKnnConfig) -> None:
        super().__init__(config)
        self.embeddings = torch.nn.Parameter(torch.zeros(config.items, config.embedding_size), requires_grad=False)
        self.post_init()

    @classmethod
    def from_embeddings(cls, embeddings: np.ndarray, **settings: Any) -> "TextKnn":
        """Take the embeddings of a catalogue, which are scaled to unit length.

        Args:
            embeddings (`np.ndarray`): `[items, d]`, by row; an item without text may have zeros.
            settings: `recent`, `pooling`, `catalogue`, `dataset` of `TextKnnConfig`.

        Returns:
            `TextKnn`: of these items.

        Raises:
            ValueError: when the embeddings are no table of finite numbers, or a setting is out of range.
        """
        embeddings = np.asarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
            raise ValueError(
                f"got embeddings of shape {embeddings.shape}, or numbers that are not finite: similarities would be "
                "wrong; pass finite numbers [items, d]"
            )
        model = cls(TextKnnConfig(*embeddings.shape, **settings))
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        model.embeddings.data.copy_(torch.from_numpy(embeddings / np.where(lengths > 0, lengths, 1)))
        return model.eval()

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return the similarities `[users, items]`, from -1 to 1; see `ItemScorer.score_batch`."""
        vectors = self.embeddings.detach().cpu().numpy()
        scores = np.zeros((len(histories), self.num_items), dtype=np.float32)
        similarities = _mean_similarities if self.config.pooling == "mean" else _largest_similarities
        for start in range(0, len(histories), _USERS_PER_PRODUCT):
            last = [history[-self.config.recent :] for history in histories[start : start + _USERS_PER_PRODUCT]]
            scores[start : start + len(last)] = similarities(vectors, last)
        return scores


def _largest_similarities(vectors: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Return the largest similarity of each item to those of each history, `[users, items]`; 0 for an empty one."""
    rows, positions = np.unique(np.concatenate(histories), return_inverse=True)
    by_row, stops = vectors[rows] @ vectors.T, np.cumsum([len(history) for history in histories])
    largest = np.zeros((len(histories), len(vectors)), dtype=np.float32)
    for user, (history, stop) in enumerate(zip(histories, stops, strict=True)):
        if len(history):
            by_row[positions[stop - len(history) : stop]].max(axis=0, out=largest[user])
    return largest


def _mean_similarities(vectors: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean similarity of each item to those of each history, `[users, items]`; 0 for an empty one."""
    means = [vectors[history].sum(axis=0) / max(1, len(history)) for history in histories]
    return np.stack(means) @ vectors.T
