"""Watershed and agglomeration block by block, with exactly the answer of doing it at once.

The stages, over a tree of boxes (``boxtree``), each reading results of stages before it:

1. ``fragments``: each block is cut into fragments as far as its voxels tell (fragments.parts).
2. ``join-1`` up to the whole volume: what blocks asked each other is settled (fragments.join), then
   ``names-K`` down to the blocks: each label's fragment, whose id no block changed. Of fragments made
   elsewhere they find which lie in several blocks (pieces), and have to wait for each other.
3. ``merge-0``: each block's region graph, merged as far as nothing outside can interfere;
   ``merge-1`` up to the whole volume: what is left, together (subgraphs).
4. ``segments-T-K`` down to the blocks, for each threshold T: each label's segment.

The answer depends on affinities, limits, thresholds and the bounds of the volume alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.boxtree import BoxTree
from segflow.blocks.ledger import Stage
from segflow.compiled import cores, keep_memory
from segflow.geometry import Box, Vec, vec
from segflow.segmentation import fragments, pieces, subgraphs
from segflow.segmentation.unions import renamed

Table = Mapping[str, NDArray[Any]]
Load = Callable[..., Table]  # stage, block, names of arrays (default: all)


@dataclass(frozen=True)
class Exact:
    """The stages of one segmentation.

    Args:
        tree: boxes, in voxels of the volume, whose first voxel is 0 0 0.
        space: shape of the volume, zyx, in which voxels have their indices.
        read: gives the affinities of a box, uint8 (3, z, y, x), channel 0, 1, 2 on z, y, x.
        load: gives the result of a block of a stage.
        low, high: limits of the watershed on the scale 0 ... 255.
        threshold: the largest one; merging goes so far. None: fragments only.
        supervoxels: gives the fragments of a box, zyx int64, in place of the watershed's; one may lie in
            several places.
        quantile: merge by this percentile of the affinities, in place of the mean.
        origin: the volume's first voxel, for messages.
    """

    tree: BoxTree
    space: Vec
    read: Callable[[Box], NDArray[np.uint8]]
    load: Load
    low: int
    high: int
    threshold: Fraction | None = None
    supervoxels: Callable[[Box], NDArray[np.int64]] | None = None
    quantile: int | None = None
    origin: Vec = (0, 0, 0)

    @property
    def top(self) -> int:
        """The level of the whole volume."""
        return self.tree.levels - 1

    @property
    def until(self) -> Fraction:
        """How far is merged."""
        return self.threshold or Fraction(0)

    def stages(self, key: Mapping[str, Any] | None = None) -> Iterator[Stage]:
        """Give the stages up to the merged graph; ``key`` says what the affinities depend on."""
        tree = self.tree
        limits = {**(key or {}), "low": self.low, "high": self.high}
        yield self.stage("fragments", 0, self.fragments, (), limits)
        last = "fragments"
        up, down = (self.join, self.names) if self.supervoxels is None else (self.gather, self.spread)
        for level in range(1, tree.levels):
            yield self.stage(f"join-{level}", level, partial(up, level), (last,))
            last = f"join-{level}"
        for level in range(self.top - 1, -1, -1):
            yield self.stage(f"names-{level}", level, partial(down, level), (last,))
            last = f"names-{level}"
        if self.threshold is None:
            return
        until = {"threshold": str(self.threshold), "quantile": self.quantile}
        if self.quantile is not None:
            yield self.stage("contacts", 0, self.contacts, (last,))
            yield self.stage(f"merge-{self.top}", self.top, self.merge_all, ("contacts",), until)
            return
        yield self.stage("merge-0", 0, self.merge, (last,), until)
        for level in range(1, tree.levels):
            after = (f"merge-{level - 1}",)
            yield self.stage(f"merge-{level}", level, partial(self.merge_up, level), after)

    def cut(self, threshold: Fraction) -> Iterator[Stage]:
        """Give the stages that find the segments at a threshold, not above that of the merging."""
        last = f"merge-{self.top}"
        levels = range(self.top, -1, -1)
        for level in levels if self.quantile is None else sorted({self.top, 0}, reverse=True):
            name = f"segments-{label(threshold)}-{level}"
            key = {"threshold": str(threshold)} if level == self.top else {}
            yield self.stage(name, level, partial(self.segments, threshold, level), (last,), key)
            last = name

    def stage(
        self, name: str, level: int, run: Callable[[int], Table], after: tuple[str, ...], key: Any = None
    ) -> Stage:
        """Give a stage over the nodes of a level."""
        return Stage(
            name, self.tree.count(level), run, after, key or {}, Boxes(self.tree, level, self.origin)
        )

    # -- fragments --------------------------------------------------------------------------

    def fragments(self, block: int) -> Table:
        """Cut a block; keep its labels, what they refer to, and its last planes."""
        core = self.tree.box(0, block)
        if self.supervoxels is not None:
            found = _given(self.supervoxels(core))
        else:
            around = core.grow(2).intersect(self.tree.bounds)
            found = fragments.parts(self.read(around), self.low, self.high, core, around.start, self.space)
        labels = found["labels"]
        return {**found, **{f"last-{axis}": np.take(labels, -1, axis) for axis in range(3)}}

    def join(self, level: int, node: int) -> Table:
        """Settle what the children of a node asked each other."""
        below = "fragments" if level == 1 else f"join-{level - 1}"
        asked = ("refs" if level == 1 else "asked", "exits", "pairs", "faces")
        children = [self.load(below, i, *asked) for i in self.tree.children(level, node)]
        return fragments.join(children, self.tree.box(level, node), self.space)

    def names(self, level: int, node: int) -> Table:
        """Give the fragments that a node's refs (level 0: a block's labels) stand for."""
        if level:
            mine = self.load(f"join-{level}", node, "known", "means")
            refs = mine["means"]
        else:
            refs = self.load("fragments", node, "refs")["refs"]
        stage = f"names-{level + 1}" if level + 1 < self.top else f"join-{self.top}"
        above = self.load(stage, self.tree.parent(level, node), "known", "means")
        found = {"means": fragments.settle(refs, above["known"], above["means"])}
        return {**found, "known": mine["known"]} if level else found

    def gather(self, level: int, node: int) -> Table:
        """List the given fragments of a node, and those that several of its children have."""
        below, name = ("fragments", "refs") if level == 1 else (f"join-{level - 1}", "ids")
        return pieces.gathered([self.load(below, i, name)[name] for i in self.tree.children(level, node)])

    def spread(self, level: int, node: int) -> Table:
        """List the given fragments of a node that lie outside of it too."""
        stage, name = (f"join-{level}", "ids") if level else ("fragments", "refs")
        parent = self.tree.parent(level, node)
        shared = self.load(f"join-{level + 1}", parent, "shared")["shared"]
        mine = self.load(stage, node, name)[name]
        return {"outside": pieces.outside(mine, shared, self.outside(level + 1, parent))}

    def outside(self, level: int, node: int) -> NDArray[np.int64]:
        """Give the fragments of a node that lie outside of it too, where its faces do not tell."""
        if self.supervoxels is None or level == self.top:
            return np.zeros(0, np.int64)
        return self.load(f"names-{level}", node, "outside")["outside"]

    def named(self, block: int) -> NDArray[np.int64]:
        """Give the fragment of each label of a block."""
        settled = self.top and self.supervoxels is None
        stage, name = ("names-0", "means") if settled else ("fragments", "refs")
        return self.load(stage, block, name)[name]

    def labels(self, block: int) -> NDArray[np.uint32]:
        """Give the labels of a block."""
        return self.load("fragments", block, "labels")["labels"]

    # -- agglomeration ----------------------------------------------------------------------

    def merge(self, block: int) -> Table:
        """Build and merge the region graph of a block."""
        core = self.tree.box(0, block)
        goes_on = [b < n for b, n in zip(core.stop, self.tree.bounds.stop)]
        return subgraphs.of_block(*self._region(block), goes_on, self.until, self.outside(0, block))

    def _region(self, block: int) -> tuple[Any, Any, list[Any], Any]:
        """Give a block's labels and fragments, the planes before it, and its affinities."""
        return (
            self.labels(block),
            self.named(block),
            self._planes(None, block),
            self.read(self.tree.box(0, block)),
        )

    def contacts(self, block: int) -> Table:
        """Count the affinities of a block's edges."""
        return {"rows": subgraphs.histograms_of_block(*self._region(block))}

    def merge_all(self, _: int) -> Table:
        """Merge the region graph of the whole volume by a quantile."""
        rows = [self.load("contacts", i, "rows")["rows"] for i in range(self.tree.count(0))]
        return subgraphs.of_histograms(np.concatenate(rows), self.quantile or 0, self.until)

    def merge_up(self, level: int, node: int) -> Table:
        """Join the graphs of a node's children, and merge further."""
        children = self.tree.children(level, node)
        names = ("ids", "live", "sides", "ends", "states", "keys")
        parts = [self.load(f"merge-{level - 1}", i, *names) for i in children]
        met = [self.tree.met(level - 1, i) for i in children]
        return subgraphs.of_parts(parts, met, self.until, self.outside(level, node))

    def segments(self, threshold: Fraction, level: int, node: int) -> Table:
        """Give the segment of each of a node's ids (level 0: of a block's labels)."""
        above = None
        if level < self.top:
            step = 1 if self.quantile is None else self.top
            found = self.load(
                f"segments-{label(threshold)}-{level + step}", self.tree.parent(level, node, step)
            )
            above = (found["ids"], found["segments"])
            if self.quantile is not None:
                return {"segments": renamed(self.named(node), *above)}
        part = self.load(f"merge-{level}", node, "ids", "to", "merges", "live")
        result = subgraphs.segments(part, threshold, above, self.quantile)
        if level:
            return {"ids": part["ids"], "segments": result}
        return {"segments": renamed(self.named(node), part["ids"], result)}

    def lut(self, threshold: Fraction | None, block: int) -> NDArray[np.int64]:
        """Give the segment at a threshold, or the fragment, of the labels 0 ... n of a block."""
        if threshold is None:
            found = self.named(block)
        else:
            found = self.load(f"segments-{label(threshold)}-0", block)["segments"]
        return np.concatenate([np.zeros(1, np.int64), found])

    def segmented(self, threshold: Fraction | None, block: int) -> NDArray[np.uint64]:
        """Give the segmentation of a block at a threshold, or its fragments; zyx."""
        return self.lut(threshold, block).astype(np.uint64)[self.labels(block)]

    def with_planes(self, threshold: Fraction, block: int) -> tuple[NDArray[np.int64], list[int]]:
        """Give the segmentation of a block and of the planes before it, and where the block begins."""
        segments = self.lut(threshold, block)[self.labels(block)]
        return subgraphs.with_planes(segments, self._planes(threshold, block))

    def _planes(self, threshold: Fraction | None, block: int) -> list[NDArray[np.int64] | None]:
        """Give the planes before a block, on z, y and x; None at the volume's side."""
        return [
            None if other is None else self.lut(threshold, other)[self._last(axis, other)]
            for axis, other in enumerate(self.tree.before(block))
        ]

    def _last(self, axis: int, block: int) -> NDArray[np.uint32]:
        return self.load("fragments", block, f"last-{axis}")[f"last-{axis}"]


@dataclass(frozen=True)
class Boxes(Sequence[Box]):
    """The boxes of a level's nodes, in a volume that begins at ``origin``."""

    tree: BoxTree
    level: int
    origin: Vec

    def __len__(self) -> int:
        return self.tree.count(self.level)

    def __getitem__(self, node: Any) -> Any:
        return self.tree.box(self.level, node).shift(self.origin)


def label(threshold: Fraction) -> str:
    """Give a threshold as it stands in names of stages and files.

    >>> label(Fraction("0.7")), label(Fraction("0.800000001"))
    ('0.7', '0.800000001')
    """
    return f"{float(threshold):.12g}"


def _given(ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Give fragments made elsewhere as ``fragments.parts`` gives its own: dense labels, and their ids."""
    found, labels = np.unique(ids, return_inverse=True)
    labels = labels.reshape(ids.shape).astype(np.uint32)
    if found[0] == 0:
        found = found[1:]
    else:
        labels += 1
    return {"labels": labels, "refs": found}


TILE = (64, 256, 256)  # voxels, zyx: blocks in memory; the answer does not depend on it


def segment(
    affs: NDArray[np.uint8],
    low: int,
    high: int,
    threshold: Fraction | None,
    *,
    place: Box | None = None,
    space: Sequence[int] | None = None,
    supervoxels: NDArray[np.int64] | None = None,
    tile: Sequence[int] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint64]:
    """Segment affinities in memory, in tiles that threads work on.

    Args:
        affs: uint8 (3, z, y, x), channel 0, 1, 2 on z, y, x.
        low, high: limits of the watershed on the scale 0 ... 255.
        threshold: merge while 1 - mean affinity is below it; None: fragments only.
        place: the box of the array in the volume, whose first voxel is 0 0 0; default: all of it.
        space: shape of the volume, zyx; default: the array's.
        supervoxels: fragments made elsewhere, zyx, ids from 1, 0 background.
        tile: size of the tiles, voxels zyx; default: TILE.
        threads: default: one a core.

    Returns:
        zyx uint64: each segment has the id of its smallest fragment, 0 is background.
    """
    run = InMemory(affs, low, high, threshold, place, space, supervoxels, tile, threads)
    if threshold is not None:
        run.cut(threshold)
    return run.segmented(threshold)


class InMemory:
    """The stages of one segmentation in memory, done up to the merged graph; ``segment`` says of what.

    One merging serves all thresholds up to its own: ``cut`` one, then ask for it.
    """

    def __init__(
        self,
        affs: NDArray[np.uint8],
        low: int,
        high: int,
        threshold: Fraction | None,
        place: Box | None = None,
        space: Sequence[int] | None = None,
        supervoxels: NDArray[np.int64] | None = None,
        tile: Sequence[int] | None = None,
        threads: int | None = None,
    ) -> None:
        keep_memory()
        self.box = box = place or Box((0, 0, 0), vec(affs.shape[1:]))
        self.threads = threads or cores()
        self._results: dict[str, list[Table]] = {}

        def read(wanted: Box) -> NDArray[np.uint8]:
            return np.ascontiguousarray(affs[(slice(None), *wanted.slices(box.start))])

        given = None if supervoxels is None else lambda wanted: supervoxels[wanted.slices(box.start)]
        tree = BoxTree(box, vec(tile or TILE))
        self.work = Exact(tree, vec(space or box.stop), read, self._load, low, high, threshold, given)
        self._run(self.work.stages())

    def cut(self, threshold: Fraction) -> None:
        """Find the segments at a threshold, not above that of the merging."""
        self._run(self.work.cut(threshold))

    def forget(self, threshold: Fraction) -> None:
        """Drop the segments at a threshold."""
        for name in [n for n in self._results if n.startswith(f"segments-{label(threshold)}-")]:
            del self._results[name]

    def segmented(self, threshold: Fraction | None) -> NDArray[np.uint64]:
        """Give the segmentation at a threshold that was cut, or the fragments; zyx."""
        out = np.empty(self.box.shape, np.uint64)

        def write(block: int) -> None:
            out[self.work.tree.box(0, block).slices(self.box.start)] = self.work.segmented(threshold, block)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(write, range(self.work.tree.count(0))))
        return out

    def _load(self, stage: str, block: int, *names: str) -> Table:
        return self._results[stage][block]

    def _run(self, stages: Iterator[Stage]) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            for stage in stages:
                self._results[stage.name] = [t or {} for t in pool.map(stage.run, range(stage.count))]
