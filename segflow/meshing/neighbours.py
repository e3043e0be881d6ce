"""The planes of its neighbours that a chunk needs so that its meshes and theirs meet without a seam."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.geometry import Box, vec
from segflow.meshing.objects import NO_SIDES, Sides

log = logging.getLogger("segflow")


@dataclass(frozen=True, eq=False)
class Surrounded:
    """Labels to mesh: ``array`` zyx from voxel ``start``, and the sides that neighbours share.

    Marching cubes works between the centres of voxels. A chunk has the cubes from its first voxels
    up to the first voxels of its neighbours on the high sides; where the volume ends there are zeros.
    So the cubes of all chunks fill the volume once, and two chunks that touch share a plane.
    """

    array: NDArray[Any]
    start: tuple[int, int, int]
    shared: tuple[Sides, Sides]


def with_neighbours(chunk: Chunk) -> Surrounded:
    """Give a chunk's labels with one plane of its neighbours, read from where the chunk was read.

    A chunk that was not read from a volume, or is no longer what the volume holds (a step changed
    it; with a warning), stands alone: zeros around it close its meshes.

    Raises:
        VolumeError: the neighbours cannot be read.
    """
    from segflow.volumes.lazy import open_lazy

    source = chunk.source
    bounds = source.get("bounds")
    if bounds is None or "path" not in source or chunk.bbox.intersect(bounds).empty:
        return _alone(chunk)
    chunk = chunk.cutout(chunk.bbox.intersect(bounds))
    if chunk.bbox == bounds:
        return _alone(chunk)
    volume = open_lazy(str(source["path"]), dataset=source.get("dataset"), mip=source.get("mip", 0))
    if volume.info.bounds != bounds:  # it was told to lie elsewhere
        return _alone(chunk)
    low: Sides = tuple(a > b for a, b in zip(chunk.bbox.start, bounds.start))  # type: ignore[assignment]
    high: Sides = tuple(a < b for a, b in zip(chunk.bbox.stop, bounds.stop))  # type: ignore[assignment]
    whole = chunk.bbox.grow((*(not s for s in low), 1, 1, 1))
    array = np.zeros(whole.shape, chunk.dtype)
    array[chunk.bbox.slices(whole.start)] = chunk.array
    for slab in _slabs(chunk.bbox, whole.intersect(bounds)):
        there = volume.read(slab).array
        own = slab.intersect(chunk.bbox)
        if not np.array_equal(there[own.slices(slab.start)], chunk.array[own.slices(chunk.voxel_offset)]):
            log.warning(
                "the chunk at %s is not what %s holds, so its meshes end at its own faces: seams to its "
                "neighbours stay open in between; write the labels into a volume and mesh that",
                chunk.bbox, volume.path,
            )  # fmt: skip
            return _alone(chunk)
        array[slab.slices(whole.start)] = there
    return Surrounded(array, whole.start, (low, high))


def _alone(chunk: Chunk) -> Surrounded:
    return Surrounded(np.pad(chunk.array, 1), vec([v - 1 for v in chunk.voxel_offset]), NO_SIDES)


def _slabs(own: Box, inside: Box) -> list[Box]:
    """Give the boxes beyond the high sides of ``own``, each with the last plane of ``own`` too."""
    slabs, start, stop = [], list(inside.start), list(inside.stop)
    start = list(own.start)
    for axis in range(3):
        if inside.stop[axis] > own.stop[axis]:
            slabs.append(
                Box(
                    vec([*start[:axis], own.stop[axis] - 1, *start[axis + 1 :]]),
                    vec([*stop[:axis], own.stop[axis] + 1, *stop[axis + 1 :]]),
                )
            )
            stop[axis] = own.stop[axis]
    return slabs
