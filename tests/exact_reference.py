"""The exact segmentation written down plainly: slow, without blocks, in Python's own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

Edges = dict[tuple[int, int], tuple[int, int]]  # (smaller id, larger id) -> sum, count


def _steps(values: np.ndarray) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], np.ndarray]]:
    """Give, for each axis, the voxels that have one before them, those, and the affinities between."""
    for axis in range(3):
        here = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        before = tuple(slice(-1) if a == axis else slice(None) for a in range(3))
        yield here, before, values[(axis, *here)]


def _pairs(values: np.ndarray, of: np.ndarray) -> list[tuple[int, int, int]]:
    """Give what ``of`` holds for each pair of neighbours, and the affinity between them."""
    found = []
    for here, before, between in _steps(values):
        found += zip(of[here].ravel().tolist(), of[before].ravel().tolist(), between.ravel().tolist())
    return found


def _find(parent: list[int], node: int) -> int:
    while parent[node] != node:
        node = parent[node]
    return node


def fragments(affs: np.ndarray, low: int, high: int) -> np.ndarray:
    """Give the fragments of uint8 affinities (3, z, y, x), by the definition of the rule."""
    shape = affs.shape[1:]
    count = int(np.prod(shape))
    pairs = _pairs(np.minimum(affs.astype(int), high), np.arange(count).reshape(shape))
    height = [0] * count
    for a, b, value in pairs:
        height[a], height[b] = max(height[a], value), max(height[b], value)
    height = [0 if h <= low else h for h in height]
    plateau = list(range(count))
    for a, b, value in pairs:
        if height[a] == height[b] == value > 0:
            a, b = _find(plateau, a), _find(plateau, b)
            plateau[max(a, b)] = min(a, b)
    exits: dict[int, tuple[int, int]] = {}
    for a, b, value in pairs:
        for here, there in ((a, b), (b, a)):
            if 0 < height[here] == value < height[there]:
                top = _find(plateau, here)
                exits[top] = min(exits.get(top, (0, 0)), (-height[there], there))
    ids = np.zeros(count, np.uint64)
    for voxel in range(count):
        if height[voxel]:
            top = _find(plateau, voxel)
            while top in exits:
                top = _find(plateau, exits[top][1])
            ids[voxel] = top + 1
    return ids.reshape(shape)


def graph(labels: np.ndarray, affs: np.ndarray) -> Edges:
    """Give the sum and the count of the affinities between neighbouring labels, 0 left out."""
    edges: Edges = {}
    for a, b, value in _pairs(affs, labels):
        if a != b and a and b:
            total, count = edges.get((min(a, b), max(a, b)), (0, 0))
            edges[min(a, b), max(a, b)] = (total + value, count + 1)
    return edges


def agglomerate(edges: Edges, threshold: Fraction) -> tuple[dict[int, int], list[tuple[int, ...]]]:
    """Merge the best edge again and again: the largest mean, of these the smallest key.

    Returns:
        the segment (smallest id) of each id, and the merges: smaller id, larger id, sum, count.
    """
    segment = {name: name for ends in edges for name in ends}
    states = {ends: (-Fraction(s, c), ends, s, c) for ends, (s, c) in edges.items()}
    merges: list[tuple[int, ...]] = []
    while states:
        keep, drop = min(states, key=lambda ends: states[ends][:2])
        _, _, total, count = states.pop((keep, drop))
        if not 255 * count - total < threshold * 255 * count:
            break
        merges.append((keep, drop, total, count))
        segment = {name: keep if to == drop else to for name, to in segment.items()}
        for ends in [e for e in states if drop in e]:
            _, key, total, count = states.pop(ends)
            other = ends[0] if ends[1] == drop else ends[1]
            now = (min(keep, other), max(keep, other))
            if now in states:
                _, twin, more, further = states[now]
                key, total, count = min(key, twin), total + more, count + further
            states[now] = (-Fraction(total, count), key, total, count)
    return segment, merges


def by_quantiles(
    edges: dict[tuple[int, int], list[int]], percent: int, threshold: Fraction
) -> dict[int, int]:
    """Merge as ``agglomerate``, by a percentile of the affinities of each edge; give the segment of each id."""
    segment = {name: name for ends in edges for name in ends}
    states = {ends: (ends, sorted(values)) for ends, values in edges.items()}

    def best(ends: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        key, values = states[ends]
        return -values[percent * len(values) // 100], key

    while states:
        keep, drop = min(states, key=best)
        if not 1 + Fraction(2 * best((keep, drop))[0] - 1, 512) < threshold:
            break
        del states[keep, drop]
        segment = {name: keep if to == drop else to for name, to in segment.items()}
        for ends in [e for e in states if drop in e]:
            key, values = states.pop(ends)
            other = ends[0] if ends[1] == drop else ends[1]
            now = (min(keep, other), max(keep, other))
            twin, more = states.get(now, (key, []))
            states[now] = (min(key, twin), sorted(values + more))
    return segment


def segments(labels: np.ndarray, affs: np.ndarray, threshold: Fraction) -> np.ndarray:
    """Give the segmentation that starts from fragments."""
    to, _ = agglomerate(graph(labels, affs), threshold)
    return np.vectorize(lambda name: to.get(name, name), otypes=[np.uint64])(labels)
