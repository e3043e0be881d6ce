"""What block jobs share on the command line: the work folder, several processes, how they end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

from segflow.cli.operator import option
from segflow.errors import UsageError
from segflow.secrets import hide

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("segflow")


def work_options(function: F) -> F:
    """Declare where the work lies and who does it."""
    for mark in (
        option("--processes", type=click.IntRange(1), default=None, show_default=False,
               help="Processes on this machine; default: one a core."),
        option("--join", is_flag=True, help="Work on the job in --work-dir, beside others."),
        option("--work-dir", metavar="DIR", default=None,
               help="Work folder; default: beside the output, .work added to its name."),
    ):  # fmt: skip
        function = mark(function)
    return function


def stale_option(function: F) -> F:
    """Declare what happens to results of other options or inputs."""
    return option("--stale", type=click.Choice(["fail", "redo", "keep"]), default="fail",
                  help="Results of other options or inputs in the work folder: end, do them again, or go on "
                  "with them.")(function)  # fmt: skip


def provenance_of(ctx: click.Context) -> dict[str, Any]:
    """Give how the outputs of a job are made: its line, without who did the work and where."""
    from segflow import __version__
    from segflow.cli.main import words_of

    line = words_of(ctx.command, ctx, leave_out=("processes", "join", "work_dir", "stale", "queue"))
    return {"segflow": __version__, "chain": [str(ctx.command.name), *map(hide, line)]}


def segments_to(path: str) -> str:
    """Give the address of a volume for segments, the same from any folder; ``.zarr`` at its end means zarr.

    Raises:
        UsageError: nothing can be written there, or it is the name of a file.
    """
    from segflow.blocks.inputs import absolute
    from segflow.cli.volumes import can_write
    from segflow.volumes.copy import FILES

    form = next((form for ending, form in FILES.items() if path.rstrip("/").lower().endswith(ending)), None)
    if form in ("tif", "h5"):
        raise UsageError(f"segments go into a volume, not a file: {path}; give a folder, or zarr://FOLDER")
    found = absolute(f"zarr://{path}" if form == "zarr" and "://" not in path else path)
    can_write(found)
    return found


def tell(path: str, voxels: int) -> None:
    """Say that a volume was written, and how to look at it."""
    from segflow.cli.volumes import view_line
    from segflow.volumes import open_volume

    log.info("wrote %s (%.2f Mvoxel)", path, voxels / 1e6)
    log.info("  view it: %s", view_line(open_volume(path)))


def asked(question: str) -> bool:
    """Ask on the terminal, yes or no.

    Raises:
        UsageError: nobody answers.
    """
    try:
        return click.confirm(question)
    except click.Abort:
        raise UsageError("nobody answered; --yes removes without asking") from None
