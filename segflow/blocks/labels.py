"""Segmentations that were made block by block become one: count, match, relabel.

Three steps, each of which takes a block and tables: ``count_block`` counts what a block shares with
its later neighbours, ``match`` makes the ID pool from all counts, ``relabelled`` gives any box of
the output. ``join`` does all three in memory; ``stages`` make them a job that can be restarted.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.overlap import Matching, Pairs, check_labels, compared, count_pairs
from segflow.blocks.pool import Guards, Links, Table, apply_pool, block_slice, make_pool, pool_dtype
from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError
from segflow.geometry import Box, Vec, vec

log = logging.getLogger("segflow")

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Spans = tuple[tuple[int, int], ...]

COLUMNS = ("a", "b", "count", "size_a", "size_b")


@dataclass(frozen=True)
class Layout:
    """Overlapping blocks on a grid, in raster order: where each begins and ends on each axis.

    The part of a block that is its own ends in the middle of its overlaps.

    >>> layout = Layout.of([Box((0, 0, 0), (4, 4, 10)), Box((0, 0, 6), (4, 4, 16))])
    >>> str(layout.core(0)), str(layout.core(1)), list(layout.later(0))
    ('0-4_0-4_0-8', '0-4_0-4_8-16', [1])
    """

    spans: tuple[Spans, Spans, Spans]

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Layout:
        """Give the grid on which some boxes lie; not all of its blocks need be among them.

        Raises:
            ChunkError: they are no grid.
        """
        spans = []
        for axis in range(3):
            found = sorted({(box.start[axis], box.stop[axis]) for box in boxes})
            for (a, b), (c, d) in itertools.pairwise(found):
                if c <= a or d <= b or c > b:
                    raise ChunkError(
                        f"the blocks are no grid along {'zyx'[axis]}: one is {a} to {b}, another {c} to {d}"
                    )
            spans.append(tuple(found))
        return cls((spans[0], spans[1], spans[2]))

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def counts(self) -> Vec:
        """The number of blocks along each axis."""
        return vec([len(s) for s in self.spans])

    @property
    def bounds(self) -> Box:
        """What the blocks cover."""
        return Box(vec([s[0][0] for s in self.spans]), vec([s[-1][1] for s in self.spans]))

    def place(self, index: int) -> Vec:
        """Give a block's position on the grid."""
        rest, x = divmod(index, self.counts[2])
        return (*divmod(rest, self.counts[1]), x)

    def index(self, place: Sequence[int]) -> int:
        """Give the number of the block at a position."""
        z, y, x = place
        return (z * self.counts[1] + y) * self.counts[2] + x

    def find(self, box: Box) -> int:
        """Give the number of the block that is ``box``; ValueError if there is none."""
        ends = zip(self.spans, box.start, box.stop)
        return self.index([spans.index((a, b)) for spans, a, b in ends])

    def box(self, index: int) -> Box:
        """Give a block with its overlaps."""
        ends = [spans[at] for spans, at in zip(self.spans, self.place(index))]
        return Box(vec([a for a, _ in ends]), vec([b for _, b in ends]))

    def core(self, index: int) -> Box:
        """Give the part of a block that is its own."""
        ends = [self._own(axis, at) for axis, at in enumerate(self.place(index))]
        return Box(vec([a for a, _ in ends]), vec([b for _, b in ends]))

    def _own(self, axis: int, at: int) -> tuple[int, int]:
        spans = self.spans[axis]
        start, stop = spans[at]
        if at > 0:
            start = (start + spans[at - 1][1]) // 2
        if at + 1 < len(spans):
            stop = (stop + spans[at + 1][0]) // 2
        return start, stop

    def owners(self, box: Box) -> Iterator[int]:
        """Give the blocks to which some voxel of ``box`` belongs."""
        ranges = []
        for axis in range(3):
            own = [self._own(axis, at) for at in range(self.counts[axis])]
            ranges.append([at for at, (a, b) in enumerate(own) if a < box.stop[axis] and b > box.start[axis]])
        return (self.index(place) for place in itertools.product(*ranges))

    def later(self, index: int, reach: str = "face") -> Iterator[int]:
        """Give the blocks after this one that overlap it: across faces, or all."""
        mine, place = self.box(index), self.place(index)
        if reach == "face":
            steps = [[(0, 0, 1), (0, 1, 0), (1, 0, 0)][k] for k in range(3)]
            places = [vec([p + s for p, s in zip(place, step)]) for step in steps]
        else:
            ranges = []
            for axis, spans in enumerate(self.spans):
                a, b = mine.start[axis], mine.stop[axis]
                ranges.append([at for at, (c, d) in enumerate(spans) if c < b and d > a])
            places = [vec(p) for p in itertools.product(*ranges)]
        for there in places:
            if all(p < n for p, n in zip(there, self.counts)) and self.index(there) > index:
                yield self.index(there)


@dataclass(frozen=True)
class Blocks:
    """Segmented blocks: their layout, and ``read(index, box)``, which gives the labels in a box.

    ``there`` tells whether a block exists; the others are background.
    """

    layout: Layout
    read: Callable[[int, Box], Array]
    there: Callable[[int], bool] = lambda index: True

    def labels(self, index: int, box: Box) -> Array:
        """Give the labels of a block in a box inside it.

        Raises:
            ChunkError: they are no labels.
        """
        if not self.there(index):
            return np.zeros(box.shape, np.uint8)
        array = self.read(index, box)
        check_labels(array, f"block {self.layout.box(index)}")
        return array


def check_overlap(layout: Layout, matching: Matching) -> None:
    """Raise UsageError where neighbours have nothing in common that could be counted."""
    if matching.rule == "none":
        return
    for axis, spans in enumerate(layout.spans):
        for (_, stop), (start, _) in itertools.pairwise(spans):
            overlap, name = stop - start, "zyx"[axis]
            if overlap <= 0:
                raise UsageError(
                    f"the blocks do not overlap along {name}, so nothing tells which labels are one object; "
                    "split with --overlap, or use --rule none"
                )
            if overlap <= 2 * matching.margin:
                raise UsageError(
                    f"--margin {matching.margin} on both sides leaves nothing of an overlap of {overlap} "
                    f"voxels along {name}; it can be {(overlap - 1) // 2} there"
                )


# -- the steps ----------------------------------------------------------------------------------


def count_block(blocks: Blocks, index: int, matching: Matching) -> dict[str, Array]:
    """Count a block's labels, and what it shares with its later neighbours.

    Returns:
        Columns: ``labels`` (sorted, without 0) and ``voxels`` of each in the block's own part;
        ``other`` (a block), ``a``, ``b``, ``count``, ``size_a``, ``size_b`` as in Pairs.

    Raises:
        ChunkError: a block holds no labels.
    """
    layout, mine = blocks.layout, blocks.layout.box(index)
    found: list[tuple[int, Pairs]] = []
    array = blocks.labels(index, mine)
    if matching.rule != "none" and blocks.there(index):
        for other in layout.later(index, matching.reach):
            box = compared(mine, layout.box(other), layout.bounds, matching)
            if not box.empty and blocks.there(other):
                pairs = count_pairs(array[box.slices(mine.start)], blocks.labels(other, box))
                found.append((other, pairs))
    labels, voxels = _sizes(array, array[layout.core(index).slices(mine.start)])
    rows = {"other": np.repeat([o for o, _ in found], [len(p) for _, p in found]).astype(np.int64)}
    for column in COLUMNS:
        kind = np.uint64 if column in ("a", "b") else np.int64
        parts = [getattr(pairs, column) for _, pairs in found]
        rows[column] = np.concatenate(parts) if parts else np.zeros(0, kind)
    return {"labels": labels, "voxels": voxels, **rows}


def _sizes(array: Array, own: Array) -> tuple[Array, Array]:
    """Give the labels of a block, and how many voxels of its own part each has."""
    everything = count_pairs(array, np.broadcast_to(np.ones(1, np.uint8), array.shape))
    inside = count_pairs(own, np.broadcast_to(np.ones(1, np.uint8), own.shape))
    voxels = np.zeros(len(everything), np.int64)
    voxels[np.searchsorted(everything.a, inside.a)] = inside.count
    return everything.a, voxels


def match(count: int, load: Callable[[int], Arrays], matching: Matching) -> tuple[NDArray[np.uint64], Guards]:
    """Make the ID pool of all blocks.

    Args:
        count: number of blocks.
        load: gives what ``count_block`` gave for a block; called twice for each.
        matching: the rule, and what is done about collisions.

    Returns:
        what ``make_pool`` gives.
    """
    table = Table.of([(held["labels"], held["voxels"]) for held in (load(i) for i in range(count))])
    first, second, counts = [], [], []
    for index in range(count):
        held = load(index)
        for other in np.unique(held["other"]):
            rows = held["other"] == other
            pairs = Pairs(*(held[column][rows] for column in COLUMNS))
            chosen = matching.accept(pairs)
            first.append(table.nodes(index, pairs.a[chosen]))
            second.append(table.nodes(int(other), pairs.b[chosen]))
            counts.append(pairs.count[chosen])
    none = [np.zeros(0, np.int64)]
    links = Links(*(np.concatenate(rows or none) for rows in (first, second, counts)))
    return make_pool(table, links, matching.collisions)


def relabelled(blocks: Blocks, box: Box, pool: NDArray[np.uint64], dtype: str) -> Array:
    """Give the output in ``box``: each voxel as the block to which it belongs has it, relabelled.

    Raises:
        ChunkError: a block has labels that the pool does not know.
    """
    result = np.zeros(box.shape, dtype)
    for index in blocks.layout.owners(box):
        if not blocks.there(index):
            continue
        part = blocks.layout.core(index).intersect(box)
        labels = blocks.labels(index, part)
        try:
            result[part.slices(box.start)] = apply_pool(labels, block_slice(pool, index), dtype)
        except ChunkError as error:
            raise ChunkError(f"block {blocks.layout.box(index)}: {error}") from None
    return result


def aligned(core: Box, bounds: Box, unit: Sequence[int], origin: Sequence[int]) -> Box:
    """Move the faces of a core that lie inside the volume back to the grid of the output's chunks.

    The boxes of all cores still cover the volume once; one may be empty.

    >>> str(aligned(Box((0, 0, 8), (4, 4, 23)), Box((0, 0, 0), (4, 4, 23)), (4, 4, 6), (0, 0, 0)))
    '0-4_0-4_6-23'
    """

    def back(value: int, axis: int) -> int:
        ends = (bounds.start[axis], bounds.stop[axis])
        down = origin[axis] + (value - origin[axis]) // unit[axis] * unit[axis]
        return value if value in ends else max(down, ends[0])

    start = [back(v, axis) for axis, v in enumerate(core.start)]
    stop = [back(v, axis) for axis, v in enumerate(core.stop)]
    return Box(vec(start), vec([max(a, b) for a, b in zip(start, stop)]))


def join(chunks: Sequence[Chunk], matching: Matching | None = None, *, dtype: str | None = None) -> Chunk:
    """Join segmented blocks in memory.

    Args:
        chunks: zyx integer labels of overlapping blocks on a grid, in any order; blocks that are
            not among them are background.
        matching: how labels are matched; default: mutual best, in the middle of the overlap.
        dtype: of the result; default uint32 where the labels fit, else uint64.

    Returns:
        A segmentation of all that the blocks cover. Neither the order of the chunks nor the
        numbers of their labels change its partition, ties of counts apart.

    Raises:
        ChunkError: no blocks, two at one place, blocks that are no grid or disagree in voxel size,
            or what is no label.
        UsageError: they do not overlap.

    >>> left = Chunk(np.full((2, 4, 8), 7, np.uint32))
    >>> right = Chunk(np.full((2, 4, 8), 3, np.uint32), voxel_offset=(0, 0, 4))
    >>> np.unique(join([left, right]).array).tolist(), join([left, right]).shape
    ([1], (2, 4, 12))
    """
    matching = matching or Matching()
    if not chunks:
        raise ChunkError("there are no blocks to join")
    layout = Layout.of([chunk.bbox for chunk in chunks])
    held: dict[int, Chunk] = {}
    for chunk in chunks:
        index = layout.index(
            [s.index((a, b)) for s, a, b in zip(layout.spans, chunk.bbox.start, chunk.bbox.stop)]
        )
        if index in held:
            raise ChunkError(f"two blocks are at {chunk.bbox}; each place has one")
        if chunk.voxel_size != chunks[0].voxel_size:
            raise ChunkError(
                f"the voxel sizes of the blocks differ: {chunks[0].voxel_size} at {chunks[0].bbox}, "
                f"{chunk.voxel_size} at {chunk.bbox}"
            )
        held[index] = chunk
    check_overlap(layout, matching)
    blocks = Blocks(layout, lambda index, box: held[index].cutout(box).array, held.__contains__)
    counts = [count_block(blocks, index, matching) for index in range(len(layout))]
    pool, guards = match(len(layout), counts.__getitem__, matching)
    log.info("%s", guards)
    array = relabelled(blocks, layout.bounds, pool, pool_dtype(pool, dtype))
    return Chunk(array, layout.bounds.start, chunks[0].voxel_size, "segmentation", source=chunks[0].source)
