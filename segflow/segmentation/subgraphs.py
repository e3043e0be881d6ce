"""The region graph of a volume, merged part by part: blocks, then boxes of blocks, up to the volume.

A part is merged as far as nothing outside can change the answer (``segflow.segmentation.merging``), and
hands on what is left: segments that may still change, and the edges between them. The whole volume has
no outside, so with its last part all is merged, exactly as if it had been merged at once.

Tables are dicts of arrays, so that they can be stored: ``ids`` (int64, sorted, the nodes of the part:
fragments or segments, each named by its smallest fragment), ``to`` (the place in ``ids`` of the segment
of each), ``merges`` (rows: places of two nodes, sum, count), ``live`` (places of the segments that may
still change), ``sides`` (their open sides, as bits, or ELSEWHERE), ``edges`` (rows: ids of two live
segments, sum, count, ids of the pair of fragments that is the edge's key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.geometry import HIGH_SIDES, LOW_SIDES
from segflow.segmentation.merging import Merged, above_all, merge, merge_quantiles
from segflow.segmentation.regions import contacts, histograms
from segflow.segmentation.unions import distinct, united

Table = Mapping[str, NDArray[Any]]

ELSEWHERE = 64  # a bit beside those of the sides: another piece of it lies outside


def of_block(
    labels: NDArray[np.uint32],
    names: NDArray[np.int64],
    planes: Sequence[NDArray[np.int64] | None],
    affs: NDArray[np.uint8],
    goes_on: Sequence[bool],
    threshold: Fraction,
    outside: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Build and merge the region graph of one block.

    Args:
        labels: zyx of the block, 1 ... n, 0 background.
        names: n ids of fragments, one for each label; several labels may be one fragment.
        planes: for z, y, x the ids (0: background) in the plane before the block, as 2-D arrays;
            None where the volume begins.
        affs: uint8 (3, z, y, x) of the block.
        goes_on: whether the volume goes on behind the block, for z, y, x.
        threshold: merge while 1 - mean affinity is below it.
        outside: ids that lie in other blocks too; needed where fragments are in several pieces.
    """
    ids, whole, start = _ranked(labels, names, planes)
    sides = np.zeros(len(ids) + 1, np.uint8)
    for axis, plane in enumerate(planes):
        inner = tuple(slice(s, None) for i, s in enumerate(start) if i != axis)
        if plane is not None:
            sides[distinct(np.take(whole, 0, axis)[inner])] |= LOW_SIDES[axis]
        if goes_on[axis]:
            sides[distinct(np.take(whole, -1, axis)[inner])] |= HIGH_SIDES[axis]
    sides[1:] |= _elsewhere(ids, outside)
    u, v, sums, counts = contacts(whole, affs, start)
    found = merge(len(ids), u - 1, v - 1, sums, counts, threshold, sides[1:] != 0)
    return _table(ids, sides[1:], found, np.column_stack([ids[u - 1], ids[v - 1]]))


def histograms_of_block(
    labels: NDArray[np.uint32],
    names: NDArray[np.int64],
    planes: Sequence[NDArray[np.int64] | None],
    affs: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """Give the histograms of the edges that a block owns: rows of two ids, affinity, voxel pairs.

    Arguments are those of ``of_block``.
    """
    ids, whole, start = _ranked(labels, names, planes)
    u, v, values, votes = histograms(whole, affs, start)
    return np.column_stack([ids[u - 1], ids[v - 1], values, votes])


def of_histograms(rows: NDArray[np.int64], percent: int, threshold: Fraction) -> dict[str, NDArray[Any]]:
    """Merge the histograms of all blocks, as ``merging.merge_quantiles`` does."""
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:, :3] != rows[:-1, :3]).any(1)
    first = np.flatnonzero(new)
    votes = np.add.reduceat(rows[:, 3], first) if len(first) else rows[:, 3]
    rows = rows[first]
    ids = distinct(rows[:, :2])
    u, v = (np.searchsorted(ids, rows[:, i]).astype(np.int32) for i in (0, 1))
    found = merge_quantiles(len(ids), u, v, rows[:, 2].copy(), votes, percent, threshold)
    return _table(ids, np.zeros(len(ids), np.uint8), found, np.zeros((0, 2), np.int64))


def _ranked(
    labels: NDArray[np.uint32], names: NDArray[np.int64], planes: Sequence[NDArray[np.int64] | None]
) -> tuple[NDArray[np.int64], NDArray[np.int32], list[int]]:
    """Give the fragments of a block and of the planes before it, sorted, and for each voxel of both the
    place of its fragment, from 1; and where the block begins."""
    before = [np.zeros(0, np.int64) if p is None else distinct(p) for p in planes]
    ids = distinct(np.concatenate([names, *before]))
    ids = ids[ids != 0]
    rank = np.zeros(len(names) + 1, np.int32)
    rank[1:] = np.searchsorted(ids, names) + 1
    ranks = (None if p is None else np.where(p == 0, 0, np.searchsorted(ids, p) + 1) for p in planes)
    return ids, *with_planes(rank[labels], list(ranks))


def with_planes(block: NDArray[Any], planes: Sequence[NDArray[Any] | None]) -> tuple[NDArray[Any], list[int]]:
    """Put before a block, on z, y and x, the planes of the blocks before it; tell where the block begins.

    The edges at which such planes meet are 0: no pair of voxels of the block touches them.
    """
    start = [int(p is not None) for p in planes]
    whole = np.zeros([n + s for n, s in zip(block.shape, start)], block.dtype)
    inner = [slice(s, None) for s in start]
    whole[tuple(inner)] = block
    for axis, plane in enumerate(planes):
        if plane is not None:
            at: list[Any] = list(inner)
            at[axis] = 0
            whole[tuple(at)] = plane
    return whole, start


def of_parts(
    parts: list[Table],
    settled: Sequence[int],
    threshold: Fraction,
    outside: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[Any]]:
    """Join the graphs of parts, and merge further.

    Args:
        parts: their tables; the list is emptied, since they are the most of the memory.
        settled: for each the bits of the sides at which it meets another of them.
        threshold: that of the parts.
        outside: ids that lie outside all of them too, as in ``of_block``.
    """
    lives = [part["ids"][part["live"]] for part in parts]
    ids = distinct(np.concatenate(lives))
    sides = _elsewhere(ids, outside)
    for part, live, met in zip(parts, lives, settled):
        still = part["sides"] & np.uint8(0xFF & ~(met | ELSEWHERE))
        np.bitwise_or.at(sides, np.searchsorted(ids, live), still)
    codes = []
    for part, live in zip(parts, lives):
        places = np.searchsorted(ids, live).astype(np.uint64)
        ends = part["ends"]
        codes.append(places[ends[:, 0]] << np.uint64(32) | places[ends[:, 1]])
    states, named = [part["states"] for part in parts], [part["keys"] for part in parts]
    parts.clear()
    u, v, sums, counts, keys = joined(codes, states, named)
    found = merge(len(ids), u, v, sums, counts, threshold, sides != 0)
    return _table(ids, sides, found, keys)


def joined(
    codes: list[NDArray[np.uint64]], states: list[NDArray[np.int64]], keys: list[NDArray[np.int64]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give the edges of several parts as one graph, in the order of their keys.

    Args:
        codes: of each part, u << 32 | v for every edge, u < v.
        states: rows of sum and count.
        keys: rows of two ids. All three lists are emptied.

    Returns:
        u, v, sums, counts, keys.
    """
    code = np.concatenate(codes)
    codes.clear()
    order = np.argsort(code, kind="stable")
    code = code[order]
    columns = []
    for tables in (states, keys):
        columns += [np.concatenate([table[:, i] for table in tables])[order] for i in (0, 1)]
        tables.clear()
    kept = _add_up(code, *columns)
    code, sums, counts, one, two = (column[:kept] for column in (code, *columns))
    order = np.lexsort((two, one))
    code = code[order]
    ends = ((code >> np.uint64(32)).astype(np.int32), (code & np.uint64(0xFFFFFFFF)).astype(np.int32))
    return *ends, sums[order], counts[order], np.stack([one[order], two[order]], 1)


@njit()
def _add_up(
    code: NDArray[Any], sums: NDArray[Any], counts: NDArray[Any], one: NDArray[Any], two: NDArray[Any]
) -> int:
    """Make one edge of neighbours with one code: sums and counts add up, the smallest key stays.

    Works in place; gives how many edges are left.
    """
    last = -1
    for i in range(code.size):
        if last < 0 or code[i] != code[last]:
            last += 1
            code[last], sums[last], counts[last] = code[i], sums[i], counts[i]
            one[last], two[last] = one[i], two[i]
            continue
        sums[last] += sums[i]
        counts[last] += counts[i]
        if one[i] < one[last] or (one[i] == one[last] and two[i] < two[last]):
            one[last], two[last] = one[i], two[i]
    return last + 1


def _elsewhere(ids: NDArray[np.int64], outside: NDArray[np.int64] | None) -> NDArray[np.uint8]:
    found = np.zeros(len(ids), bool) if outside is None else np.isin(ids, outside)
    return np.where(found, ELSEWHERE, 0).astype(np.uint8)


def _table(
    ids: NDArray[np.int64], sides: NDArray[np.uint8], found: Merged, keys: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    opened = np.zeros(len(ids), np.uint8)
    np.bitwise_or.at(opened, found.to, sides)
    live = np.flatnonzero(found.frozen)
    rank = np.zeros(len(ids), np.int32)
    rank[live] = np.arange(len(live), dtype=np.int32)
    rows = found.edges
    return {
        "ids": ids, "to": found.to, "merges": found.merges, "live": live, "sides": opened[live],
        "ends": rank[rows[:, :2]], "states": rows[:, 2:4], "keys": keys[rows[:, 4]],
    }  # fmt: skip


def segments(
    part: Table,
    threshold: Fraction,
    above: tuple[NDArray[Any], NDArray[Any]] | None = None,
    percent: int | None = None,
) -> NDArray[np.int64]:
    """Give the segment of each of the part's ``ids`` at a threshold, not above that of the merging.

    Args:
        part: its table.
        threshold: merges whose score is not below it are left out.
        above: sorted ids and their segments, of the part that this one is in; None for the volume.
        percent: of the quantile by which was merged; None: by the mean.
    """
    ids, to, merges = part["ids"], part["to"], part["merges"]
    scale = 1 if percent is not None else 255
    kept = merges[above_all(merges[:, 2], merges[:, 3], (1 - threshold) * scale)]
    first = to if len(kept) == len(merges) else united(len(ids), kept[:, 0], kept[:, 1])
    if above is None:
        return ids[first]
    # Later merges score no higher: a segment that this threshold divides has none of them, and its own
    # name above.
    live = part["live"]
    outer, values = above
    names = ids.copy()
    names[live] = values[np.searchsorted(outer, ids[live])]
    return names[first]
