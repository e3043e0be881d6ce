"""skip-task-by-file: pass over tasks by the files they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.operator import operator, option

if TYPE_CHECKING:
    from segflow.state import State


@operator("State", uses="io",
          example="segflow generate-tasks -v em -c 64 512 512 skip-task-by-file -p chunks/ -s .h5 "
          "cutout -v em write-h5 -f chunks/")  # fmt: skip
@option("--prefix", aliases=("-p",), required=True, metavar="PREFIX",
        help="The file is PREFIX<box>SUFFIX: a path, file://, s3:// or gs://.")  # fmt: skip
@option("--suffix", aliases=("-s",), default="", help="End of the file's name.")
@option("--mode", aliases=("-m",), type=click.Choice(["missing", "empty", "exist"]), default="exist",
        help="Pass over a task whose file is missing, is there but empty, or is there.")  # fmt: skip
@option("--adjust-size", aliases=("-a",), type=int, default=None, show_default=False,
        help="Grow the box in the name by this on every face (negative: shrink), voxels.")  # fmt: skip
def skip_task_by_file(
    state: State, *, prefix: str, suffix: str = "", mode: str = "exist", adjust_size: int | None = None
) -> None:
    """Pass over a task whose file exists, is missing or is empty."""
    from segflow.tasks import marks

    path = marks.mark(prefix, state.bbox, suffix, adjust_size)
    size = marks.size_of(path)
    if {"missing": size is None, "empty": size == 0, "exist": size is not None}[mode]:
        state.skip(f"{path} {'exists' if mode == 'exist' else f'is {mode}'}")
