"""Local shape descriptors (Sheridan et al., Nature Methods 2023), as the package ``lsds`` defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.errors import UsageError

TRUNCATE = 3.0  # standard deviations at which the Gaussian ends
LEAST_VARIANCE = 1e-3  # nm^2


def shape_descriptors(
    labels: NDArray[Any], sigma: float | Sequence[float], voxel_size: Sequence[float]
) -> NDArray[np.float32]:
    """Describe, at each voxel of an object, the object's shape under a Gaussian window around it.

    Channels, all clipped to [0, 1]: 0-2 the offset (z, y, x) of the object's centre of mass, in sigma,
    0.5 + 0.5 offset; 3-5 its variance along z, y, x, in sigma^2; 6-8 Pearson's correlation of zy, zx,
    yx, 0.5 + 0.5 r; 9 its share of the window. Beyond the array there is no object.

    Args:
        labels: unsigned, zyx; where they are 0 all channels are 0.
        sigma: nm; one number, or z, y, x.
        voxel_size: nm, zyx.

    Returns:
        float32, (10, z, y, x).

    Raises:
        UsageError: a sigma or voxel size that is not above 0.

    >>> found = shape_descriptors(np.ones((1, 1, 3), np.uint32), 1.0, (1, 1, 1))
    >>> [round(float(v), 3) for v in found[2, 0, 0]]
    [0.752, 0.5, 0.248]
    """
    from segflow.training.label_kernels import number

    widths = np.broadcast_to(np.asarray(sigma, float), 3)
    size = np.asarray(voxel_size, float)
    if size.shape != (3,) or not (widths > 0).all() or not (size > 0).all():
        raise UsageError(f"sigma ({sigma}) and voxel size ({voxel_size}) of the head lsd are in nm, above 0")
    kernels = [_kernel(w / s) for w, s in zip(widths, size)]
    dense = np.empty(labels.shape, np.int32)
    count = number(np.ascontiguousarray(labels), dense)
    result = np.zeros((10, *labels.shape), np.float32)
    sums = np.zeros((3, kernels[2].shape[1] + 1))
    np.cumsum(kernels[2], axis=1, out=sums[:, 1:])
    least = (LEAST_VARIANCE / widths**2).astype(np.float32)
    _describe(dense, _boxes(dense, count), kernels[0], kernels[1], sums, least, result)
    return result


def _kernel(sigma: float) -> NDArray[np.float32]:
    """Give (3, 2 r + 1): a Gaussian of sum 1, times the distance in sigma, times its square."""
    radius = int(TRUNCATE * sigma + 0.5)
    distance = np.arange(-radius, radius + 1) / sigma
    weight = np.exp(-0.5 * distance**2)
    weight /= weight.sum()
    return np.stack([weight, weight * distance, weight * distance**2]).astype(np.float32)


@njit()
def _boxes(dense: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Give (count + 1, 6): first and last z, y, x of each label."""
    boxes = np.empty((count + 1, 6), np.int64)
    boxes[:, :3] = 1 << 40
    boxes[:, 3:] = -1
    depth, height, length = dense.shape
    for z in range(depth):
        for y in range(height):
            for x in range(length):
                box = boxes[dense[z, y, x]]
                box[0], box[3] = min(box[0], z), max(box[3], z)
                box[1], box[4] = min(box[1], y), max(box[4], y)
                box[2], box[5] = min(box[2], x), max(box[5], x)
    return boxes


@njit(fastmath=True)
def _describe(
    dense: NDArray[np.int32],
    boxes: NDArray[np.int64],
    kernel_z: NDArray[np.float32],
    kernel_y: NDArray[np.float32],
    sums_x: NDArray[np.float64],
    least: NDArray[np.float32],
    result: NDArray[np.float32],
) -> None:
    """Filter each label in its own box: x by sums over runs, then y, then z where the label is."""
    for label in range(1, len(boxes)):
        z0, y0, x0, z1, y1, x1 = boxes[label]
        shape = (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        box = dense[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1]
        along_x = np.zeros((shape[0], shape[1], 3, shape[2]), np.float32)
        filled = np.zeros((shape[0], shape[1]), np.bool_)
        _filter_x(box, label, sums_x, along_x, filled)
        along_y = np.zeros((shape[0], shape[1], 6, shape[2]), np.float32)
        _filter_y(along_x, filled, kernel_y, along_y)
        moments = np.empty((10, shape[2]), np.float32)
        for z in range(shape[0]):
            for y in range(shape[1]):
                if filled[z, y]:
                    _filter_z(along_y, z, y, kernel_z, moments)
                    made = result[:, z0 + z, y0 + y, x0 : x1 + 1]
                    _normalise(box[z, y], label, moments, least, made)


@njit(fastmath=True)
def _filter_x(
    box: NDArray[np.int32],
    label: int,
    sums: NDArray[np.float64],
    result: NDArray[np.float32],
    filled: NDArray[np.bool_],
) -> None:
    depth, height, length = box.shape
    taps = sums.shape[1] - 1
    radius = taps // 2
    for z in range(depth):
        for y in range(height):
            row, made = box[z, y], result[z, y]
            end = 0
            while end < length:
                start = end
                while start < length and row[start] != label:
                    start += 1
                end = start
                while end < length and row[end] == label:
                    end += 1
                if start == end:
                    break
                filled[z, y] = True
                for x in range(max(0, start - radius), min(length, end + radius)):
                    low, high = max(start - x + radius, 0), min(end - x + radius, taps)
                    made[0, x] += sums[0, high] - sums[0, low]
                    made[1, x] += sums[1, high] - sums[1, low]
                    made[2, x] += sums[2, high] - sums[2, low]


@njit(fastmath=True)
def _filter_y(
    source: NDArray[np.float32],
    filled: NDArray[np.bool_],
    kernel: NDArray[np.float32],
    result: NDArray[np.float32],
) -> None:
    """Give the moments 1, x, xx, y, yx, yy of the rows."""
    depth, height, _, length = source.shape
    radius = kernel.shape[1] // 2
    for z in range(depth):
        for y in range(height):
            if not filled[z].any():
                continue
            made = result[z, y]
            for other in range(max(0, y - radius), min(height, y + radius + 1)):
                if not filled[z, other]:
                    continue
                w0, w1, w2 = kernel[:, other - y + radius]
                row = source[z, other]
                for x in range(length):
                    made[0, x] += w0 * row[0, x]
                    made[1, x] += w0 * row[1, x]
                    made[2, x] += w0 * row[2, x]
                    made[3, x] += w1 * row[0, x]
                    made[4, x] += w1 * row[1, x]
                    made[5, x] += w2 * row[0, x]


@njit(fastmath=True)
def _filter_z(
    source: NDArray[np.float32], z: int, y: int, kernel: NDArray[np.float32], made: NDArray[np.float32]
) -> None:
    """Give the moments 1, x, xx, y, yx, yy, z, zx, zy, zz of one row."""
    depth, _, _, length = source.shape
    radius = kernel.shape[1] // 2
    made[:] = 0
    for other in range(max(0, z - radius), min(depth, z + radius + 1)):
        w0, w1, w2 = kernel[:, other - z + radius]
        row = source[other, y]
        for moment in range(6):
            for x in range(length):
                made[moment, x] += w0 * row[moment, x]
        for x in range(length):
            made[6, x] += w1 * row[0, x]
            made[7, x] += w1 * row[1, x]
            made[8, x] += w1 * row[3, x]
            made[9, x] += w2 * row[0, x]


@njit()
def _normalise(
    row: NDArray[np.int32],
    label: int,
    moments: NDArray[np.float32],
    least: NDArray[np.float32],
    made: NDArray[np.float32],
) -> None:
    """Write the ten descriptors where the row holds the label."""
    for x in range(len(row)):
        if row[x] != label:
            continue
        weight = moments[0, x]
        mx, my, mz = moments[1, x] / weight, moments[3, x] / weight, moments[6, x] / weight
        xx = max(moments[2, x] / weight - mx * mx, least[2])
        yy = max(moments[5, x] / weight - my * my, least[1])
        zz = max(moments[9, x] / weight - mz * mz, least[0])
        yx = (moments[4, x] / weight - my * mx) / np.sqrt(yy * xx)
        zx = (moments[7, x] / weight - mz * mx) / np.sqrt(zz * xx)
        zy = (moments[8, x] / weight - mz * my) / np.sqrt(zz * yy)
        made[0, x], made[1, x], made[2, x] = 0.5 + 0.5 * mz, 0.5 + 0.5 * my, 0.5 + 0.5 * mx
        made[3, x], made[4, x], made[5, x] = zz, yy, xx
        made[6, x], made[7, x], made[8, x] = 0.5 + 0.5 * zy, 0.5 + 0.5 * zx, 0.5 + 0.5 * yx
        made[9, x] = weight
        for c in range(10):
            made[c, x] = min(max(made[c, x], np.float32(0)), np.float32(1))
