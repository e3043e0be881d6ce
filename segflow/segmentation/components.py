"""Connected components of maps and labels, and the threshold before them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk, own
from segflow.errors import ChunkError, UsageError

MAPS = ("affinity_map", "probability_map")
CONNECTIVITIES = (6, 18, 26)


def binarize(chunk: Chunk | NDArray[Any], threshold: float = 0.5) -> Chunk:
    """Tell where a map is above a threshold.

    Args:
        chunk: zyx, or czyx with one channel. uint8 affinity and probability maps stand for
            value / 255; any other chunk is compared as it is.
        threshold: voxels above it (not equal to it) are 1.

    Returns:
        A zyx uint8 segmentation of 0 and 1 at the same place.

    Raises:
        ChunkError: several channels.

    >>> binarize(np.array([[[0.2, 0.5, 0.7]]])).array.tolist()
    [[[0, 0, 1]]]
    """
    place = chunk if isinstance(chunk, Chunk) else Chunk(np.asarray(chunk))
    return place.with_array(_above(place, threshold), layer_type="segmentation", offsets=None)


def connected_components(
    chunk: Chunk | NDArray[Any], threshold: float | None = None, *, connectivity: int = 6
) -> Chunk:
    """Number the connected parts of each label, or of what is above a threshold.

    Args:
        chunk: zyx, or czyx with one channel; labels, a mask, or a map with ``threshold``.
        threshold: see ``binarize``; None takes the values as labels (0 is background).
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).

    Returns:
        A zyx uint32 segmentation at the same place with the ids 0, 1 ... n.

    Raises:
        ChunkError: several channels, or a float map without a threshold.
        UsageError: another connectivity.

    >>> connected_components(np.array([[[7, 7, 0, 7, 9]]])).array.tolist()
    [[[1, 1, 0, 2, 3]]]
    """
    from cc3d import connected_components as label

    if connectivity not in CONNECTIVITIES:
        raise UsageError(f"the connectivity is 6, 18 or 26, not {connectivity}")
    place = chunk if isinstance(chunk, Chunk) else Chunk(np.asarray(chunk))
    labels = own(_one_channel(place)) if threshold is None else _above(place, threshold)
    if labels.dtype.kind == "f":
        raise ChunkError(f"a {labels.dtype} map has no labels to connect: give --threshold")
    parts: Any = label(labels, connectivity=connectivity, out_dtype=np.uint32)  # type: ignore[call-overload]
    return place.with_array(np.ascontiguousarray(parts), layer_type="segmentation", offsets=None)


def _above(chunk: Chunk, threshold: float) -> NDArray[np.uint8]:
    """Compare integers with an integer, so that no rounding decides."""
    array = _one_channel(chunk)
    cut: float = threshold
    if array.dtype.kind in "ui" and math.isfinite(threshold):
        scale = 255 if array.dtype == np.uint8 and chunk.layer_type in MAPS else 1
        cut = math.floor(Fraction(str(threshold)) * scale)
    return (array > cut).view(np.uint8)


def _one_channel(chunk: Chunk) -> NDArray[Any]:
    if chunk.channels != 1:
        raise ChunkError(f"this needs one channel, but the chunk has {chunk.channels}")
    return chunk.array if chunk.array.ndim == 3 else chunk.array[0]
