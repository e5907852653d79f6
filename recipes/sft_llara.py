"""Instruction SFT of a model that also reads collaborative vectors: every item of a history is followed by its own.

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/sft_llara.py \
        --config recipes/configs/ml-100k-smollm2-4layers-llara/sft_llara.yaml

Reads `data_dir` (prepare_data.py, build_sids.py), collaborative vectors (train_sasrec.py, or a matrix in a file), and
a base model or the output directory of an earlier recipe, whose adapter goes on inside. Writes a whole Hub repository
to `output_dir`: adapter with projector, vectors, tokenizer, semantic ids, settings, card. A rerun of an interrupted
run goes on from its last checkpoint, and one of a finished run does nothing, unless it is to be longer.

After LLaRA (arXiv:2312.02445): a projector turns the vector of an item into an embedding of the LLM. What differs:
items are SID tokens and not titles, the loss is on every item of a history (dense), the vector stands behind the SID
so that no prompt holds its own answer, and LLaRA's curriculum from text to hybrid prompts is a share of the run
(`--curriculum 1` is the paper's). `--stage projector` trains the projector alone, the second of CoLLM's steps
(arXiv:2310.19488); `--alignment` adds the distance of projections to the embedding of their items' text.

`--item_representation sid_title` puts an item's title between its SID and its vector. `--item_representation title` is the paper's protocol: titles
with their vectors, twenty candidates, and the title of the next item, for `evaluate_tasks.py --tasks
candidate_titles_to_next_title`; one answer an example, and no lists over the catalogue.

Whether the vectors help is told by controls: `--control shuffled` gives items each other's vectors, `--control random`
drawn ones.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.data import item_texts, item_titles
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.directories import one_run
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import LlaraForCausalLM, collaborative_vectors, load_for_training, unwrap
from genrec_hf.tasks import LISTED_TITLE, dense_dataset, make_sources, title_choice_dataset
from genrec_hf.training.arguments import ModelArguments, SftTrainingArguments
from genrec_hf.training.llara_training import LlaraSftTrainer
from genrec_hf.training.resume import Run
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import SidVocabulary


@dataclass
class LlaraArguments:
    """What to read, and what trains."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    vectors: str = field(metadata={"help": "Folder or Hub id of a SASRec, or a matrix: .npy or .safetensors."})
    control: Literal["none", "shuffled", "random"] = field(
        default="none", metadata={"help": "Vectors that carry no signal, to compare with."}
    )
    item_representation: Literal["sid", "sid_title", "title"] = field(
        default="sid", metadata={"help": "What stands with a vector: the SID, SID and title, or (LLaRA) the title."}
    )
    stage: Literal["lora", "projector"] = field(
        default="lora", metadata={"help": "Train LoRA, SID rows and projector, or the projector alone."}
    )
    curriculum: float = field(default=0.0, metadata={"help": "Share of the run from text-only to hybrid prompts."})
    alignment: float = field(default=0.0, metadata={"help": "Weight of the distance to the items' text."})
    projector_size: int | None = field(default=None, metadata={"help": "Width inside the projector; the LLM's own."})
    vector_dropout: float = field(default=0.05, metadata={"help": "Share of vectors replaced by the fallback."})
    max_history: int = field(default=40, metadata={"help": "Most recent items in a prompt."})
    passes: float = field(default=1, metadata={"help": "Times that sequences are cut anew; of titles any share, 0.1."})
    init: Literal["text", "mean", "random"] = field(default="text", metadata={"help": "How new token rows start."})
    markers: bool = field(default=False, metadata={"help": "Put <|sid_begin|> and <|sid_end|> around every SID."})
    normalization: Literal["full", "level"] = field(
        default="full", metadata={"help": "Normaliser of SID tokens: the whole vocabulary, or the level's codes."}
    )

    def __post_init__(self) -> None:
        if not (0 <= self.curriculum <= 1 and self.alignment >= 0 and 0 <= self.vector_dropout < 1):
            raise ValueError(
                f"got curriculum={self.curriculum}, alignment={self.alignment}, vector_dropout={self.vector_dropout}; "
                "give shares from 0 to 1, and a weight of 0 or more"
            )
        if self.max_history < 1 or not self.passes > 0 or (self.item_representation != "title" and self.passes % 1):
            raise ValueError(f"got max_history={self.max_history}, passes={self.passes}; give 1, 2, ...")


@one_run("output_dir")
def main(
    arguments: LlaraArguments,
    validation: ValidationArguments,
    training: SftTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, train, save."""
    if arguments.item_representation == "title" and validation.validation_steps is not None:
        raise ValueError("got validation_steps with item_representation='title': lists are of SIDs; leave it out")

    # 1. Data
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    vocabulary = SidVocabulary(semantic_ids, markers=arguments.markers)
    vectors, known = collaborative_vectors(arguments.vectors, data, control=arguments.control, seed=training.seed)

    # 2. Model. The trainer sets the seed too, but only after LoRA, new rows and projector are drawn.
    set_seed(training.seed)
    around = partial(
        LlaraForCausalLM.from_language_model,
        vectors=vectors,
        known=known,
        catalogue=catalogue_fingerprint(data.item_ids),
        projector_size=arguments.projector_size,
        vector_dropout=arguments.vector_dropout,
    )
    texts = item_texts(data.items)
    model, tokenizer = load_for_training(
        model_arguments, vocabulary, init=arguments.init, item_texts=texts, stage=arguments.stage, wrap=around
    )
    network = unwrap(model)

    # 3. Train
    first_vector, passes, seed = network.config.first_vector, arguments.passes, training.seed
    titles = item_titles(data.items, LISTED_TITLE) if arguments.item_representation == "sid_title" else None
    if arguments.item_representation == "title":
        sources = make_sources(data, vocabulary, tokenizer, seed=seed, vectors=True)
        dataset = title_choice_dataset(sources, tokenizer, first_vector, passes=passes, seed=seed)
    else:
        dataset = dense_dataset(
            data.training_sequences(),
            vocabulary,
            tokenizer,
            max_history=arguments.max_history,
            passes=int(passes),
            seed=seed,
            first_vector=first_vector,
            titles=titles,
        )
    tokens = tokenizer(texts, add_special_tokens=False)["input_ids"]
    trainer = LlaraSftTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        processing_class=tokenizer,
        vocabulary=vocabulary,
        normalization=arguments.normalization,
        curriculum=arguments.curriculum,
        alignment=arguments.alignment,
        text_vectors=network.text_vectors(tokens) if arguments.alignment else None,
    )
    how = {name: getattr(arguments, name) for name in ("max_history", "normalization", "markers")} | {"titles": titles}
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **how)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **how)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
