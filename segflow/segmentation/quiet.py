"""Silence libraries that print from C++."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_one_at_a_time = threading.RLock()


class _Others(io.TextIOBase):
    """A standard output that drops what one thread prints and passes on what others do."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.silent = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.silent else self.place.write(text)

    def flush(self) -> None:
        self.place.flush()

    def fileno(self) -> int:
        return int(self.place.fileno())


@contextmanager
def muted() -> Iterator[None]:
    """Send file descriptor 1, and this thread's ``sys.stdout``, to nowhere for a while.

    What was buffered before still comes out, what the block printed does not come out later, and
    both are put back whatever happens. Python code of other threads goes on printing to the old
    place; only their C code is silenced too. One block at a time in a process; blocks nest.

    >>> with muted():
    ...     print("not seen")
    """
    with _one_at_a_time:
        try:
            saved = os.dup(1)
        except OSError:  # closed: nothing can be printed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        before = sys.stdout
        aside = _aside(before, saved)
        others = _Others(aside) if aside is not None else None
        _flush(before)
        os.dup2(nowhere, 1)
        if others is not None:
            sys.stdout = others
        try:
            yield
        finally:
            _flush(aside)
            os.dup2(saved, 1)
            if sys.stdout is others:
                sys.stdout = before
            if aside is not before and aside is not None:
                aside.close()
            os.close(nowhere)
            os.close(saved)


def _aside(stream: Any, saved: int) -> Any:
    """Give a stream that goes where ``stream`` went before descriptor 1 was redirected."""
    try:
        if stream is None or stream.fileno() != 1:
            return stream
    except (OSError, ValueError, AttributeError):
        return stream
    return open(os.dup(saved), "w", buffering=1, encoding=stream.encoding, errors=stream.errors, newline="")


def _flush(stream: Any) -> None:
    """Empty Python's and C's buffers of the standard output."""
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)
