"""Histograms of whole sections, in small files: ``<path>/<z>`` holds {"levels": [256 counts]}.

The files are those that chunkflow's normalize-section-contrast reads and igneous' contrast task
writes; ``.gz`` after the name is read too. A section that several tasks count is one file: beside
their sum it holds the counts of every part by its place (``parts``, keys y0-y1_x0-x1), so that a task
that runs twice is counted once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box, blocks
from segflow.image.contrast import histogram
from segflow.volumes.store import Store, change_json

THREADS = 16
MEMORY = 1 << 27  # voxels that are read at once; at least a row of blocks deep


def open_levels(path: str) -> Store:
    """Give the folder or bucket of levels files at a path, file://, s3:// or gs:// address."""
    from segflow.volumes import bucket_files

    return bucket_files(path)


def read_levels(path: str, sections: Iterable[int]) -> dict[int, NDArray[np.int64]]:
    """Read the histograms of sections; those without a file are left out.

    Args:
        path: folder or address of the files.
        sections: global z of the sections, at the mip of the files.

    Raises:
        VolumeError: a file is no histogram, or the place cannot be reached.
    """
    store = open_levels(path)
    wanted = list(sections)
    found = {z: _read(store, str(z)) for z in wanted[:1]}  # where the place is away, one try is enough
    with ThreadPoolExecutor(THREADS) as pool:
        found |= zip(wanted[1:], pool.map(lambda z: _read(store, str(z)), wanted[1:]))
    return {z: counts for z, counts in found.items() if counts is not None}


def _read(store: Store, name: str) -> NDArray[np.int64] | None:
    data = store.get(name)
    if data is None:
        packed = store.get(f"{name}.gz")
        if packed is None:
            return None
        import gzip

        data = gzip.decompress(packed)
    try:
        return _counts(json.loads(data)["levels"])
    except (ValueError, KeyError, TypeError) as error:
        raise VolumeError(
            f'{store.path}/{name} is no histogram {{"levels": [...]}} ({error!r}); make it with '
            "section-histogram"
        ) from error


def _counts(values: Any) -> NDArray[np.int64]:
    counts = np.asarray(values)
    if counts.ndim != 1 or counts.dtype.kind not in "iuf" or not len(counts) or counts.min() < 0:
        raise ValueError("levels are not counts")
    return counts.astype(np.int64)


def task_part(chunk: Chunk, task: Box | None) -> tuple[Chunk | None, bool]:
    """Give what a task counts of its chunk, None for nothing, and whether that is whole sections.

    Margins around the task's box are a neighbour's, and beyond the volume it was read from there is
    nothing to count.
    """
    box, bounds = chunk.bbox, chunk.source.get("bounds")
    if task is not None and not box.intersect(task).empty:
        box = box.intersect(task)
    if bounds is not None:
        box = box.intersect(bounds)
    if box.empty:
        return None, False
    return chunk.cutout(box), bounds is not None and box.shape[1:] == bounds.shape[1:]


def task_sections(volume: Any, mip: int, task: Box | None, task_mip: int) -> tuple[int, int]:
    """Give the first section of a task at ``mip`` and the one after its last; without a task all."""
    if task is None:
        bounds = volume.info(mip).bounds
        return bounds.start[0], bounds.stop[0]
    over, under = volume.ratio(task_mip, mip) if task_mip != mip else ((1,), (1,))
    return task.start[0] * over[0] // under[0], -(-task.stop[0] * over[0] // under[0])


def write_chunk_levels(path: str, chunk: Chunk, whole: bool = False) -> list[int]:
    """Count the sections of a task's chunk into the files; safe with several workers.

    Args:
        path: folder or address of the files.
        chunk: zyx or of one channel, uint8 or uint16; parts of a section must not overlap.
        whole: the chunk has all of its sections, so that each file is only its own.

    Returns:
        the z of the sections.

    Raises:
        ChunkError: another dtype or several channels, or another part that overlaps was counted.
        VolumeError: the files cannot be written.
    """
    array = _grey(chunk)
    store = open_levels(path)
    key = "_".join(str(chunk.bbox).split("_")[1:])

    def work(index: int) -> int:
        z = chunk.voxel_offset[0] + index
        counts = [int(n) for n in histogram(array[index : index + 1])]
        change_json(store, str(z), lambda old: _added(old, key, counts, whole, f"{store.path}/{z}"))
        return z

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(len(array))))


def _added(old: Any, key: str, counts: list[int], whole: bool, name: str) -> dict[str, Any]:
    """Give the content of a file with one part more."""
    if whole:
        return {"levels": counts}
    parts = dict((old or {}).get("parts", {}))
    if old is not None and not parts:
        raise ChunkError(f"{name} holds a whole section; delete it, or count into another --path")
    for other in parts:
        if other != key and not _plane(other).intersect(_plane(key)).empty:
            raise ChunkError(
                f"the part {key} overlaps {other}, which {name} has counted; cut tasks without overlap, "
                "or count into another --path"
            )
    parts[key] = counts
    if len({len(part) for part in parts.values()}) > 1:
        raise ChunkError(f"{name} counts an image of another dtype; count into another --path")
    return {"levels": [sum(column) for column in zip(*parts.values())], "parts": parts}


def _plane(key: str) -> Box:
    return Box.parse(f"0-1_{key}")


def write_volume_levels(path: str, volume: Any, mip: int, start: int, stop: int) -> list[int]:
    """Count whole sections of a volume, tile by tile: a task is a range of sections.

    Args:
        path: folder or address of the files.
        volume: an image, uint8 or uint16, of one channel.
        mip: the mip whose voxels are counted.
        start: first section.
        stop: the section after the last; those outside the volume are left out.

    Returns:
        the z of the sections.

    Raises:
        ChunkError: no such image. VolumeError: it cannot be read, or the files not written.
    """
    info = volume.info(mip)
    store = open_levels(path)
    deep, *sides = info.block_size or (1, 64, 64)
    side = math.isqrt(MEMORY // deep)
    tile = [max(n, side // n * n) for n in sides]
    first, last = max(start, info.bounds.start[0]), min(stop, info.bounds.stop[0])
    done: list[int] = []
    while first < last:
        edge = info.bounds.start[0] + ((first - info.bounds.start[0]) // deep + 1) * deep
        slab = Box((first, *info.bounds.start[1:]), (min(edge, last), *info.bounds.stop[1:]))
        total: Any = 0
        for part in blocks(slab, (slab.shape[0], *tile)):
            array = _grey(volume.read(part.intersect(slab), mip))
            total = total + np.stack([histogram(array[i : i + 1]) for i in range(len(array))])
        for index, counts in enumerate(total):
            store.put(str(first + index), _dump([int(n) for n in counts]))
        done += range(slab.start[0], slab.stop[0])
        first = slab.stop[0]
    return done


def _dump(counts: list[int]) -> bytes:
    from segflow.volumes.store import dump_json

    return dump_json({"levels": counts})


def _grey(chunk: Chunk) -> NDArray[Any]:
    if chunk.channels != 1 or chunk.dtype not in (np.uint8, np.uint16):
        raise ChunkError(
            f"histograms are of uint8 or uint16 images of one channel, not of {chunk.channels} "
            f"channel(s) of {chunk.dtype}"
        )
    return chunk.array.reshape(chunk.shape[-3:])
