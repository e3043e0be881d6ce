"""Fragments by a seeded watershed of the distance: K_NeuronSeg's and PyTC's."""

from __future__ import annotations

import heapq
import itertools
from fractions import Fraction

import cc3d
import h5py
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError, UsageError
from segflow.segmentation import agglomerate, distance_watershed, evaluate
from segflow.segmentation.affinities import NEAREST

MODES = [
    {},
    {"surface": "boundary"},
    {"per_section": True},
    {"per_section": True, "surface": "distance"},
    {"seeds": "minima"},
    {"seeds": "minima", "surface": "boundary", "min_distance": 1},
    {"per_section": True, "seeds": "minima"},
    {"per_section": True, "seeds": "grid", "min_distance": 4},
    {"seeds": "grid", "surface": "boundary", "interior_threshold": 0.7},
]


@pytest.fixture(scope="module")
def gala(request) -> tuple[np.ndarray, np.ndarray]:
    """Give real affinities, x y z float32, 50 x 100 x 200, and ground truth."""
    with h5py.File(request.path.parent / "data" / "gala.h5") as file:
        inside = 1 - file["volumes/boundary_probability"][:]
        truth = file["volumes/labels/neuron_ids"][:]
    affs = np.zeros((3, *inside.shape), np.float32)
    for channel, offset in enumerate(DEFAULT_OFFSETS):
        axis = offset.index(-1)
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        np.minimum(inside[here], inside[before], out=affs[(channel, *here)])
    return affs, truth


@pytest.fixture(scope="module")
def small(gala) -> np.ndarray:
    return np.ascontiguousarray(gala[0][:, :12, :60, :80])


# -- the rule -----------------------------------------------------------------------------------


def neighbours(place, shape):
    for axis, side in itertools.product(range(3), (-1, 1)):
        there = list(place)
        there[axis] += side
        if 0 <= there[axis] < shape[axis]:
            yield tuple(there)


def reference(affs, start=(0, 0, 0), *, per_section=False, interior_threshold=None, min_distance=3,
              seeds="maxima", surface=None, aff_threshold_low=0.0001):  # fmt: skip
    """Do the same voxel by voxel, with Python's own numbers; ``affs`` is x y z uint8."""
    zyx = affs[::-1].astype(int)
    if per_section:
        parts, before = [], 0
        for z in range(zyx.shape[1]):
            part = one(zyx[1:, z : z + 1], start, 0.5 if interior_threshold is None else interior_threshold,
                       min_distance, seeds, surface or "boundary", aff_threshold_low)  # fmt: skip
            parts.append(np.where(part, part + before, 0))
            before += part.max()
        return np.concatenate(parts)
    inside = 0.1 if interior_threshold is None else interior_threshold
    return one(zyx, start, inside, min_distance, seeds, surface or "distance", aff_threshold_low)


def one(zyx, start, threshold, radius, seeds, surface, low):
    shape, count = zyx.shape[1:], len(zyx)
    places = list(np.ndindex(shape))
    total = {p: int(zyx[(slice(None), *p)].sum()) for p in places}
    best = dict.fromkeys(places, 0)
    for p in places:
        for i in range(count):
            value = int(zyx[(i, *p)])
            before = tuple(c - (a == i + 3 - count) for a, c in enumerate(p))
            best[p] = max(best[p], value)
            if min(before) >= 0:
                best[before] = max(best[before], value)
    boundary = {p: total[p] + 1 if best[p] > Fraction(str(low)) * 255 else 0 for p in places}
    inside = {p: boundary[p] > 0 and total[p] > Fraction(str(threshold)) * 255 * count for p in places}
    outside = [p for p in places if not inside[p]]
    distance = {
        p: min((sum((a - b) ** 2 for a, b in zip(p, q)) for q in outside), default=2048**2)
        if inside[p]
        else 0
        for p in places
    }
    level = distance if surface == "distance" else boundary
    height = distance if seeds == "maxima" else boundary
    labels = dict.fromkeys(places, 0)
    found = 0
    for p in places:
        if seeds == "grid":
            place = [c + s for c, s in zip(p, start)][3 - count :]
            chosen = not any(c % radius for c in place)
        else:
            reach = itertools.product(
                *(range(max(c - radius, 0), min(c + radius + 1, n)) for c, n in zip(p, shape))
            )
            chosen = height[p] > 0 and all((-height[q], q) >= (-height[p], p) for q in reach)
        if chosen and level[p] > 0:
            found += 1
            labels[p] = found
    heap, order = [], itertools.count()
    for p in places:
        if labels[p]:
            heapq.heappush(heap, (-level[p], next(order), p))
    spread(heap, order, labels, level, shape)
    for p in places:
        if level[p] and not labels[p]:
            found += 1
            labels[p] = found
            spread([(-level[p], next(order), p)], order, labels, level, shape)
    return np.array([labels[p] for p in places]).reshape(shape)


def spread(heap, order, labels, level, shape):
    while heap:
        *_, p = heapq.heappop(heap)
        for q in neighbours(p, shape):
            if level[q] and not labels[q]:
                labels[q] = labels[p]
                heapq.heappush(heap, (-level[q], next(order), q))


values = st.one_of(
    st.sampled_from([0, 255]), st.sampled_from([0, 25, 26, 127, 128, 255]), st.integers(0, 255)
)


@settings(deadline=None, max_examples=80)
@given(
    affs=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 8)).flatmap(
        lambda shape: arrays(np.uint8, (3, *shape), elements=values)
    ),
    mode=st.sampled_from(MODES),
    start=st.tuples(*[st.integers(-9, 9)] * 3),
)
def test_the_rule_voxel_by_voxel(affs, mode, start):
    found = distance_watershed(Chunk(affs, voxel_offset=start), **mode)
    np.testing.assert_array_equal(found.array, reference(affs, start, **mode))


@pytest.mark.parametrize("mode", MODES)
def test_the_rule_on_real_affinities(small, mode):
    eight = np.round(small[:, :4, 20:34, 20:40] * 255).astype(np.uint8)
    found = distance_watershed(Chunk(eight, voxel_offset=(3, 2, 1)), **mode).array
    assert found.max() > 1
    np.testing.assert_array_equal(found, reference(eight, (3, 2, 1), **mode))


def test_distances_are_exact_in_large_sections():
    affs = np.full((3, 1, 400, 900), 255, np.uint8)
    affs[:, 0, 7, 3] = 0
    from segflow.segmentation.distance import _distance

    found = _distance((affs[0] > 0).astype(np.uint16), 0, 2)
    y, x = np.ogrid[:400, :900]
    np.testing.assert_array_equal(found[0], (y - 7) ** 2 + (x - 3) ** 2)


@pytest.mark.parametrize("mode", MODES)
def test_fragments_are_connected_and_numbered(small, mode):
    result = distance_watershed(small, **mode)
    labels = result.array
    assert (result.dtype, result.layer_type, result.offsets) == (np.uint64, "segmentation", None)
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))
    assert cc3d.connected_components(labels.astype(np.uint32), connectivity=6).max() == labels.max()


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_what_is_inside(small, threshold):
    eight = np.round(small * 255)
    found = distance_watershed(small, interior_threshold=threshold).array > 0
    np.testing.assert_array_equal(found, eight.sum(axis=0) > Fraction(str(threshold)) * 255 * 3)
    found = distance_watershed(small, per_section=True, surface="distance", interior_threshold=threshold)
    np.testing.assert_array_equal(found.array > 0, eight[:2].sum(axis=0) > Fraction(str(threshold)) * 255 * 2)


def test_defaults_are_those_of_the_peers(small):
    def same(*options):
        first, second = (distance_watershed(small, **o).array for o in options)
        return np.array_equal(first, second)

    assert same({}, {"interior_threshold": 0.1, "min_distance": 3, "surface": "distance", "seeds": "maxima"})
    section = {"per_section": True}
    assert same(section, {**section, "interior_threshold": 0.5, "min_distance": 3, "surface": "boundary"})
    assert not same(section, {**section, "interior_threshold": 0.1})


@pytest.mark.parametrize("mode", [{"surface": "boundary"}, {"per_section": True}])
def test_a_boundary_is_flooded_but_for_the_background(small, mode):
    masked = small.copy()
    masked[:, 2:6, 10:30, 10:30] = 0
    channels = masked[:2] if mode.get("per_section") else masked
    best = channels.max(axis=0)
    for values, axis in zip(channels, (2, 1, 0)):  # and the affinities of the voxels after it
        here, after = ((slice(None),) * axis + (s,) for s in (slice(-1), slice(1, None)))
        best[here] = np.maximum(best[here], values[after])
    for low in (0.0001, 0.6):
        found = distance_watershed(masked, aff_threshold_low=low, **mode).array > 0
        np.testing.assert_array_equal(found, np.round(best * 255) > low * 255)
        assert not found[2:5, 10:29, 10:29].any()


def test_farther_seeds_are_fewer(small):
    for mode in ({}, {"per_section": True}, {"per_section": True, "seeds": "minima"}):
        counts = [distance_watershed(small, min_distance=d, **mode).array.max() for d in (1, 3, 10)]
        assert counts[0] > counts[1] > counts[2]


def test_a_part_without_a_seed_is_a_fragment():
    affs = np.zeros((3, 1, 9, 20), np.float32)
    affs[:, :, :7] = 1  # a large part: its seed surpasses all that is near
    affs[:, :, 8, 4] = 1  # a speck
    found = distance_watershed(affs, min_distance=9).array[0]
    assert found[8, 4] == 2
    assert np.unique(found).tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES[:4])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (4, 5, 6)])
def test_no_outside_and_nothing_inside(mode, shape):
    whole = distance_watershed(np.ones((3, *shape), np.float32), **mode).array
    count = shape[0] if mode.get("per_section") else 1
    assert np.unique(whole).tolist() == list(range(1, count + 1))
    assert not distance_watershed(np.zeros((3, *shape), np.uint8), **mode).array.any()


def test_the_grid_belongs_to_the_volume(small):
    options = {"per_section": True, "seeds": "grid", "min_distance": 10}
    whole = distance_watershed(Chunk(small, (0, 5, 7)), **options).array
    part = distance_watershed(Chunk(small[:, :, 20:, 30:], (0, 25, 37)), **options).array
    seed = (slice(None), slice(5, None, 10), slice(3, None, 10))  # y = 30, x = 40 and every 10 voxels
    assert part.max() < whole.max()
    ids = part[seed][part[seed] > 0]
    assert len(np.unique(ids)) == ids.size


# -- what changes nothing -----------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(
    cuts=st.sets(st.integers(1, 11), max_size=4),
    mode=st.sampled_from([m for m in MODES if m.get("per_section")]),
)
def test_sections_are_exact_in_slabs(small, cuts, mode):
    whole = distance_watershed(Chunk(small, (4, 1, 2)), **mode).array
    edges = [0, *sorted(cuts), small.shape[1]]
    parts, before = [], 0
    for a, b in itertools.pairwise(edges):
        part = distance_watershed(Chunk(small[:, a:b], (4 + a, 1, 2)), **mode).array
        parts.append(np.where(part > 0, part + np.uint64(before), 0))
        before += int(part.max())
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("mode", MODES[:4])
def test_threads_and_repeats_change_nothing(small, mode):
    many = distance_watershed(small, **mode).array
    usual = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        few = distance_watershed(small, **mode).array
    finally:
        numba.set_num_threads(usual)
    np.testing.assert_array_equal(few, many)
    np.testing.assert_array_equal(distance_watershed(small, **mode).array, many)


@pytest.mark.parametrize("mode", [MODES[0], *MODES[2:4]])
def test_dtypes_and_channel_orders(small, mode):
    eight = np.round(small * 255).astype(np.uint8)
    wanted = distance_watershed(eight, **mode).array
    for same in (small, small.astype(np.float64), (eight / np.float32(255)).astype(np.float32)):
        np.testing.assert_array_equal(distance_watershed(same, **mode).array, wanted)
    zyx = Chunk(eight[::-1], layer_type="affinity_map", offsets=NEAREST)
    np.testing.assert_array_equal(distance_watershed(zyx, **mode).array, wanted)
    swapped = distance_watershed(eight[::-1], **mode).array  # z y x taken for x y z
    assert np.array_equal(swapped, wanted) != bool(mode.get("per_section"))  # in 3-D, the mean of all


def test_place_is_kept(small):
    chunk = Chunk(small, voxel_offset=(5, -6, 7), voxel_size=(30, 6, 6), source={"path": "x"})
    result = distance_watershed(chunk)
    assert (result.bbox, result.voxel_size, result.source) == (chunk.bbox, (30, 6, 6), {"path": "x"})


# -- agglomerated, against ground truth ---------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "split", "merge"),
    [
        ({}, 0.795, 1.081),
        ({"surface": "boundary"}, 0.745, 0.494),
        ({"per_section": True}, 1.204, 0.504),
        ({"per_section": True, "seeds": "minima"}, 1.294, 0.500),
    ],
)
def test_voi_of_the_documentation(gala, mode, split, merge):
    affs, truth = gala
    fragments = distance_watershed(affs, **mode)
    scores = evaluate(agglomerate(affs, 0.5, fragments=fragments), truth)
    assert scores["voi_split"] == pytest.approx(split, abs=2e-3)
    assert scores["voi_merge"] == pytest.approx(merge, abs=2e-3)


# -- bad input, and the command -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"interior_threshold": 1.0}, "interior threshold"),
        ({"interior_threshold": float("nan")}, "interior threshold"),
        ({"min_distance": 0}, "whole number"),
        ({"min_distance": 2.5}, "whole number"),
        ({"seeds": "maximum"}, "did you mean 'maxima'"),
        ({"surface": "distanse"}, "did you mean 'distance'"),
    ],
)
def test_bad_options(small, options, text):
    with pytest.raises(UsageError, match=text):
        distance_watershed(small, **options)


def test_bad_affinities(small):
    broken = small.copy()
    broken[1, 2, 3, 4] = np.nan
    for affs, text in (
        (small[:2], "three channels"),
        (small[0], "czyx"),
        (broken, "NaN, the first at zyx"),
        (small * 255, "0, 1"),
        ((small * 255).astype(np.int32), "uint8"),
    ):
        with pytest.raises(ChunkError, match=text):
            distance_watershed(affs, per_section=True)


def test_each_option_of_the_command(small):
    chunk = Chunk(small, (1, 2, 3))
    usual = None
    for words, options in (
        ([], {}),
        (["--per-section"], {"per_section": True}),
        (["--interior-threshold", 0.4], {"interior_threshold": 0.4}),
        (["--min-distance", 6], {"min_distance": 6}),
        (["--seeds", "minima"], {"seeds": "minima"}),
        (["--seeds", "grid"], {"seeds": "grid"}),
        (["--surface", "boundary"], {"surface": "boundary"}),
        (["--surface", "boundary", "-l", 0.6], {"surface": "boundary", "aff_threshold_low": 0.6}),
    ):
        line = ["watershed", "-i", "affs", "-o", "seg", "--method", "distance", *map(str, words)]
        found = run_chain(*line, affs=chunk)["seg"]
        np.testing.assert_array_equal(found.array, distance_watershed(chunk, **options).array)
        assert found.bbox == chunk.bbox
        usual = found.array if usual is None else usual
        assert not words or not np.array_equal(found.array, usual)


def test_the_chain_with_agglomerate(tmp_path, segflow, small):
    np.save(tmp_path / "affs.npy", small)
    line = ["--quiet", "read-npy", "-f", tmp_path / "affs.npy", "-o", "affs",
            "watershed", "-i", "affs", "--method", "distance", "--per-section", "-o", "frags",
            "agglomerate", "-i", "affs", "-f", "frags", "--threshold", 0.6, "-o", "seg",
            "write-npy", "-i", "seg", "-f", tmp_path / "seg.npy"]  # fmt: skip
    segflow(*line)
    fragments = distance_watershed(small, per_section=True)
    expected = agglomerate(small, 0.6, fragments=fragments).array
    np.testing.assert_array_equal(np.load(tmp_path / "seg.npy"), expected)
    assert len(np.unique(expected)) < len(np.unique(fragments.array))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--per-section"], "--per-section belongs to --method distance"),
        (["--method", "waterz", "--min-distance", "5"], "--min-distance belongs to --method distance"),
        (["--method", "distance", "-h", "0.8"], "--aff-threshold-high has no meaning"),
        (["--method", "distance", "--min-distance", "0"], "--min-distance"),
        (["--method", "distance", "--interior-threshold", "1"], "--interior-threshold"),
        (["--method", "distance", "--seeds", "peaks"], "peaks"),
        (["--method", "distances"], "distances"),
        (["--method", "distance", "-i", "two"], "two"),
    ],
)
def test_refused_before_the_run(tmp_path, segflow, small, words, text):
    np.save(tmp_path / "affs.npy", small)
    np.save(tmp_path / "two.npy", small[:2])
    read = [w for n in ("two", "affs") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]
    result = segflow("--quiet", *read, "watershed", "-i", "affs", *words, code=2)
    assert result.err.count("\n") == 1
    assert result.err.startswith("segflow watershed: ")
    assert text in result.err
