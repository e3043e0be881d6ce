"""How many voxels each pair of labels of two segmentations shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from segflow.errors import ChunkError

Labels = NDArray[np.uint64]
Counts = NDArray[np.int64]


def contingency(first: NDArray[Any], second: NDArray[Any]) -> tuple[Labels, Labels, Counts]:
    """Count the voxels of every pair of labels that occurs, in one pass.

    Takes O(pairs) memory and one section; about 2 ns a voxel.

    Args:
        first: integer labels, any shape.
        second: integer labels of the same shape.

    Returns:
        Labels of ``first`` and ``second`` (uint64; negative ones wrap) and their count (int64),
        sorted by pair.

    Raises:
        ChunkError: the shapes differ, or values are not integers.

    >>> a, b, n = contingency(np.array([[1, 1, 2]]), np.array([[5, 5, 5]]))
    >>> a.tolist(), b.tolist(), n.tolist()
    ([1, 2], [5, 5], [2, 1])
    """
    if first.shape != second.shape:
        raise ChunkError(f"the shapes differ: {first.shape} and {second.shape}")
    for array in (first, second):
        if array.dtype.kind not in "uib":
            raise ChunkError(f"labels are integers, not {array.dtype}")
    size = 1 << 12
    table = (np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.zeros(size, np.int64))
    used = 0
    rows = (first, second) if first.ndim > 1 else (first[None], second[None])
    scratch = np.empty((2, int(np.prod(rows[0].shape[1:]))), np.uint64)
    for one, other in zip(*rows):
        np.copyto(scratch[0].reshape(one.shape), one, casting="unsafe")
        np.copyto(scratch[1].reshape(one.shape), other, casting="unsafe")
        *arrays, used = _add(scratch[0], scratch[1], *table, used)
        table = (arrays[0], arrays[1], arrays[2])
    taken = table[2] > 0
    a, b, count = (column[taken] for column in table)
    order = np.lexsort((b, a))
    return a[order], b[order], count[order]


@njit(cache=True, nogil=True)
def _slot(a: Any, b: Any, keys_a: Any, keys_b: Any, counts: Any) -> Any:
    """Give the place of a pair in the table, or the free place where it belongs."""
    last = np.int64(counts.size - 1)
    mixed = (a * np.uint64(0x9E3779B97F4A7C15)) ^ (b * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    i = np.int64(mixed >> np.uint64(32)) & last
    while counts[i] != 0 and (keys_a[i] != a or keys_b[i] != b):
        i = (i + 1) & last
    return i


@njit(cache=True, nogil=True)
def _add(first: Any, second: Any, keys_a: Any, keys_b: Any, counts: Any, used: int) -> Any:
    """Add runs of equal pairs to an open-addressing table, which doubles when half full."""
    i = 0
    while i < first.size:
        a, b = first[i], second[i]
        begin = i
        while i < first.size and first[i] == a and second[i] == b:
            i += 1
        at = _slot(a, b, keys_a, keys_b, counts)
        if counts[at] == 0:
            keys_a[at], keys_b[at] = a, b
            used += 1
        counts[at] += i - begin
        if 2 * used > counts.size:
            old_a, old_b, old = keys_a, keys_b, counts
            keys_a, keys_b = np.zeros(2 * old.size, np.uint64), np.zeros(2 * old.size, np.uint64)
            counts = np.zeros(2 * old.size, np.int64)
            for k in range(old.size):
                if old[k]:
                    to = _slot(old_a[k], old_b[k], keys_a, keys_b, counts)
                    keys_a[to], keys_b[to], counts[to] = old_a[k], old_b[k], old[k]
    return keys_a, keys_b, counts, used
