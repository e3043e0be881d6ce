"""Compiled code works where nothing can be cached."""

from __future__ import annotations

import subprocess
import sys

import numba
import pytest

from segflow.compiled import njit


def test_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def strict(*arguments, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", strict)

    @njit()
    def add(a, b):
        return a + b

    assert add(1, 2) == 3


def test_kept_memory_is_not_mapped_again():
    code = """
import resource, sys, numpy as np
from segflow.compiled import keep_memory
kept = sys.argv[1] == "keep" and keep_memory() is not None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    held = [np.ones(5_000_000, np.float32) for _ in range(4)]
step()
before = faults()
for _ in range(10):
    step()
print(kept, faults() - before)
"""
    told = [
        subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True).stdout
        for word in ("keep", "")
    ]
    (kept, few), (_, many) = (line.split() for line in told)
    if kept != "True":
        pytest.skip("only glibc is told what to keep")
    assert 10 * int(few) < int(many)
