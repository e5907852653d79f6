"""Evaluate a recommender on instruction tasks, and how well its lists follow instructions.

    python recipes/evaluate_tasks.py --data_dir data/ml-100k --output_dir outputs/quickstart \
        --tasks sid_to_title title_to_sid query_to_sid candidates_to_next_item rating_stars

Reads `data_dir` and a recommender (`output_dir`, or `--recommender`). Writes `tasks.json` and `tasks.md` to
`output_dir`. Events are those of a held-out split. Items are those of the whole catalogue, so that grounding tasks
measure memorization of the catalogue, not generalization. `--unseen true` uses the paraphrases that are not used in
training.

The metrics depend on the answer: recall and NDCG of a beam search over the catalogue for items, hit@1 among
candidates, RMSE and MAE for ratings, accuracy for yes or no, BLEU and ROUGE-L for text (P5, arXiv:2203.13366, reports
the same for each family of tasks). For a title among candidates they are hit@1 over the candidates' titles, and the
share of unconstrained answers that are one of these titles (LLaRA's protocol). `--instruction_following true` adds the
share of recommended items that fulfil an instruction in words, which is made from item attributes and not from the
target, with the instruction and without it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe
from genrec_hf.data import load_data
from genrec_hf.directories import lock_for_recipe, write_text
from genrec_hf.evaluation.task_metrics import evaluate_instruction_following, evaluate_task, tasks_markdown
from genrec_hf.hub import load_recommender
from genrec_hf.tasks import EventLimits, find_tasks, make_sources


@dataclass
class TaskEvaluationArguments:
    """Arguments of the evaluation on tasks; `--help` describes them."""

    data_dir: str = field(metadata={"help": "Folder of the data set, written by prepare_data.py and build_sids.py."})
    output_dir: str = field(
        metadata={"help": "Folder to write the results to. Holds the recommender if `recommender` is not given."}
    )
    recommender: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub repository of the recommender to evaluate. Default: `output_dir`."},
    )
    other_data: bool = field(
        default=False,
        metadata={
            "help": "Whether to allow a model that was trained on another data set or split than `data_dir`; make "
            "sure that it was not trained on its test events."
        },
    )
    tasks: list[str] = field(
        default_factory=lambda: ["sid_to_title", "title_to_sid"],
        metadata={"help": "Names of the tasks to evaluate on. Default: sid_to_title and title_to_sid."},
    )
    examples: int = field(
        default=1000, metadata={"help": "Number of examples sampled for each task; all of them if there are fewer."}
    )
    unseen: bool = field(
        default=False,
        metadata={"help": "Whether to use the paraphrases that are not used in training, instead of those that are."},
    )
    instruction_following: bool = field(
        default=False,
        metadata={"help": "Whether to also measure the share of recommended items that fulfil an instruction."},
    )
    split: Literal["test", "validation"] = field(
        default="test", metadata={"help": "Split whose events are used: 'test' or 'validation'."}
    )
    batch_size: int = field(default=32, metadata={"help": "Number of prompts in a batch."})
    dtype: str = field(
        default="auto",
        metadata={"help": "Data type of the model's weights: 'auto' (as saved), 'float32' or 'bfloat16'."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the examples, paraphrases, candidates and instructions."})
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        find_tasks(self.tasks)
        check_least(1, examples=self.examples, batch_size=self.batch_size)


@lock_for_recipe("output_dir")
def main(arguments: TaskEvaluationArguments) -> None:
    """Evaluate the recommender on each task and write the results."""
    # 1. Model
    data = load_data(arguments.data_dir)
    recommender = load_recommender(
        arguments.recommender or arguments.output_dir,
        dtype=arguments.dtype,
        dataset=None if arguments.other_data else data.info,
    )
    recommender.model.to(PartialState(cpu=not torch.accelerator.is_available()).device)

    # 2. Tasks
    sources = make_sources(
        data,
        recommender.vocabulary,
        recommender.tokenizer,
        split=arguments.split,
        limits=EventLimits(max_history=recommender.max_history),
        seed=arguments.seed,
        vectors=recommender.first_vector is not None,
    )
    settings = {"batch_size": arguments.batch_size, "seed": arguments.seed, "progress": not arguments.quiet}
    report: dict = {"dataset": data.info["name"], "split": arguments.split, "unseen": arguments.unseen, "tasks": {}}
    report |= {"other_data": True} if arguments.other_data else {}
    for task in find_tasks(arguments.tasks):
        report["tasks"][task.name] = evaluate_task(
            recommender, task, sources, examples=arguments.examples, unseen=arguments.unseen, **settings
        )

    # 3. Instructions
    if arguments.instruction_following:
        report["instructions"] = evaluate_instruction_following(
            recommender,
            sources["events"],
            **settings,
        )

    # 4. Report
    output_dir = Path(arguments.output_dir)
    write_text(output_dir / "tasks.json", json.dumps(report, indent=2))
    write_text(output_dir / "tasks.md", tasks_markdown(report))
    print(tasks_markdown(report))


if __name__ == "__main__":
    run_recipe(main)
