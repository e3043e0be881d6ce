"""Blocks, boxes of two blocks, boxes of two of those, up to the whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from segflow.geometry import HIGH_SIDES, LOW_SIDES, Box, Grid, Vec, vec


@dataclass(frozen=True)
class BoxTree:
    """The tree over blocks of a size in a box: level 0 are the blocks, the last level is the whole.

    From level to level two neighbours become one, along the axis on which they are shortest, so boxes
    stay near to cubes: what crosses their faces is what is left to do. Nodes of a level are numbered in
    raster order.

    >>> tree = BoxTree(Box((0, 0, 0), (20, 64, 90)), (20, 32, 30))
    >>> [tree.count(level) for level in range(tree.levels)], str(tree.box(0, 5))
    ([6, 4, 2, 1], '0-20_32-64_60-90')
    """

    bounds: Box
    block: Vec

    @cached_property
    def grid(self) -> Grid:
        """The blocks, of which the last may end beyond the bounds."""
        return Grid.over(self.bounds, self.block)

    @cached_property
    def axes(self) -> list[int]:
        """The axis along which the nodes of each level but the last are joined."""
        counts, sizes, axes = list(self.grid.counts), list(self.block), []
        while max(counts) > 1:
            axis = min((a for a in range(3) if counts[a] > 1), key=sizes.__getitem__)
            counts[axis], sizes[axis] = -(-counts[axis] // 2), 2 * sizes[axis]
            axes.append(axis)
        return axes

    @cached_property
    def counts(self) -> list[Vec]:
        """The number of nodes along each axis, for each level."""
        counts = [self.grid.counts]
        for axis in self.axes:
            counts.append(vec([-(-n // 2) if a == axis else n for a, n in enumerate(counts[-1])]))
        return counts

    @property
    def levels(self) -> int:
        """The number of levels."""
        return len(self.counts)

    def count(self, level: int) -> int:
        """Give the number of nodes of a level."""
        return prod(self.counts[level])

    def place(self, level: int, node: int) -> Vec:
        """Give the place of a node in its level's grid."""
        _, ny, nx = self.counts[level]
        rest, x = divmod(node, nx)
        return (rest // ny, rest % ny, x)

    def node(self, level: int, place: Sequence[int]) -> int:
        """Give the number of the node at ``place``."""
        _, ny, nx = self.counts[level]
        z, y, x = place
        return (z * ny + y) * nx + x

    def box(self, level: int, node: int) -> Box:
        """Give the box of a node."""
        size = [n << self.axes[:level].count(a) for a, n in enumerate(self.block)]
        start = [a + i * n for a, i, n in zip(self.bounds.start, self.place(level, node), size)]
        return Box.of(start, size).intersect(self.bounds)

    def children(self, level: int, node: int) -> list[int]:
        """Give the nodes of the level below that fill this one, one or two."""
        axis, place = self.axes[level - 1], self.place(level, node)
        first = 2 * place[axis]
        both = range(first, min(first + 2, self.counts[level - 1][axis]))
        return [self.node(level - 1, [i if a == axis else p for a, p in enumerate(place)]) for i in both]

    def parent(self, level: int, node: int, steps: int = 1) -> int:
        """Give the node of the level above, or of one further up, that this one is in."""
        joined = self.axes[level : level + steps]
        return self.node(level + steps, [i >> joined.count(a) for a, i in enumerate(self.place(level, node))])

    def met(self, level: int, node: int) -> int:
        """Give the bit of the side at which a node meets the other of its parent's; 0: it is alone."""
        axis = self.axes[level]
        i = self.place(level, node)[axis]
        if i % 2:
            return LOW_SIDES[axis]
        return HIGH_SIDES[axis] if i + 1 < self.counts[level][axis] else 0

    def before(self, node: int) -> list[int | None]:
        """Give the blocks before a block on z, y and x; None at the volume's side."""
        place = self.place(0, node)
        return [
            self.node(0, [i - (a == axis) for a, i in enumerate(place)]) if place[axis] else None
            for axis in range(3)
        ]
