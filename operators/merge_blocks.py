"""merge-blocks: blocks joined to what they were cut from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import DTYPES, LAYER_TYPES
from segflow.cli.groups import Turn, joined_groups, no_group
from segflow.cli.labels import label_options, matching_from
from segflow.cli.merging import deliver, join_folder, label_dtype, plan_merge
from segflow.cli.operator import name_in, name_out, operator, option, triple, volume_option

if TYPE_CHECKING:
    from segflow.state import Group, State

Three = tuple[int, int, int]


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
    --volume-path a few blocks are in memory at a time; those of split wait in a temporary folder
    beside the output. With --labels (or where split's blocks are
    segmentations) labels are matched where blocks overlap. From files that is done in two steps in
    a work folder: the same line again goes on after a kill.
    """
    options = dict(locals())

    def gather(group: Group) -> Any:
        from segflow.blocks.stream import Gathered, spill_beside

        return Gathered(group.cut, spill_beside(path or volume) if input_dir is None else None)

    def join(state: State, gathered: Any) -> None:
        if input_dir is not None:
            join_folder(state, options)
            return
        joined = gathered.joined(blend, matching=matching_from(options), dtype=label_dtype(options))
        deliver(state, joined, options)

    if level:
        name = None if input_dir is not None else chunk or "chunk"
        yield from joined_groups(states, level, turn, gather, join, name)
        return
    for state in states:
        with turn(state) as mine:
            if mine and input_dir is None:
                raise no_group()
            if mine:
                join_folder(state, options)
        yield state
