"""clean: remove the results of a block job."""

from __future__ import annotations

import click

from segflow.cli.jobs import asked
from segflow.cli.operator import job, option
from segflow.errors import UsageError, did_you_mean


@job(example="segflow clean seg.work --stage agglomerate")
@click.argument("path", metavar="WORK_DIR|OUTPUT")
@option("--stage", "names", metavar="NAME", multiple=True, show_default="all",
        help="Stage to clean, with those after it; may be given several times.")  # fmt: skip
@option("--yes", is_flag=True, help="Do not ask.")
@option("--force", is_flag=True, help="Also while blocks are being computed.")
def clean(path: str, *, names: tuple[str, ...] = (), yes: bool = False, force: bool = False) -> None:
    """Remove what a block job keeps in its work folder: results, tables, failures of its stages.

    WORK_DIR is the job's work folder, OUTPUT the volume it writes, which stays as it is. Stages
    after a cleaned one are cleaned too. Asks first.
    """
    from segflow.blocks.inputs import find_work_dir
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.plan import with_dependents

    folder = WorkFolder(find_work_dir(path))
    stages = folder.plan()["stages"]
    for name in names:
        if name not in stages:
            known = ", ".join(stages)
            raise UsageError(f"no stage '{name}'{did_you_mean(name, list(stages))}; there are {known}")
    found = {}
    for name in with_dependents(stages, names or list(stages)):
        files = list(folder.files(name))
        if any(claim.alive for claim in folder.running(name).values()) and not force:
            raise UsageError(f"blocks of stage {name} are being computed; end that run, or add --force")
        if files:
            found[name] = (len(files), sum(f.stat().st_size for f in files if f.exists()))
    if not found:
        click.echo("nothing to remove")
        return
    width = max(map(len, found))
    for name, (count, size) in found.items():
        click.echo(f"{name:{width}}{count:10d} files{size / 1e6:12.2f} MB")
    if not (yes or asked(f"remove this from {folder.path}?")):
        click.echo("nothing was removed")
        return
    for name in reversed(found):
        folder.remove(name)
    count, size = (sum(numbers) for numbers in zip(*found.values()))
    click.echo(f"removed {count} files, {size / 1e6:.2f} MB, of {', '.join(found)}")
