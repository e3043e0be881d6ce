"""Images brought to a network's voxel size, and its answer brought back to the image's grid.

Both grids fill the same box: n voxels become round(n a / b), so that no shift builds up, and voxel v has
its middle at (v + 1/2) a. Affinities are no values of voxels but of edges: channel c at voxel p belongs to
the edge from p to p + o, whose middle is at (p + 1/2 + o/2) b. So edges are looked up at the middles of
edges:

- An offset of one voxel stays one voxel of the image's grid, since watershed and agglomeration need
  neighbours. Where the image is finer than the network, it is the network's answer at that face, linear
  between faces: a membrane is low over as many nanometres as the network said.
- Where the image is coarser, a step from middle to middle passes several of the network's faces; the step
  is as weak as the weakest of them (a mean would hide a membrane of one voxel).
- A longer offset keeps its length in nm, rounded to voxels of the image, at least one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.geometry import Box, Vec, vec
from segflow.inference.header import TOLERANCE

LARGEST = 4.0  # factor between voxel sizes; beyond it an image has other things to show

Array = NDArray[np.float32]


def sample(array: Array, axis: int, at: NDArray[Any], width: float = 1.0) -> Array:
    """Give an array's values at places along an axis, by a triangle of half-width ``width``.

    Args:
        array: any shape, float32.
        axis: along which.
        at: places, voxels; 0 is the middle of the first voxel. Places beyond the ends are the ends.
        width: 1 is linear interpolation, more takes the mean of that many voxels.

    >>> sample(np.array([0, 1, 2], np.float32), 0, np.array([-0.5, 0.25, 1.5])).tolist()
    [0.0, 0.25, 1.5]
    """
    length = array.shape[axis]
    at = np.clip(at, 0, length - 1)
    reach = math.ceil(width)
    taps = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weights = np.clip(1 - np.abs(taps - at[:, None]) / width, 0, None) * ((taps >= 0) & (taps < length))
    weights /= weights.sum(1, keepdims=True)
    shape = [1] * array.ndim
    shape[axis] = len(at)
    out = np.zeros([*array.shape[:axis], len(at), *array.shape[axis + 1 :]], np.float32)
    for tap, weight in zip(np.clip(taps, 0, length - 1).T, weights.T):
        if weight.any():
            out += np.take(array, tap, axis=axis) * weight.astype(np.float32).reshape(shape)
    return out


@dataclass(frozen=True)
class Resampling:
    """The way between an image's grid and a network's: sizes of the same box in voxels, zyx.

    ``ratio`` is the image's voxel size by the network's.
    """

    image: Vec
    network: Vec

    @classmethod
    def between(
        cls, shape: Sequence[int], voxel_size: Sequence[float], wanted: Sequence[float]
    ) -> Resampling | None:
        """Give it for an image of ``shape``; None if no axis needs it (25 % of difference are let through).

        Raises:
            ChunkError: voxel sizes that differ by more than a factor of 4.
        """
        ratios = [a / b for a, b in zip(voxel_size, wanted)]
        if not all(1 / LARGEST <= r <= LARGEST for r in ratios):
            have, need = ("x".join(f"{v:g}" for v in size) for size in (voxel_size, wanted))
            raise ChunkError(
                f"--adapt does not go from voxels of {have} nm to the network's {need} (zyx), more than "
                f"{LARGEST:g} times; read another mip (-m), or correct the voxel size"
            )
        steps = [1.0 if 1 / TOLERANCE <= r <= TOLERANCE else r for r in ratios]
        if steps == [1.0, 1.0, 1.0]:
            return None
        return cls(vec(shape), vec([max(1, round(n * r)) for n, r in zip(shape, steps)]))

    @property
    def ratio(self) -> tuple[float, ...]:
        """Voxels of the network's grid in one of the image's, per axis."""
        return tuple(b / a for a, b in zip(self.image, self.network))

    def there(self, array: Array) -> Array:
        """Give an image (zyx or czyx) on the network's grid: linear, or the mean where that is coarser."""
        lead = array.ndim - 3
        for axis, (ratio, size) in enumerate(zip(self.ratio, self.network)):
            if ratio != 1:
                at = (np.arange(size) + 0.5) / ratio - 0.5
                array = sample(array, lead + axis, at, max(1.0, 1 / ratio))
        return array

    def inside(self, box: Box) -> Box:
        """Give the voxels of the image that lie wholly in a box of the network's grid.

        Where the box ends inside the grid it is one voxel less: steps and interpolation reach over it.
        """
        start, stop = [], []
        for a, b, ratio, size in zip(box.start, box.stop, self.ratio, self.network):
            start.append(math.ceil(a / ratio - 1e-9) + (ratio != 1 and a > 0))
            stop.append(math.floor(b / ratio + 1e-9) - (ratio != 1 and b < size))
        return Box(vec(start), vec(stop))

    def offset(self, offset: Sequence[int]) -> Vec:
        """Give an offset of the network's affinities on the image's grid."""
        made = []
        for step, ratio in zip(offset, self.ratio):
            size = abs(step) if abs(step) <= 1 else max(1, round(abs(step) / ratio))
            made.append(int(math.copysign(size, step)) if step else 0)
        return vec(made)

    def back(self, values: Array, box: Box, offset: Sequence[int] = (0, 0, 0)) -> Array:
        """Bring one channel back.

        Args:
            values: zyx, float32, on the network's grid.
            box: what of the network's grid that is.
            offset: of the affinity that it is, on the network's grid, voxels; 0 0 0 for other maps.

        Returns:
            zyx, float32, the voxels of ``inside(box)``.
        """
        target, new = self.inside(box), self.offset(offset)
        steps = [axis for axis in range(3) if offset[axis]]
        for axis in range(3):
            ratio, first = self.ratio[axis], box.start[axis]
            places = np.arange(target.start[axis], target.stop[axis])
            if ratio == 1:
                values = np.take(values, places - first, axis=axis)
            elif ratio > 1 and steps == [axis] and abs(offset[axis]) == 1:
                values = _weakest(values, axis, places, ratio, first, offset[axis])
            else:
                middle = (places + 0.5 + new[axis] / 2) * ratio - 0.5 - offset[axis] / 2
                values = sample(values, axis, middle - first, max(1.0, ratio))
        return values


def _weakest(
    values: Array, axis: int, places: NDArray[np.int64], ratio: float, first: int, step: int
) -> Array:
    """Give, for steps from middle to middle of the image's voxels, the least of the faces passed."""
    length = values.shape[axis]
    ends = (np.append(places, places[-1] + 1) + 0.5 + min(step, 0)) * ratio  # of steps, in network voxels
    faces = np.floor(ends).astype(np.int64) + 1  # the first face beyond each end: face p is below voxel p
    rows = np.clip(faces - (1 if step > 0 else 0) - first, 0, length)
    parts = []
    for low, high in zip(rows, rows[1:]):
        low = min(low, length - 1)
        part = np.take(values, range(low, max(high, low + 1)), axis=axis)
        parts.append(part.min(axis=axis, keepdims=True))
    return np.concatenate(parts, axis=axis)


def bring_back(answer: Chunk, way: Resampling, image: Chunk) -> Chunk:
    """Bring a network's answer back to the grid of ``image``.

    Args:
        answer: zyx or czyx, on the network's grid whose voxel 0 is the image's first; float32 or uint8.
        way: between the grids.
        image: what the answer is of, on its own grid.

    Raises:
        ChunkError: nothing is left, or two offsets become one on the image's grid.
    """
    box, offsets = answer.bbox, answer.offsets
    target = way.inside(box)
    if target.empty:
        raise ChunkError("--adapt: no voxel of the image is left of the answer; give --mask-output-chunk")
    made = tuple(way.offset(o) for o in offsets) if offsets else None
    if made and len(set(made)) < len(made):
        twice = next(o for o in made if made.count(o) > 1)
        names = [str(o) for o, new in zip(offsets or (), made) if new == twice]
        raise ChunkError(
            f"--adapt: the offsets {' and '.join(names)} of the network are both {twice} on the image's "
            "grid; keep fewer channels (--num-output-channels)"
        )
    channels = answer.array if answer.array.ndim == 4 else answer.array[None]
    out = np.empty((len(channels), *target.shape), answer.dtype)
    for c, values in enumerate(channels):
        found = way.back(values.astype(np.float32), box, offsets[c] if offsets else (0, 0, 0))
        out[c] = found if out.dtype.kind == "f" else found.round().clip(0, 255)
    return Chunk(
        out if answer.array.ndim == 4 else out[0], target.shift(image.voxel_offset).start, image.voxel_size,
        answer.layer_type, made, image.source,
    )  # fmt: skip
