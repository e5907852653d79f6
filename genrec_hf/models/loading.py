"""Loads base models and adapters with their tokenizer, and starts a LoRA adapter whose SID rows train as well."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from genrec_hf.vocabulary import SidVocabulary

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
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    lora.trainable_token_indices = {names[embedding]: rows}
    # A tied head follows the embedding by itself; an untied one has rows of its own, which must be named to train.
    if head.weight is not embedding.weight:
        lora.trainable_token_indices[names[head]] = rows
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
    directory = Path(directory_or_repo)
    if not directory.is_dir():
        directory = Path(snapshot_download(str(directory_or_repo), revision=revision))
    if not (directory / ADAPTER_CONFIG).exists():
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no {ADAPTER_CONFIG}: it is not the output of a training recipe, or the "
            "run never finished"
        )
    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = AutoModelForCausalLM.from_pretrained(
        config["base_model_name_or_path"], revision=config.get("revision"), **kwargs
    )
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if base.get_input_embeddings().weight.shape[0] < len(tokenizer):
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return _slim(PeftModel.from_pretrained(base, directory, is_trainable=is_trainable)), tokenizer


def is_adapter(name_or_path: str) -> bool:
    """Whether a local directory holds an adapter rather than a whole checkpoint."""
    return (Path(name_or_path) / ADAPTER_CONFIG).exists()


def _slim(model: PeftModel) -> PeftModel:
    # After a resize PEFT would save the whole embedding with every checkpoint, ten times the size of the adapter; the
    # trained rows are in the adapter already, and no other new row exists.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model
