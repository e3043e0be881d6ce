"""log-summary: what the timing logs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segflow.cli.operator import operator, option, triple
from segflow.cli.plan import Plan
from segflow.errors import UsageError


def plan_summary(plan: Plan, options: dict[str, Any]) -> None:
    """Check that the folder is there, and those of the files that are written."""
    folder = options["log_dir"]
    if not plan.made(folder) and folder.startswith("file://"):
        folder = folder.removeprefix("file://")
    if "://" not in folder and not plan.made(folder) and not Path(folder).expanduser().is_dir():
        raise UsageError(f"there is no folder {folder}; give --log-dir")
    for key, name in (("picture", "--plot"), ("metrics", "--metrics")):
        if options[key] and not Path(options[key]).expanduser().absolute().parent.is_dir():
            raise UsageError(f"{name} {options[key]}: its folder does not exist")


@operator("Tasks", uses="io", plan=plan_summary,
          example="segflow log-summary --log-dir log --output-size 64 1024 1024")  # fmt: skip
@option("--log-dir", aliases=("-l",), default="./log", metavar="DIR",
        help="Folder of timing logs; also at file://, s3:// or gs://.")  # fmt: skip
@triple("--output-size", aliases=("-s",), type=click.IntRange(1), default=None,
        help="Size of one task's output, voxels; for the speed.")  # fmt: skip
@option(
    "--json", "as_json", is_flag=True, help="Print all numbers as JSON; times in seconds, memory in bytes."
)
@option(
    "--plot", "picture", default=None, metavar="FILE.png", help="Picture of bars: mean, min and max seconds."
)
@option("--metrics", default=None, metavar="FILE.prom",
        help="Prometheus text file of the numbers, for node_exporter's textfile collector.")  # fmt: skip
def log_summary(
    *,
    log_dir: str = "./log",
    output_size: tuple[int, int, int] | None = None,
    as_json: bool = False,
    picture: str | None = None,
    metrics: str | None = None,
) -> None:
    """Print times, their share, memory and speed of every operator, by compute device.

    Logs are those of --log-dir of a run, and of --upload-log beside a volume (VOLUME/log). Tasks that
    were skipped or failed are counted and left out of the times.
    """
    import json

    from segflow.tasks import summary
    from segflow.tasks.log import read_logs
    from segflow.volumes.files import replacing

    logs = read_logs(log_dir)
    if as_json:
        click.echo(json.dumps(summary.as_json(logs, output_size), indent=1))
    else:
        click.echo(summary.summary(logs, output_size))
    if picture:
        summary.save_bars(logs, picture)
    if metrics:
        with replacing(metrics) as beside:
            beside.write_text(summary.prometheus(logs))
