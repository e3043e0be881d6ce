"""merge-blocks: blocks joined to what they were cut from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import DTYPES, LAYER_TYPES, before_the_run, check_writable, spec_of
from segflow.cli.groups import Turn, joined_groups, no_group
from segflow.cli.labels import check_labels, label_options, matching_from
from segflow.cli.operator import name_in, name_out, operator, option, triple, volume_option
from segflow.cli.plan import UNKNOWN, Plan, Spec
from segflow.cli.volumes import writable
from segflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segflow.blocks.cut import Blocks, Source
    from segflow.state import Group, State

Three = tuple[int, int, int]
FOUND = ("dataset", "channel_order", "block_size", "overlap", "voxel_size", "voxel_offset", "layer_type",
         "fill_missing")  # fmt: skip
FEW = 500  # files whose headers are read before the run


def plan_merge(plan: Plan, options: dict[str, Any]) -> Spec | tuple[()]:
    """Check where blocks come from and where they go; describe the joined chunk."""
    if options["path"] and options["volume"]:
        raise UsageError("give --file-name or --volume-path, not both")
    told = [k for k in FOUND if options[k]]
    check_labels(options)
    if options["input_dir"] is None:
        if told:
            raise UsageError(f"--{told[0].replace('_', '-')} is for block files; name them with --input-dir")
        if not plan.groups:
            raise no_group()
        name = options["chunk"] or "chunk"
        if name not in plan.chunks:
            raise UsageError(f"no chunk named '{name}'; name the blocks' chunk with --input")
        spec = plan.spec(name).change(shape=None, voxel_offset=None)
    else:
        spec = _look(plan, options)
    _check_output(plan, options)
    return () if options["path"] or options["volume"] or options["stage"] else spec


def _look(plan: Plan, options: dict[str, Any]) -> Spec:
    """Check the block files, if they are there and not many; describe what they give."""
    from segflow.blocks.folder import open_blocks
    from segflow.blocks.join import Joined
    from segflow.blocks.labels import Segments
    from segflow.blocks.manifest import block_files

    folder = options["input_dir"]
    if plan.made(folder):
        return UNKNOWN
    with before_the_run():
        if len(block_files(folder)) > FEW:
            return UNKNOWN
        found = open_blocks(folder, **{k: options[k] for k in FOUND})
        if options["labels"]:
            segments = Segments(*found)
            matching = matching_from(options)
            if matching is not None:
                segments.check_overlap(matching)
            return spec_of(segments.joined.info).change(dtype=options["dtype"])
        joined = Joined(*found, blend=options["blend"])
        _refuse_labels(joined)
        return spec_of(joined.info)


def _check_output(plan: Plan, options: dict[str, Any]) -> None:
    from segflow.volumes.copy import file_format

    path, tasks = options["path"], plan.groups[-1][2] if plan.groups else plan.tasks
    if path and file_format(path) != "zarr":
        if tasks and "{bbox}" not in path:
            raise UsageError(f"{path} is one file for several tasks; put {{bbox}} into its name")
        check_writable(plan, path, folder="{bbox}" in path)
        plan.makes(path)
    elif path or options["volume"]:
        writable(plan, _address(path) if path else options["volume"])


def _address(path: str) -> str:
    return path if "://" in path else f"zarr://{path}"


def _refuse_labels(joined: Source) -> None:
    if joined.info.layer_type == "segmentation":
        raise UsageError(
            f"the blocks hold labels ({joined.info.dtype}), whose ids begin anew in each; match them with "
            "--labels, or give --layer-type image if they are none"
        )


@operator("Volumes", kind="stream", uses="io", group=-1, plan=plan_merge,
          example="segflow merge-blocks --input-dir blocks -f affs.h5")  # fmt: skip
@name_in(default=None, help="Chunk of the blocks, behind split; default: chunk.")
@option("--input-dir", metavar="DIR", default=None, help="Folder of block files, instead of those of split.")
@option("-f", "--file-name", "path", metavar="FILE", default=None,
        help="Write a .tif, .h5 or .zarr; default: the chunk goes on along the chain.")  # fmt: skip
@volume_option("Write a precomputed (or zarr://) volume, made if it is not there.", required=False)
@option("--blend/--crop", default=False,
        help="Weights that fall towards a block's faces, or a cut in the middle of overlaps.")  # fmt: skip
@triple("--block-size", default=None, help="Of files without manifest, voxels; default: the largest file's.")
@triple("--overlap", default=None, help="Of files without manifest, voxels.")
@triple("--voxel-offset", default=None, help="First voxel of files without manifest; default: as they say.")
@option("-d", "--dataset-path", "dataset", metavar="NAME", default=None,
        help="In the h5 files; default: main, else the only one (vol0).")  # fmt: skip
@option("--channel-order", type=click.Choice(["xyz", "zyx"]), default=None,
        help="Of three affinity channels in the files; default: zyx in vol0, else xyz.")  # fmt: skip
@option("--fill-missing/--no-fill-missing", default=False, help="Blocks without a file are zeros.")
@triple("--voxel-size", type=float, default=None, help="Voxel size, nm; default: the blocks'.")
@option("--layer-type", type=click.Choice(LAYER_TYPES), default=None,
        help="What the values are; default: as the blocks say.")  # fmt: skip
@option("--dtype", type=click.Choice(DTYPES), default=None,
        help="To write; default: the blocks', uint8 (round(255 a)) for float maps in a volume.")  # fmt: skip
@triple("--volume-block-size", default=(64, 64, 64), help="Of a new volume, voxels.")
@option("--encoding", default=None,
        help="Of a new precomputed volume; default: raw, compressed_segmentation for labels.")  # fmt: skip
@label_options
@name_out(help="Joined chunk.")
def merge_blocks(
    states: Iterator[State],
    *,
    chunk: str | None = None,
    output: str = "chunk",
    input_dir: str | None = None,
    path: str | None = None,
    volume: str | None = None,
    blend: bool = False,
    block_size: Three | None = None,
    overlap: Three | None = None,
    voxel_offset: Three | None = None,
    dataset: str | None = None,
    channel_order: str | None = None,
    fill_missing: bool = False,
    voxel_size: tuple[float, float, float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    volume_block_size: Three = (64, 64, 64),
    encoding: str | None = None,
    labels: bool = False,
    rule: str | None = None,
    min_overlap: int | None = None,
    min_fraction: float | None = None,
    min_iou: float | None = None,
    parts_to_whole: bool = False,
    count_in: str | None = None,
    neighbours: str | None = None,
    margin: int | None = None,
    collisions: str | None = None,
    stage: str | None = None,
    work_dir: str | None = None,
    stale: str | None = None,
    level: int = 0,
    turn: Turn = lambda state: nullcontext(True),
) -> Iterator[State]:
    """Join overlapping blocks: those of split, or files in a folder, to one chunk, file or volume.

    Images, probabilities and affinities; each block is cut in the middle of its overlaps, so blocks
    that were only split give the volume back exactly. Skipped blocks are zeros. With --file-name or
    --volume-path a few blocks are in memory at a time. With --labels (or where split's blocks are
    segmentations) labels are matched where blocks overlap. From files that is done in two steps in
    a work folder: the same line again goes on after a kill.
    """
    options = dict(locals())

    def gather(group: Group) -> Any:
        from segflow.blocks.stream import Gathered, spill_beside

        return Gathered(group.cut, spill_beside(path or volume) if input_dir is None else None)

    def join(state: State, gathered: Any) -> None:
        if input_dir is not None:
            _from_folder(state, options)
            return
        matching = matching_from(options)
        deliver(state, gathered.joined(blend, matching=matching, dtype=dtype if labels else None), options)

    if level:
        name = None if input_dir is not None else chunk or "chunk"
        yield from joined_groups(states, level, turn, gather, join, name)
        return
    for state in states:
        with turn(state) as mine:
            if mine and input_dir is None:
                raise no_group()
            if mine:
                _from_folder(state, options)
        yield state


def _from_folder(state: State, options: dict[str, Any]) -> None:
    """Join the block files of --input-dir."""
    from segflow.blocks.folder import open_blocks
    from segflow.blocks.join import Joined
    from segflow.blocks.labels import joined_labels

    folder = options["input_dir"].replace("{bbox}", state.label)
    found = open_blocks(folder, **{k: options[k] for k in FOUND})
    if not options["labels"]:
        joined = Joined(*found, blend=options["blend"])
        _refuse_labels(joined)
        deliver(state, joined, options)
    elif options["path"] or options["volume"] or options["stage"]:
        _label_job(state, *found, options)
    else:
        deliver(state, joined_labels(*found, matching_from(options), dtype=options["dtype"]), options)


def _label_job(state: State, blocks: Blocks, pieces: Mapping[int, Source], options: dict[str, Any]) -> None:
    """Join blocks of labels in a work folder."""
    from segflow.blocks.label_job import Output, merge_labels
    from segflow.cli.volumes import view_line

    path, volume, step = options["path"], options["volume"], options["stage"]
    output = None
    if path or volume:
        new = {"block_size": options["volume_block_size"], "encoding": options["encoding"]}
        place = path.replace("{bbox}", state.label) if path else None
        output = Output.at(
            place, volume, dtype=options["dtype"], options=new, provenance=state.run.provenance()
        )
    merge_labels(
        blocks, pieces, output, matching_from(options),
        work_dir=options["work_dir"], step=step, stale=options["stale"] or "fail",
    )  # fmt: skip
    if output is not None and step != "pool":
        look = _view_line(output.path) if output.is_file else view_line(output.volume)
        state.run.wrote(output.path, blocks.bounds.voxels, look)


def _view_line(path: str) -> str:
    from segflow.volumes.copy import file_format

    return f"segflow read-{file_format(path)} -f {shlex.quote(path)} neuroglancer"


def deliver(state: State, joined: Source, options: dict[str, Any]) -> None:
    """Write what was joined where the options say, else put it into the state."""
    from segflow.cli.volumes import view_line
    from segflow.volumes import files
    from segflow.volumes.copy import copy_to_file, copy_to_volume, file_format

    path, volume, dtype = options["path"], options["volume"], options["dtype"]
    provenance, bounds = state.run.provenance(), joined.info.bounds
    if path and file_format(path) != "zarr":
        target = files.output_path(path, state, "", bounds)
        copy_to_file(joined, target, dtype=dtype, provenance=provenance)
        state.run.wrote(target, bounds.voxels, _view_line(target))
    elif path or volume:
        tasks = state.lease is not None or (state.count or 1) > 1
        written = copy_to_volume(
            joined, _address(path) if path else volume, mip=state.mip, several=tasks, provenance=provenance,
            dtype=dtype, block_size=options["volume_block_size"], encoding=options["encoding"],
        )  # fmt: skip
        state.run.wrote(written.path, bounds.voxels, view_line(written))
    else:
        state[options["output"]] = files.converted(joined.read(bounds), dtype)
