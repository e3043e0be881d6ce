"""Affinities without a network: how little the grey level changes. For ``segflow plugin``.

The baseline of the README's table: watershed of the image's gradient.
"""

from __future__ import annotations

import numpy as np

from segflow.chunk import DEFAULT_OFFSETS, Chunk


def smooth(array: np.ndarray, sigma: float) -> np.ndarray:
    """Blur each section with a Gaussian of ``sigma`` voxels."""
    reach = int(3 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        width = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(array, width, mode="reflect")
        length = array.shape[axis]
        array = sum(t * np.take(padded, range(i, i + length), axis) for i, t in enumerate(taps))
    return array


def execute(image: Chunk, sigma: float = 4.0) -> Chunk:
    """Give affinities x, y, z: 1 where the gradient in the section is 0, 0 where it is largest."""
    grey = smooth(image.array.astype(np.float32) / 255, sigma)
    gradient = np.hypot(*np.gradient(grey, axis=(1, 2)))
    flat = (1 - np.clip(gradient / np.percentile(gradient, 99.9), 0, 1)).astype(np.float32)
    affinities = np.zeros((3, *flat.shape), np.float32)
    for channel, offset in enumerate(DEFAULT_OFFSETS):
        here = tuple(slice(-o, None) for o in offset)
        there = tuple(slice(None, o or None) for o in offset)
        affinities[(channel, *here)] = np.minimum(flat[here], flat[there])
    return image.with_array(affinities, layer_type="affinity_map", offsets=DEFAULT_OFFSETS)
