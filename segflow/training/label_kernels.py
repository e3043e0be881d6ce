"""Loops over the voxels of labels: windows in the section, edges, and numbering.

Ids are unsigned here: 0 is no object, every other bit pattern is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit


@njit()
def spread(array: NDArray[Any], width: int, result: NDArray[Any]) -> None:
    """Write into ``result`` the largest value of the (2 width + 1)^2 window in the section; unsigned zyx."""
    depth, height, length = array.shape
    rows = np.empty((height, length), array.dtype)
    for z in range(depth):
        for y in range(height):
            row, source = rows[y], array[z, y]
            for x in range(length):
                row[x] = source[x]
            for d in range(1, width + 1):
                _raise(row[: max(length - d, 0)], source[d:])
                _raise(row[d:], source[: max(length - d, 0)])
        for y in range(height):
            made = result[z, y]
            for x in range(length):
                made[x] = rows[y, x]
            for other in range(max(0, y - width), min(height, y + width + 1)):
                _raise(made, rows[other])


@njit()
def _raise(row: NDArray[Any], other: NDArray[Any]) -> None:
    for x in range(len(row)):
        row[x] = max(row[x], other[x])


@njit()
def join(
    ids: NDArray[Any],
    valid: NDArray[Any],
    masked: bool,
    offsets: NDArray[Any],
    padded: bool,
    values: NDArray[Any],
    known: NDArray[Any],
) -> None:
    """Write the affinities of ``offsets`` and where they are known.

    Args:
        ids: unsigned, zyx.
        valid: uint8, zyx, read where ``masked``: 0 is unknown.
        masked: whether ``valid`` says anything.
        offsets: (c, 3), zyx.
        padded: an edge that leaves the array ends at the nearest voxel inside; otherwise it is unknown.
        values: any number or bool, czyx, written everywhere.
        known: any number or bool, czyx, written everywhere.
    """
    depth, height, length = ids.shape
    for z in range(depth):
        for c in range(len(offsets)):
            dz, dy, dx = offsets[c]
            low, high = min(max(0, -dx), length), max(0, min(length, length - dx))
            for y in range(height):
                made, told = values[c, z, y], known[c, z, y]
                far_z, far_y = min(max(z + dz, 0), depth - 1), min(max(y + dy, 0), height - 1)
                here, there = ids[z, y], ids[far_z, far_y]
                inside = far_z == z + dz and far_y == y + dy
                if padded or not inside:
                    for x in range(length):
                        far = min(max(x + dx, 0), length - 1)
                        edge = padded and (not masked or (valid[z, y, x] and valid[far_z, far_y, far]))
                        told[x] = edge
                        made[x] = edge and here[x] == there[far] and here[x] != 0
                    continue
                made[:low], told[:low] = 0, 0
                made[max(high, low) :], told[max(high, low) :] = 0, 0
                if high > low:
                    near, far_row = here[low:high], there[low + dx : high + dx]
                    if masked:
                        one, two = valid[z, y, low:high], valid[far_z, far_y, low + dx : high + dx]
                        _row_masked(near, far_row, one, two, made[low:high], told[low:high])
                    else:
                        _row(near, far_row, made[low:high], told[low:high])


@njit()
def _row(here: NDArray[Any], there: NDArray[Any], made: NDArray[Any], told: NDArray[Any]) -> None:
    """Write a row of known edges; the arrays have one length, so that the loop becomes vectors."""
    for x in range(len(here)):
        made[x] = (here[x] == there[x]) & (here[x] != 0)
    told[:] = 1


@njit()
def _row_masked(
    here: NDArray[Any],
    there: NDArray[Any],
    one: NDArray[np.uint8],
    two: NDArray[np.uint8],
    made: NDArray[Any],
    told: NDArray[Any],
) -> None:
    for x in range(len(here)):
        told[x] = (one[x] & two[x]) != 0
    for x in range(len(here)):
        made[x] = ((one[x] & two[x]) != 0) & (here[x] == there[x]) & (here[x] != 0)


@njit()
def number(ids: NDArray[Any], dense: NDArray[np.int32]) -> int:
    """Write 1, 2 ... n for the ids in order of appearance, 0 for 0; give n. Both arrays in C order."""
    keys, codes = np.zeros(1024, ids.dtype), np.zeros(1024, np.int32)
    flat, made = ids.reshape(-1), dense.reshape(-1)
    found, i = 0, 0
    while i < len(flat):
        value, code = flat[i], np.int32(0)
        if value != 0:
            slot = _slot(keys, value, len(keys) - 1)
            if keys[slot] == 0:
                found += 1
                keys[slot], codes[slot] = value, found
                if 2 * found > len(keys):
                    keys, codes = _grown(keys, codes)
                    slot = _slot(keys, value, len(keys) - 1)
            code = codes[slot]
        while i < len(flat) and flat[i] == value:  # a run
            made[i] = code
            i += 1
    return found


@njit()
def largest_of(values: NDArray[np.float32], dense: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Give the largest value in each of the labels 0 ... count, at least 0."""
    result = np.zeros(count + 1, np.float32)
    flat, labels = values.ravel(), dense.ravel()
    for i in range(len(flat)):
        result[labels[i]] = max(result[labels[i]], flat[i])
    return result


@njit()
def _slot(keys: NDArray[Any], key: Any, mask: int) -> Any:
    """Give where ``key`` stands in a table of open addresses, or the free place for it."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(34)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@njit()
def _grown(keys: NDArray[Any], codes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give the table four times as large."""
    size = 4 * len(keys)
    more, numbers = np.zeros(size, keys.dtype), np.zeros(size, codes.dtype)
    for i in range(len(keys)):
        if keys[i] != 0:
            slot = _slot(more, keys[i], size - 1)
            more[slot], numbers[slot] = keys[i], codes[i]
    return more, numbers
