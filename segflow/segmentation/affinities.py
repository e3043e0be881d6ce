"""Affinities as the engines want them: checked, z, y, x, in C order; limits and thresholds exact."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import AXIS_NAMES, Chunk, channel_order
from segflow.errors import ChunkError, UsageError
from segflow.image.quantize import to_bytes

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
ROUNDING = 1e-4  # how far blended float affinities may leave [0, 1]


def check_affinities(shape: Sequence[int], dtype: Any) -> None:
    """Raise ChunkError unless an array of this shape and dtype can hold affinities."""
    if len(shape) != 4:
        raise ChunkError(
            f"affinities are czyx with three channels, but this chunk has the shape {tuple(shape)}"
        )
    if shape[0] < 3:
        raise ChunkError(
            f"affinities need the three channels x, y, z, but this chunk has {shape[0]}: "
            "use a network that gives them"
        )
    if not all(shape):
        raise ChunkError(f"the affinities are empty: their shape is {tuple(shape)}")
    kind = np.dtype(dtype)
    if kind != np.uint8 and kind.kind != "f":
        raise ChunkError(f"affinities are float in [0, 1] or uint8 (value / 255), not {kind}")


def check_limits(low: float, high: float) -> None:
    """Raise UsageError unless the affinity limits of the watershed are in order."""
    if not low < high:
        raise UsageError(f"the low affinity threshold ({low:g}) must be smaller than the high one ({high:g})")


def byte_limits(low: float, high: float) -> tuple[int, int]:
    """Give the limits of the watershed for affinities q / 255, exactly.

    Returns:
        the largest q that is not above ``low`` and the smallest that is not below ``high`` (256: none).

    Raises:
        UsageError: the low limit is not smaller than the high one.

    >>> byte_limits(0.0001, 0.9999), byte_limits(0.1, 0.98)
    ((0, 255), (25, 250))
    """
    check_limits(low, high)
    return floor(as_fraction(low) * 255), min(256, ceil(as_fraction(high) * 255))


def as_fraction(number: float | str | Fraction) -> Fraction:
    """Give the fraction that a number on the command line means: 0.7 is 7/10.

    Raises:
        UsageError: it is none.

    >>> as_fraction(0.7)
    Fraction(7, 10)
    """
    try:
        return Fraction(str(number)).limit_denominator(10**9)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"'{number}' is no number; write it as 0.7") from None


def nearest(chunk: Chunk) -> NDArray[np.float32]:
    """Give the affinities of each voxel to the one before it on z, y and x.

    Channels are picked by ``chunk.offsets``. An array that already is z, y, x float32 in C order
    is not copied; otherwise the copy is 12 bytes a voxel.

    Args:
        chunk: czyx affinities, float in [0, 1], or uint8 that stands for value / 255.

    Returns:
        float32, shape (3, z, y, x), in [0, 1], perhaps read-only.

    Raises:
        ChunkError: wrong shape or dtype, an offset is missing, NaN, or values outside [0, 1].
    """
    order = _order(chunk)
    array = chunk.array
    ready = _ready(array, order, np.float32)
    if ready is not None:
        return ready
    result = np.empty((3, *array.shape[1:]), np.float32)
    for values, channel in zip(result, order):
        if array.dtype == np.uint8:
            np.divide(array[channel], np.float32(255), out=values)
        else:
            values[...] = array[channel]
    return result


def nearest_bytes(chunk: Chunk) -> NDArray[np.uint8]:
    """Give the affinities of each voxel to the one before it on z, y and x, as round(255 a).

    Float and uint8 volumes of the same affinities give the same bytes. An array that already is
    z, y, x uint8 in C order is not copied; otherwise the copy is 3 bytes a voxel.

    Args:
        chunk: czyx affinities, float in [0, 1], or uint8.

    Returns:
        uint8, shape (3, z, y, x), perhaps read-only.

    Raises:
        ChunkError: as ``nearest``.

    >>> nearest_bytes(Chunk(np.full((3, 1, 1, 2), 0.5, np.float32)))[0].tolist()
    [[[128, 128]]]
    """
    order = _order(chunk)
    array = chunk.array
    ready = _ready(array, order, np.uint8)
    if ready is not None:
        return ready
    result = np.empty((3, *array.shape[1:]), np.uint8)
    for made, channel in zip(result, order):
        for section, values in zip(made, array[channel]):
            section[...] = values if array.dtype == np.uint8 else to_bytes(values)
    return result


def _order(chunk: Chunk) -> list[int]:
    """Check affinities, and give their channels for z, y and x."""
    check_affinities(chunk.shape, chunk.dtype)
    order = channel_order(chunk, NEAREST)
    for axis, channel in enumerate(order):
        _check_range(chunk.array[channel], axis, channel, chunk.voxel_offset)
    return order


def _ready(array: NDArray[Any], order: list[int], dtype: Any) -> NDArray[Any] | None:
    """Give the three channels as a view, if they lie in order, in C order and in this dtype."""
    first = order[0]
    picked = array[first : first + 3]
    if array.dtype == dtype and order == [first, first + 1, first + 2] and picked.flags.c_contiguous:
        return picked
    return None


def _check_range(values: NDArray[Any], axis: int, channel: int, offset: Sequence[int]) -> None:
    if values.dtype == np.uint8:
        return
    low, high = values.min(), values.max()  # both are NaN if one value is
    name = f"channel {channel} (affinity along {AXIS_NAMES[axis]})"
    if np.isnan(low):
        bad = np.isnan(values)
        place = tuple(int(i) + o for i, o in zip(np.unravel_index(np.argmax(bad), bad.shape), offset))
        raise ChunkError(
            f"{name} holds {int(bad.sum())} NaN, the first at zyx {place}; affinities lie in [0, 1]"
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ChunkError(
            f"{name} ranges from {low:g} to {high:g}; affinities lie in [0, 1]: "
            "give the network a sigmoid, or rescale"
        )
