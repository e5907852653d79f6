"""Evaluate a recommender and the simple baselines over the whole catalogue, every user counted.

    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/evaluate.py --data_dir data/ml-100k \
        --output_dir outputs/ml-100k
    python recipes/evaluate.py --data_dir data/ml-100k --recommender outputs/ml-100k --max_per_prefix 2 \
        --output_dir outputs/ml-100k-diverse
    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k-baselines --baselines_only true

Reads `data_dir` (prepare_data.py) and the recommender in `output_dir`, or the one that `--recommender` names (a folder
or a Hub repository). Writes `metrics.json`, `metrics.md` and `metrics.png` to `output_dir`, and renews the model card
when the recommender is there.

Item-level Recall, NDCG and MRR over the whole catalogue (no sampled negatives), with 95 % bootstrap intervals over
users; seen items filtered, and allowed, in one report. Lists come from a beam search held to the catalogue, so a list
is exact as far as its width reaches: raise `--num_beams` to see that it changes nothing. Several processes share the
users out in the batches that one process would form, and report what it would. `--candidates 20` adds LLaRA's
protocol: which of twenty drawn items, the target among them, would come first (hit@1). `--max_per_prefix` and
`--mmr_relevance` ask for diverse lists: look at coverage and at the similarity within a list beside recall.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from genrec_hf.command_line import run_recipe
from genrec_hf.data import load_data
from genrec_hf.data.item_embeddings import load_embeddings
from genrec_hf.directories import one_run
from genrec_hf.evaluation import evaluate_data, print_report, rank_cases, refuse_other_report, write_report
from genrec_hf.generation import Mmr, PrefixCap, Recommender, SearchSettings
from genrec_hf.hub import SETTINGS_FILE, write_model_card
from genrec_hf.rankers import load_ranker
from genrec_hf.ranking import Reranked


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Where the report goes, and the recommender unless named."})
    recommender: str | None = field(
        default=None, metadata={"help": "Folder or Hub repository of the recommender, or of a SASRec."}
    )
    sasrec: str | None = field(default=None, metadata={"help": "Folder or Hub id of a SASRec, for one more row."})
    other_data: bool = field(
        default=False, metadata={"help": "Evaluate on other data than a model was trained on; see that none leaks."}
    )
    baselines_only: bool = field(default=False, metadata={"help": "No model: what does the data set offer?"})
    split: Literal["test", "validation"] = field(
        default="test", metadata={"help": "'test', or 'validation' for choosing settings."}
    )
    num_beams: int = field(default=30, metadata={"help": "Width of the beam search, 20 or more."})
    batch_size: int = field(default=32, metadata={"help": "Users a batch."})
    dtype: str = field(default="float32", metadata={"help": "Of the model: 'float32', 'bfloat16', 'auto'."})
    max_per_prefix: int | None = field(
        default=None, metadata={"help": "Diversity: at most so many items of a list under one SID prefix."}
    )
    prefix_length: int = field(default=1, metadata={"help": "Codes of that prefix."})
    mmr_relevance: float | None = field(
        default=None, metadata={"help": "Diversity: re-rank the beams, weight of relevance against similarity."}
    )
    candidates: int = field(default=0, metadata={"help": "Also choose the target among so many drawn items; 20."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap, the candidates and the random baseline."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if self.num_beams < 20:
            raise ValueError(f"got num_beams={self.num_beams!r}; the lists are 20 long, give 20 or more")
        if self.candidates < 0 or self.candidates == 1:
            raise ValueError(f"got candidates={self.candidates}; give 2 or more to choose from, or 0 to leave it out")
        diverse = self.max_per_prefix is not None or self.mmr_relevance is not None
        if diverse and not self.baselines_only and self.recommender in (None, self.output_dir):
            raise ValueError(
                "diverse lists would replace the recommender's own report: name it by --recommender and give another "
                "--output_dir"
            )


@one_run("output_dir")
def main(arguments: EvaluateArguments) -> None:
    """Rank, score, report."""
    # 1. Data
    state = PartialState(cpu=not torch.accelerator.is_available())
    data = load_data(arguments.data_dir)
    refuse_other_report(arguments.output_dir, data.info["name"], data.info.get("fingerprint"))
    cases = data.cases(arguments.split)
    path = Path(arguments.data_dir) / "item_embeddings.safetensors"
    embeddings = load_embeddings(path, data.item_ids) if path.exists() else None
    others, trained_on = {}, None if arguments.other_data else data.info
    if arguments.sasrec is not None:
        others["sasrec"] = load_ranker(arguments.sasrec, data.item_ids, dataset=trained_on, device=state.device)

    # 2. Model, seen items filtered and allowed
    ranked = None
    info = {"other_data": True} if arguments.other_data else {}
    drawn = arguments.candidates
    among = cases.candidates(len(data.item_ids), drawn, arguments.seed) if drawn else None
    if not arguments.baselines_only:
        cap = None
        if arguments.max_per_prefix is not None:
            cap = PrefixCap(arguments.max_per_prefix, arguments.prefix_length)
        width = max(arguments.num_beams, drawn)  # so that every candidate has a beam
        search = SearchSettings(width, cap, arguments.batch_size, distributed=True)
        source = arguments.recommender or arguments.output_dir
        model = load_ranker(
            source, data.item_ids, dataset=trained_on, device=state.device, dtype=arguments.dtype, search=search
        )
        ranker = model
        if arguments.mmr_relevance is not None:
            ranker = Reranked(model, Mmr(load_embeddings(path, data.item_ids), arguments.mmr_relevance), width)
        ranked = rank_cases(
            ranker, cases.histories, len(data.item_ids), candidates=among, progress=not arguments.quiet
        )
        if isinstance(model, Recommender):
            info |= {"num_beams": width, "normalization": model.normalization, "max_history": model.max_history}
        names = ("max_per_prefix", "prefix_length", "mmr_relevance")
        info |= {name: getattr(arguments, name) for name in names if cap is not None or ranker is not model}
    if not state.is_main_process:
        return

    # 3. Baselines and report
    report = evaluate_data(
        data, arguments.split, ranked, others=others, embeddings=embeddings, seed=arguments.seed, info=info,
        progress=not arguments.quiet, candidates=among,
    )  # fmt: skip
    write_report(report, arguments.output_dir)
    if (Path(arguments.output_dir) / SETTINGS_FILE).is_file():
        write_model_card(arguments.output_dir)
    print_report(report)


if __name__ == "__main__":
    run_recipe(main)
