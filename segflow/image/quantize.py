"""Maps in [0, 1] as bytes: q = round(255 a)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk, channel_order
from segflow.errors import ChunkError

MODES = {"xy": ((0, 0, -1), (0, -1, 0)), "z": ((-1, 0, 0),)}
SLACK = 1e-4  # rounding of a network's output beyond [0, 1]


def quantize(chunk: Chunk, mode: str = "xy") -> Chunk:
    """Give an affinity or probability map as uint8, round(255 a).

    An affinity map becomes one grey image: the mean of its x and y affinities, or its z affinities;
    the channels are found by their offsets. A probability map keeps its shape.

    Args:
        chunk: zyx or czyx, floats in [0, 1], or uint8 (q stands for q / 255).
        mode: of an affinity map: ``xy`` or ``z``.

    Raises:
        ChunkError: an unknown mode, another dtype, values outside [0, 1] or NaN, or affinities
            that lack the channel.

    >>> affinities = Chunk(np.full((3, 1, 1, 2), 0.5, np.float32))
    >>> quantize(affinities).array.tolist()
    [[[128, 128]]]
    """
    if mode not in MODES:
        raise ChunkError(f"no mode '{mode}'; there are {', '.join(MODES)}")
    array = chunk.array
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise ChunkError(f"floats in [0, 1] or uint8 are quantised, not {array.dtype}")
    if chunk.layer_type == "affinity_map":
        channels = array[channel_order(chunk, MODES[mode])]
        return chunk.with_array(mean_bytes(channels), layer_type="image", offsets=None)
    return chunk.with_array(mean_bytes(array[np.newaxis]), layer_type=chunk.layer_type)


def mean_bytes(maps: NDArray[Any]) -> NDArray[np.uint8]:
    """Give round(255 a) of the mean a over the first axis; uint8 stands for its 255th.

    Raises:
        ChunkError: floats outside [0, 1] or NaN.
    """
    made = np.empty(maps.shape[1:], np.uint8)
    scale = 1 if maps.dtype == np.uint8 else 255
    for index in np.ndindex(made.shape[:-2]):
        values = maps[(slice(None), *index)]
        low, high = float(values.min()), float(values.max())
        if scale == 255 and not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails too
            raise ChunkError(f"values from {low:g} to {high:g} are not in [0, 1]; normalise them first")
        mean = values.mean(axis=0, dtype=np.float32) if len(values) > 1 else values[0].astype(np.float32)
        made[index] = to_bytes(mean, scale)
    return made


def to_bytes(values: NDArray[Any], scale: int = 255) -> NDArray[np.uint8]:
    """Give round(scale a), cut off at 0 and 255, computed in float32."""
    return np.rint(np.clip(values.astype(np.float32) * np.float32(scale), 0, 255)).astype(np.uint8)
