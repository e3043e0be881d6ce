"""evaluate-segmentation: scores against ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import writes
from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

FOUR = {"rand_split": "Rand split", "rand_merge": "Rand merge",
        "voi_split": "VOI split", "voi_merge": "VOI merge"}  # fmt: skip
MORE = {
    "adapted_rand_error": "Adapted Rand error",
    "adapted_rand_precision": "Adapted Rand precision",
    "adapted_rand_recall": "Adapted Rand recall",
    "adjusted_rand_score": "Adjusted Rand score",
    "edit_distance": "Edit distance",
    "edit_splits": "Edit distance, splits",
    "edit_merges": "Edit distance, merges",
    "fowlkes_mallows": "Fowlkes-Mallows",
}


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check that both are labels of the same shape, and where the scores go."""
    if options["path"]:
        writes(".json")(plan, options)
    shapes = {}
    for name in (options["segmentation"], options["groundtruth"]):
        spec = plan.spec(name)
        if (spec.dtype or "").startswith("float"):
            raise UsageError(f"'{name}' is {spec.dtype}; labels are integers")
        if spec.shape:
            shapes[name] = spec.shape[1:] if len(spec.shape) == 4 and spec.shape[0] == 1 else spec.shape
            if len(shapes[name]) != 3:
                raise UsageError(f"'{name}' is not zyx labels: its shape is {spec.shape}")
    if len(set(shapes.values())) > 1:
        (a, one), (b, two) = shapes.items()
        raise UsageError(f"'{a}' has the shape {one}, but '{b}' {two}; cut both to the same box")


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-tif -f gt.tif -o gt read-tif -f seg.tif evaluate-segmentation -g gt --all",
)
@name_in("segmentation", "-s", "--segmentation", aliases=["--segmentation-chunk-name"],
         help="Chunk of the segmentation.")  # fmt: skip
@name_in("groundtruth", "-g", "--groundtruth", default="groundtruth", aliases=["--groundtruth-chunk-name"],
         help="Chunk of the ground truth.")  # fmt: skip
@option("--keep-zero", is_flag=True, help="Also count voxels where the ground truth is 0, as one object.")
@option("--zero-as-singletons", is_flag=True,
        help="Each 0 of the segmentation is a segment of its own (SNEMI3D); else all are one.")  # fmt: skip
@option("--size-threshold", type=click.IntRange(0), default=1000,
        help="Overlaps up to this size do not count in the edit distance, voxels.")  # fmt: skip
@option("--all", "everything", is_flag=True, help="Also print adapted and adjusted Rand, edit distance, "
        "Fowlkes-Mallows.")  # fmt: skip
@option("--json", "path", default=None, metavar="FILE", help="File for all scores ({bbox}: a file a task).")
@name_out(default="seg_score", help="Name for the scores, a dict.")
def evaluate_segmentation(
    segmentation: Chunk,
    groundtruth: Chunk,
    *,
    keep_zero: bool = False,
    zero_as_singletons: bool = False,
    size_threshold: int = 1000,
    everything: bool = False,
    path: str | None = None,
    state: State | None = None,
) -> dict[str, float]:
    """Compare a segmentation with ground truth: Rand and VOI (bits), split and merge.

    Rand is 1 and VOI 0 where they agree. Voxels that are 0 in the ground truth are left out.
    """
    from segflow.segmentation import evaluate

    scores = evaluate(
        segmentation,
        groundtruth,
        keep_zero=keep_zero,
        zero_as_singletons=zero_as_singletons,
        size_threshold=size_threshold,
    )
    for key, title in (FOUR | MORE if everything else FOUR).items():
        value = scores[key]
        click.echo(f"\t{title}: {value if isinstance(value, int) else format(value, '.8f')}")
    if path:
        write_json(scores, path, segmentation, state)
    return scores


def write_json(scores: dict[str, float], path: str, chunk: Chunk, state: State | None) -> None:
    """Write the scores to a file of this task."""
    import json

    from segflow.volumes.files import output_path, replacing

    target = output_path(path, state, ".json", chunk.bbox)
    with replacing(target) as beside:
        beside.write_text(json.dumps(scores, indent=2) + "\n")
    if state is not None:
        state.run.wrote(target)
