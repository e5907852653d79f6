"""The probe: codes that carry the next item are worth more than the same codes shuffled, and runs are kept."""

import json

import numpy as np
import pytest
import torch

from genrec_hf import SemanticIds
from genrec_hf.data import EvaluationCases
from genrec_hf.evaluation import compare_scores
from genrec_hf.training import sid_probe
from genrec_hf.training.probe_report import write_probes
from genrec_hf.training.sid_probe import SidProbe, probe_semantic_ids

ITEMS, RNG = 60, np.random.default_rng(0)
# Six rings of ten items; a user goes round one ring with random steps of one or two: the first code is the ring.
RINGS = np.arange(ITEMS).reshape(6, 10)
SIDS = SemanticIds(
    np.stack([np.arange(ITEMS) // 10, np.arange(ITEMS) % 10], axis=1), (6, 10), [f"i{item}" for item in range(ITEMS)]
)


def walk(length):
    places = np.cumsum(RNG.integers(1, 3, size=length)) % 10
    return RINGS[RNG.integers(6)][places]


SEQUENCES = [walk(8) for _ in range(300)]
CASES = EvaluationCases(np.arange(40), [s[:3] for s in SEQUENCES[:40]], np.array([s[3] for s in SEQUENCES[:40]]))
PROBE = SidProbe(hidden_size=32, layers=1, epochs=3, window=6, num_beams=12)


def run(directory, sids=SIDS, probe=PROBE, seeds=(0,), cases=CASES):
    scores = probe_semantic_ids(probe, sids, SEQUENCES, cases=cases, seeds=seeds, directory=directory, progress=False)
    return compare_scores({"codes": scores}, cases.users, "codes")["codes"]


def test_what_codes_are_worth_and_kept_runs(tmp_path, monkeypatch):
    state = torch.random.get_rng_state()
    figures = run(tmp_path, seeds=(0, 1))
    torch.random.set_rng_state(state)
    assert figures["recall@10"] > 0.5 and len(figures["seeds"]) == 2
    assert figures["recall@10"] == pytest.approx(np.mean([seed["recall@10"] for seed in figures["seeds"]]))
    low, high = figures["intervals"]["ndcg@10"]
    assert low <= figures["ndcg@10"] <= high
    assert run(tmp_path, SIDS.shuffled(0))["ndcg@10"] < figures["ndcg@10"]
    # Kept runs are read, whatever else differs is run.
    trained = []
    monkeypatch.setattr(
        SidProbe, "train", lambda self, *rest, **how: trained.append(self) or (_ for _ in ()).throw(KeyError)
    )
    assert run(tmp_path, seeds=(0, 1)) == figures and not trained
    others = [
        {"seeds": (2,)},
        {"probe": SidProbe(epochs=2)},
        {"cases": EvaluationCases(*(part[:9] for part in (CASES.users, CASES.histories, CASES.targets)))},
    ]
    for other in others:
        with pytest.raises(KeyError):
            run(tmp_path, **other)
    assert len(trained) == 3


def test_a_comparison_pairs_each_with_the_reference(tmp_path):
    hits = {"good": [[1, 1, 0, 1], [1, 0, 0, 1]], "control": [[0, 0, 0, 1], [0, 1, 0, 0]]}
    scores = {
        name: [{"recall@10": np.array(seed, float), "ndcg@10": np.array(seed) / 2} for seed in seeds]
        for name, seeds in hits.items()
    }
    figures = compare_scores(scores, np.arange(4), "control")
    assert figures["good"]["recall@10"] == 5 / 8 and figures["good"]["ndcg@10"] == 5 / 16
    assert [seed["recall@10"] for seed in figures["good"]["seeds"]] == [0.75, 0.5]
    above = figures["good"]["above_reference"]["recall@10"]
    assert above["difference"] == 3 / 8 and above["low"] >= 0, "no case is worse in the mean over seeds"
    assert figures["control"]["above_reference"]["recall@10"]["difference"] == 0
    baselines = {"markov1": figures["control"] | {"coverage@10": 0.5}}
    protocol = {"dataset": "toy", "split": "test", "tie_break": "file", "users": 4, "items": 9, "seeds": [0, 1]}
    write_probes(
        SidProbe(), figures, baselines, protocol=protocol | {"reference": "control"}, directory=tmp_path / "new"
    )
    written = json.loads((tmp_path / "new" / "probe.json").read_text())
    assert written["codes"]["good"]["recall@10"] == 5 / 8 and written["protocol"]["filter_seen"] is True
    assert set(written["baselines"]["markov1"]) == {"recall@10", "ndcg@10", "intervals"}
    good, control, markov = (tmp_path / "new" / "probe.md").read_text().splitlines()[-3:]
    assert good.startswith("| good | 0.6250 [") and "| 0.7500, 0.5000 | +0.3750 [" in good
    assert control.endswith("| 0.2500, 0.2500 |  |") and markov.startswith("| markov1 | 0.2500")
    assert (tmp_path / "new" / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_lists():
    lists = []
    for seed in (0, 0, 1):
        model = PROBE.train(SIDS, SEQUENCES[:60], seed, progress=False)
        lists.append(PROBE.recommend(model, SIDS, CASES, k=10, progress=False))
    np.testing.assert_array_equal(lists[0], lists[1])
    assert not np.array_equal(lists[0], lists[2])
    for row, history in zip(lists[0], CASES.histories, strict=True):
        kept = row[row >= 0]
        assert len(set(kept.tolist())) == len(kept) and not set(kept.tolist()) & set(history.tolist())


def test_windows_hold_every_event_of_long_sequences():
    tokens = np.arange(ITEMS)[:, None] + 2
    windows = sid_probe._Windows(tokens, [np.arange(25), np.arange(1), np.arange(4)], 10, epochs=2, seed=0).windows
    for epoch in (windows[: len(windows) // 2], windows[len(windows) // 2 :]):
        assert all(2 <= len(part) <= 10 for part in epoch)
    assert sum(np.array_equal(part, np.arange(4)) for part in windows) == 2
    with pytest.raises(ValueError, match="got 1 training sequences, none with two items"):
        sid_probe._Windows(tokens, [np.arange(1)], 10, epochs=1, seed=0)


def test_padding_teaches_nothing():
    sequences = [torch.tensor([1, 5, 9]), torch.tensor([1, 4, 3, 8, 7])]
    batch = sid_probe._collate(sequences)
    assert batch["labels"].tolist() == [[-100, -100, -100, 5, 9], [-100, 4, 3, 8, 7]]
    model = PROBE.train(SIDS, SEQUENCES[:20], 0, progress=False)
    with torch.no_grad():
        together = model(**batch).loss
        alone = [model(**sid_probe._collate([sequence])).loss for sequence in sequences]
    torch.testing.assert_close(together, (2 * alone[0] + 4 * alone[1]) / 6)
