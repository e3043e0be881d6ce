"""status: what is done of a block job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.operator import job, option

if TYPE_CHECKING:
    from segflow.blocks.status import Status


@job(example="segflow status seg.work --map blocks.png")
@click.argument("path", metavar="WORK_DIR|OUTPUT")
@option("--map", "map_path", metavar="FILE.png", default=None,
        help="Draw the grid of each stage: done, running, failed and missing blocks.")  # fmt: skip
@option("--json", "as_json", is_flag=True, help="Print everything, the number of each block, as JSON.")
@option("--watch", metavar="[SECONDS]", type=click.FloatRange(0.1), is_flag=False, flag_value=2.0,
        default=None, show_default=False,
        help="Repeat every so many seconds (2), until all is done or Ctrl+C.")  # fmt: skip
def status(
    path: str, *, map_path: str | None = None, as_json: bool = False, watch: float | None = None
) -> None:
    """Tell which blocks of a job are done, running, failed or missing.

    WORK_DIR is the job's work folder, OUTPUT the volume it writes. The exit code is 1 if blocks
    failed and none is being computed.
    """
    import sys
    import time

    from segflow.blocks.inputs import find_work_dir
    from segflow.blocks.ledger import WorkFolder
    from segflow.blocks.status import survey

    folder = WorkFolder(find_work_dir(path))
    try:
        while True:
            found = survey(folder)
            show(found, map_path, as_json, watch is not None)
            if watch is None or found.complete:
                break
            time.sleep(watch)
    except KeyboardInterrupt:
        if watch is None:
            raise
    if found.stopped_by_failure:
        sys.exit(1)


def show(found: Status, map_path: str | None, as_json: bool, again: bool) -> None:
    """Print the status, and draw its map."""
    import json

    from segflow.blocks import status
    from segflow.volumes.files import replacing

    if map_path is not None:
        from PIL import Image

        picture = Image.fromarray(status.Map(found).draw())
        with replacing(map_path) as beside:
            picture.save(beside, format="PNG")
    if as_json:
        click.echo(json.dumps(status.as_json(found), indent=None if again else 1))
        return
    if again:
        click.clear()
    click.echo(status.table(found))
