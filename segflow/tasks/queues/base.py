"""What every queue can do."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

from segflow.tasks.queues.messages import Message

log = logging.getLogger("segflow")

LONGEST_WAIT = 10.0  # seconds
LOST = 10  # so many leases that end without a word make a task dead: it kills its workers


def poll_max() -> float:
    """Give the longest wait between two looks into an empty queue: $SEGFLOW_POLL_MAX, or 10 seconds.

    Raises:
        UsageError: it is no positive number.
    """
    from segflow.errors import UsageError

    told = os.environ.get("SEGFLOW_POLL_MAX", "")
    if not told:
        return LONGEST_WAIT
    try:
        seconds = float(told)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"SEGFLOW_POLL_MAX is '{told}'; give it a positive number of seconds")
    return seconds


class Counts(NamedTuple):
    """How many tasks there are; SQS tells them roughly."""

    waiting: int
    running: int
    dead: int


class Dead(NamedTuple):
    """A dead task, {"bbox", "mip"} or {"raw"} of what is no task; and what it died of."""

    message: Message
    error: str


class Leased(ABC):
    """A task that is ours for some seconds.

    ``message`` is {"bbox": ..., "mip": ...}; ``tries`` is 1 when it runs for the first time. Exactly
    one of ``done`` and ``release`` ends it; if neither comes it returns when its time is over.
    """

    message: Message
    tries: int

    @abstractmethod
    def extend(self, seconds: float) -> None:
        """Keep it for so many seconds from now.

        Raises:
            LeaseLost: its time ran out; another worker may have it.
        """

    @abstractmethod
    def done(self) -> None:
        """Take the task from the queue: it is done, or skipped.

        Raises:
            LeaseLost: its time ran out; nothing was taken.
        """

    @abstractmethod
    def release(self, error: str | None = None) -> bool:
        """Give it back; with an error that counts as a failure. Tell whether it is dead now.

        Raises:
            LeaseLost: its time ran out; it is in the queue, or with another worker.
        """


class Queue(ABC):
    """Tasks that wait, run, or are dead; many workers take from it at once."""

    address: str
    failures: int  # so many make a task dead

    def tell_dead(self, error: str) -> None:
        """Say that a message went to the dead-letter place without being run."""
        log.warning("a message of %s is dead: %s", self.address, error)

    @abstractmethod
    def send(self, messages: Iterable[Message]) -> int:
        """Put tasks in, in batches, as they come; give how many."""

    @abstractmethod
    def lease(self, seconds: float) -> Leased | None:
        """Take a free task for so many seconds; None if nothing is free now."""

    @abstractmethod
    def peek(self, most: int) -> list[Message]:
        """Look at some of the waiting tasks, up to ``most``, and take none of them."""

    @abstractmethod
    def counts(self) -> Counts:
        """Give how many tasks wait, run and are dead."""

    @abstractmethod
    def dead(self) -> list[Dead]:
        """Give the tasks of the dead-letter place, with their errors."""

    @abstractmethod
    def retry_dead(self) -> int:
        """Put dead tasks back, as if they had never failed; give how many. What is no task stays dead."""

    @abstractmethod
    def purge(self) -> None:
        """Remove everything: waiting, running and dead."""
