"""Labels before targets are made of them: eroded, dilated, split into pieces.

Ids are any integers; 0 is no object. ``as_ids`` makes them unsigned, as the kernels want them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import ChunkError, UsageError

Labels = NDArray[Any]
Mask = NDArray[np.bool_]


def erode(labels: Labels, width: int) -> Labels:
    """Widen the borders between objects, in each section.

    A voxel becomes 0 when the window of (2 width + 1)^2 voxels around it, in its section, holds two
    objects. A border of an object against 0 stays where it is, and nothing is done along z.

    Args:
        labels: zyx, any integers; 0 is no object.
        width: voxels; 0 gives the labels themselves.

    Returns:
        A new array of the same shape and dtype.

    Raises:
        ChunkError: not zyx, or no integers. UsageError: a negative width.

    >>> erode(np.array([[[1, 1, 1, 0, 2, 2, 2, 3, 3, 3]]]), 1).tolist()
    [[[1, 1, 1, 0, 2, 2, 0, 0, 3, 3]]]
    """
    ids = as_ids(labels)
    return np.where(holds_one(ids, checked_width(width, "erosion")), labels, labels.dtype.type(0))


def dilate(labels: Labels, width: int) -> Labels:
    """Let objects grow into what is 0, in each section; where two meet, the larger id wins.

    Unlike a grey dilation this never takes voxels from an object with a smaller id.

    Args:
        labels: zyx, any integers; 0 is no object.
        width: voxels; the window is (2 width + 1)^2.

    Returns:
        A new array of the same shape and dtype.

    Raises:
        ChunkError: not zyx, or no integers. UsageError: a negative width.

    >>> dilate(np.array([[[5, 0, 0, 0, 7, 3]]]), 1).tolist()
    [[[5, 5, 0, 7, 7, 3]]]
    """
    ids = as_ids(labels)
    grown = largest_around(ids, checked_width(width, "dilation"))
    return np.where(ids == 0, grown, ids).astype(labels.dtype)


def relabel(labels: Labels, connectivity: int = 26) -> NDArray[np.uint32]:
    """Number the connected pieces of each object (26 neighbours, or 6): 1, 2 ... n; 0 stays.

    An object that leaves a crop and comes back in, or that a misaligned section has torn, is then
    several: no long affinity asks the network to know what the crop does not show.

    Raises:
        ChunkError: not zyx, or no integers.

    >>> relabel(np.array([[[4, 4, 0, 4]]])).tolist()
    [[[1, 1, 0, 2]]]
    """
    from cc3d import connected_components

    ids: Any = as_ids(labels)
    pieces: Any = connected_components(ids, connectivity=connectivity, out_dtype=np.uint32)  # type: ignore[call-overload]
    return np.ascontiguousarray(pieces)


def pieces_of(ids: Labels, valid: Mask | None, connectivity: int = 26) -> Labels:
    """Split objects into connected pieces, but not those that touch what is unknown: it may join them."""
    from segflow.training.label_kernels import number

    pieces = relabel(ids, connectivity)
    if valid is None:
        return pieces
    beside = largest_around(~valid, 1)
    near = beside.copy()
    near[1:] |= beside[:-1]
    near[:-1] |= beside[1:]
    dense = np.empty(ids.shape, np.int32)
    touched = np.zeros(number(ids, dense) + 1, np.bool_)
    touched[dense[near]] = True
    touched[0] = False
    return np.where(touched[dense], dense.astype(np.uint32) + pieces.max(), pieces)


def as_ids(labels: Labels) -> Labels:
    """Give labels as unsigned ids, of 32 bits if they fit."""
    if labels.ndim != 3:
        raise ChunkError(f"labels are zyx, but these have the shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ChunkError(f"labels are integers, not {labels.dtype}")
    if labels.dtype.itemsize < 8 and labels.dtype.kind == "u":
        return np.ascontiguousarray(labels, np.uint32)
    if not labels.size or (labels.min() >= 0 and labels.max() < 1 << 32):
        return np.ascontiguousarray(labels, np.uint32)
    return np.ascontiguousarray(labels, np.int64 if labels.dtype.kind == "i" else np.uint64).view(np.uint64)


def checked_width(width: Any, what: str) -> int:
    """Give a width as an integer, or raise UsageError."""
    if width != int(width) or width < 0:
        raise UsageError(f"the {what} is a whole number of voxels from 0 on, not {width}")
    return int(width)


def largest_around(array: NDArray[Any], width: int) -> NDArray[Any]:
    """Give the largest value of the window of (2 width + 1)^2 voxels in the section."""
    from segflow.training.label_kernels import spread

    numbers = array.view(np.uint8) if array.dtype == np.bool_ else array
    result = np.empty_like(numbers)
    spread(numbers, width, result)
    return result.view(array.dtype)


def holds_one(ids: Labels, width: int) -> Mask:
    """Tell where the window does not hold two objects.

    The largest of the negated ids is the smallest id, negated: they are unsigned, and 0 is no object.
    """
    sums: Mask = largest_around(ids, width) + largest_around(np.negative(ids), width) == 0
    return sums
