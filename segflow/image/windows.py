"""Compiled kernels over windows of an array: mean and mode. Import on use: numba takes a while."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as plain
from numba import prange

from segflow.compiled import njit


@plain(inline="always")
def _range(index: Any, factor: Any, phase: Any, length: Any) -> Any:
    """Give the part of window ``index`` that lies in the array; ``phase`` voxels are before it."""
    return max(index * factor - phase, 0), min((index + 1) * factor - phase, length)


@njit()
def _add_line(sums: Any, line: Any, factor: int, phase: int) -> None:
    if factor == 2 and phase == 0:
        for i in range(line.size // 2):
            sums[i] += sums.dtype.type(line[2 * i]) + sums.dtype.type(line[2 * i + 1])
        if line.size % 2:
            sums[-1] += sums.dtype.type(line[-1])
    elif factor == 1:
        for i in range(line.size):
            sums[i] += sums.dtype.type(line[i])
    else:
        for i in range(sums.size):
            first, last = _range(i, factor, phase, line.size)
            for x in range(first, last):
                sums[i] += sums.dtype.type(line[x])


@njit()
def _divide(total: Any, made: Any, count: int) -> None:
    """Fill ``made`` with integers total / count, rounded half up."""
    shift = 0
    while 1 << shift < count:
        shift += 1
    if 1 << shift == count:
        half = total.dtype.type(count >> 1)
        for i in range(made.size):
            made[i] = (total[i] + half) >> total.dtype.type(shift)
    else:
        for i in range(made.size):
            made[i] = np.floor(total[i] / np.float64(count) + 0.5)


@njit()
def _mean_of_two_lines(made: Any, a: Any, b: Any) -> None:
    """Fill a line with the means of the windows 1 2 2 of its lines, rounded half up."""
    for i in range(made.size):
        made[i] = (a[2 * i] + a[2 * i + 1] + b[2 * i] + b[2 * i + 1] + 2) >> 2


@njit()
def _mean_of_four_lines(made: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Fill a line with the means of the windows 2 2 2 of its lines, rounded half up."""
    for i in range(made.size):
        j, k = 2 * i, 2 * i + 1
        made[i] = (a[j] + a[k] + b[j] + b[k] + c[j] + c[k] + d[j] + d[k] + 4) >> 3


@njit(parallel=True)
def mean_integers(array: Any, made: Any, factor: Any, phase: Any, sums: Any) -> None:
    """Fill ``made`` (czyx) with the means of windows of ``array``; windows are cut at its faces.

    ``sums`` is an empty array of the dtype in which a window's sum fits.
    """
    _, nz, ny, nx = array.shape
    channels, mz, my, mx = made.shape
    for row in prange(channels * mz * my):
        c, k, j = row // (mz * my), row // my % mz, row % my
        z0, z1 = _range(k, factor[0], phase[0], nz)
        y0, y1 = _range(j, factor[1], phase[1], ny)
        lines = (z1 - z0) * (y1 - y0)
        if factor[2] == 2 and nx % 2 == 0 and phase[2] == 0 and y1 - y0 == 2 and z1 - z0 <= 2:
            low, high = array[c, z0, y0], array[c, z0, y0 + 1]
            if z1 - z0 == 1:
                _mean_of_two_lines(made[c, k, j], low, high)
            else:
                low2, high2 = array[c, z0 + 1, y0], array[c, z0 + 1, y0 + 1]
                _mean_of_four_lines(made[c, k, j], low, high, low2, high2)
            continue
        total = np.zeros(mx, sums.dtype)
        for z in range(z0, z1):
            for y in range(y0, y1):
                _add_line(total, array[c, z, y], factor[2], phase[2])
        _divide(total, made[c, k, j], lines * factor[2])
        for i in (0, mx - 1):  # only these may be cut by a face
            x0, x1 = _range(i, factor[2], phase[2], nx)
            _divide(total[i : i + 1], made[c, k, j, i : i + 1], lines * (x1 - x0))


@njit(parallel=True)
def mean_floats(array: Any, made: Any, factor: Any, phase: Any) -> None:
    """Do what mean_integers does for floats: summed in float64, not rounded."""
    _, nz, ny, nx = array.shape
    channels, mz, my, mx = made.shape
    for row in prange(channels * mz * my):
        c, k, j = row // (mz * my), row // my % mz, row % my
        z0, z1 = _range(k, factor[0], phase[0], nz)
        y0, y1 = _range(j, factor[1], phase[1], ny)
        total = np.zeros(mx, np.float64)
        for z in range(z0, z1):
            for y in range(y0, y1):
                _add_line(total, array[c, z, y], factor[2], phase[2])
        lines = (z1 - z0) * (y1 - y0)
        for i in range(mx):
            x0, x1 = _range(i, factor[2], phase[2], nx)
            made[c, k, j, i] = total[i] / (lines * (x1 - x0))


@njit()
def _mode(values: Any, count: int) -> Any:
    """Give the most frequent value; of several not the 0, then the first met."""
    best, most = values[0], 0
    for i in range(count):
        same = 0
        for j in range(i, count):
            same += values[j] == values[i]
        if same > most or (same == most and best == 0 and values[i] != 0):
            best, most = values[i], same
        if 2 * most > count:
            break
    return best


@njit()
def _mode_of_four(a: Any, b: Any, c: Any, d: Any) -> Any:
    """Do what _mode does, for four values, without a loop."""
    if a == b:
        return c if a == 0 and c == d else a
    if a in (c, d):
        return b if a == 0 and (b in (d, c)) else a
    if b in (c, d):
        return b
    if c == d:
        return c
    return a if a != 0 else b


@njit()
def _mode_of_four_lines(made: Any, values: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Fill a line with the modes of the windows 2 2 2 of its lines."""
    for i in range(a.size // 2):
        j, k = 2 * i, 2 * i + 1
        v = a[j]
        other = (a[k] ^ v) | (b[j] ^ v) | (b[k] ^ v) | (c[j] ^ v) | (c[k] ^ v) | (d[j] ^ v) | (d[k] ^ v)
        if other == 0:
            made[i] = v
        else:
            values[0], values[1], values[2], values[3] = v, a[k], b[j], b[k]
            values[4], values[5], values[6], values[7] = c[j], c[k], d[j], d[k]
            made[i] = _mode(values, 8)


@njit()
def _gather(values: Any, part: Any) -> int:
    count = 0
    for z in range(part.shape[0]):
        for y in range(part.shape[1]):
            for x in range(part.shape[2]):
                values[count] = part[z, y, x]
                count += 1
    return count


@njit(parallel=True)
def mode_windows(array: Any, made: Any, factor: Any, phase: Any) -> None:
    """Fill ``made`` (czyx) with the most frequent values of windows of ``array`` (unsigned)."""
    _, nz, ny, nx = array.shape
    channels, mz, my, mx = made.shape
    for row in prange(channels * mz * my):
        c, k, j = row // (mz * my), row // my % mz, row % my
        z0, z1 = _range(k, factor[0], phase[0], nz)
        y0, y1 = _range(j, factor[1], phase[1], ny)
        values = np.empty(factor[0] * factor[1] * factor[2], array.dtype)
        done = 0
        if factor[2] == 2 and phase[2] == 0 and y1 - y0 == 2 and z1 - z0 <= 2:
            done = nx // 2
            low, high = array[c, z0, y0], array[c, z0, y0 + 1]
            if z1 - z0 == 1:
                for i in range(done):
                    made[c, k, j, i] = _mode_of_four(low[2 * i], low[2 * i + 1], high[2 * i], high[2 * i + 1])
            else:
                low2, high2 = array[c, z0 + 1, y0], array[c, z0 + 1, y0 + 1]
                _mode_of_four_lines(made[c, k, j], values, low, high, low2, high2)
        for i in range(done, mx):
            x0, x1 = _range(i, factor[2], phase[2], nx)
            made[c, k, j, i] = _mode(values, _gather(values, array[c, z0:z1, y0:y1, x0:x1]))
