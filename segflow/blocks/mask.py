"""Where there is something to do: a mask over a volume, whose voxels may be larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import VolumeError
from segflow.geometry import Box, Vec, vec, words
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    from segflow.blocks.cut import Source


class Mask:
    """A mask volume, of the same voxels as a volume or of larger ones: 0 is where nothing is.

    Args:
        mask: the mask.
        info: the volume it is for.

    Raises:
        VolumeError: its voxels are not whole multiples of the volume's, it lies elsewhere, or it has
            several channels.
    """

    def __init__(self, mask: Source, info: VolumeInfo) -> None:
        if mask.info.channels != 1:
            raise VolumeError(f"the mask {mask.info.path} has {mask.info.channels} channels; a mask has one")
        self.mask, self.factor = mask, _factor(mask.info, info)
        around = self._coarse(info.bounds)
        if around.intersect(mask.info.bounds).empty:
            raise VolumeError(
                f"the mask {mask.info.path} fills {mask.info.bounds} and lies wholly outside the volume "
                f"{info.bounds}, which is {around} in its voxels"
            )

    def _coarse(self, box: Box) -> Box:
        return Box(
            vec([a // f for a, f in zip(box.start, self.factor)]),
            vec([-(-b // f) for b, f in zip(box.stop, self.factor)]),
        )

    def any(self, box: Box) -> bool:
        """Whether any voxel of ``box`` is in the mask; outside the mask none is."""
        part = self._coarse(box).intersect(self.mask.info.bounds)
        return not part.empty and bool(self.mask.read(part).array.any())

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Tell for each voxel of ``box`` whether it is in the mask."""
        coarse = self._coarse(box)
        part = coarse.intersect(self.mask.info.bounds)
        found = np.zeros(coarse.shape, bool)
        if not part.empty:
            found[part.slices(coarse.start)] = self.mask.read(part).array != 0
        for axis, factor in enumerate(self.factor):
            if factor > 1:
                found = found.repeat(factor, axis)
        return found[box.slices(coarse.scale(self.factor).start)]

    def cut_off(self, affs: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
        """Give affinities (3, z, y, x) of ``box`` that are 0 to and from voxels outside the mask."""
        keep = self.read(box)
        if keep.all():
            return affs
        result = affs * keep
        for axis in range(3):
            here: list[Any] = [slice(None)] * 3
            before: list[Any] = [slice(None)] * 3
            here[axis], before[axis] = slice(1, None), slice(-1)
            result[(axis, *here)] *= keep[tuple(before)]
        return result


def _factor(mask: VolumeInfo, info: VolumeInfo) -> Vec:
    """Give how many voxels of the volume are one of the mask: by voxel sizes, else by shapes."""
    if mask.voxel_size and info.voxel_size:
        exact: list[float] = [m / v for m, v in zip(mask.voxel_size, info.voxel_size)]
    else:
        exact = [float(round(n / m)) for m, n in zip(mask.bounds.shape, info.bounds.shape)]
    factor = [max(1, round(e)) for e in exact]
    if any(abs(e - f) > 0.01 * f for e, f in zip(exact, factor)):
        raise VolumeError(
            f"the mask {mask.path} ({words(mask.bounds.shape)} voxels of "
            f"{words(mask.voxel_size or ())} nm) is no whole multiple of the volume "
            f"({words(info.bounds.shape)} of {words(info.voxel_size or ())} nm)"
        )
    return vec(factor)
