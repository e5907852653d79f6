"""Draws the pictures of the documents: `docs/images/pipeline.svg` and `docs/images/layers.svg`.

    python docs/draw_pictures.py

The background is transparent and every color is read on white and on black. The same call writes the same bytes.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

IMAGES = Path(__file__).parent / "images"
TEXT, LINE, BLUE, GREEN, ORANGE, GREY = "#ffffff", "#7d8590", "#2563a8", "#2b7a4b", "#b3541e", "#57606a"

# What is made, by which recipe, and the color of its stage.
PIPELINE = [
    ("interactions, items", "files or the Hub", "", GREY),
    ("split tables", "interactions.parquet, items.parquet", "prepare_data", BLUE),
    ("item embeddings, semantic IDs", "text → vector → codes → <s_a_57><s_b_7>", "build_sids", BLUE),
    ("grounded adapter", "LLM + SID tokens: what does a SID mean?", "sft_grounding", GREEN),
    ("recommender", "history → next item", "sft_instruct", GREEN),
    ("metrics.json, model card", "all items ranked, intervals over users", "evaluate", ORANGE),
]
OPTIONAL = [
    ("pretrain", "SID rows, LoRA or all weights\non histories and item text", 3),
    ("train_sasrec, sft_llara", "collaborative vectors\nbehind the SIDs of a history", 4),
    ("grpo, dpo", "rewards or preferences\non the model's own lists", 4),
]
# From the first part that data meets to the last one, with what it knows.
LAYERS = [
    ("data", "interactions and items → split tables, item text, embeddings", BLUE),
    ("semantic_ids", "embeddings → codes → SemanticIds", BLUE),
    ("vocabulary", "SemanticIds ↔ tokens of the LLM", BLUE),
    ("tasks", "table of instruction tasks → data sets for TRL", BLUE),
    ("models", "LLM with LoRA, wrappers (LLaRA), SASRec", GREEN),
    ("generation", "trie, beam search, sampling, Recommender", GREEN),
    ("evaluation", "metrics, baselines, reports, comparison", ORANGE),
    ("hub, model_card, rankers", "save, push, load; load_ranker", ORANGE),
    ("training", "SFT, GRPO, DPO, LLaRA, SASRec: trainers, rewards, rollouts", ORANGE),
    ("command_line, recipes", "options, YAML, one script for each stage", GREY),
]

# The two protocols that parts share, and what is kept apart from them.
BESIDE = [
    ("internals", "what is used of libraries\nbeyond their documented\ninterface, a module a library"),
    ("models.wrapping.Wrapping", "a module around an LM:\nLLaRA; used by generation,\nhub, rankers and training"),
    (
        "ranking.Ranker, Reranker",
        "rank(histories, k) → Ranking:\nbaselines, SASRec, Recommender;\nused by evaluation and training",
    ),
]


def draw_box(axes: Axes, box: tuple[float, float, float, float], title: str, text: str, color: str) -> None:
    """Draw a filled box `(left, bottom, width, height)` with a title and a line of text."""
    left, bottom, width, height = box
    axes.add_patch(
        FancyBboxPatch((left, bottom), width, height, "round,pad=0,rounding_size=0.12", fc=color, ec="none")
    )
    middle = bottom + height / 2
    axes.text(left + 0.2, middle + 0.22 * height, title, color=TEXT, fontsize=11, weight="bold", va="center")
    axes.text(left + 0.2, middle - 0.22 * height, text, color=TEXT, fontsize=9, va="center")


def draw_frame(axes: Axes, box: tuple[float, float, float, float], title: str, text: str) -> None:
    """Draw an empty frame `(left, bottom, width, height)` with a title and lines of text."""
    left, bottom, width, height = box
    shape = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, shape, fc="none", ec=LINE, lw=1.2, ls="--"))
    axes.text(left + 0.15, bottom + height - 0.21, title, color=LINE, fontsize=9.5, weight="bold", va="center")
    axes.text(left + 0.15, bottom + (height - 0.36) / 2, text, color=LINE, fontsize=9, va="center")


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-") -> None:
    """Draw an arrow between two points."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1.6, "linestyle": style})


def new_axes(width: float, height: float) -> Axes:
    """Return axes without frame, one unit an inch."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def draw_pipeline() -> None:
    """Draw the stages from interactions to a pushed recommender, with the recipe of each."""
    axes = new_axes(9.6, 6.5)
    bottoms = [5.6 - 1.08 * place for place in range(len(PIPELINE))]
    for (title, text, recipe, color), bottom in zip(PIPELINE, bottoms, strict=True):
        draw_box(axes, (0.2, bottom, 4.6, 0.75), title, text, color)
        if recipe:
            draw_arrow(axes, (2.5, bottom + 1.08), (2.5, bottom + 0.76))
            axes.text(2.65, bottom + 0.915, f"{recipe}.py", color=LINE, fontsize=9, va="center", family="monospace")
    for (name, text, stage), bottom in zip(OPTIONAL, (bottoms[3], bottoms[4], bottoms[5]), strict=True):
        draw_frame(axes, (6.0, bottom - 0.1, 3.4, 0.95), name, text)
        draw_arrow(axes, (6.0, bottom + 0.38), (4.82, bottoms[stage] + 0.38), "--")
    axes.text(6.2, bottoms[3] + 1.0, "optional", color=LINE, fontsize=9, style="italic", va="center")
    save("pipeline")


def draw_layers() -> None:
    """Draw the parts of the package in the order in which data flows, and the two protocols beside them."""
    axes = new_axes(9.6, 7.4)
    bottoms = [6.55 - 0.71 * place for place in range(len(LAYERS))]
    for (title, text, color), bottom in zip(LAYERS, bottoms, strict=True):
        draw_box(axes, (0.8, bottom, 5.4, 0.62), title, text, color)
    draw_arrow(axes, (0.4, 7.15), (0.4, 0.15))
    axes.text(
        0.2, 3.7, "data flows down, imports point up", color=LINE, fontsize=9, rotation=90, va="center", ha="center"
    )
    for (title, text), bottom in zip(BESIDE, (bottoms[1], bottoms[4], bottoms[7]), strict=True):
        draw_frame(axes, (6.6, bottom - 0.36, 2.8, 1.34), title, text)
    save("layers")


def save(name: str) -> None:
    """Write the current figure as SVG without a date, letters as paths."""
    plt.savefig(IMAGES / f"{name}.svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "genrec_hf"
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    draw_pipeline()
    draw_layers()
