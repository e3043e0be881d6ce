"""segment-volume: rules of size against themselves written down plainly, and quantiles."""

from __future__ import annotations

from fractions import Fraction

import exact_reference as reference
import numpy as np
import pytest
from test_segment_volume import BLOCKS, HUGE, affs, blockwise, file, whole  # noqa: F401

from segflow.chunk import Chunk
from segflow.volumes import open_volume
from segflow.volumes.hdf5 import write_h5

# ruff: noqa: F811


# -- rules of size --------------------------------------------------------------------------------


def by_size(segments: np.ndarray, affs: Chunk, join_small: int, dust: int) -> np.ndarray:
    """Write the rules of size down plainly."""
    sizes = dict(zip(*(v.tolist() for v in np.unique(segments[segments > 0], return_counts=True))))
    best: dict[int, tuple[Fraction, int]] = {}
    for ends, (total, count) in reference.graph(segments, affs.array[::-1]).items():
        for one, other in (ends, ends[::-1]):
            if sizes[one] < join_small:
                best[one] = min(best.get(one, (Fraction(1), 0)), (-Fraction(total, count), other))
    group = {name: name for name in sizes}
    for one, (_, other) in best.items():
        keep, drop = sorted((group[one], group[other]))
        group = {name: keep if to == drop else to for name, to in group.items()}
    grown: dict[int, int] = {}
    for name, to in group.items():
        grown[to] = grown.get(to, 0) + sizes[name]
    names = {0: 0, **{name: to if grown[to] >= dust else 0 for name, to in group.items()}}
    return np.vectorize(names.__getitem__, otypes=[np.uint64])(segments)


@pytest.mark.parametrize("rules", [(30, 0), (30, 40), (400, 1000), (10**6, 0), (0, 10**6)])
def test_rules_of_size(affs, file, whole, blockwise, rules):
    segments = whole(file, "0.2")
    wanted = by_size(segments, affs, *rules)
    assert not np.array_equal(wanted, segments)
    words = ("--join-small", rules[0], "--dust", rules[1])
    for block in BLOCKS[1:]:
        np.testing.assert_array_equal(blockwise(file, block, *words, at="0.2"), wanted)


def test_ties_of_small_segments_go_to_the_smaller_id(blockwise, tmp_path):
    """Four segments in a row, equal contacts: the second joins the first, the third the second."""
    labels = np.repeat([5, 4, 7, 8], [8, 2, 2, 8]).astype(np.uint64)[None, None] + np.uint64(HUGE)
    values = np.full((3, *labels.shape), 100, np.uint8)
    for name, chunk in (
        ("affs", Chunk(values, voxel_size=(1, 1, 1), layer_type="affinity_map")),
        ("frag", Chunk(labels, voxel_size=(1, 1, 1), layer_type="segmentation")),
    ):
        write_h5(str(tmp_path / f"{name}.h5"), chunk)
    more = ("--fragments", tmp_path / "frag.h5", "--join-small", 3)
    found = blockwise(tmp_path / "affs.h5", (1, 1, 3), *more, at="0.5")
    assert (found - np.uint64(HUGE)).ravel().tolist() == [4] * 12 + [8] * 8


# -- quantiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [50, 85])
def test_quantiles(segflow, file, whole, blockwise, tmp_path, percent):
    """The graph is merged at once, so blocks change nothing; a lower threshold is cut from it."""
    words = ("--merge-function", "quantile", "--quantile", percent)
    first = blockwise(file, BLOCKS[0], *words)
    assert not np.array_equal(first, whole(file))
    for block in BLOCKS[1:]:
        np.testing.assert_array_equal(blockwise(file, block, *words), first)
    lower = blockwise(file, BLOCKS[1], *words, at="0.25")
    assert not np.array_equal(lower, first)
    line = ("relabel-volume", "--of", tmp_path / "seg2", "--threshold", "0.25", "--processes", 1)
    segflow(*line, "--out", tmp_path / "lower")
    np.testing.assert_array_equal(open_volume(str(tmp_path / "lower")).read().array, lower)
    smaller = blockwise(file, BLOCKS[2], *words, "--join-small", 50, "--dust", 60)
    assert np.unique(smaller, return_counts=True)[1].min() >= 60
