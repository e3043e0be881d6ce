"""The region graph: fragments as nodes, their contacts as edges with additive statistics.

Labels are dense, 1 ... n, 0 is background; affinities are uint8 of shape (3, z, y, x), channel 0, 1, 2
joining a voxel to the one before it on z, y, x. The pair (v, v - d) belongs to the block that holds v,
so that sums and counts of blocks add up to those of the volume (integers: no rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit

_GOLDEN, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(30)


@njit()
def slot_of(keys: NDArray[Any], key: Any) -> Any:
    """Give the place of ``key`` in an open-addressing table (0: free), or the free place for it."""
    mask = keys.size - 1
    at = np.int64((key * _GOLDEN) >> _SHIFT) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + 1) & mask
    return at


@njit()
def pair(a: int, b: int) -> Any:
    """Give one number for two labels, whatever their order."""
    if a > b:
        a, b = b, a
    return np.uint64(a) << np.uint64(32) | np.uint64(b)


@njit()
def _grown(keys: NDArray[Any], states: NDArray[Any]) -> Any:
    more, moved = np.zeros(2 * keys.size, np.uint64), np.zeros((2 * keys.size, 2), np.int64)
    for i in range(keys.size):
        if keys[i] != 0:
            at = slot_of(more, keys[i])
            more[at], moved[at, 0], moved[at, 1] = keys[i], states[i, 0], states[i, 1]
    return more, moved


@njit()
def _row(
    here: NDArray[Any], there: NDArray[Any], values: NDArray[Any], keys: NDArray[Any], states: NDArray[Any]
) -> int:
    """Add the pairs of two rows to a table that has room for them; give how many edges were new."""
    last = np.uint64(0)
    at = new = 0
    for x in range(here.size):
        a, b = here[x], there[x]
        if a == b or a == 0 or b == 0:
            continue
        key = pair(a, b)
        if key != last:
            at = slot_of(keys, key)
            if keys[at] == 0:
                keys[at] = key
                new += 1
            last = key
        states[at, 0] += values[x]
        states[at, 1] += 1
    return new


@njit()
def _contacts(labels: NDArray[Any], affs: NDArray[Any], start: NDArray[Any], guess: int) -> Any:
    nz, ny, nx = labels.shape
    size = 1024
    while size < max(guess, 8 * nx):
        size *= 2
    keys, states = np.zeros(size, np.uint64), np.zeros((size, 2), np.int64)
    used = 0
    first = start[2]
    for z in range(start[0], nz):
        for y in range(start[1], ny):
            if 3 * (used + 3 * nx) > 2 * keys.size:
                keys, states = _grown(keys, states)
            here, values = labels[z, y], affs[:, z - start[0], y - start[1]]
            if z > 0:
                used += _row(here[first:], labels[z - 1, y, first:], values[0], keys, states)
            if y > 0:
                used += _row(here[first:], labels[z, y - 1, first:], values[1], keys, states)
            used += _row(here[1:], here[: nx - 1], values[2, 1 - first :], keys, states)
    found = np.flatnonzero(keys)
    return keys[found], states[found]


def contacts(
    labels: NDArray[np.int32], affs: NDArray[np.uint8], start: Sequence[int] = (0, 0, 0)
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Give the edges that a block owns, in the order of their ends.

    Args:
        labels: zyx, 1 ... n, 0 background.
        affs: (3, z, y, x) of the voxels from ``start`` on.
        start: the planes of ``labels`` before it (0 or 1 on each axis) are those of the blocks before
            this one; they own no pair.

    Returns:
        u, v (labels, u < v), the sum of the affinities between them, and the number of voxel pairs.
    """
    keys, states = _contacts(labels, affs, np.array(start), labels.size // 16)
    order = np.argsort(keys)
    keys, states = keys[order], states[order]
    u, v = keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)
    return u.astype(np.int32), v.astype(np.int32), states[:, 0].copy(), states[:, 1].copy()


def histograms(
    labels: NDArray[np.int32], affs: NDArray[np.uint8], start: Sequence[int] = (0, 0, 0)
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Give the affinities of the edges that a block owns, counted.

    Arguments are those of ``contacts``.

    Returns:
        u, v (labels, u < v), an affinity and the number of voxel pairs that have it, in this order.
    """
    inner = [slice(s, None) for s in start]
    found, values = [], []
    for axis in range(3):
        here, before = list(inner), list(inner)
        first = max(start[axis], 1)
        here[axis], before[axis] = slice(first, None), slice(first - 1, -1)
        one, two = labels[tuple(here)], labels[tuple(before)]
        meets = (one != two) & (one != 0) & (two != 0)
        one, two = one[meets].astype(np.uint64), two[meets].astype(np.uint64)
        found.append(np.minimum(one, two) << np.uint64(32) | np.maximum(one, two))
        part: list[Any] = [slice(None)] * 3
        part[axis] = slice(first - start[axis], None)
        values.append(affs[(axis, *part)][meets])
    edges, places = np.unique(np.concatenate(found), return_inverse=True)
    rows, votes = np.unique(places.astype(np.int64) * 256 + np.concatenate(values), return_counts=True)
    keys = edges[rows // 256]
    u, v = keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)
    return u.astype(np.int32), v.astype(np.int32), rows % 256, votes
