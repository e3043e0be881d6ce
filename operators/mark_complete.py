"""mark-complete: a file that tells that a task is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import operator, option
from segflow.cli.plan import Plan
from segflow.cli.volumes import can_write

if TYPE_CHECKING:
    from segflow.state import State


def plan_mark(plan: Plan, options: dict[str, Any]) -> None:
    """Check that the files can be written."""
    can_write(options["prefix"].rpartition("/")[0] or ".")


@operator("Tasks", uses="io", always=True, plan=plan_mark,
          example="segflow generate-tasks -v em -c 64 512 512 skip-task-by-file -p done/ cutout -v em "
          "write-h5 -f chunks/ mark-complete -p done/")  # fmt: skip
@option("--prefix", aliases=("-p",), required=True, metavar="PREFIX",
        help="The file is PREFIX<box>SUFFIX: a path, file://, s3:// or gs://.")  # fmt: skip
@option("--suffix", aliases=("-s",), default="", help="End of the file's name.")
def mark_complete(state: State, *, prefix: str, suffix: str = "") -> None:
    """Leave an empty file for a task that is done, or was passed over; not for one that failed."""
    from segflow.tasks import marks

    marks.touch(marks.mark(prefix, state.bbox, suffix))
