"""The report's figures by arithmetic on codes small enough to count."""

import json

import numpy as np
import pytest

from genrec_hf.semantic_ids import quantization_report, resolve_collisions, write_report

# Two groups of directions; items 0 and 1 share both codes.
CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
ANGLES = np.radians([0, 1, 4, 90, 91, 95])
EMBEDDINGS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def report(neighbours=1, codes=CODES, embeddings=EMBEDDINGS):
    return quantization_report(codes, resolve_collisions(codes, (4, 3))[0], (4, 3), embeddings, neighbours)


def test_use_of_each_level():
    first, second = report()["levels"]
    assert (first["codes"], first["used"], first["largest"]) == (4, 2, 3)
    assert first["entropy"] == pytest.approx(np.log(2)) and first["perplexity"] == pytest.approx(2)
    assert (second["codes"], second["used"], second["largest"]) == (3, 3, 3)
    assert second["entropy"] == pytest.approx(3 / 6 * np.log(2) + 2 / 6 * np.log(3) + 1 / 6 * np.log(6))


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


def test_files_say_the_figures(tmp_path):
    figures = report()
    write_report("RqKmeans", figures, CODES, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "report.json").read_text()) == {"quantizers": {"RqKmeans": figures}}
    text = (tmp_path / "new" / "report.md").read_text()
    assert (
        "| 1 | 4 | 2 | 2.0 | 3 | 1.000 | 0.400 |" in text
        and "33.3% of items before resolution (largest group 2)" in text
    )
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")
