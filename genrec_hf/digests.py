"""Digests that name content, so that files made for other content are noticed."""

import hashlib
from collections.abc import Iterable

import numpy as np


def hex_digest(parts: Iterable[str | bytes | np.ndarray]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the parts, one after the other with nothing between.

    Example:
        >>> hex_digest(["ab", b"c"]) == hex_digest(["abc"])
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)  # the array's memory, not a copy
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]
