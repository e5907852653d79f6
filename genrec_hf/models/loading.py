"""Loads base models and adapters with their tokenizer, and starts a LoRA adapter whose SID rows train as well."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.internals.peft import no_deprecations
from genrec_hf.internals.transformers import whole_under_zero3
from genrec_hf.models.llara import VECTORS_FILE, LlaraForCausalLM
from genrec_hf.vocabulary import FINGERPRINT_KEY, SidVocabulary

if TYPE_CHECKING:
    from trl import ModelConfig

ADAPTER_CONFIG = "adapter_config.json"


def load_base(name_or_path: str, **kwargs: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, ready to be extended.

    Args:
        name_or_path (`str`): Hub id or local checkpoint.
        kwargs: `revision`, `dtype`, `attn_implementation`, `quantization_config`, `device_map` of `from_pretrained`.

    Returns:
        `tuple`: the model, and the tokenizer with a padding token (the end-of-sequence token when it has none).
    """
    model = AutoModelForCausalLM.from_pretrained(name_or_path, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=kwargs.get("revision"))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def start_adapter(model: PreTrainedModel, vocabulary: SidVocabulary, lora: LoraConfig) -> PeftModel:
    """Wrap an extended model with LoRA, the rows of the SID tokens trainable in embedding and head, tied or not.

    Args:
        model (`PreTrainedModel`): extended by `vocabulary.extend(tokenizer, model)`.
        vocabulary (`SidVocabulary`): bound.
        lora (`LoraConfig`): `target_modules=None` means every linear layer but the head.

    Returns:
        `PeftModel`: its `save_pretrained` writes LoRA and the trained rows, never the whole embedding.
    """
    if lora.target_modules is None:
        lora.target_modules = "all-linear"
    rows = vocabulary.all_token_ids.tolist()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(model, LlaraForCausalLM):
        lora.modules_to_save, lora.exclude_modules = ["projector"], r".*\bprojector\b.*"
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    lora.trainable_token_indices = {names[embedding]: rows}
    # A tied head follows the embedding by itself; an untied one has rows of its own, which must be named to train.
    if head.weight is not embedding.weight:
        lora.trainable_token_indices[names[head]] = rows
    with no_deprecations():
        return _slim(get_peft_model(model, lora))


def load_adapter(
    directory_or_repo: str | Path, is_trainable: bool = False, revision: str | None = None, **kwargs: Any
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """An adapter on top of the base model it names, with the tokenizer saved beside it.

    Args:
        directory_or_repo (`str` or `Path`): an output directory of a recipe, or a Hub repository of one.
        is_trainable (`bool`, defaults to `False`): go on training it.
        revision (`str`, *optional*): of the Hub repository.
        kwargs: `dtype`, `attn_implementation`, `quantization_config`, `device_map` for the base model.

    Raises:
        FileNotFoundError: when the directory holds no adapter.
    """
    directory = _adapter_directory(directory_or_repo, revision)
    base, tokenizer = _load_adapters_base(directory, **kwargs)
    return _adapted(base, directory, is_trainable), tokenizer


def _adapted(base: PreTrainedModel, directory: Path, is_trainable: bool) -> PeftModel:
    with no_deprecations():
        return _slim(PeftModel.from_pretrained(base, directory, is_trainable=is_trainable))


def _adapter_directory(directory_or_repo: str | Path, revision: str | None) -> Path:
    directory = Path(directory_or_repo)
    if not directory.is_dir():
        directory = Path(snapshot_download(str(directory_or_repo), revision=revision))
    if not (directory / ADAPTER_CONFIG).exists():
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no {ADAPTER_CONFIG}: it is not the output of a training recipe, or the "
            "run never finished"
        )
    return directory


def _load_adapters_base(directory: Path, **kwargs: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base: Any = AutoModelForCausalLM.from_pretrained(
        config["base_model_name_or_path"], revision=config.get("revision"), **kwargs
    )
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if base.get_input_embeddings().get_parameter("weight").shape[0] < len(tokenizer):
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if (directory / VECTORS_FILE).is_file():
        base = LlaraForCausalLM.restore_around(base, directory)
    return base, tokenizer


# Off shards neither new rows nor trainable ones can be read (PEFT gathers the latter, on CUDA only). Loaded whole,
# DeepSpeed shards the model when training starts.
@whole_under_zero3()
def load_for_training(
    settings: "ModelConfig",
    vocabulary: SidVocabulary,
    init: Literal["text", "mean", "random"] = "text",
    item_texts: Sequence[str] | None = None,
    stage: Literal["rows", "lora", "projector", "full"] = "lora",
    around: Callable[[PreTrainedModel], LlaraForCausalLM] | None = None,
    vectors: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model of a training recipe: an adapter goes on training, a base model is extended and gets a new adapter.

    A whole checkpoint that was trained here, with the SID tokens in its tokenizer, is a base model whose rows stay as
    they were trained. Under DeepSpeed ZeRO-3 each process loads the model whole, and DeepSpeed shards it when training
    starts.

    Args:
        settings (`trl.ModelConfig`): `model_name_or_path` is the output directory of an earlier recipe, or a base
            model by Hub id or path; its LoRA settings are for a new adapter, one that goes on keeps its own.
            `load_in_4bit` (QLoRA, arXiv:2305.14314) quantizes the linear layers of the base, never embedding and head;
            what is not quantized loads, and all of it computes, in `dtype`.
        vocabulary (`SidVocabulary`): bound to the tokenizer on return.
        init (`str`, defaults to `"text"`): how new rows start, see `SidVocabulary.extend`.
        item_texts (`Sequence[str]`, *optional*): `[items]`, for `init="text"`.
        stage (`str`, defaults to `"lora"`): what trains. `"lora"`: LoRA and the SID rows; `"rows"`: the SID rows,
            beside a LoRA that stays as it is (a new one adds nothing) until a later stage; `"projector"`: that of a
            `LlaraForCausalLM` alone (the second step of CoLLM, arXiv:2310.19488); `"full"`: every weight of a
            model without adapter, into which an earlier adapter is merged.
        around (`Callable`, *optional*): puts a `LlaraForCausalLM` around the language model, under its adapter; an
            adapter that was trained without one goes on inside it.
        vectors (`bool`, defaults to `False`): prompts will hold collaborative vectors where the model reads some,
            which are to be of the vocabulary's items.

    Returns:
        `tuple`: the model with what the stage names trainable and nothing else, and its tokenizer.

    Raises:
        ValueError: when no model is named, LoRA is off for `"rows"` and `"lora"` or on for `"full"`, `"full"` meets
            quantized weights, `load_in_4bit` has no `dtype` to compute in, or the adapter was trained on other
            semantic ids or collaborative vectors, or the model reads vectors and `around` is not given.
    """
    from trl import get_peft_config, get_quantization_config

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
        "revision": settings.model_revision,
        "attn_implementation": settings.attn_implementation,
        "quantization_config": quantization,
    }
    if is_adapter(name):
        del kwargs["revision"]
        if around is None:
            model, tokenizer = load_adapter(name, is_trainable=True, **kwargs)
            _with_vectors(cast(PreTrainedModel, model.get_base_model()), None, name, vectors, vocabulary)
        else:
            model, tokenizer = _load_adapter_inside(name, vocabulary, around, **kwargs)
        vocabulary.bind(tokenizer)
        return _for_stage(model, stage), tokenizer
    base, tokenizer = load_base(name, **kwargs)
    if FINGERPRINT_KEY in tokenizer.init_kwargs:
        vocabulary.bind(tokenizer)
    else:
        vocabulary.extend(tokenizer, base, init=init, item_texts=item_texts)
    base = _with_vectors(base, around, name, vectors, vocabulary)
    if stage == "full":
        return base, tokenizer
    return _for_stage(start_adapter(base, vocabulary, cast(LoraConfig, lora)), stage), tokenizer


def _with_vectors(
    base: PreTrainedModel,
    around: Callable[[PreTrainedModel], LlaraForCausalLM] | None,
    name: str,
    vectors: bool,
    vocabulary: SidVocabulary,
) -> PreTrainedModel:
    """The model that a recipe means: around it what the recipe puts there, or the same that is there already."""
    if not isinstance(base, LlaraForCausalLM):
        return base if around is None else around(base)
    if vectors:
        base.refuse_other_items(vocabulary.semantic_ids.item_ids)
        return base
    if around is None:
        raise ValueError(
            f"{name!r} reads collaborative vectors, and prompts of this recipe hold none: it would unlearn what it is "
            "asked afterwards; go on with recipes/sft_llara.py"
        )
    wanted = around(base.language_model).config.vectors
    if wanted != base.config.vectors:
        raise ValueError(
            f"{name!r} was trained on other collaborative vectors ({base.config.vectors}, these are {wanted}): its "
            "projector would misread them; start from a model without, or pass the same vectors"
        )
    return base


def _load_adapter_inside(
    directory_or_repo: str,
    vocabulary: SidVocabulary,
    around: Callable[[PreTrainedModel], LlaraForCausalLM],
    **kwargs: Any,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """A language model's adapter goes on inside a `LlaraForCausalLM`; one of the same vectors, as it is."""
    directory = _adapter_directory(directory_or_repo, None)
    base, tokenizer = _load_adapters_base(directory, **kwargs)
    if isinstance(base, LlaraForCausalLM):
        _with_vectors(base, around, directory_or_repo, False, vocabulary)
        return _adapted(base, directory, True), tokenizer
    vocabulary.bind(tokenizer)
    lora = cast(LoraConfig, LoraConfig.from_pretrained(str(directory)))
    lora.inference_mode = False
    model = start_adapter(around(base), vocabulary, lora)
    weights = load_file(directory / "adapter_model.safetensors")
    before, behind = "base_model.model.", "base_model.model.language_model."
    moved = {behind + name.removeprefix(before): weight for name, weight in weights.items()}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    if homeless := moved.keys() - state.keys():
        raise ValueError(f"{directory_or_repo!r} holds weights that have no place here, such as {min(homeless)}")
    set_peft_model_state_dict(model, state | moved)
    return model, tokenizer


def _for_stage(model: PeftModel, stage: str) -> PreTrainedModel | PeftModel:
    if stage == "full":
        return cast(PreTrainedModel, model.merge_and_unload()).requires_grad_(True)
    own = {"rows": "trainable_tokens_delta", "projector": "projector.modules_to_save"}
    if stage in own:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = own[stage] in name
    return model


def is_adapter(name_or_path: str) -> bool:
    """Whether a local directory holds an adapter rather than a whole checkpoint."""
    return (Path(name_or_path) / ADAPTER_CONFIG).exists()


def _slim(model: PeftModel) -> PeftModel:
    # After a resize PEFT would save the whole embedding with every checkpoint, ten times the size of the adapter; the
    # trained rows are in the adapter already, and no other new row exists.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]
    return model
