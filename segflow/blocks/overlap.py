"""Which labels of two overlapping blocks are one object: where to count, the counts, and the rules.

Blocks that are segmented alone agree best in the middle of their overlap, where both saw the most
of what is around. There a label pair is counted, and a rule says which pairs are one object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import UsageError, did_you_mean
from segflow.geometry import Box, vec
from segflow.segmentation.contingency import contingency

Labels = NDArray[np.uint64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

PARTS = 0.9  # of a part in its whole, and of a whole in its parts


@dataclass(frozen=True)
class Pairs:
    """Labels of two blocks that share voxels, a row a pair, sorted; columns of equal length.

    ``count`` is voxels that have both labels; ``size_a`` and ``size_b`` all voxels of either in
    the compared region, also where the other block has none.
    """

    a: Labels
    b: Labels
    count: Counts
    size_a: Counts
    size_b: Counts

    def __len__(self) -> int:
        return self.a.size

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The columns, in the order of the fields."""
        return self.a, self.b, self.count, self.size_a, self.size_b


def count_pairs(one: NDArray[Any], other: NDArray[Any]) -> Pairs:
    """Count what two segmentations of one region share; 0 is no label.

    Args:
        one: zyx integer labels.
        other: zyx integer labels of the same region.

    Raises:
        ChunkError: the shapes differ, or values are not integers.

    >>> count_pairs(np.array([[[1, 1, 1, 0]]]), np.array([[[7, 7, 0, 7]]])).columns[2:]
    (array([2]), array([3]), array([3]))
    """
    if not one.size and one.shape == other.shape:
        none = np.zeros(0, np.int64)
        return Pairs(none.astype(np.uint64), none.astype(np.uint64), none, none, none)
    a, b, count = contingency(one, other)
    _, row = np.unique(a, return_inverse=True)
    _, column = np.unique(b, return_inverse=True)
    both = (a != 0) & (b != 0)
    size_a, size_b = _sums(row, count)[row], _sums(column, count)[column]
    return Pairs(a[both], b[both], count[both], size_a[both], size_b[both])


def _sums(group: NDArray[Any], values: Counts) -> Counts:
    total = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    np.add.at(total, group, values)
    return total


# -- rules --------------------------------------------------------------------------------------


def _best(pairs: Pairs) -> tuple[Flags, Flags]:
    """Tell which pairs are the best of their first and of their second label.

    More voxels are better, then the smaller union, then the smaller labels: the same whichever
    of the two blocks comes first.
    """
    union = pairs.size_a + pairs.size_b
    low, high = np.minimum(pairs.a, pairs.b), np.maximum(pairs.a, pairs.b)
    found = []
    for label in (pairs.a, pairs.b):
        order = np.lexsort((high, low, union, -pairs.count, label))
        first = np.ones(order.size, bool)
        first[1:] = label[order][1:] != label[order][:-1]
        best = np.zeros(order.size, bool)
        best[order[first]] = True
        found.append(best)
    return found[0], found[1]


def _mutual(pairs: Pairs) -> Flags:
    of_a, of_b = _best(pairs)
    return of_a & of_b


def _fractions(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return pairs.count / pairs.size_a, pairs.count / pairs.size_b


def _either(pairs: Pairs, least: float) -> Flags:
    return np.maximum(*_fractions(pairs)) >= least


def _both(pairs: Pairs, least: float) -> Flags:
    return np.minimum(*_fractions(pairs)) >= least


def _iou(pairs: Pairs, least: float) -> Flags:
    return pairs.count / (pairs.size_a + pairs.size_b - pairs.count) >= least


def _mutual_mean(pairs: Pairs, least: float) -> Flags:
    one, other = _fractions(pairs)
    return _mutual(pairs) & ((one + other) / 2 > least)


def _kneuronseg(pairs: Pairs, least: float) -> Flags:
    """Sizes are counted where both blocks have a label."""
    _, row = np.unique(pairs.a, return_inverse=True)
    _, column = np.unique(pairs.b, return_inverse=True)
    size_a, size_b = _sums(row, pairs.count)[row], _sums(column, pairs.count)[column]
    return _either(Pairs(pairs.a, pairs.b, pairs.count, size_a, size_b), least)


@dataclass(frozen=True)
class Rule:
    """A rule by name: its test, and what it takes where nothing is told."""

    test: Callable[[Pairs, float], Flags]
    fraction: float | None = None
    iou: float | None = None
    count_in: str = "mid"
    neighbours: str = "face"


RULES = {
    "mutual": Rule(lambda pairs, least: _mutual(pairs)),
    "either": Rule(_either, 0.9),
    "both": Rule(_both, 0.5),
    "iou": Rule(_iou, iou=0.5),
    "mutual-or-fraction": Rule(lambda pairs, least: _mutual(pairs) | _either(pairs, least), 0.9),
    "mutual-mean": Rule(_mutual_mean, 0.9),
    "kneuronseg": Rule(_kneuronseg, 0.5, count_in="overlap", neighbours="all"),
    "none": Rule(lambda pairs, least: np.zeros(len(pairs), bool)),
}
PLACES = ("mid", "overlap")
NEIGHBOURS = ("face", "all")


@dataclass(frozen=True)
class Matching:
    """How labels of neighbouring blocks are matched.

    Args:
        rule: one of ``RULES``. ``mutual``: each is the other's largest overlap. ``either``: a
            fraction of one of them, ``both``: of both. ``iou``: shared voxels over those of
            either. ``mutual-or-fraction``; ``mutual-mean``: mutual, and the mean of the two
            fractions is above. ``kneuronseg``: either fraction, of voxels that both blocks
            labelled, in the whole overlap with every neighbour. ``none``: nothing is joined.
        min_overlap: voxels that a pair shares at least.
        min_fraction: for the rules with fractions; None is the rule's own (0.9, or 0.5 for
            ``both`` and ``kneuronseg``).
        min_iou: for ``iou``; None is 0.5.
        parts_to_whole: also join the labels that lie to 0.9 in one label of the other block and
            together make up 0.9 of it.
        count_in: ``mid``, the two planes in the middle of the overlap, or ``overlap``, all of it;
            None is the rule's own (``mid`` but for ``kneuronseg``).
        neighbours: ``face``, or ``all``: across edges and corners too; None is the rule's own
            (``face`` but for ``kneuronseg``).
        margin: voxels left out along the faces of a block inside the volume, where it is worst.
        collisions: ``report`` components that hold two labels of one block, or ``refuse``.

    Raises:
        UsageError: an unknown word, a number out of range, or one that the rule does not use.
    """

    rule: str = "mutual"
    min_overlap: int = 5
    min_fraction: float | None = None
    min_iou: float | None = None
    parts_to_whole: bool = False
    count_in: str | None = None
    neighbours: str | None = None
    margin: int = 0
    collisions: str = "report"

    def __post_init__(self) -> None:
        _known("--rule", self.rule, tuple(RULES))
        rule = RULES[self.rule]
        _known("--collisions", self.collisions, ("report", "refuse"))
        _known("--count-in", self.count_in or rule.count_in, PLACES)
        _known("--neighbours", self.neighbours or rule.neighbours, NEIGHBOURS)
        self._check("fraction", self.min_fraction)
        self._check("iou", self.min_iou)
        if self.min_overlap < 1 or self.margin < 0:
            raise UsageError("--min-overlap is at least 1 voxel, and --margin at least 0")

    def _check(self, what: str, told: float | None) -> None:
        if told is None:
            return
        if getattr(RULES[self.rule], what) is None:
            users = ", ".join(name for name, rule in RULES.items() if getattr(rule, what) is not None)
            raise UsageError(f"--min-{what} is not used by --rule {self.rule}, but by {users}")
        if not 0 < told <= 1:
            raise UsageError(f"--min-{what} is above 0 and at most 1, not {told:g}")

    @property
    def where(self) -> str:
        """Where pairs are counted: ``mid`` or ``overlap``."""
        return self.count_in or RULES[self.rule].count_in

    @property
    def reach(self) -> str:
        """With whom a block is compared: ``face`` or ``all``."""
        return self.neighbours or RULES[self.rule].neighbours

    def accept(self, pairs: Pairs) -> Flags:
        """Tell for each pair whether it is one object.

        >>> pairs = count_pairs(np.array([[[1] * 9 + [2] * 6]]), np.array([[[5] * 15]]))
        >>> Matching("mutual").accept(pairs), Matching("either").accept(pairs)
        (array([ True, False]), array([ True,  True]))
        """
        rule = RULES[self.rule]
        least = self.min_iou or rule.iou or self.min_fraction or rule.fraction or 0.0
        chosen = rule.test(pairs, least)
        if self.parts_to_whole:
            chosen = chosen | _parts(pairs)
        return chosen & (pairs.count >= self.min_overlap)


def _parts(pairs: Pairs) -> Flags:
    """Tell which pairs are a part and its whole, the parts of it being (nearly) all there."""
    found = np.zeros(len(pairs), bool)
    for whole, in_whole, size in (
        (pairs.b, pairs.count / pairs.size_a, pairs.size_b),
        (pairs.a, pairs.count / pairs.size_b, pairs.size_a),
    ):
        part = in_whole >= PARTS
        _, group = np.unique(whole, return_inverse=True)
        covered = _sums(group, np.where(part, pairs.count, 0))[group]
        found |= part & (covered >= PARTS * size)
    return found


def _known(option: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        near = did_you_mean(word, list(words))
        raise UsageError(f"{option} has no '{word}'{near}; it has {', '.join(words)}")


# -- where to count -----------------------------------------------------------------------------


def compared(one: Box, other: Box, bounds: Box, matching: Matching) -> Box:
    """Give the region in which two blocks are compared; it may be empty.

    Args:
        one, other: the boxes of two blocks, overlap included.
        bounds: the volume, whose faces need no margin.
        matching: says where, and the margin.

    >>> volume = Box((0, 0, 0), (8, 8, 28))
    >>> left, right = Box((0, 0, 0), (8, 8, 16)), Box((0, 0, 12), (8, 8, 28))
    >>> str(compared(left, right, volume, Matching()))
    '0-8_0-8_13-15'
    """
    shared = bounds.intersect(_trim(one, bounds, matching.margin)).intersect(
        _trim(other, bounds, matching.margin)
    )
    if matching.where == "overlap" or shared.empty:
        return shared
    start, stop = list(shared.start), list(shared.stop)
    for axis in range(3):
        if one.start[axis] != other.start[axis]:
            middle = (max(one.start[axis], other.start[axis]) + min(one.stop[axis], other.stop[axis])) // 2
            start[axis] = max(start[axis], middle - 1)
            stop[axis] = min(stop[axis], middle + 1)
    return Box(vec(start), vec(stop))


def _trim(box: Box, bounds: Box, margin: int) -> Box:
    low = [margin * (a > b) for a, b in zip(box.start, bounds.start)]
    high = [margin * (a < b) for a, b in zip(box.stop, bounds.stop)]
    return box.grow([-m for m in (*low, *high)])
