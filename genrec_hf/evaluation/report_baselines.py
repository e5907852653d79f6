"""Makes the baselines of a report by name: counts, item-kNN, EASE, text-kNN, and a fusion of item-kNN and text-kNN."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from genrec_hf.checks import check_choice
from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.ranking import Ranker

if TYPE_CHECKING:  # importing the metrics needs NumPy only
    from genrec_hf.data import InteractionData
    from genrec_hf.fusion import WeightedSum

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "popularity": {},
    "repeat": {},
    "markov1": {},
    "item_knn": {"window": 10, "recent": 5, "prior": 10.0},
    "ease": {"regularization": 100.0},
    "text_knn": {"recent": 5, "pooling": "max"},
    "text_knn_mean": {"recent": 5, "pooling": "mean"},
    "item_knn_text": {"normalizations": {"item_knn": "log_softmax", "text_knn": "z_score"}},
}
BASELINES = tuple(SETTINGS)
TEXT_BASELINES = ("text_knn", "text_knn_mean", "item_knn_text")

# Above this, EASE takes minutes and is made only where it is named.
MAX_EASE_ITEMS = 5_000

# Scores of one ranker that are held at once while weights are fitted, 268 MB.
_MAX_FITTED_SCORES = 2**26


def choose_baselines(
    names: Sequence[str] | None, *, items: int, has_embeddings: bool, has_validation: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Choose the baselines that can be made for a data set, before anything is ranked.

    Args:
        names (`Sequence[str]`, *optional*): baselines of `BASELINES` to make, in the order of the report; all that can
            be made within seconds or a few minutes when not given.
        items (`int`): size of the catalogue.
        has_embeddings (`bool`): whether there are item embeddings.
        has_validation (`bool`, defaults to `True`): whether there are validation cases.

    Returns:
        `tuple[list[str], dict[str, str]]`: names to make, and the reason why each other one is left out; empty where
        `names` are given.

    Raises:
        ValueError: a name is not known, is given twice, or is of a baseline that cannot be made, see
            `genrec_hf.models.ease.MAX_ITEMS` for EASE.

    Example:
        >>> choose_baselines(["popularity", "item_knn"], items=24, has_embeddings=False)
        (['popularity', 'item_knn'], {})
    """
    reasons: dict[str, str] = {}
    if not has_embeddings:
        reasons |= dict.fromkeys(TEXT_BASELINES, "the data set has no item_embeddings.safetensors of build_sids.py")
    if not has_validation:
        reasons["item_knn_text"] = "its weights are fitted on validation cases, and there are none"
    if names is None:
        if items > MAX_EASE_ITEMS:
            reasons["ease"] = f"it takes minutes for more than {MAX_EASE_ITEMS:,} items; name it in baselines"
        return [name for name in BASELINES if name not in reasons], reasons
    for name in names:
        check_choice("baselines", name, BASELINES)
        if name in reasons:
            raise ValueError(f"got the baseline {name!r}, which cannot be made: {reasons[name]}")
    if "ease" in names:
        from genrec_hf.models.ease import refuse_large_catalogue

        refuse_large_catalogue(items)
    if len(set(names)) < len(names):
        raise ValueError(f"got baselines {list(names)}, some of them twice: name each once")
    return list(names), {}


def make_baselines(
    data: "InteractionData", names: Collection[str], *, embeddings: ArrayLike | None = None, seed: int = 0
) -> tuple[dict[str, Ranker], dict[str, dict[str, Any]]]:
    """Fit baselines on the training events of a data set.

    Args:
        data (`InteractionData`): the data set.
        names (`Collection[str]`): names of `BASELINES`, from `choose_baselines`.
        embeddings (`ArrayLike`, *optional*): float `[items, d]`, for those of `TEXT_BASELINES`.
        seed (`int`, defaults to 0): seed of the random baseline.

    Returns:
        `tuple[dict[str, Ranker], dict[str, dict]]`: rankers by name, and the settings of those that have some. Those
        of `item_knn_text` include its `weights`, which are fitted on the validation cases, also where these are
        evaluated.
    """
    # Imported here because these import transformers, which the metrics do not need.
    from genrec_hf.models import Ease, ItemKnn, TextKnn

    sequences, items = data.training_sequences(), len(data.item_ids)

    def item_knn() -> ItemKnn:
        return ItemKnn.from_sequences(sequences, items, **SETTINGS["item_knn"])

    def text_knn(name: str) -> TextKnn:
        return TextKnn.from_embeddings(np.asarray(embeddings), **SETTINGS[name])

    makers: dict[str, Callable[[], Ranker]] = {
        "random": lambda: RandomBaseline(items, seed),
        "popularity": lambda: Popularity(sequences, items),
        "repeat": lambda: RepeatHistory(sequences, items),
        "markov1": lambda: MarkovOne(sequences, items),
        "item_knn": item_knn,
        "ease": lambda: Ease.from_sequences(sequences, items, **SETTINGS["ease"]),
        "text_knn": lambda: text_knn("text_knn"),
        "text_knn_mean": lambda: text_knn("text_knn_mean"),
        "item_knn_text": lambda: _fuse(item_knn(), text_knn("text_knn"), data),
    }
    rankers = {name: makers[name]() for name in names}
    settings = {name: dict(SETTINGS[name]) for name in names if SETTINGS[name]}
    if "item_knn_text" in rankers:
        fused: Any = rankers["item_knn_text"]
        settings["item_knn_text"] |= {"weights": fused.weights, "fitted_on": "validation"}
    return rankers, settings


def _fuse(item_knn: Any, text_knn: Any, data: "InteractionData") -> "WeightedSum":
    """Fuse two rankers with weights that are fitted on the validation cases."""
    from genrec_hf.fusion import WeightedSum, fit_weights

    rankers = {"item_knn": item_knn, "text_knn": text_knn}
    normalizations = SETTINGS["item_knn_text"]["normalizations"]
    max_cases = max(1, min(5000, _MAX_FITTED_SCORES // len(data.item_ids)))
    weights = fit_weights(rankers, data.cases("validation"), normalizations, max_cases=max_cases)
    return WeightedSum(rankers, weights, normalizations)
