"""The exact engine against a plain reference, in blocks against at once, and against waterz."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import exact_reference as reference
import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segflow.blocks.boxtree import BoxTree
from segflow.blocks.exact import Exact, segment
from segflow.chunk import Chunk
from segflow.geometry import Box
from segflow.segmentation import agglomerate, evaluate, watershed
from segflow.segmentation.affinities import NEAREST, as_fraction, byte_limits
from segflow.segmentation.regions import contacts

DATA = Path(__file__).parent / "data"
CUTS = [Fraction(t, 10) for t in (7, 5, 3)]


# -- affinities: random with many ties, and real -------------------------------------------------


@dataclass
class Case:
    """Affinities, limits and a size of blocks."""

    affs: np.ndarray
    low: int
    high: int
    block: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return self.affs.shape[1:]


@st.composite
def cases(draw: st.DrawFn, longest: int = 7) -> Case:
    size = tuple(draw(st.lists(st.integers(1, longest), min_size=3, max_size=3)))
    levels = draw(st.sampled_from([2, 3, 4, 7, 16, 256]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = np.linspace(0, 255, levels).astype(np.uint8)
    block = tuple(draw(st.lists(st.integers(1, 7), min_size=3, max_size=3)))
    low, high = draw(st.sampled_from([0, 1, 40, 127])), draw(st.sampled_from([200, 255, 256]))
    return Case(values[rng.integers(0, levels, (3, *size))], low, high, block)


def case(seed: int, size: tuple[int, ...], levels: int, block: tuple[int, ...], *limits: int) -> Case:
    values = np.linspace(0, 255, levels).astype(np.uint8)
    affs = values[np.random.default_rng(seed).integers(0, levels, (3, *size))]
    return Case(affs, *(limits or (0, 255)), block)


def of_map(inside: np.ndarray) -> np.ndarray:
    """Give uint8 affinities: the smaller of both voxels' probabilities."""
    values = np.rint(inside * 255).astype(np.uint8)
    result = np.zeros((3, *values.shape), np.uint8)
    for axis in range(3):
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        result[(axis, *here)] = np.minimum(values[here], values[before])
    return result


@pytest.fixture(scope="module")
def gala() -> np.ndarray:
    """Give real isotropic affinities, 50 x 100 x 200."""
    with h5py.File(DATA / "gala.h5") as file:
        return of_map(1 - file["volumes/boundary_probability"][:])


@pytest.fixture(scope="module")
def sections() -> np.ndarray:
    """Give affinities of real serial sections, 10 x 96 x 120."""
    path = DATA.parent.parent / "examples" / "gradient_affinities.py"
    spec = importlib.util.spec_from_file_location("gradient_affinities", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    image = Chunk(tifffile.imread(DATA / "ac4_image.tif")[:10, :96, :120])
    affs = module.execute(image, sigma=1.0).array[::-1]
    return np.rint(affs * 255).astype(np.uint8)


# -- the stages, block by block ------------------------------------------------------------------


@dataclass
class Blockwise:
    """The stages over blocks, done in a random order, each seeing no more than it asks for."""

    case: Case
    thresholds: list[Fraction] = field(default_factory=lambda: CUTS)
    supervoxels: np.ndarray | None = None
    block: tuple[int, ...] | None = None
    results: dict[tuple[str, int], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size, given = self.case.size, self.supervoxels
        self.tree = BoxTree(Box((0, 0, 0), size), self.block or self.case.block)
        self.work = Exact(
            self.tree, size, self.read, self.load, self.case.low, self.case.high, max(self.thresholds),
            None if given is None else lambda box: given[box.slices()],
        )  # fmt: skip
        stages = [*self.work.stages(), *(s for t in self.thresholds for s in self.work.cut(t))]
        rng = np.random.default_rng(len(stages))
        for stage in stages:
            for node in rng.permutation(stage.count).tolist():
                self.results[stage.name, node] = stage.run(node)

    def read(self, box: Box) -> np.ndarray:
        return np.ascontiguousarray(self.case.affs[(slice(None), *box.slices())])

    def load(self, stage: str, node: int, *names: str) -> dict[str, np.ndarray]:
        found = self.results[stage, node]
        return {name: found[name] for name in names} if names else found

    def cut(self, threshold: Fraction | None) -> np.ndarray:
        """Give the segmentation at a threshold, or the fragments."""
        out = np.zeros(self.case.size, np.uint64)
        for node in range(self.tree.count(0)):
            out[self.tree.box(0, node).slices()] = self.work.segmented(threshold, node)
        return out

    def merges(self) -> list[tuple[int, ...]]:
        """Give the merges of all parts: smaller segment, larger segment, sum, count."""
        rows = []
        for level in range(self.tree.levels):
            for node in range(self.tree.count(level)):
                part = self.results[f"merge-{level}", node]
                first = {i: i for i in part["ids"].tolist()}
                for a, b, total, count in part["merges"].tolist():
                    keep, drop = sorted({first[part["ids"][a]], first[part["ids"][b]]})
                    first = {i: keep if to == drop else to for i, to in first.items()}
                    rows.append((keep, drop, total, count))
        return rows


# -- against the reference -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases())
@example(case(0, (7, 7, 7), 2, (2, 3, 1)))
@example(case(1, (7, 7, 7), 3, (1, 1, 1), 40, 200))
def test_fragments_in_blocks_are_those_of_the_definition(it):
    wanted = reference.fragments(it.affs, it.low, it.high)
    np.testing.assert_array_equal(segment(it.affs, it.low, it.high, None, tile=it.size), wanted)
    np.testing.assert_array_equal(segment(it.affs, it.low, it.high, None, tile=it.block), wanted)


@settings(max_examples=40, deadline=None)
@given(cases())
@example(case(2, (7, 7, 7), 2, (3, 2, 2)))
@example(case(3, (6, 7, 7), 4, (2, 2, 2), 40, 256))
def test_merging_in_blocks_is_that_of_the_definition(it):
    fragments = reference.fragments(it.affs, it.low, it.high)
    at_once, parted = Blockwise(it, block=it.size), Blockwise(it)
    _, merges = reference.agglomerate(reference.graph(fragments, it.affs), CUTS[0])
    assert at_once.merges() == merges  # one after the other
    assert sorted(parted.merges()) == sorted(merges)
    for threshold in CUTS:
        wanted = reference.segments(fragments, it.affs, threshold)
        direct = segment(it.affs, it.low, it.high, threshold, tile=it.size)
        for found in (direct, at_once.cut(threshold), parted.cut(threshold)):
            np.testing.assert_array_equal(found, wanted)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(2, 30), st.integers(0, 2**32))
def test_given_fragments_may_lie_anywhere(it, ids, seed):
    """Also in pieces: the contacts of all pieces are those of the fragment."""
    labels = np.random.default_rng(seed).integers(0, ids, it.size) * (1 << 50)
    found = segment(it.affs, it.low, it.high, CUTS[1], supervoxels=labels)
    np.testing.assert_array_equal(found, reference.segments(labels, it.affs, CUTS[1]))


@settings(max_examples=30, deadline=None)
@given(cases(12))
def test_connected_given_fragments_in_blocks(it):
    labels = reference.fragments(it.affs, it.low, it.high).astype(np.int64) * 7
    parted = Blockwise(it, supervoxels=labels)
    np.testing.assert_array_equal(parted.cut(None), labels)
    for threshold in CUTS:
        wanted = segment(it.affs, it.low, it.high, threshold, supervoxels=labels)
        np.testing.assert_array_equal(parted.cut(threshold), wanted)
    plain = segment(it.affs, it.low, it.high, CUTS[0])
    np.testing.assert_array_equal(parted.cut(CUTS[0]), plain * np.uint64(7))


@settings(max_examples=40, deadline=None)
@given(cases(10))
def test_contacts_of_blocks_add_up(it):
    labels = np.random.default_rng(it.affs.size).integers(0, 6, it.size).astype(np.int32)
    added: reference.Edges = {}
    for block in product(*(range(0, n, b) for n, b in zip(it.size, it.block))):
        stop = [a + b for a, b in zip(block, it.block)]
        start = [int(a > 0) for a in block]
        around = tuple(slice(a - s, b) for a, s, b in zip(block, start, stop))
        core = (slice(None), *(slice(a, b) for a, b in zip(block, stop)))
        rows = contacts(labels[around], np.ascontiguousarray(it.affs[core]), start)
        for u, v, total, count in zip(*(r.tolist() for r in rows)):
            before = added.get((u, v), (0, 0))
            added[u, v] = (before[0] + total, before[1] + count)
    assert added == reference.graph(labels, it.affs)
    unequal = [(a != b) & (a != 0) & (b != 0) for a, b in _neighbours(labels)]
    assert sum(count for _, count in added.values()) == sum(int(u.sum()) for u in unequal)


def _neighbours(labels):
    for axis in range(3):
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        yield labels[here], labels[before]


def test_real_crops_by_the_definition(gala, sections):
    for affs, low in ((gala[:, 10:18, 30:62, 90:130], 0), (sections[:, :6, 20:50, 30:70], 30)):
        affs = np.ascontiguousarray(affs)
        fragments = reference.fragments(affs, low, 255)
        assert len(np.unique(fragments)) > 20
        np.testing.assert_array_equal(segment(affs, low, 255, None, tile=(3, 10, 11)), fragments)
        found = segment(affs, low, 255, CUTS[1], tile=(3, 10, 11))
        np.testing.assert_array_equal(found, reference.segments(fragments, affs, CUTS[1]))


# -- blocks, threads, dtypes and places change nothing --------------------------------------------


@pytest.mark.parametrize("limits", [(0, 255), (12, 250)])
@pytest.mark.parametrize("block", [(5, 64, 100), (3, 37, 41), (25, 50, 100), (7, 200, 13)])
def test_blocks_of_real_affinities(gala, block, limits):
    it = Case(gala, *limits, block)
    parted = Blockwise(it)
    np.testing.assert_array_equal(parted.cut(None), segment(gala, *limits, None, tile=it.size))
    for threshold in CUTS:
        wanted = segment(gala, *limits, threshold, tile=it.size)
        np.testing.assert_array_equal(parted.cut(threshold), wanted)


@pytest.mark.parametrize("block", [(4, 33, 50), (1, 96, 120), (10, 20, 7)])
def test_blocks_of_real_sections(sections, block):
    parted = Blockwise(Case(sections, 30, 255, block))
    for threshold in (None, *CUTS):
        wanted = segment(sections, 30, 255, threshold, tile=sections.shape[1:])
        np.testing.assert_array_equal(parted.cut(threshold), wanted)


def test_the_merges_of_blocks_are_those_of_the_volume(gala):
    affs = np.ascontiguousarray(gala[:, :25, :100, :100])
    at_once = Blockwise(Case(affs, 0, 255, affs.shape[1:]), [Fraction(9, 10)])
    parted = Blockwise(Case(affs, 0, 255, (5, 13, 31)), [Fraction(9, 10)])
    rows = at_once.merges()
    scores = [Fraction(total, count) for *_, total, count in rows]
    assert scores == sorted(scores, reverse=True)
    assert sorted(parted.merges()) == sorted(rows)
    assert len(rows) > 500


def test_threads_and_tiles(gala):
    wanted = segment(gala, 0, 255, CUTS[0], threads=1)
    for options in ({"threads": 4}, {"tile": (8, 30, 200), "threads": 3}, {"tile": (50, 100, 200)}):
        np.testing.assert_array_equal(segment(gala, 0, 255, CUTS[0], **options), wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_and_bytes_are_the_same_affinities(gala, dtype):
    affs = gala[:, :10, :50, :60]
    floats = Chunk((affs / 255).astype(dtype), layer_type="affinity_map", offsets=NEAREST)
    eight = Chunk(affs, layer_type="affinity_map", offsets=NEAREST)
    for work in (watershed, agglomerate):
        for low in (0.001, 0.2):
            wanted = work(eight, aff_threshold_low=low, aff_threshold_high=0.98).array
            found = work(floats, aff_threshold_low=low, aff_threshold_high=0.98).array
            np.testing.assert_array_equal(found, wanted)


def test_ids_are_places_in_the_volume(gala):
    affs = gala[:, :10, :50, :60]
    volume = Box((-3, 5, 100), (30, 70, 400))
    alone = Chunk(affs, voxel_offset=(2, 6, 200), layer_type="affinity_map", offsets=NEAREST)
    placed = Chunk(
        affs, voxel_offset=(2, 6, 200), layer_type="affinity_map", offsets=NEAREST, source={"bounds": volume}
    )
    for work in (watershed, agglomerate):
        ids, local = work(placed).array, work(alone).array
        inside = local > 0
        voxels = np.stack(np.unravel_index(local[inside].astype(np.int64) - 1, affs.shape[1:]), 1)
        voxels += np.subtract(alone.voxel_offset, volume.start)
        wanted = np.ravel_multi_index(tuple(voxels.T), volume.shape) + 1
        np.testing.assert_array_equal(ids[inside], wanted)
        assert not ids[~inside].any()
    box = placed.bbox.shift([-v for v in volume.start])
    for tile in ((3, 13, 41), (10, 50, 60)):
        ids = segment(np.ascontiguousarray(affs), 0, 255, CUTS[0], place=box, space=volume.shape, tile=tile)
        np.testing.assert_array_equal(ids, agglomerate(placed, CUTS[0]).array)
    elsewhere = Chunk(affs, layer_type="affinity_map", offsets=NEAREST, source={"bounds": volume})
    np.testing.assert_array_equal(watershed(elsewhere).array, watershed(alone).array)


# -- edge cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(1, 1, 1), (2, 3, 2), (9, 9, 9)])
@pytest.mark.parametrize("value", [0, 255])
def test_nothing_and_one_plateau(value, block):
    """All background, or all one fragment."""
    parted = Blockwise(Case(np.full((3, 5, 6, 7), value, np.uint8), 0, 255, block))
    for threshold in (None, *CUTS):
        assert np.unique(parted.cut(threshold)).tolist() == [value // 255]


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 5), (1, 4, 1), (3, 1, 1)])
def test_thin_volumes(size):
    it = case(5, size, 256, (1, 2, 2))
    wanted = reference.fragments(it.affs, 0, 255)
    for tile in ((1, 1, 1), (1, 2, 2), size):
        np.testing.assert_array_equal(segment(it.affs, 0, 255, None, tile=tile), wanted)
    np.testing.assert_array_equal(Blockwise(it).cut(CUTS[2]), reference.segments(wanted, it.affs, CUTS[2]))


def two_halves(*contacts_: int) -> np.ndarray:
    """Give affinities of two fragments that touch in so many voxels."""
    affs = np.full((3, 1, len(contacts_), 8), 255, np.uint8)
    affs[2, 0, :, 4] = contacts_
    return affs


@pytest.mark.parametrize(
    ("contacts_", "threshold", "parts"),
    [
        ((76, 77), 0.7, 2),  # a mean of 0.3 is not above 1 - 0.7
        ((76, 77), "0.700000001", 1),
        ((77, 77), 0.7, 1),
        ((51, 51), 0.8, 2),
        ((51, 52), 0.8, 1),
        ((255, 0), 0.5, 2),
        ((254, 254), 0, 2),
        ((1, 0, 0), 1, 1),
        ((0, 0, 0), 1, 2),
    ],
)
def test_the_threshold_is_exact_and_strict(contacts_, threshold, parts):
    affs = two_halves(*contacts_)
    cut = as_fraction(threshold)
    high = 255 if max(contacts_) < 255 else 256
    labels = np.where(np.arange(8) < 4, 1, 5) * np.ones((1, len(contacts_), 1), np.int64)
    for tile in ((1, len(contacts_), 8), (1, 1, 3)):
        if high == 255:
            assert len(np.unique(segment(affs, 0, high, cut, tile=tile))) == parts
            cut_later = Blockwise(Case(affs, 0, high, tile), [Fraction(1), cut]).cut(cut)
            assert len(np.unique(cut_later)) == parts
    assert len(np.unique(segment(affs, 0, high, cut, supervoxels=labels))) == parts


def test_limits_are_exact():
    assert byte_limits(0.2, 0.8) == (51, 204)
    assert byte_limits(0.0001, 1.0) == (0, 255)
    affs = two_halves(51)
    affs[2, 0, 0, 1:4] = 52
    assert watershed(Chunk(affs, offsets=NEAREST), aff_threshold_low=0.2).array.ravel()[:4].all()
    affs[2, 0, 0, 1:4] = 51  # not above it
    assert (
        watershed(Chunk(affs, offsets=NEAREST), aff_threshold_low=0.2).array.ravel()[:4].tolist() == [0] * 4
    )
    affs = two_halves(204)
    assert len(np.unique(watershed(Chunk(affs, offsets=NEAREST), aff_threshold_high=0.8).array)) == 1
    assert len(np.unique(watershed(Chunk(affs, offsets=NEAREST), aff_threshold_high=0.81).array)) == 2


# -- quality --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "split", "merge"), [(0.3, 1.442, 0.494), (0.5, 1.060, 0.496), (0.7, 0.692, 0.498)]
)
def test_as_good_as_waterz(gala, threshold, split, merge):
    """The figures are those of the documentation."""
    with h5py.File(DATA / "gala.h5") as file:
        truth = file["volumes/labels/neuron_ids"][:]
    chunk = Chunk(gala, layer_type="affinity_map", offsets=NEAREST)
    exact, waterz = (evaluate(agglomerate(chunk, threshold, engine=e), truth) for e in ("exact", "waterz"))
    assert exact["voi_split"] == pytest.approx(split, abs=5e-4)
    assert exact["voi_merge"] == pytest.approx(merge, abs=5e-4)
    assert exact["voi_split"] + exact["voi_merge"] < waterz["voi_split"] + waterz["voi_merge"] + 0.05
