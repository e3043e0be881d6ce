"""Colours of segments and greys of images, the same in every picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import DEFAULT_OFFSETS, Chunk

SAMPLE = 1_000_000  # voxels looked at for a range of values


def value_range(array: NDArray[Any]) -> tuple[float, float]:
    """Give the values that are shown as black and white.

    All of its dtype for uint8, 0 to 1 for floats inside that, else the 0.1st and 99.9th percentile
    of a sample.

    >>> value_range(np.array([[[0.2, 0.9]]])), value_range(np.zeros((1, 1, 1), np.uint8))
    ((0.0, 1.0), (0.0, 255.0))
    """
    if array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, int((array.size / SAMPLE) ** (1 / 3)))
    sample = array[..., ::step, ::step, ::step].astype(np.float32)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    if array.dtype.kind == "f" and sample.min() >= 0 and sample.max() <= 1:
        return 0.0, 1.0
    low, high = np.percentile(sample, (0.1, 99.9))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def grey(array: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Stretch ``low`` to 0 and ``high`` to 255; NaN becomes 0."""
    if array.dtype == np.uint8 and (low, high) == (0, 255):
        return array
    values = (array.astype(np.float32) - low) * (255.0 / (high - low))
    return np.nan_to_num(np.clip(np.rint(values), 0, 255)).astype(np.uint8)


def colour_channels(chunk: Chunk) -> list[int]:
    """Give the channels shown as red, green, blue: the affinities to x, y, z, else the first ones."""
    have = list(chunk.offsets or ())
    if all(offset in have for offset in DEFAULT_OFFSETS):
        return [have.index(offset) for offset in DEFAULT_OFFSETS]
    return list(range(min(chunk.channels, 3)))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit numbers (splitmix64: Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def label_colours(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Give an RGB colour to each label, the same one in every section and every run; 0 is black.

    Args:
        labels: integers of any shape.

    Returns:
        uint8 of that shape plus an axis of three.

    >>> label_colours(np.array([0, 7])).shape
    (2, 3)
    """
    unique, inverse = np.unique(np.asarray(labels), return_inverse=True)
    bits = _mix(unique.astype(np.uint64))
    hue = (bits & np.uint64(0xFFFF)).astype(np.float64) / 65536 * 6
    saturation = 0.55 + 0.45 * ((bits >> np.uint64(16)) & np.uint64(0xFF)).astype(np.float64) / 255
    value = 0.75 + 0.25 * ((bits >> np.uint64(24)) & np.uint64(0xFF)).astype(np.float64) / 255
    # hsv to rgb: each channel is a trapezoid over the hue
    ramp = np.abs((hue[:, None] + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - np.clip(ramp, 0, 1)))
    table = np.rint(rgb * 255).astype(np.uint8)
    table[unique == 0] = 0
    return table[inverse.reshape(np.shape(labels))]


def borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the pixels of a section (y, x) whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge
