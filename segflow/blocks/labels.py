"""Segmentations that were made block by block become one: count, match, relabel.

Three steps, each of which takes a block and tables: ``count_block`` counts what a block shares with
its later neighbours, ``match`` makes the ID pool from all counts, ``relabelled`` gives any box of
the output. ``join`` does all three in memory, ``segflow.blocks.label_job`` on disk.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.cut import Blocks, Held, Source
from segflow.blocks.join import Joined
from segflow.blocks.overlap import Matching, Pairs, compared, count_pairs
from segflow.blocks.pool import Guards, Links, Table, apply_pool, block_slice, make_pool, pool_dtype
from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError
from segflow.geometry import Box, vec

log = logging.getLogger("segflow")

Array = NDArray[Any]
Arrays = Mapping[str, Array]

COLUMNS = ("a", "b", "count", "size_a", "size_b")


class Renamed:
    """A block whose labels get other numbers as they are read.

    Args:
        piece: the block.
        dtype: of the new numbers.
        rename: gives an array of them for one of labels.
    """

    def __init__(self, piece: Source, dtype: str, rename: Callable[[Array], Array]) -> None:
        self.piece, self.rename = piece, rename
        self.info = replace(piece.info, dtype=dtype, layer_type="segmentation", offsets=None)

    def read(self, box: Box) -> Chunk:
        """Give the chunk in ``box``."""
        chunk = self.piece.read(box)
        return chunk.with_array(self.rename(chunk.array), layer_type="segmentation", offsets=None)


class Segments:
    """Segmented blocks: the grid, and by its number what each holds; the others are background.

    A block may hold less than its box in the grid, as long as it meets its neighbours.

    Args:
        blocks: the grid.
        pieces: zyx integer labels.

    Raises:
        ChunkError: there are none, they differ in voxel size, or are no labels.
        VolumeError: neighbours that do not meet.
    """

    def __init__(self, blocks: Blocks, pieces: Mapping[int, Source]) -> None:
        self.blocks, self.pieces = blocks, pieces
        for index, piece in pieces.items():
            info = piece.info
            if info.channels > 1 or info.extra.get("ndim", 3) == 4:
                raise ChunkError(f"{self.called(index)} has channels; labels are zyx")
            if np.dtype(info.dtype).kind not in "ui":
                raise ChunkError(
                    f"{self.called(index)} holds {info.dtype}; labels are integers: leave --labels out "
                    "for images"
                )
        self.joined = Joined(
            blocks,
            {i: Renamed(piece, "uint64", lambda a: a.astype(np.uint64)) for i, piece in pieces.items()},
        )

    def called(self, index: int) -> str:
        """Give a block's file, else its name, for messages."""
        return self.pieces[index].info.path or f"block {self.blocks.name(index)}"

    @property
    def bounds(self) -> Box:
        """What they cover."""
        return self.joined.bounds

    def core(self, index: int) -> Box:
        """Give the part of the output that a block gives."""
        ends = [(cuts[at], cuts[at + 1]) for cuts, at in zip(self.joined.cuts, self.blocks.place(index))]
        return Box(vec([a for a, _ in ends]), vec([b for _, b in ends]))

    def labels(self, index: int, box: Box) -> Array:
        """Give the labels of a block in a box inside it.

        Raises:
            ChunkError: there are negative ones. VolumeError: they cannot be read.
        """
        array = self.pieces[index].read(box).array
        if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
            raise ChunkError(f"{self.called(index)} holds negative labels; 0 is background, labels are above")
        return array

    def later(self, index: int, reach: str = "face") -> Iterator[int]:
        """Give the blocks that come after one and may overlap it: across faces, or all.

        >>> blocks = Blocks.over(Box((0, 0, 0), (8, 8, 8)), (8, 5, 5), (0, 2, 2))
        >>> whole = Held(Chunk(np.ones((8, 8, 8), np.uint8)))
        >>> segments = Segments(blocks, {i: Held(whole.read(box)) for i, box in enumerate(blocks)})
        >>> list(segments.later(0)), list(segments.later(1)), list(segments.later(0, "all"))
        ([1, 2], [3], [1, 2, 3])
        """
        blocks, mine, place = self.blocks, self.blocks.box(index), self.blocks.place(index)
        places: Iterable[tuple[int, ...]]
        if reach == "face":
            places = [tuple(p + (axis == k) for k, p in enumerate(place)) for axis in (2, 1, 0)]
        else:
            places = itertools.product(*(
                [at for at, (a, b) in enumerate(windows) if a < mine.stop[axis] and b > mine.start[axis]]
                for axis, windows in enumerate(blocks.windows)
            ))  # fmt: skip
        for there in places:
            if all(p < n for p, n in zip(there, blocks.counts)):
                other = blocks.index(there)
                if other > index and other in self.pieces:
                    yield other

    def check_overlap(self, matching: Matching) -> None:
        """Raise UsageError where neighbours have nothing in common that could be counted."""
        if matching.rule == "none":
            return
        for index, piece in self.pieces.items():
            for other in self.later(index):
                one, two = piece.info.bounds, self.pieces[other].info.bounds
                axis = next(k for k in range(3) if self.blocks.place(index)[k] != self.blocks.place(other)[k])
                overlap = one.stop[axis] - two.start[axis]
                if overlap <= 0:
                    raise UsageError(
                        f"{self.called(index)} and {self.called(other)} do not overlap along {'zyx'[axis]}: "
                        "nothing tells which labels are one object; split with --overlap, or use --rule none"
                    )
                if overlap <= 2 * matching.margin:
                    raise UsageError(
                        f"--margin {matching.margin} on both sides leaves nothing of an overlap of {overlap} "
                        f"voxels along {'zyx'[axis]}; it can be {(overlap - 1) // 2} there"
                    )


# -- the steps ----------------------------------------------------------------------------------


def count_block(segments: Segments, index: int, matching: Matching) -> dict[str, Array]:
    """Count a block's labels, and what it shares with its later neighbours.

    Returns:
        Columns: ``labels`` (sorted, without 0) and ``voxels`` of each in the block's own part;
        ``other`` (a block), ``a``, ``b``, ``count``, ``size_a``, ``size_b`` as in Pairs.

    Raises:
        ChunkError: a block holds no labels. VolumeError: it cannot be read.
    """
    labels, voxels = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    found: list[tuple[int, Pairs]] = []
    if index in segments.pieces:
        mine = segments.pieces[index].info.bounds
        array = segments.labels(index, mine)
        labels, voxels = _sizes(array, array[segments.core(index).slices(mine.start)])
        for other in segments.later(index, matching.reach) if matching.rule != "none" else ():
            box = compared(mine, segments.pieces[other].info.bounds, segments.bounds, matching)
            if not box.empty:
                found.append((other, count_pairs(array[box.slices(mine.start)], segments.labels(other, box))))
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


def relabelled(segments: Segments, pool: NDArray[np.uint64], dtype: str) -> Joined:
    """Give the output, to be read box by box: every voxel as its block has it, with its global label.

    Args:
        segments: the blocks.
        pool: what ``match`` gave; it may be a memory map.
        dtype: see ``pool_dtype``.
    """

    def renamed(index: int) -> Renamed:
        def rename(array: Array) -> Array:
            try:
                return apply_pool(array, block_slice(pool, index), dtype)
            except ChunkError as error:
                raise ChunkError(f"{segments.called(index)}: {error}") from None

        return Renamed(segments.pieces[index], dtype, rename)

    return Joined(segments.blocks, {index: renamed(index) for index in segments.pieces})


def aligned(core: Box, bounds: Box, unit: Sequence[int], origin: Sequence[int]) -> Box:
    """Move the faces of a core that lie inside the volume back to the grid of the output's chunks.

    The boxes of all cores still cover the volume once; one may be empty.

    Args:
        core: the part that a block gives.
        bounds: what all blocks cover.
        unit: size of the output's chunks; origin: where one of them begins.

    >>> str(aligned(Box((0, 0, 8), (4, 4, 23)), Box((0, 0, 0), (4, 4, 23)), (4, 4, 6), (0, 0, 0)))
    '0-4_0-4_6-23'
    """

    def back(value: int, axis: int) -> int:
        low, high = bounds.start[axis], bounds.stop[axis]
        down = origin[axis] + (value - origin[axis]) // unit[axis] * unit[axis]
        return value if value in (low, high) else max(down, low)

    start = [back(value, axis) for axis, value in enumerate(core.start)]
    stop = [back(value, axis) for axis, value in enumerate(core.stop)]
    return Box(vec(start), vec(stop))


# -- in memory ----------------------------------------------------------------------------------


def join(
    chunks: Sequence[Chunk],
    matching: Matching | None = None,
    *,
    blocks: Blocks | None = None,
    dtype: str | None = None,
) -> Chunk:
    """Join segmented blocks in memory.

    Args:
        chunks: zyx integer labels of overlapping blocks on a grid, in any order; blocks that are
            not among them are background.
        matching: how labels are matched; default: mutual best, in the middle of the overlap.
        blocks: the grid; default: what the chunks tell of it.
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
    blocks = blocks or _grid_of([chunk.bbox for chunk in chunks])
    pieces: dict[int, Source] = {}
    for chunk in chunks:
        index = _index_of(chunk.bbox, blocks)
        if index in pieces:
            raise ChunkError(f"two blocks are at {chunk.bbox}; each place has one")
        pieces[index] = Held(chunk)
    return joined_labels(blocks, pieces, matching, dtype=dtype).read()


def joined_labels(
    blocks: Blocks,
    pieces: Mapping[int, Source],
    matching: Matching | None = None,
    *,
    dtype: str | None = None,
) -> Joined:
    """Do what ``join`` does for blocks by their numbers, wherever they are; read the result by boxes.

    Needs one block and the tables in memory.
    """
    matching = matching or Matching()
    segments = Segments(blocks, pieces)
    segments.check_overlap(matching)
    counts = [count_block(segments, index, matching) for index in range(len(blocks))]
    pool, guards = match(len(blocks), counts.__getitem__, matching)
    log.info("%s", guards)
    return relabelled(segments, pool, pool_dtype(pool, dtype))


def _grid_of(boxes: Sequence[Box]) -> Blocks:
    """Give the grid on which some blocks lie; not all of its blocks need be among them."""
    if not boxes:
        raise ChunkError("there is no block to join")
    axes = []
    for axis in range(3):
        windows = sorted({(box.start[axis], box.stop[axis]) for box in boxes})
        for (a, b), (c, d) in itertools.pairwise(windows):
            if c <= a or d <= b or c > b:
                raise ChunkError(
                    f"the blocks are no grid along {'zyx'[axis]}: one is {a} to {b}, another {c} to {d}"
                )
        axes.append(tuple(windows))
    return Blocks(Box(vec([w[0][0] for w in axes]), vec([w[-1][1] for w in axes])), tuple(axes))


def _index_of(box: Box, blocks: Blocks) -> int:
    ends = list(zip(blocks.windows, box.start, box.stop))
    if not all((a, b) in windows for windows, a, b in ends):
        raise ChunkError(f"{box} is no block of the grid; a step in between changed its size or place")
    return blocks.index([windows.index((a, b)) for windows, a, b in ends])
