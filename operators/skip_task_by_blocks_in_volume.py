"""skip-task-by-blocks-in-volume: pass over tasks that are written already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import mip_option, operator, option, volume_option
from segflow.cli.plan import Plan
from segflow.cli.volumes import existing
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.state import State


def plan_skip(plan: Plan, options: dict[str, Any]) -> None:
    """Check the volume."""
    info = existing(plan, options["volume"], plan.mip if options["mip"] is None else options["mip"])
    if info is not None and (info.format != "precomputed" or info.extra.get("sharded")):
        raise UsageError(f"{info.path} is no unsharded precomputed volume, whose files tell its blocks")


@operator("State", uses="io", plan=plan_skip,
          example="segflow fetch-task -q tasks skip-task-by-blocks-in-volume -v out cutout -v em "
          "save -v out delete-task-in-queue")  # fmt: skip
@volume_option("Precomputed volume that is written.")
@mip_option("Mip whose blocks are looked for; default: that of the task (--mip).")
@option("--use-https/--use-credential", default=False, help="Ask a bucket over https, without credentials.")
def skip_task_by_blocks_in_volume(
    state: State, *, volume: str, mip: int | None = None, use_https: bool = False
) -> None:
    """Pass over a task if the volume has every block of its box; blocks of zeros count when stored."""
    from segflow.volumes import open_volume
    from segflow.volumes.presence import missing_blocks

    target: Any = open_volume(volume, use_https=use_https)
    level = state.mip if mip is None else mip
    if state.bbox is None:
        raise UsageError("the task has no box; begin with generate-tasks or fetch-task")
    box = target.choose(level, task=state.bbox, task_mip=state.mip)
    if not missing_blocks(target, box, level, limit=1):
        state.skip(f"{target.path} has all blocks of {box} at mip {level}")
