"""Builds and writes the model cards of a saved recommender and of a fused ranker: usage, settings and metrics."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from genrec_hf.directories import as_directory, replace_file
from genrec_hf.evaluation.display import markdown_report
from genrec_hf.markdown import markdown_table
from genrec_hf.models import WRAPPINGS
from genrec_hf.models.checkpoints import is_adapter
from genrec_hf.repositories import read_json
from genrec_hf.semantic_ids import SemanticIds
from genrec_hf.settings import read_settings

TAGS = ["recommendation", "generative-recommendation", "semantic-ids", "genrec_hf"]
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
# The examples run as they are, in order; `address` and `history` are Python literals.
_USAGE = """\
## How to use

```python
from genrec_hf import load_recommender

recommender = load_recommender({address})
history = {history}  # item ids, oldest first
print(recommender.recommend([history], k={k}))
```

The same beam search with `model.generate`, constrained to the catalogue (`deny` holds item rows to leave out):

```python
from genrec_hf.generation import sid_beam_search

seen = recommender.semantic_ids.rows(history)
inputs = recommender.encode([seen])
output = recommender.model.generate(
    **inputs,
    custom_generate=sid_beam_search,
    trie=recommender.trie,
    num_beams=20,
    num_return_sequences={k},
    normalization=recommender.normalization,
    deny=[seen],
)
items = recommender.vocabulary.items(output[:, -recommender.trie.levels :].cpu().numpy())
print(recommender.semantic_ids.ids(items))
```"""

_FUSED_USAGE = """\
## How to use

Items are rows of the catalogue that it was made for, from 0; pass `item_ids`, the item id of each row, to have that
checked.

```python
from genrec_hf import load_ranker

ranker = load_ranker({address})
histories = [[0, 1]]  # item rows of each user, oldest first
print(ranker.rank(histories, k=5).items)
```"""

_NO_PIPELINE = (
    'Load it with `load_recommender`, and not with `pipeline("text-generation", {address})`:{splits} a pipeline does '
    "not constrain generation to the catalogue, and it uses neither the prompt nor the history length of training."
)
_SPLITS = " a pipeline uses the tokenizer of the base model, which has no tokens for semantic IDs;"


def build_model_card(directory: Path, settings: Mapping[str, Any], address: str) -> ModelCard:
    """Build the model card of the recommender in a directory, for `save_recommender` and `push_recommender`.

    Names and item ids are untrusted input: they are written as Python literals in code, and escaped in text.

    Args:
        directory (`Path`): with weights, `semantic_ids/` and, if it was evaluated, `metrics.json`.
        settings (`Mapping`): content of `genrec_hf.json`.
        address (`str`): Hub id or directory that the code examples load.

    Returns:
        `ModelCard`: text, and metadata with one `model-index` entry per metric of the model.

    Raises:
        ValueError: `metrics.json` is broken.
    """
    semantic_ids = SemanticIds.from_pretrained(directory)
    title = Path(address).resolve().name
    report = None
    if (directory / "metrics.json").is_file():
        report = read_json(directory / "metrics.json", "protocol")
    adapter = is_adapter(str(directory))
    dataset, base = (settings["dataset"] or {}).get("name"), settings["base_model"]
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        base_model=base if _is_hub_base(settings) else None,
        datasets=[dataset] if _is_hub_id(dataset) else None,
        tags=TAGS,
        model_name=title,
        eval_results=None if report is None else _eval_results(report) or None,
    )
    usage = _USAGE.format(
        address=_literal(address),
        history=_literal(semantic_ids.ids(range(min(3, settings["max_history"], len(semantic_ids))))),
        k=min(5, len(semantic_ids)),
    )
    splits = _SPLITS if adapter else ""
    usage += f"\n\n{_NO_PIPELINE.format(address=_literal(address), splits=splits)}"
    blocks = [f"# {_escape(title)}", _introduction(settings, adapter), usage, _facts(settings, semantic_ids)]
    if report is not None:
        blocks.append(_results(report, picture=(directory / "metrics.png").is_file()))
    return ModelCard("---\n" + data.to_yaml() + "\n---\n\n" + "\n\n".join(blocks) + "\n")


def build_fused_card(directory: Path, config: Mapping[str, Any], address: str) -> ModelCard:
    """Build the model card of the fused ranker in a directory.

    Args:
        directory (`Path`): with `metrics.json` if it was evaluated.
        config (`Mapping`): content of `config.json`: `items`, `weights`, `normalizations`, `kinds`, `dataset`.
        address (`str`): Hub id or directory that the code example loads.

    Returns:
        `ModelCard`: text, and metadata with one `model-index` entry per metric.

    Raises:
        ValueError: `metrics.json` is broken.
    """
    title, report = Path(address).resolve().name, None
    if (directory / "metrics.json").is_file():
        report = read_json(directory / "metrics.json", "protocol")
    data = ModelCardData(
        library_name="genrec_hf",
        tags=["recommendation", "genrec_hf"],
        model_name=title,
        eval_results=None if report is None else _eval_results(report) or None,
    )
    rows = [
        [name, _escape(config["kinds"][name]), f"{weight:g}", _escape(config["normalizations"][name])]
        for name, weight in config["weights"].items()
    ]
    fingerprint = "not recorded" if config["dataset"] is None else _escape(config["dataset"])
    blocks = [
        f"# {_escape(title)}",
        f"A weighted sum of the normalized scores of {len(rows)} rankers over a catalogue of {config['items']:,} "
        f"items, made and loaded with `genrec_hf`. Fingerprint of the data set: {fingerprint}.",
        _FUSED_USAGE.format(address=_literal(address)),
        "## Rankers\n\n" + markdown_table(["name", "kind", "weight", "normalization"], rows),
    ]
    if report is not None:
        blocks.append(_results(report, picture=(directory / "metrics.png").is_file()))
    return ModelCard("---\n" + data.to_yaml() + "\n---\n\n" + "\n\n".join(blocks) + "\n")


def write_model_card(output_dir: str | Path, repo_id: str | None = None) -> None:
    """Write the model card `README.md` of a saved recommender again, for example after evaluation.

    Args:
        output_dir (`str` or `Path`): written by `save_recommender`; the metrics of `metrics.json` are shown if
            present.
        repo_id (`str`, *optional*): Hub id that the code examples of the card load; `output_dir` if not given.

    Raises:
        FileNotFoundError: the directory holds no recommender.
    """
    output_dir = as_directory(output_dir)
    card = build_model_card(output_dir, read_settings(output_dir), repo_id or str(output_dir))
    with replace_file(output_dir / "README.md") as partial:
        card.save(partial)


def _introduction(settings: Mapping[str, Any], adapter: bool) -> str:
    dataset, base = (settings["dataset"] or {}).get("name"), settings["base_model"]
    catalogue = "a catalogue" if dataset is None else f"the catalogue of **{_escape(dataset)}**"
    kind = "A LoRA adapter, with rows for the semantic-ID tokens," if adapter else "A language model"
    text = (
        f"{kind} that recommends items of {catalogue}: it reads a user's history as semantic IDs and generates the "
        "semantic ID of the next item. It was trained with `genrec_hf` and is loaded with it."
    )
    if _is_hub_base(settings):
        return f"{text} Base model: [{base}](https://huggingface.co/{base})."
    if adapter and settings["base_model_is_local"]:
        text += (
            f"\n\n**The base model is a local checkpoint, {_escape(base)}, and not on the Hub.** Create that "
            "checkpoint first (`python -m genrec_hf.models.export --help`), at this path or at another one that you "
            "set as `base_model_name_or_path` in `adapter_config.json`."
        )
    return text


def _facts(settings: Mapping[str, Any], semantic_ids: SemanticIds) -> str:
    sizes = " x ".join(str(size) for size in semantic_ids.level_sizes)
    fingerprint = (settings["dataset"] or {}).get("fingerprint")
    rows = {
        "Items": f"{len(semantic_ids):,}; other item ids are refused",
        "Semantic IDs": f"{semantic_ids.levels} levels of {sizes} codes, fingerprint {semantic_ids.fingerprint}",
        "Data set fingerprint": "not recorded" if fingerprint is None else _escape(fingerprint),
        "Items read from a history": f"the last {settings['max_history']}",
        "Normalization of scores": settings["normalization"],
        "Markers around semantic IDs": "yes" if settings["markers"] else "no",
        "Prompts": "chat template" if settings.get("form") == "chat" else "plain text",
    }
    for kind in WRAPPINGS:
        if (described := settings.get(kind.settings_key)) is not None:
            rows |= kind.card_rows(described)
    if settings.get("titles"):
        rows["Titles"] = "after the semantic IDs of a history, from `item_titles.json`"
    if (quantized := settings.get("base_quantization")) is not None:
        rows["Base model in training"] = f"{quantized}; loaded unquantized unless `quantization_config` is given"
    return "## Settings\n\n" + markdown_table(["", ""], rows.items())


def _results(report: Mapping[str, Any], picture: bool) -> str:
    protocol = {key: _escape(value) if isinstance(value, str) else value for key, value in report["protocol"].items()}
    # Headings one level down, below the title of the card.
    text = re.sub(r"^#", "##", markdown_report({**report, "protocol": protocol}), flags=re.MULTILINE).strip()
    return text + ("\n\n![Metrics with their intervals](metrics.png)" if picture else "")


def _eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """Return one entry per metric, recall@10 and ndcg@10 first; empty if only baselines were measured."""
    protocol, model = report["protocol"], report.get("model", {})
    keys = [key for key in model if re.fullmatch(r"(recall|ndcg|mrr|coverage)@\d+", key)]
    arguments = ("split", "tie_break", "filter_seen", "users", "cases", "items")
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Next-item recommendation",
            dataset_type=protocol["dataset"],
            dataset_name=protocol["dataset"],
            dataset_args={key: protocol[key] for key in arguments if key in protocol},
            metric_type=key,
            metric_name=key,
            metric_value=model[key],
        )
        for key in sorted(keys, key=lambda key: key not in ("recall@10", "ndcg@10"))
    ]


def _is_hub_id(name: str | None) -> TypeGuard[str]:
    return name is not None and _HUB_ID.fullmatch(name) is not None


def _is_hub_base(settings: Mapping[str, Any]) -> bool:
    return not settings["base_model_is_local"] and _is_hub_id(settings["base_model"])


def _literal(value: str | list[str]) -> str:
    """Format a value as a Python literal without backquotes, which could end a code block."""
    return repr(value).replace("`", "\\x60")


def _escape(text: str) -> str:
    """Escape untrusted text as one line of plain Markdown."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))
