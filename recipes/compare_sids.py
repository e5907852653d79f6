"""Compare quantizers on one catalogue: one table, one picture, and what their codes are worth to a sequence model.

    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids
    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids --probe_seeds 0 1 2
    python recipes/compare_sids.py --data_dir data/ml-100k --output_dir outputs/compare-sids \
        --quantizers rq-kmeans rq-vae "rq-vae ema=false" "rq-vae level_sizes=[128,32] epochs=200"

Reads `data_dir`, embedding its items when `build_sids.py` has not. Writes `report.json`, `report.md`, `report.png` and
`arguments.json` into `output_dir`; nothing in `data_dir/semantic_ids` changes. A quantizer may be given with settings
of its class, and so several times.

With `--probe_seeds` the same small decoder is trained from scratch on the codes of each quantizer and of a control
(the first one's SIDs given to items at random), once a seed: recall@10 and ndcg@10 over all cases of a split, whole
catalogue, seen items filtered, the mean over seeds with 95 % intervals over users, and paired with `random`, or with
the control where that is not compared; popularity and Markov-1 stand in the same table: `probe.json`, `probe.md` and
`probe.png`. Its runs are kept in `output_dir/probe`, and one that stands there is not run again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from genrec_hf.command_line import run_recipe
from genrec_hf.data import catalogue_embeddings, item_categories, load_data
from genrec_hf.directories import one_run, write_text
from genrec_hf.evaluation import compare_scores, evaluate_baselines
from genrec_hf.semantic_ids import (
    NAMES,
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
    """What to compare, and how."""

    data_dir: str = field(metadata={"help": "Folder written by prepare_data.py."})
    output_dir: str = field(metadata={"help": "Folder to write to."})
    quantizers: list[str] = field(
        default_factory=lambda: list(NAMES),
        metadata={"help": f"Of {', '.join(NAMES)}; each may go with settings: 'rq-vae ema=false'."},
    )
    level_sizes: list[int] = field(default_factory=lambda: [64, 64], metadata={"help": "Codes of each level."})
    collisions: Strategy = field(default="extra-level", metadata={"help": "How items with the same codes part."})
    embedding_model: str = field(default="all-MiniLM-L6-v2", metadata={"help": "A sentence-transformers model."})
    behaviour_weight: float = field(default=0.0, metadata={"help": "Co-occurrence against text, as in build_sids.py."})
    probe_seeds: list[int] = field(default_factory=list, metadata={"help": "Train a decoder on the codes, by seed."})
    probe_epochs: int = field(default=4, metadata={"help": "Passes over the training sequences."})
    split: Literal["validation", "test"] = field(
        default="validation", metadata={"help": "What the decoder is scored on."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the quantizers."})
    quiet: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        for name in self.quantizers:
            make_quantizer(name, self.level_sizes, self.seed)
        if len(set(self.quantizers)) < len(self.quantizers):
            raise ValueError(f"got quantizers={self.quantizers!r}; give each once, or with other settings")
        if self.collisions == "none":
            raise ValueError(f"got collisions={self.collisions!r}; every item needs a SID of its own, use another")


@one_run("output_dir")
def main(arguments: CompareArguments) -> None:
    """Fit every quantizer, report, and train on the codes."""
    # 1. Data
    data_dir, output_dir, progress = Path(arguments.data_dir), Path(arguments.output_dir), not arguments.quiet
    data = load_data(arguments.data_dir)
    sequences, cases = data.training_sequences(), data.cases(arguments.split)
    embeddings, made_from = catalogue_embeddings(data, data_dir, arguments.embedding_model, progress=progress)
    vectors = cooccurrence_embeddings(sequences, embeddings, arguments.behaviour_weight, seed=arguments.seed)
    related = find_related_items(embeddings, sequences, item_categories(data.items))
    events = data.item_counts()

    # 2. Codes
    made = {}
    for name in arguments.quantizers:
        quantizer = make_quantizer(name, arguments.level_sizes, arguments.seed)
        behaviour = behaviour_data(quantizer, sequences, data.item_ids)
        made[name] = tokenize_catalogue(
            quantizer,
            vectors,
            related,
            item_ids=data.item_ids,
            events=events,
            collisions=arguments.collisions,
            progress=progress,
            **behaviour,
        )
    reports = {name: tokenized.report for name, tokenized in made.items()}
    codes = {name: tokenized.codes for name, tokenized in made.items()}
    write_report(reports, codes, embeddings, directory=output_dir)

    # 3. What the codes are worth
    semantic_ids = {name: tokenized.semantic_ids for name, tokenized in made.items()}
    if arguments.probe_seeds:
        first, control = arguments.quantizers[0], f"{arguments.quantizers[0]}, shuffled"
        semantic_ids[control] = semantic_ids[first].shuffled(arguments.seed)
        probe = SidProbe(epochs=arguments.probe_epochs)
        how = {"cases": cases, "seeds": arguments.probe_seeds, "directory": output_dir / "probe", "progress": progress}
        scores = {name: probe_semantic_ids(probe, sids, sequences, **how) for name, sids in semantic_ids.items()}
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
        simple = {name: baselines[name] for name in ("popularity", "markov1")}
        write_probes(
            probe, compare_scores(scores, cases.users, reference), simple, protocol=protocol, directory=output_dir
        )
    write_text(output_dir / "arguments.json", json.dumps(asdict(arguments) | made_from, indent=2))
    print((output_dir / "report.md").read_text())
    if arguments.probe_seeds:
        print((output_dir / "probe.md").read_text())


if __name__ == "__main__":
    run_recipe(main)
