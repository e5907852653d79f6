"""The report's figures by arithmetic on codes small enough to count."""

import json

import numpy as np
import pytest

from genrec_hf.semantic_ids import find_related_items, quantization_report, resolve_collisions, write_report
from genrec_hf.semantic_ids.display import markdown
from genrec_hf.semantic_ids.report import unexplained_variance

# Two groups of directions; items 0 and 1 share both codes.
CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
ANGLES = np.radians([0, 1, 4, 90, 91, 95])
EMBEDDINGS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def report(neighbours=1, codes=CODES, embeddings=EMBEDDINGS, **related):
    related_items = find_related_items(embeddings, neighbours=neighbours, **related)
    return quantization_report(codes, resolve_collisions(codes, (4, 3))[0], (4, 3), related=related_items)


def test_use_of_each_level():
    first, second = report()["levels"]
    assert (first["codes"], first["used"], first["largest"]) == (4, 2, 3)
    assert first["entropy"] == pytest.approx(np.log(2)) and first["perplexity"] == pytest.approx(2)
    assert (second["codes"], second["used"], second["largest"]) == (3, 3, 3)
    assert second["entropy"] == pytest.approx(3 / 6 * np.log(2) + 2 / 6 * np.log(3) + 1 / 6 * np.log(6), rel=1e-12)


def test_collisions_before_and_after():
    figures = report()
    assert (figures["collision_before"], figures["collision_after"], figures["largest_group"]) == (2 / 6, 0, 2)


def test_neighbours_that_share_codes():
    # Nearest neighbours: 0-1, 1-0, 2-1, 3-4, 4-3, 5-4. Only 0 and 1 share more than the first code.
    assert report(1)["neighbour_hit_rate"] == [6 / 6, 2 / 6]
    # The second nearest are 2, 2, 0, 5, 5, 3: still the same first code.
    assert report(2)["neighbour_hit_rate"] == [12 / 12, 2 / 12]
    # With everyone as a neighbour it is chance: 2 of 5 others share the first code, 2 of 6 items have one twin in 5.
    everyone = report(99)
    assert everyone["neighbour_hit_rate"] == pytest.approx([2 / 5, 2 / 30])
    assert everyone["neighbour_hit_rate_chance"] == pytest.approx([2 / 5, 2 / 30])


def test_items_with_one_embedding_are_not_their_own_neighbours():
    codes = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
    same = np.ones((4, 2))
    assert report(1, codes, same)["neighbour_hit_rate"] == [0, 0]
    assert report(3, codes, same)["neighbour_hit_rate"] == [0, 0]


def test_pairs_chosen_together_that_share_codes():
    # Pairs at most two events apart: 0-1, 0-3, 1-3, then 0-1 again.
    figures = report(sequences=[np.array([0, 1, 3]), np.array([1, 0])], window=2)
    assert figures["cooccurrence_hit_rate"] == pytest.approx([2 / 4, 2 / 4])
    # Items 0, 1 and 3 stand in 3, 3 and 2 of the 8 ends; two different ends of the pool, by these shares.
    shares = np.array([3, 3, 2]) / 8
    chance = 2 * shares[0] * shares[1] / (1 - np.square(shares).sum())
    assert figures["cooccurrence_hit_rate_chance"] == pytest.approx([chance, chance])
    assert report(sequences=[np.array([2])])["cooccurrence_hit_rate"] is None is report()["cooccurrence_hit_rate"]


def test_purity_of_prefixes():
    figures = report(categories=["tea, green", "tea", "cup", "cup, big", "", "tea"])
    # First codes: {tea, tea, cup} and {cup, none, tea}; both codes: {tea, tea} and items alone.
    assert figures["purity"] == pytest.approx([(2 + 1) / 5, 5 / 5])
    assert all(0.4 <= value <= 1 for value in figures["purity_shuffled"])
    assert report(categories=[""] * 6)["purity"] is None is report()["purity"]


def test_lost_variance():
    assert unexplained_variance(EMBEDDINGS, EMBEDDINGS) == 0
    means = np.tile(EMBEDDINGS.mean(axis=0), (6, 1))
    assert unexplained_variance(EMBEDDINGS, means) == pytest.approx(1)
    assert unexplained_variance(EMBEDDINGS, (EMBEDDINGS + means) / 2) == pytest.approx(1 / 4)


def test_files_say_the_figures(tmp_path):
    figures = report()
    one_level = quantization_report(
        CODES[:, :1],
        CODES,
        (4,),
        related=find_related_items(EMBEDDINGS),
        reconstruction_error=0.5,
        seconds=1.25,
        peak_mb=3.0,
    )
    reports = {"rq-kmeans": figures, "pq": one_level}
    codes = {"rq-kmeans": CODES, "pq": CODES[:, :1]}
    write_report(reports, codes, EMBEDDINGS, directory=tmp_path / "new")
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {"quantizers": reports}
    text = (tmp_path / "new" / "report.md").read_text()
    assert "| rq-kmeans | 4 x 3 | 33.33% | 0.00% | 2 |  |  |  |" in text
    assert "| pq | 4 | 100.00% | 33.33% | 3 | 0.500 | 1.2 | 3 |" in text
    assert "| rq-kmeans | 1 | 2 of 4 | 2.0 | 3 | 1.000 (0.400) |  |  |" in text
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_shows_items_with_their_sids(tmp_path):
    figures, examples = report(), [("<s_a_3><s_b_0>", "Heat (1995)"), ("<s_a_3><s_b_1>", "this | that")]
    write_report({"rq-kmeans": figures}, {"rq-kmeans": CODES}, EMBEDDINGS, directory=tmp_path, examples=examples)
    text = (tmp_path / "report.md").read_text()
    assert text.endswith(
        "Some items:\n\n| SID | title |\n| --- | --- |\n| `<s_a_3><s_b_0>` | Heat (1995) |\n"
        "| `<s_a_3><s_b_1>` | this \\| that |\n"
    )
    assert "Some items" not in markdown({"rq-kmeans": figures})


def test_a_map_of_a_real_catalogue_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    embeddings, codes = rng.normal(size=(60, 5)), rng.integers(4, size=(60, 2))
    related_items = find_related_items(embeddings)
    write_report(
        {"a": quantization_report(codes, codes, (4, 4), related=related_items)},
        {"a": codes},
        embeddings,
        directory=tmp_path,
    )
    assert (tmp_path / "report.png").stat().st_size > 10_000
