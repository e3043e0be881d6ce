"""setup-env: a production laid out, from patch sizes and memory to the workers' line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import mip_option, operator, option, triple
from segflow.cli.plan import Plan
from segflow.cli.queues import plan_queue, queue_option
from segflow.cli.volumes import can_write
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.state import State
    from segflow.tasks.setup_env import Setup

ENCODINGS = ("raw", "jpeg", "compressed_segmentation", "fpzip", "kempressed")
Three = tuple[int, int, int]
MODELS = "set IMAGE_LAYER_PATH and CONVNET_MODEL_FILE (and CONVNET_WEIGHT_FILE for a Python file), then run"


def _design(options: dict[str, Any], mip: int) -> Setup:
    """Lay the production out: read the info that is there, write nothing."""
    from segflow.inference.patches import Patch
    from segflow.tasks.setup_env import find_sizes, lay_out
    from segflow.volumes import open_volume, split_address

    form, path = split_address(options["layer_path"])
    if form != "precomputed":
        raise UsageError(f"--layer-path {options['layer_path']} must be a precomputed volume")
    volume: Any = open_volume(path)
    output = options["output_patch_size"]
    overlap = options["output_patch_overlap"] or tuple(n // 2 for n in output)
    sizes = find_sizes(
        Patch.of(options["input_patch_size"] or output, output, overlap),
        ram=options["max_ram_size"], channels=options["channel_num"], margin=options["crop_chunk_margin"],
        mip=mip, max_mip=options["max_mip"],
    )  # fmt: skip
    same = ("thumbnail", "thumbnail_mip", "dtype", "encoding", "voxel_size")
    return lay_out(
        volume.raw if volume.exists else None, sizes, path=path, channels=options["channel_num"], mip=mip,
        start=options["volume_start"], stop=options["volume_stop"], size=options["volume_size"],
        overwrite=options["overwrite_info"], **{key: options[key] for key in same},
    )  # fmt: skip


def _line(setup: Setup, options: dict[str, Any]) -> str:
    """Give the workers' line, which may run in another folder."""
    from segflow.tasks.queues import check_address
    from segflow.tasks.setup_env import worker_line
    from segflow.volumes import split_address

    queue = options["queue_name"]
    if queue is not None:
        form, place = check_address(queue)
        queue = f"fq://{place}" if form == "fq" else queue
    return worker_line(setup, split_address(options["layer_path"])[1], queue, options["visibility_timeout"])


def plan_setup(plan: Plan, options: dict[str, Any]) -> None:
    """Lay everything out, so that what does not fit is said before anything is written."""
    plan.mip = plan.mip if options["mip"] is None else options["mip"]
    if options["queue_name"] is not None:
        plan_queue(options["queue_name"])
    can_write(options["layer_path"])
    with before_the_run():
        if plan.made(options["layer_path"]):
            raise UsageError(f"an earlier step makes {options['layer_path']}; run setup-env after it")
        setup = _design(options, plan.mip)
    plan.makes(options["layer_path"])
    plan.tasks, plan.bbox = True, setup.tasks.box(0)
    plan.notes += [*setup.describe(), *setup.notes, _line(setup, options)]


@operator("Tasks", kind="expand", source=True, uses="io", plan=plan_setup,
          example="segflow setup-env -l file:///data/affs --volume-size 100 4096 4096 -r 4 "
          "-z 20 256 256 -c 3 -q fq://tasks")  # fmt: skip
@option("-l", "--layer-path", required=True, metavar="VOLUME", show_default=False,
        help="Volume of the answers, file://, s3:// or gs://; an info that is there is kept.")  # fmt: skip
@triple("--volume-start", default=None, show_default=False,
        help="First voxel of the volume at mip 0; default: that of the info at -l, else 0 0 0.")  # fmt: skip
@triple("--volume-stop", default=None, show_default=False,
        help="The voxel after the last at mip 0; default: that of the info at -l.")  # fmt: skip
@triple("-s", "--volume-size", default=None, show_default=False,
        help="Size of the volume at mip 0, voxels, instead of its stop.")  # fmt: skip
@option("-r", "--max-ram-size", type=click.FloatRange(0, min_open=True), default=15.0,
        help="Memory of a worker, GB (1e9 bytes); half of it is for the float32 answer.")  # fmt: skip
@triple("-z", "--output-patch-size", required=True, type=click.IntRange(1), show_default=False,
        help="Output patch of the network, voxels.")  # fmt: skip
@triple("-i", "--input-patch-size", default=None, type=click.IntRange(1), show_default=False,
        help="Its input patch, voxels; default: the output patch.")  # fmt: skip
@option("-c", "--channel-num", type=click.IntRange(1), default=1, help="Channels of the answer.")
@option("-d", "--dtype", type=click.Choice(["uint8", "float32"]), default=None, show_default=False,
        help="Of a new volume; default: uint8, round(255 a).")  # fmt: skip
@triple("-o", "--output-patch-overlap", default=None, type=click.IntRange(0), show_default=False,
        help="Overlap of output patches, voxels; default: half of the patch.")  # fmt: skip
@triple("--crop-chunk-margin", default=None, type=click.IntRange(0), show_default=False,
        help="What is cut off a task's answer on every side, voxels; default: the overlap.")  # fmt: skip
@mip_option("Mip of the tasks; default: --mip of the run.")
@option("-b", "--thumbnail-mip", type=click.IntRange(0, 30), default=6, help="Coarsest mip of the thumbnail.")
@option("-x", "--max-mip", type=click.IntRange(0, 30), default=8,
        help="A task's y and x are multiples of 2 to the power of this.")  # fmt: skip
@queue_option("Queue to fill; made if it is not there; default: the tasks go on along the chain.",
              required=False)  # fmt: skip
@option("-t", "--visibility-timeout", type=click.FloatRange(1), default=3600,
        help="How long a task is a worker's unless extended, seconds; for the printed line.")  # fmt: skip
@option("--thumbnail/--no-thumbnail", default=True, help="Let workers write a thumbnail of the volume.")
@option("-e", "--encoding", default=None, show_default=False, type=click.Choice(ENCODINGS),
        help="How blocks of a new volume are stored; default: raw.")  # fmt: skip
@triple("-v", "--voxel-size", type=click.FloatRange(0, min_open=True), default=None, show_default=False,
        help="Of a new volume at mip 0, nm; default: that of the info at -l, else 40 4 4.")  # fmt: skip
@option("--overwrite-info/--no-overwrite-info", default=False,
        help="Write new infos though there are some; blocks that are there are not removed.")  # fmt: skip
def setup_env(
    state: State,
    *,
    layer_path: str,
    output_patch_size: Three,
    volume_start: Three | None = None,
    volume_stop: Three | None = None,
    volume_size: Three | None = None,
    max_ram_size: float = 15.0,
    input_patch_size: Three | None = None,
    channel_num: int = 1,
    dtype: str | None = None,
    output_patch_overlap: Three | None = None,
    crop_chunk_margin: Three | None = None,
    mip: int | None = None,
    thumbnail_mip: int = 6,
    max_mip: int = 8,
    queue_name: str | None = None,
    visibility_timeout: float = 3600,
    thumbnail: bool = True,
    encoding: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    overwrite_info: bool = False,
) -> Iterator[State]:
    """Lay out the production of a volume: sizes of tasks, infos, a full queue, the line of the workers.

    A task is a whole number of patches whose answer fits the memory and whose size divides by the
    mips. The line that runs the tasks is printed on stdout; --dry-run writes nothing. Without -q the
    tasks go on along the chain.
    """
    options = dict(locals())
    from segflow.tasks.queues import fill

    log = logging.getLogger("segflow")
    level = state.mip if mip is None else mip
    setup = _design(options, level)
    for text in setup.describe():
        log.info("%s", text)
    for text in setup.notes:
        log.warning("%s", text)
    _write_infos(setup, layer_path, overwrite_info, state)
    line = _line(setup, options)
    if queue_name is not None:
        fill(queue_name, (box for _, box in setup.tasks), level)
    log.info("%s:", MODELS)
    click.echo(line)
    if queue_name is None:
        for index, box in setup.tasks:
            yield state.child(bbox=box, index=index, count=len(setup.tasks), mip=level)


def _write_infos(setup: Setup, layer: str, overwrite: bool, state: State) -> None:
    """Write the infos of the layer and of its thumbnail; keep those that are there unless told."""
    from segflow.volumes import open_volume, split_address
    from segflow.volumes.info import ensure
    from segflow.volumes.store import change_json

    place = split_address(layer)[1]
    volume: Any = open_volume(place)
    if overwrite or not volume.exists:
        change_json(volume.store, "info", lambda found: setup.info)
        volume.note(state.run.provenance())
        state.run.wrote(f"{place}/info")
    else:
        ensure(volume.store, setup.info)  # the mips that it lacks
    if setup.thumbnail is None:
        return
    small: Any = open_volume(f"{place}/thumbnail")
    if overwrite or not small.exists:
        change_json(small.store, "info", lambda found: setup.thumbnail)
        state.run.wrote(f"{place}/thumbnail/info")
