"""queue: what waits, runs and is dead in a queue of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.jobs import asked
from segflow.cli.operator import job, option

if TYPE_CHECKING:
    from segflow.tasks.queues import Queue


@job(example="segflow queue fq://tasks --retry-dead")
@click.argument("address", metavar="QUEUE")
@option("--retry-dead", is_flag=True, help="Put the dead tasks back, as if they had never failed.")
@option("--purge", is_flag=True, help="Remove all tasks: waiting, running and dead. Asks first.")
@option("--yes", is_flag=True, help="Do not ask.")
@option("--json", "as_json", is_flag=True, help="Print the counts and every dead task as JSON.")
def queue(
    address: str, *, retry_dead: bool = False, purge: bool = False, yes: bool = False, as_json: bool = False
) -> None:
    """Tell how many tasks of a queue wait, run and are dead, and what the dead ones died of.

    QUEUE is fq://FOLDER, sqs://NAME or NAME. SQS tells its counts roughly, and a little late.
    """
    from segflow.errors import UsageError
    from segflow.tasks.queues import open_queue

    if retry_dead and purge:
        raise UsageError("--retry-dead keeps tasks and --purge removes them; give one of them")
    found = open_queue(address)
    if retry_dead:
        count = found.retry_dead()
        click.echo(f"put {count} dead {'task' if count == 1 else 'tasks'} back", err=as_json)
    if purge:
        click.echo(f"{sum(found.counts())} tasks in {found.address}", err=as_json)
        if not yes and not asked(f"remove all tasks from {found.address}?"):
            click.echo("nothing was removed", err=as_json)
            return
        found.purge()
    show(found, as_json)


def show(found: Queue, as_json: bool) -> None:
    """Print the counts and the dead tasks."""
    import json

    counts, dead = found.counts(), found.dead()
    if as_json:
        tasks = [{**task.message, "error": task.error} for task in dead]
        told = {"queue": found.address, **counts._asdict(), "dead": len(dead), "tasks": tasks}
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(found.address)
    for name, count in (*list(counts._asdict().items())[:2], ("dead", len(dead))):
        click.echo(f"{name:>9}{count:10d}")
    for task in dead:
        place = task.message.get("bbox") or " ".join(str(task.message.get("raw", ""))[:60].split())
        mip = task.message.get("mip")
        click.echo(f"  {place}{'' if mip is None else f'  mip {mip}'}  {task.error}")
