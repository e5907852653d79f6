"""Reads base models, adapters and tokenizers from folders and Hub repositories: no pickles, and no code of theirs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.internals.peft import no_deprecations
from genrec_hf.models.wrapping import restore_around
from genrec_hf.repositories import (
    HUB_PREFIX,
    LOADED_FILES,
    as_loaded,
    cached_repository,
    can_be_hub_id,
    find_folder,
    local_folder,
    naming_broken_files,
    read_json,
    refuse_broken_files,
    split_hub_id,
)
from genrec_hf.settings import SETTINGS_FILE, TITLES_FILE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
_CONVERT = (
    "weights in other files are pickles, which can run code when they are read; convert them with `python -m "
    "genrec_hf.models.export --allow_pickle`, or pass allow_pickle=True if you trust their source"
)


def load_base(
    name_or_path: str, revision: str | None = None, *, allow_pickle: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, ready to be extended.

    Args:
        name_or_path (`str`): Hub id or local checkpoint.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        allow_pickle (`bool`, defaults to `False`): also read `pytorch_model.bin`, which can run code of its author.
        kwargs: `dtype`, `attn_implementation`, `quantization_config`, `device_map` of `from_pretrained`.

    Returns:
        `tuple`: the model, and the tokenizer with a padding token (the end-of-sequence token when it has none).

    Raises:
        FileNotFoundError: nothing is there, or no safetensors weights.
        ValueError: it holds an adapter, a file of it is broken, or it needs code of its own to be run.
    """
    model = read_model(name_or_path, revision, allow_pickle=allow_pickle, **kwargs)
    tokenizer = read_tokenizer(name_or_path, revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def read_model(
    name_or_path: str, revision: str | None = None, *, allow_pickle: bool = False, **kwargs: Any
) -> PreTrainedModel:
    """The model of `load_base` alone."""
    folder = find_folder(name_or_path, revision, ["*.json"])
    if (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(
            f"{name_or_path!r} holds an adapter and no whole model: use load_adapter or load_recommender, or make a "
            "whole one with recipes/merge_adapter.py"
        )
    if "gguf_file" not in kwargs and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name_or_path!r} holds no config.json: it is no whole model, or a part is missing")
    if not allow_pickle:
        _refuse_named_pickles(folder)
    where, commit = _source(name_or_path, folder)
    safe = None if allow_pickle else True
    with _naming_the_cause("model", name_or_path, folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, revision=commit, trust_remote_code=False, use_safetensors=safe, output_loading_info=True, **kwargs
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{name_or_path!r} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]!r}: they "
            "would be drawn anew at every load; use a whole causal language model"
        )
    return cast(PreTrainedModel, model)


def read_tokenizer(name_or_path: str | Path, revision: str | None = None, **kwargs: Any) -> PreTrainedTokenizerBase:
    """A tokenizer as it was saved; `kwargs` are those of `from_pretrained`.

    Raises:
        FileNotFoundError: no such folder or repository.
        ValueError: a file of it is broken, or it needs code of its own to be run.
    """
    folder = find_folder(name_or_path, revision, ["*.json", "*.jinja", "*.txt", "*.model"])
    where, commit = _source(str(name_or_path), folder)
    with _naming_the_cause("tokenizer", str(name_or_path), folder):
        return cast(
            PreTrainedTokenizerBase,
            AutoTokenizer.from_pretrained(where, revision=commit, trust_remote_code=False, **kwargs),
        )


def commit_of(name_or_path: str, revision: str | None = None) -> str | None:
    """The commit that a revision of a Hub repository is now; `None` for a local folder."""
    return _source(name_or_path, find_folder(name_or_path, revision, ["config.json"]))[1]


def rows_in_checkpoint(model: PreTrainedModel, revision: str | None = None) -> int | None:
    """Rows of the embedding in the checkpoint that a model was loaded from; `None` for one made in memory."""
    if not model.name_or_path:
        return None
    folder = find_folder(as_loaded(model.name_or_path), revision, ["config.json"])
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


def load_adapter(
    directory_or_repo: str | Path,
    is_trainable: bool = False,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    **kwargs: Any,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """An adapter on top of the base model it names, with the tokenizer saved beside it.

    Args:
        directory_or_repo (`str` or `Path`): an output directory of a recipe, or a Hub repository of one.
        is_trainable (`bool`, defaults to `False`): go on training it.
        revision (`str`, *optional*): of the Hub repository.
        allow_pickle (`bool`, defaults to `False`): also read `adapter_model.bin`, and the base's `pytorch_model.bin`,
            which can run code of their authors.
        kwargs: `dtype`, `attn_implementation`, `quantization_config`, `device_map` for the base model.

    Raises:
        FileNotFoundError: when the directory holds no adapter, or its base model is gone.
        ValueError: a file is broken, needs code to be run, or does not belong to the others.
    """
    directory = adapter_folder(directory_or_repo, revision, allow_pickle)
    base, tokenizer = load_adapters_base(directory, allow_pickle, **kwargs)
    return put_adapter_on(base, directory, is_trainable), tokenizer


def adapter_folder(directory_or_repo: str | Path, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """The local folder of an adapter, with all that `load_adapter` reads."""
    pickles = [ADAPTER_PICKLE] if allow_pickle else []
    directory = find_folder(directory_or_repo, revision, [*LOADED_FILES, *pickles])
    if not (directory / ADAPTER_CONFIG).exists():
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no {ADAPTER_CONFIG}: it is not the output of a training recipe, or the "
            "run never finished"
        )
    if not any((directory / name).is_file() for name in (ADAPTER_WEIGHTS, *pickles)):
        raise FileNotFoundError(f"{str(directory_or_repo)!r} holds no {ADAPTER_WEIGHTS}: {_CONVERT}")
    return directory


def load_adapters_base(
    directory: Path, allow_pickle: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model of the adapter in a folder, grown as its tokenizer asks, in its wrapper, and that tokenizer."""
    config = read_json(directory / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{str(directory)!r} holds an adapter of type {config.get('peft_type')!r}, and not a LoRA")
    name, revision = _find_base(directory, config)
    base = read_model(name, revision, allow_pickle=allow_pickle, **kwargs)
    tokenizer = read_tokenizer(directory)
    _grow(base, tokenizer, config.get("trainable_token_indices"), directory)
    return restore_around(base, directory), tokenizer


def put_adapter_on(base: PreTrainedModel, directory: Path, is_trainable: bool) -> PeftModel:
    """The adapter in a folder, on the base model that `load_adapters_base` gave.

    Raises:
        ValueError: the weights are broken, or do not fit the base model.
    """
    with naming_broken_files(directory):
        try:
            with warnings.catch_warnings(), no_deprecations():
                warnings.filterwarnings("error", "Found missing adapter keys")
                model = PeftModel.from_pretrained(base, directory, is_trainable=is_trainable)
        except (RuntimeError, ValueError, UserWarning) as error:
            if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
                raise
            raise ValueError(
                f"the adapter in {str(directory)!r} does not fit the base model {base.name_or_path!r}, which is not "
                f"the one that it was trained on ({' '.join(str(error).split())[:200]})"
            ) from error
    _refuse_unused_weights(model, directory)
    # Where the base was found, which is not always where the file says.
    config = model.peft_config["default"]
    if (cached := cached_repository(str(config.base_model_name_or_path))) and cached[0] == base.name_or_path:
        config.revision = cached[1]
    config.base_model_name_or_path = base.name_or_path
    return slim(model)


def is_adapter(name_or_path: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository holds an adapter rather than a whole checkpoint.

    Raises:
        FileNotFoundError: there is no such folder or repository.
    """
    folder = find_folder(name_or_path, revision, [ADAPTER_CONFIG, SETTINGS_FILE, TITLES_FILE])
    return (folder / ADAPTER_CONFIG).exists()


def slim(model: PeftModel) -> PeftModel:
    """The same model, whose `save_pretrained` writes no whole embedding."""
    # After a resize PEFT would save the whole embedding with every checkpoint, ten times the size of the adapter; the
    # trained rows are in the adapter already, and no other new row exists.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]
    return model


def _source(name: str, folder: Path) -> tuple[str, str | None]:
    """What transformers loads: a folder, or a Hub id at the commit whose settings were read."""
    if local_folder(name) is not None:
        return str(folder), None
    return split_hub_id(name)[0], folder.name


def _find_base(directory: Path, config: dict[str, Any]) -> tuple[str, str | None]:
    """Name and revision of an adapter's base model: as saved, beside the adapter, or where a cached copy came from."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{str(directory / ADAPTER_CONFIG)!r} names no base model: put its path or Hub id there")
    revision = config.get("revision")
    if Path(name).is_dir():
        return name, None
    settings = read_json(directory / SETTINGS_FILE) if (directory / SETTINGS_FILE).is_file() else {}
    is_local = settings.get("base_model_is_local") if settings.get("base_model") == name else None
    if is_local is False or (is_local is None and can_be_hub_id(name)):
        return HUB_PREFIX + name, revision
    for parent in (directory.resolve(), *directory.resolve().parents):
        if not Path(name).is_absolute() and (parent / name).is_dir():
            return str(parent / name), None
    if (cached := cached_repository(name)) is not None:
        return cached
    raise FileNotFoundError(
        f"the adapter in {str(directory)!r} was trained on the local checkpoint {name!r}, which is neither here nor "
        f"beside the adapter: make it first, or name its place as base_model_name_or_path in {ADAPTER_CONFIG}"
    )


@contextmanager
def _naming_the_cause(what: str, name: str, folder: Path) -> Iterator[None]:
    """One sentence for what goes wrong in reading a model or tokenizer, naming its folder or its broken file."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name!r} needs code of its own (auto_map in its files), which would be run with your rights and "
                "which genrec_hf does not run: use a model that transformers has a class for"
            ) from error
        refuse_broken_files(folder)
        if isinstance(error, OSError) and "safetensors" in str(error):
            raise FileNotFoundError(f"{name!r} holds no complete safetensors weights: {_CONVERT}") from error
        # The library behind tokenizers raises bare exceptions. Running out of memory is not a fault of the files.
        is_of_files = isinstance(error, ValueError | OSError | KeyError | TypeError | AttributeError)
        if is_of_files or type(error) is Exception or "mismatched_sizes" in str(error):
            short = " ".join(str(error).split())[:200]
            message = f"the {what} of {name!r} cannot be read ({short}): check its files and settings"
            raise ValueError(message) from error
        raise


def _refuse_unused_weights(model: PeftModel, directory: Path) -> None:
    """Raise where PEFT has left weights of an adapter out, such as those of layers that the base model lacks."""
    if not (directory / ADAPTER_WEIGHTS).is_file():
        return
    with safe_open(directory / ADAPTER_WEIGHTS, "pt") as file:
        unused = set(file.keys()) - get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if unused:
        raise ValueError(
            f"the adapter in {str(directory)!r} holds {len(unused)} weights that have no place in the base model, "
            f"such as {min(unused)!r}: it is not the one that the adapter was trained on"
        )


def _refuse_named_pickles(folder: Path) -> None:
    """Raise where settings name files of weights that are no safetensors, which transformers would read."""
    named: dict[str, list[Any]] = {}
    if (folder / "config.json").is_file():
        named["config.json"] = [read_json(folder / "config.json").get("transformers_weights") or ".safetensors"]
    for index in folder.glob("*.safetensors.index.json"):
        named[index.name] = list(read_json(index).get("weight_map", {}).values())
    for file, weights in named.items():
        for weight in weights:
            if not str(weight).endswith((".safetensors", ".safetensors.index.json")):
                raise FileNotFoundError(f"{str(folder / file)!r} names weights in {weight!r}: {_CONVERT}")


def _grow(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: Any, directory: Path) -> None:
    """Add the rows that an adapter replaces, `trained` by its configuration, and none that would stay as drawn."""
    tables = [base.get_input_embeddings(), base.get_output_embeddings()]
    count = len({id(table.get_parameter("weight")) for table in tables})
    of_tables = [set(each) for each in trained.values()] if isinstance(trained, dict) else []
    saved = set.intersection(*of_tables) if len(of_tables) >= count else set()
    rows = tables[0].get_parameter("weight").shape[0]
    wanted = max(len(tokenizer), *(row + 1 for row in saved), rows)
    if lost := sorted(set(range(rows, wanted)) - saved):
        raise ValueError(
            f"the tokenizer in {str(directory)!r} has {len(lost)} tokens, such as "
            f"{tokenizer.convert_ids_to_tokens(lost[0])!r}, that neither the base model {base.name_or_path!r} nor the "
            "adapter has rows for: they would be drawn anew at every load; take the tokenizer that was saved with the "
            "adapter, or train again from a base model that has these rows"
        )
    if rows < wanted:
        base.resize_token_embeddings(wanted, mean_resizing=False)
