import hashlib

import numpy as np

from genrec_hf.data import catalogue_fingerprint
from genrec_hf.digests import hex_digest


def test_digests_are_of_the_bytes_one_after_the_other():
    rows = np.array([[1, 2], [3, 4]], dtype="<i8")
    whole = hashlib.sha256(b"caf\xc3\xa9|" + rows.tobytes()).hexdigest()
    assert hex_digest(iter(["café", b"|", rows])) == whole[:16]
    odd = [np.array(7), np.zeros((0, 3)), rows.T, np.array([True, False]), np.array(["a", "bc"])]
    assert hex_digest(odd) == hashlib.sha256(b"".join(each.tobytes() for each in odd)).hexdigest()[:16]
    assert catalogue_fingerprint(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()[:16]
