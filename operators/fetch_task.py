"""fetch-task: tasks from a queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import operator, option
from segflow.cli.plan import Plan
from segflow.cli.queues import plan_queue, queue_option
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.state import State


def plan_fetch(plan: Plan, options: dict[str, Any]) -> None:
    """Check the queue's address; the boxes are not known."""
    from segflow.tasks.queues.base import poll_max

    plan_queue(options["queue_name"])
    poll_max()
    plan.tasks, plan.bbox, plan.lease = True, None, True


@operator(
    "Tasks",
    kind="expand",
    source=True,
    uses="io",
    plan=plan_fetch,
    example="segflow fetch-task -q fq://tasks read-precomputed -v file:///data/image write-h5 -f chunks/ "
    "delete-task-in-queue",
)
@queue_option("Queue of the tasks; it is made if it is not there.")
@option("-v", "--visibility-timeout", type=click.FloatRange(1), default=1800,
        help="How long a task is ours unless extended, seconds; it is extended while it runs, and comes "
        "back after that time if its worker dies.")  # fmt: skip
@option("-r", "--retry-times", type=click.IntRange(0), default=30,
        help="How often an empty queue is asked again before the worker ends; the waits grow to 10 s, or "
        "to $SEGFLOW_POLL_MAX seconds.")  # fmt: skip
@option("-n", "--num", type=int, default=-1, help="Tasks at most; negative: all.")
@option("--tries", type=click.IntRange(1), default=3,
        help="How often a task may fail before it goes to the dead-letter place.")  # fmt: skip
@option("--max-failures", type=click.IntRange(0), default=3,
        help="So many tasks that fail equally one after the other stop the worker; 0: never.")  # fmt: skip
@option("--max-time", type=click.FloatRange(0, min_open=True), default=43200,
        help="So many seconds without a task's end are a task that hangs: it fails, and this process "
        "ends with exit code 75.")  # fmt: skip
def fetch_task(
    state: State,
    *,
    queue_name: str,
    visibility_timeout: float = 1800,
    retry_times: int = 30,
    num: int = -1,
    tries: int = 3,
    max_failures: int = 3,
    max_time: float = 43200,
) -> Iterator[State]:
    """Run the rest of the chain for each task of a queue, until the queue is empty.

    The task is taken from the queue by delete-task-in-queue; without it, it comes back. A task that
    fails is put back with its error; after --tries failures it goes to the dead-letter place, which
    'segflow queue' shows. SIGTERM gives the task back and ends the worker with exit code 0.
    """
    from segflow.tasks.lease import Keeper
    from segflow.tasks.queues import box_of, open_queue

    run = state.run
    queue = open_queue(queue_name, create=True, failures=tries)
    keeper = Keeper(
        queue, visibility_timeout, run.stop, row=max_failures, most=1 + run.prefetch, longest=max_time,
        hung=run.hung,
    )  # fmt: skip
    run.keepers.append(keeper)
    for index, held in enumerate(keeper.tasks(retry_times, None if num < 0 else num)):
        told = held.message.get("mip")
        mip = run.mip if told is None else told
        if run.mip and mip != run.mip:
            raise UsageError(
                f"the boxes of {queue.address} are at mip {mip}, but --mip says {run.mip}; leave --mip out, "
                f"or make the tasks with generate-tasks -m {run.mip}"
            )
        yield state.child(bbox=box_of(held.message), mip=mip, index=index, lease=held)
        yield state.child(ends=held, lease=held)  # all of the task went by
