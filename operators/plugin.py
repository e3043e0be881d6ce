"""plugin: a user's function as an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import file_option, names_in, operator, option
from segflow.cli.plan import UNKNOWN, Plan
from segflow.plugins import check_plugin, find_plugin, load_plugin, parse_args, run_plugin

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan_plugin(plan: Plan, options: dict[str, Any]) -> None:
    """Check the file and the arguments, and note the names of the outputs."""
    check_plugin(find_plugin(options["path"]))
    parse_args(options["args"])
    for name in _split(options["output_names"]):
        plan.chunks[name] = UNKNOWN


def prepare(path: str, **_options: Any) -> None:
    """Load the file before the first task."""
    load_plugin(find_plugin(path))


def _split(names: str | None) -> list[str]:
    return [n.strip() for n in (names or "").split(",") if n.strip()]


@operator(
    "Plugins",
    plan=plan_plugin,
    prepare=prepare,
    unknown_outputs=True,
    example="segflow create-chunk plugin -f invert.py -i chunk -o chunk -a maximum=255 view",
)
@file_option(
    "Python file with execute(*inputs, **args); also found in $SEGFLOW_PLUGIN_DIR, and without .py.",
    aliases=("--file",),
)
@names_in("inputs", "-i", "--input-names", default=None, help="Chunks that execute gets, in this order.")
@option(
    "-o", "--output-names", default=None, metavar="NAMES", help="Names of what it returns, in this order."
)
@option("-a", "--args", default=None, help="Its other arguments: k=v;k2=v2, or a JSON object.")
def plugin(
    state: State,
    inputs: dict[str, Chunk] | None = None,
    *,
    path: str,
    output_names: str | None = None,
    args: str | None = None,
) -> None:
    """Run a function of your own: execute(*inputs, **args) in a Python file.

    It gets Chunks (.array, .voxel_offset, .voxel_size) and returns arrays or Chunks. With an argument
    named bbox it gets the task's box.
    """
    names = _split(output_names)
    values = list((inputs or {}).values())
    results = run_plugin(find_plugin(path), values, parse_args(args), len(names), state.bbox)
    state.update(zip(names, results))
