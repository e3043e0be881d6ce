"""Merging of region graphs: exact comparison of means, and any graph against a plain reference."""

from __future__ import annotations

from fractions import Fraction

import exact_reference as reference
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segflow.errors import ChunkError
from segflow.segmentation.merging import _score, above, merge, merge_quantiles

means = st.tuples(st.integers(0, 255), st.integers(1, 2**31)).flatmap(
    lambda m: st.tuples(st.integers(max(0, m[0] * m[1] - 2), m[0] * m[1] + (m[0] < 255)), st.just(m[1]))
)


@settings(max_examples=300, deadline=None)
@given(st.tuples(st.integers(0, 255 << 31), st.integers(1, 2**31)) | means, means)
@example((2**31 - 1, 2**31), (2**31 - 2, 2**31 - 1))
@example((255 * 2**31, 2**31), (255, 1))
def test_means_are_compared_as_fractions(one, two):
    one = (min(one[0], 255 * one[1]), one[1])
    first, second = Fraction(*one), Fraction(*two)
    assert above(*one, *two) == (first > second)
    assert above(*two, *one) == (second > first)
    a, b = _score(*one), _score(*two)
    assert (a > b, a == b) == (first > second, first == second)


@settings(max_examples=100, deadline=None)
@given(*[st.integers(0, 2**62), st.integers(1, 2**62)] * 2)
def test_above_of_any_numbers(s1, c1, s2, c2):
    assert above(s1, c1, s2, c2) == (Fraction(s1, c1) > Fraction(s2, c2))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 14), st.integers(1, 40), st.sampled_from([1, 3, 1000, 2**24]), st.integers(0, 2**32))
def test_any_graph(nodes, count, largest, seed):
    rng = np.random.default_rng(seed)
    ends = np.unique(np.sort(rng.integers(0, nodes, (count, 2)), 1), axis=0)
    ends = ends[ends[:, 0] < ends[:, 1]]
    counts = rng.integers(1, largest + 1, len(ends))
    sums = np.minimum(
        counts * rng.integers(0, 5, len(ends)) * 63 + rng.integers(0, 2, len(ends)), 255 * counts
    )
    edges = {tuple(e): (s, c) for e, s, c in zip(ends.tolist(), sums.tolist(), counts.tolist())}
    u, v = ends.T.astype(np.int32)
    for threshold in (Fraction(1, 2), Fraction(9, 10)):
        found = merge(nodes, u, v, sums.copy(), counts.copy(), threshold)
        to, rows = reference.agglomerate(edges, threshold)
        assert found.to.tolist() == [to.get(i, i) for i in range(nodes)]
        assert found.merges[:, 2:].tolist() == [list(r[2:]) for r in rows]
        assert not found.frozen.any()
        assert not len(found.edges)
    np.testing.assert_array_equal(np.stack([u, v], 1), ends)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 30), st.sampled_from([2, 4, 256]), st.integers(0, 2**32))
def test_any_graph_by_quantiles(nodes, count, levels, seed):
    rng = np.random.default_rng(seed)
    ends = np.unique(np.sort(rng.integers(0, nodes, (count, 2)), 1), axis=0)
    edges = {}
    for a, b in ends[ends[:, 0] < ends[:, 1]].tolist():
        edges[a, b] = rng.integers(0, levels, rng.integers(1, 6)) * (255 // (levels - 1))
    rows = [(*e, *row) for e, q in edges.items() for row in zip(*np.unique(q, return_counts=True))]
    u, v, values, votes = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    for percent, threshold in ((50, Fraction(1, 2)), (0, Fraction(9, 10)), (99, Fraction(9, 10))):
        found = merge_quantiles(
            nodes, u.astype(np.int32), v.astype(np.int32), values.copy(), votes.copy(), percent, threshold
        )
        to = reference.by_quantiles({e: sorted(q.tolist()) for e, q in edges.items()}, percent, threshold)
        assert found.to.tolist() == [to.get(i, i) for i in range(nodes)]


def test_too_many_pairs_are_refused():
    u, v, counts = np.zeros(1, np.int32), np.ones(1, np.int32), np.array([2**32])
    with pytest.raises(ChunkError, match="4294967296 voxel pairs"):
        merge(2, u, v, counts, counts, Fraction(7, 10))
