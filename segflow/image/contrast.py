"""Contrast: images stretched by the percentiles of their own histogram; intensities to [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    _check(chunk, lower_clip_fraction, upper_clip_fraction, minval, maxval)

    def table(values: NDArray[Any], z: int) -> NDArray[np.float64]:
        return _table(histogram(values), lower_clip_fraction, upper_clip_fraction, minval, maxval)

    return _stretched(chunk, table, maxval, 1 if per_section else max(chunk.shape[-3], 1))


def normalize_sections(
    chunk: Chunk,
    counts: Mapping[int, NDArray[np.int64]],
    lower_clip_fraction: float = 0.01,
    upper_clip_fraction: float = 0.01,
    minval: int = 1,
    maxval: int = 255,
) -> Chunk:
    """Stretch every section of an image by a histogram of the whole section, which is given.

    The rule is that of ``normalize_contrast``. A section that is all black stays so, with or
    without a histogram.

    Args:
        chunk: zyx or czyx, uint8 or uint16.
        counts: voxels of every level (256, or 65536 for uint16), by the section's z in its volume.
        lower_clip_fraction: share of the voxels that becomes ``minval``.
        upper_clip_fraction: share of the voxels that becomes ``maxval``.
        minval: smallest level given.
        maxval: largest level given.

    Raises:
        ChunkError: another dtype, or fractions or levels that leave no range, or a section that is
            not black and has no histogram, or one of another number of levels.
    """
    _check(chunk, lower_clip_fraction, upper_clip_fraction, minval, maxval)
    levels = np.iinfo(chunk.dtype).max + 1
    tables: dict[int, NDArray[np.float64]] = {}

    def table(values: NDArray[Any], z: int) -> NDArray[np.float64]:
        if z not in counts:
            if values.any():
                raise ChunkError(f"section {z} is not black and has no histogram")
            return np.zeros(levels)
        if len(counts[z]) != levels:
            raise ChunkError(f"section {z} has a histogram of {len(counts[z])} levels, not of {levels}")
        if z not in tables:
            tables[z] = _table(counts[z], lower_clip_fraction, upper_clip_fraction, minval, maxval)
        return tables[z]

    return _stretched(chunk, table, maxval, 1)


def _check(chunk: Chunk, lower: float, upper: float, minval: int, maxval: int) -> None:
    if chunk.dtype not in (np.uint8, np.uint16):
        raise ChunkError(f"contrast is normalised in uint8 or uint16 images, not {chunk.dtype}")
    if not (min(lower, upper) >= 0 and lower + upper < 1):
        raise ChunkError(
            f"clip fractions {lower} and {upper} leave nothing; give two shares that add up to less than 1"
        )
    if not 0 <= minval < maxval <= np.iinfo(chunk.dtype).max:
        raise ChunkError(f"levels {minval} to {maxval} are no range of {chunk.dtype}")


def _stretched(
    chunk: Chunk, table: Callable[[NDArray[Any], int], NDArray[np.float64]], maxval: int, step: int
) -> Chunk:
    """Look every ``step`` sections up in the table that is made of their values and first z."""
    array = chunk.array
    made = np.empty(array.shape, np.uint8 if maxval <= 255 else array.dtype)
    volumes = array.reshape(-1, *array.shape[-3:])
    for source, target in zip(volumes, made.reshape(volumes.shape)):
        for z in range(0, len(source), step):
            part = source[z : z + step]
            found = table(part, chunk.voxel_offset[0] + z)
            _look_up(found.astype(made.dtype), part, target[z : z + step])
    return chunk.with_array(made, layer_type=chunk.layer_type or "image")


def histogram(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count the voxels of every level of unsigned integers (zyx): 256 counts, or 65536 for uint16."""
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
    counts = np.array(counts, np.int64)
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
