"""log-summary: what the timing logs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from segflow.cli.operator import operator, option, triple
from segflow.cli.plan import Plan
from segflow.errors import UsageError


def plan_summary(plan: Plan, options: dict[str, Any]) -> None:
    """Check that the folder is there."""
    folder = options["log_dir"]
    if "://" not in folder and not plan.made(folder) and not Path(folder).expanduser().is_dir():
        raise UsageError(f"there is no folder {folder}; give --log-dir")


@operator("Tasks", uses="io", plan=plan_summary,
          example="segflow log-summary --log-dir log --output-size 64 1024 1024")  # fmt: skip
@option("--log-dir", aliases=("-l",), default="./log", metavar="DIR",
        help="Folder of timing logs; also at file://, s3:// or gs://.")  # fmt: skip
@triple("--output-size", aliases=("-s",), type=click.IntRange(1), default=None,
        help="Size of one task's output, voxels; for the speed.")  # fmt: skip
def log_summary(
    *,
    log_dir: str = "./log",
    output_size: tuple[int, int, int] | None = None,
) -> None:
    """Print mean, max and min time and speed of every operator, by compute device."""
    from segflow.tasks.log import read_logs, summary

    click.echo(summary(read_logs(log_dir), output_size))
