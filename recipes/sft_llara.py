"""Instruction SFT with a collaborative vector after each item of a history (LLaRA).

    accelerate launch --quiet --config_file accelerate_configs/cpu.yaml recipes/sft_llara.py \
        --config recipes/configs/ml-100k-smollm2-4layers-llara/sft_llara.yaml

Reads `data_dir` (prepare_data.py, build_sids.py), collaborative vectors (train_sasrec.py, or a matrix in a file), and
a base model or the output directory of an earlier recipe, whose adapter is trained further. Writes a complete Hub
repository to `output_dir`: adapter with projector, vectors, tokenizer, semantic ids, settings, model card. An
interrupted run resumes from its last checkpoint when started again; a finished one does nothing, unless it is given
more steps or epochs.

Follows LLaRA (arXiv:2312.02445): a projector maps the vector of an item to an embedding of the LLM. What differs:
items are SID tokens and not titles, the loss is on every item of a history (dense), the vector comes after the SID so
that it cannot reveal the target, and the curriculum from text-only to hybrid prompts covers a fraction of the run
(`--curriculum 1` is the paper's). `--stage projector` trains the projector only, the second step of CoLLM
(arXiv:2310.19488); `--alignment` adds the distance between projected vectors and the embeddings of their items' text.

`--item_representation sid_title` puts the title of an item between its SID and its vector. `--item_representation
title` is the protocol of the paper: titles with their vectors, twenty candidates, and the title of the next item as
the answer, for `evaluate_tasks.py --tasks candidate_titles_to_next_title`; one answer per example, and no
recommendations from the whole catalogue.

Controls show whether the vectors help: `--control shuffled` permutes the vectors of the items, `--control random`
replaces them by random ones.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from transformers import set_seed

from genrec_hf.command_line import run_recipe
from genrec_hf.data import item_texts, item_titles
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.directories import lock_for_recipe
from genrec_hf.hub import load_training_data, save_trained
from genrec_hf.models import LlaraForCausalLM, collaborative_vectors, load_for_training, unwrap
from genrec_hf.semantic_ids import quantized_vectors
from genrec_hf.tasks import MAX_TITLE_IN_LIST, dense_dataset, make_sources, title_choice_dataset
from genrec_hf.training.arguments import ModelArguments, SftTrainingArguments
from genrec_hf.training.llara_training import LlaraSftTrainer
from genrec_hf.training.resume import Run
from genrec_hf.training.validation import ValidationArguments, validate_while_training
from genrec_hf.vocabulary import Initialization, SidVocabulary


@dataclass
class LlaraArguments:
    """Arguments for the vectors, the prompts and the trained weights."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py and build_sids.py."})
    vectors: str = field(
        metadata={"help": "Folder or Hub id of a SASRec, or a .npy or .safetensors file of one vector per item."}
    )
    control: Literal["none", "shuffled", "random"] = field(
        default="none", metadata={"help": "Use shuffled or random vectors instead, as a control."}
    )
    item_representation: Literal["sid", "sid_title", "title"] = field(
        default="sid",
        metadata={"help": "Item representation in prompts, before the vector: sid, sid_title or title (LLaRA's)."},
    )
    stage: Literal["lora", "projector"] = field(
        default="lora", metadata={"help": "Trained weights: LoRA, SID rows and projector, or the projector only."}
    )
    curriculum: float = field(
        default=0.0,
        metadata={"help": "Fraction of the run in which prompts change from text-only to hybrid; 0 is always hybrid."},
    )
    alignment: float = field(
        default=0.0,
        metadata={"help": "Weight of the alignment of projected vectors with the text of their items; 0 is off."},
    )
    projector_size: int | None = field(
        default=None,
        metadata={"help": "Size of the hidden layer of the projector; by default the hidden size of the LLM."},
    )
    vector_dropout: float = field(
        default=0.05, metadata={"help": "Fraction of vectors replaced by the learned fallback in training."}
    )
    max_history: int = field(default=40, metadata={"help": "Number of most recent items in a prompt."})
    passes: float = field(
        default=1,
        metadata={"help": "Number of passes over the training sequences, in new windows; a fraction with title only."},
    )
    init: Initialization = field(
        default="text", metadata={"help": "Initialization of new token rows: text, centroids, mean or random."}
    )
    markers: bool = field(default=False, metadata={"help": "Put <|sid_begin|> and <|sid_end|> around every SID."})
    normalization: Literal["full", "level"] = field(
        default="full", metadata={"help": "Normalization of SID tokens: over all tokens, or the codes of the level."}
    )

    def __post_init__(self) -> None:
        if not (0 <= self.curriculum <= 1 and self.alignment >= 0 and 0 <= self.vector_dropout < 1):
            raise ValueError(
                f"got curriculum={self.curriculum}, alignment={self.alignment}, vector_dropout={self.vector_dropout}: "
                "give a curriculum from 0 to 1, an alignment of 0 or more, and a vector_dropout from 0 to below 1"
            )
        if self.max_history < 1 or not self.passes > 0 or (self.item_representation != "title" and self.passes % 1):
            raise ValueError(
                f"got max_history={self.max_history}, passes={self.passes}: give whole numbers of at least 1; passes "
                "may be a fraction with item_representation='title'"
            )


@lock_for_recipe("output_dir")
def main(
    arguments: LlaraArguments,
    validation: ValidationArguments,
    training: SftTrainingArguments,
    model_arguments: ModelArguments,
) -> None:
    """Load, train and save."""
    # 1. Data
    if arguments.item_representation == "title" and validation.validation_steps is not None:
        raise ValueError("got validation_steps with item_representation='title', which ranks no SIDs: leave it out")
    data, semantic_ids = load_training_data(arguments.data_dir, training.output_dir)
    run = Run(training, semantic_ids, arguments, validation, model_arguments, dataset=data.info)
    if run.is_finished():
        return
    vocabulary = SidVocabulary(semantic_ids, markers=arguments.markers)
    vectors, known = collaborative_vectors(arguments.vectors, data, control=arguments.control, seed=training.seed)

    # 2. Model. The trainer sets the seed too, but only after LoRA, new rows and projector are initialized.
    set_seed(training.seed)
    wrap = partial(
        LlaraForCausalLM.from_language_model,
        vectors=vectors,
        known=known,
        catalogue=catalogue_fingerprint(data.item_ids),
        projector_size=arguments.projector_size,
        vector_dropout=arguments.vector_dropout,
    )
    init, stage, texts = arguments.init, arguments.stage, item_texts(data.items)
    item_vectors = quantized_vectors(semantic_ids, data, arguments.data_dir) if init == "centroids" else None
    model, tokenizer = load_for_training(
        model_arguments, vocabulary, init=init, item_texts=texts, item_vectors=item_vectors, stage=stage, wrap=wrap
    )

    # 3. Train
    network, passes, seed = unwrap(model), arguments.passes, training.seed
    titles = item_titles(data.items, MAX_TITLE_IN_LIST) if arguments.item_representation == "sid_title" else None
    if arguments.item_representation == "title":
        sources = make_sources(data, vocabulary, tokenizer, seed=seed, vectors=True)
        dataset = title_choice_dataset(sources, tokenizer, network.config.first_vector, passes=passes, seed=seed)
    else:
        dataset = dense_dataset(
            data.training_sequences(),
            vocabulary,
            tokenizer,
            max_history=arguments.max_history,
            passes=int(passes),
            seed=seed,
            first_vector=network.config.first_vector,
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
    settings = {name: getattr(arguments, name) for name in ("max_history", "normalization", "markers")}
    settings["titles"] = titles
    validate_while_training(trainer, validation, semantic_ids, cases=data.cases("validation"), **settings)
    run.train(trainer)

    # 4. Save, and push
    save_trained(trainer, semantic_ids, data, **settings)
    run.finish(trainer)


if __name__ == "__main__":
    run_recipe(main)
