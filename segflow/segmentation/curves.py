"""Segmentations of one merging at many thresholds: their scores, and a threshold without ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError
from segflow.segmentation.affinities import as_fraction, check_affinities, check_limits
from segflow.segmentation.agglomerate import exact_fragments, exact_run
from segflow.segmentation.contingency import contingency
from segflow.segmentation.evaluate import labels_of
from segflow.segmentation.rules import Rules, score_table, without_borders

Table = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
MOST = 1000  # thresholds in one curve
STABLE = 0.5  # bits: more change than that along a stretch is none


def parse_thresholds(text: str) -> list[Fraction]:
    """Read ``START:STOP:STEP`` (STOP is one of them), or numbers separated by commas.

    Raises:
        UsageError: no numbers, not in [0, 1], a step that is not above 0, or too many.

    >>> [float(t) for t in parse_thresholds("0.1:0.5:0.2")]
    [0.1, 0.3, 0.5]
    """
    how = "write START:STOP:STEP, as 0.1:0.9:0.1, or 0.3,0.5,0.7"
    words = [w.strip() for w in text.replace(",", ":").split(":")]
    try:
        numbers = [as_fraction(w) for w in words]
    except UsageError:
        raise UsageError(f"the thresholds '{text}' are no numbers; {how}") from None
    if ":" in text:
        if len(numbers) != 3 or "," in text or numbers[2] <= 0 or numbers[1] < numbers[0]:
            raise UsageError(f"the thresholds '{text}' are no range that rises; {how}")
        start, stop, step = numbers
        numbers = [start + i * step for i in range(min(int((stop - start) / step) + 1, MOST + 1))]
    if any(not 0 <= n <= 1 for n in numbers):
        raise UsageError(f"the thresholds '{text}' are not all in [0, 1]; {how}")
    if len(numbers) > MOST:
        raise UsageError(f"'{text}' are more than {MOST} thresholds; take a larger step")
    return sorted(set(numbers))


class Merging:
    """Affinities merged once, up to the largest threshold, with the exact engine.

    Args:
        affinities: czyx; float in [0, 1], or uint8 (value / 255).
        largest: merge while 1 - mean affinity is below it.
        low, high: affinity limits of the watershed.
        fragments: zyx labels to start from, in place of the watershed's.

    Raises:
        ChunkError, UsageError: as ``agglomerate``.
    """

    def __init__(
        self,
        affinities: Chunk,
        largest: Fraction,
        *,
        low: float = 0.0001,
        high: float = 0.9999,
        fragments: Chunk | NDArray[Any] | None = None,
    ) -> None:
        check_affinities(affinities.shape, affinities.dtype)
        given = None
        if fragments is None:
            check_limits(low, high)
        else:
            given = exact_fragments(fragments, affinities.shape[-3:])
        self.voxel_size = affinities.voxel_size
        self._run = exact_run(affinities, low, high, largest, given)
        blocks = range(self._run.work.tree.count(0))
        named = np.concatenate([self._run.work.named(b) for b in blocks])
        self.ids, self._first = np.unique(named, return_index=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the segmentations, zyx."""
        return self._run.box.shape

    def fragments(self) -> NDArray[np.uint64]:
        """Give the fragments, zyx; 0 is background."""
        return self._run.segmented(None)

    def names(self, threshold: Fraction) -> NDArray[np.int64]:
        """Give the segment of each of ``ids``, the fragments, at a threshold."""
        work = self._run.work
        self._run.cut(threshold)
        found = [work.lut(threshold, b)[1:] for b in range(work.tree.count(0))]
        self._run.forget(threshold)
        return np.concatenate(found)[self._first]

    def segmented(self, threshold: Fraction) -> NDArray[np.uint64]:
        """Give the segmentation at a threshold, zyx: that of ``agglomerate`` there."""
        self._run.cut(threshold)
        found = self._run.segmented(threshold)
        self._run.forget(threshold)
        return found

    def tables(self, truth: NDArray[Any], thresholds: Sequence[Fraction]) -> Iterator[Table]:
        """Give for each threshold the table of overlaps: labels of truth, of segments, voxels.

        Voxels are counted once; each threshold then takes O(pairs of labels).
        """
        t, f, count = contingency(truth, self.fragments())
        inside = f != 0
        place = np.searchsorted(self.ids, f[inside].astype(np.int64))
        s = np.zeros(f.shape, np.int64)
        for threshold in thresholds:
            s[inside] = self.names(threshold)[place]
            yield _summed(t, s, count)


def _summed(t: NDArray[Any], s: NDArray[Any], count: NDArray[Any]) -> Table:
    """Make one row of the rows with the same pair of labels."""
    order = np.lexsort((s, t))
    t, s, count = t[order], s[order], count[order]
    new = np.ones(len(t), bool)
    new[1:] = (t[1:] != t[:-1]) | (s[1:] != s[:-1])
    first = np.flatnonzero(new)
    return t[first], s[first], np.add.reduceat(count, first)


def score_curve(
    merging: Merging,
    groundtruth: Chunk,
    thresholds: Sequence[Fraction],
    rules: Rules | None = None,
    size_threshold: int = 1000,
    run_lengths: Callable[[NDArray[np.uint64]], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Score the segmentation at each threshold: the scores of ``rules.score_table`` and ``threshold``.

    ``run_lengths`` gives more scores of a segmentation, as of skeletons; then each is made, in O(voxels).

    Raises:
        ChunkError: shapes differ, or nothing is left to compare.
    """
    rules = rules or Rules()
    truth = labels_of(groundtruth, "ground truth")
    if truth.shape != merging.shape:
        raise ChunkError(
            f"the affinities have the shape {merging.shape}, but the ground truth {truth.shape}; "
            "cut both to the same box"
        )
    truth = without_borders(truth, rules.border, groundtruth.voxel_size or merging.voxel_size)
    rows = []
    for threshold, table in zip(thresholds, merging.tables(truth, thresholds)):
        row = {"threshold": float(threshold), **score_table(table, rules, size_threshold)}
        rows.append(row if run_lengths is None else {**row, **run_lengths(merging.segmented(threshold))})
    return rows


def best(rows: Sequence[dict[str, float]], score: str = "adapted_rand_error") -> dict[str, float]:
    """Give the row with the smallest score; of equals, the one in the middle.

    >>> best([{"threshold": t, "voi": v} for t, v in ((1, 2), (2, 1), (3, 1), (4, 1))], "voi")
    {'threshold': 3, 'voi': 1}
    """
    least = min(row[score] for row in rows)
    equal = [row for row in rows if row[score] <= least + 1e-12]
    return equal[len(equal) // 2]


# -- without ground truth -------------------------------------------------------------------------


def size_curve(merging: Merging, thresholds: Sequence[Fraction], size: int = 1000) -> list[dict[str, float]]:
    """Describe the segmentation at each threshold by its sizes.

    Returns:
        Rows of ``threshold``, ``segments``, ``large`` (segments of more than ``size`` voxels), ``largest``
        (share of the largest segment in all voxels that are not 0), ``entropy`` (of sizes, bits), and
        ``voi``: variation of information to the row before, bits; 0 in the first. A larger threshold only
        joins segments, so it is the difference of entropies.

    Raises:
        ChunkError: the affinities give no fragments.
    """
    ids, voxels = np.unique(merging.fragments(), return_counts=True)
    weights = voxels[ids != 0].astype(np.float64)
    if not weights.size:
        raise ChunkError("the affinities give no fragments: none is above --aff-threshold-low")
    total = weights.sum()
    rows: list[dict[str, float]] = []
    for threshold in thresholds:
        _, place = np.unique(merging.names(threshold), return_inverse=True)
        sizes = np.bincount(place, weights)
        entropy = float(-(sizes / total * np.log2(sizes / total)).sum())
        rows.append({
            "threshold": float(threshold), "segments": len(sizes), "large": int((sizes > size).sum()),
            "largest": float(sizes.max() / total), "entropy": entropy,
            "voi": max(rows[-1]["entropy"] - entropy, 0.0) if rows else 0.0,
        })  # fmt: skip
    return rows


def suggest(rows: Sequence[dict[str, float]], width: float = 0.1) -> dict[str, Any]:
    """Propose a threshold by the sizes of segments alone.

    The largest segment's share jumps where neurons flow together: at the first step that adds at least
    half of what the largest step adds, and 0.05. Between half of the threshold before that jump and the
    jump, the stretch of ``width`` with the least change (VOI between neighbours) is the most stable one;
    its middle is proposed. Lower thresholds are left out: there little changes because little is merged.

    Args:
        rows: of ``size_curve``, at least two.
        width: of the stretch, on the scale of thresholds.

    Returns:
        ``threshold`` (one of the rows'), ``stretch`` (its first and last), ``change`` (VOI along the
        stretch, bits), ``jump`` (the threshold of the jump, None without one), ``stable`` (whether
        the change is at most half a bit; if not, the affinities are too poor for a proposal to mean much).

    Raises:
        UsageError: fewer than two thresholds.
    """
    if len(rows) < 2:
        raise UsageError("a curve needs at least two thresholds; give a range, as 0.1:0.9:0.02")
    at = [row["threshold"] for row in rows]
    adds = [b["largest"] - a["largest"] for a, b in pairwise(rows)]
    jumps = [i for i, added in enumerate(adds) if added >= max(0.05, max(adds) / 2)]
    last = jumps[0] if jumps else len(rows) - 1
    first = next(i for i, t in enumerate(at) if t >= at[last] / 2 - 1e-9)
    moved = np.cumsum([row["voi"] for row in rows])
    stretches = [
        (i, j)
        for i in range(first, last)
        for j in [next((j for j in range(i + 1, last + 1) if at[j] - at[i] >= width - 1e-9), None)]
        if j is not None
    ] or [(first, last)]
    rate = [(moved[j] - moved[i]) / max(at[j] - at[i], 1e-9) for i, j in stretches]
    calm = [s for s, r in zip(stretches, rate) if r <= min(rate) + 1e-12]
    i, j = calm[len(calm) // 2]
    return {
        "threshold": at[(i + j + 1) // 2], "stretch": [at[i], at[j]], "change": float(moved[j] - moved[i]),
        "jump": at[jumps[0] + 1] if jumps else None, "stable": bool(moved[j] - moved[i] <= STABLE),
    }  # fmt: skip
