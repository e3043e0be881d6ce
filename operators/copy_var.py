"""copy-var: a second name for a chunk."""

from __future__ import annotations

from typing import Any

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec


def plan_copy(plan: Plan, options: dict[str, Any]) -> Spec:
    """Tell that it is the same."""
    return plan.spec(options["value"])


@operator("State", plan=plan_copy, example="segflow create-chunk copy-var -f chunk -t image")
@name_in("value", "-f", "--from-name", help="Chunk to copy.")
@option("--deep-copy/--shallow-copy", default=False,
        help="Copy the voxels too; only a plugin's own values ever need it.")  # fmt: skip
@name_out("-t", "--to-name", help="Name of the copy.")
def copy_var(value: Any, *, deep_copy: bool = False) -> Any:
    """Give a chunk a second name."""
    if not deep_copy:
        return value
    from copy import deepcopy

    from segflow.chunk import Chunk, own

    return value.with_array(own(value.array)) if isinstance(value, Chunk) else deepcopy(value)
