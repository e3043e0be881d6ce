"""merge-blocks --labels: counting, rules, the ID pool, both stages, on real labels and affinities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from segflow.errors import ChunkError, UsageError
from segflow.geometry import Box

DATA = Path(__file__).parent / "data"


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
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    table = table_of(sizes)
    count = table.labels.size
    some = st.tuples(st.integers(0, max(0, count - 1)), st.integers(0, max(0, count - 1)))
    drawn = data.draw(st.lists(some, max_size=12 if count else 0))
    first, second = (np.array([d[i] for d in drawn], np.int64) for i in (0, 1))
    links = Links(first, second, np.ones(len(drawn), np.int64))
    pool, guards = make_pool(table, links)
    parts, wanted = (
        connected_components(coo_matrix((np.ones(len(drawn)), (first, second)), (count, count)))
        if count
        else (0, np.zeros(0))
    )
    _, rank = np.unique(wanted, return_index=True)
    order = np.argsort(np.argsort(rank))
    assert pool[2].tolist() == [int(order[int(w)]) + 1 for w in wanted]
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
