"""Compare a segmentation with ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError

Numbers = NDArray[Any]


def evaluate(
    segmentation: Chunk | NDArray[Any],
    groundtruth: Chunk | NDArray[Any],
    *,
    keep_zero: bool = False,
    zero_as_singletons: bool = False,
    size_threshold: int = 1000,
) -> dict[str, float]:
    """Score a segmentation against ground truth.

    With p the voxels that ground truth t and segment s share, N their sum:

    - ``rand_split`` = sum p^2 / sum t^2, ``rand_merge`` = sum p^2 / sum s^2: 1 is perfect.
    - ``voi_split`` = H(s|t), ``voi_merge`` = H(t|s), bits: 0 is perfect.
    - ``adapted_rand_precision`` = rand_merge, ``adapted_rand_recall`` = rand_split,
      ``adapted_rand_error`` = 1 - their harmonic mean. This is SNEMI3D's metric with
      ``zero_as_singletons``; without, zeros of the segmentation are one object (scikit-image
      does so too, and counts pairs of distinct voxels, a difference of the order of 1/N).
    - ``adjusted_rand_score``, ``fowlkes_mallows``: over pairs of distinct voxels, 1 is perfect.
    - ``edit_splits``, ``edit_merges``, ``edit_distance``: splits and merges that would repair the
      segmentation, where only overlaps of more than ``size_threshold`` voxels count, and label 0
      of neither.

    Args:
        segmentation: zyx integer labels.
        groundtruth: zyx integer labels of the same shape.
        keep_zero: also count voxels where the ground truth is 0, as one object.
        zero_as_singletons: every voxel where the segmentation is 0 is a segment of its own;
            by default they are one ordinary segment.
        size_threshold: voxels, for the edit distance.

    Returns:
        The scores, by the names above.

    Raises:
        ChunkError: the shapes differ, values are not integers, or nothing is left to compare.

    Rand and VOI: Nunez-Iglesias et al., PLoS ONE 2013; adapted Rand error: Arganda-Carreras et
    al., Frontiers in Neuroanatomy 2015.

    >>> truth = np.array([[[1, 1, 2, 2]]])
    >>> scores = evaluate(np.array([[[5, 5, 5, 5]]]), truth)
    >>> scores["rand_split"], scores["rand_merge"], scores["voi_split"], scores["voi_merge"]
    (1.0, 0.5, 0.0, 1.0)
    """
    from segflow.segmentation.contingency import contingency

    seg, truth = two_labels(segmentation, groundtruth)
    return scores_of(
        *contingency(truth, seg),
        keep_zero=keep_zero,
        zero_as_singletons=zero_as_singletons,
        size_threshold=size_threshold,
    )


def scores_of(
    t: Numbers,
    s: Numbers,
    count: Numbers,
    *,
    keep_zero: bool = False,
    zero_as_singletons: bool = False,
    size_threshold: int = 1000,
) -> dict[str, float]:
    """Score a table of overlaps: labels of the ground truth, of the segmentation, and voxels of both.

    Each pair stands once. Options, scores and errors are those of ``evaluate``.

    >>> scores_of(np.array([1, 2]), np.array([5, 5]), np.array([2, 2]))["voi_merge"]
    1.0
    """
    if not keep_zero:
        t, s, count = t[t != 0], s[t != 0], count[t != 0]
    if not count.size:
        raise ChunkError(
            "there is nothing to compare: every voxel of the ground truth is 0 (--keep-zero counts it)"
        )
    table = _Table.of(t, s, count, zero_as_singletons)
    labelled = (t != 0) & (s != 0) & (count > size_threshold)
    return {**table.overlaps(), **table.pairs(), **_edits(t[labelled], s[labelled])}


def two_labels(
    segmentation: Chunk | NDArray[Any], groundtruth: Chunk | NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give the zyx labels of a segmentation and of ground truth.

    Raises:
        ChunkError: the shapes differ, or values are not integers.
    """
    seg, truth = labels_of(segmentation, "segmentation"), labels_of(groundtruth, "ground truth")
    if seg.shape != truth.shape:
        raise ChunkError(
            f"the segmentation has the shape {seg.shape}, but the ground truth {truth.shape}; "
            "cut both to the same box"
        )
    return seg, truth


def labels_of(chunk: Chunk | NDArray[Any], what: str) -> NDArray[Any]:
    """Give zyx labels; ``what`` names them in the ChunkError where they are none."""
    array = chunk.array if isinstance(chunk, Chunk) else np.asarray(chunk)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ChunkError(f"the {what} is zyx labels, not of shape {array.shape}")
    if array.dtype.kind not in "uib":
        raise ChunkError(f"the {what} is {array.dtype}; labels are integers")
    return array


@dataclass(frozen=True)
class _Table:
    """A contingency table: cells with the sizes of their row and column, and both margins.

    ``times`` and ``s_times`` tell how often a cell or a segment occurs: 1, except for singletons.
    """

    p: Numbers
    p_t: Numbers
    p_s: Numbers
    times: Numbers
    t: Numbers
    s: Numbers
    s_times: Numbers

    @classmethod
    def of(cls, t: Numbers, s: Numbers, count: Numbers, singletons: bool) -> _Table:
        """Make it from label pairs and their counts."""
        size = count.astype(np.float64)
        _, row = np.unique(t, return_inverse=True)
        t_sizes = np.bincount(row, size)
        single = (s == 0) if singletons else np.zeros(s.shape, bool)
        _, column = np.unique(s[~single], return_inverse=True)
        s_sizes = np.bincount(column, size[~single])
        p_s = np.ones(size.shape)
        p_s[~single] = s_sizes[column]
        return cls(
            p=np.where(single, 1.0, size),
            p_t=t_sizes[row],
            p_s=p_s,
            times=np.where(single, size, 1.0),
            t=t_sizes,
            s=np.append(s_sizes, 1.0),
            s_times=np.append(np.ones(s_sizes.size), size[single].sum()),
        )

    def overlaps(self) -> dict[str, float]:
        """Give Rand split and merge, VOI split and merge, and the adapted Rand error."""
        weight = self.p * self.times
        total = weight.sum()
        both = (weight * self.p).sum()
        recall = both / (self.t**2).sum()
        precision = both / (self.s_times * self.s**2).sum()
        return {
            "rand_split": float(recall),
            "rand_merge": float(precision),
            "voi_split": float((weight * np.log2(self.p_t / self.p)).sum() / total),
            "voi_merge": float((weight * np.log2(self.p_s / self.p)).sum() / total),
            "adapted_rand_error": float(1 - 2 * precision * recall / (precision + recall)),
            "adapted_rand_precision": float(precision),
            "adapted_rand_recall": float(recall),
        }

    def pairs(self) -> dict[str, float]:
        """Give the scores that count pairs of distinct voxels."""
        total = (self.p * self.times).sum()
        both = (self.times * self.p * (self.p - 1)).sum()
        in_t = (self.t * (self.t - 1)).sum()
        in_s = (self.s_times * self.s * (self.s - 1)).sum()
        chance = in_t * in_s / max(total * (total - 1), 1)
        span = (in_t + in_s) / 2 - chance
        equal = both == in_t == in_s
        joined = in_t * in_s
        return {
            "adjusted_rand_score": 1.0 if equal else float((both - chance) / span),
            "fowlkes_mallows": 1.0 if equal else float(both / np.sqrt(joined)) if joined else 0.0,
        }


def _edits(t: Numbers, s: Numbers) -> dict[str, float]:
    """Count the splits and merges that repair the overlaps of ``t`` and ``s``."""
    merges = t.size - np.unique(t).size  # a true object in k segments takes k - 1 merges
    splits = s.size - np.unique(s).size
    return {"edit_splits": splits, "edit_merges": merges, "edit_distance": splits + merges}
