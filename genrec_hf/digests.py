"""Computes short digests of content, to detect files that were made for other content."""

import hashlib
from collections.abc import Iterable

import numpy as np


def hex_digest(parts: Iterable[str | bytes | np.ndarray]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the concatenated parts.

    Args:
        parts (`Iterable`): text (as UTF-8), bytes, and arrays (the bytes of their values in C order).

    Returns:
        `str`: 16 hexadecimal digits.

    Example:
        >>> hex_digest(["ab", b"c"]) == hex_digest(["abc"])
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(
                np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            )  # without copying a contiguous array
        else:
            digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]
