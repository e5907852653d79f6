"""Evaluate what a model answers to tasks of the table, and whether it does what users say.

    python recipes/evaluate_tasks.py --data_dir data/ml-100k --output_dir outputs/quickstart \
        --tasks sid_to_title title_to_sid query_to_sid candidates_to_next_item rating_stars

Reads `data_dir` and a recommender (`output_dir`, or `--recommender`). Writes `tasks.json` and `tasks.md` into
`output_dir`. Events are those of a held-out split; items are all those of the catalogue, so grounding tasks tell what
was kept in mind, not what generalises. `--unseen true` asks in words that no training example uses.

Metrics follow from the answer: recall and NDCG of constrained beams for items, hit@1 among candidates, RMSE and MAE
for stars, accuracy for yes or no, BLEU and ROUGE-L for words (P5, arXiv:2203.13366, reports the same per family); of
a title among candidates hit@1 held to their titles, and the share of free answers that are one (LLaRA's protocol).
`--instruction_following true` adds the instruction-following rate: the share of recommended items that fulfil an instruction in words, made
from item attributes and not from the target, beside the lists of the same model when nothing is said.
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
from genrec_hf.directories import one_run, write_text
from genrec_hf.evaluation.task_metrics import evaluate_instruction_following, evaluate_task, tasks_markdown
from genrec_hf.hub import load_recommender
from genrec_hf.tasks import EventLimits, find_tasks, make_sources


@dataclass
class TaskEvaluationArguments:
    """What to ask, and of whom."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    output_dir: str = field(metadata={"help": "Folder to write to; the recommender's own, if no other is named."})
    recommender: str | None = field(default=None, metadata={"help": "Output directory of a recipe, or a Hub id."})
    other_data: bool = field(
        default=False, metadata={"help": "Evaluate on other data than a model was trained on; see that none leaks."}
    )
    tasks: list[str] = field(default_factory=lambda: ["sid_to_title", "title_to_sid"], metadata={"help": "To ask."})
    examples: int = field(default=1000, metadata={"help": "Examples a task, drawn; all where there are fewer."})
    unseen: bool = field(default=False, metadata={"help": "Ask in paraphrases that training leaves out."})
    instruction_following: bool = field(default=False, metadata={"help": "Measure instruction following of lists."})
    split: Literal["test", "validation"] = field(default="test", metadata={"help": "Whose events."})
    batch_size: int = field(default=32, metadata={"help": "Prompts a batch."})
    dtype: str = field(default="auto", metadata={"help": "Of the weights: 'auto', 'float32', 'bfloat16'."})
    seed: int = field(default=0, metadata={"help": "Seed of examples, words, candidates and instructions."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        find_tasks(self.tasks)
        check_least(1, examples=self.examples, batch_size=self.batch_size)


@one_run("output_dir")
def main(arguments: TaskEvaluationArguments) -> None:
    """Ask, score, report."""
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
    how = {"batch_size": arguments.batch_size, "seed": arguments.seed, "progress": not arguments.quiet}
    report: dict = {"dataset": data.info["name"], "split": arguments.split, "unseen": arguments.unseen, "tasks": {}}
    report |= {"other_data": True} if arguments.other_data else {}
    for task in find_tasks(arguments.tasks):
        report["tasks"][task.name] = evaluate_task(
            recommender, task, sources, examples=arguments.examples, unseen=arguments.unseen, **how
        )

    # 3. Instructions
    if arguments.instruction_following:
        report["instructions"] = evaluate_instruction_following(
            recommender,
            sources["events"],
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            progress=not arguments.quiet,
        )

    # 4. Report
    output_dir = Path(arguments.output_dir)
    write_text(output_dir / "tasks.json", json.dumps(report, indent=2))
    write_text(output_dir / "tasks.md", tasks_markdown(report))
    print(tasks_markdown(report))


if __name__ == "__main__":
    run_recipe(main)
