"""Distances of voxels to the border of their own object, as a target of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import UsageError


def border_distance(
    labels: NDArray[Any], voxel_size: Sequence[float], mode: str = "3d"
) -> NDArray[np.float32]:
    """Give the distance from each voxel's centre to the nearest centre with another id.

    Args:
        labels: unsigned, zyx; where they are 0 the distance is 0.
        voxel_size: zyx, the unit of the answer.
        mode: ``3d``, or ``2d``: in each section.

    Returns:
        float32, zyx; infinite where there is no other id. The faces of the array are no border.

    >>> border_distance(np.array([[[1, 1, 2, 2, 2, 0]]], np.uint32), (1, 1, 2)).tolist()
    [[[4.0, 2.0, 2.0, 4.0, 2.0, 0.0]]]
    """
    from edt import edt

    labels = np.ascontiguousarray(labels)
    if mode == "3d" and len(labels) > 1:
        found: NDArray[np.float32] = edt(labels, anisotropy=tuple(voxel_size), parallel=1)
        return found
    spacing = tuple(voxel_size)[1:]
    return np.stack([edt(section, anisotropy=spacing, parallel=1) for section in labels])


def scaled(
    distance: NDArray[np.float32], labels: NDArray[Any], scale: float | None, mode: str
) -> NDArray[np.float32]:
    """Bring distances into [0, 1]: tanh(distance / scale), or distance / the object's largest.

    Args:
        distance: zyx, as ``border_distance`` gives it.
        labels: unsigned, zyx.
        scale: in the unit of the distance; None divides by the largest distance of the object, in
            its section (``2d``) or in the array (``3d``).
        mode: ``2d`` or ``3d``.

    Raises:
        UsageError: a scale that is not above 0.
    """
    if scale is not None:
        if not scale > 0:
            raise UsageError(f"the scale of the head distance is above 0 nm, not {scale}")
        return np.tanh(distance / np.float32(scale))
    from segflow.training.label_kernels import number

    dense = np.empty(labels.shape, np.int32)
    if mode == "3d":
        return _relative(distance, dense, number(labels, dense))
    return np.stack(
        [_relative(d, part, number(ids, part)) for d, ids, part in zip(distance, labels, dense, strict=True)]
    )


def _relative(distance: NDArray[np.float32], dense: NDArray[np.int32], count: int) -> NDArray[np.float32]:
    """Divide by the largest distance of each label; without a border all of an object is 1."""
    from segflow.training.label_kernels import largest_of

    largest = largest_of(distance, dense, count)
    largest[0] = 1
    endless = np.isinf(largest)
    largest[endless] = 1
    return np.where(endless[dense], np.float32(1), distance / largest[dense])
