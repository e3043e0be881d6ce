"""From anything that is read box by box into a file or volume, in the memory of one box."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box, blocks, vec
from segflow.progress import bar
from segflow.volumes import files, hdf5, open_volume, tif
from segflow.volumes.base import VolumeInfo
from segflow.volumes.files import converted

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = {".tif": "tif", ".tiff": "tif", **dict.fromkeys(hdf5.ENDINGS, "h5"), ".zarr": "zarr"}
TILE = (64, 512, 512)


class Boxes(Protocol):
    """What can be copied: a header, and the chunk in any box of it.

    About ``info.block_size`` voxels of it are in memory at a time.
    """

    info: VolumeInfo

    def read(self, box: Box) -> Chunk:
        """Give the chunk in a box inside ``info.bounds``."""
        ...


def file_format(path: str) -> str:
    """Tell what is written at ``path``, by its ending: tif, h5 or zarr.

    Raises:
        UsageError: no ending that is known.
    """
    if path.startswith("zarr://"):
        return "zarr"
    form = FILES.get(os.path.splitext(path.rstrip("/"))[1].lower())
    if form is None:
        raise UsageError(f"{path} ends in no known way; give a .tif, .h5 or .zarr to --file-name")
    return form


def empty_like(info: VolumeInfo, dtype: str | None = None) -> Chunk:
    """Give a chunk of zeros, without memory, in the place of a volume."""
    lead = (info.channels,) if info.extra.get("ndim", 3 if info.channels == 1 else 4) == 4 else ()
    array = np.broadcast_to(np.zeros((), dtype or info.dtype), (*lead, *info.bounds.shape))
    return Chunk(array, info.bounds.start, info.voxel_size, info.layer_type, info.offsets)


def tiles(bounds: Box, near: Sequence[int], align: Sequence[int], origin: Sequence[int]) -> list[Box]:
    """Cut ``bounds`` into boxes of about ``near`` voxels that end where blocks of ``align`` do.

    >>> [str(b) for b in tiles(Box((0, 0, 0), (4, 4, 20)), (9, 9, 9), (4, 4, 4), (0, 0, 2))]
    ['0-4_0-4_0-6', '0-4_0-4_6-14', '0-4_0-4_14-20']
    """
    size = vec([max(1, round(n / a)) * a for n, a in zip(near, align)])
    found = (b.intersect(bounds) for b in blocks(bounds.snap(align, origin), size))
    return [b for b in found if not b.empty]


def copy_to_file(
    source: Boxes,
    path: str,
    *,
    dtype: str | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write all of ``source`` into a tif (uncompressed) or h5 file, whole or not at all.

    Args:
        source: what is read.
        path: file to make or replace; its ending tells the format.
        dtype: convert; default: that of the source.
        provenance: kept in the file.

    Raises:
        VolumeError: the place cannot be written. ChunkError: values that do not fit ``dtype``.
    """
    whole = empty_like(source.info, dtype)
    write = {"h5": _to_h5, "tif": _to_tif}.get(file_format(path))
    if write is None:
        raise UsageError(f"{path} is a volume and no file")
    with files.replacing(path) as beside:
        write(source, whole, beside, provenance)


def _read(source: Boxes, box: Box, dtype: Any) -> NDArray[Any]:
    return converted(source.read(box), np.dtype(dtype).name).array


def _to_h5(source: Boxes, whole: Chunk, path: Any, provenance: dict[str, Any] | None) -> None:
    import h5py

    from segflow.volumes.deflate import write_packed
    from segflow.volumes.sink import Sink

    with Sink(path) as sink, h5py.File(sink, "w") as file:
        main = hdf5.begin(file, whole, provenance=provenance)
        start = whole.voxel_offset
        for box in _shown(tiles(whole.bbox, source.info.block_size or TILE, main.chunks[-3:], start)):
            at = tuple(a - b for a, b in zip(box.start, start))
            write_packed(main, _read(source, box, whole.dtype), sink.check, (*(0,) * (main.ndim - 3), *at))


def _to_tif(source: Boxes, whole: Chunk, path: Any, provenance: dict[str, Any] | None) -> None:
    import tifffile

    kind = np.dtype("uint8") if whole.dtype == bool else whole.dtype
    tifffile.imwrite(path, shape=whole.shape, dtype=kind, **tif.tags_of(whole, provenance))
    with tifffile.TiffFile(path) as file:
        begin = file.series[0].dataoffset
    if begin is None:
        raise VolumeError(f"{path} could not be laid out in one piece")
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, begin + whole.array.nbytes)  # a full disk shows here
    for box in _shown(tiles(whole.bbox, source.info.block_size or TILE, (1, 1, 1), whole.voxel_offset)):
        mapped = np.memmap(path, kind, "r+", begin, whole.shape)  # anew: what is mapped counts as memory
        mapped[(..., *box.slices(whole.voxel_offset))] = _read(source, box, whole.dtype)
        mapped.flush()


def _shown(boxes: list[Box]) -> Iterator[Box]:
    with bar(len(boxes), "blocks") as tick:
        for box in boxes:
            yield box
            tick(1)


def copy_to_volume(
    source: Boxes,
    path: str,
    *,
    mip: int = 0,
    several: bool = False,
    provenance: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Write all of ``source`` into a precomputed or zarr volume, which is made if it is not there.

    What is written at a time is whole blocks of the volume, wherever it was read from.

    Args:
        source: what is read.
        path: the volume's address.
        mip: where it is written.
        several: it is one of several tasks, so a new volume is as large as what they came from.
        provenance: kept beside the volume.
        options: of a new volume, see segflow.volumes.create.info_for.

    Returns:
        the volume.

    Raises:
        VolumeError: it cannot be written, or the volume that is there does not hold it all.
        ChunkError: channels or values that do not fit.
    """
    from segflow.volumes.create import info_for, realise

    volume: Any = open_volume(path)
    whole = source.info.bounds
    if not volume.exists:
        around = source.read(Box(whole.start, vec([a + 1 for a in whole.start]))).source if several else {}
        found = around.get("bounds") if around.get("mip", mip) == mip else None
        bounds = found if found is not None and found.contains(whole) else whole
        realise(volume, info_for(empty_like(source.info), mip=mip, bounds=bounds, **options), same=False)
    info = volume.info(mip)
    if not info.bounds.contains(whole):
        raise VolumeError(f"{path} holds {info.bounds}, and {whole} is to be written; name another volume")
    if info.channels != source.info.channels:
        raise ChunkError(
            f"{path} has {info.channels} channel(s), and {source.info.channels} are to be written"
        )
    block = info.block_size or (64, 64, 64)
    for box in _shown(tiles(whole, source.info.block_size or TILE, block, info.bounds.start)):
        volume.write(source.read(box), mip)
    if provenance is not None:
        volume.note(provenance)
    return volume
