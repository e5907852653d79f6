"""Opens the rankers that a command line names: saved ones, and those that need no training, for `FusedRanker`."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from genrec_hf.checks import check_choice
from genrec_hf.data import InteractionData
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.data.item_embeddings import EMBEDDINGS_FILE, find_embeddings
from genrec_hf.fused_files import check_names
from genrec_hf.fusion import NORMALIZATIONS, Scores
from genrec_hf.generation import BeamScores, Recommender, SearchSettings
from genrec_hf.models import Ease, ItemKnn, TextKnn
from genrec_hf.models.ease import MAX_ITEMS
from genrec_hf.rankers import load_ranker

# Rankers that are fitted here, on the training events or the text embeddings of a data set.
BUILT_IN = ("item_knn", "ease", "text_knn")
# Names of the other rows of a report.
_RESERVED = ("model", "random", "popularity", "repeat", "markov1")


def read_sources(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `--rankers` of recipes: the source of each ranker by its name.

    Args:
        pairs (`Sequence[str]`): `name=source` each; a source is one of `BUILT_IN`, a folder or a Hub repository.

    Returns:
        `dict[str, str]`: sources by name, in order.

    Raises:
        ValueError: there are fewer than two, a pair has another form, or a name occurs twice, is that of a baseline of
            the report, or has other characters than letters, digits, `_` and `-`.

    Example:
        >>> read_sources(["counts=item_knn", "sasrec=outputs/sasrec"])
        {'counts': 'item_knn', 'sasrec': 'outputs/sasrec'}
    """
    sources: dict[str, str] = {}
    for pair in pairs:
        name, _, source = pair.partition("=")
        if not name or not source or name in sources or name in _RESERVED:
            raise ValueError(
                f"got the ranker {pair!r}: give each name once, as name=source, and none of {', '.join(_RESERVED)}, "
                "which the report has"
            )
        sources[name] = source
    if len(sources) < 2:
        raise ValueError(f"got rankers={list(pairs)}: there is nothing to fuse; give at least two, as name=source")
    check_names(sources)
    return sources


def read_normalizations(pairs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Parse `--normalizations` of recipes: how the scores of rankers are normalized.

    Args:
        pairs (`Sequence[str]`): `name=normalization` each.
        names (`Sequence[str]`): names of the rankers.

    Returns:
        `dict[str, str]`: normalization of the rankers that are named.

    Raises:
        ValueError: a name is not one of the rankers or occurs twice, or a normalization is not known.

    Example:
        >>> read_normalizations(["words=z_score"], ["counts", "words"])
        {'words': 'z_score'}
    """
    normalizations: dict[str, str] = {}
    for pair in pairs:
        name, _, normalization = pair.partition("=")
        if name not in names or name in normalizations:
            raise ValueError(f"got the normalization {pair!r}: give the name of each ranker once: {', '.join(names)}")
        check_choice(f"the normalization of {name}", normalization, NORMALIZATIONS)
        normalizations[name] = normalization
    return normalizations


def open_rankers(
    sources: Mapping[str, str],
    data: InteractionData,
    data_dir: str | Path,
    *,
    dataset: Mapping[str, Any] | None = None,
    item_knn_prior: float = 10.0,
    llm_scores: Literal["exact", "beams"] = "exact",
    num_beams: int = 30,
    batch_size: int = 32,
    dtype: str = "float32",
    device: str | torch.device | None = None,
) -> dict[str, Scores]:
    """Load or fit the rankers of a data set.

    Args:
        sources (`Mapping[str, str]`): from `read_sources`.
        data (`InteractionData`): the data set; built-in rankers are fitted on its training events.
        data_dir (`str` or `Path`): its folder, with the text embeddings of `text_knn`.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data to evaluate on, see `load_ranker`.
        item_knn_prior (`float`, defaults to 10.0): `prior` of `ItemKnn`.
        llm_scores (`str`, defaults to `"exact"`): how a `Recommender` scores items: all of them, `"exact"`, or the
            `num_beams` best of its beam search, `"beams"`.
        num_beams (`int`, defaults to 30): beams of the search of a `Recommender`.
        batch_size (`int`, defaults to 32): users in a batch of a `Recommender`.
        dtype (`str`, defaults to `"float32"`): data type of the weights of a `Recommender`.
        device (`str` or `torch.device`, *optional*): device of the models that are loaded; the CPU when not given.

    Returns:
        `dict[str, Scores]`: rankers by name. `ease` is left out, with a warning, where the catalogue is too large.

    Raises:
        FileNotFoundError: a source is not there, or `data_dir` holds no text embeddings for `text_knn`.
        ValueError: a ranker is of other items or other data.
    """
    known = {"catalogue": catalogue_fingerprint(data.item_ids), "dataset": data.info.get("fingerprint")}
    items, sequences = len(data.item_ids), data.training_sequences()
    search = SearchSettings(num_beams, batch_size=batch_size)
    rankers: dict[str, Scores] = {}
    for name, source in sources.items():
        if source == "item_knn":
            rankers[name] = ItemKnn.from_sequences(sequences, items, prior=item_knn_prior, **known)
        elif source == "ease" and items > MAX_ITEMS:
            warnings.warn(
                f"got {name}=ease for {items:,} items: EASE inverts a dense matrix of items by items, which is done "
                f"up to {MAX_ITEMS:,}; it is left out",
                stacklevel=2,
            )
        elif source == "ease":
            rankers[name] = Ease.from_sequences(sequences, items, **known)
        elif source == "text_knn":
            rankers[name] = TextKnn.from_embeddings(_read_embeddings(name, data_dir, data.item_ids), **known)
        else:
            ranker = _load(name, source, data.item_ids, dataset=dataset, device=device, search=search, dtype=dtype)
            is_list = llm_scores == "beams" and isinstance(ranker, Recommender)
            rankers[name] = BeamScores(ranker, num_beams) if is_list else ranker
    return rankers


def choose_normalizations(rankers: Mapping[str, Scores], given: Mapping[str, str]) -> dict[str, str]:
    """Choose how the scores of each ranker are normalized.

    Args:
        rankers (`Mapping[str, Scores]`): by name.
        given (`Mapping[str, str]`): from `read_normalizations`.

    Returns:
        `dict[str, str]`: `given`, and for the others `"z_score"` for `Ease` and `TextKnn`, whose scores are no logits,
        and `"log_softmax"` otherwise.
    """
    defaults = {
        name: "z_score" if isinstance(ranker, Ease | TextKnn) else "log_softmax" for name, ranker in rankers.items()
    }
    return {name: given.get(name, default) for name, default in defaults.items()}


def _read_embeddings(name: str, data_dir: str | Path, item_ids: Sequence[str]) -> Any:
    """Read the text embeddings of a data set."""
    embeddings = find_embeddings(data_dir, item_ids)
    if embeddings is None:
        raise FileNotFoundError(
            f"got {name}=text_knn, and {str(data_dir)!r} holds no {EMBEDDINGS_FILE}: run recipes/build_sids.py first, "
            "or leave it out"
        )
    return embeddings


def _load(name: str, source: str, item_ids: Sequence[str], **settings: Any) -> Any:
    """Load a saved ranker; the error says what else a source may be."""
    try:
        return load_ranker(source, item_ids, **settings)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"got the ranker {name}={source}, which is none of {', '.join(BUILT_IN)} and cannot be loaded: {error}"
        ) from error
