"""Progress of long work: a bar on a terminal, a line now and then elsewhere, silent in the library."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int], object]

mode = "silent"  # silent, bar or log; the command line sets it
EVERY = 10.0  # seconds between two log lines


@contextmanager
def bar(total: int, unit: str) -> Iterator[Tick]:
    """Give a function that is told how many of ``total`` patches, blocks or tasks were done.

    >>> with bar(3, "patches") as tick:
    ...     for _ in range(3):
    ...         tick(1)
    """
    if mode == "bar":
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}", leave=False) as shown:
            yield shown.update
    elif mode == "log":
        yield _Lines(total, unit)
    else:
        yield _nothing


def _nothing(n: int = 1) -> None:
    """Take a tick and show nothing."""


class _Lines:
    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.began = self.last = time.monotonic()

    def __call__(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < EVERY:
            return
        self.last = now
        rate = self.done / (now - self.began)
        left = (self.total - self.done) / rate if rate else 0
        logging.getLogger("segflow").info(
            "%d of %d %s, %.2f a second, %.0f s left", self.done, self.total, self.unit, rate, left
        )
