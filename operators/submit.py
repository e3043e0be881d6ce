"""submit: a line to SLURM."""

from __future__ import annotations

import logging
from typing import Any

import click

from segflow.cli.operator import job, option

log = logging.getLogger("segflow")


@job(example="segflow submit --array 8 --time 2:00:00 --mem 16 -- fetch-task -q fq://tasks ...")
@click.argument("line", metavar="-- CHAIN|JOB", nargs=-1, type=click.UNPROCESSED)
@option("--array", "count", metavar="N", type=click.IntRange(1, 1_000_000), default=1,
        help="So many tasks of SLURM, each a worker that runs the line.")  # fmt: skip
@option("--time", metavar="TIME", default=None, show_default="the partition's",
        help="Wall time of a task: minutes, HH:MM:SS or D-HH:MM:SS.")  # fmt: skip
@option("--gpus", metavar="[TYPE:]N", default=None, help="GPUs of a task.")
@option("--cpus", type=click.IntRange(1), default=None, help="Cores of a task.")
@option("--mem", metavar="GiB", default=None, help="Memory of a task, GiB; or with a unit, 4000M.")
@option("--partition", metavar="NAME", default=None, help="Partition, or several with commas.")
@option("--max-running", type=click.IntRange(1), default=None, show_default="all",
        help="So many tasks run at once.")  # fmt: skip
@option("--workers", type=click.IntRange(1), default=None, show_default="1",
        help="Processes in each task, which share its cores.")  # fmt: skip
@option("--sbatch", "more", metavar="--NAME=VALUE", multiple=True,
        help="Another option for sbatch, as --sbatch=--account=lab; may be given several times.")  # fmt: skip
@option("--profile", metavar="FILE", default=None,
        help="K_NeuronSeg's HPC file, YAML; the options above go before it.")  # fmt: skip
@option("--after", metavar="SUBMISSION", multiple=True,
        help="Begin when this submission has ended well; may be given several times.")  # fmt: skip
@option("--requeue/--no-requeue", default=True,
        help="Whether SLURM runs a task again that it preempted, or that lost its node.")  # fmt: skip
@option("--job-dir", metavar="DIR", default=None, show_default="the user's state folder",
        help="Folder for script and logs; all machines must see it.")  # fmt: skip
@option("--dry-run", is_flag=True, help="Print the script, submit nothing.")
@click.pass_context
def submit(
    ctx: click.Context,
    line: tuple[str, ...],
    *,
    count: int = 1,
    profile: str | None = None,
    after: tuple[str, ...] = (),
    requeue: bool = True,
    dry_run: bool = False,
    **told: Any,
) -> None:
    """Submit a line to SLURM: an array of workers that empty a queue, or a job as segment-volume.

    The line after -- is checked first. Prints the submission's id, for --after and segflow jobs. A
    task that SLURM stops gives its task of the queue back. Paths are those of this folder.
    """
    from segflow.cli.slurm import fit_array, tell, with_processes
    from segflow.cli.wrapped import check_line
    from segflow.tasks import slurm
    from segflow.tasks.slurm_profile import Resources, read_profile
    from segflow.tasks.slurm_state import dependencies

    resources = (read_profile(profile) if profile else Resources()).over(told).checked("--")
    with slurm.inside(resources):
        found = check_line(ctx, line, lenient=bool(after))
    fit_array(found, count)
    words = with_processes(found, resources.workers)
    made = slurm.new(words, count, resources, requeue=requeue, after=list(after))
    if found.doubt:
        log.warning("%s; taken to be made by %s", found.doubt, ", ".join(after))
    jobs = dependencies(after)
    if dry_run or ctx.find_root().params.get("dry_run"):
        click.echo(made.text(jobs), nl=False)
        return
    slurm.submit(made, jobs)
    tell(made)
