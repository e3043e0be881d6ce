"""worker: processes that keep at a queue of tasks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from segflow.cli.operator import job, option
from segflow.errors import SegflowError, UsageError

log = logging.getLogger("segflow")


@job(example="segflow worker --processes 4 --gpus 0,1 --health worker.json -- fetch-task -q fq://tasks ... "
     "delete-task-in-queue")  # fmt: skip
@click.argument("line", metavar="-- CHAIN", nargs=-1, type=click.UNPROCESSED)
@option("--processes", type=click.IntRange(1), default=1, help="How many run at once; they share the cores.")
@option("--gpus", metavar="IDS", default=None, show_default="as CUDA_VISIBLE_DEVICES says",
        help="GPUs for the processes, by turns: 0,1,2.")  # fmt: skip
@option("--health", metavar="FILE", default=None,
        help="Keep a JSON file that tells how it goes; see --check.")  # fmt: skip
@option("--max-restarts", type=click.IntRange(0), default=10,
        help="So many crashes in a row of a process are mended.")  # fmt: skip
@option("--check", metavar="FILE", default=None,
        help="Only look at a health file: exit 0 if the worker is well, else 1.")  # fmt: skip
@option("--max-age", type=click.FloatRange(0, min_open=True), default=60,
        help="How old a health file may be for --check, seconds.")  # fmt: skip
@click.pass_context
def worker(
    ctx: click.Context,
    line: tuple[str, ...],
    *,
    processes: int = 1,
    gpus: str | None = None,
    health: str | None = None,
    max_restarts: int = 10,
    check: str | None = None,
    max_age: float = 60,
) -> None:
    """Keep processes of a chain with fetch-task running until its queue is empty.

    The chain after -- is checked first. A process that was killed or crashed is started again, after
    waits that grow from 1 s to 60 s; one that ended with failed tasks is not. On SIGTERM and Ctrl+C
    the processes give their tasks back, and the exit code is 0.
    """
    from segflow.tasks.supervise import check_health

    if check:
        if line:
            raise UsageError("--check looks at a health file and runs no chain; leave one of them out")
        check_health(check, max_age)
        return
    supervisor = supervisor_of(ctx, line, processes, gpus, health, max_restarts)
    if supervisor is None:
        return
    try:
        code = supervisor.run()
    except KeyboardInterrupt:
        log.info("ended by a signal; unfinished tasks were given back")
        return
    if code:
        last = f"; the last error: {supervisor.board.last_error}" if code > 1 else ""
        raise SegflowError(
            f"tasks failed{last}; see the lines above, and segflow queue {supervisor.queue.address}"
        )


def supervisor_of(
    ctx: click.Context,
    line: tuple[str, ...],
    processes: int,
    gpus: str | None,
    health: str | None,
    max_restarts: int,
) -> Any:
    """Check everything; give what keeps the processes, or None where --dry-run printed the plan.

    Raises:
        UsageError: the chain, a GPU's name or the place of the health file cannot work.
    """
    from segflow import progress
    from segflow.cli.report import show_plan
    from segflow.cli.wrapped import check_line
    from segflow.tasks.queues import open_queue
    from segflow.tasks.supervise import Supervisor

    found = check_line(ctx, line)
    fetch = next((s for s in found.chain.steps if s.name == "fetch-task"), None) if found.chain else None
    if fetch is None:
        raise UsageError("the line takes no tasks from a queue; begin it with fetch-task")
    names = [word.strip() for word in gpus.split(",")] if gpus is not None else []
    if not all(names):
        raise UsageError(f"--gpus '{gpus}': give the GPUs with commas between, as 0,1,2")
    place = Path(health).expanduser().absolute() if health else None
    if place and not place.parent.is_dir():
        raise UsageError(f"--health {health}: the folder {place.parent} does not exist; make it first")
    if ctx.find_root().params.get("dry_run"):
        click.echo(show_plan(found.chain.check(), found.chain))
        return None
    options = fetch.options
    queue = open_queue(options["queue_name"], create=True, failures=options["tries"])
    return Supervisor(
        found.words, processes, queue, options["visibility_timeout"], names, max_restarts, place,
        progress.mode,
    )  # fmt: skip
