"""What every volume can do, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from segflow.geometry import Box, Vec

if TYPE_CHECKING:
    from segflow.chunk import Chunk


@dataclass(frozen=True)
class VolumeInfo:
    """One mip of a volume; everything zyx.

    ``bounds`` in voxels of this mip, ``voxel_size`` in nm or None if unknown, ``block_size`` the
    smallest unit that is written whole, ``mips`` how many there are, ``offsets`` of affinities.
    """

    path: str
    format: str
    bounds: Box
    dtype: str
    channels: int = 1
    voxel_size: tuple[float, float, float] | None = None
    layer_type: str | None = None
    block_size: Vec | None = None
    mip: int = 0
    mips: int = 1
    encoding: str = "raw"
    offsets: tuple[Vec, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Volume(Protocol):
    """A volume on disk or in a bucket."""

    path: str

    def info(self, mip: int = 0) -> VolumeInfo:
        """Describe one mip; raise VolumeError if there is no such mip."""
        ...

    def read(self, box: Box | None = None, mip: int = 0, *, fill_missing: bool = True) -> Chunk:
        """Give the chunk in ``box`` (default: all); outside the bounds are zeros.

        Raises BoxError when ``box`` is wholly outside, VolumeError for missing blocks when
        ``fill_missing`` is false.
        """
        ...

    def write(self, chunk: Chunk, mip: int = 0) -> None:
        """Write a chunk at its place, any box; safe with several writers at once."""
        ...
