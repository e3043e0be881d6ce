"""The ID pool: one global label for every label of every block, from the pairs that are one object.

A node is a label of a block; nodes are numbered by block, then by label. All tables are columns,
O(labels + pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.errors import ChunkError
from segflow.segmentation.unions import find, united

Nodes = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """The labels of all blocks.

    Args:
        starts: the first node of each block, and the number of nodes.
        labels: uint64, sorted in each block, without 0.
        voxels: int64, of each label in the part of the output that its block gives.
    """

    starts: Nodes
    labels: NDArray[np.uint64]
    voxels: NDArray[np.int64]

    @classmethod
    def of(cls, blocks: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Table:
        """Join the labels and voxels of each block.

        >>> Table.of([(np.array([4, 9]), np.array([1, 1])), (np.array([4]), np.array([8]))]).starts
        array([0, 2, 3])
        """
        starts = np.zeros(len(blocks) + 1, np.int64)
        np.cumsum([labels.size for labels, _ in blocks], out=starts[1:])
        labels, voxels = np.empty(starts[-1], np.uint64), np.empty(starts[-1], np.int64)
        for start, (some, sizes) in zip(starts, blocks):
            labels[start : start + some.size], voxels[start : start + some.size] = some, sizes
        return cls(starts, labels, voxels)

    def nodes(self, block: int, labels: NDArray[Any]) -> Nodes:
        """Give the nodes of labels that ``block`` has."""
        start, stop = self.starts[block : block + 2]
        return start + np.searchsorted(self.labels[start:stop], labels)

    @property
    def block(self) -> Nodes:
        """The block of each node."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))


@dataclass(frozen=True)
class Links:
    """Pairs of nodes that are one object, with the voxels that speak for it."""

    first: Nodes
    second: Nodes
    count: NDArray[np.int64]


@dataclass(frozen=True)
class Guards:
    """What tells whether the joining went wrong; ``str`` gives it in a line.

    ``collisions`` is the number of objects with two labels of one block, ``share`` that of the
    largest object in all labelled voxels, ``blocks`` how many it lies in, ``chain`` the most links
    in a row that hold an object together.
    """

    labels: int
    objects: int
    links: int
    collisions: int
    refused: int
    share: float
    blocks: int
    chain: int

    def __str__(self) -> str:
        refused = f", {self.refused} links refused" if self.refused else ""
        return (
            f"{self.labels} labels of blocks, {self.links} links, {self.objects} objects; {self.collisions} "
            f"of them with two labels of one block{refused}; the largest has {100 * self.share:.1f} % of the "
            f"labelled voxels and lies in {self.blocks} blocks; longest chain: {self.chain} links"
        )


def make_pool(table: Table, links: Links, collisions: str = "report") -> tuple[NDArray[np.uint64], Guards]:
    """Give every node its global label.

    The objects are numbered 1, 2 ... in the order of their smallest node; a node that is nowhere
    in the output, nor anything that it is linked with, gets 0.

    Args:
        table: the labels of all blocks.
        links: which of them are one object.
        collisions: ``refuse`` leaves out links that put two labels of one block into one object:
            links are taken in the order of voxels (more first), then nodes.

    Returns:
        The columns block, label, global label (uint64, 3 rows), and the guards.

    >>> table = Table.of([(np.array([1, 2]), np.array([5, 5])), (np.array([8]), np.array([7]))])
    >>> one = np.array([1])
    >>> pool, guards = make_pool(table, Links(one, one + 1, one * 9))
    >>> pool.tolist(), guards.objects
    ([[0, 0, 1], [1, 2, 8], [1, 2, 2]], 2)
    """
    block = table.block
    root = united(table.labels.size, links.first, links.second)
    made = np.ones(links.first.size, bool)
    if collisions == "refuse":
        made = _without_collisions(root, block, links)
        root = united(table.labels.size, links.first[made], links.second[made])
    voxels = np.zeros(root.size, np.int64)
    np.add.at(voxels, root, table.voxels)
    number = np.cumsum(voxels > 0)
    ids = np.where(voxels[root] > 0, number[root], 0)
    pool = np.stack([block, table.labels, ids]).astype(np.uint64)
    largest = int(voxels.argmax()) if voxels.size else -1
    guards = Guards(
        labels=root.size,
        objects=int(number[-1]) if number.size else 0,
        links=int(made.sum()),
        collisions=int(np.unique(root[_doubled(root, block)]).size),
        refused=int((~made).sum()),
        share=float(voxels.max(initial=0) / max(1, voxels.sum())),
        blocks=int(np.unique(block[root == largest]).size),
        chain=longest_chain(root, links.first[made], links.second[made]),
    )
    return pool, guards


def _doubled(root: Nodes, block: Nodes) -> NDArray[np.bool_]:
    """Tell which nodes share their object with another label of their block."""
    order = np.lexsort((block, root))
    same = (np.diff(root[order]) == 0) & (np.diff(block[order]) == 0)
    found = np.zeros(root.size, bool)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found


def _without_collisions(root: Nodes, block: Nodes, links: Links) -> NDArray[np.bool_]:
    """Tell which links can be made so that no object holds two labels of one block."""
    bad = np.zeros(root.size, bool)
    bad[root[_doubled(root, block)]] = True
    doubtful = np.flatnonzero(bad[root[links.first]])
    order = np.lexsort((links.second[doubtful], links.first[doubtful], -links.count[doubtful]))
    doubtful = doubtful[order]
    ends = np.concatenate([links.first[doubtful], links.second[doubtful]])
    nodes, place = np.unique(ends, return_inverse=True)
    made = np.ones(links.first.size, bool)
    if doubtful.size:
        half = doubtful.size
        made[doubtful] = _apart(block[nodes], int(block.max()) + 1, place[:half], place[half:])
    return made


@njit()
def _apart(block: Any, blocks: int, first: Any, second: Any) -> Any:
    """Unite in order unless both sides hold a label of one block; tell what was united.

    ``table`` is a hash table of root * blocks + block + 1; what was left there by roots that are
    none any more is thrown out when it is half full.
    """
    count = block.size
    parent, ring, size = np.arange(count), np.arange(count), np.ones(count, np.int64)
    table = np.zeros(4 << int(np.ceil(np.log2(count + 1))), np.int64)
    used = _refill(table, parent, block, blocks)
    made = np.zeros(first.size, np.bool_)
    for i in range(first.size):
        a, b = find(parent, first[i]), find(parent, second[i])
        if a == b:
            made[i] = True
            continue
        if size[a] < size[b]:
            a, b = b, a
        free, node = True, b
        for _ in range(size[b]):
            free = free and table[_slot(table, a * blocks + block[node] + 1)] == 0
            node = ring[node]
        if not free:
            continue
        made[i] = True
        parent[b] = a
        if 2 * (used + size[b]) > table.size:
            used = _refill(table, parent, block, blocks)
        else:
            for _ in range(size[b]):
                key = a * blocks + block[node] + 1
                table[_slot(table, key)] = key
                node = ring[node]
            used += size[b]
        size[a] += size[b]
        ring[a], ring[b] = ring[b], ring[a]
    return made


@njit()
def _slot(table: Any, key: Any) -> Any:
    """Give the place of a key, or the free place where it belongs."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    at = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(table.size - 1))
    while table[at] != 0 and table[at] != key:
        at = (at + 1) & (table.size - 1)
    return at


@njit()
def _refill(table: Any, parent: Any, block: Any, blocks: int) -> int:
    table[:] = 0
    for node in range(block.size):
        key = find(parent, node) * blocks + block[node] + 1
        table[_slot(table, key)] = key
    return block.size


def longest_chain(root: Nodes, first: Nodes, second: Nodes) -> int:
    """Give the most links in a row, on shortest ways, that hold an object together.

    From the smallest node of each object to the farthest, and from there to the farthest: exact
    where the links have no loops, else a lower bound.
    """
    ends, others = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.argsort(ends, kind="stable")
    starts = np.zeros(root.size + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=root.size), out=starts[1:])
    far, _ = _farthest(starts, others[order], root, np.flatnonzero(root == np.arange(root.size)))
    return int(_farthest(starts, others[order], root, far)[1])


@njit()
def _farthest(starts: Any, others: Any, root: Any, sources: Any) -> Any:
    """Walk from one source in each object; give the last node reached in each, and the most steps."""
    depth = np.full(root.size, -1, np.int64)
    last = np.zeros(root.size, np.int64)
    queue = np.empty(root.size, np.int64)
    queue[: sources.size] = sources
    depth[sources] = 0
    at, end, most = 0, sources.size, 0
    while at < end:
        node = queue[at]
        at += 1
        last[root[node]] = node
        most = depth[node]
        for i in range(starts[node], starts[node + 1]):
            other = others[i]
            if depth[other] < 0:
                depth[other] = depth[node] + 1
                queue[end] = other
                end += 1
    return last[root[sources]], most


# -- the pool in use ----------------------------------------------------------------------------


def pool_dtype(pool: NDArray[np.uint64], wanted: str | None = None) -> str:
    """Give the dtype of the output: ``wanted``, else uint32 where the labels fit, else uint64.

    Raises:
        ChunkError: the labels do not fit into ``wanted``.
    """
    most = int(pool[2].max(initial=0))
    if wanted is None:
        return "uint32" if most <= np.iinfo(np.uint32).max else "uint64"
    if np.dtype(wanted).kind not in "ui":
        raise ChunkError(f"labels are integers, and the output is {wanted}; use --dtype uint32 or uint64")
    if most > np.iinfo(wanted).max:
        raise ChunkError(
            f"there are {most} labels, and {wanted} holds {np.iinfo(wanted).max}; "
            "use --dtype uint32 or uint64"
        )
    return wanted


def block_slice(pool: NDArray[np.uint64], block: int) -> NDArray[np.uint64]:
    """Give the labels and the global labels (2 rows) of one block; memory maps are read in part."""
    start, stop = np.searchsorted(pool[0], [block, block + 1])
    return pool[1:, start:stop]


def apply_pool(array: NDArray[Any], mine: NDArray[np.uint64], dtype: str) -> NDArray[Any]:
    """Replace the labels of a block by global ones.

    Args:
        array: integer labels, any shape; 0 stays.
        mine: what ``block_slice`` gives for the block.
        dtype: of the result; see ``pool_dtype``.

    Raises:
        ChunkError: a label that the pool does not know.

    >>> apply_pool(np.array([[0, 4, 9]]), np.array([[4, 9], [1, 2]], np.uint64), "uint32").tolist()
    [[0, 1, 2]]
    """
    result = np.empty(array.size, dtype)
    flat = np.ascontiguousarray(array).reshape(-1)
    unknown = int(_apply(flat, np.ascontiguousarray(mine[0]), mine[1].astype(dtype), result))
    if unknown >= 0:
        raise ChunkError(
            f"label {flat[unknown]} is not in the ID pool: the block was changed after --stage pool; "
            "run that again"
        )
    return result.reshape(array.shape)


@njit()
def _apply(flat: Any, local: Any, ids: Any, result: Any) -> int:
    last, number = np.uint64(0), ids.dtype.type(0)
    for i in range(flat.size):
        label = np.uint64(flat[i])
        if label != last:
            last, number = label, ids.dtype.type(0)
            if label != 0:
                at = np.searchsorted(local, label)
                if at == local.size or local[at] != label or ids[at] == 0:
                    return i
                number = ids[at]
        result[i] = number
    return -1
