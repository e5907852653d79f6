"""GRPO: a recommender draws items for its own prompts, and learns from what they are worth.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/grpo.py \
        --config recipes/configs/ml-100k-smollm2-4layers-grpo/grpo.yaml

Reads `data_dir` (prepare_data.py, build_sids.py) and the output directory of sft_instruct.py, whose adapter goes on
and whose prompts are asked, byte for byte. Writes a whole Hub repository to `output_dir`: adapter, tokenizer, semantic
ids, settings, card, curves. A rerun of an interrupted run goes on from its last checkpoint, and one of a finished run
does nothing, unless it is to be longer.

Group relative policy optimisation (arXiv:2402.03300) with TRL's own trainer, as MiniOneRec (arXiv:2510.24431) uses it
for semantic ids. What differs: the loss scores completions over what they were drawn from (legal children, temperature
included), a prompt is read once a group in rollouts and loss, and rewards are composed by name and weight (`--rewards
exact=1 prefix=0.5`). `--sampling` says how completions come about: `beams` (no draws of the policy: a list-wise
update), `samples`, `distinct_samples` draws, or `unconstrained`, any tokens, for the reward `validity`; shares of several (`samples=3
beams=1`) make up a group. With `--list_length 5` a completion is a list, drawn item after item, for `list_ndcg`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.data.item_embeddings import load_embeddings
from genrec_hf.directories import one_run
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
    """What to reward, and how completions come about."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    rewards: list[str] = field(
        default_factory=lambda: ["exact=1", "cooccurrence=1"],
        metadata={"help": "Rewards, as name=weight; 0 only measures."},
    )
    sampling: list[str] = field(
        default_factory=lambda: ["beams"],
        metadata={
            "help": "Shares of a group: items by 'samples', 'distinct_samples' draws or 'beams', or any tokens ('unconstrained')."
        },
    )
    list_length: int = field(
        default=1, metadata={"help": "Items of a completion, for 'list_ndcg'; by 'samples' alone."}
    )
    rollout_temperature: float = field(default=1.0, metadata={"help": "Divides the logits of what is drawn."})
    prompts: int | None = field(default=None, metadata={"help": "Training events to ask about, drawn; all of them."})
    inject_target: bool = field(default=False, metadata={"help": "Put the target into groups that lack it."})
    mask_target_prefix: bool = field(default=False, metadata={"help": "Punish no code that was the target's."})
    filter_seen: bool = field(default=True, metadata={"help": "Learn nothing from items that the user had already."})
    resample: int = field(default=0, metadata={"help": "Times to draw groups of one reward anew."})
    denied: list[str] = field(default_factory=list, metadata={"help": "Item ids for the reward 'deny'."})
    sasrec: str | None = field(default=None, metadata={"help": "Folder or Hub id of a SASRec, for 'collaborative'."})

    def __post_init__(self) -> None:
        if not self.rollout_temperature > 0:
            raise ValueError(f"got rollout_temperature={self.rollout_temperature}; give one above 0")
        rewards = read_rewards(self.rewards)
        if "list_ndcg" in rewards and self.list_length < 2:
            raise ValueError(f"got the reward 'list_ndcg' and list_length={self.list_length}; give 2 or more")
        if "history" in rewards and self.filter_seen:
            raise ValueError(
                "got the reward 'history' with filter_seen=True, which it says nothing about: set it to false"
            )
        drawn = [name for name in get_args(Sampling) if name not in ("uniform", "popular")]  # the model's own
        if not set(read_weights(self.sampling)) <= set(drawn):
            raise ValueError(f"got sampling={self.sampling}; use some of {', '.join(drawn)}, as samples=3")


@one_run("output_dir")
def main(
    arguments: GrpoArguments,
    validation: ValidationArguments,
    training: GrpoTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, draw and train, save."""
    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    revision = model_arguments.model_revision
    how = read_prompting(model_arguments.model_name_or_path, semantic_ids, revision)
    vocabulary = SidVocabulary(semantic_ids, markers=how["markers"])
    weights = read_rewards(arguments.rewards)
    embeddings = sasrec = None
    if "semantic" in weights:
        embeddings = load_embeddings(Path(arguments.data_dir) / "item_embeddings.safetensors", data.item_ids)
    if arguments.sasrec is not None:
        sasrec = load_sasrec(arguments.sasrec, data.item_ids, dataset=data.info)
    rewards = make_rewards(
        list(weights), data, semantic_ids, denied=arguments.denied, embeddings=embeddings, sasrec=sasrec
    )

    # 2. Model
    set_seed(training.seed)
    model, tokenizer = load_for_training(model_arguments, vocabulary, vectors=True)
    vectors = wrapping_of(model).first_vector is not None
    prompting = {"tokenizer": tokenizer, "titles": how["titles"], "vectors": vectors}

    # 3. Draw and train
    dataset = next_item_prompts(
        data.training_sequences(),
        vocabulary,
        how["max_history"],
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
        form=how["form"],
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
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **how)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **how)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
