"""DPO and S-DPO: the item that came is preferred to items that did not, hard ones of the model's own among them.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/dpo.py \
        --config recipes/configs/ml-100k-smollm2-4layers-dpo/dpo.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and the output directory of sft_instruct.py, whose adapter goes on
and whose prompts are asked, byte for byte. Writes a whole Hub repository to `output_dir`: adapter, tokenizer, semantic
ids, settings, card, curves. A rerun of an interrupted run goes on from its last checkpoint, and one of a finished run
does nothing, unless it is to be longer.

`--num_generations 2` is DPO (arXiv:2305.18290), one negative a target; more is S-DPO (arXiv:2406.09215), a softmax
over several. `--negatives` says where they come from: the model's own `beams` or `samples` (self-hard, as in OneRec,
arXiv:2502.18965, whose rounds of new negatives are one step long here), `uniform` items, `popular` ones, or shares of
several. What differs: log-probabilities are those of decoding, over the legal children of each code.
"""

from dataclasses import dataclass, field
from typing import get_args

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.directories import one_run
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
    """What is preferred to what."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    negatives: list[str] = field(
        default_factory=lambda: ["beams"],
        metadata={"help": "Shares of 'beams', 'samples', 'distinct_samples' draws, 'uniform' or 'popular' items."},
    )
    filter_seen: bool = field(default=True, metadata={"help": "Items that the user had already are no negatives."})
    prompts: int | None = field(default=None, metadata={"help": "Training events to ask about, drawn; all of them."})

    def __post_init__(self) -> None:
        if not set(read_weights(self.negatives)) <= set(get_args(Sampling)) - {"unconstrained"}:
            known = ", ".join(name for name in get_args(Sampling) if name != "unconstrained")
            raise ValueError(f"got negatives={self.negatives}; use some of {known}, as beams=3")


@one_run("output_dir")
def main(
    arguments: DpoArguments,
    validation: ValidationArguments,
    training: DpoTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, prefer, save."""
    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    revision = model_arguments.model_revision
    how = read_prompting(model_arguments.model_name_or_path, semantic_ids, revision)
    vocabulary = SidVocabulary(semantic_ids, markers=how["markers"])
    sequences = data.training_sequences()

    # 2. Model
    set_seed(training.seed)
    model, tokenizer = load_for_training(model_arguments, vocabulary, vectors=True)
    vectors = wrapping_of(model).first_vector is not None
    prompting = {"tokenizer": tokenizer, "titles": how["titles"], "vectors": vectors}

    # 3. Train
    dataset = next_item_prompts(
        sequences, vocabulary, how["max_history"], examples=arguments.prompts, seed=training.seed, **prompting
    )
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rollouts = SidRollouts(
        vocabulary,
        tokenizer,
        sampling=read_weights(arguments.negatives),
        form=how["form"],
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
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **how)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **how)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
