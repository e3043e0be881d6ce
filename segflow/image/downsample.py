"""Coarser images and segmentations: the mean of a window of voxels, or its most frequent label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.geometry import Vec, vec


def downsample(
    array: NDArray[Any],
    factor: int | Sequence[int] = (2, 2, 2),
    *,
    labels: bool = False,
    phase: Sequence[int] = (0, 0, 0),
) -> NDArray[Any]:
    """Downsample an array, mean for images, mode for labels; any size and factor.

    Args:
        array: zyx or czyx, any integer or float dtype.
        factor: window, zyx (or one number), voxels.
        labels: take the most frequent value; of several equally frequent ones not 0, then the one
            met first in z, y, x order. Else the mean, integers rounded half up.
        phase: how many voxels of the first windows lie before the array (0 <= phase < factor), so
            that windows can be anchored to a volume's voxel 0. Windows cut by a face take what
            there is of them.

    Returns:
        An array of the same dtype and axes; its size is ceil((size + phase) / factor).

    Raises:
        ChunkError: the factor is not positive, or the array is empty or neither zyx nor czyx.

    >>> downsample(np.array([[[0, 1], [2, 3]]], np.uint8), (1, 2, 2))
    array([[[2]]], dtype=uint8)
    >>> downsample(np.array([[[0, 5], [0, 5]]], np.uint32), (1, 2, 2), labels=True)
    array([[[5]]], dtype=uint32)
    """
    window, before = vec(factor), vec(phase)
    if min(window) < 1:
        raise ChunkError(f"the factor {' '.join(map(str, window))} is not positive")
    if array.ndim not in (3, 4) or not array.size:
        raise ChunkError(f"an array to downsample is zyx or czyx and not empty, not {array.shape}")
    if window == (1, 1, 1):
        return array
    found = np.ascontiguousarray(array if array.ndim == 4 else array[None])
    size = [-(-(n + p) // f) for n, p, f in zip(found.shape[1:], before, window)]
    made = np.empty((len(found), *size), found.dtype)
    (_mode if labels else _mean)(found, made, window, before)
    return made if array.ndim == 4 else made[0]


def downsample_chunk(chunk: Chunk, factor: int | Sequence[int] = (2, 2, 2)) -> Chunk:
    """Downsample a chunk by windows that are counted from voxel 0 of its volume.

    Segmentations take the mode, everything else the mean.

    Raises:
        ChunkError: it is undecided whether the chunk holds labels (uint16).
    """
    if chunk.layer_type is None:
        raise ChunkError(
            f"{chunk.dtype} may be an image or a segmentation; say which with --layer-type image or "
            "--layer-type segmentation"
        )
    window = vec(factor)
    phase = [o % f for o, f in zip(chunk.voxel_offset, window)]
    made = downsample(chunk.array, window, labels=chunk.is_segmentation, phase=phase)
    size = chunk.voxel_size and tuple(s * f for s, f in zip(chunk.voxel_size, window))
    return chunk.with_array(made, voxel_offset=_floor(chunk.voxel_offset, window), voxel_size=size, source={})


def _floor(offset: Vec, factor: Vec) -> Vec:
    return vec([o // f for o, f in zip(offset, factor)])


def _mean(array: NDArray[Any], made: NDArray[Any], factor: Vec, phase: Vec) -> None:
    from segflow.image.windows import mean_floats, mean_integers

    kind = array.dtype
    if kind == np.float16:  # numba knows no half floats
        wide = np.empty(made.shape, np.float32)
        mean_floats(_frozen(array.astype(np.float32)), wide, factor, phase)
        made[:] = wide
    elif kind.kind == "f":
        mean_floats(_frozen(array), made, factor, phase)
    elif kind.kind == "b":
        _mean(array.view(np.uint8), made.view(np.uint8), factor, phase)
    else:
        small = kind == np.uint8 and int(np.prod(factor)) <= 256
        sums = np.uint16 if small else np.uint32 if kind in (np.uint8, np.uint16) else np.int64
        mean_integers(_frozen(array), made, factor, phase, np.empty(0, sums))


def _mode(array: NDArray[Any], made: NDArray[Any], factor: Vec, phase: Vec) -> None:
    from segflow.image.windows import mode_windows

    bits = np.dtype(f"uint{8 * array.dtype.itemsize}")  # equality is all that counts
    mode_windows(_frozen(array.view(bits)), made.view(bits), factor, phase)


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Give a read-only view, so that one compiled kernel serves read-only and writable arrays."""
    view = array.view()
    view.flags.writeable = False
    return view
