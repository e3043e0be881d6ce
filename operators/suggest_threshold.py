"""suggest-threshold: a threshold of agglomeration without ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan
from segflow.cli.reports import beside, limit_options, plan_files, write_json, write_picture
from segflow.operators.agglomerate import plan as plan_agglomerate

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check the affinities, the thresholds, and where the picture goes."""
    from segflow.errors import UsageError
    from segflow.segmentation.curves import parse_thresholds

    plan_agglomerate(plan, {**options, "engine": "exact", "scoring_function": "mean"})
    if len(parse_thresholds(options["thresholds"])) < 2:
        raise UsageError("a curve needs at least two thresholds; give a range, as 0.1:0.9:0.02")
    plan_files(plan, picture=options["picture"], scores=beside(options["picture"]))


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-h5 -f affs.h5 suggest-threshold -o curve.png",
)
@name_in(help="Affinities, czyx.")
@option("--thresholds", metavar="START:STOP:STEP", default="0.02:0.98:0.02",
        help="Thresholds to look at, or a list with commas.")  # fmt: skip
@option("--size-threshold", type=click.IntRange(0), default=1000,
        help="Segments of more voxels than this are counted in the curve.")  # fmt: skip
@option("--width", type=click.FloatRange(0, 1, min_open=True), default=0.1,
        help="Width of a stable stretch, on the scale of thresholds.")  # fmt: skip
@limit_options
@name_in("fragments", "-f", "--fragments", default=None,
         help="Chunk of supervoxels to start from, instead of the watershed's.")  # fmt: skip
@option("-o", "--plot", "picture", metavar="FILE.png", default="suggest-threshold.png",
        help="Picture of the curve; the numbers go beside it, as .json ({bbox} or DIR/: a file a "
        "task).")  # fmt: skip
@name_out("--output", default="suggested", help="Name for the proposal, a dict.")
def suggest_threshold(
    chunk: Chunk,
    *,
    thresholds: str = "0.02:0.98:0.02",
    size_threshold: int = 1000,
    width: float = 0.1,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    fragments: Chunk | None = None,
    picture: str = "suggest-threshold.png",
    state: State | None = None,
) -> dict[str, Any]:
    """Propose a threshold of agglomeration without ground truth.

    Proposes the middle of the stretch of thresholds along which segments change least, below the
    threshold at which the largest segment jumps: neurons flow together there.
    """
    import logging

    from segflow.segmentation.curves import Merging, parse_thresholds, size_curve, suggest
    from segflow.view.curve_plots import save_sizes

    at = parse_thresholds(thresholds)
    merging = Merging(chunk, at[-1], low=aff_threshold_low, high=aff_threshold_high, fragments=fragments)
    rows = size_curve(merging, at, size_threshold)
    found = suggest(rows, width)
    first, last = found["stretch"]
    click.echo(f"threshold {found['threshold']:g}: stable from {first:g} to {last:g} "
               f"(VOI {found['change']:.3f} bits)"
               + (f", the largest segment jumps at {found['jump']:g}" if found["jump"] else ""))  # fmt: skip
    if not found["stable"]:
        logging.getLogger("segflow").warning(
            "no threshold is stable: segments change everywhere; look at the curve, and at the affinities"
        )
    write_picture(lambda path: save_sizes(rows, found, size_threshold, path), picture, chunk, state)
    write_json({**found, "curve": rows}, beside(picture), chunk, state)
    return found
