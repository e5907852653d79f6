"""Compare quantizers on one catalogue, by metrics of the codes and accuracy of a small decoder.

    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids
    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids --probe_seeds 0 1 2
    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids \
        --quantizers rq-kmeans rq-vae "rq-vae ema=false" "rq-vae level_sizes=[128,32] epochs=200"

Reads `data_dir`, and embeds its items if `build_sids.py` has not. Writes `report.json`, `report.md`, `report.png` and
`arguments.json` into `output_dir`; nothing in `data_dir/semantic_ids` changes. Settings of its class may follow the
name of a quantizer, so that one quantizer can be compared under several settings.

With `--probe_seeds` the same small decoder is trained from scratch on the codes of each quantizer and of a control
(the SIDs of the first quantizer, assigned to items at random), once per seed. `probe.json`, `probe.md` and `probe.png`
hold recall@10 and ndcg@10 over all cases of a split, ranked over the whole catalogue with seen items filtered: the
mean over seeds with 95 % confidence intervals over users, and paired differences from `random`, or from the control if
`random` is not compared; the baselines popularity and Markov-1 are in the same table. Runs are kept in
`output_dir/probe`, and a run that is there is not repeated.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from genrec_hf.command_line import run_recipe
from genrec_hf.data import catalogue_embeddings, item_categories, load_data
from genrec_hf.directories import lock_for_recipe, write_text
from genrec_hf.evaluation import compare_scores, evaluate_baselines
from genrec_hf.semantic_ids import (
    QUANTIZER_NAMES,
    Strategy,
    behaviour_data,
    cooccurrence_embeddings,
    find_related_items,
    make_quantizer,
    tokenize_catalogue,
    write_report,
)
from genrec_hf.training.probe_report import write_probes
from genrec_hf.training.sid_probe import SidProbe, probe_semantic_ids


@dataclass
class CompareArguments:
    """Arguments of the quantizers to compare, and of the decoder that is trained on their codes."""

    data_dir: str = field(metadata={"help": "Directory that prepare_data.py wrote."})
    output_dir: str = field(metadata={"help": "Directory to write the reports to."})
    quantizers: list[str] = field(
        default_factory=lambda: list(QUANTIZER_NAMES),
        metadata={
            "help": f"Quantizers to compare, by default all: {', '.join(QUANTIZER_NAMES)}. Settings may follow a name "
            "in quotes: 'rq-vae ema=false'."
        },
    )
    level_sizes: list[int] = field(
        default_factory=lambda: [64, 64], metadata={"help": "Number of codes of each level, one integer per level."}
    )
    collisions: Strategy = field(
        default="extra-level",
        metadata={
            "help": "Strategy that gives items with the same codes distinct SIDs, as in build_sids.py; `none` is "
            "refused."
        },
    )
    embedding_model: str = field(
        default="all-MiniLM-L6-v2",
        metadata={"help": "Sentence-transformers model that embeds item texts, as Hub id or directory."},
    )
    behaviour_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of co-occurrence vectors relative to text embeddings in the quantized vectors, from 0 "
            "(text only) to 1 (co-occurrences only)."
        },
    )
    probe_seeds: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Random seeds with which the decoder is trained on the codes, once per seed. By default it is not "
            "trained."
        },
    )
    probe_epochs: int = field(
        default=4, metadata={"help": "Number of passes of the decoder over the training sequences."}
    )
    split: Literal["validation", "test"] = field(
        default="validation", metadata={"help": "Split that the decoder is evaluated on."}
    )
    seed: int = field(default=0, metadata={"help": "Random seed of the quantizers."})
    quiet: bool = field(default=False, metadata={"help": "Whether to hide progress bars."})

    def __post_init__(self) -> None:
        for name in self.quantizers:
            make_quantizer(name, self.level_sizes, self.seed)
        if len(set(self.quantizers)) < len(self.quantizers):
            raise ValueError(
                f"got quantizers={self.quantizers!r}: give each quantizer once, or with different settings"
            )
        if self.collisions == "none":
            raise ValueError(
                f"got collisions={self.collisions!r}, but the decoder needs unique SIDs: use another strategy, such "
                "as extra-level"
            )


@lock_for_recipe("output_dir")
def main(arguments: CompareArguments) -> None:
    """Fit every quantizer, report on the codes, and train a decoder on them."""
    # 1. Data
    data_dir, output_dir, progress = Path(arguments.data_dir), Path(arguments.output_dir), not arguments.quiet
    data = load_data(arguments.data_dir)
    sequences, cases = data.training_sequences(), data.cases(arguments.split)
    embeddings, made_from = catalogue_embeddings(data, data_dir, arguments.embedding_model, progress=progress)
    vectors = cooccurrence_embeddings(sequences, embeddings, arguments.behaviour_weight, seed=arguments.seed)
    related = find_related_items(embeddings, sequences, item_categories(data.items))
    events = data.item_counts()

    # 2. Codes
    tokenized = {}
    for name in arguments.quantizers:
        quantizer = make_quantizer(name, arguments.level_sizes, arguments.seed)
        behaviour = behaviour_data(quantizer, sequences, data.item_ids)
        tokenized[name] = tokenize_catalogue(
            quantizer,
            vectors,
            related,
            item_ids=data.item_ids,
            events=events,
            collisions=arguments.collisions,
            progress=progress,
            **behaviour,
        )
    reports = {name: result.report for name, result in tokenized.items()}
    codes = {name: result.codes for name, result in tokenized.items()}
    write_report(reports, codes, embeddings, directory=output_dir)

    # 3. Accuracy of a decoder that is trained on the codes
    semantic_ids = {name: result.semantic_ids for name, result in tokenized.items()}
    if arguments.probe_seeds:
        first, control = arguments.quantizers[0], f"{arguments.quantizers[0]}, shuffled"
        semantic_ids[control] = semantic_ids[first].shuffled(arguments.seed)
        probe = SidProbe(epochs=arguments.probe_epochs)
        runs = {"cases": cases, "seeds": arguments.probe_seeds, "directory": output_dir / "probe"}
        scores = {
            name: probe_semantic_ids(probe, sids, sequences, **runs, progress=progress)
            for name, sids in semantic_ids.items()
        }
        reference = "random" if "random" in scores else control
        baselines = evaluate_baselines(
            sequences,
            cases.histories,
            users=cases.users,
            targets=cases.targets,
            items=len(embeddings),
            ks=(10,),
            progress=progress,
        )
        protocol = {
            "dataset": data.info["name"],
            "split": arguments.split,
            "tie_break": data.info["tie_break"],
            "users": len(np.unique(cases.users)),
            "items": len(embeddings),
            "seeds": arguments.probe_seeds,
            "reference": reference,
        }
        shown_baselines = {name: baselines[name] for name in ("popularity", "markov1")}
        comparison = compare_scores(scores, cases.users, reference)
        write_probes(probe, comparison, shown_baselines, protocol=protocol, directory=output_dir)
    write_text(output_dir / "arguments.json", json.dumps(asdict(arguments) | made_from, indent=2))
    print((output_dir / "report.md").read_text())
    if arguments.probe_seeds:
        print((output_dir / "probe.md").read_text())


if __name__ == "__main__":
    run_recipe(main)
