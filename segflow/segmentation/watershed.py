"""Affinities to fragments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.segmentation.affinities import check_limits, nearest
from segflow.segmentation.agglomerate import MEAN, run_exact, run_waterz


def watershed(
    affinities: Chunk | NDArray[Any],
    *,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    method: str = "exact",
) -> Chunk:
    """Give the fragments (supervoxels) from which agglomeration starts.

    Every voxel goes up to its neighbour of highest affinity; what meets is one fragment. Methods
    differ in who gets a plateau with several ways up: whole plateaus go one way in the exact one, by a
    rule that no block changes (``segflow.segmentation.fragments``); waterz divides them.

    Args:
        affinities: czyx; float in [0, 1], or uint8 (value / 255). Channels are picked by the
            chunk's offsets (a plain array: x, y, z).
        aff_threshold_low: voxels whose best affinity is not above it become 0.
        aff_threshold_high: affinities at or above it always join.
        method: exact or waterz.

    Returns:
        A zyx uint64 segmentation at the same place, 0 is background. waterz's ids are 1, 2 ... n; the
        exact ones are 1 + the index, in the volume, of the first voxel of the fragment's core.

    Raises:
        ChunkError: affinities of the wrong shape, dtype or range.
        UsageError: the low threshold is not smaller than the high one.

    Paper: Zlateski and Seung, arXiv 1505.00249.

    >>> values = np.full((3, 4, 8, 8), 0.9, np.float32)
    >>> values[0, :, :, 4] = 0.1  # along x, between columns 3 and 4
    >>> watershed(values).array[0, 0].tolist()
    [1, 1, 1, 1, 5, 5, 5, 5]
    """
    chunk = affinities if isinstance(affinities, Chunk) else Chunk(np.asarray(affinities))
    check_limits(aff_threshold_low, aff_threshold_high)
    if method == "exact":
        labels = run_exact(chunk, aff_threshold_low, aff_threshold_high, None)
        return chunk.with_array(labels, layer_type="segmentation", offsets=None)
    # no score is below -1, so nothing is merged
    labels = run_waterz(nearest(chunk), -1.0, None, aff_threshold_low, aff_threshold_high, MEAN)
    return chunk.with_array(labels, layer_type="segmentation", offsets=None)
