"""A chunk: an array in memory with a place in a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segflow.errors import BoxError, ChunkError
from segflow.geometry import Box, Vec, vec

LAYER_TYPES = ("image", "affinity_map", "probability_map", "segmentation")
DEFAULT_OFFSETS = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
AXIS_NAMES = ("z", "y", "x")


def guess_layer_type(ndim: int, dtype: Any, channels: int = 1) -> str | None:
    """Tell what an array is from its shape and dtype alone; None where that is undecided.

    uint8 and float in 3-D are images, uint16 is undecided, other integers are segmentations;
    4-D is an affinity map with three channels, else a probability map.
    """
    kind = np.dtype(dtype)
    if ndim == 4 and channels > 1:
        return "affinity_map" if channels == 3 else "probability_map"
    if kind == np.uint16:
        return None
    if kind == np.uint8 or kind.kind == "f":
        return "image"
    return "segmentation"


@dataclass(frozen=True, eq=False)
class Chunk:
    """An array (zyx or czyx, read-only) and where it lies.

    Args:
        array: 3-D or 4-D numpy array.
        voxel_offset: zyx place of its first voxel, in voxels at its mip.
        voxel_size: zyx, nm; None if unknown.
        layer_type: image, affinity_map, probability_map or segmentation; None is guessed from
            shape and dtype, and stays None where those do not tell (uint16).
        offsets: for affinities, one zyx triple a channel: channel c joins v to v + offsets[c].
        source: where it was read from: ``path``, ``mip``, ``bounds`` (a Box), ``dataset``.

    Raises:
        ChunkError: the array is not 3-D or 4-D, or the offsets do not match its channels.

    >>> chunk = Chunk(np.zeros((4, 8, 8), np.uint8), voxel_offset=(10, 0, 0))
    >>> str(chunk.bbox), chunk.layer_type
    ('10-14_0-8_0-8', 'image')
    """

    array: NDArray[Any]
    voxel_offset: Vec = (0, 0, 0)
    voxel_size: tuple[float, float, float] | None = None
    layer_type: str | None = None
    offsets: tuple[Vec, ...] | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.ndim not in (3, 4):
            raise ChunkError(f"a chunk is zyx or czyx, not of shape {array.shape}")
        array = array.view()
        array.flags.writeable = False
        channels = array.shape[0] if array.ndim == 4 else 1
        kind = self.layer_type or guess_layer_type(array.ndim, array.dtype, channels)
        offsets = tuple(vec(o) for o in self.offsets) if self.offsets is not None else None
        if kind == "affinity_map" and offsets is None and channels == 3:
            offsets = DEFAULT_OFFSETS
        if kind != "affinity_map":
            offsets = None
        if offsets is not None and len(offsets) != channels:
            raise ChunkError(f"{len(offsets)} offsets for {channels} channels")
        size = None if self.voxel_size is None else tuple(float(v) for v in self.voxel_size)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "voxel_offset", vec(self.voxel_offset))
        object.__setattr__(self, "voxel_size", size)
        object.__setattr__(self, "layer_type", kind)
        object.__setattr__(self, "offsets", offsets)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    @property
    def bbox(self) -> Box:
        """The box it fills."""
        return Box.of(self.voxel_offset, self.array.shape[-3:])

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's dtype."""
        return self.array.dtype

    @property
    def channels(self) -> int:
        """The number of channels; 1 for zyx."""
        return self.array.shape[0] if self.array.ndim == 4 else 1

    @property
    def is_segmentation(self) -> bool:
        """Whether its values are labels."""
        return self.layer_type == "segmentation"

    def with_array(self, array: ArrayLike, **changes: Any) -> Chunk:
        """Give a chunk at the same place with another array; ``changes`` replace other fields.

        The layer type is guessed anew when the dtype or the number of axes differs and
        ``changes`` does not name one.
        """
        values = np.asarray(array)
        if (values.ndim, values.dtype) != (self.array.ndim, self.array.dtype):
            changes.setdefault("layer_type", None)
            changes.setdefault("offsets", None)
        return replace(self, array=values, **changes)

    def cutout(self, box: Box) -> Chunk:
        """Give the part in ``box``, as a view; raise BoxError where it is not wholly inside."""
        if box.empty or not self.bbox.contains(box):
            raise BoxError(f"box {box} is not inside the chunk's {self.bbox}")
        part = self.array[(..., *box.slices(self.voxel_offset))]
        return replace(self, array=part, voxel_offset=box.start)

    def pad_to(self, box: Box) -> Chunk:
        """Give the chunk in ``box``: cut where it is larger, zeros where it is smaller."""
        if box == self.bbox:
            return self
        shared = self.bbox.intersect(box)
        if shared == box:
            return self.cutout(box)
        array = np.zeros((*self.array.shape[:-3], *box.shape), self.array.dtype)
        if not shared.empty:
            array[(..., *shared.slices(box.start))] = self.cutout(shared).array
        return replace(self, array=array, voxel_offset=box.start)


def own(array: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """Give a writable C-ordered copy, for libraries that write in place or refuse read-only."""
    return np.array(array, dtype=dtype, order="C", copy=True)


def channel_order(chunk: Chunk, wanted: Sequence[Sequence[int]]) -> list[int]:
    """Give the channel of each wanted offset; raise ChunkError if one is not there."""
    have = list(chunk.offsets or ())
    missing = [tuple(o) for o in wanted if tuple(o) not in have]
    if missing:
        raise ChunkError(
            f"the affinities hold the offsets {have or 'none'} and lack {missing}; "
            "three channels x, y, z are needed"
        )
    return [have.index(vec(o)) for o in wanted]
