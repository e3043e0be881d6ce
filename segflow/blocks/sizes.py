"""Rules of size, a last step on final segments: small ones join their best neighbour, or are removed.

They break the law that a smaller threshold cuts a segment of a larger one, and what they do depends on
the whole volume, so they come last and are declared. Their answer does not depend on blocks: sizes and
contacts are integer sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.exact import Exact, label
from segflow.blocks.ledger import Stage
from segflow.compiled import njit
from segflow.segmentation.merging import above
from segflow.segmentation.regions import contacts
from segflow.segmentation.subgraphs import joined
from segflow.segmentation.unions import renamed, united

Table = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Rules:
    """The stages of the rules of size at a threshold.

    Args:
        exact: the segmentation.
        load: gives results.
        threshold: of the segmentation.
        join_small: segments of fewer voxels join the neighbour to which their mean affinity is largest
            (of equal ones, the smallest id); 0: none.
        dust: what has fewer voxels then is removed; 0: none.
    """

    exact: Exact
    load: Callable[..., Table]
    threshold: Fraction
    join_small: int
    dust: int

    def stages(self) -> Iterator[Stage]:
        """Give the stages, after those of the segments."""
        name, stage = label(self.threshold), self.exact.stage
        last = f"segments-{name}-0"
        key = {"join_small": self.join_small, "dust": self.dust}
        yield stage(f"sizes-{name}", 0, self.sizes, (last,))
        last = f"sizes-{name}"
        if self.join_small:
            least = {"join_small": self.join_small}
            yield stage(f"total-{name}", self.exact.top, lambda _: self.total(), (last,), least)
            yield stage(f"contacts-{name}", 0, self.contacts, (f"total-{name}",))
            last = f"contacts-{name}"
        yield stage(f"rules-{name}", self.exact.top, lambda _: self.rules(), (last,), key)

    def _all(self, stage: str) -> list[Table]:
        return [self.load(f"{stage}-{label(self.threshold)}", i) for i in range(self.exact.tree.count(0))]

    def sizes(self, block: int) -> Table:
        """Count the voxels of each segment in a block."""
        found, counts = np.unique(self.exact.segmented(self.threshold, block), return_counts=True)
        return {"ids": found[found != 0], "voxels": counts[found != 0]}

    def _sizes(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        tables = self._all("sizes")
        ids, place = np.unique(np.concatenate([t["ids"] for t in tables]), return_inverse=True)
        voxels = np.zeros(len(ids), np.int64)
        np.add.at(voxels, place, np.concatenate([t["voxels"] for t in tables]))
        return ids, voxels

    def total(self) -> Table:
        """List the segments that are small."""
        ids, voxels = self._sizes()
        return {"small": ids[voxels < self.join_small]}

    def contacts(self, block: int) -> Table:
        """Give the edges of small segments that a block owns."""
        small = self.load(f"total-{label(self.threshold)}", 0)["small"]
        labels, start = self.exact.with_planes(self.threshold, block)
        affs = self.exact.read(self.exact.tree.box(0, block))
        ids, places = np.unique(labels, return_inverse=True)
        ranks = (places + int(ids[0] != 0)).reshape(labels.shape).astype(np.int32)
        ids = ids[ids != 0]
        u, v, sums, counts = contacts(ranks, affs, start)
        edges = np.column_stack([ids[u - 1], ids[v - 1], sums, counts]).astype(np.int64)
        is_small = np.isin(ids, small)
        return {"edges": edges[is_small[u - 1] | is_small[v - 1]]}

    def rules(self) -> Table:
        """Give the segments that change, sorted, and what they become; 0 is background."""
        ids, voxels = self._sizes()
        new = np.arange(len(ids))
        if self.join_small:
            edges = [table["edges"] for table in self._all("contacts")]
            new = _joined(ids, voxels < self.join_small, edges)
        grown = np.zeros(len(ids), np.int64)
        np.add.at(grown, new, voxels)
        names = np.where(grown[new] < self.dust, 0, ids[new])
        changed = names != ids
        return {"ids": ids[changed], "becomes": names[changed].astype(np.uint64)}


def _joined(
    ids: NDArray[np.uint64], small: NDArray[np.bool_], tables: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Give for each segment the place of the smallest of those it is one with."""
    ends = (np.searchsorted(ids, table[:, :2].astype(np.uint64)).astype(np.uint64) for table in tables)
    codes = [pairs[:, 0] << np.uint64(32) | pairs[:, 1] for pairs in ends]
    u, v, sums, counts, _ = joined(codes, [t[:, 2:] for t in tables], [t[:, :2] for t in tables])
    best = _best(small, u, v, sums, counts)
    chosen = np.flatnonzero(best >= 0)
    return united(len(ids), chosen, best[chosen])


@njit()
def _best(
    small: NDArray[Any], u: NDArray[Any], v: NDArray[Any], sums: NDArray[Any], counts: NDArray[Any]
) -> NDArray[Any]:
    """Give each small segment's neighbour of the largest mean affinity, of equal ones the first; else -1."""
    edge = np.full(small.size, -1, np.int64)
    best = np.full(small.size, -1, np.int64)
    for e in range(u.size):
        for mine, other in ((u[e], v[e]), (v[e], u[e])):
            old = edge[mine]
            if not small[mine]:
                continue
            if (
                old < 0
                or above(sums[e], counts[e], sums[old], counts[old])
                or other < best[mine]
                and not above(sums[old], counts[old], sums[e], counts[e])
            ):
                edge[mine], best[mine] = e, other
    return best


def apply(segments: NDArray[np.uint64], rules: Table) -> NDArray[np.uint64]:
    """Give a block of segments after the rules."""
    ids = rules["ids"]
    if not len(ids):
        return segments
    found, ranks = np.unique(segments, return_inverse=True)
    return renamed(found, ids, rules["becomes"])[ranks].reshape(segments.shape)
