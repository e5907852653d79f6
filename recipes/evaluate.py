"""Evaluate a recommender and the simple baselines over the whole catalogue, every user counted.

    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k
    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k-baselines --baselines_only true

Reads `data_dir` (prepare_data.py) and the recommender in `output_dir`, or the one that `--recommender` names (a folder
or a Hub repository). Writes `metrics.json`, `metrics.md` and `metrics.png` to `output_dir`, and renews the model card
when the recommender is there.

Item-level Recall, NDCG and MRR over the whole catalogue (no sampled negatives), with 95 % bootstrap intervals over
users; seen items filtered, and allowed, in one report. Lists come from a beam search held to the catalogue, so a list
is exact as far as its width reaches: raise `--num_beams` to see that it changes nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from trl import TrlParser

from genrec_hf.data import load_data
from genrec_hf.evaluation import (
    build_report,
    evaluate_baselines,
    evaluate_recommendations,
    print_report,
    write_report,
)
from genrec_hf.hub import SETTINGS_FILE, load_recommender, write_model_card


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Where the report goes, and the recommender unless named."})
    recommender: str | None = field(default=None, metadata={"help": "Folder or Hub repository of the recommender."})
    baselines_only: bool = field(default=False, metadata={"help": "No model: what does the data set offer?"})
    split: str = field(default="test", metadata={"help": "'test', or 'validation' for choosing settings."})
    num_beams: int = field(default=30, metadata={"help": "Width of the beam search, 20 or more."})
    batch_size: int = field(default=32, metadata={"help": "Users a batch."})
    dtype: str = field(default="float32", metadata={"help": "Of the model: 'float32', 'bfloat16', 'auto'."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap and the random baseline."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if self.split not in ("test", "validation"):
            raise ValueError(f"got split={self.split!r}; use 'test' or 'validation'")
        if self.num_beams < 20:
            raise ValueError(f"got num_beams={self.num_beams!r}; the lists are 20 long, give 20 or more")


def main(arguments: EvaluateArguments) -> None:
    """Rank, score, report."""
    # 1. Data
    data = load_data(arguments.data_dir)
    cases = data.cases(arguments.split)
    items = len(data.item_ids)
    sequences = data.training_sequences()
    ranks = min(20, items)
    ks = sorted({min(k, ranks) for k in (1, 5, 10, 20)})

    # 2. Model, seen items filtered and allowed
    rows: dict[bool, dict] = {}
    info = {key: data.info[key] for key in ("fingerprint", "k_core", "repeats") if key in data.info}
    if not arguments.baselines_only:
        source = arguments.recommender or arguments.output_dir
        recommender = load_recommender(source, dtype=arguments.dtype)
        translate = recommender.semantic_ids.rows(data.item_ids)
        back = np.full(len(recommender.semantic_ids) + 1, -1)
        back[translate] = np.arange(items)
        for filter_seen in (True, False):
            start = perf_counter()
            ranked = recommender.rank(
                [translate[history] for history in cases.histories],
                k=ranks,
                filter_seen=filter_seen,
                deny=np.setdiff1d(np.arange(len(recommender.semantic_ids)), translate),
                num_beams=arguments.num_beams,
                batch_size=arguments.batch_size,
                progress=not arguments.quiet,
            )
            rows[filter_seen] = evaluate_recommendations(
                back[ranked], cases.users, cases.targets, items=items, ks=ks, seed=arguments.seed
            )
            rows[filter_seen]["seconds"] = perf_counter() - start
        info |= {"num_beams": arguments.num_beams, "score": recommender.score, "max_history": recommender.max_history}

    # 3. Baselines
    baselines = {
        filter_seen: evaluate_baselines(
            sequences, cases.histories, cases.users, cases.targets, items, ks, filter_seen, arguments.seed,
            progress=not arguments.quiet,
        )
        for filter_seen in (True, False)
    }  # fmt: skip

    # 4. Report
    report = build_report(
        dataset=data.info["name"],
        split=f"{data.info['split']}, {arguments.split}",
        tie_break=data.info["tie_break"],
        items=items,
        model=rows.get(True),
        baselines=baselines[True],
        unfiltered_model=rows.get(False),
        unfiltered_baselines=baselines[False],
        seed=arguments.seed,
        info=info,
    )
    write_report(report, arguments.output_dir)
    if (Path(arguments.output_dir) / SETTINGS_FILE).is_file():
        write_model_card(arguments.output_dir)
    print_report(report)


if __name__ == "__main__":
    main(*TrlParser((EvaluateArguments,)).parse_args_and_config())
