"""Boxes and grids in voxels; everything is z, y, x and half-open."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segflow.errors import BoxError

Vec = tuple[int, int, int]

LOW_SIDES, HIGH_SIDES = (1, 2, 4), (8, 16, 32)  # bits that stand for the sides z, y, x of a box

_RANGE = re.compile(r"(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)")


def vec(values: int | Sequence[int]) -> Vec:
    """Give three ints from an int or from three numbers."""
    if isinstance(values, int):
        return (values, values, values)
    z, y, x = (int(v) for v in values)
    return (z, y, x)


def words(numbers: Sequence[float]) -> str:
    """Give numbers as they stand on the command line.

    >>> words((20, 1000000, 6.5, 30.0))
    '20 1000000 6.5 30'
    """
    return " ".join(f"{n:g}" if isinstance(n, float) else str(n) for n in numbers)


@dataclass(frozen=True, order=True)
class Box:
    """A half-open box: ``start`` and ``stop`` in voxels, zyx.

    >>> box = Box((0, 0, 0), (20, 256, 256))
    >>> str(box), box.shape
    ('0-20_0-256_0-256', (20, 256, 256))
    >>> Box.parse("-4-36_0-8_0-8").start
    (-4, 0, 0)
    """

    start: Vec
    stop: Vec

    @classmethod
    def of(cls, start: Sequence[int], size: int | Sequence[int]) -> Box:
        """Give the box that begins at ``start`` and has ``size`` voxels."""
        begin, extent = vec(start), vec(size)
        return cls(begin, vec([b + s for b, s in zip(begin, extent)]))

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``z0-z1_y0-y1_x0-x1`` anywhere in ``text``; raise BoxError if it is not there."""
        found = _RANGE.search(text)
        if not found:
            raise BoxError(f"'{text}' holds no box; write it as z0-z1_y0-y1_x0-x1")
        z0, z1, y0, y1, x0, x1 = (int(g) for g in found.groups())
        return cls((z0, y0, x0), (z1, y1, x1))

    def __str__(self) -> str:
        return "_".join(f"{a}-{b}" for a, b in zip(self.start, self.stop))

    @property
    def shape(self) -> Vec:
        """The size in voxels."""
        return vec([b - a for a, b in zip(self.start, self.stop)])

    @property
    def empty(self) -> bool:
        """Whether it holds no voxel."""
        return any(s <= 0 for s in self.shape)

    @property
    def voxels(self) -> int:
        """The number of voxels."""
        return 0 if self.empty else math.prod(self.shape)

    def grow(self, margin: int | Sequence[int]) -> Box:
        """Move every face outward by ``margin`` (three numbers, or six: low faces, then high)."""
        values = list(vec(margin)) * 2 if isinstance(margin, int) or len(margin) == 3 else list(margin)
        low, high = values[:3], values[3:]
        return Box(
            vec([a - m for a, m in zip(self.start, low)]),
            vec([b + m for b, m in zip(self.stop, high)]),
        )

    def shift(self, by: Sequence[int]) -> Box:
        """Move the box."""
        return Box(vec([a + d for a, d in zip(self.start, by)]), vec([b + d for b, d in zip(self.stop, by)]))

    def intersect(self, other: Box) -> Box:
        """Give what both share; it may be empty."""
        return Box(
            vec([max(a, b) for a, b in zip(self.start, other.start)]),
            vec([min(a, b) for a, b in zip(self.stop, other.stop)]),
        )

    def contains(self, other: Box) -> bool:
        """Whether ``other`` lies wholly inside."""
        return self.intersect(other) == other

    def slices(self, origin: Sequence[int] = (0, 0, 0)) -> tuple[slice, slice, slice]:
        """Give the slices of this box in an array whose first voxel is at ``origin``."""
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, origin))
        return (z, y, x)

    def scale(self, numerator: Sequence[int], denominator: Sequence[int] = (1, 1, 1)) -> Box:
        """Multiply by a fraction per axis; raise BoxError where it does not divide."""
        values = []
        for corner in (self.start, self.stop):
            for value, n, d in zip(corner, numerator, denominator):
                if value * n % d:
                    raise BoxError(f"box {self} does not divide by {tuple(denominator)} at the other mip")
                values.append(value * n // d)
        return Box(vec(values[:3]), vec(values[3:]))

    def snap(self, block: Sequence[int], origin: Sequence[int] = (0, 0, 0)) -> Box:
        """Give the smallest box around this one that is aligned to ``block`` counted from ``origin``."""
        return Box(
            vec([o + (a - o) // b * b for a, b, o in zip(self.start, block, origin)]),
            vec([o - (o - a) // b * b for a, b, o in zip(self.stop, block, origin)]),
        )


def starts(length: int, size: int, stride: int, first: int = 0) -> list[int]:
    """Give the starts along one axis so that windows of ``size`` cover ``length``.

    A window that would run over the end is moved back to it (never before ``first``).

    >>> starts(36, 20, 16)
    [0, 16]
    >>> starts(100, 20, 16)
    [0, 16, 32, 48, 64, 80]
    """
    last = max(first + length - size, first)
    inside = list(range(first, last, stride))
    return [*inside, last]


@dataclass(frozen=True)
class Grid:
    """Blocks of ``size`` that begin every ``stride`` from ``start``, in raster order.

    A sequence of boxes: they are made when they are asked for, so a grid of any length is small.

    >>> grid = Grid.over(Box((0, 0, 0), (20, 64, 100)), (20, 64, 40), stride=(20, 64, 30))
    >>> grid.counts, [box.start[2] for box in grid]
    ((1, 1, 3), [0, 30, 60])
    """

    start: Vec
    size: Vec
    stride: Vec
    counts: Vec

    @classmethod
    def over(cls, box: Box, size: Sequence[int], stride: Sequence[int] | None = None) -> Grid:
        """Give the fewest blocks that cover ``box``; the last ones may end beyond it.

        The last block never lies inside the overlap with the one before.

        Raises:
            BoxError: ``size`` or ``stride`` is not positive.
        """
        extent, step = vec(size), vec(stride or size)
        if min(*extent, *step) < 1:
            raise BoxError(f"a grid of blocks {extent} every {step} voxels is none; both must be positive")
        covered = (length - max(s - d, 0) for length, s, d in zip(box.shape, extent, step))
        return cls(box.start, extent, step, vec([max(1, -(-c // d)) for c, d in zip(covered, step)]))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, index: int) -> Box:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rest, x = divmod(index, self.counts[2])
        place = (*divmod(rest, self.counts[1]), x)
        return Box.of([b + i * d for b, i, d in zip(self.start, place, self.stride)], self.size)

    def __iter__(self) -> Iterator[Box]:
        return (self[i] for i in range(len(self)))


def blocks(box: Box, size: Sequence[int], stride: Sequence[int] | None = None) -> Iterator[Box]:
    """Give blocks of ``size`` that begin every ``stride`` (default: size) from ``box.start``.

    In raster order, until ``box`` is covered; the last ones may end beyond it.
    """
    return iter(Grid.over(box, size, stride))
