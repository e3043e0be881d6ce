"""Surfaces of labels by marching cubes (zmesh), simplified, in nm."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import ChunkError, SegflowError
from segflow.meshing.formats import Mesh

Sides = tuple[bool, bool, bool]
NO_SIDES: tuple[Sides, Sides] = ((False, False, False), (False, False, False))


def mesh_objects(
    labels: NDArray[Any],
    voxel_size: Sequence[float],
    offset: Sequence[int] = (0, 0, 0),
    *,
    ids: Collection[int] | None = None,
    skip_ids: Collection[int] = (),
    dust_threshold: int = 0,
    shared: tuple[Sides, Sides] = NO_SIDES,
    simplification_factor: int = 100,
    max_error: float = 40.0,
) -> Iterator[tuple[int, Mesh]]:
    """Give (id, Mesh) for each object of an array of labels, by rising id; 0 is background.

    The surface of voxels a to b (not including b) of an axis lies at a and b times the voxel size,
    as neuroglancer draws voxels. It is open where an object reaches the array's border: pad with
    zeros to close it. Simplification (quadric edge collapse) never moves a vertex of such an open
    border, so meshes of two arrays that share a plane of voxels have the same vertices there.

    Args:
        labels: zyx, integers.
        voxel_size: zyx, nm.
        offset: zyx place of the first voxel, voxels.
        ids: mesh only these; None is all.
        skip_ids: do not mesh these.
        dust_threshold: leave out objects of fewer voxels, unless they reach a ``shared`` side: of
            those the size is not known, and without them a neighbour's surface would stay open.
        shared: for the low and the high sides, zyx: is the array's plane there a neighbour's too?
        simplification_factor: divide the number of triangles by up to this; 0 or 1: leave them.
        max_error: nm by which simplification may move the surface.

    Raises:
        ChunkError: not zyx, or not of integers.
        SegflowError: zmesh is not installed.
    """
    if labels.ndim != 3 or labels.dtype.kind not in "bui":
        raise ChunkError(f"meshes are made of labels, zyx integers, not of {labels.ndim}-D {labels.dtype}")
    if not labels.size:
        return
    small, names = _numbered(labels)
    wanted = _wanted(small, names, ids, skip_ids, dust_threshold, shared)
    mesher = _surfaces(small, wanted, len(names), voxel_size)
    del small
    reduce = simplification_factor if simplification_factor > 1 else 0
    for number in sorted(set(mesher.ids()) & set(wanted), key=names.__getitem__):
        found = mesher.get(number, reduction_factor=reduce, max_error=max_error, voxel_centered=True)
        mesher.erase(number)
        if len(found.faces):
            vertices = _placed(found.vertices, voxel_size, offset)
            yield names[number], Mesh(vertices, np.asarray(found.faces, np.uint32))


def zmesh_module() -> Any:
    """Import zmesh; raise SegflowError, which says how to install it, where it is not."""
    try:
        import zmesh
    except ImportError as error:
        raise SegflowError("meshes need zmesh; pip install 'segflow[mesh]'") from error
    return zmesh


def _numbered(labels: NDArray[Any]) -> tuple[NDArray[Any], dict[int, int]]:
    """Give labels as 1, 2, ... in the smallest dtype, and the label of each number."""
    import fastremap

    if labels.dtype == bool:
        return labels.view(np.uint8), {1: 1}
    small, mapping = fastremap.renumber(labels, preserve_zero=True)
    return small, {int(new): int(old) for old, new in mapping.items() if new}


def _wanted(
    small: NDArray[Any],
    names: dict[int, int],
    ids: Collection[int] | None,
    skip_ids: Collection[int],
    dust_threshold: int,
    shared: tuple[Sides, Sides],
) -> list[int]:
    import fastremap

    wanted = [n for n, name in names.items() if (ids is None or name in ids) and name not in skip_ids]
    if dust_threshold < 2 or not wanted:
        return wanted
    counts = dict(zip(*(a.tolist() for a in fastremap.unique(small, return_counts=True))))
    cut: set[int] = set()
    for side, index in zip(shared, (0, -1)):
        for axis in (axis for axis in range(3) if side[axis]):
            cut.update(np.unique(small.take(index, axis)).tolist())
    return [n for n in wanted if counts.get(n, 0) >= dust_threshold or n in cut]


def _surfaces(small: NDArray[Any], wanted: list[int], known: int, voxel_size: Sequence[float]) -> Any:
    mesher = zmesh_module().Mesher(tuple(float(v) for v in voxel_size)[::-1])
    if len(wanted) < known:
        keep = np.zeros(known + 1, bool)
        keep[wanted] = True
        small = np.where(keep[small], small, 0).astype(small.dtype, copy=False)
    mesher.mesh(np.ascontiguousarray(small).T)
    return mesher


def _placed(
    vertices: NDArray[Any], voxel_size: Sequence[float], offset: Sequence[int]
) -> NDArray[np.float32]:
    """Move xyz vertices, nm, to their place; those between two voxels to the same one in every array."""
    size = np.asarray(voxel_size, float)[::-1]
    voxels = vertices.astype(float) / size
    halves = np.rint(2 * voxels) / 2
    voxels = np.where(np.abs(voxels - halves) < 1e-3, halves, voxels)
    return ((voxels + np.asarray(offset, float)[::-1]) * size).astype(np.float32)
