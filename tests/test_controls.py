"""Controls: planes split as drawn and keep like items together; random codes are even, independent and repeatable."""

import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from genrec_hf.semantic_ids.controls import Lsh, RandomCodes

POINTS = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32) + 3


def test_lsh_codes_are_the_sides_of_the_planes():
    quantizer = Lsh((4, 8, 2), seed=3).fit(POINTS)
    codes = quantizer.encode(POINTS)
    planes = quantizer.tensors["planes"]
    assert planes.shape == (2 + 3 + 1, 16) and codes.max(axis=0).tolist() == [3, 7, 1]
    centred = POINTS.astype(np.float64) - POINTS.astype(np.float64).mean(axis=0)
    for item in range(0, 4000, 397):
        sides = [int(np.dot(plane, centred[item]) > 0) for plane in planes]
        wanted = [sides[0] + 2 * sides[1], sides[2] + 2 * sides[3] + 4 * sides[4], sides[5]]
        assert codes[item].tolist() == wanted
    # Planes through the mean part the items in halves though all lie to one side of the origin.
    assert abs(np.mean(codes[:, 2]) - 0.5) < 0.03
    assert quantizer.reconstruct(codes) is None


def test_lsh_gives_like_items_like_codes():
    quantizer = Lsh((2,) * 64).fit(POINTS)
    near = POINTS + np.float32(0.05) * np.random.default_rng(1).normal(size=POINTS.shape).astype(np.float32)
    agree = (quantizer.encode(POINTS) == quantizer.encode(near)).mean()
    # Two vectors at an angle are on the same side of a random plane with probability 1 - angle / pi.
    centred, other = POINTS - POINTS.mean(axis=0), near - POINTS.mean(axis=0)
    cosine = (centred * other).sum(axis=1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(other, axis=1)
    assert abs(agree - (1 - np.arccos(cosine) / np.pi).mean()) < 0.002
    assert agree > 0.98


def test_random_codes_are_even_and_say_nothing_of_the_item_or_of_each_other():
    codes = RandomCodes((8, 10)).fit(POINTS).encode(POINTS)
    pairs = np.bincount(codes[:, 0] * 10 + codes[:, 1], minlength=80)
    # Chi-squared of 79 degrees of freedom: 1 in 10,000 is above 133.
    assert ((pairs - 50.0) ** 2 / 50).sum() < 133
    near = RandomCodes((256,)).fit(POINTS).encode(POINTS + np.float32(1e-5))
    assert (near[:, 0] == RandomCodes((256,)).fit(POINTS).encode(POINTS)[:, 0]).mean() < 0.02
    assert RandomCodes((8, 10)).fit(POINTS).reconstruct(codes) is None
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32)
    one, other = RandomCodes((256, 256)).fit(zeros).encode(zeros)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("quantizer", [Lsh, RandomCodes])
def test_codes_are_the_same_alone_from_files_and_on_two_threads(tmp_path, quantizer):
    made = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            made.append(quantizer((64, 64), seed=1).fit(POINTS, progress=False).encode(POINTS))
    quantizer((64, 64), seed=1).fit(POINTS).save_pretrained(tmp_path)
    loaded = quantizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], loaded.encode(POINTS))
    np.testing.assert_array_equal(made[0][::40], np.concatenate([loaded.encode(row[None]) for row in POINTS[::40]]))
    assert not np.array_equal(made[0], quantizer((64, 64), seed=2).fit(POINTS).encode(POINTS))


def test_random_codes_are_the_same_in_another_process():
    program = (
        "import numpy as np; from genrec_hf.semantic_ids.controls import RandomCodes;"
        "points = np.eye(4, dtype=np.float32); print(RandomCodes((256, 256)).fit(points).encode(points).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    points = np.eye(4, dtype=np.float32)
    assert printed.strip() == str(RandomCodes((256, 256)).fit(points).encode(points).tolist())


def test_what_cannot_be_hashed_raises():
    with pytest.raises(ValueError, match=r"got level_sizes=\(256, 100\): .*powers of two"):
        Lsh((256, 100))
    with pytest.raises(ValueError, match="the embeddings of all 9 items are the same"):
        Lsh((4,)).fit(np.ones((9, 4)))
    for quantizer in (Lsh((4,)), RandomCodes((4,))):
        with pytest.raises(ValueError, match="item row 0 is NaN"):
            quantizer.fit(POINTS * np.nan)
        with pytest.raises(ValueError, match="is used before fit"):
            quantizer.encode(POINTS)
        with pytest.raises(ValueError, match="5 wide, the quantizer was fitted on 16"):
            quantizer.fit(POINTS).encode(POINTS[:, :5])
