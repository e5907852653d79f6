"""Evaluate a recommender and simple baselines on all users and the whole catalogue.

    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k
    accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/evaluate.py --data_dir data/ml-100k \
        --output_dir outputs/ml-100k
    python recipes/evaluate.py --data_dir data/ml-100k --recommender outputs/ml-100k --max_per_prefix 2 \
        --output_dir outputs/ml-100k-diverse
    python recipes/evaluate.py --data_dir data/ml-100k --output_dir outputs/ml-100k-baselines --baselines_only true

Reads `data_dir` (prepare_data.py) and the recommender in `output_dir`, or the one that `--recommender` names (a folder
or a Hub repository). Writes `metrics.json`, `metrics.md`, `metrics.png` and `results.json` (a row for each system,
with the command, device and time) to `output_dir`, and updates the model card if the recommender is there.

The report holds item-level recall, NDCG and MRR over the whole catalogue (no sampled negatives), with 95 % bootstrap
intervals over users, for seen items filtered and for seen items allowed. Lists come from a beam search over the
catalogue, which is not exhaustive: `--exact_scores true` also ranks by the scores of all items, for comparison.
With several processes, the users are distributed in the batches of a single process, so that the report is the same.
`--candidates 20` adds LLaRA's protocol: the choice of one item among 20 candidates, the target and sampled items
(hit@1). `--max_per_prefix` and `--mmr_relevance` make lists more diverse, which coverage and the similarity within
lists measure.
"""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
from accelerate import PartialState

from genrec_hf.command_line import run_recipe, typed_command
from genrec_hf.data import load_data
from genrec_hf.data.item_embeddings import EMBEDDINGS_FILE, find_embeddings, load_embeddings
from genrec_hf.directories import lock_for_recipe
from genrec_hf.evaluation import evaluate_data, print_report, rank_cases, refuse_other_report, write_report
from genrec_hf.evaluation.report_baselines import choose_baselines
from genrec_hf.evaluation.results import training_seed, write_report_results
from genrec_hf.evaluation.search_error import add_search_error
from genrec_hf.generation import ExactRanker, Mmr, PrefixCap, Recommender, SearchSettings
from genrec_hf.hub import SETTINGS_FILE
from genrec_hf.model_card import write_model_card
from genrec_hf.rankers import load_ranker
from genrec_hf.ranking import Reranked
from genrec_hf.resource_usage import device_name


@dataclass
class EvaluateArguments:
    """Arguments of the evaluation; `--help` describes them."""

    data_dir: str = field(metadata={"help": "Folder of the data set, written by prepare_data.py."})
    output_dir: str = field(
        metadata={"help": "Folder to write the report to. Holds the recommender if `recommender` is not given."}
    )
    recommender: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub repository of the recommender or SASRec to evaluate. Default: `output_dir`."},
    )
    sasrec: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub repository of a SASRec to evaluate too. Default: none."},
    )
    other_data: bool = field(
        default=False,
        metadata={
            "help": "Whether to allow models that were trained on another data set or split than `data_dir`; make "
            "sure that they were not trained on its test events."
        },
    )
    baselines_only: bool = field(
        default=False, metadata={"help": "Whether to evaluate the baselines only, without a recommender."}
    )
    baselines: list[str] | None = field(
        default=None,
        metadata={
            "help": "Baselines of the report, of random, popularity, repeat, markov1, item_knn, ease, text_knn, "
            "text_knn_mean and item_knn_text. Default: all, without ease above 5,000 items, where it takes minutes, "
            "and without the last three if there are no item embeddings."
        },
    )
    split: Literal["test", "validation"] = field(
        default="test",
        metadata={"help": "Split to evaluate on: 'test', or 'validation' to select hyperparameters."},
    )
    num_beams: int = field(default=30, metadata={"help": "Number of beams of the beam search, at least 20."})
    exact_scores: bool = field(
        default=False,
        metadata={
            "help": "Whether to also rank by the exact scores of all items, and compare the beams with them. After a "
            "prompt the model then reads up to items / num_beams times as many tokens; slow for large catalogues."
        },
    )
    batch_size: int = field(default=32, metadata={"help": "Number of users in a batch."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Data type of the model's weights: 'float32', 'bfloat16' or 'auto' (as saved)."},
    )
    max_per_prefix: int | None = field(
        default=None,
        metadata={"help": "Maximum number of items in a list whose SIDs share a prefix. Default: no maximum."},
    )
    prefix_length: int = field(default=1, metadata={"help": "Number of codes in the prefix of `max_per_prefix`."})
    mmr_relevance: float | None = field(
        default=None,
        metadata={
            "help": "Re-rank the beams by maximal marginal relevance with this weight of relevance against "
            "similarity, in (0, 1]. Default: no re-ranking."
        },
    )
    candidates: int = field(
        default=0,
        metadata={
            "help": "Also evaluate the choice of one item among this many candidates: the target and items sampled "
            "uniformly. At least 2; 20 in LLaRA's protocol; 0 for no such evaluation."
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the bootstrap, of the candidates and of the random baseline."}
    )
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        if self.num_beams < 20:
            raise ValueError(f"got num_beams={self.num_beams!r}: the lists have 20 items; pass at least 20")
        if self.candidates < 0 or self.candidates == 1:
            raise ValueError(f"got candidates={self.candidates}: pass at least 2, or 0 for no such evaluation")
        diverse = self.max_per_prefix is not None or self.mmr_relevance is not None
        if self.exact_scores and (diverse or self.baselines_only):
            raise ValueError("got exact_scores with baselines_only or diverse lists: it compares beams; drop one")
        if diverse and not self.baselines_only and self.recommender in (None, self.output_dir):
            raise ValueError(
                "got max_per_prefix or mmr_relevance without another output_dir than the recommender's: the report "
                "would replace that of the recommender; pass --recommender and another --output_dir"
            )


@lock_for_recipe("output_dir")
def main(arguments: EvaluateArguments) -> None:
    """Rank the items for all users, compute metrics and write the report."""
    # 1. Data
    started = perf_counter()
    state = PartialState(cpu=not torch.accelerator.is_available())
    data = load_data(arguments.data_dir)
    refuse_other_report(arguments.output_dir, data.info["name"], data.info.get("fingerprint"))
    cases = data.cases(arguments.split)
    embeddings = find_embeddings(arguments.data_dir, data.item_ids)
    choose_baselines(arguments.baselines, items=len(data.item_ids), has_embeddings=embeddings is not None)
    other_rankers, trained_on = {}, None if arguments.other_data else data.info
    if arguments.sasrec is not None:
        other_rankers["sasrec"] = load_ranker(arguments.sasrec, data.item_ids, dataset=trained_on, device=state.device)

    # 2. Model, seen items filtered and allowed
    ranked = None
    info = {"other_data": True} if arguments.other_data else {}
    count, items = arguments.candidates, len(data.item_ids)
    candidates = cases.candidates(items, count, arguments.seed) if count else None
    if not arguments.baselines_only:
        limit = arguments.max_per_prefix
        cap = None if limit is None else PrefixCap(limit, arguments.prefix_length)
        num_beams = max(arguments.num_beams, arguments.candidates)  # so that every candidate has a beam
        search = SearchSettings(num_beams, cap, arguments.batch_size, distributed=True)
        source = arguments.recommender or arguments.output_dir
        model = load_ranker(
            source, data.item_ids, dataset=trained_on, device=state.device, dtype=arguments.dtype, search=search
        )
        if arguments.exact_scores:
            other_rankers["model_exact"] = ExactRanker(model, progress=not arguments.quiet)
        ranker = model
        if arguments.mmr_relevance is not None:
            vectors = load_embeddings(Path(arguments.data_dir) / EMBEDDINGS_FILE, data.item_ids)
            ranker = Reranked(model, Mmr(vectors, arguments.mmr_relevance), num_beams)
        ranked = rank_cases(ranker, cases.histories, items, candidates=candidates, progress=not arguments.quiet)
        if isinstance(model, Recommender):
            info |= {"num_beams": num_beams, "normalization": model.normalization, "max_history": model.max_history}
        names = ("max_per_prefix", "prefix_length", "mmr_relevance")
        info |= {name: getattr(arguments, name) for name in names if cap is not None or ranker is not model}
    if not state.is_main_process:
        return

    # 3. Baselines and report
    report = evaluate_data(
        data, arguments.split, ranked, other_rankers=other_rankers, embeddings=embeddings, seed=arguments.seed,
        info=info, progress=not arguments.quiet, candidates=candidates, baselines=arguments.baselines,
    )  # fmt: skip
    if arguments.exact_scores:
        add_search_error(report, ranked, other_rankers["model_exact"], cases=cases)
    write_report(report, arguments.output_dir)
    source = arguments.recommender or arguments.output_dir
    write_report_results(
        report, arguments.output_dir, system=Path(source).name, seed=training_seed(source), command=typed_command(),
        device=device_name(state.device), seconds=perf_counter() - started,
    )  # fmt: skip
    if (Path(arguments.output_dir) / SETTINGS_FILE).is_file():
        write_model_card(arguments.output_dir)
    print_report(report)


if __name__ == "__main__":
    run_recipe(main)
