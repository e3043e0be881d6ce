"""One section of a chunk as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.view.colours import colour_channels, grey, is_labels, label_colours, value_range


def section_picture(chunk: Chunk, z: int = 0, size: int = 1024) -> NDArray[np.uint8]:
    """Give section ``z`` (counted in the array) as RGB: (y, x, 3), at most ``size`` pixels a side.

    Labels have their colours, three affinities are red, green and blue, everything else is grey.

    >>> section_picture(Chunk(np.zeros((1, 4, 5), np.uint8))).shape
    (4, 5, 3)
    """
    step = max(1, -(-max(chunk.shape[-2:]) // size))
    section: NDArray[Any] = chunk.array[..., z, ::step, ::step]
    if is_labels(chunk):
        return label_colours(section.reshape(-1, *section.shape[-2:])[0])
    low, high = value_range(chunk.array)
    planes = [section] if section.ndim == 2 else [section[c] for c in colour_channels(chunk)]
    picture = np.zeros((*section.shape[-2:], 3), np.uint8)
    for channel in range(3):
        if len(planes) == 1 or channel < len(planes):
            picture[..., channel] = grey(planes[min(channel, len(planes) - 1)], low, high)
    return picture
