"""Residual k-means: a planted hierarchy is found, codes are the nearest rows, and what is saved encodes the same."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from genrec_hf.semantic_ids import RqKmeans

RNG = np.random.default_rng(0)
COARSE, FINE = RNG.normal(size=(4, 8)) * 20, RNG.normal(size=(3, 8)) * 2
PLANTED = np.array([(a, b) for a in range(4) for b in range(3)] * 10)
POINTS = (COARSE[PLANTED[:, 0]] + FINE[PLANTED[:, 1]] + RNG.normal(size=(120, 8)) * 0.05).astype(np.float32)


def same_partition(one, other):
    return len({*zip(one, other, strict=True)}) == len(set(one)) == len(set(other))


def test_a_planted_hierarchy_is_found():
    quantizer = RqKmeans((4, 3), seed=0).fit(POINTS, progress=False)
    codes = quantizer.encode(POINTS)
    assert codes.shape == (120, 2) and codes.dtype == np.int64
    assert same_partition(codes[:, 0].tolist(), PLANTED[:, 0].tolist())
    assert same_partition(codes[:, 1].tolist(), PLANTED[:, 1].tolist())
    # What is left is the noise that was put in.
    error = np.square(POINTS - quantizer.reconstruct(codes)).sum(axis=1).mean()
    assert error < 8 * 0.05**2 * 1.5


def test_codes_are_the_nearest_rows_of_what_is_left_over():
    quantizer = RqKmeans((5, 4, 3), seed=1).fit(POINTS, progress=False)
    codes, left = quantizer.encode(POINTS), POINTS.astype(np.float64)
    for level, book in enumerate(quantizer.codebooks):
        distance = np.linalg.norm(left[:, None] - book[None], axis=2)
        taken = distance[np.arange(120), codes[:, level]]
        np.testing.assert_allclose(taken, distance.min(axis=1), atol=1e-3)
        left = left - book[codes[:, level]]
    np.testing.assert_allclose(quantizer.reconstruct(codes) + left, POINTS, atol=1e-4)


def test_the_same_seed_gives_the_same_codes_and_files_encode_the_same(tmp_path):
    quantizer = RqKmeans((4, 3), seed=5).fit(POINTS, progress=False)
    again = RqKmeans((4, 3), seed=5).fit(POINTS, progress=False)
    quantizer.save_pretrained(tmp_path / "rq")
    loaded = RqKmeans.from_pretrained(tmp_path / "rq")
    codes = quantizer.encode(POINTS)
    np.testing.assert_array_equal(codes, again.encode(POINTS))
    np.testing.assert_array_equal(codes, loaded.encode(POINTS))
    np.testing.assert_array_equal(codes[7], loaded.encode(POINTS[7:8])[0])
    assert (loaded.level_sizes, loaded.seed, loaded.restarts) == ((4, 3), 5, quantizer.restarts)


def test_more_items_than_a_chunk_encode_as_they_do_alone():
    quantizer = RqKmeans((4, 3)).fit(POINTS, progress=False)
    many = np.tile(POINTS, (80, 1))
    assert len(many) > 8192
    np.testing.assert_array_equal(quantizer.encode(many), np.tile(quantizer.encode(POINTS), (80, 1)))


def test_embeddings_that_cannot_be_clustered_raise():
    broken = POINTS.copy()
    broken[[3, 9], 0] = np.nan
    with pytest.raises(ValueError, match=r"item row 3 is NaN or infinite \(2 rows"):
        RqKmeans((4,)).fit(broken)
    with pytest.raises(ValueError, match="2 distinct embeddings for a level of 4 codes"):
        RqKmeans((2, 4)).fit(np.repeat(POINTS[:2], 9, axis=0))
    with pytest.raises(ValueError, match=r"embeddings have shape \(8,\)"):
        RqKmeans((4,)).fit(POINTS[0])
    with pytest.raises(ValueError, match="every level needs at least one code"):
        RqKmeans((4, 0))
    with pytest.raises(ValueError, match="is used before fit"):
        RqKmeans((4,)).encode(POINTS)
    with pytest.raises(ValueError, match="5 wide, the quantizer was fitted on 8"):
        RqKmeans((4,)).fit(POINTS, progress=False).encode(POINTS[:, :5])


def test_balanced_clusters_are_of_equal_size_and_cost_no_more_than_the_best_assignment():
    rng = np.random.default_rng(3)
    # Three clouds of 200, 60 and 40 points: k-means finds clusters as uneven as they are.
    centres = rng.normal(size=(3, 6)).repeat([200, 60, 40], axis=0)
    points = (centres * 6 + rng.normal(size=(300, 6))).astype(np.float32)
    quantizer = RqKmeans((3, 4), balanced=True).fit(points, progress=False)
    codes = quantizer.encode(points)
    uneven = np.bincount(RqKmeans((3,)).fit(points, progress=False).encode(points)[:, 0])
    assert sorted(uneven.tolist()) == [40, 60, 200]
    first, second = np.bincount(codes[:, 0]), np.bincount(codes[:, 1])
    assert abs(first - 100).max() <= 2 and abs(second - 75).max() <= 2
    # The assignment to those centres with capacities of exactly 100, by the Hungarian algorithm.
    distances = np.square(points[:, None] - quantizer.codebooks[0][None]).sum(axis=2)
    rows, columns = linear_sum_assignment(distances.repeat(100, axis=1))
    best = distances[rows, columns // 100].sum()
    assert abs(distances[np.arange(300), codes[:, 0]].sum() - best) < 0.02 * best


def test_balanced_codes_do_not_depend_on_the_batch_and_are_read_back(tmp_path):
    quantizer = RqKmeans((5, 5), balanced=True).fit(POINTS, progress=False)
    quantizer.save_pretrained(tmp_path)
    loaded, codes = RqKmeans.from_pretrained(tmp_path), quantizer.encode(POINTS)
    np.testing.assert_array_equal(codes, np.concatenate([loaded.encode(point[None]) for point in POINTS]))
    assert loaded.balanced and all(prices is not None for prices in loaded.prices)
    assert RqKmeans((4,)).fit(POINTS, progress=False).prices == [None]


def test_balancing_leaves_identical_items_together_and_items_that_are_centres_alone():
    same = np.concatenate([np.repeat(POINTS[:1], 60, axis=0), POINTS[:60]])
    codes = RqKmeans((4,), balanced=True).fit(same, progress=False).encode(same)
    assert len(set(codes[:60, 0])) == 1
    few = POINTS[:4]
    assert len(set(RqKmeans((4,), balanced=True).fit(few, progress=False).encode(few)[:, 0])) == 4


def test_a_sample_of_a_large_catalogue_is_enough():
    quantizer = RqKmeans((4, 3), points_per_code=16).fit(POINTS, progress=False)
    codes = quantizer.encode(POINTS)
    assert same_partition(codes[:, 0].tolist(), PLANTED[:, 0].tolist())
    # Four codes of 16 points are 64 points of 120; 30 points a code are all, and change nothing.
    book = RqKmeans((4, 3), points_per_code=30).fit(POINTS, progress=False).codebooks[0]
    np.testing.assert_array_equal(book, RqKmeans((4, 3)).fit(POINTS, progress=False).codebooks[0])
    assert not np.array_equal(book, quantizer.codebooks[0])


def test_codes_are_the_same_on_two_threads():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(700, 24)).astype(np.float32)
    made = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            quantizers = [RqKmeans((16, 16), restarts=1, balanced=balanced) for balanced in (False, True)]
            made.append([quantizer.fit(points, progress=False) for quantizer in quantizers])
    for one, two in zip(*made, strict=True):
        assert all(np.array_equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
        np.testing.assert_array_equal(one.encode(points), two.encode(points))


def test_settings_out_of_range_raise():
    with pytest.raises(ValueError, match="got restarts=0; give 1 or more"):
        RqKmeans((4,), restarts=0)
    with pytest.raises(ValueError, match="got points_per_code=2; give 8 or more"):
        RqKmeans((4,), points_per_code=2)


def test_distinct_rows_are_found_wherever_they_stand():
    late = np.concatenate([np.repeat(POINTS[:1], 500, axis=0), POINTS])
    assert RqKmeans((4, 3)).fit(late, progress=False).encode(late).shape == (620, 2)
    with pytest.raises(ValueError, match="3 distinct embeddings for a level of 4 codes"):
        RqKmeans((4,)).fit(np.concatenate([np.repeat(POINTS[:1], 500, axis=0), POINTS[1:3]]))
