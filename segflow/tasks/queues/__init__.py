"""Queues of tasks: a folder or Amazon SQS behind one interface."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from segflow.tasks.queues.base import Counts, Dead, Leased, Queue
from segflow.tasks.queues.messages import Message, box_of, message

if TYPE_CHECKING:
    from segflow.geometry import Box

__all__ = [
    "Counts", "Dead", "Leased", "Message", "Queue", "box_of", "check_address", "fill", "message",
    "open_queue",
]  # fmt: skip

log = logging.getLogger("segflow")


def open_queue(address: str, *, create: bool = False, failures: int = 3) -> Queue:
    """Open the queue at ``address``.

    Args:
        address: ``fq://FOLDER``, ``sqs://NAME``, or a bare NAME, which is SQS's.
        create: make it if it is not there.
        failures: a task that fails so often goes to the dead-letter place.

    Raises:
        UsageError: the address is none.
        QueueError: there is no such queue, or it cannot be reached.
    """
    form, place = check_address(address)
    if form == "fq":
        from segflow.tasks.queues.folder import FolderQueue

        return FolderQueue(place, create=create, failures=failures)
    from segflow.tasks.queues.sqs import SqsQueue

    return SqsQueue(place, create=create, failures=failures)


def fill(address: str, boxes: Iterable[Box], mip: int | None) -> None:
    """Put tasks into a queue as they are made, and say how many; warn of those that it held before.

    Args:
        address: of the queue, which is made if it is not there.
        boxes: zyx voxels.
        mip: theirs; None leaves it to the workers' --mip.
    """
    queue = open_queue(address, create=True)
    held = queue.counts()
    count = queue.send(message(box, mip) for box in boxes)
    log.info("put %d task%s into %s", count, "s" * (count != 1), queue.address)
    if before := held.waiting + held.running:
        log.warning(
            "%s held %d task%s before; if those are the same, they are done twice (segflow queue %s --purge "
            "empties it)", queue.address, before, "s" * (before != 1), address,
        )  # fmt: skip


def check_address(address: str) -> tuple[str, str]:
    """Give ("fq", folder) or ("sqs", name) without looking whether the queue is there.

    >>> check_address("sqs://my-queue"), check_address("my-queue")
    (('sqs', 'my-queue'), ('sqs', 'my-queue'))

    Raises:
        UsageError: it is no queue's address.
    """
    import re

    from segflow.errors import UsageError

    form, mark, place = address.rpartition("://")
    form = form if mark else "sqs"
    if form == "fq" and place:
        from pathlib import Path

        return form, str(Path(place).expanduser().absolute())
    if form != "sqs" or not re.fullmatch(r"[A-Za-z0-9_-]{1,75}", place):
        raise UsageError(
            f"'{address}' names no queue; write fq://FOLDER, or sqs://NAME with letters, digits, - and _"
        )
    return form, place
