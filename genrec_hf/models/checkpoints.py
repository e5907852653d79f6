"""Loading of base models and tokenizers from folders and Hub repositories, without pickles and without remote code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.repositories import (
    find_folder,
    local_folder,
    name_to_load,
    read_json,
    refuse_broken_files,
    split_hub_id,
)
from genrec_hf.settings import SETTINGS_FILE, TITLES_FILE

ADAPTER_CONFIG = "adapter_config.json"
CONVERT_PICKLES = (
    "weights in other files are pickles, which can run code when they are loaded; convert them with `python -m "
    "genrec_hf.models.export --allow_pickle`, or pass allow_pickle=True if you trust their source"
)


def load_base(
    name_or_path: str, revision: str | None = None, *, allow_pickle: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path (`str`): Hub id or local checkpoint.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        allow_pickle (`bool`, defaults to `False`): also load `pytorch_model.bin`, which can run code of its author.
        kwargs: `dtype`, `attn_implementation`, `quantization_config`, `device_map` of `from_pretrained`.

    Returns:
        `tuple`: the model, and the tokenizer with a padding token (the end-of-sequence token if it has none).

    Raises:
        FileNotFoundError: there is no such folder or repository, or it has no safetensors weights.
        ValueError: it holds an adapter, lacks weights, a file of it is broken, or it needs custom code.
    """
    model = read_model(name_or_path, revision, allow_pickle=allow_pickle, **kwargs)
    tokenizer = read_tokenizer(name_or_path, revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def read_model(
    name_or_path: str, revision: str | None = None, *, allow_pickle: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """Load the model of `load_base` without its tokenizer.

    Args:
        name_or_path (`str`): see `load_base`.
        revision (`str`, *optional*): see `load_base`.
        allow_pickle (`bool`, defaults to `False`): see `load_base`.
        kwargs: keyword arguments of `from_pretrained`.

    Returns:
        `PreTrainedModel`: the model.

    Raises:
        FileNotFoundError: as `load_base` does.
        ValueError: as `load_base` does.
    """
    folder = find_folder(name_or_path, revision, ["*.json"])
    if (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{name_or_path!r} holds an adapter and no whole model: use load_adapter or load_recommender, or merge it "
            "with recipes/merge_adapter.py"
        )
    if "gguf_file" not in kwargs and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{name_or_path!r} holds no config.json: it is not a whole model, or a file is missing; copy it again"
        )
    if not allow_pickle:
        _refuse_named_pickles(folder)
    source, commit = _loading_source(name_or_path, folder)
    safe = None if allow_pickle else True
    with _explain_loading_errors("model", name_or_path, folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=commit, trust_remote_code=False, use_safetensors=safe, output_loading_info=True, **kwargs
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name_or_path!r} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]!r}: they "
            "would be random, and different at every load; use a whole causal language model"
        )
    return cast(PreTrainedModel, model)


def read_tokenizer(name_or_path: str | Path, revision: str | None = None, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer as it was saved.

    Args:
        name_or_path (`str` or `Path`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        kwargs: keyword arguments of `from_pretrained`.

    Returns:
        `PreTrainedTokenizerBase`: the tokenizer.

    Raises:
        FileNotFoundError: there is no such folder or repository.
        ValueError: a file of it is broken, or it needs custom code.
    """
    folder = find_folder(name_or_path, revision, ["*.json", "*.jinja", "*.txt", "*.model"])
    source, commit = _loading_source(str(name_or_path), folder)
    with _explain_loading_errors("tokenizer", str(name_or_path), folder):
        return cast(
            PreTrainedTokenizerBase,
            AutoTokenizer.from_pretrained(source, revision=commit, trust_remote_code=False, **kwargs),
        )


def commit_of(name_or_path: str, revision: str | None = None) -> str | None:
    """Return the current commit of a revision of a Hub repository.

    Args:
        name_or_path (`str`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit; the default branch when not given.

    Returns:
        `str` or `None`: the commit's hash; `None` for a local folder.

    Raises:
        FileNotFoundError: there is no such folder or repository.
    """
    return _loading_source(name_or_path, find_folder(name_or_path, revision, ["config.json"]))[1]


def rows_in_checkpoint(model: PreTrainedModel, revision: str | None = None) -> int | None:
    """Return the number of embedding rows in the checkpoint that a model was loaded from.

    Args:
        model (`PreTrainedModel`): its `name_or_path` is the checkpoint.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.

    Returns:
        `int` or `None`: `vocab_size` of the checkpoint; `None` for a model that was not loaded from one.

    Raises:
        FileNotFoundError: the checkpoint no longer exists.
    """
    if not model.name_or_path:
        return None
    folder = find_folder(name_to_load(model.name_or_path), revision, ["config.json"])
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


def is_adapter(name_or_path: str, revision: str | None = None) -> bool:
    """Return whether a folder or Hub repository holds an adapter rather than a whole checkpoint.

    Args:
        name_or_path (`str`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.

    Returns:
        `bool`: whether it has an `adapter_config.json`.

    Raises:
        FileNotFoundError: there is no such folder or repository.
    """
    folder = find_folder(name_or_path, revision, [ADAPTER_CONFIG, SETTINGS_FILE, TITLES_FILE])
    return (folder / ADAPTER_CONFIG).exists()


def _loading_source(name: str, folder: Path) -> tuple[str, str | None]:
    """Return the folder for `from_pretrained`, or the Hub id and the commit of the files that were read already."""
    if local_folder(name) is not None:
        return str(folder), None
    return split_hub_id(name)[0], folder.name


@contextmanager
def _explain_loading_errors(kind: str, name: str, folder: Path) -> Iterator[None]:
    """Raise errors in loading a model or tokenizer as one sentence that names its folder or its broken file."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name!r} needs custom code (auto_map in its files), which would be run with your permissions, "
                "and genrec_hf runs no code of a checkpoint: use a model that transformers has a class for"
            ) from error
        refuse_broken_files(folder)
        if isinstance(error, OSError) and "safetensors" in str(error):
            raise FileNotFoundError(f"{name!r} holds no complete safetensors weights: {CONVERT_PICKLES}") from error
        # The tokenizers library raises plain `Exception`. Errors such as out of memory are not caused by the files.
        is_caused_by_files = isinstance(error, ValueError | OSError | KeyError | TypeError | AttributeError)
        if is_caused_by_files or type(error) is Exception or "mismatched_sizes" in str(error):
            cause = " ".join(str(error).split())[:200]
            message = f"the {kind} of {name!r} cannot be read ({cause}): check its files and settings"
            raise ValueError(message) from error
        raise


def _refuse_named_pickles(folder: Path) -> None:
    """Raise if settings name weight files other than safetensors, which transformers would load."""
    named: dict[str, list[Any]] = {}
    if (folder / "config.json").is_file():
        named["config.json"] = [read_json(folder / "config.json").get("transformers_weights") or ".safetensors"]
    for index in folder.glob("*.safetensors.index.json"):
        named[index.name] = list(read_json(index).get("weight_map", {}).values())
    for file, weights in named.items():
        for weight in weights:
            if not str(weight).endswith((".safetensors", ".safetensors.index.json")):
                raise FileNotFoundError(f"{str(folder / file)!r} names weights in {weight!r}: {CONVERT_PICKLES}")
