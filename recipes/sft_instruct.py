"""Instruction SFT: train LoRA and the SID rows to predict the next item of a user's history.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/sft_instruct.py \
        --config recipes/configs/ml-100k-smollm2-4layers/sft_instruct.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and the output directory of sft_grounding.py, or a base model. Writes
a complete Hub repository to `output_dir`: adapter, tokenizer, semantic ids, settings, model card. An interrupted run
resumes from its last checkpoint when started again; a finished one does nothing, unless it is given more steps or
epochs.

`--supervision one_target` is the usual prompt-completion form (LC-Rec, arXiv:2311.09049): one example per event, with
the loss on one SID. `--supervision dense` trains on windows of a sequence with the loss on the SID of every item after
the first, as SASRec (arXiv:1808.09781) does with items: a forward pass trains as many next items as the window holds,
about forty times more for the same prompt tokens. What changes with dense: items early in a window are predicted from
a short history, the targets of a window share a gradient step, and no end-of-sequence token is trained, so decoding
must stop by depth (`Recommender` does). The tokens before each target are the same in both. An instruction
(`instructed_next_item`) precedes a whole window, with the loss on the items that fulfill it.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformers import set_seed

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe
from genrec_hf.data import item_texts
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import load_for_training
from genrec_hf.semantic_ids import quantized_vectors
from genrec_hf.tasks import (
    DENSE,
    EventLimits,
    find_tasks,
    instruction_dataset,
    make_sources,
    read_weights,
    refuse_weights,
)
from genrec_hf.training.arguments import ModelArguments, SftTrainingArguments
from genrec_hf.training.resume import Run
from genrec_hf.training.sft import SidSftTrainer
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import Initialization, SidVocabulary


@dataclass
class InstructArguments:
    """Arguments for the next-item tasks."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    tasks: list[str] = field(
        default_factory=lambda: ["next_item"],
        metadata={"help": "Names of the tasks to mix, see genrec_hf/tasks/table.py."},
    )
    weights: list[str] = field(
        default_factory=list,
        metadata={
            "help": "How often the examples of a task are used, as task=2; 1 for tasks not named, whole numbers if "
            "dense."
        },
    )
    supervision: Literal["dense", "one_target"] = field(
        default="dense",
        metadata={"help": "Loss of next-item tasks: on every item of a window (dense), or on one target per example."},
    )
    max_history: int = field(
        default=40,
        metadata={"help": "Number of most recent items in a prompt, in training and in the saved recommender."},
    )
    init: Initialization = field(
        default="text",
        metadata={
            "help": "Initialization of new token rows: mean embedding of the item text, projected centroids of the "
            "codes, mean of all rows, or random."
        },
    )
    markers: bool = field(default=False, metadata={"help": "Put <|sid_begin|> and <|sid_end|> around every SID."})
    form: Literal["plain", "chat"] = field(
        default="plain",
        metadata={"help": "Form of the prompts: plain text, or the chat template of the model (one_target only)."},
    )
    normalization: Literal["full", "level"] = field(
        default="full",
        metadata={
            "help": "Tokens that the loss normalizes SID tokens over: the whole vocabulary, or the codes of the level."
        },
    )
    vocabulary_fraction: float = field(
        default=1.0,
        metadata={
            "help": "With normalization full: fraction of SIDs also scored against the text vocabulary; less is much "
            "faster."
        },
    )
    stream: bool = field(
        default=False,
        metadata={"help": "Generate examples during training, instead of a data set before it (one_target only)."},
    )

    def __post_init__(self) -> None:
        find_tasks(self.tasks)
        dense = [task for task in self.tasks if task in DENSE and self.supervision == "dense"]
        refuse_weights(self.tasks, read_weights(self.weights), dense)
        if dense and self.form == "chat":
            raise ValueError(
                "got form='chat' with supervision='dense': a turn of a chat has one answer; use one_target"
            )
        if dense and self.stream:
            raise ValueError(
                "got stream=True with supervision='dense', whose data set is built in memory: use one_target"
            )
        check_least(1, max_history=self.max_history)


@lock_for_recipe("output_dir")
def main(
    arguments: InstructArguments,
    validation: ValidationArguments,
    training: SftTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, train and save."""
    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    vocabulary = SidVocabulary(semantic_ids, markers=arguments.markers)

    # 2. Model. The trainer sets the seed too, but only after LoRA and new rows are initialized.
    set_seed(training.seed)
    item_vectors = quantized_vectors(semantic_ids, data, arguments.data_dir) if arguments.init == "centroids" else None
    model, tokenizer = load_for_training(
        model_arguments, vocabulary, init=arguments.init, item_texts=item_texts(data.items), item_vectors=item_vectors
    )

    # 3. Train
    limits = EventLimits(max_history=arguments.max_history)
    dataset, description = instruction_dataset(
        arguments.tasks,
        make_sources(data, vocabulary, tokenizer, limits=limits, seed=training.seed),
        data.training_sequences(),
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        weights=read_weights(arguments.weights),
        dense=arguments.supervision == "dense",
        stream=arguments.stream,
        form=arguments.form,
        seed=training.seed,
    )
    if training.should_log:
        print(description)
    trainer = SidSftTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        processing_class=tokenizer,
        vocabulary=vocabulary,
        normalization=arguments.normalization,
        vocabulary_fraction=arguments.vocabulary_fraction,
    )
    settings = {name: getattr(arguments, name) for name in ("max_history", "normalization", "markers", "form")}
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **settings)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **settings)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
