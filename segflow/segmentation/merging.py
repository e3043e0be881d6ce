"""Agglomeration of a region graph by mean affinity: exact, and the same for every way to cut it.

The best edge is merged first: the one with the largest mean, of equal means the one with the smallest
key. A mean is sum / count in integers, and means are compared exactly. Keys are 0, 1, 2 ... in the
order of the first pair of fragments (smaller id, larger id) that an edge is made of; an edge that is
made of two keeps the smaller. When two edges become one, its mean is not above the larger of theirs,
and equal to it only if both are equal: so no merge makes a better edge than there was, merges of
independent parts may be done in any order, and a part of a graph can be merged by itself as far as no
edge from outside can interfere. Such edges end at *frozen* nodes: a best edge with a frozen end is not
merged but freezes its other end too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.errors import ChunkError
from segflow.segmentation.regions import pair, slot_of
from segflow.segmentation.unions import find

_NONE = np.uint64(0xFFFFFFFF)


@njit()
def above(s1: int, c1: int, s2: int, c2: int) -> bool:
    """Whether s1 / c1 > s2 / c2, exactly, for positive counts up to 2^62."""
    while True:
        q1, q2 = s1 // c1, s2 // c2
        if q1 != q2:
            return q1 > q2
        s1, s2 = s1 - q1 * c1, s2 - q2 * c2
        if s1 == 0 or s2 == 0:
            return s1 > 0
        s1, c1, s2, c2 = c2, s2, c1, s1  # r1/c1 > r2/c2 if and only if c2/r2 > c1/r1


@njit()
def _score(s: int, c: int) -> Any:
    """Give s / c, below 2^10, as two words: 10 + 46 bits, and 31 more; the same order for c < 2^32."""
    whole = s // c
    rest = (s - whole * c) << 23
    a = rest // c
    rest = (rest - a * c) << 23
    b = rest // c
    rest = (rest - b * c) << 31
    d = rest // c
    return np.uint64((whole << 46) | (a << 23) | b), np.uint64(d) << np.uint64(32)


@njit()
def _before(heap: NDArray[Any], a: int, b: int) -> bool:
    return heap[a, 0] > heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] > heap[b, 1])


@njit()
def _sift_down(heap: NDArray[Any], at: int, size: int) -> None:
    hi, lo = heap[at, 0], heap[at, 1]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not (heap[child, 0] > hi or (heap[child, 0] == hi and heap[child, 1] > lo)):
            break
        heap[at, 0], heap[at, 1] = heap[child, 0], heap[child, 1]
        at = child
    heap[at, 0], heap[at, 1] = hi, lo


@njit()
def _quantile(first: int, chain: NDArray[Any], rows: NDArray[Any], percent: int) -> int:
    """Give the value at a percentile of a histogram: the (percent n // 100 + 1)-th smallest of n."""
    total = 0
    at = first
    while at >= 0:
        total += rows[at, 1]
        at = chain[at]
    left = percent * total // 100
    at = first
    while left >= rows[at, 1]:
        left -= rows[at, 1]
        at = chain[at]
    return rows[at, 0]


@njit()
def _pour(keep: int, drop: int, chain: NDArray[Any], rows: NDArray[Any]) -> int:
    """Add one histogram to another, both sorted chains of rows (value, count); give its new first row."""
    first = last = -1
    while keep >= 0 or drop >= 0:
        if drop < 0 or (keep >= 0 and rows[keep, 0] <= rows[drop, 0]):
            at = keep
            keep = chain[keep]
            if drop >= 0 and rows[drop, 0] == rows[at, 0]:
                rows[at, 1] += rows[drop, 1]
                drop = chain[drop]
        else:
            at = drop
            drop = chain[drop]
        if first < 0:
            first = at
        else:
            chain[last] = at
        last = at
    chain[last] = -1
    return first


@njit()
def _push(heap: NDArray[Any], size: int, hi: Any, lo: Any) -> int:
    at = size
    while at > 0:
        up = (at - 1) // 2
        if heap[up, 0] > hi or (heap[up, 0] == hi and heap[up, 1] >= lo):
            break
        heap[at, 0], heap[at, 1] = heap[up, 0], heap[up, 1]
        at = up
    heap[at, 0], heap[at, 1] = hi, lo
    return size + 1


@njit()
def _linked(nodes: int, u: NDArray[Any], v: NDArray[Any]) -> Any:
    """Give each node's first and last half-edge (2 e at u, 2 e + 1 at v), their number, what follows each."""
    degree = np.zeros(nodes, np.int32)
    head, tail = np.full(nodes, -1, np.int32), np.full(nodes, -1, np.int32)  # -1: none
    following = np.full(2 * u.size, -1, np.int32)
    for half in range(2 * u.size):
        node = v[half >> 1] if half & 1 else u[half >> 1]
        if head[node] < 0:
            head[node] = half
        else:
            following[tail[node]] = half
        tail[node] = half
        degree[node] += 1
    return head, tail, degree, following


@njit()
def _tabled(
    u: NDArray[Any], v: NDArray[Any], alive: NDArray[Any], table: NDArray[Any], value: NDArray[Any]
) -> int:
    """Fill a table that leads from a pair of nodes to their edge; give the number of edges."""
    table[:] = 0
    used = 0
    for e in range(u.size):
        if alive[e]:
            key = pair(u[e] + 1, v[e] + 1)
            at = slot_of(table, key)
            table[at], value[at] = key, e
            used += 1
    return used


@njit()
def _queued(sums: NDArray[Any], counts: NDArray[Any], numerator: int, denominator: int, room: int) -> Any:
    """Give the heap of the edges above the limit, with room for more, and their number."""
    waiting = 0
    for e in range(sums.size):
        waiting += above(sums[e], counts[e], numerator, denominator)
    heap = np.empty((waiting + room, 2), np.uint64)
    waiting = 0
    for e in range(sums.size):
        if above(sums[e], counts[e], numerator, denominator):
            hi, lo = _score(sums[e], counts[e])
            heap[waiting, 0], heap[waiting, 1] = hi, lo | (_NONE - np.uint64(e))
            waiting += 1
    for at in range(waiting // 2 - 1, -1, -1):
        _sift_down(heap, at, waiting)
    return heap, waiting


@njit()
def _merge(
    nodes: int, u: NDArray[Any], v: NDArray[Any], sums: NDArray[Any], counts: NDArray[Any],
    frozen: NDArray[Any], numerator: int, denominator: int,
    percent: int, begins: NDArray[Any], chain: NDArray[Any], rows: NDArray[Any],
) -> Any:  # fmt: skip
    edges = u.size
    parent = np.arange(nodes).astype(np.int32)
    head, tail, degree, following = _linked(nodes, u, v)
    alive = np.ones(edges, np.bool_)
    key_of, edge_of = np.arange(edges).astype(np.int32), np.arange(edges).astype(np.int32)  # of a key
    size = 1024
    while size < 2 * edges:
        size *= 2
    table, value = np.empty(size, np.uint64), np.empty(size, np.int32)
    used = _tabled(u, v, alive, table, value)
    heap, waiting = _queued(sums, counts, numerator, denominator, edges if percent >= 0 else 0)
    done = np.empty((max(nodes, 1), 3), np.int64)
    merged, most = 0, counts.max() if edges else 0
    while waiting:
        e = edge_of[_NONE - (heap[0, 1] & _NONE)]
        good = alive[e] and above(sums[e], counts[e], numerator, denominator)
        if good:
            hi, lo = _score(sums[e], counts[e])
            lo |= _NONE - np.uint64(key_of[e])
            if heap[0, 0] != hi or heap[0, 1] != lo:  # it has grown, and is worse than it was
                heap[0, 0], heap[0, 1] = hi, lo
                _sift_down(heap, 0, waiting)
                continue
        waiting -= 1
        heap[0, 0], heap[0, 1] = heap[waiting, 0], heap[waiting, 1]
        _sift_down(heap, 0, waiting)
        if not good:
            continue
        a, b = u[e], v[e]
        if frozen[a] or frozen[b]:
            frozen[a] = frozen[b] = 1
            continue
        done[merged, 0], done[merged, 1], done[merged, 2] = key_of[e], sums[e], counts[e]
        merged += 1
        alive[e] = False
        if degree[a] > degree[b]:
            a, b = b, a
        parent[a] = b
        degree[b] -= 1
        half = head[a]
        while half >= 0:  # the edges of a become edges of b
            after = following[half]
            e = half >> 1
            if alive[e]:
                x = v[e] if u[e] == a else u[e]
                key = pair(b + 1, x + 1)
                at = slot_of(table, key)
                keep = e
                if table[at] != 0 and alive[value[at]]:
                    drop = value[at]
                    degree[x] -= 1
                    if above(sums[drop], counts[drop], sums[e], counts[e]):
                        keep, drop = drop, e
                    if percent < 0:
                        sums[keep] += sums[drop]
                        counts[keep] += counts[drop]
                        most = max(most, counts[keep])
                    else:
                        begins[keep] = _pour(begins[keep], begins[drop], chain, rows)
                        sums[keep] = 2 * _quantile(begins[keep], chain, rows, percent) + 1
                    key_of[keep] = min(key_of[keep], key_of[drop])
                    edge_of[key_of[keep]] = keep
                    alive[drop] = False
                    if percent >= 0 and above(sums[keep], counts[keep], numerator, denominator):
                        hi, lo = _score(sums[keep], counts[keep])
                        waiting = _push(heap, waiting, hi, lo | (_NONE - np.uint64(key_of[keep])))
                else:
                    degree[b] += 1
                    used += table[at] == 0
                    table[at] = key
                value[at] = keep
                if keep == e:
                    if half & 1:
                        v[e] = b
                    else:
                        u[e] = b
                    following[half] = -1
                    if head[b] < 0:
                        head[b] = half
                    else:
                        following[tail[b]] = half
                    tail[b] = half
            half = after
        if used * 3 > table.size * 2:  # most of it is of nodes that are gone
            used = _tabled(u, v, alive, table, value)
    for i in range(nodes):
        parent[i] = find(parent, i)
    return parent, alive, key_of, done[:merged], most


@dataclass(frozen=True)
class Merged:
    """What is left of a region graph: see ``merge``."""

    to: NDArray[np.int32]
    frozen: NDArray[np.bool_]
    edges: NDArray[np.int64]
    merges: NDArray[np.int64]


def merge(
    nodes: int,
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    sums: NDArray[np.int64],
    counts: NDArray[np.int64],
    threshold: Fraction,
    frozen: NDArray[np.bool_] | None = None,
) -> Merged:
    """Merge a region graph while 1 - mean affinity of its best edge is below a threshold.

    Affinities are on the scale 0 ... 255; the comparison is 255 count - sum < threshold 255 count.

    Args:
        nodes: their number n; they are 0 ... n - 1.
        u, v: ends of the edges in the order of their keys.
        sums, counts: int64, of the affinities of each edge; changed.
        threshold: exact, as ``segflow.segmentation.affinities.as_fraction`` gives it.
        frozen: nodes that may still get edges from elsewhere; default: none.

    Returns:
        to: for each node the first node of its segment.
        frozen: the segments (at their first nodes) that others may still change.
        edges: rows of first node, first node, sum, count, key, of edges between frozen segments.
        merges: rows of node, node, sum, count, in their order: the ends of the key of the edge merged.

    Raises:
        ChunkError: a contact of 2^32 voxel pairs or more.
    """
    limit = (1 - threshold) * 255
    first, second = u.copy(), v.copy()
    stopped = np.zeros(nodes, np.uint8) if frozen is None else frozen.astype(np.uint8)
    none = np.zeros(0, np.int64)
    parent, alive, keys, done, most = _merge(
        nodes, first, second, sums, counts, stopped, limit.numerator, limit.denominator,
        -1, none, none, none[:, None],
    )  # fmt: skip
    if most >= 1 << 32:
        raise ChunkError(f"two segments touch in {most} voxel pairs; means are compared up to 2^32 of them")
    to = _first_nodes(parent)
    live = np.zeros(nodes, bool)
    live[to] = stopped[parent] != 0
    left = alive & live[to[first]] & live[to[second]]
    ends = np.sort(np.stack([to[first[left]], to[second[left]]], 1), 1)
    edges = np.column_stack([ends, sums[left], counts[left], keys[left]]).astype(np.int64)
    rows = np.column_stack([u[done[:, 0]], v[done[:, 0]], done[:, 1:]]).astype(np.int64)
    return Merged(to, live, edges, rows)


def _first_nodes(parent: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give for each node the first of its segment, where ``parent`` gives any of them."""
    least = np.full(len(parent), len(parent), np.int32)
    np.minimum.at(least, parent, np.arange(len(parent), dtype=np.int32))
    return least[parent]


def merge_quantiles(
    nodes: int,
    u: NDArray[np.int32],
    v: NDArray[np.int32],
    values: NDArray[np.int64],
    votes: NDArray[np.int64],
    percent: int,
    threshold: Fraction,
) -> Merged:
    """Merge a region graph as ``merge`` does, by a percentile of the affinities of each edge.

    The score of an edge is 1 - (q + 1/2) / 256, where q is the (percent n // 100 + 1)-th smallest of its n
    affinities (Funke et al., TPAMI 2019). Unlike means, parts of a graph cannot be merged first.

    Args:
        nodes: their number; they are 0 ... n - 1.
        u, v, values, votes: rows of the edges' histograms, sorted by u, v and value.
        percent: 0 ... 99.
        threshold: merge while the score is below it.

    Returns:
        as ``merge``; sums and counts of ``merges`` are 2 q + 1 and 512.
    """
    new = np.ones(len(u), bool)
    new[1:] = (u[1:] != u[:-1]) | (v[1:] != v[:-1])
    begins = np.flatnonzero(new)
    chain = np.arange(1, len(u) + 1)
    chain[np.flatnonzero(np.append(new[1:], True)[: len(u)])] = -1
    rows = np.column_stack([values, votes]).astype(np.int64)
    first, second = u[begins].copy(), v[begins].copy()
    limit = 1 - threshold
    sums = 2 * quantiles(begins, chain, rows, percent) + 1
    counts = np.full(len(begins), 512)
    parent, _, _, done, _ = _merge(
        nodes, first, second, sums, counts, np.zeros(nodes, np.uint8), limit.numerator, limit.denominator,
        percent, begins.copy(), chain, rows,
    )  # fmt: skip
    keys = begins[done[:, 0]]
    merges = np.column_stack([u[keys], v[keys], done[:, 1:]]).astype(np.int64)
    return Merged(_first_nodes(parent), np.zeros(nodes, bool), np.zeros((0, 5), np.int64), merges)


@njit()
def quantiles(begins: NDArray[Any], chain: NDArray[Any], rows: NDArray[Any], percent: int) -> NDArray[Any]:
    """Give the value at a percentile of each histogram."""
    result = np.empty(begins.size, np.int64)
    for i in range(begins.size):
        result[i] = _quantile(begins[i], chain, rows, percent)
    return result


def above_all(sums: NDArray[np.int64], counts: NDArray[np.int64], limit: Fraction) -> NDArray[np.bool_]:
    """Tell which sums / counts are above ``limit``, exactly."""
    return _above_all(sums, counts, limit.numerator, limit.denominator)


@njit()
def _above_all(sums: NDArray[Any], counts: NDArray[Any], numerator: int, denominator: int) -> NDArray[Any]:
    result = np.empty(sums.size, np.bool_)
    for i in range(sums.size):
        result[i] = above(sums[i], counts[i], numerator, denominator)
    return result
