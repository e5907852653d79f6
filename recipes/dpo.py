"""Train a recommender with DPO or S-DPO, to prefer the next item to negatives.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/dpo.py \
        --config recipes/configs/ml-100k-smollm2-4layers-dpo/dpo.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and the output directory of sft_instruct.py, whose adapter is trained
further on exactly its prompts. Writes a complete Hub repository to `output_dir`: adapter, tokenizer, semantic ids,
settings, model card, training curves. An interrupted run resumes from its last checkpoint when started again; a
finished one does nothing, unless it is given more steps or epochs.

`--num_generations 2` is DPO (arXiv:2305.18290), with one negative per target; more is S-DPO (arXiv:2406.09215), with a
softmax over several. `--negatives` says where they come from: the model's own `beams` or `samples` (self-hard
negatives, as in OneRec, arXiv:2502.18965, but generated again in every step), `uniform` or `popular` items, or a
mixture. What differs: log-probabilities are those of decoding, over the allowed child codes.
"""

from dataclasses import dataclass, field
from typing import get_args

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import load_for_training, wrapping_of
from genrec_hf.settings import read_prompting
from genrec_hf.tasks import next_item_prompts, read_weights
from genrec_hf.training.arguments import DpoTrainingArguments, ModelArguments
from genrec_hf.training.preference import SidPreferenceTrainer
from genrec_hf.training.resume import Run
from genrec_hf.training.rollouts import Sampling, SidRollouts
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import SidVocabulary


@dataclass
class DpoArguments:
    """Arguments for the negatives."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    negatives: list[str] = field(
        default_factory=lambda: ["beams"],
        metadata={
            "help": "Source of the negatives: beams, samples, distinct_samples, uniform or popular; several with "
            "their shares, as beams=3 uniform=1."
        },
    )
    filter_seen: bool = field(default=True, metadata={"help": "Do not use items of the history as negatives."})
    prompts: int | None = field(
        default=None,
        metadata={"help": "Number of training events to make prompts of, sampled at random; by default all."},
    )

    def __post_init__(self) -> None:
        if not set(read_weights(self.negatives)) <= set(get_args(Sampling)) - {"unconstrained"}:
            names = ", ".join(name for name in get_args(Sampling) if name != "unconstrained")
            raise ValueError(f"got negatives={self.negatives}: use some of {names}, as beams=3")


@lock_for_recipe("output_dir")
def main(
    arguments: DpoArguments,
    validation: ValidationArguments,
    training: DpoTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, train and save."""
    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    revision = model_arguments.model_revision
    settings = read_prompting(model_arguments.model_name_or_path, semantic_ids, revision)
    vocabulary = SidVocabulary(semantic_ids, markers=settings["markers"])
    sequences = data.training_sequences()

    # 2. Model
    set_seed(training.seed)
    model, tokenizer = load_for_training(model_arguments, vocabulary, vectors=True)
    vectors = wrapping_of(model).first_vector is not None
    prompting = {"tokenizer": tokenizer, "titles": settings["titles"], "vectors": vectors}

    # 3. Train
    dataset = next_item_prompts(
        sequences,
        vocabulary,
        settings["max_history"],
        examples=arguments.prompts,
        seed=training.seed,
        **prompting,
    )
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rollouts = SidRollouts(
        vocabulary,
        tokenizer,
        sampling=read_weights(arguments.negatives),
        form=settings["form"],
        inject_target=True,
        max_prompt=None if window is None else window - semantic_ids.levels,
        events=data.item_counts(),
    )
    trainer = SidPreferenceTrainer(
        model,
        training,
        rollouts=rollouts,
        filter_seen=arguments.filter_seen,
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **settings)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **settings)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
