"""Seconds and memory of a block."""

import os
from mmap import mmap
from time import sleep

import numpy as np

from genrec_hf.resource_usage import track_resources


def test_seconds_and_memory():
    with track_resources() as quick:
        sleep(0.02)
    assert 0.02 <= quick.seconds < 1
    with track_resources() as large:
        np.frombuffer(mmap(-1, 50_000_000), np.uint8)[:] = 1  # from the system: a heap may hold this much unused
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert 45 < large.peak_mb < 80 and quick.peak_mb < 20
    else:
        assert large.peak_mb is None and quick.peak_mb is None


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("genrec_hf.resource_usage._RESET", tmp_path / "absent")
    with track_resources() as silent:
        pass
    assert silent.peak_mb is None and silent.seconds > 0
