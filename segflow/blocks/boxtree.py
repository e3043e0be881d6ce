"""Blocks, boxes of a few blocks, boxes of a few of those, up to the whole volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from segflow.geometry import HIGH_SIDES, LOW_SIDES, Box, Grid, Vec, vec

FEW = 8  # nodes; with more, a level joins twice


@dataclass(frozen=True)
class BoxTree:
    """The tree over blocks of a size in a box: level 0 are the blocks, the last level is the whole.

    From level to level two neighbours become one, along the axis on which they are shortest, so boxes
    stay near to cubes: what crosses their faces is what is left to do. Where many are left, it is done
    twice at once: fewer levels are less work, while the last ones, which are the largest, join only two.
    Nodes of a level are numbered in raster order.

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
    def joins(self) -> list[list[int]]:
        """The axes along which the nodes of each level but the last are joined."""
        counts, sizes, joins = list(self.grid.counts), list(self.block), list[list[int]]()
        while max(counts) > 1:
            many = prod(counts) > FEW
            axes = []
            for _ in range(2 if many else 1):
                axis = min((a for a in range(3) if counts[a] > 1), key=sizes.__getitem__)
                counts[axis], sizes[axis] = -(-counts[axis] // 2), 2 * sizes[axis]
                axes.append(axis)
            joins.append(axes)
        return joins

    def _halvings(self, level: int, until: int) -> list[int]:
        """Count how often nodes are joined along each axis, from one level to another."""
        axes = [axis for joined in self.joins[level:until] for axis in joined]
        return [axes.count(axis) for axis in range(3)]

    @cached_property
    def counts(self) -> list[Vec]:
        """The number of nodes along each axis, for each level."""
        return [
            vec([-(-n // (1 << h)) for n, h in zip(self.grid.counts, self._halvings(0, level))])
            for level in range(len(self.joins) + 1)
        ]

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
        size = [n << h for n, h in zip(self.block, self._halvings(0, level))]
        start = [a + i * n for a, i, n in zip(self.bounds.start, self.place(level, node), size)]
        return Box.of(start, size).intersect(self.bounds)

    def children(self, level: int, node: int) -> list[int]:
        """Give the nodes of the level below that fill this one."""
        steps, below = self._halvings(level - 1, level), self.counts[level - 1]
        spans = (
            range(i << h, min((i + 1) << h, n)) for i, h, n in zip(self.place(level, node), steps, below)
        )
        return [self.node(level - 1, place) for place in product(*spans)]

    def parent(self, level: int, node: int, steps: int = 1) -> int:
        """Give the node of the level above, or of one further up, that this one is in."""
        halvings = self._halvings(level, level + steps)
        return self.node(level + steps, [i >> h for i, h in zip(self.place(level, node), halvings)])

    def met(self, level: int, node: int) -> int:
        """Give the bits of the sides at which a node meets another of its parent's."""
        bits, sides = 0, zip(self._halvings(level, level + 1), self.place(level, node), self.counts[level])
        for (halvings, i, n), low, high in zip(sides, LOW_SIDES, HIGH_SIDES):
            family = i >> halvings
            bits |= low if i > 0 and (i - 1) >> halvings == family else 0
            bits |= high if i + 1 < n and (i + 1) >> halvings == family else 0
        return bits

    def before(self, node: int) -> list[int | None]:
        """Give the blocks before a block on z, y and x; None at the volume's side."""
        place = self.place(0, node)
        return [
            self.node(0, [i - (a == axis) for a, i in enumerate(place)]) if place[axis] else None
            for axis in range(3)
        ]
