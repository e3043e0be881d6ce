"""Affinities to segments: the exact engine, and waterz's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk, own
from segflow.errors import ChunkError, UsageError, did_you_mean
from segflow.segmentation.affinities import as_fraction, byte_limits, check_limits, nearest, nearest_bytes
from segflow.segmentation.quiet import muted

if TYPE_CHECKING:
    from segflow.blocks.exact import InMemory

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
    threshold: float | Fraction = 0.7,
    *,
    aff_threshold_low: float = 0.0001,
    aff_threshold_high: float = 0.9999,
    scoring_function: str = MEAN,
    fragments: Chunk | NDArray[Any] | None = None,
    engine: str | None = None,
) -> Chunk:
    """Merge the fragments of a watershed while their score is below a threshold.

    By default the score of two neighbours is 1 - the mean affinity between them, so a larger
    threshold merges more. The same input gives the same output.

    The exact engine works on affinities rounded once to round(255 a), and compares in integers; its
    answer is that of ``segment-volume``, whatever the blocks, and fragments have the ids of their
    places in the volume (``chunk.source``). waterz knows more scores. Beside its input the exact engine
    needs 24 bytes a voxel at its peak (8 of them are the result). waterz needs 18, or 55 where noisy
    affinities give a fragment for 20 voxels, and 12 more where the affinities are not z, y, x float32 in
    C order already (``affinities.nearest``).

    Args:
        affinities: czyx; float in [0, 1], or uint8 (value / 255). Channels are picked by the
            chunk's offsets (a plain array: x, y, z).
        threshold: merge while score < threshold.
        aff_threshold_low: voxels whose best affinity is not above it become 0.
        aff_threshold_high: affinities at or above it always join.
        scoring_function: a key of ``SCORES`` or waterz's type.
        fragments: zyx labels to start from (0 is left out) in place of the watershed; not changed.
        engine: exact or waterz; default: exact for the mean, else waterz.

    Returns:
        A zyx uint64 segmentation at the same place. A segment has the id of one of its fragments: the
        smallest, with the exact engine.

    Raises:
        ChunkError: affinities or fragments of the wrong shape, dtype or range.
        UsageError: thresholds out of order, an unknown scoring function, or one the engine lacks.

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
    if choose_engine(engine, score) == "exact":
        labels = None if fragments is None else exact_fragments(fragments, chunk.shape[-3:])
        merged = run_exact(chunk, aff_threshold_low, aff_threshold_high, as_fraction(threshold), labels)
        return chunk.with_array(merged, layer_type="segmentation", offsets=None)
    own_labels, ids = (None, None) if fragments is None else _own_fragments(fragments, chunk.shape[-3:])
    merged = run_waterz(
        nearest(chunk), float(threshold), own_labels, aff_threshold_low, aff_threshold_high, score
    )
    segments = merged if ids is None else ids[merged]
    return chunk.with_array(segments, layer_type="segmentation", offsets=None)


def choose_engine(engine: str | None, scoring_function: str) -> str:
    """Give the engine that is wanted, else exact for the mean and waterz for other scores.

    Raises:
        UsageError: the exact engine is wanted for another score.
    """
    mean = scoring(scoring_function) == MEAN
    if engine == "exact" and not mean:
        raise UsageError(
            "the exact engine merges by the mean affinity; give --engine waterz for other scoring functions"
        )
    return engine or ("exact" if mean else "waterz")


def run_exact(
    chunk: Chunk,
    low: float,
    high: float,
    threshold: Fraction | None,
    fragments: NDArray[np.int64] | None = None,
) -> NDArray[np.uint64]:
    """Call the exact engine on a chunk, at its place in the volume that it came from."""
    run = exact_run(chunk, low, high, threshold, fragments)
    if threshold is not None:
        run.cut(threshold)
    return run.segmented(threshold)


def exact_run(
    chunk: Chunk,
    low: float,
    high: float,
    threshold: Fraction | None,
    fragments: NDArray[np.int64] | None = None,
) -> InMemory:
    """Merge with the exact engine up to a threshold; the answer can be cut at all below it."""
    from segflow.blocks.exact import InMemory

    low_byte, high_byte = byte_limits(low, high)
    space = chunk.source.get("bounds")
    if space is None or not space.contains(chunk.bbox):
        space = chunk.bbox
    place = chunk.bbox.shift([-v for v in space.start])
    return InMemory(
        nearest_bytes(chunk), low_byte, high_byte, threshold,
        place=place, space=space.shape, supervoxels=fragments,
    )  # fmt: skip


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


def exact_fragments(fragments: Chunk | NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Give fragments made elsewhere as the exact engine wants them.

    Raises:
        ChunkError: wrong shape or dtype, negative labels, or ids of 2^61 and more.
    """
    array = fragments.array if isinstance(fragments, Chunk) else np.asarray(fragments)
    check_fragments(array.shape, array.dtype, shape)
    if array.dtype.kind == "i" and array.min() < 0:
        raise ChunkError("the fragments hold negative labels")
    if array.max() >= 1 << 61:
        raise ChunkError(f"the fragments hold the label {array.max()}; the largest possible is 2^61 - 1")
    return array.astype(np.int64)


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
