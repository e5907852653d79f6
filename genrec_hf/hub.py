"""Saves, loads and pushes a recommender: an output directory that is a whole Hub repository, model card included."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from genrec_hf.checks import check_choice, check_least
from genrec_hf.data import InteractionData, item_titles, load_data
from genrec_hf.directories import CHECKPOINT_FILES, as_directory, filling, held, refuse_foreign, replacing
from genrec_hf.evaluation.display import draw_curves
from genrec_hf.generation import Recommender, clean_generation_config
from genrec_hf.model_card import build_model_card
from genrec_hf.models import WRAPPINGS, unwrap, wrapping_of
from genrec_hf.models.checkpoints import ADAPTER_CONFIG, is_adapter, load_adapter, load_base
from genrec_hf.repositories import LEFT_OUT_FILES, LOADED_FILES, find_folder, is_hub_id, read_json
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.semantic_ids.artefact import CONFIG_FILE, SUBFOLDER
from genrec_hf.settings import (
    DATA_KEY,
    FORMAT_VERSION,
    NORMALIZATIONS,
    SETTINGS_FILE,
    TITLES_FILE,
    data_of,
    read_prompting,
    read_settings,
    read_titles,
    refuse_other_data,
)
from genrec_hf.tasks.prompts import Form
from genrec_hf.vocabulary import SidVocabulary, refuse_missing_rows

CURVES_FILE = "curves.png"
METRICS_FILES = ("metrics.json", "metrics.md", "metrics.png")
WEIGHT_FILES = (
    ADAPTER_CONFIG,
    TITLES_FILE,
    "adapter_model.*",
    "model.safetensors*",
    "model-*.safetensors",
)
REPLACED_FILES = ("README.md", *CHECKPOINT_FILES)
# No pickle is in this list, so none goes to the Hub. `*` matches inside folders too.
PUSHED_FILES = [*LOADED_FILES, "*.md", "*.png"]


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
    """Write a trained recommender into `output_dir`, for `load_recommender` and `push_recommender`.

    Weights (or the adapter's alone), tokenizer, `semantic_ids/`, a clean generation config (set on `model` as well),
    the settings and the model card. A recommender of the same data set that stands there is replaced, and its metrics
    go: they were measured with other weights. Everything is written beside the folder first and moved in at the end.

    Args:
        output_dir (`str` or `Path`): made when absent; what a trainer left there, such as checkpoints, stays.
        model (`PeftModel` or `PreTrainedModel`): an adapter of `start_adapter`, or a whole model.
        tokenizer (`PreTrainedTokenizerBase`): extended for `semantic_ids`.
        semantic_ids (`SemanticIds`): the catalogue.
        max_history (`int`): as in `Recommender`, the value that the model was trained with.
        normalization (`str`): likewise.
        markers (`bool`, defaults to `False`): likewise.
        form (`str`, defaults to `"plain"`): likewise.
        titles (`Sequence[str]`, *optional*): likewise; they are written with their item ids.
        item_titles (`Sequence[str]`, *optional*): likewise, where there are no `titles`.
        dataset (`Mapping`, *optional*): `InteractionData.info`, whose `name` and `fingerprint` are kept.
        state_dict (`dict`, *optional*): gathered weights of a model that is sharded over processes.

    Raises:
        ValueError: before anything is written, when tokenizer and semantic ids do not belong together, the tokenizer
            has tokens that the model has no rows for, the adapter does not know its base model, or `output_dir` holds
            a recommender of another data set.
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
    with held(output_dir), filling(output_dir, SETTINGS_FILE, stale) as partial:
        # A preference trainer keeps its reference as a second adapter, which is no part of the recommender.
        own: dict[str, Any] = {"selected_adapters": ["default"]} if isinstance(model, PeftModel) else {}
        model.save_pretrained(str(partial), state_dict=state_dict, **own)
        if isinstance(model, PeftModel):
            wrapping_of(model).save_beside(partial)
        network.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        semantic_ids.save_pretrained(partial / SUBFOLDER)
        named = item_titles if titles is None else titles
        if named is not None:
            by_id = dict(zip(semantic_ids.item_ids, named, strict=True))
            (partial / TITLES_FILE).write_text(json.dumps(by_id, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        build_model_card(partial, settings, str(output_dir)).save(partial / "README.md")


def load_training_data(data_dir: str | Path, output_dir: str | Path) -> tuple[InteractionData, SemanticIds]:
    """The first step of a training recipe: data and semantic ids that belong together, and to what `output_dir` holds.

    Args:
        data_dir (`str` or `Path`): folder written by `prepare_data.py` and `build_sids.py`.
        output_dir (`str` or `Path`): where the recipe saves.

    Returns:
        `tuple`: the data set and its semantic ids, row by row the same items.

    Raises:
        FileNotFoundError: `data_dir` lacks one of them.
        ValueError: they are of other items, several items share a SID, or `output_dir` holds a recommender of another
            data set or of other semantic ids, or a model that genrec_hf did not write.
    """
    refuse_foreign(output_dir, replaced=REPLACED_FILES)
    data, semantic_ids = load_data(data_dir), SemanticIds.from_pretrained(data_dir)
    semantic_ids.refuse_other_items(data.item_ids)
    semantic_ids.refuse_shared("a model trained on it could name no item")
    refuse_other_dataset(output_dir, data.info["fingerprint"], semantic_ids)
    return data, semantic_ids


def refuse_other_dataset(output_dir: str | Path, fingerprint: str | None, semantic_ids: SemanticIds) -> None:
    """Stop a recipe before it trains into a directory whose recommender it could not replace.

    Args:
        output_dir (`str` or `Path`): passes when it is absent or holds no recommender.
        fingerprint (`str`, *optional*): of the data set to train on, `InteractionData.info["fingerprint"]`; `None` and
            a recommender without one go unchecked.
        semantic_ids (`SemanticIds`): the catalogue to train on.

    Raises:
        ValueError: the recommender there is of another data set or of other semantic ids.
    """
    output_dir = Path(output_dir)
    if not (output_dir / SETTINGS_FILE).is_file():
        return
    there = read_settings(output_dir)["dataset"] or {}
    pairs = {"another data set": (there.get("fingerprint"), fingerprint)}
    if (output_dir / SUBFOLDER / CONFIG_FILE).is_file():
        old_ids = read_json(output_dir / SUBFOLDER / CONFIG_FILE)
        pairs["other semantic ids"] = (old_ids.get("fingerprint"), semantic_ids.fingerprint)
    for what, (old, new) in pairs.items():
        if old is not None and new is not None and old != new:
            raise ValueError(
                f"{str(output_dir)!r} holds a recommender of {what} (fingerprint {old}, this one is {new}): "
                "saving would replace a model that cannot be compared; choose another output_dir"
            )


def save_trained(
    trainer: Trainer, semantic_ids: SemanticIds, data: InteractionData | None = None, **settings: Any
) -> None:
    """The last step of a training recipe, on every process: `save_recommender`, the curves, and the push if asked for.

    Args:
        trainer (`Trainer`): trained; all processes take part in gathering sharded weights, the main one writes.
        semantic_ids (`SemanticIds`): the catalogue.
        data (`InteractionData`, *optional*): what it was trained on; its titles are saved, to return with items.
        settings: `max_history`, `normalization`, `markers`, `form` and `titles` of `save_recommender`.
    """
    arguments, output_dir = trainer.args, Path(str(trainer.args.output_dir))
    # Only DeepSpeed's own engine knows where ZeRO-3 keeps the shards.
    whole = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    state_dict = trainer.accelerator.get_state_dict(whole)
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
    """A recommender ready to use, from the output directory of a recipe or a Hub repository pushed from one.

    Args:
        directory_or_repo (`str` or `Path`): directory, or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        semantic_ids (`SemanticIds`, *optional*): a catalogue to use instead of the saved one, which it came from by
            `SemanticIds.add` and `remove`. New items can be decoded at once, but a model that was not trained on
            their SIDs gives them almost no probability: train it on them for some steps, or rank them by another
            `Ranker`.
        dataset (`Mapping`, *optional*): `InteractionData.info` of the data that it is to be evaluated on; a
            recommender that was trained on other data, or another split, is refused.
        allow_pickle (`bool`, defaults to `False`): also read weights that are pickles, which can run code.
        model_kwargs: `dtype`, `device_map`, `attn_implementation`, `quantization_config` for the model. Without them a
            base model loads in the dtype of its checkpoint, unquantized, also when the adapter was trained on a
            quantized one (the card says on which): near the model that was trained, which
            `quantization_config=BitsAndBytesConfig(...)` with the settings of the training gives exactly.

    Returns:
        `Recommender`: with the settings that it was saved with.

    Raises:
        FileNotFoundError: no recommender is there, or the base checkpoint that it names is absent.
        ValueError: a later version wrote it, a file of it is broken, its tokenizer and semantic ids do not belong
            together, or it was trained on other data than `dataset`.
    """
    directory = find_folder(directory_or_repo, revision)
    settings = read_settings(directory)
    if not (directory / "tokenizer_config.json").is_file():  # transformers would make up what is missing
        raise FileNotFoundError(
            f"{str(directory_or_repo)!r} holds no tokenizer_config.json: copy it from where the recommender was saved"
        )
    refuse_other_data(directory_or_repo, data_of(settings["dataset"]), dataset)
    if semantic_ids is None:
        semantic_ids = SemanticIds.from_pretrained(directory)
    model: PreTrainedModel | PeftModel
    if is_adapter(str(directory)):
        model, tokenizer = load_adapter(directory_or_repo, False, revision, allow_pickle=allow_pickle, **model_kwargs)
    else:
        model, tokenizer = load_base(str(directory_or_repo), revision, allow_pickle=allow_pickle, **model_kwargs)
        refuse_missing_rows(model, tokenizer)
    around = wrapping_of(model)
    if around.holds_items:
        around.reindex(SemanticIds.from_pretrained(directory).item_ids, semantic_ids.item_ids)
    how = read_prompting(directory, semantic_ids)
    return Recommender(model, tokenizer, semantic_ids, **how, item_titles=read_titles(directory, semantic_ids))


def push_recommender(output_dir: str | Path, repo_id: str, private: bool | None = None) -> str:
    """Upload the output directory of a recipe without checkpoints, logs and pickles, its card rewritten for `repo_id`.

    Args:
        output_dir (`str` or `Path`): as `save_recommender` left it, with `metrics.json` when evaluated.
        repo_id (`str`): Hub id `"user/name"`; the repository is made when absent.
        private (`bool`, *optional*): who may see a new repository; the account's default when not given.

    Returns:
        `str`: address of the repository.

    Raises:
        FileNotFoundError: the directory holds no recommender.
        ValueError: `private=True` for a repository that stands there and is public.
    """
    write_model_card(output_dir, repo_id)
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"private=True, but {repo_id!r} is there and public: nothing was uploaded; choose another repo_id"
        )
    api.upload_folder(
        repo_id=repo_id,
        folder_path=output_dir,
        allow_patterns=PUSHED_FILES,
        ignore_patterns=list(LEFT_OUT_FILES),
        commit_message="Upload recommender",
    )
    return str(url)


def merge_recommender(directory_or_repo: str | Path, output_dir: str | Path, dtype: str = "float32") -> None:
    """Add a recommender's adapter to its base and save the whole: for servers, or as the base of a new adapter.

    Args:
        directory_or_repo (`str` or `Path`): a recommender with an adapter; its base is loaded unquantized.
        output_dir (`str` or `Path`): another directory; loads, evaluates and pushes as the first one does.
        dtype (`str`, defaults to `"float32"`): of the saved weights. The sum is made in float32 whatever it is; in
            `"bfloat16"` a file is half as large, and what the adapter changed by less than 1/256 of a weight is gone.

    Raises:
        ValueError: the recommender has no adapter, `output_dir` is its own directory or that of its base, or holds
            a model that genrec_hf did not write.
    """
    if Path(directory_or_repo).resolve() == Path(output_dir).resolve():
        raise ValueError(f"got {str(output_dir)!r} twice: the whole model would replace its adapter; choose another")
    directory = find_folder(directory_or_repo)
    refuse_foreign(output_dir, replaced=REPLACED_FILES, sources=[base_of(str(directory))])
    recommender = load_recommender(directory_or_repo, dtype=torch.float32)
    if not isinstance(recommender.model, PeftModel):
        raise ValueError(f"{str(directory_or_repo)!r} is a whole model without adapter: there is nothing to merge")
    ids = recommender.semantic_ids
    how = read_prompting(directory, ids) | {"dataset": read_settings(directory)["dataset"]}
    how["item_titles"] = recommender.item_titles
    merged = cast(PreTrainedModel, recommender.model.merge_and_unload(safe_merge=True)).to(getattr(torch, dtype))
    save_recommender(output_dir, merged, recommender.tokenizer, semantic_ids=ids, **how)


def write_model_card(output_dir: str | Path, repo_id: str | None = None) -> None:
    """Write the model card `README.md` of a saved recommender again, for after the evaluation.

    Args:
        output_dir (`str` or `Path`): as `save_recommender` left it; `metrics.json` is shown when there.
        repo_id (`str`, *optional*): what the card's snippets load; `output_dir` when not given.

    Raises:
        FileNotFoundError: the directory holds no recommender.
    """
    output_dir = as_directory(output_dir)
    card = build_model_card(output_dir, read_settings(output_dir), repo_id or str(output_dir))
    with replacing(output_dir / "README.md") as partial:
        card.save(partial)


def _settings(
    model: PreTrainedModel | PeftModel,
    *,
    max_history: int,
    normalization: str,
    markers: bool,
    form: str,
    dataset: Mapping[str, Any] | None,
) -> dict[str, Any]:
    check_least(1, max_history=max_history)  # it would not load
    check_choice("normalization", normalization, NORMALIZATIONS)
    is_peft = isinstance(model, PeftModel)
    base = str((model.peft_config["default"].base_model_name_or_path if is_peft else model.name_or_path) or "")
    if is_peft and not base:
        raise ValueError(
            "the adapter does not know its base model, which was made in memory: nobody could load it; save the base "
            "model first and load it by its path (load_base)"
        )
    return {
        "format_version": FORMAT_VERSION,
        "base_model": base or None,
        # Only here and now can a relative path be told from a Hub id.
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
    """The base that the adapter in a folder was trained on; `None` where no adapter is."""
    file = Path(model) / ADAPTER_CONFIG
    return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") if file.is_file() else None


def _quantization(model: PreTrainedModel | PeftModel) -> str | None:
    network: Any = unwrap(model)
    if getattr(network, "is_loaded_in_4bit", False):
        return network.config.get_text_config().quantization_config.bnb_4bit_quant_type
    return "int8" if getattr(network, "is_loaded_in_8bit", False) else None
