"""Compare recommenders on the same users, with paired differences and means over seeds.

    python recipes/compare_recommenders.py --data_dir data/ml-100k --output_dir outputs/grpo-beside-sft \
        --systems SFT=outputs/quickstart GRPO=outputs/grpo
    python recipes/compare_recommenders.py --data_dir data/ml-100k --output_dir outputs/grpo-beside-sft \
        --systems SFT=outputs/s42,outputs/s1 GRPO=outputs/g42,outputs/g1 SASRec=data/ml-100k/sasrec

Reads `data_dir` (prepare_data.py) and, for each system, the outputs of one recipe with one or more seeds: recommenders
or SASRecs, each a folder or a Hub repository. Writes `comparison.json`, `comparison.md` and `comparison.png` to
`output_dir`.

The metrics are recall@10 and ndcg@10 over the whole catalogue and all users, with seen items filtered by default, and
95 % bootstrap intervals over users of the means over seeds. Differences to the first system are paired by user, so
that the difficulty of a case, which affects both systems, cancels out. Coverage and popularity (mean number of
training events of the recommended items) are reported too, and with `--unconstrained_samples 16` the share of samples
from the whole vocabulary that are items.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from genrec_hf.command_line import run_recipe
from genrec_hf.data import load_data
from genrec_hf.directories import lock_for_recipe
from genrec_hf.evaluation import compare_lists, filtered_targets, list_length, write_comparison
from genrec_hf.evaluation.comparison import comparison_markdown
from genrec_hf.generation import Recommender, SearchSettings, unconstrained_validity
from genrec_hf.rankers import load_ranker
from genrec_hf.ranking import checked_ranking


@dataclass
class CompareArguments:
    """Arguments of the comparison; `--help` describes them."""

    data_dir: str = field(metadata={"help": "Folder of the data set, written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Folder to write the comparison to."})
    systems: list[str] = field(
        metadata={
            "help": "Systems to compare, each as NAME=FOLDER,FOLDER with one folder or Hub repository for each seed; "
            "the first one is the reference."
        }
    )
    other_data: bool = field(
        default=False,
        metadata={
            "help": "Whether to allow models that were trained on another data set or split than `data_dir`; make "
            "sure that they were not trained on its test events."
        },
    )
    split: Literal["test", "validation"] = field(
        default="test",
        metadata={"help": "Split to evaluate on: 'test', or 'validation' to select hyperparameters."},
    )
    filter_seen: bool = field(
        default=True, metadata={"help": "Whether to exclude the items of the history from the lists."}
    )
    unconstrained_samples: int = field(
        default=0,
        metadata={
            "help": "Number of samples from the whole vocabulary for each user, of which the share that are items is "
            "reported; 0 for none."
        },
    )
    num_beams: int = field(default=30, metadata={"help": "Number of beams of the beam search, at least 20."})
    batch_size: int = field(default=32, metadata={"help": "Number of users in a batch."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Data type of the models' weights: 'float32', 'bfloat16' or 'auto' (as saved)."},
    )
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        if self.num_beams < 20:
            raise ValueError(f"got num_beams={self.num_beams!r}: the lists have 20 items; pass at least 20")
        pairs = [system.partition("=") for system in self.systems]
        if len(pairs) < 2 or len({name for name, *_ in pairs}) < len(pairs) or not all(n and p for n, _, p in pairs):
            raise ValueError(
                f"got systems={self.systems}: pass at least two with different names, such as "
                "SFT=outputs/a,outputs/b GRPO=outputs/c"
            )


@lock_for_recipe("output_dir")
def main(arguments: CompareArguments) -> None:
    """Rank the items with each system, compare the lists and write the comparison."""
    # 1. Data
    data = load_data(arguments.data_dir)
    cases, items = data.cases(arguments.split), len(data.item_ids)
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    progress, trained_on = not arguments.quiet, None if arguments.other_data else data.info

    # 2. Lists
    lists: dict[str, list[np.ndarray]] = {}
    unconstrained: dict[str, list[np.ndarray]] = {}
    search = SearchSettings(arguments.num_beams, batch_size=arguments.batch_size)
    for name, _, folders in (system.partition("=") for system in arguments.systems):
        lists[name] = []
        for folder in folders.split(","):
            ranker = load_ranker(
                folder, data.item_ids, dataset=trained_on, device=device, dtype=arguments.dtype, search=search
            )
            ranking = checked_ranking(
                ranker, cases.histories, list_length(items), filter_seen=arguments.filter_seen, progress=progress
            )
            lists[name].append(ranking.items)
            if arguments.unconstrained_samples and isinstance(ranker, Recommender):
                validity = unconstrained_validity(
                    ranker, cases.histories, num_samples=arguments.unconstrained_samples, progress=progress
                )
                unconstrained.setdefault(name, []).append(validity)

    # 3. Report
    protocol = {
        "dataset": data.info["name"],
        "split": f"{data.info['split']}, {arguments.split}",
        "tie_break": data.info["tie_break"],
        "filter_seen": arguments.filter_seen,
        "systems": arguments.systems,
        "unconstrained_samples": arguments.unconstrained_samples,
        "other_data": arguments.other_data,
    }
    if arguments.filter_seen and (share := filtered_targets(cases.histories, cases.targets)):
        protocol["filtered_targets"] = share
    report = compare_lists(
        lists,
        cases.users,
        cases.targets,
        events=data.item_counts(),
        reference=next(iter(lists)),
        protocol=protocol,
        unconstrained=unconstrained,
    )
    write_comparison(report, arguments.output_dir)
    print(comparison_markdown(report))


if __name__ == "__main__":
    run_recipe(main)
