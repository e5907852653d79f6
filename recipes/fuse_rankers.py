"""Fuse several rankers into one by weights that are fitted on the validation event of each user.

    python recipes/fuse_rankers.py --data_dir data/ml-100k --output_dir outputs/fused \
        --rankers counts=item_knn sasrec=data/ml-100k/sasrec
    python recipes/fuse_rankers.py --data_dir data/ml-100k --output_dir outputs/fused-llm \
        --rankers counts=item_knn llm=outputs/quickstart text=text_knn --normalizations text=z_score
    python recipes/fuse_rankers.py --data_dir data/ml-100k --output_dir outputs/two-seeds \
        --rankers sasrec1=outputs/sasrec-seed-1 sasrec2=outputs/sasrec-seed-2

Reads `data_dir` (prepare_data.py) and, for each ranker, the output of a recipe: a recommender, a SASRec or a fused
ranker, in a folder or a Hub repository. `item_knn`, `ease` and `text_knn` are fitted here, on the training events or
on the text embeddings of `data_dir` (build_sids.py). Writes to `output_dir` a repository for `load_ranker` with a copy
of each ranker whose weight is above 0, `metrics.json`, `metrics.md`, `metrics.png`, `results.json` and a model card.

The score of an item is a weighted sum of the normalized scores of the rankers, with log-probabilities a product of
experts (Hinton, 2002). All weights in steps of `1 / steps` are tried on the validation event; the test event has no
part in them. The report has a row for each ranker alone, the share of cases that at least one ranker hits, the overlap
of their hits and lists, and the differences of the fused ranker to each of them, paired by user. Two models of the
same kind gain from being fused too: compare with two seeds of one model (last command) before a gain is said to
come from a second kind of ranker.
"""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import torch
from accelerate import PartialState

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe, typed_command
from genrec_hf.data import load_data
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.data.item_embeddings import find_embeddings
from genrec_hf.directories import lock_for_recipe
from genrec_hf.evaluation import (
    compare_overlap,
    evaluate_data,
    list_length,
    print_report,
    refuse_other_report,
    write_report,
)
from genrec_hf.evaluation.report_baselines import choose_baselines
from genrec_hf.evaluation.results import write_report_results
from genrec_hf.fused_files import push_fused, refuse_other_model, write_fused_card
from genrec_hf.fused_ranker import FusedRanker
from genrec_hf.fusion import fit_weights
from genrec_hf.ranker_sources import (
    BUILT_IN,
    choose_normalizations,
    open_rankers,
    read_normalizations,
    read_sources,
)
from genrec_hf.resource_usage import device_name


@dataclass
class FuseArguments:
    """Arguments of the fusion; `--help` describes them."""

    data_dir: str = field(metadata={"help": "Folder of the data set, written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Folder to save the fused ranker and its report to."})
    rankers: list[str] = field(
        metadata={
            "help": "Rankers to fuse, at least two, each as NAME=SOURCE: the source is a folder, a Hub repository, or "
            "one of item_knn, ease and text_knn (for a folder of such a name, write ./ease)."
        }
    )
    normalizations: list[str] = field(
        default_factory=list,
        metadata={
            "help": "How scores are normalized, as NAME=log_softmax or NAME=z_score. Default: z_score for EASE and "
            "text-kNN, log_softmax for the others."
        },
    )
    steps: int = field(default=10, metadata={"help": "Weights are multiples of 1 / steps."})
    validation_cases: int = field(
        default=5000, metadata={"help": "Number of validation cases that the weights are fitted on, at most."}
    )
    item_knn_prior: float = field(default=10.0, metadata={"help": "Prior of item_knn, in events; above 0."})
    llm_scores: Literal["exact", "beams"] = field(
        default="exact",
        metadata={
            "help": "How recommenders score items: all of them (exact), or only the num_beams best of a beam search "
            "(beams), for large catalogues."
        },
    )
    num_beams: int = field(default=30, metadata={"help": "Number of beams of llm_scores beams, at least 20."})
    batch_size: int = field(default=32, metadata={"help": "Number of users in a batch of a recommender."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Data type of the weights of recommenders: 'float32', 'bfloat16' or 'auto' (as saved)."},
    )
    other_data: bool = field(
        default=False,
        metadata={
            "help": "Whether to allow models that were trained on another data set or split than `data_dir`; make "
            "sure that they were not trained on its validation and test events."
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the sample of validation cases, the bootstrap and the random baseline."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Whether to upload the fused ranker to the Hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Hub repository to upload to. Default: the name of `output_dir`."}
    )
    hub_private_repo: bool | None = field(
        default=None, metadata={"help": "Whether a new repository is private. Default: as the account is set."}
    )
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        check_least(1, steps=self.steps, validation_cases=self.validation_cases, batch_size=self.batch_size)
        check_least(20, num_beams=self.num_beams)
        read_normalizations(self.normalizations, list(read_sources(self.rankers)))


@lock_for_recipe("output_dir")
def main(arguments: FuseArguments) -> None:
    """Open the rankers, fit their weights, save the fused ranker and evaluate it."""
    # 1. Data and rankers
    started, sources = perf_counter(), read_sources(arguments.rankers)
    data, progress = load_data(arguments.data_dir), not arguments.quiet
    saved = {name: source for name, source in sources.items() if source not in BUILT_IN}
    refuse_other_model(arguments.output_dir, list(saved.values()))
    refuse_other_report(arguments.output_dir, data.info["name"], data.info.get("fingerprint"))
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    rankers = open_rankers(
        sources,
        data,
        arguments.data_dir,
        dataset=None if arguments.other_data else data.info,
        item_knn_prior=arguments.item_knn_prior,
        llm_scores=arguments.llm_scores,
        num_beams=arguments.num_beams,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        device=device,
    )
    normalizations = choose_normalizations(rankers, read_normalizations(arguments.normalizations, list(sources)))

    # 2. Weights, on the validation events
    weights = fit_weights(
        rankers,
        data.cases("validation"),
        normalizations,
        steps=arguments.steps,
        max_cases=arguments.validation_cases,
        seed=arguments.seed,
        progress=progress,
    )

    # 3. Save
    fingerprints = {"catalogue": catalogue_fingerprint(data.item_ids), "dataset": data.info.get("fingerprint")}
    fused = FusedRanker(rankers, weights, normalizations, sources=saved, **fingerprints)
    fused.save_pretrained(arguments.output_dir)

    # 4. Evaluate, and push
    cases, embeddings = data.cases("test"), find_embeddings(arguments.data_dir, data.item_ids)
    ranked, alone = fused.rank_each(cases.histories, list_length(len(data.item_ids)), progress=progress)
    info = {"model": "fused", "weights": weights, "normalizations": normalizations}
    names, _ = choose_baselines(None, items=len(data.item_ids), has_embeddings=embeddings is not None)
    report = evaluate_data(
        data, "test", ranked, other_rankers=alone, embeddings=embeddings, seed=arguments.seed, info=info,
        progress=progress, baselines=[name for name in names if name not in sources.values()],
    )  # fmt: skip
    lists = {name: row.rankings[True].items for name, row in alone.items()}
    report["overlap"] = compare_overlap(
        lists, cases.users, cases.targets, fused=ranked.rankings[True].items, seed=arguments.seed
    )
    write_report(report, arguments.output_dir)
    write_report_results(
        report, arguments.output_dir, system=Path(arguments.output_dir).name, command=typed_command(),
        device=device_name(device), seconds=perf_counter() - started,
    )  # fmt: skip
    write_fused_card(arguments.output_dir)
    if arguments.push_to_hub:
        repo_id = arguments.hub_model_id or Path(arguments.output_dir).name
        push_fused(arguments.output_dir, repo_id, private=arguments.hub_private_repo)
    print_report(report)
    print("Weights:", ", ".join(f"{name} {weight:g}" for name, weight in weights.items()))


if __name__ == "__main__":
    run_recipe(main)
