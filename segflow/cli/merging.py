"""What merge-blocks does with its options: the check before the run, and where the joined blocks go."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from segflow.cli.files import before_the_run, check_writable, spec_of
from segflow.cli.groups import no_group
from segflow.cli.labels import check_labels, matching_from
from segflow.cli.plan import UNKNOWN, Plan, Spec
from segflow.cli.volumes import view_line, writable
from segflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segflow.blocks.cut import Blocks, Source
    from segflow.state import State

FOUND = (
    "dataset",
    "channel_order",
    "block_size",
    "overlap",
    "voxel_offset",
    "fill_missing",
)  # of block files
TOLD = ("voxel_size", "layer_type")  # instead of what the blocks say
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
        found = open_blocks(folder, **{k: options[k] for k in (*FOUND, *TOLD)})
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


def join_folder(state: State, options: dict[str, Any]) -> None:
    """Join the block files of ``--input-dir``, and put what they give where the options say."""
    from segflow.blocks.folder import open_blocks
    from segflow.blocks.join import Joined
    from segflow.blocks.labels import joined_labels

    folder = options["input_dir"].replace("{bbox}", state.label)
    found = open_blocks(folder, **{k: options[k] for k in (*FOUND, *TOLD)})
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

    path, volume, step = options["path"], options["volume"], options["stage"]
    output = None
    if path or volume:
        new = {"block_size": options["volume_block_size"], "encoding": options["encoding"]}
        place = path.replace("{bbox}", state.label) if path else None
        output = Output.at(
            place, volume, dtype=options["dtype"], options=new, mip=state.mip,
            provenance=state.run.provenance(),
        )  # fmt: skip
    merge_labels(
        blocks, pieces, output, matching_from(options),
        work_dir=options["work_dir"], step=step, stale=options["stale"] or "fail",
    )  # fmt: skip
    if output is not None and step != "pool":
        look = _view_line(output.path) if output.is_file else view_line(output.volume)
        state.run.wrote(output.path, blocks.bounds.voxels, look)


def label_dtype(options: dict[str, Any]) -> str | None:
    """Give the dtype that joined labels must have: that of a volume that is there, else what is told."""
    from segflow.blocks.output import Output

    path, volume = options["path"], options["volume"]
    there = Output.at(path, volume).found() if path or volume else None
    return there.dtype if there else options["dtype"]


def _view_line(path: str) -> str:
    from segflow.volumes.copy import file_format

    return f"segflow read-{file_format(path)} -f {shlex.quote(path)} neuroglancer"


def deliver(state: State, joined: Source, options: dict[str, Any]) -> None:
    """Write what was joined where the options say, else put it into the state."""
    from segflow.blocks.cut import Retold
    from segflow.volumes import files
    from segflow.volumes.copy import copy_to_file, copy_to_volume, file_format

    path, volume, dtype = options["path"], options["volume"], options["dtype"]
    provenance, bounds = state.run.provenance(), joined.info.bounds
    if any(options[k] is not None for k in TOLD):
        joined = Retold(joined, **{k: options[k] for k in TOLD})
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
