"""delete-task-in-queue: the task is finished."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from segflow.cli.operator import operator
from segflow.cli.plan import Plan

if TYPE_CHECKING:
    from segflow.state import State

log = logging.getLogger("segflow")


def plan_delete(plan: Plan, options: dict[str, Any]) -> tuple[()]:
    """Warn where no task can be held."""
    if not plan.lease:
        log.warning("delete-task-in-queue has nothing to do: no fetch-task stands before it")
    return ()


@operator(
    "Tasks",
    always=True,
    uses="io",
    plan=plan_delete,
    example="segflow fetch-task -q fq://tasks create-chunk write-h5 -f chunks/ delete-task-in-queue",
)
def delete_task_in_queue(state: State) -> None:
    """Take the task from its queue: it is done, or was skipped. Without this it comes back.

    That happens when all of the task has come to the end of the chain without an error.
    """
    if state.lease is not None:
        state.lease.acknowledge()
