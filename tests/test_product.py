"""Product quantization: planted parts are found, faiss does no better, and a rotation lowers the error."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from genrec_hf.semantic_ids.product import ProductQuantizer

RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.normal(size=(4, 3)) * 10, RNG.normal(size=(5, 2)) * 10
PLANTED = np.array([(a, b) for a in range(4) for b in range(5)] * 8)
POINTS = np.hstack([LEFT[PLANTED[:, 0]], RIGHT[PLANTED[:, 1]]]) + RNG.normal(size=(160, 5)) * 0.05
POINTS = POINTS.astype(np.float32)
# One direction holds most of the variance, and the others are correlated: what a rotation is for.
SKEWED = (RNG.normal(size=(1000, 16)) * 0.7 ** np.arange(16) @ RNG.normal(size=(16, 16))).astype(np.float32)


def error(quantizer, points):
    return np.square(points - quantizer.reconstruct(quantizer.encode(points))).sum(axis=1).mean()


def test_planted_parts_of_uneven_width_and_size_are_found():
    quantizer = ProductQuantizer((4, 5)).fit(POINTS, progress=False)
    codes = quantizer.encode(POINTS)
    assert codes.shape == (160, 2) and codes.dtype == np.int64
    for level, size in enumerate((4, 5)):
        assert len({*zip(codes[:, level], PLANTED[:, level], strict=True)}) == size
    assert error(quantizer, POINTS) < 5 * 0.05**2 * 1.2
    # The first part is three columns wide, the second two.
    assert [quantizer.tensors[f"codebook.{level}"].shape for level in range(2)] == [(4, 3), (5, 2)]


def test_codes_are_the_nearest_centres_of_the_rotated_parts():
    quantizer = ProductQuantizer((8, 8, 8), rotate=True, rotations=3).fit(SKEWED, progress=False)
    rotation = quantizer.tensors["rotation"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(16), atol=1e-5)
    codes, turned = quantizer.encode(SKEWED), SKEWED @ rotation.T
    for level, columns in enumerate((slice(0, 6), slice(6, 11), slice(11, 16))):
        book = quantizer.tensors[f"codebook.{level}"]
        distances = np.linalg.norm(turned[:, None, columns] - book[None], axis=2)
        np.testing.assert_allclose(distances[np.arange(1000), codes[:, level]], distances.min(axis=1), atol=1e-4)


def test_a_rotation_lowers_the_error_and_faiss_does_no_better():
    faiss = pytest.importorskip("faiss")
    plain = ProductQuantizer((16, 16)).fit(SKEWED, progress=False)
    rotated = ProductQuantizer((16, 16), rotate=True).fit(SKEWED, progress=False)
    assert error(rotated, SKEWED) < 0.97 * error(plain, SKEWED)

    def faiss_error(points):
        reference = faiss.ProductQuantizer(16, 2, 4)
        reference.train(points)
        return np.square(points - reference.decode(reference.compute_codes(points))).sum(axis=1).mean()

    opq = faiss.OPQMatrix(16, 2)
    opq.pq = faiss.ProductQuantizer(16, 2, 4)
    opq.train(SKEWED)
    assert error(plain, SKEWED) < 1.02 * faiss_error(SKEWED)
    assert error(rotated, SKEWED) < 1.05 * faiss_error(opq.apply(SKEWED))


@pytest.mark.parametrize("rotate", [False, True])
def test_codes_are_the_same_alone_from_files_and_on_two_threads(tmp_path, rotate):
    made = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            made.append(ProductQuantizer((8, 8, 8), rotate=rotate, rotations=4).fit(SKEWED, progress=False))
            codes = made[-1].encode(SKEWED)
    made[0].save_pretrained(tmp_path)
    loaded = ProductQuantizer.from_pretrained(tmp_path)
    assert loaded.settings == made[0].settings
    assert all(np.array_equal(made[0].tensors[name], made[1].tensors[name]) for name in made[0].tensors)
    np.testing.assert_array_equal(codes, loaded.encode(SKEWED))
    np.testing.assert_array_equal(codes[::50], np.concatenate([loaded.encode(row[None]) for row in SKEWED[::50]]))
    np.testing.assert_array_equal(codes.repeat(10, axis=0), loaded.encode(SKEWED.repeat(10, axis=0)))


def test_what_cannot_be_cut_or_clustered_raises():
    with pytest.raises(ValueError, match="embeddings of 5 columns cannot be split into 6 parts"):
        ProductQuantizer((2,) * 6).fit(POINTS, progress=False)
    with pytest.raises(ValueError, match="part 2 of the embeddings holds 1 distinct values for 4 codes"):
        ProductQuantizer((4, 4)).fit(np.hstack([POINTS[:, :2], np.ones((160, 2), np.float32)]), progress=False)
    with pytest.raises(ValueError, match="1 distinct embeddings"):
        ProductQuantizer((4, 4)).fit(np.ones((9, 4)), progress=False)
    with pytest.raises(ValueError, match="4 wide, the quantizer was fitted on 5"):
        ProductQuantizer((4, 4)).fit(POINTS, progress=False).encode(POINTS[:, :4])
    with pytest.raises(ValueError, match="got rotations=0; give 1 or more"):
        ProductQuantizer((4, 4), rotations=0)
    with pytest.raises(ValueError, match="item row 0 is NaN"):
        ProductQuantizer((4, 4)).fit(POINTS * np.nan)
