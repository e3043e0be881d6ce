"""Compiled code works where nothing can be cached."""

from __future__ import annotations

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
