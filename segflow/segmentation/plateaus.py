"""Plateaus of a block and where they lead: the compiled passes over its voxels.

The rule is told in ``segflow.segmentation.fragments``. Arrays are those of a block and of the voxels
around it; voxels are numbered in raster order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.segmentation.unions import find


@njit()
def heights(affs: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """Give m(v), uint8 zyx: the largest affinity of each voxel, at most ``high``, 0 if not above ``low``."""
    _, nz, ny, nx = affs.shape
    result = np.zeros((nz, ny, nx), np.uint8)
    for z in range(nz):
        for y in range(ny):
            row = result[z, y]
            if z > 0:
                for x in range(nx):
                    row[x] = affs[0, z, y, x]
            if z + 1 < nz:
                for x in range(nx):
                    row[x] = max(row[x], affs[0, z + 1, y, x])
            if y > 0:
                for x in range(nx):
                    row[x] = max(row[x], affs[1, z, y, x])
            if y + 1 < ny:
                for x in range(nx):
                    row[x] = max(row[x], affs[1, z, y + 1, x])
            for x in range(1, nx):
                row[x] = max(row[x], affs[2, z, y, x])
            for x in range(nx - 1):
                row[x] = max(row[x], affs[2, z, y, x + 1])
            for x in range(nx):
                value = row[x]
                row[x] = 0 if value <= low else min(value, high)
    return result


@njit()
def _way(
    mine: NDArray[Any], there: NDArray[Any], between: NDArray[Any],
    code: NDArray[Any], mutual: NDArray[Any], rank: Any, bit: Any,
) -> None:  # fmt: skip
    """Look from each voxel of a row to one neighbour; an edge counts if none of the voxel's is better."""
    for x in range(mine.size):
        height = there[x] if between[x] >= mine[x] else np.uint8(0)
        mutual[x] |= bit if height == mine[x] else np.uint8(0)
        code[x] = max(code[x], np.uint16(height) << np.uint16(3) | rank)


@njit()
def _ways(
    affs: NDArray[Any], height: NDArray[Any], z: int, y: int, code: NDArray[Any], mutual: NDArray[Any]
) -> None:
    """Give for a row of voxels the best exit and the mutual edges.

    ``code`` is 8 height + rank of the neighbour that the exit goes to, 0 without exit. Ranks are 5 ... 0
    for the neighbour before on z, y, x and the one after on x, y, z: the order of their indices.
    ``mutual`` has the bits 1, 2, 4 for those before on z, y, x and 8, 16, 32 for those after on x, y, z.
    """
    _, nz, ny, _ = affs.shape
    row = height[z, y]
    code[:] = 0
    mutual[:] = 0
    if z > 0:
        _way(row, height[z - 1, y], affs[0, z, y], code, mutual, np.uint16(5), np.uint8(1))
    if y > 0:
        _way(row, height[z, y - 1], affs[1, z, y], code, mutual, np.uint16(4), np.uint8(2))
    before, after, between = row[:-1], row[1:], affs[2, z, y, 1:]
    _way(after, before, between, code[1:], mutual[1:], np.uint16(3), np.uint8(4))
    _way(before, after, between, code[:-1], mutual[:-1], np.uint16(2), np.uint8(8))
    if y + 1 < ny:
        _way(row, height[z, y + 1], affs[1, z, y + 1], code, mutual, np.uint16(1), np.uint8(16))
    if z + 1 < nz:
        _way(row, height[z + 1, y], affs[0, z + 1, y], code, mutual, np.uint16(0), np.uint8(32))
    for x in range(row.size):
        code[x] = code[x] if code[x] >> 3 > row[x] > 0 else 0
        mutual[x] = mutual[x] if row[x] > 0 else 0


@njit()
def flow(
    affs: NDArray[Any], height: NDArray[Any], start: NDArray[Any], stop: NDArray[Any],
    parent: NDArray[Any], best: NDArray[Any],
) -> None:  # fmt: skip
    """Unite the plateaus of the voxels from ``start`` to ``stop``, and find the best exit of each.

    Afterwards ``parent`` (flat, one for each voxel of ``affs``) leads from a voxel without mutual edge to
    where its exit goes, or to itself; in a plateau it leads to the first voxel, and ``best`` there is
    where the exit of the plateau goes, -1 without exit. Exits may go to voxels outside.
    """
    _, nz, ny, nx = affs.shape
    flat = height.ravel()
    steps = np.array([ny * nx, nx, 1, -1, -nx, -ny * nx])
    code, mutual = np.empty(nx, np.uint16), np.empty(nx, np.uint8)
    for i in range(parent.size):
        parent[i] = i
        best[i] = -1
    for z in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            _ways(affs, height, z, y, code, mutual)
            inner = (1 if z > start[0] else 0) | (2 if y > start[1] else 0) | 4
            for x in range(start[2], stop[2]):
                at = (z * ny + y) * nx + x
                exit = at + steps[code[x] & 7] if code[x] else -1
                if mutual[x] == 0:
                    parent[at] = exit if exit >= 0 else at
                    continue
                best[at] = exit
                joined = mutual[x] & inner & (7 if x > start[2] else 3)
                root = at
                for axis in range(3):
                    if joined >> axis & 1:
                        there = find(parent, at - steps[axis])
                        if there != root:
                            root, last = min(there, root), max(there, root)
                            parent[last] = root
                            new, old = best[last], best[root]
                            if new >= 0 and (
                                old < 0 or flat[new] > flat[old] or (flat[new] == flat[old] and new < old)
                            ):
                                best[root] = new


@njit()
def labelled(
    flat: NDArray[Any], shape: Any, start: NDArray[Any], stop: NDArray[Any],
    parent: NDArray[Any], best: NDArray[Any], opened: NDArray[Any],
) -> Any:  # fmt: skip
    """Number the ends of all ways from the voxels of a block in the order in which they are met.

    Returns:
        the number of each voxel (0: none), and the ends.
    """
    _, ny, nx = shape
    number = np.zeros(flat.size, np.uint32)
    ends = np.empty(flat.size, np.int32)
    count = 0
    for z in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for x in range(start[2], stop[2]):
                at = (z * ny + y) * nx + x
                if flat[at] == 0:
                    continue
                end = at
                while number[end] == 0:
                    further = parent[end]
                    if further == end:
                        further = best[end]
                        if further < 0 or opened[end]:
                            ends[count] = end
                            count += 1
                            number[end] = count
                            break
                        parent[end] = further
                    end = further
                found = number[end]
                while number[at] == 0:
                    number[at] = found
                    at = parent[at]
    return number, ends[:count].copy()
