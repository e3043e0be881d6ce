"""One section of a chunk as a picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.view.colours import borders, colour_channels, grey, label_colours, value_range


def section_picture(
    chunk: Chunk, z: int = 0, limits: tuple[float, float] | None = None, *, size: int | None = None
) -> NDArray[np.uint8]:
    """Give section ``z`` (counted in the array) as RGB: (y, x, 3).

    Labels have their colours, several channels are red, green and blue (affinities to x, y, z),
    everything else is grey.

    Args:
        chunk: zyx or czyx, any dtype.
        z: index of the section.
        limits: values shown as black and white; default: ``value_range`` of the chunk.
        size: leave out rows and columns so that no side has more pixels than this.

    >>> section_picture(Chunk(np.zeros((1, 4, 5), np.uint8))).shape
    (4, 5, 3)
    """
    step = 1 if size is None else max(1, -(-max(chunk.shape[-2:]) // size))
    section = (chunk.array if chunk.array.ndim == 4 else chunk.array[None])[:, z, ::step, ::step]
    if chunk.is_segmentation:
        return label_colours(section[0])
    low, high = limits or value_range(chunk.array)
    if chunk.channels == 1 or (chunk.layer_type == "image" and chunk.channels != 3):
        return np.repeat(grey(section[0], low, high)[..., None], 3, axis=2)
    picture = np.zeros((*section.shape[1:], 3), np.uint8)
    for place, channel in enumerate(colour_channels(chunk)):
        picture[..., place] = grey(section[channel], low, high)
    return picture


def blend(
    picture: NDArray[np.uint8], labels: NDArray[Any], alpha: float = 0.45, line: float = 0.55
) -> NDArray[np.uint8]:
    """Lay the colours of ``labels`` (y, x) over an RGB picture, with boundary lines; 0 stays clear.

    Args:
        picture: uint8, (y, x, 3).
        labels: integers, (y, x).
        alpha: share of the colour, 0 to 1.
        line: share of the full colour in the lines between segments, 0 to 1.
    """
    colours = label_colours(labels).astype(np.float32)
    share = np.where(borders(labels), alpha + (1 - alpha) * line, alpha) * (labels != 0)
    mixed = picture + (colours - picture) * share[..., None].astype(np.float32)
    return np.rint(mixed).astype(np.uint8)


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a uint8 picture (y, x), (y, x, 3) or (y, x, 4)."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()
