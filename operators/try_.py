"""try: one task of a chain, to look at."""

from __future__ import annotations

import sys

import click

from segflow.cli.operator import job, option


@job(example="segflow try -- fetch-task -q fq://t cutout -v em inference --model affinity-snemi3d save -v x")
@click.argument("line", metavar="-- CHAIN", nargs=-1, type=click.UNPROCESSED)
@option("--to", "folder", metavar="DIR", default=None, show_default="a new folder in $TMPDIR",
        help="Empty folder for what the chain writes.")  # fmt: skip
@option("--view/--no-view", default=None, show_default="--view on a terminal",
        help="Open the task's chunks in neuroglancer, until Ctrl+C.")  # fmt: skip
@click.pass_context
def try_(
    ctx: click.Context, line: tuple[str, ...], *, folder: str | None = None, view: bool | None = None
) -> None:
    """Run one task of a chain, write it to a folder aside, tell its time and memory, and show it.

    A central task whose input is not all zero is taken from generate-tasks, a queue or a file of
    tasks; a queue is only looked at. Volumes and files that the chain writes lie in --to under
    their own names; a volume that exists lends its metadata. Steps that note that a task is done do nothing.
    """
    from segflow.cli import aside, samples
    from segflow.cli.main import parse

    chain = samples.chain_of(ctx, line)
    with samples.aside_in(folder, keep=True) as place:
        run = aside.Aside(chain, place)
        task = run.place()
        show = sys.stdout.isatty() if view is None else view
        more = parse(ctx.find_root(), ["neuroglancer"]) if show else []
        steps = more if isinstance(more, list) else []
        run.run(task, steps, lambda sample: click.echo(samples.told(sample, chain)))
