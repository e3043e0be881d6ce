"""A block job by workers of a queue: the queue says that there is work, the work folder which.

A message is worth one block. Whoever takes it computes one block of the work folder, of whatever stage can go
on, and takes the message from the queue when the block is done. So as many messages wait as blocks are
missing, however the stages depend on each other; the boxes in them are for people.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from threading import Event

from segflow.blocks.ledger import Stage, WorkFolder
from segflow.blocks.runner import check_complete, each_block
from segflow.errors import SegflowError, Terminated
from segflow.geometry import Box
from segflow.tasks.lease import Held, Keeper, poll_max
from segflow.tasks.queues import Message, Queue, message

log = logging.getLogger("segflow")

SECONDS = 300.0  # a message is ours unless extended; it is, every third of that


def fill(folder: WorkFolder, stages: Sequence[Stage], bounds: Box, queue: Queue) -> int:
    """Put a message into the queue for each block that is missing; give how many.

    What waits or runs in it already counts, so filling it twice does no harm. The queue must be the
    job's own.

    Args:
        folder: after ``begin``.
        stages: of the job.
        bounds: of the volume, for stages of one block.
        queue: where the messages go.
    """
    there = sum(queue.counts()[:2])
    missing = _missing(folder, stages, bounds)
    for _ in zip(range(there), missing):
        pass
    return queue.send(missing)


def _missing(folder: WorkFolder, stages: Sequence[Stage], bounds: Box) -> Iterator[Message]:
    for stage in stages:
        done = folder.done(stage.name)
        for block in range(stage.count):
            if block not in done:
                yield message(stage.boxes[block] if stage.boxes is not None else bounds)


def work(folder: WorkFolder, stages: Sequence[Stage], queue: Queue, retries: int = 30) -> bool:
    """Compute a block for each message, until the job is complete or the queue stays empty.

    A block that fails gives its message back with the error; others are done first. SIGTERM gives
    block and message back.

    Args:
        folder: after ``join``.
        stages: of the job.
        queue: with messages from ``fill``.
        retries: so often an empty queue is asked again; the waits grow to 10 s, or SEGFLOW_POLL_MAX.

    Returns:
        whether the job is complete.

    Raises:
        SegflowError: this worker had blocks that failed, or several failed in the same way.
    """
    blocks = each_block(folder, stages)
    failures: list[str] = []
    wait, longest = 0.1, poll_max()
    with _Sigterm() as sigterm:
        keeper = Keeper(queue, SECONDS, sigterm.came)
        try:
            while True:
                for held in keeper.tasks(0):
                    error = _one(sigterm, blocks, folder, stages)
                    failures += [str(error)] if error else []
                    _end(held, error)
                if _complete(folder, stages) or not retries or sigterm.came.wait(min(wait, longest)):
                    break
                retries, wait = retries - 1, 1.5 * wait
        except Terminated:
            pass
        finally:
            blocks.close()
            keeper.close()
    complete = _complete(folder, stages)
    if sigterm.came.is_set() and not complete:
        log.info("ended by SIGTERM; the block and its message were given back")
        return False
    if failures and not complete:
        raise SegflowError(f"{len(failures)} blocks failed here; the first, {failures[0]}")
    return complete


class _Sigterm:
    """Lets SIGTERM break off the computation of a block, but not the talk with the queue."""

    def __init__(self) -> None:
        self.came, self.breaks = Event(), False

    def __enter__(self) -> _Sigterm:
        self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _handle(self, *_: object) -> None:
        self.came.set()
        if self.breaks:
            raise Terminated


def _one(
    sigterm: _Sigterm, blocks: Generator[str, None, None], folder: WorkFolder, stages: Sequence[Stage]
) -> SegflowError | None:
    """Compute one block; give what went wrong."""
    try:
        sigterm.breaks = True
        if sigterm.came.is_set():
            raise Terminated
        told = next(blocks, None)
    finally:
        sigterm.breaks = False
    if told:
        return SegflowError(told)
    if told is None:  # nothing more can be had
        try:
            check_complete(folder, stages)
        except SegflowError as lacking:
            return lacking
    return None


def _end(held: Held, error: SegflowError | None) -> None:
    """Take the message from the queue, or give it back with its error."""
    if error is None:
        held.acknowledge()
    held.note(error)
    held.finish()


def _complete(folder: WorkFolder, stages: Sequence[Stage]) -> bool:
    return all(folder.complete(stage.name) for stage in stages)
