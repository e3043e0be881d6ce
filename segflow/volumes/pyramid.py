"""The coarser mips of a volume: all of it block by block, or a task's part from its chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, UsageError
from segflow.geometry import Box, Vec, blocks, vec, words
from segflow.progress import bar
from segflow.volumes.base import VolumeInfo

MEMORY = 1 << 27  # bytes of the finer mip that are held at once; at least one block's


def build_pyramid(
    volume: Any,
    *,
    start_mip: int = 1,
    stop_mip: int | None = None,
    factor: Sequence[int] | None = None,
    fill_missing: bool = True,
    memory: int = MEMORY,
) -> list[int]:
    """Fill mips of a volume, each from the one before, in blocks: O(block) memory.

    Images take the mean, segmentations the mode (segflow.image.downsample); windows are counted
    from voxel 0, so the result is that of the whole volume at once.

    Args:
        volume: a writable volume (precomputed, zarr).
        start_mip: the first mip that is filled.
        stop_mip: the mip after the last; default: those the volume names, else 5.
        factor: for mips that the volume does not name yet; default: towards cubic voxels.
        fill_missing: take missing blocks as zeros.
        memory: bytes of the finer mip that may be held at once.

    Returns:
        the mips that were filled.

    Raises:
        UsageError: there is nothing between the two mips.
        VolumeError: the volume is not there, or cannot be read or written.
        ChunkError: it is undecided whether the volume holds labels.
    """
    stop = stop_mip or (volume.info().mips if volume.info().mips > start_mip else max(5, start_mip + 1))
    if not 1 <= start_mip < stop:
        raise UsageError(f"there is no mip from {start_mip} up to (not including) {stop} to fill")
    if volume.info().layer_type is None:
        raise ChunkError(
            f"{volume.path} holds {volume.info().dtype} and does not say whether these are labels"
        )
    volume.add_mips(stop, factor)
    work = [(mip, box) for mip in range(start_mip, stop) for box in _parts(volume, mip, memory)]
    with bar(len(work), "blocks") as tick:
        for mip, box in work:
            volume.write(_coarse(volume, mip, box, fill_missing), mip)
            tick(1)
    return list(range(start_mip, stop))


def _parts(volume: Any, mip: int, memory: int) -> Iterator[Box]:
    """Give boxes of whole blocks of a mip whose finer voxels fit into ``memory``."""
    import numpy as np

    info: VolumeInfo = volume.info(mip)
    block = list(info.block_size or info.bounds.shape)
    step = _factor(volume, mip)
    width = np.dtype(info.dtype).itemsize * info.channels
    count = [-(-n // b) for n, b in zip(info.bounds.shape, block)]
    many = [1, 1, 1]
    for axis in (2, 1, 0):
        one = Box.of((0, 0, 0), [b * f * m for b, f, m in zip(block, step, many)]).voxels * width
        many[axis] = max(1, min(count[axis], memory // one))
    for part in blocks(info.bounds, [b * m for b, m in zip(block, many)]):
        yield part.intersect(info.bounds)


def _factor(volume: Any, mip: int) -> Vec:
    over, under = volume.ratio(mip - 1, mip)
    if max(over) > 1:
        raise UsageError(f"mip {mip} of {volume.path} is finer than mip {mip - 1}")
    return vec(under)


def _coarse(volume: Any, mip: int, box: Box, fill_missing: bool) -> Chunk:
    """Give the chunk in ``box`` of a mip, from the finer one."""
    from segflow.image.downsample import downsample_chunk

    step = _factor(volume, mip)
    fine = box.scale(step).intersect(volume.info(mip - 1).bounds)
    if fine.empty:  # another program made this mip larger than the finer one
        return volume.read(box, mip)
    made = downsample_chunk(volume.read(fine, mip - 1, fill_missing=fill_missing), step)
    return made.pad_to(box)


def write_pyramid(
    volume: Any,
    chunk: Chunk,
    *,
    mip: int = 0,
    start_mip: int | None = None,
    stop_mip: int = 5,
    factor: Sequence[int] | None = None,
) -> list[int]:
    """Write a task's part of several mips, from its chunk.

    Args:
        volume: a writable volume; mips it does not name are added, by ``factor``.
        chunk: the task's voxels at ``mip``.
        mip: the chunk's.
        start_mip: the first mip that is written; default: the one after the chunk's.
        stop_mip: the mip after the last.
        factor: for mips that the volume does not name yet; default 1 2 2.

    Returns:
        the mips that were written.

    Raises:
        UsageError: there is nothing between the two mips.
        BoxError: the chunk's box does not divide, and the volume does not hold the chunk at ``mip``;
            only from there its windows are completed, with what the neighbours wrote.
        ChunkError: the chunk was read at another mip of the volume.
    """
    first = mip + 1 if start_mip is None else start_mip
    if not mip <= first < stop_mip:
        raise UsageError(
            f"nothing to write: mips from {first} up to (not including) {stop_mip}, with a chunk at {mip}"
        )
    from segflow.image.downsample import downsample_chunk

    step = vec(factor or (1, 2, 2))
    volume.check_mip(chunk, mip, "--chunk-mip")
    chunk = chunk.cutout(volume.inside(chunk.bbox, volume.info(mip)))
    by = _windows(volume, mip, stop_mip - 1, step)
    whole = chunk.bbox.snap(by).intersect(volume.info(mip).bounds)
    if first == mip:
        volume.write(chunk, mip)
    if whole != chunk.bbox and stop_mip > mip + 1:
        chunk = _completed(volume, chunk, whole, mip, by)
    volume.add_mips(stop_mip, step)
    for level in range(mip + 1, stop_mip):
        chunk = downsample_chunk(chunk, _factor(volume, level))
        if level >= first:
            volume.write(chunk, level)
    return list(range(first, stop_mip))


def _windows(volume: Any, mip: int, last: int, factor: Vec) -> Vec:
    """Give the voxels of ``mip`` that make one of ``last``; mips that are to be added have ``factor``."""
    known = max(mip, min(last, volume.info().mips - 1))
    return vec([n * f ** (last - known) for n, f in zip(volume.ratio(mip, known)[1], factor)])


def _completed(volume: Any, chunk: Chunk, whole: Box, mip: int, by: Vec) -> Chunk:
    """Give the chunk grown to ``whole`` windows by what the volume holds around it.

    Who writes a shared window last sees all of it, so the pyramid does not depend on how it was cut.
    """
    import numpy as np

    from segflow.volumes.convert import to_dtype

    around = volume.read(whole, mip)
    if not np.array_equal(around.cutout(chunk.bbox).array, to_dtype(chunk, volume.info(mip).dtype)):
        raise BoxError(
            f"box {chunk.bbox} does not divide by {words(by)}, and mip {mip} of {volume.path} does not hold "
            "the chunk; save it there first, or take tasks of such a size, or a smaller --stop-mip"
        )
    return replace(around, layer_type=chunk.layer_type)
