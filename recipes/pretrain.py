"""Continue pre-training on the SID sequences of whole users, mixed with the text of items.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/pretrain.py \
        --config recipes/configs/ml-100k-smollm2-4layers/pretrain.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and a base model, or the output directory of an earlier recipe.
Writes a complete Hub repository to `output_dir`, which the other recipes can start from: weights, tokenizer, semantic
ids, settings, model card. An interrupted run resumes from its last checkpoint when started again; a finished one does
nothing, unless it is given more steps or epochs.

Follows the continued pre-training of PLUM (arXiv:2510.07784) in stages, each of which starts from the output of the
one before: `--stage rows` trains the rows of the SID tokens and leaves the language model unchanged, `--stage lora`
trains LoRA and the rows, `--stage full` (with `use_peft: false`) trains all weights and saves a model without adapter.
What differs from PLUM: the stages, public data, and no features of events between the SIDs.

`--packing true` fills rows of `max_length` tokens with several users, who do not attend to each other; settings and
models with which they would are refused. With sdpa and eager attention a batch is one row of
`per_device_train_batch_size x max_length` tokens, and the cost of attention is quadratic in it: use a batch size of 1
and gradient accumulation.
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
from genrec_hf.tasks import pretraining_dataset
from genrec_hf.training.arguments import ModelArguments, SftTrainingArguments
from genrec_hf.training.resume import Run
from genrec_hf.training.sft import SidSftTrainer
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import Initialization, SidVocabulary


@dataclass
class PretrainArguments:
    """Arguments for the training data and the trained weights."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    stage: Literal["rows", "lora", "full"] = field(
        default="rows", metadata={"help": "Trained weights: the SID rows, LoRA and the SID rows, or all."}
    )
    item_share: float = field(
        default=0.5, metadata={"help": "Fraction of tokens that are item text, from 0 to below 1."}
    )
    max_characters: int = field(default=200, metadata={"help": "Maximum number of characters of an item text."})
    init: Initialization = field(
        default="text",
        metadata={
            "help": "Initialization of new token rows: mean embedding of the item text, projected centroids of the "
            "codes, mean of all rows, or random."
        },
    )
    markers: bool = field(default=False, metadata={"help": "Put <|sid_begin|> and <|sid_end|> around every SID."})
    normalization: Literal["full", "level"] = field(
        default="full",
        metadata={
            "help": "Tokens that the loss normalizes SID tokens over: the whole vocabulary, or the codes of the level."
        },
    )
    max_history: int = field(
        default=40, metadata={"help": "Number of most recent items that the saved recommender reads."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.item_share < 1:
            raise ValueError(f"got item_share={self.item_share}: give a fraction from 0 to below 1")


@lock_for_recipe("output_dir")
def main(
    arguments: PretrainArguments,
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
    texts = item_texts(data.items, max_characters=arguments.max_characters)
    item_vectors = quantized_vectors(semantic_ids, data, arguments.data_dir) if arguments.init == "centroids" else None
    model, tokenizer = load_for_training(
        model_arguments,
        vocabulary,
        init=arguments.init,
        item_texts=texts,
        item_vectors=item_vectors,
        stage=arguments.stage,
    )

    # 3. Train
    dataset = pretraining_dataset(
        data,
        vocabulary,
        tokenizer,
        max_length=training.max_length,
        item_share=arguments.item_share,
        max_characters=arguments.max_characters,
        seed=training.seed,
    )
    trainer = SidSftTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        processing_class=tokenizer,
        vocabulary=vocabulary,
        normalization=arguments.normalization,
    )
    settings = {name: getattr(arguments, name) for name in ("max_history", "normalization", "markers")}
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **settings)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **settings)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
