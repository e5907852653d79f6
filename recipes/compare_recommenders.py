"""Compare recommenders on the same users: means over seeds, paired differences, and what each recommends.

    python recipes/compare_recommenders.py --data_dir data/ml-100k --output_dir outputs/grpo-beside-sft \
        --systems SFT=outputs/quickstart GRPO=outputs/grpo
    python recipes/compare_recommenders.py --data_dir data/ml-100k --output_dir outputs/grpo-beside-sft \
        --systems SFT=outputs/s42,outputs/s1 GRPO=outputs/g42,outputs/g1 SASRec=data/ml-100k/sasrec

Reads `data_dir` (prepare_data.py) and for each system the outputs of one recipe, once a seed: recommenders or SASRecs,
each a folder or a Hub repository. Writes `comparison.json`, `comparison.md` and `comparison.png` to `output_dir`.

recall@10 and ndcg@10 over the whole catalogue, every user counted, seen items filtered unless told otherwise, with
95 % bootstrap intervals over users of the means over seeds. Differences to the first system are paired user by user,
so what is hard for both cancels. Coverage and popularity (mean training events of what is recommended) tell what a
gain costs; with `--unconstrained_samples 16`, so does the share of answers that are items when nothing holds a model to them.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState

from genrec_hf.command_line import run_recipe
from genrec_hf.data import load_data
from genrec_hf.directories import one_run
from genrec_hf.evaluation import compare_lists, filtered_targets, list_length, write_comparison
from genrec_hf.evaluation.comparison import comparison_markdown
from genrec_hf.generation import Recommender, SearchSettings, unconstrained_validity
from genrec_hf.rankers import load_ranker
from genrec_hf.ranking import checked_ranking


@dataclass
class CompareArguments:
    """What to compare, and on what."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Folder to write to."})
    systems: list[str] = field(metadata={"help": "NAME=FOLDER,FOLDER (or Hub ids), one a seed; the reference first."})
    other_data: bool = field(
        default=False, metadata={"help": "Evaluate on other data than a model was trained on; see that none leaks."}
    )
    split: Literal["test", "validation"] = field(
        default="test", metadata={"help": "'test', or 'validation' for choosing settings."}
    )
    filter_seen: bool = field(default=True, metadata={"help": "Leave the items of a history out of lists."})
    unconstrained_samples: int = field(
        default=0, metadata={"help": "IndependentSamples a user from the whole vocabulary: how many are items."}
    )
    num_beams: int = field(default=30, metadata={"help": "Width of the beam search, 20 or more."})
    batch_size: int = field(default=32, metadata={"help": "Users a batch."})
    dtype: str = field(default="float32", metadata={"help": "Of the models: 'float32', 'bfloat16', 'auto'."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        if self.num_beams < 20:
            raise ValueError(f"got num_beams={self.num_beams!r}; the lists are 20 long, give 20 or more")
        pairs = [system.partition("=") for system in self.systems]
        if len(pairs) < 2 or len({name for name, *_ in pairs}) < len(pairs) or not all(n and p for n, _, p in pairs):
            raise ValueError(
                f"got systems={self.systems}; give two or more of their own names, as SFT=outputs/a,outputs/b"
            )


@one_run("output_dir")
def main(arguments: CompareArguments) -> None:
    """Rank with each, compare, report."""
    # 1. Data
    data = load_data(arguments.data_dir)
    cases, items = data.cases(arguments.split), len(data.item_ids)
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    bars, trained_on = not arguments.quiet, None if arguments.other_data else data.info

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
                ranker, cases.histories, list_length(items), filter_seen=arguments.filter_seen, progress=bars
            )
            lists[name].append(ranking.items)
            if arguments.unconstrained_samples and isinstance(ranker, Recommender):
                drawn = unconstrained_validity(
                    ranker, cases.histories, num_samples=arguments.unconstrained_samples, progress=bars
                )
                unconstrained.setdefault(name, []).append(drawn)

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
