"""Affinities to segments: waterz's watershed and agglomeration."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk, own
from segflow.errors import ChunkError, UsageError, did_you_mean
from segflow.segmentation.affinities import check_limits, nearest
from segflow.segmentation.quiet import muted

MEAN = "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>"
_QUANTILES = (10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95)

SCORES = {
    "mean": MEAN,
    **{
        f"hist_quant_{q}{'_initmax' if first == 'true' else ''}": (
            f"OneMinus<HistogramQuantileAffinity<RegionGraphType, {q}, ScoreValue, 256, {first}>>"
        )
        for q in _QUANTILES
        for first in ("false", "true")
    },
}


def scoring(name: str) -> str:
    """Give waterz's type for a score: a short name of ``SCORES``, or the type itself.

    Raises:
        UsageError: it is none of those that waterz brings compiled.

    >>> scoring("mean")
    'OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>'
    """
    if name in SCORES:
        return SCORES[name]
    bare = re.sub(r"\s", "", name)
    for known in SCORES.values():
        spelled = re.sub(r"\s", "", known)
        if bare == spelled or (",true>>" in spelled and bare == spelled.replace(",true>>", ">>")):
            return known
    raise UsageError(
        f"no scoring function '{name}'{did_you_mean(name, [*SCORES, *SCORES.values()])}; "
        "give 'mean', 'hist_quant_N' or 'hist_quant_N_initmax' (N = 10, 15 ... 90, 95), or waterz's type"
    )


def agglomerate(
    affinities: Chunk | NDArray[Any],
    threshold: float = 0.7,
    *,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    scoring_function: str = MEAN,
    fragments: Chunk | NDArray[Any] | None = None,
) -> Chunk:
    """Merge the fragments of a watershed while their score is below a threshold.

    By default the score of two neighbours is 1 - the mean affinity between them, so a larger
    threshold merges more. The same input gives the same output. Measured on real affinities:
    beside its input it needs 18 bytes a voxel at its peak (8 of them are the result), and 12 more
    where the affinities are not z, y, x float32 in C order already (``affinities.nearest``).

    Args:
        affinities: czyx; float in [0, 1], or uint8 (value / 255). Channels are picked by the
            chunk's offsets (a plain array: x, y, z).
        threshold: merge while score < threshold.
        aff_threshold_low: voxels whose best affinity is not above it become 0.
        aff_threshold_high: affinities at or above it always join.
        scoring_function: a key of ``SCORES`` or waterz's type.
        fragments: zyx labels to start from (0 is left out) in place of the watershed; not changed.

    Returns:
        A zyx uint64 segmentation at the same place. A segment has the id of one of its fragments.

    Raises:
        ChunkError: affinities or fragments of the wrong shape, dtype or range.
        UsageError: thresholds out of order, or an unknown scoring function.

    Watershed: Zlateski and Seung, arXiv 1505.00249. Agglomeration: Funke et al., TPAMI 2019.

    >>> values = np.full((3, 4, 8, 8), 0.9, np.float32)
    >>> values[0, :, :, 4] = 0.1  # along x, between columns 3 and 4
    >>> len(np.unique(agglomerate(values, threshold=0.5).array))
    2
    """
    chunk = affinities if isinstance(affinities, Chunk) else Chunk(np.asarray(affinities))
    score = scoring(scoring_function)
    if not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(f"the threshold of agglomeration is a number in [0, 1], not {threshold}")
    if fragments is None:
        check_limits(aff_threshold_low, aff_threshold_high)
        labels, ids = None, None
    else:
        labels, ids = _own_fragments(fragments, chunk.shape[-3:])
    merged = run_waterz(nearest(chunk), threshold, labels, aff_threshold_low, aff_threshold_high, score)
    segments = merged if ids is None else ids[merged]
    return chunk.with_array(segments, layer_type="segmentation", offsets=None)


def run_waterz(
    affinities: NDArray[np.float32],
    threshold: float,
    fragments: NDArray[np.uint64] | None,
    low: float,
    high: float,
    score: str,
) -> NDArray[np.uint64]:
    """Call waterz without its chatter; ``fragments`` is overwritten and given back."""
    import waterz

    with muted():
        results = waterz.agglomerate(
            affinities,
            [threshold],
            fragments=fragments,
            aff_threshold_low=low,
            aff_threshold_high=high,
            scoring_function=score,
        )
        segments = np.asarray(next(results))
        del results
    return segments


def check_fragments(shape: Sequence[int], dtype: Any, wanted: Sequence[int]) -> None:
    """Raise ChunkError unless an array of this shape and dtype can hold fragments."""
    if tuple(shape) != tuple(wanted):
        raise ChunkError(f"the fragments have the shape {tuple(shape)}, but the affinities {tuple(wanted)}")
    if np.dtype(dtype).kind not in "ui":
        raise ChunkError(f"fragments are integer labels, not {np.dtype(dtype)}")


def _own_fragments(
    fragments: Chunk | NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64] | None]:
    """Give a writable copy, and the ids it stands for where they were too large for waterz.

    waterz's memory grows with the largest id, so ids above the number of voxels are ranked.
    """
    array = fragments.array if isinstance(fragments, Chunk) else np.asarray(fragments)
    check_fragments(array.shape, array.dtype, shape)
    if array.dtype.kind == "i" and array.min() < 0:
        raise ChunkError("the fragments hold negative labels")
    if array.max() <= array.size:
        return own(array, np.uint64), None
    ids, ranks = np.unique(array, return_inverse=True)
    ids = ids.astype(np.uint64)
    if ids[0] != 0:
        ids = np.concatenate([np.zeros(1, np.uint64), ids])
        ranks += 1
    return ranks.reshape(shape).astype(np.uint64), ids
