"""Contrast: images stretched by the percentiles of their own histogram; intensities to [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError


def normalize_contrast(
    chunk: Chunk,
    lower_clip_fraction: float = 0.01,
    upper_clip_fraction: float = 0.01,
    minval: int = 1,
    maxval: int = 255,
    per_section: bool = True,
) -> Chunk:
    """Stretch an image so that its percentiles span the range.

    Black voxels (0) do not count. The grey level i becomes round((i - a) maxval / (b - a)), clipped
    to [minval, maxval], where a and b are the last levels whose cumulative share is at most
    ``lower_clip_fraction`` and 1 - ``upper_clip_fraction``. An image of one level keeps it, and a
    section that is all black stays so.

    Args:
        chunk: zyx or czyx, uint8 or uint16; channels are treated one by one.
        lower_clip_fraction: share of the voxels that becomes ``minval``.
        upper_clip_fraction: share of the voxels that becomes ``maxval``.
        minval: smallest level given; with 0, black stays black.
        maxval: largest level given.
        per_section: every section by its own histogram, else all by one.

    Returns:
        an image of the same shape; uint8, or the dtype of the image if ``maxval`` is above 255.

    Raises:
        ChunkError: another dtype, or fractions or levels that leave no range.

    >>> ramp = Chunk(np.arange(1, 101, dtype=np.uint8).reshape(1, 10, 10))
    >>> stretched = normalize_contrast(ramp)
    >>> stretched.array.min(), stretched.array.max()
    (np.uint8(1), np.uint8(255))
    """
    array = chunk.array
    if array.dtype not in (np.uint8, np.uint16):
        raise ChunkError(f"contrast is normalised in uint8 or uint16 images, not {array.dtype}")
    if not (min(lower_clip_fraction, upper_clip_fraction) >= 0
            and lower_clip_fraction + upper_clip_fraction < 1):  # fmt: skip
        raise ChunkError(
            f"clip fractions {lower_clip_fraction} and {upper_clip_fraction} leave nothing; "
            "give two shares that add up to less than 1"
        )
    if not 0 <= minval < maxval <= np.iinfo(array.dtype).max:
        raise ChunkError(f"levels {minval} to {maxval} are no range of {array.dtype}")
    made = np.empty(array.shape, np.uint8 if maxval <= 255 else array.dtype)
    volumes = array.reshape(-1, *array.shape[-3:])
    for source, target in zip(volumes, made.reshape(volumes.shape)):
        step = 1 if per_section else max(len(source), 1)
        for z in range(0, len(source), step):
            counts = _histogram(source[z : z + step])
            table = _table(counts, lower_clip_fraction, upper_clip_fraction, minval, maxval)
            _look_up(table.astype(made.dtype), source[z : z + step], target[z : z + step])
    return chunk.with_array(made, layer_type=chunk.layer_type or "image")


def _histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    levels = np.iinfo(values.dtype).max + 1
    counts = np.zeros(levels, np.int64)
    for section in values:
        counts += np.bincount(section.ravel(), minlength=levels)
    return counts


def _look_up(table: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill ``out`` with the table's entries, by section: take() makes wide indices of its input."""
    for section, result in zip(values, out):
        np.take(table, section, out=result, mode="clip")


def _table(
    counts: NDArray[np.int64], lower: float, upper: float, minval: int, maxval: int
) -> NDArray[np.float64]:
    """Give the new level of every level."""
    levels = np.arange(len(counts), dtype=np.float64)
    counts[0] = 0
    total = counts.sum()
    if total == 0:
        return np.zeros(len(counts))
    share = np.cumsum(counts) / total
    low, high = (int(np.searchsorted(share, f, side="right")) - 1 for f in (lower, 1 - upper))
    if low < high:
        levels = (levels - low) * maxval / (high - low)
    return np.rint(np.clip(levels, minval, maxval))


def normalize_intensity(chunk: Chunk) -> Chunk:
    """Map an integer image to float32 in [-1, 1]: 0 to -1, the dtype's maximum to 1.

    Args:
        chunk: zyx or czyx, uint8 or uint16.

    Raises:
        ChunkError: another dtype.

    >>> normalize_intensity(Chunk(np.array([[[0, 255]]], np.uint8))).array.tolist()
    [[[-1.0, 1.0]]]
    """
    if chunk.dtype not in (np.uint8, np.uint16):
        raise ChunkError(f"intensities are normalised in uint8 or uint16 images, not {chunk.dtype}")
    array = chunk.array.astype(np.float32)
    array /= np.float32(np.iinfo(chunk.dtype).max / 2)
    array -= 1
    return chunk.with_array(array, layer_type=chunk.layer_type or "image")
