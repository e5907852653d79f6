"""Loading of the model of a training recipe: a new LoRA adapter with trainable SID rows, or one to train further."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.internals.peft import TRAINED_ROWS, no_deprecations, saved_copy
from genrec_hf.internals.transformers import whole_under_zero3
from genrec_hf.models.adapters import (
    ADAPTER_WEIGHTS,
    adapter_folder,
    load_adapters_base,
    put_adapter_on,
    save_without_embeddings,
)
from genrec_hf.models.checkpoints import commit_of, is_adapter, load_base, rows_in_checkpoint
from genrec_hf.models.wrapped_lm import WrappedLM
from genrec_hf.models.wrapping import unwrap, wrapping_of
from genrec_hf.repositories import find_folder, refuse_broken_safetensors
from genrec_hf.settings import SETTINGS_FILE, record_data
from genrec_hf.vocabulary import FINGERPRINT_KEY, Initialization, SidVocabulary, refuse_missing_rows

if TYPE_CHECKING:
    from trl import ModelConfig


def start_adapter(model: PreTrainedModel, vocabulary: SidVocabulary, lora: LoraConfig) -> PeftModel:
    """Add LoRA to an extended model, and make the rows of the SID tokens trainable in embedding and head, tied or not.

    Rows of other tokens that the model's checkpoint lacks, such as a padding token that was added to the tokenizer,
    become trainable as well, since only trainable rows are saved with an adapter. The `saved_modules` of a module that
    wraps the language model are trained in full.

    Args:
        model (`PreTrainedModel`): extended by `vocabulary.extend(tokenizer, model)`; a `WrappedLM` or not.
        vocabulary (`SidVocabulary`): bound to the tokenizer.
        lora (`LoraConfig`): changed in place. `target_modules=None` means every linear layer except the head,
            `revision` is that of the base model, and `trainable_token_indices` may name more rows.

    Returns:
        `PeftModel`: its `save_pretrained` writes LoRA and the trained rows, never the whole embedding.

    Raises:
        ValueError: the model has fewer rows than its checkpoint.
    """
    if lora.target_modules is None:
        lora.target_modules = "all-linear"
    rows = vocabulary.all_token_ids.tolist()
    rows += sorted(_rows_to_save(model, lora).difference(rows))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if saved_modules := wrapping_of(model).saved_modules:
        lora.modules_to_save = list(saved_modules)
        lora.exclude_modules = "|".join(rf".*\b{name}\b.*" for name in saved_modules)
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    lora.trainable_token_indices = {names[embedding]: rows}
    # A tied head shares the rows of the embedding; an untied one has separate rows, which must be named to be trained.
    if head.weight is not embedding.weight:
        lora.trainable_token_indices[names[head]] = rows
    with no_deprecations():
        return save_without_embeddings(get_peft_model(model, lora))


def _rows_to_save(model: PreTrainedModel, lora: LoraConfig) -> set[int]:
    """Return the rows that `lora` names, and those of the embedding that the model's checkpoint lacks."""
    indices = lora.trainable_token_indices or []
    named = {row for rows in indices.values() for row in rows} if isinstance(indices, dict) else set(indices)
    model_rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    checkpoint_rows = rows_in_checkpoint(model, lora.revision)
    if checkpoint_rows is None:
        return named
    if model_rows < checkpoint_rows:
        raise ValueError(
            f"the model has {model_rows} embedding rows and its checkpoint {model.name_or_path!r} has "
            f"{checkpoint_rows}: the adapter would be loaded on another model; save the smaller model as a new "
            "checkpoint, and start from that"
        )
    return named | set(range(checkpoint_rows, model_rows))


# With sharded weights neither new nor trainable rows can be read (PEFT gathers the latter, on CUDA only). DeepSpeed
# shards a model that is loaded whole when training starts.
@whole_under_zero3()
def load_for_training(
    settings: "ModelConfig",
    vocabulary: SidVocabulary,
    *,
    init: Initialization = "text",
    item_texts: Sequence[str] | None = None,
    item_vectors: np.ndarray | None = None,
    stage: Literal["rows", "lora", "projector", "full"] = "lora",
    wrap: Callable[[PreTrainedModel], WrappedLM] | None = None,
    vectors: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load the model of a training recipe: an adapter to train further, or a base model with a new adapter.

    A base model is extended with the SID tokens. A whole checkpoint whose tokenizer already has them is a base model
    whose rows stay as they were trained. Under DeepSpeed ZeRO-3 each process loads the model whole, and DeepSpeed
    shards it when training starts.

    Args:
        settings (`trl.ModelConfig`): `model_name_or_path` is the output directory of an earlier recipe or a base
            model, by path or Hub id. Its LoRA settings are for a new adapter; an existing one keeps its own.
            `model_revision` is that of a Hub repository, and the commit of a base model is saved with its adapter.
            `load_in_4bit` (QLoRA, arXiv:2305.14314) quantizes the linear layers of the base model, never embedding and
            head; other weights are loaded in `dtype`, which is also the dtype of all computation.
        vocabulary (`SidVocabulary`): bound to the tokenizer on return.
        init (`str`, defaults to `"text"`): initialization of new rows, see `SidVocabulary.extend`.
        item_texts (`Sequence[str]`, *optional*): `[items]`, for `init="text"` and `"centroids"`.
        item_vectors (`np.ndarray`, *optional*): `[items, d]`, for `init="centroids"`.
        stage (`str`, defaults to `"lora"`): what is trainable. `"lora"`: LoRA and the SID rows; `"rows"`: the SID rows
            only, with LoRA frozen until a later stage (a new one adds nothing); `"projector"`: only the
            `saved_modules` of the module that wraps the language model (with collaborative vectors, the second step of
            CoLLM, arXiv:2310.19488); `"full"`: every weight of a model without an adapter, after an existing adapter
            is merged.
        wrap (`Callable[[PreTrainedModel], WrappedLM]`, *optional*): wraps the language model before its adapter is
            added; calls a constructor of a `WrappedLM`. An adapter that was trained without a wrapper is loaded into
            the wrapped model.
        vectors (`bool`, defaults to `False`): whether prompts will hold collaborative vectors if the model reads some;
            these must be of the vocabulary's items.

    Returns:
        `tuple`: the model, with exactly the parameters of the stage trainable, and its tokenizer.

    Raises:
        FileNotFoundError: there is no such folder or repository, or a file of it is missing.
        ValueError: no model is named, the checkpoint needs custom code, it has no rows for some tokens of its
            tokenizer, `use_peft` does not fit the stage, `"full"` is combined with quantization, `load_in_4bit` with
            `dtype="auto"`, the adapter was trained on other semantic ids or collaborative vectors, or the model reads
            vectors and neither `wrap` nor `vectors` is given.
    """
    from trl import get_peft_config, get_quantization_config

    if getattr(settings, "trust_remote_code", False):
        raise ValueError(
            "got trust_remote_code=True: genrec_hf runs no code of a checkpoint; leave it out, and use a model that "
            "transformers has a class for"
        )
    if settings.load_in_4bit and settings.dtype == "auto":
        raise ValueError(
            "got dtype='auto' with load_in_4bit: 4-bit layers need a dtype to compute in; set dtype: bfloat16 or "
            "float32"
        )
    lora, quantization = get_peft_config(settings), get_quantization_config(settings)
    name = settings.model_name_or_path
    if name is None:
        raise ValueError(
            "model_name_or_path is not set: pass a base model, or the output directory of an earlier recipe"
        )
    if stage == "full" and (lora is not None or quantization is not None):
        raise ValueError(
            "got stage='full', which trains every weight, with LoRA or quantization: set use_peft: false, and leave "
            "out load_in_4bit and load_in_8bit"
        )
    if stage != "full" and lora is None:
        raise ValueError(f"got use_peft=False with stage={stage!r}, which trains an adapter: set use_peft: true")
    kwargs: dict[str, Any] = {
        "dtype": settings.dtype,
        "attn_implementation": settings.attn_implementation,
        "quantization_config": quantization,
    }
    if is_adapter(name, settings.model_revision):
        directory = adapter_folder(name, settings.model_revision)
        base, tokenizer = load_adapters_base(directory, **kwargs)
        if wrap is None:
            model = put_adapter_on(base, directory, is_trainable=True)
            _wrap_or_check(unwrap(model), None, name, vectors, vocabulary)
            vocabulary.bind(tokenizer)
        else:
            model = _load_adapter_into_wrapper(base, tokenizer, directory, vocabulary, wrap)
        record_data(tokenizer, directory)
        return _set_trainable(model, stage), tokenizer
    base, tokenizer = load_base(name, settings.model_revision, **kwargs)
    record_data(tokenizer, find_folder(name, settings.model_revision, [SETTINGS_FILE]))
    if FINGERPRINT_KEY in tokenizer.init_kwargs:
        vocabulary.bind(tokenizer)
        refuse_missing_rows(base, tokenizer)
    else:
        vocabulary.extend(tokenizer, base, init=init, item_texts=item_texts, item_vectors=item_vectors)
    base = _wrap_or_check(base, wrap, name, vectors, vocabulary)
    if stage == "full":
        return base, tokenizer
    lora = cast(LoraConfig, lora)
    lora.revision = commit_of(name, settings.model_revision)
    return _set_trainable(start_adapter(base, vocabulary, lora), stage), tokenizer


def _wrap_or_check(
    base: PreTrainedModel,
    wrap: Callable[[PreTrainedModel], WrappedLM] | None,
    name: str,
    vectors: bool,
    vocabulary: SidVocabulary,
) -> PreTrainedModel:
    """Wrap a language model if `wrap` is given; raise if it is already wrapped in another module than `wrap` gives."""
    if not isinstance(base, WrappedLM):
        return base if wrap is None else wrap(base)
    if wrap is None and (vectors or base.first_vector is None):
        base.refuse_other_items(vocabulary.semantic_ids.item_ids)
        return base
    if wrap is None:
        raise ValueError(
            f"{name!r} reads collaborative vectors, and prompts of this recipe hold none, so it would forget how to "
            "use them: train it further with recipes/sft_llara.py"
        )
    wrapped = wrap(base.language_model)
    if (type(wrapped), wrapped.config.fingerprint) != (type(base), base.config.fingerprint):
        raise ValueError(
            f"{name!r} was trained on other {base.contents} ({base.config.fingerprint}, these are "
            f"{wrapped.config.fingerprint}), so its {' and '.join(base.saved_modules)} does not fit these: pass the "
            "same, or start from a model without"
        )
    return base


def _load_adapter_into_wrapper(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    vocabulary: SidVocabulary,
    wrap: Callable[[PreTrainedModel], WrappedLM],
) -> PeftModel:
    """Wrap the base model and load its adapter.

    If the adapter was trained without a wrapper, its weights are renamed to those of the wrapped model.
    """
    vocabulary.bind(tokenizer)
    if isinstance(base, WrappedLM):
        _wrap_or_check(base, wrap, str(directory), False, vocabulary)
        return put_adapter_on(base, directory, is_trainable=True)
    lora = cast(LoraConfig, LoraConfig.from_pretrained(str(directory)))
    lora.inference_mode = False
    model = start_adapter(wrap(base), vocabulary, lora)
    refuse_broken_safetensors(directory / ADAPTER_WEIGHTS)
    weights = load_file(directory / ADAPTER_WEIGHTS)
    old_prefix, new_prefix = "base_model.model.", "base_model.model.language_model."
    renamed = {new_prefix + name.removeprefix(old_prefix): weight for name, weight in weights.items()}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    if unexpected := renamed.keys() - state.keys():
        raise ValueError(
            f"the adapter in {str(directory)!r} holds {len(unexpected)} weights that the wrapped model has no modules "
            f"for, such as {min(unexpected)!r}: copy it again, or train it again"
        )
    set_peft_model_state_dict(model, state | renamed)
    return model


def _set_trainable(model: PeftModel, stage: str) -> PreTrainedModel | PeftModel:
    """Make the parameters of a stage trainable, and no others; merge the adapter for `"full"`."""
    if stage == "full":
        return cast(PreTrainedModel, model.merge_and_unload()).requires_grad_(True)
    trained = {"rows": [TRAINED_ROWS], "projector": [saved_copy(name) for name in wrapping_of(model).saved_modules]}
    if stage in trained:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = any(part in name for part in trained[stage])
    return model
