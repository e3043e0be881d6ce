"""What merge-blocks is told about labels: how they are matched, which step is done, where its work lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segflow.cli.operator import option
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.blocks.overlap import Matching

F = TypeVar("F", bound=Callable[..., Any])

RULES = ("mutual", "either", "both", "iou", "mutual-or-fraction", "mutual-mean", "kneuronseg", "none")
MATCHING = (
    "rule", "min_overlap", "min_fraction", "min_iou", "parts_to_whole", "count_in", "neighbours", "margin",
    "collisions",
)  # fmt: skip
STEPS = ("stage", "work_dir", "stale")


def label_options(function: F) -> F:
    """Declare the options for labels."""
    for mark in (
        option("--stale", type=click.Choice(["fail", "redo", "keep"]), default=None, show_default=False,
               help="Results of other options or files in the work folder; default: fail."),
        option("--work-dir", metavar="DIR", default=None,
               help="Work folder of --labels; default: beside the output, .work added to its name."),
        option("--stage", type=click.Choice(["pool", "apply"]), default=None,
               help="Only make the ID pool, or only apply it; default: both."),
        option("--collisions", type=click.Choice(["report", "refuse"]), default=None,
               help="Links that give an object two labels of one block; default: report."),
        option("--margin", type=click.IntRange(0), default=None,
               help="Voxels left out at a block's inner faces before counting; default: 0."),
        option("--neighbours", type=click.Choice(["face", "all"]), default=None,
               help="Compare across faces, or edges and corners too; default: face."),
        option("--count-in", type=click.Choice(["mid", "overlap"]), default=None,
               help="Two planes in the middle of the overlap, or all of it; default: mid."),
        option("--parts-to-whole", is_flag=True, default=False,
               help="Join the parts of a label that is whole in the other block."),
        option("--min-iou", type=float, default=None, help="Of --rule iou; default: 0.5."),
        option("--min-fraction", type=float, default=None,
               help="Of the rules that use fractions; default: 0.9 (both, kneuronseg: 0.5)."),
        option("--min-overlap", type=click.IntRange(1), default=None,
               help="Voxels that two labels share at least; default: 5."),
        option("--rule", type=click.Choice(RULES), default=None,
               help="Which labels are one object; default: mutual, each the other's largest overlap."),
        option("--labels/--no-labels", default=False,
               help="Blocks hold labels: match them where they overlap, so that an object has one id."),
    ):  # fmt: skip
        function = mark(function)
    return function


def check_labels(options: dict[str, Any]) -> None:
    """Raise UsageError for options of labels that do not go with the others."""
    told = [k for k in (*MATCHING, *STEPS) if options[k] not in (None, False)]
    if told and not options["labels"]:
        raise UsageError(f"--{told[0].replace('_', '-')} is for labels; say --labels")
    if not options["labels"]:
        return
    if options["blend"]:
        raise UsageError("labels cannot be blended; leave --blend out")
    if options["dtype"] and "int" not in options["dtype"]:
        raise UsageError(f"labels are integers; --dtype {options['dtype']} holds none")
    matching_from(options)
    steps = [k for k in STEPS if options[k] is not None]
    if steps and options["input_dir"] is None:
        raise UsageError(f"--{steps[0].replace('_', '-')} is for block files; name them with --input-dir")
    goes = options["path"] or options["volume"]
    if steps and not goes and not (options["stage"] == "pool" and options["work_dir"]):
        raise UsageError(
            f"--{steps[0].replace('_', '-')} needs an output: --file-name or --volume-path"
            + (" (or --work-dir)" if options["stage"] == "pool" else "")
        )


def matching_from(options: dict[str, Any]) -> Matching | None:
    """Give how labels are matched.

    None where that is not to be chosen: the blocks are not said to be labels, or the pool that
    ``--stage apply`` finds was made by a rule already and nothing else is told.
    """
    from segflow.blocks.overlap import Matching

    told = {k: options[k] for k in MATCHING if options[k] not in (None, False)}
    if not options["labels"] or (options["stage"] == "apply" and not told):
        return None
    return Matching(**told)
