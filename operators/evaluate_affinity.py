"""evaluate-affinity: affinities against ground truth labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan
from segflow.cli.reports import plan_files, write_json, write_picture
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

COLUMNS = ("average_precision", "brier", "bce")


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check shapes and dtypes, the thresholds, and where the scores go."""
    from segflow.segmentation.curves import parse_thresholds

    parse_thresholds(options["thresholds"])
    plan_files(plan, picture=options["picture"], scores=options["path"])
    spec = plan.spec(options["chunk"])
    if spec.shape and len(spec.shape) != 4:
        raise UsageError(f"'{options['chunk']}' is not czyx affinities: its shape is {spec.shape}")
    for name in (options["groundtruth"], options["mask"]):
        other = plan.spec(name)
        if (other.dtype or "").startswith("float"):
            raise UsageError(f"'{name}' is {other.dtype}; labels are integers")
        if other.shape and len(other.shape) == 4 and other.shape[0] > 1:
            raise UsageError(f"'{name}' is not zyx labels: its shape is {other.shape}")
        if other.shape and spec.shape and other.shape[-3:] != spec.shape[-3:]:
            raise UsageError(
                f"'{options['chunk']}' has the shape {spec.shape}, but '{name}' {other.shape}; "
                "cut both to the same box"
            )


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-tif -f gt.tif -o gt read-h5 -f affs.h5 evaluate-affinity -g gt --plot pr.png",
)
@name_in(help="Affinities, czyx, any offsets.")
@name_in("groundtruth", "-g", "--groundtruth", default="groundtruth", help="Chunk of the ground truth.")
@name_in("mask", "-m", "--mask", default=None, help="Chunk that is 0 where edges do not count.")
@option("--thresholds", metavar="START:STOP:STEP", default="0.1:0.9:0.1",
        help="An edge is taken as joined if its affinity is at or above one; or a list with "
        "commas.")  # fmt: skip
@option("--zero-as-background", is_flag=True,
        help="Edges of voxels that are 0 in the ground truth count, as cut; else they "
        "are unknown.")  # fmt: skip
@option("--json", "path", default=None, metavar="FILE", help="File for all scores ({bbox}: a file a task).")
@option("--plot", "picture", default=None, metavar="FILE.png", help="Picture of precision and recall.")
@name_out(default="aff_score", help="Name for the scores, a list of dicts.")
def evaluate_affinity(
    chunk: Chunk,
    groundtruth: Chunk,
    *,
    mask: Chunk | None = None,
    thresholds: str = "0.1:0.9:0.1",
    zero_as_background: bool = False,
    path: str | None = None,
    picture: str | None = None,
    state: State | None = None,
) -> list[dict[str, Any]]:
    """Score affinities against ground truth: precision, recall, F1, average precision, Brier, BCE.

    Each channel by its offset. Edges count where both voxels are labelled.
    """
    from segflow.segmentation.affinity_scores import affinity_scores
    from segflow.segmentation.curves import parse_thresholds
    from segflow.view.curve_plots import save_precision_recall

    at = [float(t) for t in parse_thresholds(thresholds)]
    found = affinity_scores(chunk, groundtruth, at, mask=mask, zero_is_background=zero_as_background)
    for channel in found:
        show(channel)
    if picture:
        write_picture(lambda name: save_precision_recall(found, name), picture, chunk, state)
    if path:
        write_json(found, path, chunk, state)
    return found


def show(channel: dict[str, Any]) -> None:
    """Print the scores of one channel."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    offset = " ".join(map(str, channel["offset"]))
    share = f", {channel['true']:.1%} true" if channel["known"] else ""
    click.echo(f"offset {offset} (zyx): {channel['known']} known edges{share}")
    click.echo("\t" + ", ".join(f"{key.replace('_', ' ')} {text(channel[key])}" for key in COLUMNS))
    rows = [*channel["thresholds"], *([channel["best"]] if channel["best"] else [])]
    for i, row in enumerate(rows):
        name = "best" if i == len(channel["thresholds"]) else "at"
        click.echo(f"\t{name} {row['threshold']:.3g}: precision {text(row['precision'])}, "
                   f"recall {text(row['recall'])}, F1 {text(row['f1'])}")  # fmt: skip
