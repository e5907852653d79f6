"""`Ease`: EASE^R, a linear model of items in closed form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.sparse import csr_matrix
from transformers import PreTrainedConfig

from genrec_hf.checks import check_least
from genrec_hf.models.sequence_models import FittedRanker
from genrec_hf.ranking import Histories

# The inverse of a dense [items, items] matrix in float64 takes 3.2 GB at this size.
MAX_ITEMS = 20_000


class EaseConfig(PreTrainedConfig):
    """Configuration of an `Ease`.

    Args:
        items (`int`): size of the catalogue.
        regularization (`float`, defaults to 100.0): `lambda`, added to the diagonal of the Gram matrix.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        dataset (`str`, *optional*): fingerprint of the data set that it was fitted on.

    Raises:
        ValueError: when a number is out of range.
    """

    model_type = "ease"

    def __init__(
        self,
        items: int = 1,
        *,
        regularization: float = 100.0,
        catalogue: str | None = None,
        dataset: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_least(1, items=items)
        if not 0 < regularization < float("inf"):
            raise ValueError(
                f"got regularization={regularization}: the Gram matrix could be singular; give one above 0"
            )
        self.items, self.regularization, self.catalogue, self.dataset = items, regularization, catalogue, dataset
        super().__init__(**kwargs)


class Ease(FittedRanker):
    """Scores items by a linear model of the set of items that a user has, fitted in closed form.

    EASE^R (Steck, arXiv:1905.03375, equation 8): with the binary matrix `X [users, items]` of the training events and
    `P = (X^T X + lambda I)^-1`, the weights are `B = I - P diagMat(1 / diag(P))`, whose diagonal is 0, and the scores
    of a user are `x B`, with `x` the items of the history. Order and repetition do not count.

    Args:
        config (`EaseConfig`): its settings.
    """

    config: EaseConfig
    config_class = EaseConfig
    base_model_prefix = "ease"

    def __init__(self, config: EaseConfig) -> None:
        super().__init__(config)
        self.weights = torch.nn.Parameter(torch.zeros(config.items, config.items), requires_grad=False)
        self.post_init()

    @classmethod
    def from_sequences(cls, sequences: Histories | Sequence[np.ndarray], items: int, **settings: Any) -> "Ease":
        """Fit the weights to the training sequences, in time `items ** 3` and memory `12 * items ** 2` bytes.

        Args:
            sequences (`Histories` or `Sequence`): item rows of each user, oldest first, training events alone.
            items (`int`): size of the catalogue, at most `MAX_ITEMS`.
            settings: `regularization`, `catalogue`, `dataset` of `EaseConfig`.

        Returns:
            `Ease`: fitted.

        Raises:
            ValueError: when the catalogue is too large, a sequence holds what is no item row, or a setting is out of
                range.
        """
        refuse_large_catalogue(items)
        config = EaseConfig(items, **settings)
        users, rows = Histories.of(sequences, items).flat()
        seen = csr_matrix((np.ones(len(rows)), (users, rows)), shape=(int(users.max(initial=0)) + 1, items))
        seen.data[:] = 1.0  # repeated events count once
        gram = (seen.T @ seen).toarray(order="F")
        gram[np.diag_indices(items)] += config.regularization
        factor, failed = lapack.dpotrf(gram, lower=True, overwrite_a=True)
        inverse, failed_too = lapack.dpotri(factor, lower=True, overwrite_c=True)
        if failed or failed_too:
            raise ValueError(f"the Gram matrix of {items} items is singular: give a larger regularization")
        weights = inverse.astype(np.float32)
        del gram, factor, inverse  # one matrix in float64
        diagonal = np.diag(weights).copy()
        weights = np.tril(weights, -1)  # LAPACK fills the lower triangle only
        weights += weights.T
        weights /= -diagonal
        model = cls(config)
        model.weights.data.copy_(torch.from_numpy(weights))
        return model.eval()

    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return the scores `[users, items]`, 0 after an empty history; see `ItemScorer.score_batch`."""
        users, rows = histories.flat()
        seen = csr_matrix(
            (np.ones(len(rows), dtype=np.float32), (users, rows)), shape=(len(histories), self.num_items)
        )
        seen.data[:] = 1.0
        return np.asarray(seen @ self.weights.detach().cpu().numpy(), dtype=np.float32)


def refuse_large_catalogue(items: int) -> None:
    """Raise if a catalogue is too large for `Ease`.

    Args:
        items (`int`): size of the catalogue.

    Raises:
        ValueError: it has more than `MAX_ITEMS` items.
    """
    if items > MAX_ITEMS:
        raise ValueError(
            f"got {items:,} items: EASE inverts a dense matrix of items by items, which is done up to "
            f"{MAX_ITEMS:,}; leave it out for this catalogue"
        )
