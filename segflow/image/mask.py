"""Masks: a chunk is set to zero where a coarser volume says that nothing is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box, Vec, vec
from segflow.volumes.info import voxel_factor

log = logging.getLogger("segflow")


@dataclass(frozen=True)
class Mask:
    """A piece of a mask, in its own voxels: ``keep`` (zyx, bool) fills ``box``.

    ``factor`` is how many voxels of what is masked one of the mask is, zyx. Both count from voxel 0
    of their volumes, so voxel v of a chunk belongs to voxel v // factor of the mask.
    """

    keep: NDArray[np.bool_]
    box: Box
    factor: Vec

    @property
    def all(self) -> bool:
        """Whether everything is kept."""
        return bool(self.keep.all())

    @property
    def any(self) -> bool:
        """Whether anything is kept."""
        return bool(self.keep.any())


def mask_factor(
    volume: Any, mip: int, voxel_size: Sequence[float] | None, fine_mip: int, what: str = "the chunk"
) -> Vec:
    """Give how many voxels of a chunk one of a mask volume is, zyx.

    Args:
        volume: the mask.
        mip: its mip.
        voxel_size: of the chunk, zyx, nm; where it or the mask's is unknown, the mask's own mips
            ``fine_mip`` and ``mip`` tell the factor.
        fine_mip: the chunk's mip.
        what: a name of the chunk, for errors.

    Raises:
        VolumeError: the mask has no such mip, or its voxels are no whole multiples of the chunk's.
    """
    info = volume.info(mip)
    if voxel_size is not None and info.voxel_size is not None:
        return voxel_factor(voxel_size, info.voxel_size, f"{volume.path} at mip {mip}", what)
    if mip == fine_mip:
        return (1, 1, 1)
    if max(mip, fine_mip) >= info.mips:
        raise VolumeError(
            f"the voxel size of {what} is unknown, and {volume.path} has no mip {fine_mip} that tells how "
            "much larger its own are; give --voxel-size where the chunk is read"
        )
    over, under = volume.ratio(fine_mip, mip)
    if max(over) > 1:
        raise VolumeError(f"the mask {volume.path} at mip {mip} is finer than {what} at mip {fine_mip}")
    return vec(under)


def read_mask(
    volume: Any,
    box: Box,
    factor: Sequence[int],
    mip: int,
    *,
    inverse: bool = False,
    fill_missing: bool = True,
) -> Mask:
    """Read the part of a mask volume that lies over a box; not 0 is kept, or 0 with ``inverse``.

    Outside its bounds, and with ``fill_missing`` in missing blocks, a mask volume is 0.

    Args:
        volume: the mask, of one channel and any dtype.
        box: in voxels of what is masked; it need not divide by ``factor``.
        factor: see ``mask_factor``.
        mip: of the mask.
        inverse: keep what the mask does not name.
        fill_missing: missing blocks, and what is outside, are 0; else an error.

    Raises:
        VolumeError: several channels, or a part that is missing without ``fill_missing``.
    """
    info = volume.info(mip)
    if info.channels != 1:
        raise VolumeError(f"the mask {volume.path} has {info.channels} channels; a mask has one")
    coarse = Box(
        vec([a // f for a, f in zip(box.start, factor)]), vec([-(-b // f) for b, f in zip(box.stop, factor)])
    )
    inside = coarse.intersect(info.bounds)
    if inside != coarse and not fill_missing:
        raise VolumeError(
            f"box {box} is {coarse} in voxels of the mask {volume.path} and lies not wholly in its "
            f"{info.bounds} at mip {mip}; use --fill-missing to take zeros there"
        )
    found = np.zeros(coarse.shape, bool)
    if inside.empty:
        log.warning(
            "box %s is wholly outside %s, the bounds of the mask %s at mip %d: zeros there",
            coarse, info.bounds, volume.path, mip,
        )  # fmt: skip
    else:
        found[inside.slices(coarse.start)] = (
            volume.read(inside, mip, fill_missing=fill_missing).array.reshape(inside.shape) != 0
        )
    return Mask(~found if inverse else found, coarse, vec(factor))


def apply_mask(chunk: Chunk, mask: Mask) -> Chunk:
    """Set a chunk to zero where the mask keeps nothing, in every channel.

    The mask is never spread over more than one section.

    Args:
        chunk: zyx or czyx, any dtype.
        mask: over the whole chunk.

    Returns:
        the chunk itself where all of it is kept, else one like it.

    Raises:
        ChunkError: the mask does not cover the chunk.

    >>> chunk = Chunk(np.ones((1, 2, 4), np.uint8), (0, 0, 1))
    >>> mask = Mask(np.array([[[True, False, True]]]), Box((0, 0, 0), (1, 1, 3)), (1, 2, 2))
    >>> apply_mask(chunk, mask).array.tolist()
    [[[1, 0, 0, 1], [1, 0, 0, 1]]]
    """
    covered = mask.box.scale(mask.factor)
    if not covered.contains(chunk.bbox):
        raise ChunkError(f"the mask covers {covered} and not all of the chunk's {chunk.bbox}")
    if mask.all:
        return chunk
    if not mask.any:
        return chunk.with_array(np.zeros(chunk.shape, chunk.dtype))
    made = np.array(chunk.array, order="C")
    channels = made.reshape(-1, *chunk.shape[-3:])
    _, rows, columns = (
        np.arange(a, b) // f - o
        for a, b, f, o in zip(chunk.bbox.start, chunk.bbox.stop, mask.factor, mask.box.start)
    )
    held, zero = -1, np.zeros(0, bool)
    for index in range(channels.shape[1]):
        z = (chunk.voxel_offset[0] + index) // mask.factor[0] - mask.box.start[0]
        if z != held:
            held, zero = z, ~mask.keep[z][rows[:, None], columns]
        if zero.any():
            for channel in channels:
                channel[index][zero] = 0
    return chunk.with_array(made)
