"""One block of a volume at a time, read so that what is missing or broken shows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.volumes.base import VolumeInfo
from segflow.volumes.store import local_path
from segflow.volumes.voxels import PACKED, TENSORSTORE, cell_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEMORY = "v/"
UNPACKING = (zlib.error, EOFError, gzip.BadGzipFile)  # what broken bytes make gzip raise


class MissingBlock(VolumeError):
    """A block that is not stored."""


class BrokenBlock(VolumeError):
    """A block that cannot be decoded; ``blank``: its file holds zeros only."""

    def __init__(self, text: str, blank: bool = False) -> None:
        super().__init__(text)
        self.blank = blank


Reader = Callable[[Box], "NDArray[Any]"]


def block_reader(volume: Any, info: VolumeInfo) -> Reader:
    """Give a function that reads a block of the grid as czyx; several threads may call it.

    Args:
        volume: precomputed, zarr or n5.
        info: of the mip.

    The function raises MissingBlock, BrokenBlock, or VolumeError where the place is not reached.
    """
    if info.format == "precomputed" and not info.extra["sharded"]:
        return _FileReader(volume, info)
    return _by_library(volume, info)


def _by_library(volume: Any, info: VolumeInfo) -> Reader:
    """Read what has no file a block (shards) or another layout (zarr, n5)."""
    voxels = volume._voxels(info)

    def read(cell: Box) -> NDArray[Any]:
        try:
            array = voxels.read(cell, False)
        except VolumeError as error:
            text = str(error)
            if "is missing" in text:
                raise MissingBlock(text) from error
            if "cannot be reached" in text:
                raise
            raise BrokenBlock(text) from error
        return _checked(array, info, cell)

    return read


class _FileReader:
    """Blocks that are files or objects."""

    def __init__(self, volume: Any, info: VolumeInfo) -> None:
        self.store, self.info = volume.store, info
        local = local_path(self.store.path) is not None
        self.endings = ("", *PACKED) if local else ("",)
        self.decode = _native(info, volume.raw) if info.encoding in TENSORSTORE else self._codec

    def __call__(self, cell: Box) -> NDArray[Any]:
        data = self._bytes(f"{self.info.extra['key']}/{cell_name(cell)}")
        try:
            if self.info.encoding == "raw":
                array = _raw(data, self.info, cell)
            else:
                array = self.decode(data, cell) if data else _none()
        except Exception as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            raise BrokenBlock(text, blank=bool(data) and not any(data)) from error
        return _checked(array, self.info, cell)

    def _bytes(self, name: str) -> bytes:
        for ending in self.endings:
            data = self._stored(name + ending)
            if data is None:
                continue
            if not ending:
                return data
            from cloudfiles.compression import decompress

            try:
                return bytes(decompress(data, PACKED[ending], name))
            except Exception as error:
                raise BrokenBlock(f"{name}{ending} cannot be unpacked: {error}", not any(data)) from error
        raise MissingBlock(f"{self.store.path}/{name} is missing")

    def _stored(self, name: str) -> bytes | None:
        """Give the bytes of a file; what an object store keeps packed is unpacked."""
        try:
            found: bytes | None = self.store.get(name)
        except VolumeError as error:
            if isinstance(error.__cause__, UNPACKING) or "ecompress" in type(error.__cause__).__name__:
                raise BrokenBlock(f"cannot be unpacked: {error.__cause__}") from error
            raise
        return found

    def _codec(self, data: bytes, cell: Box) -> NDArray[Any]:
        import numpy as np
        from cloudvolume.chunks import decode

        shape = (*cell.shape[::-1], self.info.channels)
        return np.asarray(decode(data, self.info.encoding, shape, np.dtype(self.info.dtype), (8, 8, 8))).T


def _none() -> NDArray[Any]:
    raise ValueError("its file is empty")


def _raw(data: bytes, info: VolumeInfo, cell: Box) -> NDArray[Any]:
    import numpy as np

    kind = np.dtype(info.dtype).newbyteorder("<")
    wanted = cell.voxels * info.channels * kind.itemsize
    if len(data) != wanted:
        raise ValueError(f"its file has {len(data)} bytes, not {wanted}")
    return np.frombuffer(data, kind).reshape(info.channels, *cell.shape)


def _checked(array: NDArray[Any], info: VolumeInfo, cell: Box) -> NDArray[Any]:
    """Refuse a block of another shape or dtype than the volume says."""
    if array.ndim == 3:
        array = array[None]
    if array.shape != (info.channels, *cell.shape) or array.dtype.name != info.dtype:
        raise BrokenBlock(f"it holds {array.dtype.name} of {array.shape}")
    return array


def _native(info: VolumeInfo, raw: dict[str, Any]) -> Callable[[bytes, Box], NDArray[Any]]:
    """Decode by tensorstore, which refuses broken bytes: the block is shown to it in memory."""
    import json

    import tensorstore as ts

    context = ts.Context({"cache_pool": {}})
    kvstore: Any = {"driver": "memory", "path": MEMORY}
    memory = ts.KvStore.open(kvstore, context=context).result()
    memory["info"] = json.dumps(raw).encode()
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": info.mip,
        "fill_missing_data_reads": False,
    }  # fmt: skip
    store = ts.open(spec, context=context, open=True).result()
    store = store[ts.d["channel", "z", "y", "x"].transpose[:]]

    def decode(data: bytes, cell: Box) -> NDArray[Any]:
        name = f"{info.extra['key']}/{cell_name(cell)}"
        memory[name] = data
        try:
            index = (slice(None), *(slice(a, b) for a, b in zip(cell.start, cell.stop)))
            return store[index].read().result()
        finally:
            del memory[name]

    return decode
