"""Fragments (supervoxels) by a rule that no block, scan order or thread changes.

Every voxel v has a height m(v), the largest of its six affinities, cut off at the high threshold;
it is background where m(v) is not above the low one. An edge whose affinity is the height of both its
ends is mutual, and what mutual edges connect is a plateau. A plateau is left by an edge (u, v) whose
affinity is m(u) < m(v); of several it takes the one with the largest m(v), then the smallest global
index of v. Heights rise along this way, so it ends at a plateau without exit, the core of a fragment.
A fragment's id is 1 + the smallest global index among the voxels of its core.

The rule uses comparisons and global indices alone. It finds the regional maxima of the watershed by
Zlateski and Seung (arXiv 1505.00249), and differs from it in who gets a plateau with several exits.

Arrays are uint8 affinities of shape (3, z, y, x): channel 0, 1, 2 joins a voxel to the one before it on
z, y, x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.segmentation.plateaus import flow, heights, labelled
from segflow.segmentation.unions import distinct, find, united

OPEN, OUTSIDE, KIND = 1 << 61, 1 << 62, 3 << 61  # marks of refs that are not ids yet


@njit()
def _global(at: int, shape: Any, origin: NDArray[Any], size: NDArray[Any]) -> int:
    """Give the index in the volume of the voxel ``at`` of an array that begins at ``origin``."""
    _, ny, nx = shape
    rest, x = at // nx, at % nx
    z, y = rest // ny, rest % ny
    return ((z + origin[0]) * size[1] + y + origin[1]) * size[2] + x + origin[2]


@njit()
def _crossings(
    affs: NDArray[Any], height: NDArray[Any], high: int, start: NDArray[Any], stop: NDArray[Any]
) -> Any:
    """Give what crosses the faces of a block: pairs (voxel inside, voxel outside) of mutual edges, and
    the voxels inside that a voxel outside may flow to or be united with."""
    _, nz, ny, nx = affs.shape
    size, steps = (nz, ny, nx), (ny * nx, nx, 1)
    flat = height.ravel()
    area = 0
    for axis in range(3):
        area += 2 * (stop[axis - 1] - start[axis - 1]) * (stop[axis - 2] - start[axis - 2])
    inner, outer, wanted = np.empty(area, np.int64), np.empty(area, np.int64), np.empty(area, np.int64)
    pairs = faces = 0
    place = np.zeros(3, np.int64)
    for axis in range(3):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        for side in range(2):
            edge = start[axis] if side == 0 else stop[axis] - 1
            if (side == 0 and edge == 0) or (side == 1 and edge + 1 == size[axis]):
                continue
            for i in range(start[one], stop[one]):
                for j in range(start[two], stop[two]):
                    place[axis], place[one], place[two] = edge, i, j
                    at = place[0] * steps[0] + place[1] * steps[1] + place[2]
                    other = at - steps[axis] if side == 0 else at + steps[axis]
                    if flat[at] == 0 or flat[other] == 0 or flat[other] > flat[at]:
                        continue
                    place[axis] += side
                    value = min(affs[axis, place[0], place[1], place[2]], high)
                    if value != flat[other]:
                        continue
                    wanted[faces] = at
                    faces += 1
                    if flat[other] == flat[at]:
                        inner[pairs], outer[pairs] = at, other
                        pairs += 1
    return inner[:pairs], outer[:pairs], wanted[:faces]


@njit()
def _ref(at: int, inside: bool, opened: bool, shape: Any, origin: NDArray[Any], size: NDArray[Any]) -> int:
    where = _global(at, shape, origin, size)
    if not inside:
        return where | OUTSIDE
    return where | OPEN if opened else where + 1


@njit()
def _within(at: int, shape: Any, start: NDArray[Any], stop: NDArray[Any]) -> bool:
    _, ny, nx = shape
    rest, x = at // nx, at % nx
    z, y = rest // ny, rest % ny
    return start[0] <= z < stop[0] and start[1] <= y < stop[1] and start[2] <= x < stop[2]


@njit()
def _opened(parent: NDArray[Any], inner: NDArray[Any]) -> NDArray[Any]:
    """Replace voxels by the first ones of their plateaus, and mark these: they go on in other blocks."""
    opened = np.zeros(parent.size, np.bool_)
    for i in range(inner.size):
        inner[i] = find(parent, inner[i])
        opened[inner[i]] = True
    return opened


@njit()
def _tables(
    ends: NDArray[Any], inner: NDArray[Any], outer: NDArray[Any], wanted: NDArray[Any], roots: NDArray[Any],
    number: NDArray[Any], best: NDArray[Any], opened: NDArray[Any], flat: NDArray[Any],
    shape: Any, start: NDArray[Any], stop: NDArray[Any], origin: NDArray[Any], size: NDArray[Any],
) -> Any:  # fmt: skip
    refs = np.empty(ends.size, np.int64)
    for i in range(ends.size):
        inside = _within(ends[i], shape, start, stop)
        refs[i] = _ref(ends[i], inside, opened[ends[i]], shape, origin, size)
    exits = np.zeros((roots.size, 4), np.int64)
    for i in range(roots.size):
        exits[i, 0] = _ref(roots[i], True, True, shape, origin, size)
        to = best[roots[i]]
        if to >= 0:
            exits[i, 1] = flat[to]
            exits[i, 2] = _global(to, shape, origin, size)
            exits[i, 3] = refs[number[to] - 1] if number[to] else _ref(to, False, False, shape, origin, size)
    pairs = np.empty((inner.size, 2), np.int64)
    for i in range(inner.size):
        pairs[i, 0] = _ref(inner[i], True, True, shape, origin, size)
        pairs[i, 1] = _global(outer[i], shape, origin, size)
    faces = np.empty((wanted.size, 2), np.int64)
    for i in range(wanted.size):
        faces[i, 0] = _global(wanted[i], shape, origin, size)
        faces[i, 1] = refs[number[wanted[i]] - 1]
    return refs, exits, pairs, faces


def parts(
    affs: NDArray[np.uint8], low: int, high: int, core: Box, origin: Sequence[int], size: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Cut one block into fragments as far as its own voxels tell, and say what others must tell.

    Args:
        affs: uint8 (3, z, y, x) of the block and two voxels around it, as far as the volume goes.
        low, high: limits on the scale 0 ... 255 (256: none), see ``segflow.segmentation.affinities``.
        core: the block, in voxels of the volume (its first voxel is 0 0 0).
        origin: first voxel of ``affs``; size: shape of the volume, zyx.

    Returns:
        labels: uint32 zyx of the block, 1 ... n, 0 background.
        refs: int64, n, what each label is: the id of a fragment; or a voxel index | OPEN, a plateau
            that goes on in other blocks, named by its first voxel here; or a voxel index | OUTSIDE,
            the fragment of that voxel of another block.
        exits: of each open plateau: its ref, and its best exit here: height there (0: none), voxel, ref.
        pairs: open plateau, voxel outside that belongs to it too.
        faces: voxels that other blocks ask for, and their refs.
    """
    start = np.array([a - o for a, o in zip(core.start, origin)])
    stop = np.array([a - o for a, o in zip(core.stop, origin)])
    height = heights(affs, low, high)
    shape, flat = height.shape, height.ravel()
    parent, best = np.empty(flat.size, np.int32), np.empty(flat.size, np.int32)
    flow(affs, height, start, stop, parent, best)
    inner, outer, wanted = _crossings(affs, height, high, start, stop)
    opened = _opened(parent, inner)
    number, ends = labelled(flat, shape, start, stop, parent, best, opened)
    tables = _tables(
        ends, inner, outer, wanted, distinct(inner), number, best, opened, flat,
        shape, start, stop, np.array(origin), np.array(size),
    )  # fmt: skip
    labels = number.reshape(shape)[core.slices(origin)].copy()
    return {"labels": labels, **dict(zip(("refs", "exits", "pairs", "faces"), tables))}


def _look_up(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    """Give the places of ``wanted`` in sorted ``keys``; all of them are there."""
    places = np.searchsorted(keys, wanted)
    if len(wanted) and (len(keys) == 0 or (keys[np.minimum(places, len(keys) - 1)] != wanted).any()):
        raise VolumeError("a block's neighbour lacks a voxel that the block refers to; clean the fragments")
    return places


def _held(voxels: NDArray[Any], box: Box, size: Sequence[int]) -> NDArray[Any]:
    """Tell which voxel indices lie in ``box``."""
    places = np.unravel_index(voxels, tuple(size))
    inside = np.ones(len(voxels), bool)
    for place, a, b in zip(places, box.start, box.stop):
        inside &= (place >= a) & (place < b)
    return inside


def join(
    children: Sequence[Mapping[str, NDArray[Any]]], box: Box, size: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Settle between the blocks in ``box`` what they referred to, and say what is left to ask.

    Args:
        children: ``refs`` (or ``asked``), ``exits``, ``pairs``, ``faces`` of each.
        box: what they fill; size: shape of the volume.

    Returns:
        known: the refs that were asked, sorted; ``means``: what each is now, the id of a fragment, or a
        ref that the blocks around ``box`` must settle. ``asked`` are those, and ``exits``, ``pairs``,
        ``faces`` are as in ``parts`` for the whole ``box``.
    """
    exits, pairs, faces = (np.concatenate([c[n] for c in children]) for n in ("exits", "pairs", "faces"))
    asked = np.concatenate([c["asked"] if "asked" in c else c["refs"] for c in children])
    asked = asked[(asked & KIND) != 0]
    faces = faces[np.argsort(faces[:, 0], kind="stable")]
    exits = exits[np.argsort(exits[:, 0], kind="stable")]
    inside = _held(pairs[:, 1], box, size)
    group = _groups(exits[:, 0], pairs[inside], faces)
    still = np.zeros(len(exits), bool)
    still[group[_look_up(exits[:, 0], pairs[~inside, 0])]] = True
    still = still[group]
    chosen = _chosen(group, exits)

    known = distinct(np.concatenate([asked, exits[:, 0], exits[:, 3], faces[:, 1], faces[:, 0] | OUTSIDE]))
    follows = np.arange(len(known))
    means = known.copy()
    voxels = known[(known & KIND) == OUTSIDE] & ~KIND
    voxels = voxels[_held(voxels, box, size)]
    follows[_look_up(known, voxels | OUTSIDE)] = _look_up(known, faces[_look_up(faces[:, 0], voxels), 1])
    at = _look_up(known, exits[:, 0])
    leaves = ~still & (chosen[:, 1] > 0)
    follows[at[leaves]] = _look_up(known, chosen[leaves, 3])
    follows[at[still]] = at[group[still]]
    core = ~still & (chosen[:, 1] == 0)
    means[at[core]] = (exits[group[core], 0] & ~KIND) + 1
    while True:
        further = follows[follows]
        if (further == follows).all():
            break
        follows = further
    means = means[follows]

    heads = still & (group == np.arange(len(exits)))
    outer = chosen[heads]
    outer[:, 0] = exits[heads, 0]
    has = outer[:, 1] > 0
    outer[has, 3] = means[_look_up(known, outer[has, 3])]
    left = pairs[~inside].copy()
    left[:, 0] = means[_look_up(known, left[:, 0])]
    edge = faces[_at_face(faces[:, 0], box, size)].copy()
    edge[:, 1] = means[_look_up(known, edge[:, 1])]
    asked = distinct(asked)
    now = means[_look_up(known, asked)]
    used = distinct(np.concatenate([now, edge[:, 1], outer[has, 3]]))
    return {
        "known": asked, "means": now, "asked": used[(used & KIND) != 0],
        "exits": outer, "pairs": left, "faces": edge,
    }  # fmt: skip


def _groups(plateaus: NDArray[Any], pairs: NDArray[Any], faces: NDArray[Any]) -> NDArray[Any]:
    """Give for each open plateau the place of the first of those it is one plateau with."""
    one = _look_up(plateaus, pairs[:, 0])
    two = _look_up(plateaus, faces[_look_up(faces[:, 0], pairs[:, 1]), 1])
    return united(len(plateaus), one, two)


def _chosen(group: NDArray[Any], exits: NDArray[Any]) -> NDArray[Any]:
    """Give for each open plateau the row of the best exit of its group: highest, then first voxel."""
    order = np.lexsort((exits[:, 2], -exits[:, 1], group))
    first = np.ones(len(order), bool)
    first[1:] = group[order][1:] != group[order][:-1]
    best = np.zeros(len(group), np.int64)
    best[group[order][first]] = order[first]
    return exits[best[group]]


def _at_face(voxels: NDArray[Any], box: Box, size: Sequence[int]) -> NDArray[Any]:
    """Tell which voxels lie at a face of ``box`` that is not the volume's."""
    result = np.zeros(len(voxels), bool)
    for place, a, b, n in zip(np.unravel_index(voxels, tuple(size)), box.start, box.stop, size):
        if a > 0:
            result |= place == a
        if b < n:
            result |= place == b - 1
    return result


def settle(refs: NDArray[Any], known: NDArray[Any], means: NDArray[Any]) -> NDArray[Any]:
    """Give what ``refs`` mean: themselves where they are ids, else by the sorted table ``known``."""
    result = refs.copy()
    unsettled = np.flatnonzero((refs & KIND) != 0)
    result[unsettled] = means[_look_up(known, refs[unsettled])]
    return result
