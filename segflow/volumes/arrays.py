"""Arrays in blocks (zarr, n5) as volumes: their levels, and their voxels by tensorstore.

On disk the axes stand in any order; a Level names them, and what these functions give is czyx.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.geometry import Box, Vec, vec
from segflow.volumes.base import VolumeInfo
from segflow.volumes.bounded import BoundedVolume
from segflow.volumes.files import reading
from segflow.volumes.store import local_path, open_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

Size = tuple[float, float, float]
LETTERS = {"channel": "c", "time": "t"}


@dataclass(frozen=True)
class Level:
    """One array: where it is, its axes in the order of the disk, and its place.

    ``size`` is zyx, in nm if ``known``, else only relative to other levels.
    """

    key: str
    driver: str
    axes: str
    shape: tuple[int, ...]
    blocks: tuple[int, ...]
    dtype: str
    encoding: str = "raw"
    size: Size = (1.0, 1.0, 1.0)
    known: bool = False
    offset: Vec = (0, 0, 0)

    def extent(self, axis: str, of: Sequence[int] | None = None) -> int:
        """Give the length along one axis, 1 where the array lacks it."""
        return int((of or self.shape)[self.axes.index(axis)]) if axis in self.axes else 1

    @property
    def bounds(self) -> Box:
        """The box it fills."""
        return Box.of(self.offset, [self.extent(a) for a in "zyx"])


@dataclass(frozen=True)
class Layout:
    """The levels of a volume, finest first, and what its values are."""

    levels: tuple[Level, ...]
    layer_type: str | None = None
    offsets: tuple[Vec, ...] | None = None


def axes_of(names: Sequence[Any] | None, shape: Sequence[int], path: str, default: str) -> str:
    """Give one letter an axis from their names, if these are axes of space, else from ``default``.

    Raises:
        VolumeError: too many axes, or more than one time point.
    """
    letters = "".join(LETTERS.get(str(n).lower(), str(n).lower()) for n in names or ())
    if len(letters) != len(shape) or not set("yx") <= set(letters) <= set("tczyx"):
        if len(shape) not in (2, 3, 4, 5):
            raise VolumeError(f"{path} has {len(shape)} axes; a chunk has z, y, x and channels")
        letters = default[: len(shape)] if default[0] == "x" else default[-len(shape) :]
    if "t" in letters and shape[letters.index("t")] != 1:
        raise VolumeError(f"{path} has {shape[letters.index('t')]} time points; a volume has one")
    return letters


class ArrayVolume(BoundedVolume):
    """A volume of arrays in blocks; a format says how its metadata are read."""

    format = "zarr"

    def __init__(self, path: str) -> None:
        from segflow.volumes import split_address

        self.place = split_address(f"{self.format}://{path.removeprefix(self.format + '://')}")[1]
        self.path = f"{self.format}://{self.place}"
        self.store = open_store(self.place)
        self._layout: Layout | None = None

    def parse(self) -> Layout | None:
        """Read the metadata; None where there are none."""
        raise TypeError("a format reads its metadata")

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        if self._layout is None:
            with reading(self.path):
                self._layout = self.parse()
        return self._layout is not None

    @property
    def layout(self) -> Layout:
        """Its levels; raise VolumeError where there is no volume."""
        if not self.exists or self._layout is None:
            raise VolumeError(f"there is no {self.format} volume at {self.path}")
        return self._layout

    def info(self, mip: int = 0) -> VolumeInfo:
        """Describe one mip (a level); raise VolumeError if there is no such mip."""
        from segflow.chunk import guess_layer_type

        layout = self.layout
        if not 0 <= mip < len(layout.levels):
            raise VolumeError(f"{self.path} has no mip {mip}; it has {len(layout.levels)}, counted from 0")
        level = layout.levels[mip]
        channels = level.extent("c")
        kind = layout.layer_type or guess_layer_type(3 if channels == 1 else 4, level.dtype, channels)
        return VolumeInfo(
            self.path, self.format, level.bounds, level.dtype, channels,
            voxel_size=level.size if level.known else None, layer_type=kind,
            block_size=vec([level.extent(a, level.blocks) for a in "zyx"]), mip=mip,
            mips=len(layout.levels), encoding=level.encoding, offsets=layout.offsets,
            extra={"key": level.key},
        )  # fmt: skip

    def ratio(self, fine: int, coarse: int) -> tuple[Vec, Vec]:
        """Give numerators and denominators that scale a box between two mips."""
        self.info(max(fine, coarse))
        over, under = [], []
        for a, b in zip(self.layout.levels[fine].size, self.layout.levels[coarse].size):
            over.append(max(1, round(a / b)))
            under.append(max(1, round(b / a)))
        return vec(over), vec(under)

    def _voxels(self, info: VolumeInfo) -> Any:
        return ArrayVoxels(self.path, self.place, self.layout.levels[info.mip])


class ArrayVoxels:
    """The voxels of one level; boxes lie inside its bounds."""

    def __init__(self, path: str, place: str, level: Level) -> None:
        self.path, self.place, self.level = path, place, level

    def read(self, box: Box, fill_missing: bool) -> NDArray[Any]:
        """Give czyx; a missing block is zeros, or a VolumeError."""
        with reading(self.path):
            array = self._open(fill_missing)[self._index(box)].read().result()
        return array.reshape(self.level.extent("c"), *box.shape)

    def write(self, array: NDArray[Any], box: Box) -> None:
        """Write czyx; blocks that ``box`` covers in part are changed safely with several writers."""
        with reading(self.path):
            store = self._open(True)[self._index(box)]
            store.write(array.reshape(store.shape)).result()

    def _index(self, box: Box) -> tuple[slice, ...]:
        """Give the slices of ``box`` along the axes that there are, channels first."""
        parts = dict(zip("zyx", box.slices(self.level.offset)))
        return tuple(parts.get(a, slice(None)) for a in "czyx" if a in self.level.axes)

    def _open(self, fill_missing: bool) -> Any:
        import tensorstore as ts

        level = self.level
        kvstore = kvstore_of(f"{self.place}/{level.key}".rstrip("/"))
        store = ts.open(
            {
                "driver": level.driver,
                "kvstore": kvstore,
                "fill_missing_data_reads": fill_missing,
                "store_data_equal_to_fill_value": True,
                "recheck_cached_data": "open",
            },
            open=True,
            context=ts.Context({"s3_request_retries": {"max_retries": 6, "max_delay": "2s"}}),
        ).result(timeout=120)
        if "t" in level.axes:
            store = store[(slice(None),) * level.axes.index("t") + (0,)]
        kept = level.axes.replace("t", "")
        return store.transpose([kept.index(a) for a in "czyx" if a in kept])


def kvstore_of(place: str) -> dict[str, Any]:
    """Give tensorstore's words for a folder or a bucket."""
    folder = local_path(place)
    if folder is not None:
        return {"driver": "file", "path": f"{folder}/"}
    scheme, _, rest = place.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme in ("http", "https"):
        return {"driver": "http", "base_url": f"{place}/"}
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": f"{prefix}/"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    return {
        "driver": "s3", "bucket": bucket, "path": f"{prefix}/", "aws_credentials": {"type": _credentials()},
        **({"endpoint": endpoint, "aws_region": region} if endpoint else {}),
    }  # fmt: skip


def _credentials() -> str:
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return "environment"
    known = "AWS_PROFILE" in os.environ or Path("~/.aws/credentials").expanduser().exists()
    return "default" if known else "anonymous"
