"""The blocks that a volume is cut into: where they lie, where they meet, and what is read of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from segflow.errors import BoxError, UsageError
from segflow.geometry import Box, Grid, Vec, vec, words
from segflow.volumes.base import VolumeInfo
from segflow.volumes.files import override

if TYPE_CHECKING:
    from segflow.chunk import Chunk

EDGES = ("shorter", "shift", "pad")
Window = tuple[int, int]


class Source(Protocol):
    """What blocks are cut from and joined from: a header, and boxes of it (a LazyVolume, a Held chunk)."""

    info: VolumeInfo

    def read(self, box: Box) -> Chunk:
        """Give the chunk in a box inside ``info.bounds``."""
        ...


class Held:
    """A chunk in memory as a source of boxes."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = replace(chunk, source={"bounds": chunk.bbox, **chunk.source})
        channels = chunk.channels
        self.info = VolumeInfo(
            str(chunk.source.get("path", "")), "chunk", chunk.bbox, chunk.dtype.name, channels,
            chunk.voxel_size, chunk.layer_type, offsets=chunk.offsets, extra={"ndim": chunk.array.ndim},
        )  # fmt: skip

    def read(self, box: Box) -> Chunk:
        """Give the chunk in ``box``, as a view."""
        return self.chunk.cutout(box)


class Retold:
    """A source with another voxel size (nm) or layer type than it says; None keeps its own."""

    def __init__(
        self, source: Source, voxel_size: Sequence[float] | None = None, layer_type: str | None = None
    ) -> None:
        self.source = source
        self.info = override(source.info, voxel_size=voxel_size, layer_type=layer_type)

    def read(self, box: Box) -> Chunk:
        """Give the chunk in a box inside ``info.bounds``."""
        info = self.info
        return replace(
            self.source.read(box),
            voxel_size=info.voxel_size,
            layer_type=info.layer_type,
            offsets=info.offsets,
        )


@dataclass(frozen=True)
class Blocks:
    """Overlapping blocks that cover ``bounds``, in raster order.

    Along each axis there is a list of windows (start, stop); every combination of them is a block.
    Two neighbours meet in the middle of their overlap: the part of a block up to there is its core,
    and the cores fill the bounds.

    >>> blocks = Blocks.over(Box((0, 0, 0), (20, 64, 100)), (20, 64, 40), overlap=(0, 0, 10))
    >>> blocks.counts, blocks.windows[2], blocks.cuts(2)
    ((1, 1, 3), ((0, 40), (30, 70), (60, 100)), [0, 35, 65, 100])
    """

    bounds: Box
    windows: tuple[tuple[Window, ...], ...]

    @classmethod
    def over(
        cls, bounds: Box, size: Sequence[int], overlap: Sequence[int] = (0, 0, 0), edge: str = "shorter"
    ) -> Blocks:
        """Cut ``bounds`` into blocks of ``size`` (voxels) that share ``overlap`` with their neighbours.

        Args:
            bounds: what is cut.
            size: zyx.
            overlap: zyx, 0 to less than ``size``.
            edge: where the last block would run over the end, it is ``shorter``; or is ``shift``-ed
                back, so that it shares more with the one before; or keeps its place and is
                ``pad``-ded with zeros. An axis that is shorter than one block has one block.

        Raises:
            UsageError: sizes that do not fit each other, or an unknown ``edge``.
        """
        if edge not in EDGES:
            raise UsageError(f"--edge '{edge}' is unknown; it is one of {', '.join(EDGES)}")
        if bounds.empty:
            raise UsageError(f"the region {bounds} is empty; every stop must be greater than its start")
        if min(size) < 1:
            raise UsageError(f"--block-size {words(size)} must be positive")
        if any(not 0 <= o < s for o, s in zip(overlap, size)):
            raise UsageError(f"--overlap {words(overlap)} must be 0 to less than --block-size {words(size)}")
        grid = Grid.over(bounds, size, [s - o for s, o in zip(size, overlap)])
        axes = []
        for axis in range(3):
            low, high = bounds.start[axis], bounds.stop[axis]
            begins = [grid.start[axis] + i * grid.stride[axis] for i in range(grid.counts[axis])]
            windows = [(b, b + grid.size[axis]) for b in begins]
            first, last = windows[-1]
            if last > high and edge != "pad":
                windows[-1] = (max(low, high - grid.size[axis]) if edge == "shift" else first, high)
            axes.append(tuple(windows))
        return cls(bounds, tuple(axes))

    @cached_property
    def counts(self) -> Vec:
        """The number of blocks along each axis."""
        return vec([len(w) for w in self.windows])

    def __len__(self) -> int:
        return math.prod(self.counts)

    def place(self, index: int) -> Vec:
        """Give where block ``index`` stands in the grid."""
        rest, x = divmod(index, self.counts[2])
        z, y = divmod(rest, self.counts[1])
        return (z, y, x)

    def index(self, place: Sequence[int]) -> int:
        """Give the number of the block at ``place`` in the grid."""
        z, y, x = place
        return (z * self.counts[1] + y) * self.counts[2] + x

    def name(self, index: int) -> str:
        """Give the name of block ``index``, from its place: ``z00_y00_x00``."""
        return "_".join(f"{a}{i:02d}" for a, i in zip("zyx", self.place(index)))

    def box(self, index: int) -> Box:
        """Give the box of block ``index``, overlap included; beyond the bounds where it is padded."""
        found = [w[i] for w, i in zip(self.windows, self.place(index))]
        return Box(vec([a for a, _ in found]), vec([b for _, b in found]))

    def __iter__(self) -> Iterator[Box]:
        return (self.box(i) for i in range(len(self)))

    def cuts(self, axis: int) -> list[int]:
        """Give where the cores begin along an axis, and the end of the last."""
        return cuts_between(self.windows[axis], self.bounds.start[axis], self.bounds.stop[axis])

    @cached_property
    def _cuts(self) -> list[list[int]]:
        return [self.cuts(axis) for axis in range(3)]

    def core(self, index: int) -> Box:
        """Give the part of block ``index`` up to the middle of its overlaps."""
        place = self.place(index)
        return Box(
            vec([c[i] for c, i in zip(self._cuts, place)]), vec([c[i + 1] for c, i in zip(self._cuts, place)])
        )


def cuts_between(windows: Sequence[Window], low: int, high: int) -> list[int]:
    """Give ``low``, the middle of each overlap of neighbouring windows, and ``high``."""
    middles = [(b[0] + a[1]) // 2 for a, b in zip(windows, windows[1:])]
    return [low, *middles, high]


def read_block(source: Source, box: Box) -> Chunk:
    """Give the block in ``box``; what lies outside the source is zeros."""
    shared = box.intersect(source.info.bounds)
    if shared.empty:
        raise BoxError(f"the block {box} is wholly outside {source.info.bounds}")
    return source.read(shared).pad_to(box)
