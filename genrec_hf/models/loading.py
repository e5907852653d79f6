"""Starts a LoRA adapter whose SID rows train as well, or goes on with one: the model of a training recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.internals.peft import TRAINED_ROWS, no_deprecations, saved_copy
from genrec_hf.internals.transformers import whole_under_zero3
from genrec_hf.models.checkpoints import (
    ADAPTER_WEIGHTS,
    adapter_folder,
    commit_of,
    is_adapter,
    load_adapters_base,
    load_base,
    put_adapter_on,
    rows_in_checkpoint,
    slim,
)
from genrec_hf.models.wrapped_lm import WrappedLM
from genrec_hf.models.wrapping import unwrap, wrapping_of
from genrec_hf.repositories import find_folder, refuse_broken_safetensors
from genrec_hf.settings import SETTINGS_FILE, keep_data_of
from genrec_hf.vocabulary import FINGERPRINT_KEY, SidVocabulary, refuse_missing_rows

if TYPE_CHECKING:
    from trl import ModelConfig


def start_adapter(model: PreTrainedModel, vocabulary: SidVocabulary, lora: LoraConfig) -> PeftModel:
    """Wrap an extended model with LoRA, the rows of the SID tokens trainable in embedding and head, tied or not.

    So are rows of other tokens that the checkpoint of the model does not hold, such as a padding token that was added
    to a tokenizer: nothing else would save them.

    Args:
        model (`PreTrainedModel`): extended by `vocabulary.extend(tokenizer, model)`.
        vocabulary (`SidVocabulary`): bound.
        lora (`LoraConfig`): `target_modules=None` means every linear layer but the head; `revision` is that of the
            base model, `trainable_token_indices` may name more rows.

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
    if own := wrapping_of(model).saved_modules:
        lora.modules_to_save = list(own)
        lora.exclude_modules = "|".join(rf".*\b{name}\b.*" for name in own)
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    lora.trainable_token_indices = {names[embedding]: rows}
    # A tied head follows the embedding by itself; an untied one has rows of its own, which must be named to train.
    if head.weight is not embedding.weight:
        lora.trainable_token_indices[names[head]] = rows
    with no_deprecations():
        return slim(get_peft_model(model, lora))


def _rows_to_save(model: PreTrainedModel, lora: LoraConfig) -> set[int]:
    """Rows of the embedding that the checkpoint which the adapter names does not hold, and those asked for."""
    asked = lora.trainable_token_indices or []
    rows = {row for each in asked.values() for row in each} if isinstance(asked, dict) else set(asked)
    there = model.get_input_embeddings().get_parameter("weight").shape[0]
    saved = rows_in_checkpoint(model, lora.revision)
    if saved is None:
        return rows
    if there < saved:
        raise ValueError(
            f"the model has {there} embedding rows and its checkpoint {model.name_or_path!r} has {saved}: loaded "
            "again it would differ; save the cut model as a checkpoint of its own, and start from that"
        )
    return rows | set(range(saved, there))


# Off shards neither new rows nor trainable ones can be read (PEFT gathers the latter, on CUDA only). Loaded whole,
# DeepSpeed shards the model when training starts.
@whole_under_zero3()
def load_for_training(
    settings: "ModelConfig",
    vocabulary: SidVocabulary,
    *,
    init: Literal["text", "mean", "random"] = "text",
    item_texts: Sequence[str] | None = None,
    stage: Literal["rows", "lora", "projector", "full"] = "lora",
    wrap: Callable[[PreTrainedModel], WrappedLM] | None = None,
    vectors: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model of a training recipe: an adapter goes on training, a base model is extended and gets a new adapter.

    A whole checkpoint that was trained here, with the SID tokens in its tokenizer, is a base model whose rows stay as
    they were trained. Under DeepSpeed ZeRO-3 each process loads the model whole, and DeepSpeed shards it when training
    starts.

    Args:
        settings (`trl.ModelConfig`): `model_name_or_path` is the output directory of an earlier recipe or a base
            model, by path or Hub id; its LoRA settings are for a new adapter, one that goes on keeps its own.
            `model_revision` is that of a Hub repository, and the commit of a base is kept with its adapter.
            `load_in_4bit` (QLoRA, arXiv:2305.14314) quantizes the linear layers of the base, never embedding and head;
            what is not quantized loads, and all of it computes, in `dtype`.
        vocabulary (`SidVocabulary`): bound to the tokenizer on return.
        init (`str`, defaults to `"text"`): how new rows start, see `SidVocabulary.extend`.
        item_texts (`Sequence[str]`, *optional*): `[items]`, for `init="text"`.
        stage (`str`, defaults to `"lora"`): what trains. `"lora"`: LoRA and the SID rows; `"rows"`: the SID rows,
            beside a LoRA that stays as it is (a new one adds nothing) until a later stage; `"projector"`: the saved
            modules of what stands around the language model alone (with collaborative vectors the second step of
            CoLLM, arXiv:2310.19488); `"full"`: every weight of a model without adapter, into which an earlier adapter
            is merged.
        wrap (`Callable`, *optional*): puts a `WrappedLM` around the language model, under its adapter; an adapter
            that was trained without one goes on inside it.
        vectors (`bool`, defaults to `False`): prompts will hold collaborative vectors where the model reads some,
            which are to be of the vocabulary's items.

    Returns:
        `tuple`: the model with what the stage names trainable and nothing else, and its tokenizer.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: when no model is named, code of a checkpoint is to be run, its tokenizer has tokens that it has no
            rows for, LoRA is off for `"rows"` and `"lora"` or on for `"full"`, `"full"` meets quantized weights,
            `load_in_4bit` has no `dtype` to compute in, or the adapter was trained on other semantic ids or
            collaborative vectors, or the model reads vectors and `wrap` is not given.
    """
    from trl import get_peft_config, get_quantization_config

    if getattr(settings, "trust_remote_code", False):
        raise ValueError(
            "trust_remote_code=True: genrec_hf runs no code of a checkpoint; leave it out, and use a model that "
            "transformers has a class for"
        )
    if settings.load_in_4bit and settings.dtype == "auto":
        raise ValueError(
            "dtype='auto' with load_in_4bit: 4-bit layers are told what to compute in; set dtype: bfloat16 or float32"
        )
    lora, quantization = get_peft_config(settings), get_quantization_config(settings)
    name = settings.model_name_or_path
    if name is None:
        raise ValueError(
            "model_name_or_path is not set: name a base model, or the output directory of an earlier recipe"
        )
    if stage == "full" and (lora is not None or quantization is not None):
        raise ValueError("stage='full' trains every weight as it is: set use_peft: false, and load nothing quantized")
    if stage != "full" and lora is None:
        raise ValueError("use_peft=False: these recipes train a LoRA adapter and the SID rows; set use_peft: true")
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
            _wrapped(unwrap(model), None, name, vectors, vocabulary)
            vocabulary.bind(tokenizer)
        else:
            model = _put_adapter_inside(base, tokenizer, directory, vocabulary, wrap)
        keep_data_of(tokenizer, directory)
        return _for_stage(model, stage), tokenizer
    base, tokenizer = load_base(name, settings.model_revision, **kwargs)
    keep_data_of(tokenizer, find_folder(name, settings.model_revision, [SETTINGS_FILE]))
    if FINGERPRINT_KEY in tokenizer.init_kwargs:
        vocabulary.bind(tokenizer)
        refuse_missing_rows(base, tokenizer)
    else:
        vocabulary.extend(tokenizer, base, init=init, item_texts=item_texts)
    base = _wrapped(base, wrap, name, vectors, vocabulary)
    if stage == "full":
        return base, tokenizer
    lora = cast(LoraConfig, lora)
    lora.revision = commit_of(name, settings.model_revision)
    return _for_stage(start_adapter(base, vocabulary, lora), stage), tokenizer


def _wrapped(
    base: PreTrainedModel,
    wrap: Callable[[PreTrainedModel], WrappedLM] | None,
    name: str,
    vectors: bool,
    vocabulary: SidVocabulary,
) -> PreTrainedModel:
    """The model that a recipe means: around it what the recipe puts there, or the same that is there already."""
    if not isinstance(base, WrappedLM):
        return base if wrap is None else wrap(base)
    if wrap is None and (vectors or base.first_vector is None):
        base.refuse_other_items(vocabulary.semantic_ids.item_ids)
        return base
    if wrap is None:
        raise ValueError(
            f"{name!r} reads collaborative vectors, and prompts of this recipe hold none: it would unlearn what it is "
            "asked afterwards; go on with recipes/sft_llara.py"
        )
    wanted = wrap(base.language_model)
    if (type(wanted), wanted.config.fingerprint) != (type(base), base.config.fingerprint):
        raise ValueError(
            f"{name!r} was trained on other {base.contents} ({base.config.fingerprint}, these are "
            f"{wanted.config.fingerprint}): its {' and '.join(base.saved_modules)} would misread them; start from a "
            "model without, or pass the same"
        )
    return base


def _put_adapter_inside(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    vocabulary: SidVocabulary,
    wrap: Callable[[PreTrainedModel], WrappedLM],
) -> PeftModel:
    """A language model's adapter goes on inside a wrapper; that of the same wrapper, as it is."""
    vocabulary.bind(tokenizer)
    if isinstance(base, WrappedLM):
        _wrapped(base, wrap, str(directory), False, vocabulary)
        return put_adapter_on(base, directory, is_trainable=True)
    lora = cast(LoraConfig, LoraConfig.from_pretrained(str(directory)))
    lora.inference_mode = False
    model = start_adapter(wrap(base), vocabulary, lora)
    refuse_broken_safetensors(directory / ADAPTER_WEIGHTS)
    weights = load_file(directory / ADAPTER_WEIGHTS)
    before, behind = "base_model.model.", "base_model.model.language_model."
    moved = {behind + name.removeprefix(before): weight for name, weight in weights.items()}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    if homeless := moved.keys() - state.keys():
        raise ValueError(f"{str(directory)!r} holds weights that have no place here, such as {min(homeless)}")
    set_peft_model_state_dict(model, state | moved)
    return model


def _for_stage(model: PeftModel, stage: str) -> PreTrainedModel | PeftModel:
    if stage == "full":
        return cast(PreTrainedModel, model.merge_and_unload()).requires_grad_(True)
    own = {"rows": [TRAINED_ROWS], "projector": [saved_copy(name) for name in wrapping_of(model).saved_modules]}
    if stage in own:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = any(part in name for part in own[stage])
    return model
