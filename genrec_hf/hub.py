"""Saves, loads, merges and pushes a recommender; its directory is a complete Hub repository with a model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from genrec_hf.checks import check_choice, check_least
from genrec_hf.data import InteractionData, item_titles, load_data
from genrec_hf.directories import (
    CHECKPOINT_FILES,
    lock_directory,
    refuse_foreign,
    write_files,
)
from genrec_hf.evaluation.display import draw_curves
from genrec_hf.generation import Recommender, clean_generation_config
from genrec_hf.model_card import build_model_card, write_model_card
from genrec_hf.models import WRAPPINGS, unwrap, wrapping_of
from genrec_hf.models.adapters import load_adapter
from genrec_hf.models.checkpoints import ADAPTER_CONFIG, is_adapter, load_base
from genrec_hf.repositories import find_folder, is_hub_id, push_folder, read_json
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.artefact import CONFIG_FILE, SUBFOLDER
from genrec_hf.settings import (
    DATA_KEY,
    FORMAT_VERSION,
    NORMALIZATIONS,
    SETTINGS_FILE,
    TITLES_FILE,
    data_fingerprints,
    read_prompting,
    read_settings,
    read_titles,
    refuse_other_data,
)
from genrec_hf.tasks.prompts import Form
from genrec_hf.vocabulary import SidVocabulary, refuse_missing_rows

CURVES_FILE = "curves.png"
METRICS_FILES = ("metrics.json", "metrics.md", "metrics.png", "results.json")
WEIGHT_FILES = (
    ADAPTER_CONFIG,
    TITLES_FILE,
    "adapter_model.*",
    "model.safetensors*",
    "model-*.safetensors",
)
REPLACED_FILES = ("README.md", *CHECKPOINT_FILES)


def save_recommender(
    output_dir: str | Path,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    semantic_ids: SemanticIds,
    max_history: int,
    normalization: Literal["full", "level", "trie"],
    markers: bool = False,
    form: Form = "plain",
    titles: Sequence[str] | None = None,
    item_titles: Sequence[str] | None = None,
    dataset: Mapping[str, Any] | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save a trained recommender to `output_dir`, for `load_recommender` and `push_recommender`.

    Writes the weights (of the adapter, if there is one), the tokenizer, `semantic_ids/`, a generation config without
    sampling settings (also set on `model`), the settings and the model card. A recommender of the same data set in
    `output_dir` is replaced, and its metrics are deleted, because they were measured with other weights. Files are
    written to a temporary folder first and moved at the end.

    Args:
        output_dir (`str` or `Path`): created if absent; other files of a trainer, such as checkpoints, stay.
        model (`PeftModel` or `PreTrainedModel`): an adapter from `start_adapter`, or a model without adapter.
        tokenizer (`PreTrainedTokenizerBase`): extended for `semantic_ids`.
        semantic_ids (`SemanticIds`): the catalogue.
        max_history (`int`): as in `Recommender`, the value that the model was trained with; at least 1.
        normalization (`str`): as in `Recommender`: `"full"`, `"level"` or `"trie"`.
        markers (`bool`, defaults to `False`): as in `Recommender`.
        form (`str`, defaults to `"plain"`): as in `Recommender`: `"plain"` or `"chat"`.
        titles (`Sequence[str]`, *optional*): as in `Recommender`, `[items]`; saved with their item ids.
        item_titles (`Sequence[str]`, *optional*): as in `Recommender`, `[items]`, saved if there are no `titles`.
        dataset (`Mapping`, *optional*): `InteractionData.info`, of which `name` and `fingerprint` are saved.
        state_dict (`dict`, *optional*): gathered weights of a model that is sharded over processes.

    Raises:
        ValueError: before anything is written: the tokenizer is not extended for the semantic ids, it has tokens
            without rows in the model, `max_history` or `normalization` is out of range, the base model of the adapter
            has no path, `output_dir` is that base or holds files that genrec_hf did not write, or it holds a
            recommender of another data set or of other semantic ids.
    """
    base = model.peft_config["default"].base_model_name_or_path if isinstance(model, PeftModel) else None
    refuse_foreign(output_dir, replaced=REPLACED_FILES, sources=[base])
    SidVocabulary(semantic_ids, markers=markers).bind(tokenizer)
    refuse_missing_rows(cast(PreTrainedModel, model), tokenizer)
    refuse_other_dataset(output_dir, (dataset or {}).get("fingerprint"), semantic_ids)
    settings = _settings(
        model, max_history=max_history, normalization=normalization, markers=markers, form=form, dataset=dataset
    )
    settings["titles"] = titles is not None
    earlier = set(tokenizer.init_kwargs.get(DATA_KEY, [])) - {(dataset or {}).get("fingerprint")}
    if earlier:
        settings["dataset"] = (settings["dataset"] or {}) | {"earlier": sorted(earlier)}
    network = unwrap(model)
    network.generation_config = clean_generation_config(tokenizer, semantic_ids.levels)
    stale = [*WEIGHT_FILES, *(kind.saved_file for kind in WRAPPINGS)]
    stale += METRICS_FILES if (Path(output_dir) / SETTINGS_FILE).is_file() else []
    with lock_directory(output_dir), write_files(output_dir, SETTINGS_FILE, stale) as partial:
        # TRL may have added a second adapter as the reference, which is no part of the recommender.
        adapters: dict[str, Any] = {"selected_adapters": ["default"]} if isinstance(model, PeftModel) else {}
        model.save_pretrained(str(partial), state_dict=state_dict, **adapters)
        if isinstance(model, PeftModel):
            wrapping_of(model).save_wrapper(partial)
        network.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        semantic_ids.save_pretrained(partial / SUBFOLDER)
        saved_titles = item_titles if titles is None else titles
        if saved_titles is not None:
            title_of_id = dict(zip(semantic_ids.item_ids, saved_titles, strict=True))
            (partial / TITLES_FILE).write_text(json.dumps(title_of_id, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        build_model_card(partial, settings, str(output_dir)).save(partial / "README.md")


def load_training_data(data_dir: str | Path, output_dir: str | Path) -> tuple[InteractionData, SemanticIds]:
    """Load data set and semantic ids of a training recipe, and check that they match each other and `output_dir`.

    Args:
        data_dir (`str` or `Path`): folder written by `prepare_data.py` and `build_sids.py`.
        output_dir (`str` or `Path`): folder that the recipe saves to.

    Returns:
        `tuple[InteractionData, SemanticIds]`: the data set and its semantic ids, with the same items in the same rows.

    Raises:
        FileNotFoundError: `data_dir` lacks one of them.
        ValueError: they have different items, several items share a SID, or `output_dir` holds a recommender of
            another data set or of other semantic ids, or a model that genrec_hf did not write.
    """
    refuse_foreign(output_dir, replaced=REPLACED_FILES)
    data, semantic_ids = load_data(data_dir), SemanticIds.from_pretrained(data_dir)
    semantic_ids.refuse_other_items(data.item_ids)
    semantic_ids.refuse_shared("a model trained on them could not identify an item")
    refuse_other_dataset(output_dir, data.info["fingerprint"], semantic_ids)
    return data, semantic_ids


def refuse_other_dataset(output_dir: str | Path, fingerprint: str | None, semantic_ids: SemanticIds) -> None:
    """Raise if a directory holds a recommender of another data set or of other semantic ids.

    Args:
        output_dir (`str` or `Path`): passes if it is absent or holds no recommender.
        fingerprint (`str`, *optional*): of the data set to train on, `InteractionData.info["fingerprint"]`. If it is
            `None`, or not recorded in the recommender, the data sets are not compared.
        semantic_ids (`SemanticIds`): the catalogue to train on.

    Raises:
        ValueError: the recommender in `output_dir` is of another data set or of other semantic ids.
    """
    output_dir = Path(output_dir)
    if not (output_dir / SETTINGS_FILE).is_file():
        return
    saved_dataset = read_settings(output_dir)["dataset"] or {}
    pairs = {"another data set": (saved_dataset.get("fingerprint"), fingerprint)}
    if (output_dir / SUBFOLDER / CONFIG_FILE).is_file():
        old_ids = read_json(output_dir / SUBFOLDER / CONFIG_FILE)
        pairs["other semantic ids"] = (old_ids.get("fingerprint"), semantic_ids.fingerprint)
    for difference, (old, new) in pairs.items():
        if old is not None and new is not None and old != new:
            raise ValueError(
                f"{str(output_dir)!r} holds a recommender of {difference} (fingerprint {old}, this one is {new}), "
                "which would be replaced: choose another output_dir"
            )


def save_trained(
    trainer: Trainer, semantic_ids: SemanticIds, data: InteractionData | None = None, **settings: Any
) -> None:
    """Save the recommender and the curves of a recipe, and push it with `push_to_hub`; call on all processes.

    Args:
        trainer (`Trainer`): after training. All processes gather sharded weights, and the main one writes.
        semantic_ids (`SemanticIds`): the catalogue.
        data (`InteractionData`, *optional*): training data; its titles are saved, to be returned with items.
        settings: `max_history`, `normalization`, `markers`, `form` and `titles` of `save_recommender`.

    Raises:
        ValueError: for the reasons of `save_recommender` and `push_recommender`.
    """
    arguments, output_dir = trainer.args, Path(str(trainer.args.output_dir))
    # The shards of ZeRO-3 are gathered by DeepSpeed's engine, which wraps the model.
    wrapped = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    state_dict = trainer.accelerator.get_state_dict(wrapped)
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    tokenizer = cast(PreTrainedTokenizerBase, trainer.processing_class)
    if data is not None:
        settings |= {"dataset": data.info, "item_titles": item_titles(data.items)}
    save_recommender(output_dir, model, tokenizer, semantic_ids=semantic_ids, state_dict=state_dict, **settings)
    draw_curves(trainer.state.log_history, output_dir / CURVES_FILE)
    if arguments.push_to_hub:
        push_recommender(output_dir, arguments.hub_model_id or output_dir.name, private=arguments.hub_private_repo)


def load_recommender(
    directory_or_repo: str | Path,
    revision: str | None = None,
    semantic_ids: SemanticIds | None = None,
    *,
    dataset: Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
    **model_kwargs: Any,
) -> Recommender:
    """Load a recommender from the output directory of a recipe or from a Hub repository.

    Args:
        directory_or_repo (`str` or `Path`): directory, or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        semantic_ids (`SemanticIds`, *optional*): a catalogue to use instead of the saved one, made from it by
            `SemanticIds.add` and `remove`. New items can be decoded at once, but a model that was not trained on their
            SIDs gives them almost no probability: train it on them for some steps, or rank them with another `Ranker`.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data set to evaluate on; a recommender that was
            trained on another data set or split is refused.
        allow_pickle (`bool`, defaults to `False`): also load weights that are pickles, which can execute code.
        model_kwargs: `dtype`, `device_map`, `attn_implementation`, `quantization_config` of the model. By default the
            base model loads in the dtype of its checkpoint and unquantized, even if the adapter was trained on a
            quantized base (the model card names the quantization). That is close to the trained model;
            `quantization_config=BitsAndBytesConfig(...)` with the settings of training gives it exactly.

    Returns:
        `Recommender`: with the settings that it was saved with.

    Raises:
        FileNotFoundError: there is no recommender, or its base checkpoint is missing.
        ValueError: a later version wrote it, one of its files is broken, its tokenizer is not extended for the
            semantic ids, or it was trained on another data set than `dataset`.
    """
    directory = find_folder(directory_or_repo, revision)
    settings = read_settings(directory)
    if not (directory / "tokenizer_config.json").is_file():  # transformers would use a default tokenizer
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no tokenizer_config.json, without which the SID tokens are unknown: "
            "copy it from the folder that the recommender was saved to"
        )
    refuse_other_data(directory_or_repo, data_fingerprints(settings["dataset"]), dataset)
    if semantic_ids is None:
        semantic_ids = SemanticIds.from_pretrained(directory)
    model: PreTrainedModel | PeftModel
    if is_adapter(str(directory)):
        model, tokenizer = load_adapter(directory_or_repo, False, revision, allow_pickle=allow_pickle, **model_kwargs)
    else:
        model, tokenizer = load_base(str(directory_or_repo), revision, allow_pickle=allow_pickle, **model_kwargs)
        refuse_missing_rows(model, tokenizer)
    wrapping = wrapping_of(model)
    if wrapping.holds_items:
        wrapping.reindex(SemanticIds.from_pretrained(directory).item_ids, semantic_ids.item_ids)
    recommender_settings = read_prompting(directory, semantic_ids)
    titles = read_titles(directory, semantic_ids)
    return Recommender(model, tokenizer, semantic_ids, **recommender_settings, item_titles=titles)


def push_recommender(output_dir: str | Path, repo_id: str, private: bool | None = None) -> str:
    """Upload the output directory of a recipe to the Hub, without checkpoints, logs and pickles.

    The model card is written again for `repo_id` first.

    Args:
        output_dir (`str` or `Path`): written by `save_recommender`, with `metrics.json` if it was evaluated.
        repo_id (`str`): Hub id `"user/name"`; the repository is created if absent.
        private (`bool`, *optional*): visibility of a new repository; the default of the account if not given.

    Returns:
        `str`: URL of the repository.

    Raises:
        FileNotFoundError: the directory holds no recommender.
        ValueError: `private=True`, and the repository exists and is public.
    """
    write_model_card(output_dir, repo_id)
    return push_folder(output_dir, repo_id, message="Upload recommender", private=private)


def merge_recommender(directory_or_repo: str | Path, output_dir: str | Path, dtype: str = "float32") -> None:
    """Merge the adapter of a recommender into its base, for servers or as the base of a new adapter, and save it.

    Args:
        directory_or_repo (`str` or `Path`): a recommender with an adapter; its base is loaded unquantized.
        output_dir (`str` or `Path`): another directory, which can be loaded, evaluated and pushed like the first one.
        dtype (`str`, defaults to `"float32"`): of the saved weights. Weights are merged in float32; `"bfloat16"`
            halves the files, and loses changes of the adapter below 1/256 of a weight.

    Raises:
        FileNotFoundError: there is no recommender, or its base checkpoint is missing.
        ValueError: the recommender has no adapter, or `output_dir` is its own directory, that of its base, or holds a
            model that genrec_hf did not write.
    """
    if Path(directory_or_repo).resolve() == Path(output_dir).resolve():
        raise ValueError(
            f"got output_dir={str(output_dir)!r}, the directory of the recommender: the merged model would replace "
            "its adapter; choose another"
        )
    directory = find_folder(directory_or_repo)
    refuse_foreign(output_dir, replaced=REPLACED_FILES, sources=[base_of(str(directory))])
    recommender = load_recommender(directory_or_repo, dtype=torch.float32)
    if not isinstance(recommender.model, PeftModel):
        raise ValueError(f"{str(directory_or_repo)!r} has no adapter, so there is nothing to merge: use it as it is")
    ids = recommender.semantic_ids
    settings = read_prompting(directory, ids) | {"dataset": read_settings(directory)["dataset"]}
    settings["item_titles"] = recommender.item_titles
    merged = cast(PreTrainedModel, recommender.model.merge_and_unload(safe_merge=True)).to(getattr(torch, dtype))
    save_recommender(output_dir, merged, recommender.tokenizer, semantic_ids=ids, **settings)


def _settings(
    model: PreTrainedModel | PeftModel,
    *,
    max_history: int,
    normalization: str,
    markers: bool,
    form: str,
    dataset: Mapping[str, Any] | None,
) -> dict[str, Any]:
    check_least(1, max_history=max_history)  # loading checks it too
    check_choice("normalization", normalization, NORMALIZATIONS)
    is_peft = isinstance(model, PeftModel)
    base = str((model.peft_config["default"].base_model_name_or_path if is_peft else model.name_or_path) or "")
    if is_peft and not base:
        raise ValueError(
            "got an adapter whose base model has no path, so it could not be loaded again: save the base model first, "
            "and load it from there (load_base)"
        )
    return {
        "format_version": FORMAT_VERSION,
        "base_model": base or None,
        # Recorded now, because later a relative path may look like a Hub id.
        "base_model_is_local": bool(base) and (Path(base).exists() or not is_hub_id(base)),
        "base_quantization": _quantization(model),
        "max_history": max_history,
        "normalization": normalization,
        "markers": markers,
        "form": form,
        **dict.fromkeys(kind.settings_key for kind in WRAPPINGS),
        "dataset": None if dataset is None else {key: dataset.get(key) for key in ("name", "fingerprint")},
        **wrapping_of(model).settings(),
    }


def base_of(model: str) -> str | None:
    """Return the base model of the adapter in a folder.

    Args:
        model (`str`): folder, or any other name.

    Returns:
        `str` or `None`: path or Hub id of the base; `None` if there is no adapter.
    """
    file = Path(model) / ADAPTER_CONFIG
    return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") if file.is_file() else None


def _quantization(model: PreTrainedModel | PeftModel) -> str | None:
    network: Any = unwrap(model)
    if getattr(network, "is_loaded_in_4bit", False):
        return network.config.get_text_config().quantization_config.bnb_4bit_quant_type
    return "int8" if getattr(network, "is_loaded_in_8bit", False) else None
