"""Grounding SFT: train LoRA and the SID rows on tasks that relate SIDs to item text.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/sft_grounding.py \
        --config recipes/configs/ml-100k-smollm2-4layers/sft_grounding.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and a base model, or the output directory of an earlier recipe, whose
adapter is trained further. Writes a complete Hub repository to `output_dir`: adapter, tokenizer, semantic ids,
settings, model card. An interrupted run resumes from its last checkpoint when started again; a finished one does
nothing, unless it is given more steps or epochs.

Tasks follow LC-Rec (arXiv:2311.09049): SID <-> title, SID <-> text, SID -> category, prefix -> category, and SID ->
SID of items that co-occur in user histories; `--tasks` takes any task of `genrec_hf/tasks/table.py`. What differs:
LoRA and the SID rows of the embedding are trained, where LC-Rec trains all weights; co-occurrence is counted in
training events only.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.data import item_texts
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import load_for_training
from genrec_hf.semantic_ids import quantized_vectors
from genrec_hf.tasks import GROUNDING, EventLimits, Mixture, find_tasks, make_sources, read_weights
from genrec_hf.training.arguments import ModelArguments, SftTrainingArguments
from genrec_hf.training.resume import Run
from genrec_hf.training.sft import SidSftTrainer
from genrec_hf.vocabulary import Initialization, SidVocabulary


@dataclass
class GroundingArguments:
    """Arguments for the grounding tasks."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    tasks: list[str] = field(
        default_factory=lambda: list(GROUNDING),
        metadata={"help": "Names of the tasks to mix, see genrec_hf/tasks/table.py."},
    )
    weights: list[str] = field(
        default_factory=list,
        metadata={"help": "How often the examples of a task are used, as task=0.5; 1 for tasks not named."},
    )
    neighbours: int = field(default=3, metadata={"help": "Number of co-occurring items per item."})
    max_characters: int = field(default=200, metadata={"help": "Maximum number of characters of an item text."})
    init: Initialization = field(
        default="text",
        metadata={
            "help": "Initialization of new token rows: mean embedding of the item text, projected centroids of the "
            "codes, mean of all rows, or random."
        },
    )
    markers: bool = field(default=False, metadata={"help": "Put <|sid_begin|> and <|sid_end|> around every SID."})
    form: Literal["plain", "chat"] = field(
        default="plain", metadata={"help": "Form of the prompts: plain text, or the chat template of the model."}
    )
    normalization: Literal["full", "level"] = field(
        default="full",
        metadata={
            "help": "Tokens that the loss normalizes SID tokens over: the whole vocabulary, or the codes of the level."
        },
    )
    stream: bool = field(
        default=False, metadata={"help": "Generate examples during training, instead of a data set before it."}
    )
    max_history: int = field(
        default=40, metadata={"help": "Number of most recent items that the saved recommender reads."}
    )

    def __post_init__(self) -> None:
        find_tasks(self.tasks)
        read_weights(self.weights)


@lock_for_recipe("output_dir")
def main(arguments: GroundingArguments, training: SftTrainingArguments, model_arguments: ModelArguments) -> None:
    """Load, train and save."""
    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    vocabulary = SidVocabulary(semantic_ids, markers=arguments.markers)

    # 2. Model. The trainer sets the seed too, but only after LoRA and new rows are initialized.
    set_seed(training.seed)
    texts = item_texts(data.items, max_characters=arguments.max_characters)
    item_vectors = quantized_vectors(semantic_ids, data, arguments.data_dir) if arguments.init == "centroids" else None
    model, tokenizer = load_for_training(
        model_arguments, vocabulary, init=arguments.init, item_texts=texts, item_vectors=item_vectors
    )

    # 3. Train
    limits = EventLimits(max_history=arguments.max_history)
    sources = make_sources(
        data,
        vocabulary,
        tokenizer,
        split="train",
        max_characters=arguments.max_characters,
        neighbours=arguments.neighbours,
        limits=limits,
        seed=training.seed,
    )
    weights = read_weights(arguments.weights)
    mixture = Mixture(arguments.tasks, sources, weights, seed=training.seed, form=arguments.form)
    if training.should_log:
        print(mixture.describe())
    trainer = SidSftTrainer(
        model=model,
        args=training,
        train_dataset=mixture.stream() if arguments.stream else mixture.dataset(),
        processing_class=tokenizer,
        vocabulary=vocabulary,
        normalization=arguments.normalization,
    )
    run.train(trainer)

    # 4. Save, and push
    save_trained(
        trainer,
        semantic_ids,
        data,
        max_history=arguments.max_history,
        normalization=arguments.normalization,
        markers=arguments.markers,
        form=arguments.form,
    )
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
