"""Train SASRec or GRU4Rec, as a baseline or for the collaborative vectors of sft_llara.py.

    python recipes/train_sasrec.py --data_dir data/ml-100k --output_dir data/ml-100k/sasrec

Reads `data_dir` (prepare_data.py). Writes to `output_dir` a model for `SasRec.from_pretrained`, its metrics with the
keys of evaluate.py, `results.json`, and training curves; `evaluate.py --sasrec` compares it with an LLM. The
validation cases are ranked after every epoch; training stops when NDCG@10 has not improved for `--patience` epochs,
and the best epoch is kept. An interrupted run resumes from its last checkpoint when started again; a finished one does
nothing, unless it is given more steps or epochs.

SASRec (arXiv:1808.09781) with the cross-entropy over all items by default, see `--loss`. What differs from the paper:
see `genrec_hf/models/sasrec.py`; and sequences longer than `max_history` are cut into windows, at other positions in
each epoch, where the paper trains on the last items only.
"""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

from transformers import EarlyStoppingCallback, set_seed

from genrec_hf.checks import check_least
from genrec_hf.command_line import run_recipe, typed_command
from genrec_hf.data import load_data
from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.data.item_embeddings import find_embeddings
from genrec_hf.directories import lock_for_recipe, write_files
from genrec_hf.evaluation import evaluate_data, print_report, rank_cases, refuse_other_report, write_report
from genrec_hf.evaluation.display import draw_curves
from genrec_hf.evaluation.results import write_report_results
from genrec_hf.models import SasRec, SasRecConfig
from genrec_hf.resource_usage import device_name
from genrec_hf.training.resume import Run
from genrec_hf.training.sasrec_training import ItemWindows, SasRecTrainer, SasRecTrainingArguments

# Arguments that describe the model.
SHAPE = (
    "encoder", "loss", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "dropout",
    "max_history", "negatives", "calibration",
)  # fmt: skip


@dataclass
class SasRecArguments:
    """Arguments for the model and for early stopping."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    encoder: Literal["attention", "gru"] = field(
        default="attention", metadata={"help": "Encoder: attention (SASRec) or gru (GRU4Rec)."}
    )
    loss: Literal["cross_entropy", "sampled_softmax", "bce", "gbce"] = field(
        default="cross_entropy",
        metadata={"help": "Loss over all items (cross_entropy), or with sampled negatives (the other three)."},
    )
    hidden_size: int = field(default=64, metadata={"help": "Size of the item embeddings and hidden states."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Number of layers."})
    num_attention_heads: int = field(default=2, metadata={"help": "Number of attention heads per layer."})
    intermediate_size: int = field(default=256, metadata={"help": "Size of the feed-forward layers."})
    dropout: float = field(default=0.2, metadata={"help": "Dropout rate of embeddings, attention and layers."})
    max_history: int = field(default=50, metadata={"help": "Number of most recent items that the model reads."})
    negatives: int = field(
        default=256, metadata={"help": "Number of sampled negatives of sampled_softmax, bce and gbce."}
    )
    calibration: float = field(default=0.75, metadata={"help": "Calibration of gbce, from 0 (as bce) to 1."})
    patience: int = field(default=10, metadata={"help": "Stop after this many evaluations without a better NDCG@10."})

    def __post_init__(self) -> None:
        check_least(1, patience=self.patience)
        SasRecConfig(**{name: getattr(self, name) for name in SHAPE})


@lock_for_recipe("output_dir")
def main(arguments: SasRecArguments, training: SasRecTrainingArguments) -> None:
    """Train, evaluate and save."""
    # 1. Data
    started = perf_counter()
    data = load_data(arguments.data_dir)
    refuse_other_report(str(training.output_dir), data.info["name"], data.info.get("fingerprint"))
    run = Run(training, None, arguments, dataset=data.info)
    if run.is_finished():
        return
    windows = ItemWindows(data.training_sequences(), arguments.max_history, training.seed)

    # 2. Model
    set_seed(training.seed)
    shape = {name: getattr(arguments, name) for name in SHAPE}
    catalogue = catalogue_fingerprint(data.item_ids)
    fingerprints = {"catalogue": catalogue, "dataset": data.info.get("fingerprint")}
    model = SasRec(SasRecConfig(items=len(data.item_ids), **fingerprints, **shape))

    # 3. Train
    callbacks = [EarlyStoppingCallback(arguments.patience)]
    trainer = SasRecTrainer(model, training, windows, cases=data.cases("validation"), callbacks=callbacks)
    run.train(trainer)
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    with write_files(str(training.output_dir), last="config.json") as partial:
        model.save_pretrained(partial)
    if training.push_to_hub:
        name = training.hub_model_id or Path(str(training.output_dir)).name
        model.push_to_hub(name, private=training.hub_private_repo)
    draw_curves(trainer.state.log_history, f"{training.output_dir}/curves.png")

    # 4. Evaluate
    progress = not training.disable_tqdm
    ranked = rank_cases(model, data.cases("test").histories, len(data.item_ids), progress=progress)
    info = {"model": "sasrec", "epochs": trainer.state.best_global_step / len(trainer.get_train_dataloader())}
    embeddings = find_embeddings(arguments.data_dir, data.item_ids)
    report = evaluate_data(data, "test", ranked, embeddings=embeddings, info=info, progress=progress)
    write_report(report, training.output_dir)
    write_report_results(
        report, str(training.output_dir), system="sasrec", seed=training.seed, command=typed_command(),
        device=device_name(training.device), seconds=None if run.checkpoint else perf_counter() - started,
    )  # fmt: skip
    run.finish(trainer)
    print_report(report)


if __name__ == "__main__":
    run_recipe(main)
