"""jobs: what was submitted to SLURM."""

from __future__ import annotations

import click

from segflow.cli.operator import job, option

SHOWN = 20  # submissions that are listed


@job(example="segflow jobs --cancel 3f2a9c1b")
@click.argument("ids", metavar="[SUBMISSION]...", nargs=-1)
@option("--cancel", metavar="SUBMISSION", multiple=True, show_default=False,
        help="End all tasks of this submission, and those that wait for it; may be given several "
        "times.")  # fmt: skip
@option("--all", "everything", is_flag=True, help="Also older ones: else the last 20 are listed.")
@option("--json", "as_json", is_flag=True, help="Print everything, each task, as JSON.")
def jobs(
    ids: tuple[str, ...] = (),
    *,
    cancel: tuple[str, ...] = (),
    everything: bool = False,
    as_json: bool = False,
) -> None:
    """Tell how the submissions to SLURM stand: tasks that wait, run, ended, failed; logs; last errors.

    Without SUBMISSION the newest are listed. SLURM need not know a task any more: tasks write down how
    they ended.
    """
    import json

    from segflow.cli import slurm as show
    from segflow.tasks import slurm
    from segflow.tasks.slurm_state import ask, standing

    known = slurm.submissions()
    if cancel:
        chosen = [load for ident in cancel for load in slurm.with_dependents(slurm.load(ident), known)]
        for one in {one.id: one for one in chosen}.values():
            slurm.cancel(one)
            click.echo(f"cancelled {one.id}", err=as_json)
        if not ids and not as_json:
            return
        ids = ids or tuple(one.id for one in chosen)
    chosen = [slurm.load(ident) for ident in ids] or (known if everything else known[:SHOWN])
    if not chosen and not as_json:
        click.echo(f"nothing was submitted; {slurm.state_folder()} holds no submissions")
        return
    found = [standing(one, live) for live in [ask()] for one in chosen] if chosen else []
    click.echo(json.dumps([show.as_json(one) for one in found], indent=1) if as_json else show.table(found))
