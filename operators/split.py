"""split: a volume in overlapping blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import LAYER_TYPES, before_the_run, check_writable, spec_of
from segflow.cli.operator import (
    NameOption,
    mip_option,
    name_in,
    operator,
    option,
    triple,
    volume_option,
)
from segflow.cli.plan import UNKNOWN, Plan, Spec, check_file
from segflow.cli.volumes import existing
from segflow.errors import UsageError
from segflow.geometry import Box

if TYPE_CHECKING:
    from segflow.blocks.cut import Blocks, Source
    from segflow.blocks.manifest import Manifest
    from segflow.chunk import Chunk
    from segflow.state import State
    from segflow.volumes.base import VolumeInfo

Three = tuple[int, int, int]
OPENED = ("dataset", "channel_order", "voxel_size", "voxel_offset", "layer_type")
REGION = ("roi", "roi_start", "roi_stop", "roi_size")


def _one_input(options: dict[str, Any]) -> None:
    """Raise UsageError unless just one thing is to be split."""
    given = [k for k in ("chunk", "path", "volume") if options[k] is not None]
    if len(given) != 1:
        raise UsageError("split takes one of --input NAME, --file-name FILE and --volume-path VOLUME")
    told = [k for k in OPENED if options[k] is not None]
    if given == ["chunk"] and told:
        raise UsageError(f"--{told[0].replace('_', '-')} is for a file or volume, not for a chunk")


def _region_told(options: dict[str, Any]) -> bool:
    return any(options[key] is not None for key in REGION)


def _blocks(bounds: Box, task: Box | None, options: dict[str, Any]) -> Blocks:
    """Give the blocks of the region that the options choose in ``bounds``; default: the task's box."""
    from segflow.blocks.cut import Blocks
    from segflow.tasks.tasks import region_from

    roi, start, stop, size = (options[k] for k in REGION)
    region = region_from(bounds, start, stop, size, Box.parse(roi) if roi else None)
    region = bounds if region is None else region
    if not _region_told(options) and task is not None and options["chunk"] is None:
        region = task.intersect(bounds)
    if not bounds.contains(region):
        raise UsageError(
            f"the region {region} goes beyond {bounds}, which is all there is; give a smaller --roi"
        )
    return Blocks.over(region, options["block_size"], options["overlap"], options["edge"])


def _look(plan: Plan, options: dict[str, Any]) -> VolumeInfo | None:
    """Describe what is split; None where that is not known before the run."""
    from segflow.volumes import hdf5, split_address
    from segflow.volumes.lazy import open_lazy

    path, mip = options["path"], 0
    if path:
        if not check_file(plan, hdf5.split_dataset(path)[0]):
            return None
    else:
        path, mip = options["volume"], plan.mip if options["mip"] is None else options["mip"]
        place = split_address(path)[1]
        if plan.made(place) or "{bbox}" in path:
            return None
        if not place.startswith("file://"):
            return None if options["dataset"] else existing(plan, path, mip)
    with before_the_run():
        return open_lazy(path, mip=mip, **{k: options[k] for k in OPENED}).info


def plan_split(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check what is split, the grid and the folder; tell the first block."""
    _one_input(options)
    spec, bounds = UNKNOWN, None
    info = None if options["chunk"] else _look(plan, options)
    if options["chunk"]:
        spec = plan.spec(options["chunk"])
        if spec.shape is not None and spec.voxel_offset is not None:
            bounds = Box.of(spec.voxel_offset, spec.shape[-3:])
    elif info is not None:
        spec, bounds = spec_of(info), info.bounds
    _check_places(plan, options)
    if bounds is None:
        plan.tasks, plan.bbox = True, None
        return spec.change(shape=None, voxel_offset=None)
    with before_the_run():
        blocks = _blocks(bounds, None if plan.tasks else plan.bbox, options)
        if info is not None and options["output_dir"] and not plan.tasks:
            from segflow.blocks.folder import check_folder, told_apart

            source = told_apart(info) if options["path"] else {}
            check_folder(options["output_dir"], _manifest(info, blocks.bounds, source, options))
    plan.tasks |= len(blocks) > 1
    plan.bbox = blocks.box(0)
    same = len({b.shape for b in (blocks.box(0), blocks.box(len(blocks) - 1))}) == 1
    shape = (*(spec.shape or ())[:-3], *plan.bbox.shape) if same else None
    return spec.change(shape=shape, voxel_offset=plan.bbox.start if len(blocks) == 1 else None)


def _check_places(plan: Plan, options: dict[str, Any]) -> None:
    """Check the mask and the folder of the files."""
    from segflow.volumes import split_address
    from segflow.volumes.lazy import open_lazy

    mask, folder = options["mask"], options["output_dir"]
    if mask and not plan.made(mask) and split_address(mask)[1].startswith("file://"):
        with before_the_run():
            open_lazy(mask)
    if folder:
        check_writable(plan, f"{folder.rstrip('/')}/x", folder=True)
        plan.makes(folder)
        if plan.tasks and "{bbox}" not in folder:
            raise UsageError("several tasks would write one --output-dir; put {bbox} into its name")


def _manifest(info: VolumeInfo, bounds: Box, source: dict[str, Any], options: dict[str, Any]) -> Manifest:
    from segflow.blocks.manifest import Manifest

    size, overlap, edge = (options[k] for k in ("block_size", "overlap", "edge"))
    return Manifest.of(info, bounds, size, overlap, edge, form=options["form"], source=source)


def _input_name(ctx: click.Context, _: click.Parameter, value: str | None) -> str:
    """Give the name under which blocks go on: that of the chunk that is split, unless one is told."""
    return value or ctx.params.get("chunk") or "chunk"


@operator(
    "Volumes",
    kind="expand",
    uses="io",
    group=1,
    plan=plan_split,
    example="segflow split -f em.tif --block-size 64 512 512 --overlap 8 64 64 --output-dir blocks",
)
@name_in(default=None, help="Chunk to split.")
@option("-f", "--file-name", "path", metavar="FILE", default=None,
        help="File to split: tif (or a folder of them), h5 (FILE.h5:DATASET) or npy.")  # fmt: skip
@volume_option("Volume to split: precomputed, zarr or n5.", required=False)
@triple("--block-size", required=True, type=click.IntRange(1), aliases=("--chunk-size",),
        help="Size of a block, overlap included, voxels.")  # fmt: skip
@triple("--overlap", default=(0, 0, 0), type=click.IntRange(0), help="What neighbours share, voxels.")
@option("--roi", metavar="BOX", default=None, help="Split only z0-z1_y0-y1_x0-x1, voxels.")
@triple("--roi-start", default=None, help="First voxel of that region.")
@triple("--roi-stop", default=None, help="The voxel after its last.")
@triple("--roi-size", default=None, help="Its size instead of its stop, voxels.")
@option("--edge", type=click.Choice(["shorter", "shift", "pad"]), default="shorter",
        help="The last block ends with the region, is shifted back, or is padded with zeros.")  # fmt: skip
@option("--mask", metavar="VOLUME", default=None,
        help="Blocks where this is all 0 are skipped; it may be coarser than the volume.")  # fmt: skip
@option("--empty-threshold", type=float, default=None, help="Blocks without a value above this are skipped.")
@option("--output-dir", metavar="DIR", default=None,
        help="Write each block to DIR/chunk_z00_y00_x00.h5 too, with a manifest.json.")  # fmt: skip
@option("--format", "form", type=click.Choice(["h5", "tif"]), default="h5", help="Of these files.")
@mip_option("Mip of the volume; default: that of the task (--mip).")
@option("-d", "--dataset-path", "dataset", metavar="NAME", default=None,
        help="Data set of an h5 file, or array in a zarr or n5.")  # fmt: skip
@option("--channel-order", type=click.Choice(["xyz", "zyx"]), default=None,
        help="Order of three affinity channels in the file; zyx ones are handed on as xyz.")  # fmt: skip
@triple("--voxel-size", type=float, default=None, help="Voxel size, nm; default: that of the file.")
@triple("--voxel-offset", default=None, help="Place of the first voxel, voxels; default: that of the file.")
@option("--layer-type", type=click.Choice(LAYER_TYPES), default=None,
        help="What the values are; default: as the file says.")  # fmt: skip
@click.option("-o", "--output", "output", cls=NameOption, role="out", default=None, callback=_input_name,
              aliases=("--output-chunk-name", "--output-name"),
              help="Chunk of a block; default: the name of the input, else chunk.")  # fmt: skip
def split(
    state: State,
    *,
    chunk: Chunk | None = None,
    path: str | None = None,
    volume: str | None = None,
    block_size: Three,
    overlap: Three = (0, 0, 0),
    roi: str | None = None,
    roi_start: Three | None = None,
    roi_stop: Three | None = None,
    roi_size: Three | None = None,
    edge: str = "shorter",
    mask: str | None = None,
    empty_threshold: float | None = None,
    output_dir: str | None = None,
    form: str = "h5",
    mip: int | None = None,
    dataset: str | None = None,
    channel_order: str | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    voxel_offset: Three | None = None,
    layer_type: str | None = None,
    output: str = "chunk",
) -> Iterator[State]:
    """Cut a chunk, file or volume into overlapping blocks; the rest of the chain runs for each.

    It is read block by block, never whole. merge-blocks joins the blocks again. With inference
    --patch-grid volume between them the answer is that of the whole volume, if half the overlap is
    at least a patch (less the rim that its output lacks, less 1) in every axis that is cut.
    """
    options = dict(locals())
    from segflow.blocks.cut import Held
    from segflow.blocks.mask import Mask
    from segflow.blocks.stream import Cut
    from segflow.state import Block, Group
    from segflow.volumes.lazy import open_lazy

    _one_input(options)
    level = state.mip if mip is None else mip
    if chunk is not None:
        source: Source = Held(chunk)
    else:
        name = str(path or volume).replace("{bbox}", state.label)
        source = open_lazy(name, mip=level if volume else 0, **{k: options[k] for k in OPENED})
    if state.bbox is not None and level != state.mip and chunk is None and not _region_told(options):
        raise UsageError(f"the task's box is at mip {state.mip}, not {level}; leave --mip out, or give --roi")
    blocks = _blocks(source.info.bounds, state.bbox, options)
    hidden = Mask(open_lazy(mask), source.info) if mask else None
    cut = Cut(blocks, source, hidden, empty_threshold, _folder(state, source, blocks.bounds, options))
    group = Group(state, blocks)
    for index, box in enumerate(blocks):
        child = state.child(bbox=box, index=index, count=len(blocks), mip=level, block=Block(group, index))
        found = cut.block(index)
        if isinstance(found, str):
            child.pop(output, None)
            child.skip(found)
        else:
            child[output] = found
        del found
        yield child
        del child
    if cut.folder is not None:
        cut.folder.finish()
        state.run.wrote(str(cut.folder.path), blocks.bounds.voxels)
    state.ends = group
    yield state


def _folder(state: State, source: Any, bounds: Box, options: dict[str, Any]) -> Any:
    """Give the folder in which blocks are written; None without --output-dir."""
    if options["output_dir"] is None:
        return None
    from segflow.blocks.folder import Folder, told_apart

    path = options["output_dir"].replace("{bbox}", state.label)
    claimed = state.run.memory.setdefault("split", set())
    if path in claimed:
        raise UsageError(f"two tasks would write their blocks into {path}; put {{bbox}} into --output-dir")
    claimed.add(path)
    manifest = _manifest(source.info, bounds, told_apart(source), options)
    return Folder(path, manifest, state.run.provenance())
