"""agglomerate: affinities to segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan, Spec
from segflow.operators.watershed import plan_fragments

if TYPE_CHECKING:
    from segflow.chunk import Chunk

MEAN = "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>"


def plan(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the affinities, the thresholds, the score and the size of the fragments."""
    from segflow.segmentation.agglomerate import check_fragments, choose_engine

    choose_engine(options["engine"], options["scoring_function"])
    result = plan_fragments(plan, options)
    given = plan.spec(options["fragments"])
    if given.shape and given.dtype and result.shape:
        with before_the_run():
            check_fragments(given.shape, given.dtype, result.shape)
    return result


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-h5 -f affs.h5 agglomerate --threshold 0.7 -o seg write-tif -i seg -f seg.tif",
)
@name_in(help="Affinities, czyx.")
@option("-t", "--threshold", type=click.FloatRange(0, 1), default=0.7,
        help="Merge while the score (1 - mean affinity) is below this; more merges more.")  # fmt: skip
@option("-l", "--aff-threshold-low", type=click.FloatRange(0, 1), default=0.0001,
        help="Voxels whose best affinity is not above this become 0.")  # fmt: skip
@option("-h", "--aff-threshold-high", type=click.FloatRange(0, 1), default=0.9999,
        help="Affinities at or above this always join.")  # fmt: skip
@option("-s", "--scoring-function", default=MEAN,
        help="Score of two neighbours: mean, hist_quant_N or hist_quant_N_initmax (N = 10, 15 ... 90, 95), "
        "or waterz's type.")  # fmt: skip
@option("--engine", type=click.Choice(["exact", "waterz"]), default=None,
        help="exact: fast, and the same answer as segment-volume in any blocks. waterz: as waterz does it.  "
        "[default: exact for the mean, else waterz]")  # fmt: skip
@name_in("fragments", "-f", "--fragments", default=None, aliases=["--fragments-chunk-name"],
         help="Chunk of supervoxels to start from, instead of the watershed's.")  # fmt: skip
@name_out(help="Segmentation to write.")
def agglomerate(
    chunk: Chunk,
    *,
    threshold: float = 0.7,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    scoring_function: str = MEAN,
    fragments: Chunk | None = None,
    engine: str | None = None,
) -> Chunk:
    """Merge the fragments of a watershed by the affinities between them.

    Affinities are float in [0, 1] or uint8 (value / 255); channels are picked by their offsets.
    Gives uint64 labels, 0 where there is no fragment.
    """
    from segflow.segmentation import agglomerate as merge

    return merge(
        chunk,
        threshold,
        aff_threshold_low=aff_threshold_low,
        aff_threshold_high=aff_threshold_high,
        scoring_function=scoring_function,
        fragments=fragments,
        engine=engine,
    )
