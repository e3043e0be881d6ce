"""select-checkpoint: the best of many networks on a validation volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import name_in, operator, option
from segflow.cli.plan import Plan
from segflow.cli.reports import plan_files, write_json, write_picture
from segflow.errors import ChunkError, UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

TABLE = {"voi_split": "VOI split", "voi_merge": "VOI merge", "voi": "VOI",
         "adapted_rand_error": "adapted Rand error"}  # fmt: skip


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check the chunks, the files, the thresholds, and where the results go."""
    from segflow.cli.files import writes
    from segflow.segmentation.curves import parse_thresholds

    if bool(options["chunk"]) != bool(options["groundtruth"]):
        raise UsageError("image and labels go together: -i IMAGE -g LABELS; without both, the validation "
                         "volumes that the checkpoints name are read")  # fmt: skip
    if options["chunk"]:
        image, truth = plan.spec(options["chunk"]), plan.spec(options["groundtruth"])
        if (truth.dtype or "").startswith("float"):
            raise UsageError(f"'{options['groundtruth']}' is {truth.dtype}; labels are integers")
        if image.shape and truth.shape and image.shape[-3:] != truth.shape[-3:]:
            raise UsageError(
                f"'{options['chunk']}' has the shape {image.shape}, but '{options['groundtruth']}' "
                f"{truth.shape}; cut both to the same box"
            )
    if not options["checkpoints"]:
        raise UsageError("--checkpoints is missing: files, a folder of segflow train, or a pattern")
    parse_thresholds(options["thresholds"])
    plan_files(plan, picture=options["picture"], scores=options["path"])
    if options["model"]:
        writes(".pt")(plan, {"path": options["model"]})


@operator(
    "Inference",
    uses="gpu",
    plan=plan,
    example="segflow read-tif -f image.tif -o image read-tif -f labels.tif -o labels select-checkpoint "
    "--checkpoints outputs/train -i image -g labels --output best.pt",
)
@name_in(default=None, help="Image, zyx; default: the validation volumes of the first checkpoint.")
@name_in("groundtruth", "-g", "--groundtruth", default=None, aliases=["--groundtruth-chunk-name"],
         help="Labels of the image; 0 does not count.")  # fmt: skip
@option("-c", "--checkpoints", multiple=True, metavar="PATH", show_default=False,
        help="Checkpoints and model files: a file, a folder, or a pattern; may be given again.")  # fmt: skip
@option("--thresholds", metavar="START:STOP:STEP", default="0.1:0.9:0.1",
        help="Of agglomeration; or a list with commas.")  # fmt: skip
@option("--by", type=click.Choice(["voi", "are"]), default="voi",
        help="Score: VOI (bits, split + merge) or adapted Rand error.")  # fmt: skip
@option("--device", default=None, metavar="DEVICE", show_default=False,
        help="cpu, cuda or cuda:N; default: CUDA where there is one.")  # fmt: skip
@option("--json", "path", default=None, metavar="FILE", show_default=False, help="File for all scores.")
@option("--plot", "picture", metavar="FILE.png", default=None, show_default=False,
        help="Picture of the scores by threshold and by iteration.")  # fmt: skip
@option("--output", "model", metavar="FILE.pt", default=None, show_default=False,
        help="Write the best as a model file, for inference --convnet-model.")  # fmt: skip
def select_checkpoint(
    chunk: Chunk | None = None,
    groundtruth: Chunk | None = None,
    *,
    checkpoints: tuple[str, ...] = (),
    thresholds: str = "0.1:0.9:0.1",
    by: str = "voi",
    device: str | None = None,
    path: str | None = None,
    picture: str | None = None,
    model: str | None = None,
    state: State | None = None,
) -> None:
    """Score checkpoints and model files on a volume with labels, and find the best.

    Each network's affinities are merged by the exact engine, and scored at its best threshold. Averaged
    weights (EMA) are taken where a checkpoint has them. Files that cannot be scored are named and left out.
    """
    import numpy as np

    from segflow.chunk import Chunk
    from segflow.segmentation.curves import parse_thresholds
    from segflow.training.selection import find_candidates, select, write_best

    pairs = None if chunk is None or groundtruth is None else [validation_pair(chunk, groundtruth)]
    rows = select(find_candidates(checkpoints), pairs, parse_thresholds(thresholds), by=by, device=device)
    show(rows)
    place = chunk or Chunk(np.zeros((1, 1, 1), np.uint8))
    if path:
        write_json({"by": by, "best": rows[0]["file"], "networks": rows}, path, place, state)
    if picture:
        from segflow.view.curve_plots import save_selection

        write_picture(lambda target: save_selection(rows, target), picture, place, state)
    if model:
        write_best(rows[0], model)
        if state is not None:
            state.run.wrote(model)
        click.echo(f"best: {rows[0]['file']}")


def validation_pair(chunk: Chunk, groundtruth: Chunk) -> tuple[Chunk, Any]:
    """Give image and labels as a validation has them; raise ChunkError unless they fit each other."""
    from segflow.segmentation.evaluate import labels_of
    from segflow.training.data import as_image, as_labels

    if chunk.channels != 1:
        raise ChunkError(f"the image has {chunk.channels} channels; one is needed")
    truth = as_labels(labels_of(groundtruth, "ground truth"))
    if truth.shape != chunk.shape[-3:]:
        raise ChunkError(
            f"the image has the shape {chunk.shape}, but the ground truth {truth.shape}; "
            "cut both to the same box"
        )
    array = chunk.array if chunk.array.ndim == 3 else chunk.array[0]
    return chunk.with_array(as_image(array)), truth


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table, the best first."""
    click.echo("\t".join(["file", "iteration", "threshold", *TABLE.values()]))
    for row in rows:
        iteration = "-" if row["iteration"] is None else str(row["iteration"])
        scores = [f"{row[key]:.6f}" for key in TABLE]
        click.echo("\t".join([row["file"], iteration, f"{row['threshold']:g}", *scores]))
