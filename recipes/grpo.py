"""Train a recommender with GRPO, on rewards of the items that it generates.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/grpo.py \
        --config recipes/configs/ml-100k-smollm2-4layers-grpo/grpo.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and the output directory of sft_instruct.py, whose adapter is trained
further on exactly its prompts. Writes a complete Hub repository to `output_dir`: adapter, tokenizer, semantic ids,
settings, model card, training curves. An interrupted run resumes from its last checkpoint when started again; a
finished one does nothing, unless it is given more steps or epochs.

Group relative policy optimization (arXiv:2402.03300) with TRL's trainer, as in MiniOneRec (arXiv:2510.24431) for
semantic ids. What differs: the loss normalizes log-probabilities as the sampling does (over allowed child codes, with
the temperature), a prompt is read once per group in rollouts and loss, and rewards are chosen by name and weight
(`--rewards exact=1 prefix=0.5`). `--sampling` says how completions are generated: `beams` (no sampling, so the update
is list-wise), `samples`, `distinct_samples` (without replacement), or `unconstrained`, which may give tokens that are
no item, for the reward `validity`; a group can mix several (`samples=3 beams=1`). With `--list_length 5` a completion
is a list, sampled item after item, for the reward `list_ndcg`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.data.item_embeddings import EMBEDDINGS_FILE, load_embeddings
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import load_for_training, load_sasrec, wrapping_of
from genrec_hf.settings import read_prompting
from genrec_hf.tasks import next_item_prompts, read_weights
from genrec_hf.training.arguments import GrpoTrainingArguments, ModelArguments
from genrec_hf.training.grpo import SidGrpoTrainer
from genrec_hf.training.resume import Run
from genrec_hf.training.reward_selection import make_rewards, read_rewards
from genrec_hf.training.rollouts import Sampling, SidRollouts
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import SidVocabulary


@dataclass
class GrpoArguments:
    """Arguments for rewards and rollouts."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    rewards: list[str] = field(
        default_factory=lambda: ["exact=1", "cooccurrence=1"],
        metadata={"help": "Rewards, as name=weight; a weight of 0 only logs the reward."},
    )
    sampling: list[str] = field(
        default_factory=lambda: ["beams"],
        metadata={
            "help": "How completions are generated: samples, distinct_samples, beams or unconstrained; several with "
            "their shares of a group, as samples=3 beams=1."
        },
    )
    list_length: int = field(
        default=1,
        metadata={"help": "Number of items per completion; more than 1 for the reward list_ndcg, with samples only."},
    )
    rollout_temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of completions, above 0."})
    prompts: int | None = field(
        default=None,
        metadata={"help": "Number of training events to make prompts of, sampled at random; by default all."},
    )
    inject_target: bool = field(
        default=False, metadata={"help": "Replace the last completion of groups without the target by the target."}
    )
    mask_target_prefix: bool = field(
        default=False, metadata={"help": "Do not penalize the prefix shared with the target."}
    )
    filter_seen: bool = field(default=True, metadata={"help": "Ignore items of the history in the loss."})
    resample: int = field(
        default=0, metadata={"help": "Resample groups with zero advantage, at most this many times."}
    )
    denied: list[str] = field(default_factory=list, metadata={"help": "Item ids that the reward deny penalizes."})
    sasrec: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the SASRec for the reward collaborative."}
    )

    def __post_init__(self) -> None:
        if not self.rollout_temperature > 0:
            raise ValueError(f"got rollout_temperature={self.rollout_temperature}: give a value above 0")
        rewards = read_rewards(self.rewards)
        if "list_ndcg" in rewards and self.list_length < 2:
            raise ValueError(
                f"got the reward 'list_ndcg' with list_length={self.list_length}, which has no lists: give 2 or more"
            )
        if "history" in rewards and self.filter_seen:
            raise ValueError(
                "got the reward 'history' with filter_seen=True, which ignores items of the history: set filter_seen "
                "to false"
            )
        names = [name for name in get_args(Sampling) if name not in ("uniform", "popular")]  # of the policy
        if not set(read_weights(self.sampling)) <= set(names):
            raise ValueError(f"got sampling={self.sampling}: use some of {', '.join(names)}, as samples=3")


@lock_for_recipe("output_dir")
def main(
    arguments: GrpoArguments,
    validation: ValidationArguments,
    training: GrpoTrainingArguments,
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
    weights = read_rewards(arguments.rewards)
    embeddings = sasrec = None
    if "semantic" in weights:
        embeddings = load_embeddings(Path(arguments.data_dir) / EMBEDDINGS_FILE, data.item_ids)
    if arguments.sasrec is not None:
        sasrec = load_sasrec(arguments.sasrec, data.item_ids, dataset=data.info)
    rewards = make_rewards(
        list(weights), data, semantic_ids, denied=arguments.denied, embeddings=embeddings, sasrec=sasrec
    )

    # 2. Model
    set_seed(training.seed)
    model, tokenizer = load_for_training(model_arguments, vocabulary, vectors=True)
    vectors = wrapping_of(model).first_vector is not None
    prompting = {"tokenizer": tokenizer, "titles": settings["titles"], "vectors": vectors}

    # 3. Train
    dataset = next_item_prompts(
        data.training_sequences(),
        vocabulary,
        settings["max_history"],
        examples=arguments.prompts,
        seed=training.seed,
        following=arguments.list_length,
        **prompting,
    )
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rollouts = SidRollouts(
        vocabulary,
        tokenizer,
        sampling=read_weights(arguments.sampling),
        temperature=arguments.rollout_temperature,
        form=settings["form"],
        max_prompt=None if window is None else window - semantic_ids.levels * arguments.list_length,
        inject_target=arguments.inject_target,
        list_length=arguments.list_length,
    )
    training.reward_weights = list(weights.values())
    trainer = SidGrpoTrainer(
        model,
        rewards,
        training,
        rollouts=rollouts,
        mask_target_prefix=arguments.mask_target_prefix,
        resample=arguments.resample,
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
