"""Fast code on a CPU: numba with its cache or without it, memory that is kept, cores."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from functools import cache
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


@cache
def keep_memory() -> ctypes.CDLL | None:
    """Let glibc keep freed memory; give the library whose ``malloc_trim`` gives it back.

    Arrays of many MB are otherwise mapped, zeroed and unmapped again and again: a third of the time
    of a network's forward on a CPU, or of a region graph. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    threshold, trim = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    library.mallopt(threshold, 1 << 30)
    library.mallopt(trim, (1 << 31) - 1)
    return library


def cores() -> int:
    """Give the number of cores that this process may use: NUMBA_NUM_THREADS, else all it is bound to."""
    told = os.environ.get("NUMBA_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
