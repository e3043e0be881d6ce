"""evaluate-segmentation: scores against ground truth."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, name_out, operator, option
from segflow.cli.plan import Plan
from segflow.cli.reports import beside, limit_options, plan_files, write_json, write_picture
from segflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from segflow.chunk import Chunk
    from segflow.segmentation.rules import Rules
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
RULED = {"adapted_rand_error": "Adapted Rand error", "cremi_score": "CREMI score"}
RUNS = {"erl": "Expected run length", "erl_truth": "Expected run length, perfect", "nerl": "NERL"}
PICTURE = "thresholds.png"
CURVE = {"threshold": "threshold", "voi_split": "VOI split", "voi_merge": "VOI merge", "voi": "VOI",
         "adapted_rand_error": "adapted Rand error", "nerl": "NERL"}  # fmt: skip


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check that both are labels of the same shape, the rules, and where the scores go."""
    from segflow.segmentation.curves import parse_thresholds
    from segflow.segmentation.rules import rules_named

    rules_named(options["rules"] or "plain")
    curve = options["thresholds"] is not None
    path = options["path"]
    if not curve and (options["picture"] != PICTURE or options["fragments"]):
        raise UsageError("--plot and --fragments belong to --thresholds: give some, as 0.1:0.9:0.1")
    if curve:
        parse_thresholds(options["thresholds"])
        path = path or beside(options["picture"])
    plan_files(plan, picture=options["picture"] if curve else None, scores=path, report=options["report"])
    truth = options["groundtruth"] or "groundtruth"
    if truth not in plan.chunks and options["groundtruth"] is None:
        if not options["skeletons"]:
            raise UsageError("no chunk named 'groundtruth'; name the ground truth with --groundtruth")
        if curve:
            raise UsageError("--thresholds needs a chunk of ground truth beside the skeletons")
    if options["skeletons"]:
        from segflow.segmentation.skeleton_files import check_skeletons

        check_skeletons(options["skeletons"])
    check_shapes(plan, options["segmentation"], truth, curve)


def check_shapes(plan: Plan, segmentation: str, groundtruth: str, curve: bool) -> None:
    """Raise UsageError unless both are integer labels (for a curve: affinities and labels) of one shape."""
    shapes = {}
    for name in (segmentation, groundtruth):
        spec = plan.spec(name)
        if curve and name == segmentation:
            if spec.shape and len(spec.shape) != 4:
                raise UsageError(
                    f"--thresholds merges affinities, czyx, but '{name}' has the shape {spec.shape}"
                )
            if spec.shape:
                shapes[name] = spec.shape[1:]
            continue
        if (spec.dtype or "").startswith("float"):
            hint = "; --thresholds takes affinities" if name == segmentation else ""
            raise UsageError(f"'{name}' is {spec.dtype}; labels are integers{hint}")
        if spec.shape:
            shapes[name] = spec.shape[1:] if len(spec.shape) == 4 and spec.shape[0] == 1 else spec.shape
            if len(shapes[name]) != 3:
                hint = "; --thresholds merges affinities" if len(spec.shape) == 4 else ""
                raise UsageError(f"'{name}' is not zyx labels: its shape is {spec.shape}{hint}")
    if len(set(shapes.values())) > 1:
        (a, one), (b, two) = shapes.items()
        raise UsageError(f"'{a}' has the shape {one}, but '{b}' {two}; cut both to the same box")


@operator(
    "Segmentation",
    plan=plan,
    example="segflow read-tif -f gt.tif -o gt read-tif -f seg.tif evaluate-segmentation -g gt --all",
)
@name_in("segmentation", "-s", "--segmentation", aliases=["--segmentation-chunk-name"],
         help="Chunk of the segmentation; with --thresholds, of affinities.")  # fmt: skip
@name_in("groundtruth", "-g", "--groundtruth", default=None, aliases=["--groundtruth-chunk-name"],
         help="Chunk of the ground truth.  [default: groundtruth]")  # fmt: skip
@option("--keep-zero", is_flag=True, help="Also count voxels where the ground truth is 0, as one object.")
@option("--zero-as-singletons", is_flag=True,
        help="Each 0 of the segmentation is a segment of its own (SNEMI3D); else all are one.")  # fmt: skip
@option("--rules", default=None, metavar="NAME",
        help="Rules of a challenge: snemi3d (zeros are singletons), cremi (that for Rand only, and a border "
        "of 25 nm), or plain.")  # fmt: skip
@option("--border", type=click.FloatRange(0), default=None, show_default=False,
        help="Ground truth so near to a border in its section does not count, nm; default: of the "
        "rules.")  # fmt: skip
@option("--size-threshold", type=click.IntRange(0), default=1000,
        help="Overlaps up to this size do not count in the edit distance and the "
        "report, voxels.")  # fmt: skip
@option("--thresholds", metavar="START:STOP:STEP", default=None,
        help="Merge affinities once, and score them at each threshold (or a list with commas).")  # fmt: skip
@option("--plot", "picture", metavar="FILE.png", default=PICTURE,
        help="Picture for --thresholds; the numbers go beside it, as .json.")  # fmt: skip
@limit_options
@name_in("fragments", "-f", "--fragments", default=None,
         help="Chunk of supervoxels to start from with --thresholds, instead of the "
         "watershed's.")  # fmt: skip
@option("--skeletons", metavar="PATH", default=None,
        help="Traced neurons (.swc, .csv, .json or a folder): also give the "
        "expected run length.")  # fmt: skip
@option("--skeleton-unit", type=click.Choice(["nm", "voxel"]), default="nm", help="Unit of their nodes.")
@option("--merge-nodes", type=click.IntRange(1), default=1,
        help="A segment holds a skeleton if at least so many of its nodes lie in it.")  # fmt: skip
@option("--report", default=None, metavar="FILE.json",
        help="List of splits and merges with their sizes and places; with --thresholds, of the "
        "best one.")  # fmt: skip
@option("--all", "everything", is_flag=True, help="Also print adapted and adjusted Rand, edit distance, "
        "Fowlkes-Mallows.")  # fmt: skip
@option("--json", "path", default=None, metavar="FILE", help="File for all scores ({bbox}: a file a task).")
@name_out(default="seg_score", help="Name for the scores, a dict.")
def evaluate_segmentation(
    segmentation: Chunk,
    groundtruth: Chunk | None = None,
    *,
    keep_zero: bool = False,
    zero_as_singletons: bool = False,
    rules: str | None = None,
    border: float | None = None,
    size_threshold: int = 1000,
    thresholds: str | None = None,
    picture: str = PICTURE,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    fragments: Chunk | None = None,
    skeletons: str | None = None,
    skeleton_unit: str = "nm",
    merge_nodes: int = 1,
    report: str | None = None,
    everything: bool = False,
    path: str | None = None,
    state: State | None = None,
) -> dict[str, Any]:
    """Compare a segmentation with ground truth: Rand and VOI (bits), split and merge.

    Rand is 1 and VOI 0 where they agree. Voxels that are 0 in the ground truth are left out.
    With --thresholds the chunk holds affinities, and a picture shows the scores at all thresholds.
    """
    if groundtruth is None and state is not None:
        groundtruth = state.get("groundtruth")
    if groundtruth is not None and groundtruth.voxel_offset != segmentation.voxel_offset:
        logging.getLogger("segflow").warning(
            "the segmentation lies at %s and the ground truth at %s; they are compared voxel by voxel as if "
            "both began at one place", segmentation.bbox, groundtruth.bbox,
        )  # fmt: skip
    chosen = chosen_rules(rules, border, keep_zero, zero_as_singletons)
    runs = run_lengths(skeletons, skeleton_unit, merge_nodes)
    if thresholds is not None and groundtruth is not None:
        limits = {"low": aff_threshold_low, "high": aff_threshold_high, "fragments": fragments}
        scores, segmentation = over_thresholds(
            segmentation, groundtruth, thresholds, chosen, size_threshold, runs, limits
        )
        draw(scores, picture, segmentation, state)
        path = path or beside(picture)
    else:
        plain = rules is None and border is None
        scores = score_one(segmentation, groundtruth, chosen, size_threshold, plain)
        traced = runs(segmentation) if runs else {}
        scores.update({key: value for key, value in traced.items() if isinstance(value, (float, str))})
        show(scores, FOUR | (MORE if everything else {} if plain else RULED) | RUNS)
    if path:
        write_json(scores, path, segmentation, state)
    if report:
        write_json(places(segmentation, groundtruth, size_threshold, runs), report, segmentation, state)
    return scores


def chosen_rules(name: str | None, border: float | None, keep_zero: bool, singletons: bool) -> Rules:
    """Give the rules of that name, changed by what else was said."""
    from dataclasses import replace

    from segflow.segmentation.rules import rules_named

    rules = replace(rules_named(name or "plain"), keep_zero=keep_zero)
    if singletons:
        rules = replace(rules, rand_singletons=True, voi_singletons=True)
    return rules if border is None else replace(rules, border=border)


def run_lengths(path: str | None, unit: str, merge_nodes: int) -> Callable[[Chunk], dict[str, Any]] | None:
    """Give a function that scores a segmentation along skeletons; None without them."""
    if path is None:
        return None
    from functools import partial

    from segflow.segmentation.runlength import run_length
    from segflow.segmentation.skeleton_files import read_skeletons

    return partial(run_length, skeletons=read_skeletons(path), unit=unit, merge_nodes=merge_nodes)


def score_one(
    segmentation: Chunk, groundtruth: Chunk | None, rules: Rules, size_threshold: int, plain: bool
) -> dict[str, Any]:
    """Score one segmentation; nothing without ground truth."""
    from segflow.segmentation.rules import evaluate_by

    if groundtruth is None:
        return {}
    scores = evaluate_by(segmentation, groundtruth, rules, size_threshold)
    return {key: value for key, value in scores.items() if not (plain and key in ("voi", "cremi_score"))}


def over_thresholds(
    affinities: Chunk,
    groundtruth: Chunk,
    thresholds: str,
    rules: Rules,
    size_threshold: int,
    runs: Callable[[Chunk], dict[str, Any]] | None,
    limits: dict[str, Any],
) -> tuple[dict[str, Any], Chunk]:
    """Score affinities merged to each threshold; give the scores and the best segmentation."""
    from segflow.segmentation.curves import Merging, best, parse_thresholds, score_curve

    def segmented(array: Any) -> Chunk:
        return affinities.with_array(array, layer_type="segmentation", offsets=None)

    def traced(array: Any) -> dict[str, float]:
        found = runs(segmented(array)) if runs else {}
        return {key: found[key] for key in RUNS if key in found}

    at = parse_thresholds(thresholds)
    merging = Merging(affinities, at[-1], **limits)
    rows = score_curve(merging, groundtruth, at, rules, size_threshold, traced if runs else None)
    least = best(rows)
    found = {"rules": vars(rules), "best": least, "best_voi": best(rows, "voi"), "thresholds": rows}
    return found, segmented(merging.segmented(at[rows.index(least)]))


def draw(scores: dict[str, Any], picture: str, chunk: Chunk, state: State | None) -> None:
    """Print the scores of all thresholds, and draw them."""
    from segflow.view.curve_plots import save_scores

    rows, best = scores["thresholds"], scores["best"]
    keys = [key for key in CURVE if key in rows[0]]
    click.echo("\t".join(CURVE[key] for key in keys))
    for row in rows:
        click.echo("\t".join(f"{row[key]:g}" if key == "threshold" else f"{row[key]:.6f}" for key in keys))
    voi = scores["best_voi"]
    click.echo(
        f"best adapted Rand error {best['adapted_rand_error']:.6f} at {best['threshold']:g}; "
        f"best VOI {voi['voi']:.6f} at {voi['threshold']:g}"
    )
    write_picture(lambda path: save_scores(rows, best, path), picture, chunk, state)


def show(scores: dict[str, Any], titles: dict[str, str]) -> None:
    """Print the scores that there are."""
    for key, title in titles.items():
        if key in scores:
            value = scores[key]
            unit = f" {scores['length_unit']}" if key in ("erl", "erl_truth") else ""
            click.echo(f"\t{title}: {value if isinstance(value, int) else format(value, '.8f')}{unit}")


def places(
    segmentation: Chunk,
    groundtruth: Chunk | None,
    size_threshold: int,
    runs: Callable[[Chunk], dict[str, Any]] | None,
) -> dict[str, Any]:
    """Give the list of splits and merges, of objects and of skeletons."""
    from segflow.segmentation.report import report

    found: dict[str, Any] = {"box": str(segmentation.bbox)}
    if groundtruth is not None:
        found.update(report(segmentation, groundtruth, size_threshold=size_threshold))
    return found if runs is None else {**found, "run_length": runs(segmentation)}
