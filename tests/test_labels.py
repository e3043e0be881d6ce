"""merge-blocks --labels: counting, rules, the ID pool, both stages, on real labels and affinities."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cc3d
import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.blocks.cut import Blocks
from segflow.blocks.folder import open_blocks
from segflow.blocks.label_job import Output, merge_labels
from segflow.blocks.labels import join
from segflow.blocks.ledger import WorkFolder
from segflow.blocks.overlap import RULES, Matching, Pairs, compared, count_pairs
from segflow.blocks.pool import (
    Links,
    Table,
    apply_pool,
    block_slice,
    longest_chain,
    make_pool,
    pool_dtype,
    united,
)
from segflow.chunk import Chunk
from segflow.errors import ChunkError, SegflowError, UsageError, VolumeError
from segflow.geometry import Box, Grid
from segflow.segmentation.agglomerate import agglomerate
from segflow.segmentation.evaluate import evaluate
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import read_h5, write_h5
from segflow.volumes.lazy import open_lazy

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def ac4() -> Any:
    """True labels of a mouse's cortex, 20 sections."""
    return tifffile.imread(DATA / "ac4_labels.tif")[:, :256, :300]


@pytest.fixture(scope="module")
def pinky() -> Any:
    """Labels of a large segmentation."""
    with h5py.File(DATA / "pinky40_mip1.h5") as file:
        return file["mip1"][()]


@pytest.fixture(scope="module")
def gala() -> Any:
    """Real affinities (x, y, z), and how a block of them is segmented."""
    with h5py.File(DATA / "gala.h5") as file:
        inside = 1 - file["volumes/boundary_probability"][()]
    found = np.zeros((3, *inside.shape), np.float32)
    for channel, axis in enumerate((2, 1, 0)):
        here = [slice(None)] * 3
        before = [slice(None)] * 3
        here[axis], before[axis] = slice(1, None), slice(0, -1)
        found[(channel, *here)] = np.minimum(inside[tuple(here)], inside[tuple(before)])
    return found, lambda part: agglomerate(part, 0.5).array


def pairs_of(one: Any, other: Any) -> Pairs:
    return count_pairs(np.asarray(one)[None, None], np.asarray(other)[None, None])


# -- counting and rules ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=60))
def test_counts_are_those_of_numpy(voxels: list[tuple[int, int]]) -> None:
    a, b = np.array([v[0] for v in voxels], np.uint32), np.array([v[1] for v in voxels], np.int64)
    found = pairs_of(a, b)
    wanted = {(i, j): int(((a == i) & (b == j)).sum()) for i in range(1, 5) for j in range(1, 5)}
    assert list(zip(found.a.tolist(), found.b.tolist())) == sorted(k for k, n in wanted.items() if n)
    for i, j, n, size_a, size_b in zip(*(c.tolist() for c in found.columns)):
        assert (n, size_a, size_b) == (wanted[i, j], (a == i).sum(), (b == j).sum())  # sizes with zeros


#               b: 5 6 7 ; label 1 lies in 5 wholly, 2 half in 5 and half in 6, 3 beside background
ONE = [1] * 10 + [2] * 6 + [2] * 6 + [3] * 8
OTHER = [5] * 10 + [5] * 6 + [6] * 6 + [7] * 2 + [0] * 6


def test_each_rule_joins_what_it_says() -> None:
    def joined(rule: str, **options: Any) -> set[tuple[int, int]]:
        pairs = pairs_of(ONE, OTHER)
        chosen = Matching(rule, **{"min_overlap": 1, **options}).accept(pairs)
        return set(zip(pairs.a[chosen].tolist(), pairs.b[chosen].tolist()))

    assert joined("none") == set()
    # 2's best are 5 and 6 with 6 voxels each; the smaller union is with 6
    assert joined("mutual") == {(1, 5), (2, 6), (3, 7)}
    assert joined("mutual", min_overlap=5) == {(1, 5), (2, 6)}
    assert joined("either") == {(1, 5), (2, 6), (3, 7)}
    assert joined("either", min_fraction=0.3) == {(1, 5), (2, 5), (2, 6), (3, 7)}
    assert joined("both") == {(1, 5), (2, 6)}
    assert joined("both", min_fraction=0.7) == set()
    assert joined("iou") == {(1, 5), (2, 6)}
    assert joined("iou", min_iou=0.6) == {(1, 5)}
    assert joined("mutual-mean", min_fraction=0.7) == {(1, 5), (2, 6)}
    assert joined("mutual-mean") == set()
    # 3 and 7: one quarter of 3, but all of what K_NeuronSeg counts of it
    assert joined("kneuronseg") == {(1, 5), (2, 5), (2, 6), (3, 7)}
    assert joined("kneuronseg", min_fraction=0.6) == {(1, 5), (2, 6), (3, 7)}


def test_a_fraction_joins_what_mutual_leaves() -> None:
    pairs = pairs_of([1] * 12 + [2] * 6 + [0] * 2, [5] * 20)
    assert Matching().accept(pairs).tolist() == [True, False]
    assert Matching("mutual-or-fraction").accept(pairs).tolist() == [True, True]
    assert Matching("iou").accept(pairs).tolist() == [True, False]


def test_parts_go_to_their_whole_only_if_they_make_it_up() -> None:
    whole = pairs_of([1] * 12 + [2] * 7 + [0], [5] * 20)
    assert Matching(parts_to_whole=True).accept(whole).tolist() == [True, True]
    assert Matching("iou", parts_to_whole=True).accept(whole).tolist() == [True, True]
    swapped = pairs_of([5] * 20, [1] * 12 + [2] * 7 + [0])
    assert Matching(parts_to_whole=True).accept(swapped).tolist() == [True, True]
    little = pairs_of([1] * 12 + [2] * 5 + [0] * 3, [5] * 20)  # 17 of 20
    assert Matching(parts_to_whole=True).accept(little).tolist() == [True, False]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(RULES)), st.booleans())
def test_rules_do_not_care_which_block_comes_first(data: st.DataObject, rule: str, parts: bool) -> None:
    voxels = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
    a, b = [v[0] for v in voxels], [v[1] for v in voxels]
    matching = Matching(rule, min_overlap=1, parts_to_whole=parts)
    one, other = pairs_of(a, b), pairs_of(b, a)
    chosen, swapped = matching.accept(one), matching.accept(other)
    there = set(zip(one.a[chosen].tolist(), one.b[chosen].tolist()))
    assert there == set(zip(other.b[swapped].tolist(), other.a[swapped].tolist()))
    if rule == "mutual" and not parts:
        assert len({p for p, _ in there}) == len({q for _, q in there}) == len(there)
        assert bool(there) == bool(len(one))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rule": "mutal"}, "did you mean 'mutual'?"),
        ({"min_iou": 0.5}, "--min-iou is not used by --rule mutual, but by iou"),
        ({"rule": "iou", "min_fraction": 0.5}, "--min-fraction is not used by --rule iou"),
        ({"rule": "either", "min_fraction": 1.2}, "at most 1"),
        ({"min_overlap": 0}, "at least 1 voxel"),
        ({"margin": -1}, "at least 0"),
        ({"count_in": "middle"}, "--count-in has no 'middle'"),
        ({"neighbours": "faces"}, "did you mean 'face'?"),
        ({"collisions": "drop"}, "report, refuse"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError) as told:
        Matching(**options)
    assert part in str(told.value)


def test_where_pairs_are_counted() -> None:
    bounds = Box((0, 0, 0), (10, 40, 60))
    one, other = Box((0, 0, 0), (10, 24, 36)), Box((0, 0, 25), (10, 24, 60))
    assert str(compared(one, other, bounds, Matching())) == "0-10_0-24_29-31"
    assert str(compared(one, other, bounds, Matching("kneuronseg"))) == "0-10_0-24_25-36"
    assert str(compared(one, other, bounds, Matching(count_in="overlap"))) == "0-10_0-24_25-36"
    # the volume's own faces lose no margin
    assert str(compared(one, other, bounds, Matching(margin=3))) == "0-10_0-21_29-31"
    assert str(compared(one, other, bounds, Matching(margin=3, count_in="overlap"))) == "0-10_0-21_28-33"
    assert compared(one, other, bounds, Matching(margin=6)).empty
    corner = Box((0, 16, 25), (10, 40, 60))
    assert str(compared(one, corner, bounds, Matching(neighbours="all"))) == "0-10_19-21_29-31"
    touching = Box((0, 0, 36), (10, 24, 60))
    assert compared(one, touching, bounds, Matching()).empty


# -- the pool -------------------------------------------------------------------------------------


def table_of(sizes: list[int]) -> Table:
    return Table.of([(np.arange(1, n + 1), np.ones(n, int)) for n in sizes])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.data())
def test_the_pool_is_the_components_numbered_by_their_smallest_node(
    sizes: list[int], data: st.DataObject
) -> None:
    table = table_of(sizes)
    count = table.labels.size
    some = st.tuples(st.integers(0, max(0, count - 1)), st.integers(0, max(0, count - 1)))
    drawn = data.draw(st.lists(some, max_size=12 if count else 0))
    first, second = (np.array([d[i] for d in drawn], np.int64) for i in (0, 1))
    links = Links(first, second, np.ones(len(drawn), np.int64))
    pool, guards = make_pool(table, links)
    wanted = list(range(count))
    for _ in range(count):  # the smallest of a component spreads along its links
        for a, b in drawn:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    parts = len(set(wanted))
    smallest = sorted(set(wanted))
    assert pool[2].tolist() == [smallest.index(w) + 1 for w in wanted]
    assert (guards.objects, guards.labels) == (parts, count)
    block = table.block
    both = [tuple(p) for p in zip(wanted, block)]
    assert guards.collisions == len({p[0] for p in both if both.count(p) > 1})
    # without collisions no object has two labels of one block, whatever the order of the links
    apart, strict = make_pool(table, links, "refuse")
    assert strict.collisions == 0
    assert len(set(zip(apart[2].tolist(), block.tolist()))) == count
    turn = data.draw(st.permutations(range(len(drawn))))
    turned = Links(first[list(turn)], second[list(turn)], links.count)
    assert (make_pool(table, turned, "refuse")[0] == apart).all()


def test_refused_links_are_the_weakest() -> None:
    table = table_of([2, 1, 1])  # nodes 0 1 | 2 | 3
    links = Links(np.array([0, 1, 2]), np.array([2, 3, 3]), np.array([50, 40, 30]))
    reported, guards = make_pool(table, links)
    assert reported[2].tolist() == [1, 1, 1, 1]
    assert (guards.collisions, guards.refused) == (1, 0)
    apart, guards = make_pool(table, links, "refuse")
    assert apart[2].tolist() == [1, 2, 1, 2]
    assert (guards.collisions, guards.refused, guards.links) == (0, 1, 2)
    weaker = Links(links.first, links.second, np.array([50, 20, 30]))
    assert make_pool(table, weaker, "refuse")[0][2].tolist() == [1, 2, 1, 1]


def test_refusing_links_grows_large() -> None:
    rng = np.random.default_rng(1)
    table = table_of([20] * 200)
    first = rng.integers(0, 3980, 20_000)
    links = Links(
        first, np.minimum(first + rng.integers(1, 60, first.size), 3999), rng.integers(5, 99, first.size)
    )
    pool, guards = make_pool(table, links, "refuse")
    assert guards.collisions == 0
    assert np.unique(pool[[0, 2]], axis=1).shape[1] == pool.shape[1]
    parent = list(range(4000))  # the same by hand: more voxels first, then nodes
    held = [{n // 20} for n in range(4000)]

    def find(n: int) -> int:
        while parent[n] != n:
            n = parent[n]
        return n

    for _, a, b in sorted(zip((-links.count).tolist(), links.first.tolist(), links.second.tolist())):
        a, b = sorted((find(a), find(b)))
        if a != b and not held[a] & held[b]:
            parent[b], held[a] = a, held[a] | held[b]
    assert pool[2].tolist() == make_pool_ids([find(n) for n in range(4000)])


def make_pool_ids(roots: list[int]) -> list[int]:
    number: dict[int, int] = {}
    return [number.setdefault(r, len(number) + 1) for r in roots]


def test_labels_that_are_nowhere_in_the_output_take_no_number() -> None:
    table = Table.of([(np.array([3, 8]), np.array([0, 9])), (np.array([8, 9]), np.array([4, 0]))])
    none = np.zeros(0, np.int64)
    pool, guards = make_pool(table, Links(none, none, none))
    assert pool[2].tolist() == [0, 1, 2, 0]
    assert guards.objects == 2
    linked, _ = make_pool(table, Links(np.array([0]), np.array([2]), np.array([7])))
    assert linked[2].tolist() == [1, 2, 1, 0]  # 3 is smaller, and what it is linked with is there


def test_guards_tell_share_blocks_and_the_longest_chain() -> None:
    table = Table.of([(np.array([1, 2]), np.array([10, 30]))] * 4)
    chain = Links(np.array([0, 2, 4]), np.array([2, 4, 6]), np.array([9, 9, 9]))
    _, guards = make_pool(table, chain)
    assert (guards.chain, guards.links, guards.blocks, guards.share) == (3, 3, 4, 40 / 160)
    text = str(guards)
    assert "longest chain: 3 links" in text
    assert "25.0 %" in text
    star = np.array([3, 3, 3, 0]), np.array([0, 1, 2, 4])
    assert longest_chain(united(6, *star), *star) == 3  # from 4 over 0 and 3 to 1


def test_ids_never_wrap() -> None:
    pool = np.array([[0], [1], [2**32]], np.uint64)
    assert pool_dtype(pool) == "uint64"
    assert pool_dtype(pool - np.uint64(1)) == "uint32"
    assert pool_dtype(pool, "uint64") == "uint64"
    with pytest.raises(ChunkError, match="there are 4294967296 labels, and uint32 holds 4294967295; use"):
        pool_dtype(pool, "uint32")
    with pytest.raises(ChunkError, match="labels are integers, and the output is float32"):
        pool_dtype(pool, "float32")


def test_applying_keeps_zero_and_refuses_what_it_does_not_know() -> None:
    big = 2**63 + 5
    pool = np.array([[0, 0, 1], [7, big, 7], [2, 1, 9]], np.uint64)
    array = np.array([[[0, 7, 7], [big, 0, 7]]], np.uint64)
    array.flags.writeable = False
    assert apply_pool(array, block_slice(pool, 0), "uint32").tolist() == [[[0, 2, 2], [1, 0, 2]]]
    assert apply_pool(np.array([7], np.int16), block_slice(pool, 1), "uint8").tolist() == [9]
    with pytest.raises(ChunkError, match="label 8 is not in the ID pool: the block was changed"):
        apply_pool(np.array([7, 8]), block_slice(pool, 0), "uint32")


# -- joining in memory ----------------------------------------------------------------------------


def cut(array: Any, size: tuple[int, ...], overlap: tuple[int, ...], segment: Any = None) -> list[Chunk]:
    """Cut overlapping blocks, and segment each alone."""
    bounds = Box((0, 0, 0), array.shape[-3:])
    grid = Grid.over(bounds, size, [s - o for s, o in zip(size, overlap)])
    chunks = []
    for box in (b.intersect(bounds) for b in grid):
        part = np.ascontiguousarray(array[(..., *box.slices())])
        chunks.append(Chunk(segment(part) if segment else part, box.start, (30, 6, 6), "segmentation"))
    return chunks


def components(labels: Any) -> Any:
    """Give the pieces that one block sees, with numbers that tell nothing."""
    return cc3d.connected_components(labels, connectivity=6) * 3 + (labels > 0) * 7


def renamed(chunk: Chunk, seed: int) -> Chunk:
    """Give the same labels other numbers."""
    labels, ranks = np.unique(chunk.array, return_inverse=True)
    names = np.random.default_rng(seed).permutation(labels.size).astype(np.uint64) + 2
    names[labels == 0] = 0
    return chunk.with_array(names[ranks].reshape(chunk.shape), layer_type="segmentation")


def same_partition(one: Any, other: Any) -> bool:
    both = np.unique(np.stack([np.ravel(one), np.ravel(other)]), axis=1)
    return all(np.unique(row).size == both.shape[1] for row in both)


def voi(found: Any, truth: Any) -> tuple[float, float]:
    scores = evaluate(np.asarray(found), np.asarray(truth), keep_zero=True)
    return scores["voi_split"], scores["voi_merge"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_perfect_blocks_give_the_connected_pieces_exactly(data: st.DataObject) -> None:
    """Any pair that shares a voxel at mid-overlap joined: the pieces of the whole, no more, no less."""
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    truth = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 3, shape).astype(np.uint16)
    size = data.draw(st.tuples(*[st.integers(2, 6)] * 3))
    overlap = tuple(data.draw(st.integers(1, s - 1)) for s in size)
    chunks = [renamed(c, i) for i, c in enumerate(cut(truth, size, overlap, components))]
    wanted = cc3d.connected_components(truth, connectivity=6)
    everything = Matching("either", min_overlap=1, min_fraction=1e-9)
    found = join(data.draw(st.permutations(chunks)), everything)
    assert same_partition(found.array, wanted)
    assert (found.bbox.shape, found.voxel_size) == (shape, (30.0, 6.0, 6.0))
    # and whatever the rule, nothing is joined that is not one piece
    rule = data.draw(st.sampled_from(sorted(RULES)))
    other = join(chunks, Matching(rule, min_overlap=1, parts_to_whole=data.draw(st.booleans())))
    assert voi(other.array, wanted)[1] < 1e-9
    assert (np.asarray(other.array == 0) == (truth == 0)).all()


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_what_is_whole_in_every_block_is_joined_by_mutual_best(data: st.DataObject) -> None:
    """Boxes side by side: convex, so each is one piece in each block."""
    edges = [sorted({0, 40, *data.draw(st.lists(st.integers(6, 34), max_size=2))}) for _ in range(3)]
    truth = np.zeros((40, 40, 40), np.uint32)
    for k, corner in enumerate(np.ndindex(*[len(e) - 1 for e in edges])):
        truth[tuple(slice(e[c], e[c + 1]) for e, c in zip(edges, corner))] = k + 1
    size = data.draw(st.tuples(*[st.integers(16, 40)] * 3))
    for rule in ("mutual", "iou", "either", "both", "mutual-mean", "mutual-or-fraction", "kneuronseg"):
        found = join(cut(truth, size, (6, 6, 6), components), Matching(rule, min_overlap=1))
        assert same_partition(found.array, truth), rule


def test_neither_order_nor_names_change_the_answer(ac4: Any) -> None:
    chunks = cut(ac4, (20, 120, 130), (4, 16, 16), components)
    whole = join(chunks)
    again = join([renamed(c, i) for i, c in enumerate(reversed(chunks))])
    assert same_partition(whole.array, again.array)
    assert whole.dtype == np.uint32
    assert np.unique(whole.array).tolist() == list(range(int(whole.array.max()) + 1))  # dense
    # an object is named by its first block and its smallest label there
    first = chunks[0].cutout(Box((0, 0, 0), (20, 112, 122)))
    labels = np.unique(first.array)
    order = [int(whole.array[:20, :112, :122][first.array == label][0]) for label in labels]
    assert list(dict.fromkeys(order)) == sorted(set(order))


def test_real_labels_come_back_and_re_entrant_pieces_with_either(pinky: Any) -> None:
    """VOI in bits against the pieces of the uncut labels; blocks.md measured the same on FIB-25."""
    chunks = cut(pinky, (96, 100, 104), (0, 16, 16), components)
    wanted = cc3d.connected_components(pinky, connectivity=6)

    def score(*words: Any, **options: Any) -> tuple[float, float]:
        return voi(join(chunks, Matching(*words, **options)).array, wanted)

    mutual, either = score("mutual"), score("either")
    assert mutual[1] == either[1] == 0
    assert either[0] < 0.002 < mutual[0] < 0.1
    assert score("none")[0] > 0.5
    assert score("mutual", parts_to_whole=True)[0] < mutual[0]
    assert score("mutual-mean")[0] > mutual[0]
    assert score("either", min_overlap=400)[0] > either[0]
    # what leaves and re-enters a block is two labels of it: refusing them leaves it in two
    assert score("either", collisions="refuse")[0] > 1.5 * mutual[0]


def test_rules_on_real_affinities_rank_as_measured(gala: Any) -> None:
    """blocks.md's table (gala, threshold 0.5, overlap 16), here in bits."""
    affinities, segment = gala
    one = segment(affinities)
    chunks = cut(affinities, (50, 58, 108), (0, 16, 16), segment)
    scores = {}
    for name in ("mutual", "iou", "either", "kneuronseg", "none"):
        scores[name] = voi(join(chunks, Matching(name)).array, one)
    for name in ("mutual", "iou"):
        assert scores[name][0] < 0.015
        assert scores[name][1] < 0.002
    assert scores["none"][0] > 0.4
    assert scores["kneuronseg"][1] > max(0.008, 3 * scores["either"][1])  # where to count matters
    assert scores["either"][0] < scores["mutual"][0]
    whole = voi(join(chunks, Matching("either", count_in="overlap", neighbours="all")).array, one)
    assert whole[1] > scores["either"][1]
    assert voi(join(chunks, Matching("kneuronseg", collisions="refuse")).array, one)[1] < 0.002


def test_absent_blocks_are_background(ac4: Any) -> None:
    chunks = cut(ac4, (20, 120, 130), (4, 16, 16), components)
    found = join([c for i, c in enumerate(chunks) if i != 5])
    own = Blocks.over(Box((0, 0, 0), ac4.shape), (20, 120, 130), (4, 16, 16)).core(5)
    assert not found.cutout(own).array.any()
    assert found.array.any()


@pytest.mark.parametrize(
    ("boxes", "part"),
    [
        ([], "no block to join"),
        ([("0-4_0-4_0-8", 1), ("0-4_0-4_0-8", 1)], "two blocks are at 0-4_0-4_0-8"),
        ([("0-4_0-4_0-8", 1), ("0-4_0-4_8-16", 1)], "do not overlap along x"),
        ([("0-4_0-4_0-8", 1), ("0-4_0-4_10-16", 1)], "no grid along x"),
        ([("0-4_0-4_0-8", 1), ("0-4_0-4_2-6", 1)], "no grid along x"),
        ([("0-4_0-4_0-8", 1), ("0-4_0-4_4-12", 2)], "the blocks differ in voxel size"),
    ],
)
def test_blocks_that_do_not_fit_are_told(boxes: list[tuple[str, float]], part: str) -> None:
    chunks = [Chunk(np.ones(Box.parse(b).shape, np.uint32), Box.parse(b).start, (s, s, s)) for b, s in boxes]
    with pytest.raises((ChunkError, UsageError)) as told:
        join(chunks)
    assert part in str(told.value)


def test_what_is_no_label_is_told() -> None:
    def pair(array: Any) -> list[Chunk]:
        return [Chunk(array), Chunk(array, (0, 0, 4))]

    with pytest.raises(ChunkError, match=r"block z00_y00_x00 holds float32; labels are integers"):
        join(pair(np.ones((4, 4, 8), np.float32)))
    with pytest.raises(ChunkError, match="negative labels"):
        join(pair(np.full((4, 4, 8), -1, np.int32)))
    with pytest.raises(ChunkError, match="has channels; labels are zyx"):
        join(pair(np.ones((3, 4, 4, 8), np.uint8)))
    with pytest.raises(ChunkError, match="there are 300 labels, and uint8 holds 255"):
        join([Chunk(np.arange(1, 301, dtype=np.uint32).reshape(1, 1, 300))], dtype="uint8")
    with pytest.raises(UsageError, match="--margin 2 on both sides leaves nothing"):
        join(pair(np.ones((4, 4, 8), np.uint8)), Matching(margin=2))


# -- files: two steps, restarted ------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, ac4: Any) -> Path:
    """Twelve blocks as a network would leave them: K_NeuronSeg's names, each with labels of its own."""
    place = tmp_path / "blocks"
    place.mkdir()
    chunks = cut(ac4, (12, 100, 130), (4, 20, 20), components)
    blocks = Blocks.over(Box((0, 0, 0), ac4.shape), (12, 100, 130), (4, 20, 20))
    for index, chunk in enumerate(chunks):
        array = renamed(chunk, index).array.astype(np.uint32)
        write_h5(str(place / f"chunk_{blocks.name(index)}.h5"), chunk.with_array(array))
    return place


def merged(folder: Path, output: Path, **options: Any) -> Any:
    """Run both steps, or one; give how many blocks were computed."""
    blocks, pieces = open_blocks(str(folder))
    told = {k: options.pop(k) for k in ("dtype", "options") if k in options}
    place = (None, str(output)) if not output.suffix else (str(output), None)
    return merge_labels(blocks, pieces, Output.at(*place, **told), **options)


def in_memory(folder: Path, *words: Any, **options: Any) -> Any:
    chunks = [read_h5(str(p)) for p in sorted(folder.glob("*.h5"))]
    return join(chunks, Matching(*words, **options))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_volume_is_what_the_blocks_give_in_memory(folder: Path, tmp_path: Path) -> None:
    counts = merged(folder, tmp_path / "seg", options={"block_size": (16, 64, 64)})
    count = len(list(folder.iterdir()))
    assert counts == {"count": count, "pool": 1, "apply": count}
    wanted = in_memory(folder)
    info = open_volume(str(tmp_path / "seg")).info()
    assert (info.dtype, info.voxel_size, info.layer_type) == ("uint32", (30.0, 6.0, 6.0), "segmentation")
    assert (open_volume(str(tmp_path / "seg")).read().array == wanted.array).all()
    # the pool: columns that can be mapped into memory
    pool = np.load(tmp_path / "seg.work/pool/files/pool.npy", mmap_mode="r")
    assert pool.dtype == np.uint64
    assert (np.diff(pool[0].astype(int)) >= 0).all()
    assert int(pool[2].max()) == int(wanted.array.max())


def test_a_second_run_computes_nothing(folder: Path, tmp_path: Path) -> None:
    merged(folder, tmp_path / "seg")
    before = tree(tmp_path / "seg")
    assert merged(folder, tmp_path / "seg").total == 0
    assert tree(tmp_path / "seg") == before


def test_two_steps_are_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="there is no ID pool in .*two.work; run --stage pool first"):
        merged(folder, tmp_path / "two", step="apply")
    iou = Matching("iou", min_iou=0.7)
    assert set(merged(folder, tmp_path / "two", matching=iou, step="pool")) == {"count", "pool"}
    assert not (tmp_path / "two").exists()
    assert set(merged(folder, tmp_path / "two", step="apply")) == {"apply"}  # with the rule of the pool
    merged(folder, tmp_path / "one", matching=iou)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    # a pool that was made elsewhere
    blocks, pieces = open_blocks(str(folder))
    merge_labels(blocks, pieces, None, iou, work_dir=str(tmp_path / "w"), step="pool")
    merged(folder, tmp_path / "three", work_dir=str(tmp_path / "w"), step="apply")
    assert tree(tmp_path / "one") == tree(tmp_path / "three")
    with pytest.raises(UsageError, match="name the output"):
        merge_labels(blocks, pieces, None, iou, step="pool")


@pytest.mark.parametrize("where", ["count", "pool", "apply"])
def test_a_run_that_is_cut_off_goes_on(
    where: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off in each stage, after its work and before it is recorded; the bytes are the same."""
    merged(folder, tmp_path / "whole")
    publish, left = WorkFolder.publish, [4 if where != "pool" else 1]

    def dies(self: WorkFolder, stage: str, block: int, arrays: Any = None) -> None:
        if stage == where:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        publish(self, stage, block, arrays)

    monkeypatch.setattr(WorkFolder, "publish", dies)
    with pytest.raises(KeyboardInterrupt):
        merged(folder, tmp_path / "cut")
    monkeypatch.undo()
    counts = merged(folder, tmp_path / "cut")
    blocks = len(list(folder.iterdir()))
    assert counts.get(where) == (blocks - 3 if where != "pool" else 1)
    assert "count" not in counts or where == "count"
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_blocks_that_do_not_fit_the_chunks_lose_no_voxel(folder: Path, tmp_path: Path, ac4: Any) -> None:
    """Cores end at 8, 14, 30 ... and chunks at 64: each chunk is written by one block, whole."""
    wanted = in_memory(folder).array
    for number, block_size in enumerate([(64, 64, 64), (5, 33, 47), (20, 256, 300), (1, 100, 90)]):
        place = tmp_path / f"seg{number}"
        written: list[Box] = []

        class Watched(Output):
            def ready(self, joined: Any, written: list[Box] = written) -> Any:
                volume = super().ready(joined)
                write = volume.write
                volume.write = lambda chunk, mip: (written.append(chunk.bbox), write(chunk, mip))[1]
                return volume

        blocks, pieces = open_blocks(str(folder))
        merge_labels(blocks, pieces, Watched(str(place), options={"block_size": block_size}))
        assert (open_volume(str(place)).read().array == wanted).all()
        assert sum(box.voxels for box in written) == wanted.size
        bounds = Box((0, 0, 0), ac4.shape)
        assert all(box.snap(block_size).intersect(bounds) == box for box in written)


def test_every_format_gets_the_same(folder: Path, tmp_path: Path) -> None:
    wanted = in_memory(folder, "either")
    for name in ("a.h5", "a.tif", "a.zarr"):
        place = tmp_path / name
        counts = merged(folder, place, matching=Matching("either"), work_dir=str(tmp_path / f"{name}.w"))
        found = open_lazy(str(place)).read()
        assert (found.array == wanted.array).all()
        assert (found.dtype, found.voxel_size) == (np.uint32, (30.0, 6.0, 6.0))
        assert found.layer_type == "segmentation"
        assert counts["apply"] == (1 if name != "a.zarr" else len(list(folder.iterdir())))
        assert (
            merged(folder, place, matching=Matching("either"), work_dir=str(tmp_path / f"{name}.w")).total
            == 0
        )


def test_an_output_that_is_deleted_is_written_again(folder: Path, tmp_path: Path) -> None:
    merged(folder, tmp_path / "a.h5")
    (tmp_path / "a.h5").unlink()
    assert merged(folder, tmp_path / "a.h5") == {"apply": 1}
    assert (tmp_path / "a.h5").exists()


def test_what_changed_is_refused_or_made_anew(folder: Path, tmp_path: Path) -> None:
    merged(folder, tmp_path / "seg")
    with pytest.raises(UsageError, match="rule mutual → either"):
        merged(folder, tmp_path / "seg", matching=Matching("either"))
    counts = merged(folder, tmp_path / "seg", matching=Matching("either"), stale="redo")
    assert set(counts) == {"pool", "apply"}  # what was counted is still right
    assert (open_volume(str(tmp_path / "seg")).read().array == in_memory(folder, "either").array).all()
    with pytest.raises(UsageError, match="margin 0 → 1"):
        merged(folder, tmp_path / "seg", matching=Matching("either", margin=1))
    # a block that was written again after the pool was made
    block = folder / "chunk_z00_y00_x00.h5"
    chunk = read_h5(str(block))
    write_h5(str(block), chunk.with_array(chunk.array + 1000 * (chunk.array > 0)))
    with pytest.raises(UsageError, match="files"):
        merged(folder, tmp_path / "seg", matching=Matching("either"))
    shutil.copytree(tmp_path / "seg.work", tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept/apply")
    with pytest.raises(SegflowError, match=r"label \d+ is not in the ID pool: the block was changed after"):
        merged(
            folder,
            tmp_path / "seg",
            matching=Matching("either"),
            stale="keep",
            work_dir=str(tmp_path / "kept"),
        )
    merged(folder, tmp_path / "seg", matching=Matching("either"), stale="redo")
    assert (open_volume(str(tmp_path / "seg")).read().array == in_memory(folder, "either").array).all()


def test_dtypes_are_counted_first(folder: Path, tmp_path: Path) -> None:
    merged(folder, tmp_path / "wide", dtype="uint64")
    wanted = in_memory(folder)
    found = open_volume(str(tmp_path / "wide")).read()
    assert found.dtype == np.uint64
    assert (found.array == wanted.array).all()
    with pytest.raises(SegflowError, match="there are .* labels, and int8 holds 127; use --dtype"):
        merged(folder, tmp_path / "small", dtype="int8", matching=Matching("none"))
    assert not (tmp_path / "small").exists()
    # an existing volume keeps its dtype
    ready = Output(str(tmp_path / "there"), dtype="uint16", options={"block_size": (16, 64, 64)})
    blocks, pieces = open_blocks(str(folder))
    merge_labels(blocks, pieces, ready)
    assert merged(folder, tmp_path / "there", work_dir=str(tmp_path / "again"))["apply"]
    assert open_volume(str(tmp_path / "there")).info().dtype == "uint16"
    with pytest.raises(VolumeError, match="is uint16, not uint32; leave --dtype out"):
        merged(folder, tmp_path / "there", dtype="uint32", work_dir=str(tmp_path / "third"))


def test_outputs_that_disagree_are_refused(folder: Path, tmp_path: Path) -> None:
    def there(chunk: Chunk, name: str) -> Path:
        volume: Any = open_volume(str(tmp_path / name))
        make_volume(volume, chunk)
        return tmp_path / name

    small = there(Chunk(np.zeros((20, 256, 200), np.uint32), voxel_size=(30, 6, 6)), "small")
    with pytest.raises(VolumeError, match=r"fills 0-20_0-256_0-200 and the blocks 0-20_0-256_0-300: voxels"):
        merged(folder, small)
    image = there(Chunk(np.zeros((20, 256, 300), np.float32), voxel_size=(30, 6, 6)), "image")
    with pytest.raises(VolumeError, match="holds 1 channel\\(s\\) of float32, no labels"):
        merged(folder, image)
    other = there(Chunk(np.zeros((20, 256, 300), np.uint32), voxel_size=(30, 8, 8)), "other")
    with pytest.raises(VolumeError, match="has voxels of 30 8 8 nm, the blocks of 30 6 6"):
        merged(folder, other)


# -- the command line -----------------------------------------------------------------------------


def test_split_segment_elsewhere_merge(segflow: Any, tmp_path: Path, ac4: Any) -> None:
    """The user's way: split, a network of one's own rewrites each file, merge-blocks --labels."""
    image = tmp_path / "labels.h5"
    write_h5(str(image), Chunk(ac4, (5, 0, 0), (30, 6, 6), "image"))
    place = tmp_path / "blocks"
    segflow("split", "-f", image, "--block-size", 20, 120, 130, "--overlap", 0, 16, 16, "--output-dir", place)
    for path in sorted(place.glob("*.h5")):
        with h5py.File(path, "r+") as file:
            part = components(file["main"][()])
            del file["main"]
            file["main"] = part.astype(np.uint64)
    result = segflow(
        "merge-blocks", "--input-dir", place, "--labels", "--rule", "either", "-v", tmp_path / "seg"
    )
    assert "longest chain" in result.err
    found = open_volume(str(tmp_path / "seg")).read()
    assert (found.bbox.start, found.voxel_size, found.dtype) == ((5, 0, 0), (30.0, 6.0, 6.0), np.uint32)
    wanted = cc3d.connected_components(ac4, connectivity=6)
    split, merge = voi(found.array, wanted)
    assert split < 0.03
    assert merge == 0
    assert "segflow_provenance" in {p.name for p in (tmp_path / "seg").iterdir()}
    # in steps, and in memory along the chain
    words = ("merge-blocks", "--input-dir", place, "--labels")
    rule = ("--rule", "either")
    segflow(*words, *rule, "--stage", "pool", "-f", tmp_path / "seg.h5")
    assert not (tmp_path / "seg.h5").exists()
    segflow(*words, "--stage", "apply", "-f", tmp_path / "seg.h5")
    assert (read_h5(str(tmp_path / "seg.h5")).array == found.array).all()
    segflow(*words, *rule, "write-npy", "-f", tmp_path / "seg.npy")
    assert (np.load(tmp_path / "seg.npy") == found.array).all()
    strict = segflow(*words, *rule, "--collisions", "refuse", "-f", tmp_path / "strict.h5")
    assert "links refused" in strict.err
    assert int(read_h5(str(tmp_path / "strict.h5")).array.max()) > int(found.array.max())


def test_labels_in_a_stream(segflow: Any, tmp_path: Path) -> None:
    words = (
        "read-h5", "-f", DATA / "gala.h5", "-d", "/volumes/labels/watershed", "split", "-i", "chunk",
        "--block-size", 50, 60, 110, "--overlap", 0, 16, 16, "connected-components", "merge-blocks",
    )  # fmt: skip
    segflow(*words, "write-h5", "-f", tmp_path / "a.h5")
    segflow(*words, "--labels", "--rule", "either", "-f", tmp_path / "b.h5")
    segflow(*words, "--labels", "--rule", "none", "-v", tmp_path / "c")
    one, two = read_h5(str(tmp_path / "a.h5")).array, read_h5(str(tmp_path / "b.h5")).array
    none = open_volume(str(tmp_path / "c")).read().array
    with h5py.File(DATA / "gala.h5") as file:
        wanted = cc3d.connected_components(file["volumes/labels/watershed"][()], connectivity=6)
    assert voi(two, wanted) < (0.02, 1e-9)
    assert voi(one, wanted)[0] < 0.05
    assert voi(none, wanted)[0] > 0.2


@pytest.mark.parametrize(
    ("words", "part", "code"),
    [
        (["-f", "a.h5"], "the blocks hold labels (uint32)", 2),
        (["-f", "a.h5", "--rule", "iou"], "--rule is for labels; say --labels", 2),
        (["-f", "a.h5", "--labels", "--blend"], "labels cannot be blended", 2),
        (["-f", "a.h5", "--labels", "--min-iou", 0.5], "--min-iou is not used by --rule mutual", 2),
        (["-f", "a.h5", "--labels", "--margin", 2], "leaves nothing of an overlap of 4 voxels along z", 2),
        (["--labels", "--stage", "pool"], "needs an output: --file-name or --volume-path (or --work-dir)", 2),
        (["--labels", "--stale", "redo"], "--stale needs an output", 2),
        (["-f", "a.h5", "--labels", "--stage", "apply"], "there is no ID pool in", 1),
        (
            ["-f", "a.h5", "--labels", "--dtype", "float32"],
            "labels are integers; --dtype float32 holds none",
            2,
        ),
        (["-v", "s3://no/seg", "--labels"], "name a local folder for the work with --work-dir", 2),
    ],
)
def test_lines_that_cannot_work(
    words: list[Any], part: str, code: int, segflow: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    result = segflow("merge-blocks", "--input-dir", folder, *words, code=code)
    assert part in result.last
    assert result.last.startswith("segflow merge-blocks: ")
    assert not (folder.parent / "a.h5").exists()


def test_bad_block_files_are_told(segflow: Any, folder: Path, tmp_path: Path) -> None:
    def last(*words: Any, code: int = 2) -> str:
        line = ("merge-blocks", "--input-dir", folder, "--labels", "-v", tmp_path / "seg", *words)
        return str(segflow(*line, code=code).last)

    first = folder / "chunk_z00_y00_x00.h5"
    kept = first.read_bytes()
    first.unlink()
    assert "blocks are missing in" in last()
    first.write_bytes(kept[:2000])
    assert "chunk_z00_y00_x00.h5" in last()
    good = folder / "chunk_z00_y00_x01.h5"
    chunk = read_h5(str(good))
    first.write_bytes(kept)
    (folder / "chunk_z00_y00_x0.h5").write_bytes(kept)
    assert "the same block" in last()
    (folder / "chunk_z00_y00_x0.h5").unlink()
    mine = read_h5(str(first))
    write_h5(str(first), mine.with_array(mine.array.astype(np.float32)))
    assert "chunk_z00_y00_x00.h5 holds float32; labels are integers" in last()
    write_h5(str(first), mine, voxel_size=(30, 8, 8))
    assert "differ in voxel size" in last()
    write_h5(str(first), mine.with_array(mine.array.astype(np.int32) - 1))
    assert "negative labels" in last(code=1)
    assert chunk.array.any()
    assert not (tmp_path / "seg").exists()


OPTIONS = {"block_size": (64, 64, 64), "encoding": None}  # as the command line tells them


@pytest.mark.parametrize(("stage", "after"), [("count", 1), ("apply", 3)])
def test_kill_9_and_the_same_line_again(stage: str, after: int, folder: Path, tmp_path: Path) -> None:
    """The whole group is killed as soon as a stage has some results; the next run gives the same bytes."""
    merged(folder, tmp_path / "whole", options=OPTIONS)
    line = [
        sys.executable,
        "-m",
        "segflow",
        "merge-blocks",
        "--input-dir",
        folder,
        "--labels",
        "-v",
        tmp_path / "seg",
    ]
    run = subprocess.Popen([str(w) for w in line], stderr=subprocess.DEVNULL, start_new_session=True)
    done = tmp_path / "seg.work" / stage
    while len(list(done.glob("0*.npz"))) < after and run.poll() is None:
        time.sleep(0.001)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    counts = merged(folder, tmp_path / "seg", options=OPTIONS)
    blocks = len(list(folder.iterdir()))
    assert counts.get(stage, 0) <= blocks - after
    assert ("count" in counts) == (stage == "count")
    assert voxels(tmp_path / "seg") == voxels(tmp_path / "whole")


def voxels(folder: Path) -> dict[str, bytes]:
    """Give the chunk files."""
    return {name: data for name, data in tree(folder).items() if "provenance" not in name}


def test_a_stream_into_a_volume_that_is_too_narrow_writes_nothing(segflow: Any, tmp_path: Path) -> None:
    write_h5(str(tmp_path / "a.h5"), Chunk(np.arange(1, 601, dtype=np.uint32).reshape(1, 20, 30)))
    volume: Any = open_volume(str(tmp_path / "seg"))
    make_volume(
        volume, Chunk(np.zeros((1, 20, 30), np.uint8), layer_type="segmentation"), block_size=(1, 4, 4)
    )
    before = tree(tmp_path / "seg")
    words = (
        "read-h5",
        "-f",
        tmp_path / "a.h5",
        "split",
        "-i",
        "chunk",
        "--block-size",
        1,
        12,
        12,
        "--overlap",
        0,
        4,
        4,
    )
    result = segflow(*words, "merge-blocks", "--labels", "-v", tmp_path / "seg", code=1)
    assert "there are 600 labels, and uint8 holds 255; use --dtype" in result.last
    assert tree(tmp_path / "seg") == before
    segflow(*words, "merge-blocks", "--labels", "--min-overlap", 1, "-v", tmp_path / "wide")
    assert np.unique(open_volume(str(tmp_path / "wide")).read().array).size == 600


def test_files_of_k_neuronseg_without_places(segflow: Any, tmp_path: Path, ac4: Any) -> None:
    """No manifest, no offsets: the names give the grid, --overlap the rest; data set vol0."""
    folder = tmp_path / "blocks"
    folder.mkdir()
    blocks = Blocks.over(Box((0, 0, 0), ac4.shape), (20, 120, 130), (0, 16, 16))
    chunks = cut(ac4, (20, 120, 130), (0, 16, 16), components)
    for index, chunk in enumerate(chunks):
        with h5py.File(folder / f"chunk_{blocks.name(index)}.h5", "w") as file:
            file["vol0"] = chunk.array.astype(np.uint32)
    words = ("merge-blocks", "--input-dir", folder, "--labels", "--rule", "kneuronseg")
    assert "give --overlap Z Y X" in segflow(*words, "-f", tmp_path / "a.h5", code=2).last
    segflow(*words, "--overlap", 0, 16, 16, "--voxel-size", 30, 6, 6, "-f", tmp_path / "a.h5")
    found = read_h5(str(tmp_path / "a.h5"))
    wanted = join(chunks, Matching("kneuronseg"))
    assert (found.array == wanted.array).all()
    assert found.voxel_size == (30.0, 6.0, 6.0)


def test_where_is_counted_changes_the_answer(gala: Any) -> None:
    affinities, segment = gala
    chunks = cut(affinities, (50, 58, 108), (0, 16, 16), segment)

    def found(**options: Any) -> Any:
        return join(chunks, Matching("either", **options)).array

    mid, whole = found(), found(count_in="overlap")
    assert not same_partition(mid, whole)
    assert not same_partition(mid, found(min_overlap=40))
    assert same_partition(mid, found(count_in="overlap", margin=7))  # 2 of 16 planes are left


def test_neighbours_across_an_edge() -> None:
    """An object that only two blocks see, which share an edge of the grid."""
    truth = np.zeros((4, 24, 24), np.uint8)
    truth[:, range(24), range(24)] = 1
    chunks = cut(truth, (4, 16, 16), (0, 8, 8))
    seen = [
        chunks[0],
        *(c.with_array(np.zeros_like(c.array), layer_type="segmentation") for c in chunks[1:3]),
        chunks[3],
    ]
    assert join(seen).array.max() == 2
    assert join(seen, Matching(neighbours="all")).array.max() == 1
