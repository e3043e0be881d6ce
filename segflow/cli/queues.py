"""What the commands that use queues share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from segflow.cli.operator import option

F = TypeVar("F", bound=Callable[..., Any])


def queue_option(help: str, *, required: bool = True, **attributes: Any) -> Callable[[F], F]:
    """Declare ``-q/--queue-name``."""
    text = f"{help} fq://FOLDER, sqs://NAME, or NAME, which is SQS's."
    return option(
        "-q", "--queue-name", aliases=("--queue",), metavar="QUEUE", required=required, default=None,
        show_default=False, help=text, **attributes,
    )  # fmt: skip


def plan_queue(address: str) -> None:
    """Raise UsageError for an address that is none, or a folder that cannot be written; connect to none."""
    from segflow.cli.volumes import can_write
    from segflow.tasks.queues import check_address

    form, place = check_address(address)
    if form == "fq":
        can_write(f"file://{place}")
