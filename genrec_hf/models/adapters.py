"""Loading of LoRA adapters on their base models, from folders and Hub repositories."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.internals.peft import no_deprecations
from genrec_hf.models.checkpoints import ADAPTER_CONFIG, CONVERT_PICKLES, read_model, read_tokenizer
from genrec_hf.models.wrapping import restore_wrapper
from genrec_hf.repositories import (
    HUB_PREFIX,
    LOADED_FILES,
    cached_repository,
    can_be_hub_id,
    find_folder,
    name_broken_files,
    read_json,
)
from genrec_hf.settings import SETTINGS_FILE

ADAPTER_WEIGHTS, ADAPTER_PICKLE = "adapter_model.safetensors", "adapter_model.bin"


def load_adapter(
    directory_or_repo: str | Path,
    is_trainable: bool = False,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    **kwargs: Any,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter on the base model that its configuration names, and the tokenizer saved with it.

    Args:
        directory_or_repo (`str` or `Path`): output directory of a recipe, or a Hub repository of one.
        is_trainable (`bool`, defaults to `False`): make the adapter trainable.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        allow_pickle (`bool`, defaults to `False`): also load `adapter_model.bin`, and `pytorch_model.bin` of the base
            model, which can run code of their authors.
        kwargs: `dtype`, `attn_implementation`, `quantization_config`, `device_map` for the base model.

    Returns:
        `tuple`: the model with its adapter, and the tokenizer.

    Raises:
        FileNotFoundError: the folder holds no adapter, or its base model does not exist.
        ValueError: a file is broken, the base model needs custom code, or the files do not belong together.
    """
    directory = adapter_folder(directory_or_repo, revision, allow_pickle)
    base, tokenizer = load_adapters_base(directory, allow_pickle, **kwargs)
    return put_adapter_on(base, directory, is_trainable), tokenizer


def adapter_folder(directory_or_repo: str | Path, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """Return the local folder of an adapter, with all files that `load_adapter` reads.

    Args:
        directory_or_repo (`str` or `Path`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        allow_pickle (`bool`, defaults to `False`): accept `adapter_model.bin`.

    Returns:
        `Path`: the folder, for a Hub repository in the cache.

    Raises:
        FileNotFoundError: there is no such folder or repository, or it holds no adapter.
    """
    pickles = [ADAPTER_PICKLE] if allow_pickle else []
    directory = find_folder(directory_or_repo, revision, [*LOADED_FILES, *pickles])
    if not (directory / ADAPTER_CONFIG).exists():
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no {ADAPTER_CONFIG}: it is not the output of a training recipe, or the "
            "run did not finish; train it first"
        )
    if not any((directory / name).is_file() for name in (ADAPTER_WEIGHTS, *pickles)):
        raise FileNotFoundError(f"{str(directory_or_repo)!r} holds no {ADAPTER_WEIGHTS}: {CONVERT_PICKLES}")
    return directory


def load_adapters_base(
    directory: Path, allow_pickle: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base model of an adapter and the tokenizer saved with the adapter.

    The model is resized for the tokenizer, and wrapped if the folder has a file of a `WrappedLM`.

    Args:
        directory (`Path`): folder of the adapter.
        allow_pickle (`bool`, defaults to `False`): see `load_adapter`.
        kwargs: keyword arguments of `from_pretrained` for the base model.

    Returns:
        `tuple`: the base model, and the tokenizer.

    Raises:
        FileNotFoundError: the base model does not exist.
        ValueError: it is no LoRA adapter, a file is broken, the base model needs custom code, or some tokens of
            the tokenizer have no rows.
    """
    config = read_json(directory / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{str(directory)!r} holds an adapter of type {config.get('peft_type')!r}, and only LoRA adapters can be "
            "loaded: pass the output of a recipe"
        )
    name, revision = _find_base(directory, config)
    base = read_model(name, revision, allow_pickle=allow_pickle, **kwargs)
    tokenizer = read_tokenizer(directory)
    _resize_embeddings(base, tokenizer, config.get("trainable_token_indices"), directory)
    return restore_wrapper(base, directory), tokenizer


def put_adapter_on(base: PreTrainedModel, directory: Path, is_trainable: bool) -> PeftModel:
    """Load an adapter on its base model.

    Args:
        base (`PreTrainedModel`): from `load_adapters_base`.
        directory (`Path`): folder of the adapter.
        is_trainable (`bool`): make the adapter trainable.

    Returns:
        `PeftModel`: the model with its adapter.

    Raises:
        ValueError: the weights are broken, or do not fit the base model.
    """
    with name_broken_files(directory):
        try:
            with warnings.catch_warnings(), no_deprecations():
                warnings.filterwarnings("error", "Found missing adapter keys")
                model = PeftModel.from_pretrained(base, directory, is_trainable=is_trainable)
        except (RuntimeError, ValueError, UserWarning) as error:
            if isinstance(error, RuntimeError) and "size mismatch" not in str(error):
                raise
            raise ValueError(
                f"the adapter in {str(directory)!r} does not fit the base model {base.name_or_path!r}, which is not "
                f"the one that it was trained on ({' '.join(str(error).split())[:200]}): set "
                f"base_model_name_or_path in {ADAPTER_CONFIG} to that one"
            ) from error
    _refuse_unused_weights(model, directory)
    # The actual location of the base model, which may differ from the one in the file.
    config = model.peft_config["default"]
    if (cached := cached_repository(str(config.base_model_name_or_path))) and cached[0] == base.name_or_path:
        config.revision = cached[1]
    config.base_model_name_or_path = base.name_or_path
    return save_without_embeddings(model)


def save_without_embeddings(model: PeftModel) -> PeftModel:
    """Change a model's `save_pretrained`, in place, so that it does not write the whole embedding.

    Args:
        model (`PeftModel`): its trainable rows are all rows that its checkpoint lacks.

    Returns:
        `PeftModel`: the same model.
    """
    # After a resize PEFT would save the whole embedding with every checkpoint, ten times the size of the adapter. The
    # trained rows are in the adapter already, and there are no other new rows.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]
    return model


def _find_base(directory: Path, config: dict[str, Any]) -> tuple[str, str | None]:
    """Return name and revision of an adapter's base model.

    A local base model is searched at the saved path, relative to the adapter's folder and its parents, and as the
    repository that a path in the Hub cache belongs to.
    """
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{str(directory / ADAPTER_CONFIG)!r} names no base model: set base_model_name_or_path to its path or Hub "
            "id"
        )
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
        f"next to the adapter: create it first, or set base_model_name_or_path in {ADAPTER_CONFIG} to its path"
    )


def _refuse_unused_weights(model: PeftModel, directory: Path) -> None:
    """Raise if PEFT has ignored weights of an adapter, such as those of layers that the base model lacks."""
    if not (directory / ADAPTER_WEIGHTS).is_file():
        return
    with safe_open(directory / ADAPTER_WEIGHTS, "pt") as file:
        unused = set(file.keys()) - get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if unused:
        raise ValueError(
            f"the adapter in {str(directory)!r} holds {len(unused)} weights that the base model "
            f"{model.get_base_model().name_or_path!r} has no modules for, such as {min(unused)!r}: it is not the one "
            f"that the adapter was trained on; set base_model_name_or_path in {ADAPTER_CONFIG} to that one"
        )


def _resize_embeddings(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trainable_token_indices: Any, directory: Path
) -> None:
    """Add rows for the tokens that a base model lacks, and raise if the adapter does not replace all of them."""
    modules = [base.get_input_embeddings(), base.get_output_embeddings()]
    distinct = len({id(module.get_parameter("weight")) for module in modules})
    indices = (
        [set(rows) for rows in trainable_token_indices.values()] if isinstance(trainable_token_indices, dict) else []
    )
    in_adapter = set.intersection(*indices) if len(indices) >= distinct else set()
    base_rows = modules[0].get_parameter("weight").shape[0]
    needed_rows = max(len(tokenizer), *(row + 1 for row in in_adapter), base_rows)
    if missing := sorted(set(range(base_rows, needed_rows)) - in_adapter):
        raise ValueError(
            f"the tokenizer in {str(directory)!r} has {len(missing)} tokens, such as "
            f"{tokenizer.convert_ids_to_tokens(missing[0])!r}, that neither the base model {base.name_or_path!r} nor "
            "the adapter has rows for: these would be random, and different at every load; use the tokenizer that was "
            "saved with the adapter, or train again from a base model that has these rows"
        )
    if base_rows < needed_rows:
        base.resize_token_embeddings(needed_rows, mean_resizing=False)
