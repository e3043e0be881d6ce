"""Blocks, boxes of up to 2 x 2 x 2 blocks, boxes of those, up to the whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from segflow.geometry import HIGH_SIDES, LOW_SIDES, Box, Grid, Vec, vec


@dataclass(frozen=True)
class BoxTree:
    """The tree over blocks of a size in a box: level 0 are the blocks, the last level is the whole.

    Nodes of a level are numbered in raster order.

    >>> tree = BoxTree(Box((0, 0, 0), (20, 64, 90)), (20, 32, 32))
    >>> [tree.count(level) for level in range(tree.levels)], str(tree.box(0, 5))
    ([6, 2, 1], '0-20_32-64_64-90')
    """

    bounds: Box
    block: Vec

    @cached_property
    def grid(self) -> Grid:
        """The blocks, of which the last may end beyond the bounds."""
        return Grid.over(self.bounds, self.block)

    @cached_property
    def counts(self) -> list[Vec]:
        """The number of nodes along each axis, for each level."""
        counts = [self.grid.counts]
        while max(counts[-1]) > 1:
            counts.append(vec([-(-n // 2) for n in counts[-1]]))
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
        size = [n << level for n in self.block]
        start = [a + i * n for a, i, n in zip(self.bounds.start, self.place(level, node), size)]
        return Box.of(start, size).intersect(self.bounds)

    def children(self, level: int, node: int) -> list[int]:
        """Give the nodes of the level below that fill this one."""
        below = self.counts[level - 1]
        spans = (range(2 * i, min(2 * i + 2, n)) for i, n in zip(self.place(level, node), below))
        return [self.node(level - 1, place) for place in product(*spans)]

    def parent(self, level: int, node: int, steps: int = 1) -> int:
        """Give the node of the level above, or of one further up, that this one is in."""
        return self.node(level + steps, [i >> steps for i in self.place(level, node)])

    def met(self, level: int, node: int) -> int:
        """Give the bits of the sides at which a node meets another of its parent's."""
        bits = 0
        for i, n, low, high in zip(self.place(level, node), self.counts[level], LOW_SIDES, HIGH_SIDES):
            if i % 2:
                bits |= low
            elif i + 1 < n:
                bits |= high
        return bits

    def before(self, node: int) -> list[int | None]:
        """Give the blocks before a block on z, y and x; None at the volume's side."""
        place = self.place(0, node)
        return [
            self.node(0, [i - (a == axis) for a, i in enumerate(place)]) if place[axis] else None
            for axis in range(3)
        ]
