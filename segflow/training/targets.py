"""What a network learns, made from labels: affinities, foreground, contours, distances, shape descriptors.

Two things are kept apart everywhere. An id of 0 is *no object*: its affinity to everything is 0, and
that is learned. A voxel outside the mask is *unknown*: its label is never read, and whatever depends
on it is not known and not learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segflow.errors import ChunkError, UsageError, did_you_mean
from segflow.training.label_changes import (
    Labels,
    Mask,
    as_ids,
    checked_width,
    dilate,
    erode,
    holds_one,
    largest_around,
    pieces_of,
    relabel,
)

__all__ = ["affinities", "dilate", "erode", "head_layout", "make_targets", "relabel"]

HEAD_KEYS: dict[str, tuple[str, ...]] = {
    "affinity": ("offsets",),
    "foreground": ("ids",),
    "contour": ("width", "background"),
    "distance": ("mode", "scale"),
    "lsd": ("sigma",),
}
COMMON_KEYS = ("kind", "erosion", "dilation")
BINARY = ("affinity", "foreground", "contour")  # kinds whose targets are 0 or 1


class Target(Protocol):
    """What ``make_targets`` reads of ``config.target``."""

    offsets: list[list[int]]
    relabel: bool
    erosion: int
    dilation: int
    heads: list[dict[str, Any]]
    mask_first_planes: bool


def affinities(
    labels: Labels, offsets: Sequence[Sequence[int]], mask: Mask | None = None, *, padded: bool = False
) -> tuple[NDArray[np.float32], Mask]:
    """Give the affinities of labels: 1 where an edge joins two voxels of one object.

    Channel c at voxel v is the edge from v to v + offsets[c]. An edge is known if both its voxels are
    known and lie in the array. What is not known holds 0.

    Args:
        labels: zyx, any integers; 0 is no object, and its affinities are 0.
        offsets: zyx triples in voxels, negative or positive.
        mask: zyx, False where a voxel is unknown; None: all are known.
        padded: an edge that leaves the array ends at the nearest voxel inside instead of being
            unknown (as in PyTorch Connectomics: the first plane is then 1 inside of objects).

    Returns:
        float32 czyx of 0 and 1, and bool czyx: where they are known.

    Raises:
        ChunkError: shapes that differ, not zyx, or no integers. UsageError: offsets that are none.

    >>> values, known = affinities(np.array([[[7, 7, 0, 0, 9]]]), [(0, 0, -1)])
    >>> values[0, 0, 0].tolist(), known[0, 0, 0].tolist()
    ([0.0, 1.0, 0.0, 0.0, 0.0], [False, True, True, True, True])
    """
    ids = as_ids(labels)
    valid = _mask(mask, ids)
    values = np.empty((len(offsets), *ids.shape), np.float32)
    known = np.empty(values.shape, np.bool_)
    _join(ids, valid, offsets, padded, values, known)
    return values, known


def head_layout(target: Target, size: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """Give (kind, number of channels) of each head, in order; the network needs their sum.

    Args:
        target: the configuration's section ``target``.
        size: of the crops, zyx voxels; None: offsets are not compared with it.

    Raises:
        UsageError: no head, an unknown kind or key, offsets that are none or leave the crop everywhere.
    """
    if not target.heads:
        raise UsageError("target.heads is empty; give one, as [{kind: affinity}]")
    layout = []
    for place, head in enumerate(target.heads):
        kind = str(head.get("kind", ""))
        if kind not in HEAD_KEYS:
            near = did_you_mean(kind, [*HEAD_KEYS])
            raise UsageError(f"target.heads[{place}]: no kind '{kind}'{near}; give {', '.join(HEAD_KEYS)}")
        allowed = [*COMMON_KEYS, *HEAD_KEYS[kind]]
        for word in head:
            if word not in allowed:
                near = did_you_mean(str(word), allowed)
                raise UsageError(f"target.heads[{place}] ({kind}): no key '{word}'{near}")
        channels = 10 if kind == "lsd" else 1
        if kind == "affinity":
            channels = len(_offsets(head.get("offsets", target.offsets), size))
        layout.append((kind, channels))
    return layout


def make_targets(
    labels: Labels,
    mask: Mask | None,
    target: Target,
    voxel_size: Sequence[float] | None = None,
) -> tuple[NDArray[Any], Mask, list[tuple[str, int]]]:
    """Give what a network shall answer for a crop, and where that is known.

    The labels of unknown voxels are set to 0 first; then objects are split into connected pieces (if
    ``target.relabel``, and unless they touch what is unknown and may join them), eroded, dilated, and
    each head is made. A head may have an ``erosion`` and
    ``dilation`` of its own. The heads, all in [0, 1]:

    - affinity (``offsets``: those of the target): see ``affinities``;
    - foreground (``ids``: all): 1 in objects, or in these;
    - contour (``width`` 1, ``background`` true): 1 where the window of (2 width + 1)^2 voxels in the
      section holds two different ids, without ``background`` two different objects;
    - distance (``mode`` 2d or 3d, ``scale`` nm or none): distance to the border of the own object, in
      the section or in space; tanh(distance / scale), without a scale divided by the object's largest
      in the section or crop. It is known where the border is nearer than any unknown voxel; the
      faces of the crop are no border;
    - lsd (``sigma`` 80 nm): ten local shape descriptors, see ``shape_descriptors``, known in objects.

    Args:
        labels: zyx, any integers; 0 is no object.
        mask: bool, zyx, False where the labels are unknown; None: all are known.
        target: the configuration's section ``target``.
        voxel_size: nm, zyx; needed by lsd, and by distance in 3d or with a scale.

    Returns:
        czyx targets, uint8 if all are 0 or 1 (no distance, no lsd), else float32; bool czyx: where they
        are known; and (kind, channels) of each head, in order.

    Raises:
        ChunkError: shapes that differ, not zyx, or no integers.
        UsageError: a head that is none, or that cannot be made for a crop of this size.
    """
    ids = as_ids(labels)
    layout = head_layout(target, ids.shape)
    valid = _mask(mask, ids)
    if valid is not None:
        ids = np.where(valid, ids, ids.dtype.type(0))
    shape = (sum(channels for _, channels in layout), *ids.shape)
    binary = all(kind in BINARY for kind, _ in layout)
    values, known = np.empty(shape, np.uint8 if binary else np.float32), np.empty(shape, np.bool_)
    first = 0
    changed = cache(lambda *change: _changed(ids, valid, *change))
    for head, (kind, channels) in zip(target.heads, layout):
        part = slice(first, first + channels)
        first += channels
        pieces = bool(target.relabel) and "ids" not in head
        widths = (head.get("erosion", target.erosion), head.get("dilation", target.dilation))
        mine = changed(pieces, *widths)
        _HEADS[kind](_Part(mine, valid, head, target, voxel_size, values[part], known[part]))
    return values, known, layout


def check_voxel_size(heads: Sequence[dict[str, Any]], voxel_size: Sequence[float] | None) -> None:
    """Raise UsageError if a head is measured in nm and the voxel size is not known."""
    for head in heads:
        kind, space = head["kind"], head.get("mode") == "3d" or head.get("scale") is not None
        if voxel_size is None and (kind == "lsd" or (kind == "distance" and space)):
            raise UsageError(f"the head {kind} needs the voxel size: give data.voxel_size in nm, z y x")


def _changed(ids: Labels, valid: Mask | None, pieces: bool, erosion: int, dilation: int) -> Labels:
    """Give labels split into pieces, eroded and dilated."""
    ids = pieces_of(ids, valid) if pieces else ids
    ids = erode(ids, erosion) if erosion else ids
    return dilate(ids, dilation) if dilation else ids


@dataclass(frozen=True)
class _Part:
    """One head: the labels of the crop, what is asked, and the channels to write."""

    ids: Labels  # unsigned, 0 where unknown
    valid: Mask | None
    head: dict[str, Any]
    target: Target
    voxel_size: Sequence[float] | None
    values: NDArray[Any]
    known: Mask


def _mask(mask: Mask | None, ids: Labels) -> Mask | None:
    """Give a mask as bool, or None if all is known."""
    if mask is None:
        return None
    if mask.shape != ids.shape:
        raise ChunkError(f"the mask has the shape {mask.shape}, but the labels {ids.shape}")
    valid = np.ascontiguousarray(mask, np.bool_)
    return None if valid.all() else valid


def _offsets(offsets: Sequence[Sequence[int]], size: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Check a list of zyx triples, and that each joins voxels of a crop of this size."""
    for offset in offsets:
        if len(offset) != 3 or any(o != int(o) for o in offset) or not any(offset):
            raise UsageError(f"target.offsets: {list(offset)} is no offset; give z y x, as [-1, 0, 0]")
        if size is not None and any(abs(o) >= s for o, s in zip(offset, size, strict=True)):
            raise UsageError(
                f"target.offsets: {list(offset)} leaves a crop of {' '.join(map(str, size))} voxels "
                "everywhere; take a larger model.patch_size or leave this offset out"
            )
    if not len(offsets):
        raise UsageError("target.offsets is empty; give z y x triples, as [[0, 0, -1], [0, -1, 0]]")
    return np.array(offsets, np.int64)


def _join(
    ids: Labels,
    valid: Mask | None,
    offsets: Sequence[Sequence[int]],
    padded: bool,
    values: NDArray[Any],
    known: NDArray[Any],
) -> None:
    from segflow.training.label_kernels import join

    bytes_ = np.zeros((1, 1, 1), np.uint8) if valid is None else valid.view(np.uint8)
    join(ids, bytes_, valid is not None, _offsets(offsets), padded, values, known)


def _affinity(part: _Part) -> None:
    offsets = part.head.get("offsets", part.target.offsets)
    padded = not part.target.mask_first_planes
    _join(part.ids, part.valid, offsets, padded, part.values, part.known)


def _foreground(part: _Part) -> None:
    chosen = part.head.get("ids")
    part.values[0] = part.ids != 0 if chosen is None else np.isin(part.ids, chosen)
    part.known[0] = True if part.valid is None else part.valid


def _contour(part: _Part) -> None:
    """Two different known ids suffice for a contour; that there is none needs a window all known."""
    ids, valid = part.ids, part.valid
    width = checked_width(part.head.get("width", 1), "width of a contour")
    contour = ~holds_one(ids, width)
    if part.head.get("background", True):
        empty = ids == 0 if valid is None else (ids == 0) & valid
        contour |= (largest_around(ids, width) != 0) & largest_around(empty, width)
    part.values[0] = contour
    part.known[0] = True
    if valid is not None:
        part.values[0] *= valid
        part.known[0] = valid & (contour | ~largest_around(~valid, width))


def _distance(part: _Part) -> None:
    from segflow.training.distances import border_distance, scaled

    ids, valid = part.ids, part.valid
    mode, scale = part.head.get("mode", "2d"), part.head.get("scale")
    if mode not in ("2d", "3d"):
        raise UsageError(f"the mode of the head distance is 2d or 3d, not '{mode}'")
    check_voxel_size([part.head], part.voxel_size)
    size = tuple(float(s) for s in part.voxel_size or (1, 1, 1))
    distance = border_distance(ids, size, mode)
    sure = np.ones(ids.shape, np.bool_) if valid is None else valid
    if valid is not None:
        sure = valid & ((distance < border_distance(valid.view(np.uint8), size, mode)) | (ids == 0))
    part.values[0] = scaled(distance, ids, scale, mode) * sure
    part.known[0] = sure


def _shape(part: _Part) -> None:
    from segflow.training.shape_descriptors import shape_descriptors

    check_voxel_size([part.head], part.voxel_size)
    size = part.voxel_size or (1, 1, 1)
    part.values[...] = shape_descriptors(part.ids, part.head.get("sigma", 80.0), size)
    part.known[...] = part.ids != 0


_HEADS: dict[str, Callable[[_Part], None]] = {
    "affinity": _affinity,
    "foreground": _foreground,
    "contour": _contour,
    "distance": _distance,
    "lsd": _shape,
}
