"""Seeds and the flooding of a seeded watershed, compiled.

Both look at integer levels; ties go to the voxel that comes first in z, y, x order among seeds and to
the one reached first by the flood, so the answer depends on the levels alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit


@njit()
def place_seeds(height: NDArray[Any], level: NDArray[Any], radius: int, labels: NDArray[Any]) -> int:
    """Number the voxels that no other within ``radius`` on each axis surpasses; give how many.

    Where two are equally high, the later one is surpassed. Voxels of height or level 0 are no seeds.
    """
    nz, ny, nx = height.shape
    found = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if height[z, y, x] > 0 and level[z, y, x] > 0 and _is_top(height, z, y, x, radius):
                    found += 1
                    labels[z, y, x] = found
    return found


@njit()
def _is_top(height: NDArray[Any], z: int, y: int, x: int, radius: int) -> bool:
    nz, ny, nx = height.shape
    mine = height[z, y, x]
    if x + 1 < nx and height[z, y, x + 1] > mine or x > 0 and height[z, y, x - 1] >= mine:
        return False  # true of most voxels
    for k in range(max(z - radius, 0), min(z + radius + 1, nz)):
        for j in range(max(y - radius, 0), min(y + radius + 1, ny)):
            for i in range(max(x - radius, 0), min(x + radius + 1, nx)):
                other = height[k, j, i]
                if other > mine or (other == mine and (k, j, i) < (z, y, x)):
                    return False
    return True


@njit()
def flood(level: NDArray[Any], labels: NDArray[Any], link: NDArray[Any], top: int, found: int) -> int:
    """Grow the labels 1 ... ``found`` over all voxels of level 1 to ``top``, the highest first.

    The queue has a list of voxels for each level, first in, first out; ``link`` (flat, one for each
    voxel) holds the lists. A part that no seed reaches becomes one label more. Gives the number of
    labels.
    """
    flat, ids = level.ravel(), labels.reshape(-1)
    heads = np.full((2, top + 1), -1, np.int64)
    highest = 0
    for at in range(ids.size):
        if ids[at] > 0:
            highest = max(highest, _append(at, flat, link, heads))
    _drain(level, ids, link, heads, highest)
    for at in range(ids.size):
        if ids[at] == 0 and flat[at] > 0:
            found += 1
            ids[at] = found
            _drain(level, ids, link, heads, _append(at, flat, link, heads))
    return found


@njit(inline="always")
def _append(at: int, flat: NDArray[Any], link: NDArray[Any], heads: NDArray[Any]) -> int:
    """Put a voxel at the end of the list of its level; give the level."""
    mine = int(flat[at])
    if heads[0, mine] < 0:
        heads[0, mine] = at
    else:
        link[heads[1, mine]] = at
    heads[1, mine] = at
    link[at] = -1
    return mine


@njit()
def _drain(level: NDArray[Any], ids: NDArray[Any], link: NDArray[Any], heads: NDArray[Any], at: int) -> None:
    """Take voxels from the lists, from level ``at`` on, and give their labels to neighbours without one."""
    flat = level.ravel()
    _, ny, nx = level.shape
    steps = (ny * nx, nx, 1)
    while at > 0:
        here = heads[0, at]
        if here < 0:
            at -= 1
            continue
        heads[0, at] = link[here]
        place = (here // steps[0], here // nx % ny, here % nx)
        for axis in range(3):
            for side in (-1, 1):
                if not 0 <= place[axis] + side < level.shape[axis]:
                    continue
                there = here + side * steps[axis]
                if ids[there] == 0 and flat[there] > 0:
                    ids[there] = ids[here]
                    at = max(at, _append(there, flat, link, heads))
