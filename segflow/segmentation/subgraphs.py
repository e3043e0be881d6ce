"""The region graph of a volume, merged part by part: blocks, then boxes of blocks, up to the volume.

A part is merged as far as nothing outside can change the answer (``segflow.segmentation.merging``), and
hands on what is left: segments that may still change, and the edges between them. The whole volume has
no outside, so with its last part all is merged, exactly as if it had been merged at once.

Tables are dicts of arrays, so that they can be stored: ``ids`` (int64, sorted, the nodes of the part:
fragments or segments, each named by its smallest fragment), ``to`` (the place in ``ids`` of the segment
of each), ``merges`` (rows: places of two nodes, sum, count), ``live`` (places of the segments that may
still change), ``sides`` (their open sides, as bits), ``edges`` (rows: ids of two live segments, sum,
count, ids of the pair of fragments that is the edge's key).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.geometry import HIGH_SIDES, LOW_SIDES
from segflow.segmentation.merging import Merged, above_all, merge
from segflow.segmentation.regions import contacts
from segflow.segmentation.unions import united

Table = Mapping[str, NDArray[Any]]


def of_block(
    labels: NDArray[np.uint32],
    names: NDArray[np.int64],
    planes: Sequence[NDArray[np.int64] | None],
    affs: NDArray[np.uint8],
    goes_on: Sequence[bool],
    threshold: Fraction,
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
    """
    before = [np.zeros(0, np.int64) if p is None else np.unique(p) for p in planes]
    ids = np.unique(np.concatenate([names, *before]))
    ids = ids[ids != 0]
    rank = np.zeros(len(names) + 1, np.int32)
    rank[1:] = np.searchsorted(ids, names) + 1
    start = [int(p is not None) for p in planes]
    whole = np.zeros([n + s for n, s in zip(labels.shape, start)], np.int32)
    whole[start[0] :, start[1] :, start[2] :] = rank[labels]
    sides = np.zeros(len(ids) + 1, np.uint8)
    for axis, plane in enumerate(planes):
        if plane is not None:
            ranks = np.where(plane == 0, 0, np.searchsorted(ids, plane) + 1)
            at: list[Any] = [slice(s, None) for s in start]
            at[axis] = 0
            whole[tuple(at)] = ranks
            sides[np.unique(ranks)] |= LOW_SIDES[axis]
        if goes_on[axis]:
            last = np.take(whole, -1, axis)[tuple(slice(s, None) for i, s in enumerate(start) if i != axis)]
            sides[np.unique(last)] |= HIGH_SIDES[axis]
    u, v, sums, counts = contacts(whole, affs, start)
    sides = sides[1:]
    found = merge(len(ids), u - 1, v - 1, sums, counts, threshold, sides != 0)
    keys = np.column_stack([ids[u - 1], ids[v - 1]])
    return _table(ids, sides, found, keys)


def of_parts(parts: Sequence[Table], settled: Sequence[int], threshold: Fraction) -> dict[str, NDArray[Any]]:
    """Join the graphs of parts, and merge further.

    Args:
        parts: their tables.
        settled: for each the bits of the sides at which it meets another of them.
        threshold: that of the parts.
    """
    lives = [part["ids"][part["live"]] for part in parts]
    ids = np.unique(np.concatenate(lives))
    sides = np.zeros(len(ids), np.uint8)
    for part, live, met in zip(parts, lives, settled):
        np.bitwise_or.at(sides, np.searchsorted(ids, live), part["sides"] & np.uint8(~met & 0xFF))
    edges = added(np.concatenate([part["edges"] for part in parts]))
    edges = edges[np.lexsort((edges[:, 5], edges[:, 4]))]
    u, v = (np.searchsorted(ids, edges[:, i]).astype(np.int32) for i in (0, 1))
    found = merge(len(ids), u, v, edges[:, 2].copy(), edges[:, 3].copy(), threshold, sides != 0)
    return _table(ids, sides, found, edges[:, 4:])


def added(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make one edge of those that join the same two: sums and counts add up, the smallest key stays."""
    edges = edges[np.lexsort((edges[:, 5], edges[:, 4], edges[:, 1], edges[:, 0]))]
    if not len(edges):
        return edges
    new = np.ones(len(edges), bool)
    new[1:] = (edges[1:, :2] != edges[:-1, :2]).any(1)
    first = np.flatnonzero(new)
    result = edges[first]
    result[:, 2:4] = np.add.reduceat(edges[:, 2:4], first)
    return result


def _table(
    ids: NDArray[np.int64], sides: NDArray[np.uint8], found: Merged, keys: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    joined = np.zeros(len(ids), np.uint8)
    np.bitwise_or.at(joined, found.to, sides)
    live = np.flatnonzero(found.frozen)
    rows = found.edges
    edges = np.column_stack([ids[rows[:, 0]], ids[rows[:, 1]], rows[:, 2:4], keys[rows[:, 4]]])
    return {
        "ids": ids, "to": found.to, "merges": found.merges,
        "live": live, "sides": joined[live], "edges": edges,
    }  # fmt: skip


def segments(
    part: Table, threshold: Fraction, above: tuple[NDArray[Any], NDArray[Any]] | None = None
) -> NDArray[np.int64]:
    """Give the segment of each of the part's ``ids`` at a threshold, not above that of the merging.

    Args:
        part: its table.
        threshold: merges whose score is not below it are left out.
        above: sorted ids and their segments, of the part that this one is in; None for the volume.
    """
    ids, to, merges = part["ids"], part["to"], part["merges"]
    kept = merges[above_all(merges[:, 2], merges[:, 3], (1 - threshold) * 255)]
    first = to if len(kept) == len(merges) else united(len(ids), kept[:, 0], kept[:, 1])
    if above is None:
        return ids[first]
    whole = np.ones(len(ids), bool)  # segments that this threshold leaves whole may have grown since
    whole[to[first != to]] = False
    live = part["live"][whole[part["live"]]]
    outer, values = above
    names = ids.copy()
    names[live] = values[np.searchsorted(outer, ids[live])]
    return names[first]
