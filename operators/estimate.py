"""estimate: what all tasks of a chain will take."""

from __future__ import annotations

import json
import logging

import click

from segflow.cli.operator import job, option
from segflow.errors import UsageError


def numbers(text: str) -> list[int]:
    """Give the numbers of a comma list.

    Raises:
        UsageError: there is something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--workers '{text}': give whole numbers with commas between, as 1,8,64")
    return list(map(int, words))


@job(example="segflow estimate --workers 1,16,64 --cost-per-hour 0.5 -- fetch-task -q fq://tasks ...")
@click.argument("line", metavar="-- CHAIN", nargs=-1, type=click.UNPROCESSED)
@option("--workers", metavar="N[,N...]", default="1",
        help="Numbers of workers like this process, each with a machine like this one.")  # fmt: skip
@option("--cost-per-hour", type=click.FloatRange(0), default=None, help="Of one worker, in any currency.")
@option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def estimate(
    ctx: click.Context,
    line: tuple[str, ...],
    *,
    workers: str = "1",
    cost_per_hour: float | None = None,
    as_json: bool = False,
) -> None:
    """Run one task of a chain aside, and tell what all tasks will take: time, memory, bytes, cost.

    The task is chosen as by try, and nothing of it is kept. Tasks are those of generate-tasks, of the
    queue (waiting and running) or of the file. The assumptions are printed too.
    """
    from segflow.cli import aside, samples

    counts = numbers(workers)
    chain = samples.chain_of(ctx, line)
    with samples.aside_in(None, keep=False) as place:
        run = aside.Aside(chain, place)
        sample = run.run(run.place())
    found = samples.extrapolated(sample, chain.prefetch, counts, cost_per_hour)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(samples.table(found))
    for note in sample.notes:
        logging.getLogger("segflow").warning("%s", note)
