"""Timing in turn, and the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def in_turn(ours: Callable[[], object], peer: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """Give the median seconds of both, run A B A B after one warm-up of each."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for function, seconds in zip((ours, peer), times):
            began = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def row(what: str, ours: float, peer_name: str, peer: float, more: str = "") -> None:
    """Print one line: seconds of both and ours over the peer's."""
    print(
        f"{what:44s} {ours:9.3f} s   {peer_name:24s} {peer:9.3f} s   ratio {ours / peer:6.2f}  {more}",
        flush=True,
    )
