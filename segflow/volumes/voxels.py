"""The voxels of one mip of a precomputed volume, by the library that suits the place and encoding.

Folders: tensorstore, which writes block files under their plain names, each whole or not at all,
and changes a part of a block safely with several writers; encodings it lacks are written with
cloud-volume's codecs. Everything else, and blocks that another program compressed (``.gz``), is read
with cloud-volume. Arrays are czyx here; these libraries' xyz ends at this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import own
from segflow.errors import BoxError, VolumeError
from segflow.geometry import Box, blocks
from segflow.volumes.base import VolumeInfo
from segflow.volumes.files import reason
from segflow.volumes.store import local_path, locked, ready_cloud_libraries, replace_file

PACKED = {".gz": "gzip", ".br": "br", ".zstd": "zstd", ".xz": "xz", ".bz2": "bz2"}
TENSORSTORE = ("raw", "jpeg", "png", "compressed_segmentation")


class Voxels(Protocol):
    """The voxels of one mip; boxes lie inside its bounds."""

    def read(self, box: Box, fill_missing: bool) -> NDArray[Any]:
        """Give czyx; a missing block is zeros, or a VolumeError."""
        ...

    def check(self, box: Box) -> None:
        """Raise BoxError or VolumeError if ``box`` cannot be written."""
        ...

    def write(self, array: NDArray[Any], box: Box) -> None:
        """Write czyx."""
        ...


def open_voxels(info: VolumeInfo, use_https: bool = False, threads: int = 0) -> Voxels:
    """Give access to the voxels of the mip that ``info`` describes."""
    folder = local_path(info.path)
    cloud = CloudVoxels(info, use_https, threads)
    if folder is None:
        return cloud
    return FolderVoxels(info, folder / info.extra["key"], cloud, threads)


def cells(info: VolumeInfo, box: Box) -> Iterator[Box]:
    """Give the blocks of the grid that ``box`` touches, cut at the bounds."""
    block = info.block_size or info.bounds.shape
    around = box.snap(block, info.bounds.start)
    return (cell.intersect(info.bounds) for cell in blocks(around, block))


def cell_name(cell: Box) -> str:
    """Give the name of a block's file: x, y, z ranges."""
    return "_".join(f"{a}-{b}" for a, b in list(zip(cell.start, cell.stop))[::-1])


class FolderVoxels:
    """Blocks that are files in a folder."""

    def __init__(self, info: VolumeInfo, folder: Path, cloud: CloudVoxels, threads: int = 0) -> None:
        self.info, self.folder, self.cloud, self.threads = info, folder, cloud, threads
        self.native = info.encoding in TENSORSTORE
        self.sharded = info.extra["sharded"]

    def read(self, box: Box, fill_missing: bool) -> NDArray[Any]:
        if not self.native or any(self._packed(box)):
            return self.cloud.read(box, fill_missing)
        with _told(self.info):
            return self._open(fill_missing)[_zyx(box)].read().result()

    def check(self, box: Box) -> None:
        if self.sharded and not self.native:
            raise VolumeError(
                f"{self.info.path} is sharded with the encoding {self.info.encoding}, which segflow only "
                "reads; write to a volume that is not sharded"
            )

    def write(self, array: NDArray[Any], box: Box) -> None:
        if not self.native:
            self._write_codec(array, box)
            return
        packed = list(self._packed(box))
        for cell, path in packed:
            if not box.contains(cell):
                self._unpack(cell, path)
        parts = [box] if self.sharded else [cell.intersect(box) for cell in cells(self.info, box)]
        with _told(self.info):
            store = self._open(True)
            writes = [
                store[_zyx(part)].write(array[(slice(None), *part.slices(box.start))]) for part in parts
            ]
            for write in writes:
                write.exception()  # waits: nothing is still being written when an error is told
            for write in writes:
                write.result()
        for _, path in packed:
            path.unlink(missing_ok=True)

    def _open(self, fill_missing: bool) -> Any:
        import tensorstore as ts

        limit = {"limit": self.threads} if self.threads > 0 else {"limit": "shared"}
        store = ts.open(
            {
                "driver": "neuroglancer_precomputed",
                "kvstore": {"driver": "file", "path": f"{local_path(self.info.path)}/"},
                "scale_index": self.info.mip,
                "fill_missing_data_reads": fill_missing,
                "store_data_equal_to_fill_value": True,
            },
            open=True,
            context=ts.Context({"data_copy_concurrency": limit}),
        ).result()
        return store[ts.d["channel", "z", "y", "x"].transpose[:]]

    def _packed(self, box: Box) -> Iterator[tuple[Box, Path]]:
        """Give the blocks in ``box`` that another program stored compressed, with their files."""
        if self.sharded or not self.folder.is_dir():
            return
        for cell in cells(self.info, box):
            plain = self.folder / cell_name(cell)
            for ending in PACKED:
                path = plain.with_name(plain.name + ending)
                if path.exists():
                    yield cell, path

    def _unpack(self, cell: Box, path: Path) -> None:
        """Turn a compressed block into a plain one, before a part of it is changed."""
        from cloudfiles.compression import decompress

        plain = self.folder / cell_name(cell)
        with _told(self.info), locked(plain):
            if path.exists():
                replace_file(plain, decompress(path.read_bytes(), PACKED[path.suffix], plain.name))
                path.unlink()

    def _write_codec(self, array: NDArray[Any], box: Box) -> None:
        self.check(box)
        for cell in cells(self.info, box):
            part = cell.intersect(box)
            values = array[(slice(None), *part.slices(box.start))]
            path = self.folder / cell_name(cell)
            with _told(self.info), locked(path):
                if part != cell:
                    whole = self.cloud.read(cell, True).copy()
                    whole[(slice(None), *part.slices(cell.start))] = values
                    values = whole
                replace_file(path, _encode(values, self.info.encoding))
                for ending in PACKED:
                    path.with_name(path.name + ending).unlink(missing_ok=True)


def _zyx(box: Box) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, b) for a, b in zip(box.start, box.stop)))


def _encode(array: NDArray[Any], encoding: str) -> bytes:
    from cloudvolume.chunks import encode

    return bytes(encode(own(array).T, encoding, block_size=(8, 8, 8)))


class CloudVoxels:
    """Blocks by cloud-volume: any encoding, sharded or not, in a bucket or a folder."""

    def __init__(self, info: VolumeInfo, use_https: bool = False, threads: int = 0) -> None:
        self.info, self.use_https, self.threads = info, use_https, threads

    def _open(self, fill_missing: bool) -> Any:
        from cloudvolume import CloudVolume

        ready_cloud_libraries()
        return CloudVolume(
            self.info.path, mip=self.info.mip, fill_missing=fill_missing, use_https=self.use_https,
            progress=False, cache=False, delete_black_uploads=False,
        )  # fmt: skip

    def read(self, box: Box, fill_missing: bool) -> NDArray[Any]:
        with _told(self.info):
            found = np.asarray(self._open(fill_missing)[_xyz(box)])
        return np.ascontiguousarray(found.T)

    def check(self, box: Box) -> None:
        block = self.info.block_size or self.info.bounds.shape
        around = box.snap(block, self.info.bounds.start).intersect(self.info.bounds)
        if around != box:
            raise BoxError(
                f"box {box} is not aligned to the blocks of {self.info.path}, which a bucket cannot change "
                f"in part; write {around}, or make the volume with another --block-size (it has "
                f"{' '.join(map(str, block))} from {' '.join(map(str, self.info.bounds.start))})"
            )
        if self.info.extra["sharded"]:
            raise VolumeError(f"{self.info.path} is sharded; segflow writes no shards in a bucket")

    def write(self, array: NDArray[Any], box: Box) -> None:
        self.check(box)
        with _told(self.info):
            self._open(True)[_xyz(box)] = own(array).T


def _xyz(box: Box) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(box.start, box.stop))[::-1]


@contextmanager
def _told(info: VolumeInfo) -> Iterator[None]:
    """Turn what tensorstore and cloud-volume raise into a VolumeError that names the volume."""
    try:
        yield
    except (VolumeError, MemoryError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}" if not str(error) else reason(error)
        if type(error).__name__ == "EmptyVolumeException":
            text = f"the block {text} is missing; use --fill-missing to read zeros there"
        raise VolumeError(f"{info.path}, mip {info.mip}: {text}") from error
