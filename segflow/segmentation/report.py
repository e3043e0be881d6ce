"""Where a segmentation errs: the pieces of each object, what each segment merges, and a voxel of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.compiled import njit
from segflow.segmentation.contingency import contingency
from segflow.segmentation.evaluate import two_labels


def report(
    segmentation: Chunk, groundtruth: Chunk | NDArray[Any], *, size_threshold: int = 1000
) -> dict[str, Any]:
    """List splits and merges with their places.

    Args:
        segmentation: zyx labels; its place in the volume is added to voxels.
        groundtruth: zyx labels of the same shape; 0 does not count.
        size_threshold: overlaps up to this size do not count, voxels.

    Returns:
        ``splits``: ground-truth objects in several segments, each ``object``, ``size``, ``outside`` (its
        voxels in segment 0) and ``pieces`` (``segment``, ``size``, ``zyx``); ``merges``: segments with
        several objects, each ``segment``, ``size``, ``objects`` (``object``, ``size``, ``zyx``). Pieces and
        objects come by size, the largest first; splits and merges by what lies beside the largest.
        ``zyx`` is the voxel of the overlap that is nearest to its centre.

    Raises:
        ChunkError: the shapes differ, or values are not integers.
    """
    seg, truth = two_labels(segmentation, groundtruth)
    t, s, count = contingency(truth, seg)
    sizes = _sizes(t, count), _sizes(s, count)
    lost = dict(zip(t[s == 0].tolist(), count[s == 0].tolist()))
    kept = (t != 0) & (s != 0) & (count > size_threshold)
    t, s, count = t[kept], s[kept], count[kept]
    several = _several(t) | _several(s)
    t, s, count = t[several], s[several], count[several]
    voxels = _middles(truth, seg, t, s, segmentation.voxel_size) + np.asarray(segmentation.voxel_offset)
    splits = _grouped(t, s, count, voxels, ("object", "pieces", "segment"), sizes[0])
    for row in splits:
        row["outside"] = lost.get(row["object"], 0)
    merges = _grouped(s, t, count, voxels, ("segment", "objects", "object"), sizes[1])
    return {"size_threshold": size_threshold, "splits": splits, "merges": merges}


def _sizes(ids: NDArray[Any], count: NDArray[Any]) -> dict[int, int]:
    names, place = np.unique(ids, return_inverse=True)
    return dict(zip(names.tolist(), np.bincount(place, count).astype(np.int64).tolist()))


def _several(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the rows whose id stands in other rows too."""
    if not ids.size:
        return np.zeros(0, bool)
    _, place, times = np.unique(ids, return_inverse=True, return_counts=True)
    return times[place] > 1


def _grouped(
    owner: NDArray[Any],
    part: NDArray[Any],
    count: NDArray[Any],
    voxels: NDArray[Any],
    words: tuple[str, str, str],
    sizes: dict[int, int],
) -> list[dict[str, Any]]:
    """Give the owners with several parts, those that lose most first."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for a, b, n, voxel in zip(owner.tolist(), part.tolist(), count.tolist(), voxels.tolist()):
        rows.setdefault(a, []).append({words[2]: b, "size": n, "zyx": voxel})
    found = []
    for name, parts in rows.items():
        if len(parts) > 1:
            parts.sort(key=lambda p: (-p["size"], p[words[2]]))
            found.append({words[0]: name, "size": sizes[name], words[1]: parts})
    return sorted(found, key=lambda row: (-sum(p["size"] for p in row[words[1]][1:]), row[words[0]]))


def _middles(
    truth: NDArray[Any], seg: NDArray[Any], t: NDArray[Any], s: NDArray[Any], voxel_size: Any
) -> NDArray[np.int64]:
    """Give for each pair of labels (sorted) the voxel of both that is nearest to the centre of all."""
    size = np.asarray(voxel_size or (1.0, 1.0, 1.0), np.float64)
    sums, count = np.zeros((len(t), 3)), np.zeros(len(t), np.int64)
    best, places = np.full(len(t), np.inf), np.zeros((len(t), 3), np.int64)
    if not len(t):
        return places
    for step in (0, 1):
        centres = sums / np.maximum(count, 1)[:, None]
        for z, (one, other) in enumerate(zip(truth, seg)):
            pair = (one.astype(np.uint64), other.astype(np.uint64))
            if step == 0:
                _add(z, *pair, t, s, sums, count)
            else:
                _nearest(z, *pair, t, s, centres, size, best, places)
    return places


@njit()
def _find(a: Any, b: Any, t: Any, s: Any) -> int:
    """Give the row of a pair in sorted tables, -1 if it is not there."""
    low, high = 0, t.size
    while low < high:
        middle = (low + high) // 2
        if t[middle] < a or (t[middle] == a and s[middle] < b):
            low = middle + 1
        else:
            high = middle
    return low if low < t.size and t[low] == a and s[low] == b else -1


@njit()
def _add(z: int, one: Any, other: Any, t: Any, s: Any, sums: Any, count: Any) -> None:
    """Add the places of a section's voxels to the sums of their pairs."""
    for y in range(one.shape[0]):
        row = -1
        for x in range(one.shape[1]):
            if x == 0 or one[y, x] != one[y, x - 1] or other[y, x] != other[y, x - 1]:
                row = _find(one[y, x], other[y, x], t, s)
            if row >= 0:
                sums[row, 0] += z
                sums[row, 1] += y
                sums[row, 2] += x
                count[row] += 1


@njit()
def _nearest(
    z: int, one: Any, other: Any, t: Any, s: Any, centres: Any, size: Any, best: Any, places: Any
) -> None:
    """Keep for each pair the voxel nearest to its centre, the first of equals."""
    for y in range(one.shape[0]):
        row = -1
        for x in range(one.shape[1]):
            if x == 0 or one[y, x] != one[y, x - 1] or other[y, x] != other[y, x - 1]:
                row = _find(one[y, x], other[y, x], t, s)
            if row >= 0:
                away = ((z - centres[row, 0]) * size[0]) ** 2 + ((y - centres[row, 1]) * size[1]) ** 2
                away += ((x - centres[row, 2]) * size[2]) ** 2
                if away < best[row]:
                    best[row] = away
                    places[row, 0], places[row, 1], places[row, 2] = z, y, x
