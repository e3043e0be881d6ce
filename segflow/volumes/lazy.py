"""Anything that holds a volume, opened without being read: boxes come when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import BoxError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.volumes import files, hdf5, npy, open_volume, split_address
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segflow.chunk import Chunk

Read = Callable[[Box], "NDArray[Any]"]
READERS = {".tif": "tif", ".tiff": "tif", ".npy": "npy", **dict.fromkeys(hdf5.ENDINGS, "h5")}


class LazyVolume:
    """A read-only volume: ``path``, ``info`` (a VolumeInfo), and ``read``.

    ``open_lazy`` makes one. It may be shared by threads; processes open their own.
    """

    def __init__(self, info: VolumeInfo, own: VolumeInfo, array: Read, reverse: bool = False) -> None:
        self.path, self.info = info.path, info
        self._own, self._array, self._reverse = own, array, reverse

    def read(self, box: Box | None = None) -> Chunk:
        """Give the chunk in ``box`` (default: all), zyx or czyx, in the dtype of the file.

        Its ``source`` names the path, mip and bounds of the whole.

        Raises:
            BoxError: ``box`` is empty or not wholly inside the bounds.
            VolumeError: it cannot be read.
        """
        from segflow.chunk import Chunk

        box = box or self.info.bounds
        if box.empty or not self.info.bounds.contains(box):
            raise BoxError(f"box {box} is not inside {self.path}, which holds {self.info.bounds}")
        shift = [a - b for a, b in zip(self._own.bounds.start, self.info.bounds.start)]
        array = self._array(box.shift(shift))
        array = array[::-1] if self._reverse else array
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        source = {"path": self.path, "mip": self.info.mip, "bounds": self.info.bounds}
        if "dataset" in self.info.extra:
            source["dataset"] = self.info.extra["dataset"]
        return Chunk(array, box.start, self.info.voxel_size, self.info.layer_type, self.info.offsets, source)

    def moved(self, voxel_offset: Sequence[int], voxel_size: Sequence[float] | None = None) -> LazyVolume:
        """Give the same voxels with their first at another place, and their size (nm) if it is told."""
        info = files.override(self.info, voxel_offset=voxel_offset, voxel_size=voxel_size)
        return LazyVolume(info, self._own, self._array, self._reverse)


def open_lazy(
    path: str,
    *,
    dataset: str | None = None,
    mip: int = 0,
    channel_order: str | None = None,
    voxel_size: Sequence[float] | None = None,
    voxel_offset: Sequence[int] | None = None,
    layer_type: str | None = None,
) -> LazyVolume:
    """Open a file, folder or address without reading its voxels.

    Args:
        path: a tif file or folder of them, h5 (``FILE.h5:DATASET``), npy, a folder that holds a
            precomputed, zarr or n5 volume, or an address (s3://, zarr://, ...).
        dataset: of an h5 file (default ``main``, else the only one), or an array inside a zarr or n5.
        mip: of volumes that have several.
        channel_order: ``zyx`` for three affinity channels stored z, y, x (PyTorch Connectomics):
            they come as x, y, z.
        voxel_size: zyx, nm; voxel_offset: zyx, voxels; layer_type: each instead of the file's own.

    Raises:
        VolumeError: there is nothing, nothing known, or it is broken or has no such mip.
        ChunkError: ``channel_order`` zyx without three channels.
    """
    own, array = _open(path, dataset, mip)
    info = files.override(own, voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type)
    if channel_order not in (None, "xyz", "zyx"):
        raise UsageError(f"the channel order '{channel_order}' is neither xyz nor zyx")
    return LazyVolume(
        hdf5.select(info, channel_order=channel_order or "xyz"), own, array, channel_order == "zyx"
    )


def _open(path: str, dataset: str | None, mip: int) -> tuple[VolumeInfo, Read]:
    inner = f"{path.rstrip('/')}/{dataset}" if dataset and Path(path).expanduser().is_dir() else ""
    if inner and address_of(inner):
        path, dataset = inner, None
    form = format_of(path)
    if form == "volume":
        return _open_volume(path, dataset, mip)
    path = path.removeprefix("file://")
    if mip:
        raise VolumeError(f"{path} is a file and has no mip {mip}; files have mip 0 only")
    if form == "h5":
        info = hdf5.peek_h5(path, dataset)
        name = hdf5.split_dataset(path)[0]
        return info, lambda box: hdf5.read_h5(name, str(info.extra["dataset"]), box=box).array
    if form == "npy":
        return npy.peek_npy(path), _map_npy(path)
    from segflow.volumes.tif_pages import TifFolder, TifPages

    pages: Any = TifFolder(path) if Path(path).expanduser().is_dir() else TifPages(path)
    return pages.info, pages.read


def _open_volume(path: str, dataset: str | None, mip: int) -> tuple[VolumeInfo, Read]:
    local = path.removeprefix("file://")
    address = path if "://" in local else address_of(local) or path
    if dataset:
        form, place = split_address(address)
        if form == "precomputed":
            raise VolumeError(f"{path} is a precomputed volume and has no data set {dataset}")
        address = f"{form}://{place}/{dataset.strip('/')}"
    volume: Any = open_volume(address)
    return volume.info(mip), lambda box: volume.read(box, mip).array


def _map_npy(path: str) -> Read:
    """Give what reads a box of an npy file that is mapped into memory."""
    import numpy as np

    start = npy.peek_npy(path).bounds.start

    def read(box: Box) -> NDArray[Any]:
        with files.reading(path):
            mapped = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
            whole = mapped if mapped.ndim > 2 else mapped[None]
            return np.array(whole[(..., *box.slices(start))])

    return read


def format_of(path: str) -> str:
    """Tell the format of a file, folder or address: tif, h5, npy, or volume (zarr, n5, precomputed).

    Raises:
        VolumeError: there is nothing, or nothing known.
    """
    name, _ = hdf5.split_dataset(path)
    place = Path(name.removeprefix("file://")).expanduser()
    if "://" in name and not name.startswith("file://"):
        return "volume"
    if not place.exists():
        raise VolumeError(f"{path} does not exist")
    if place.is_file():
        form = READERS.get(place.suffix.lower())
        if form is None:
            raise VolumeError(f"{path} ends in no known way; give a .tif, .h5 or .npy file")
        return form
    return "volume" if address_of(str(place)) else "tif"


def address_of(folder: str) -> str | None:
    """Give the volume's address for a folder that holds one; None for others."""
    place = Path(folder).expanduser()
    for marks, scheme in (
        (("zarr.json", ".zarray", ".zgroup"), "zarr://"),
        (("attributes.json", "s0/attributes.json"), "n5://"),
        (("info",), "precomputed://"),
    ):
        if any((place / mark).exists() for mark in marks):
            return f"{scheme}{place.absolute()}"
    return None
