"""numba with its cache, and without it where nothing can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def njit(**options: Any) -> Callable[[F], F]:
    """Compile a function without the GIL; keep the machine code on disk where there is a place.

    numba refuses ``cache=True`` when neither the package's folder nor the home can be written, as
    in a container that runs as another user; the function is then compiled once a process.

    >>> @njit()
    ... def twice(x):
    ...     return 2 * x
    >>> twice(21)
    42
    """
    import numba

    def compiled(function: F) -> F:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:
            return numba.njit(nogil=True, **options)(function)  # type: ignore[no-any-return]

    return compiled
