"""HDF5: chunkflow's layout (``main`` with ``voxel_offset`` and ``voxel_size`` beside it), CREMI's attributes.

A data set's place is taken from its own attributes (``voxel_offset``; or CREMI's ``offset`` and
``resolution``, nm), else from data sets of those names at the top level; everything zyx.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import BoxError, ChunkError, UsageError, VolumeError, did_you_mean
from segflow.geometry import Box
from segflow.volumes import files
from segflow.volumes.base import VolumeInfo
from segflow.volumes.sink import Sink

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

    from segflow.chunk import Chunk

log = logging.getLogger("segflow")

COMPRESSIONS = ("gzip", "lzf", "szip", "none")
BLOCK = (16, 128, 128)  # HDF5's unit of compression, voxels
ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")
NOT_VOLUMES = ("voxel_offset", "voxel_size", "global_offset", "unique_nonzeros")


def split_dataset(path: str) -> tuple[str, str | None]:
    """Take ``file.h5:dataset`` apart.

    >>> split_dataset("a/b.h5:/volumes/raw")
    ('a/b.h5', '/volumes/raw')
    >>> split_dataset("a/b.h5")
    ('a/b.h5', None)
    """
    for ending in ENDINGS:
        head, mark, dataset = path.partition(f"{ending}:")
        if mark and dataset:
            return head + ending, dataset
    return path, None


def list_datasets(path: str) -> list[VolumeInfo]:
    """Describe every data set that can be a chunk; ``extra["dataset"]`` is its name."""
    with _opened(path) as file:
        return [_describe(file, d, path) for d in _volumes(file)]


def peek_h5(path: str, dataset: str | None = None) -> VolumeInfo:
    """Describe a data set (default ``main``, else the only volume) without reading it.

    Raises:
        VolumeError: missing or broken file, or no such data set; the message lists what there is.
    """
    path, named = split_dataset(path)
    with _opened(path) as file:
        return _describe(file, _choose(file, dataset or named, path), path)


def select(
    info: VolumeInfo, *, channels: str | None = None, box: Box | None = None, channel_order: str = "xyz"
) -> VolumeInfo:
    """Give the header of what read_h5 gives for these options.

    Raises:
        ChunkError: channels that are not there. BoxError: ``box`` is not inside.
    """
    from segflow.chunk import DEFAULT_OFFSETS

    if channels is not None:
        wanted, plain = parse_channels(channels, info.channels)
        kind, offsets = info.layer_type, info.offsets
        if kind == "affinity_map" and offsets is None and info.channels == 3:
            offsets = DEFAULT_OFFSETS
        if kind == "affinity_map" and (plain or offsets is None):
            kind, offsets = "probability_map", None
        offsets = tuple(offsets[c] for c in wanted) if offsets else None
        extra = {**info.extra, "ndim": 3 if plain else 4}
        info = replace(info, channels=len(wanted), offsets=offsets, layer_type=kind, extra=extra)
    if channel_order == "zyx":
        if info.channels != 3:
            raise ChunkError(f"--channel-order zyx is for 3 channels of affinities, not {info.channels}")
        info = replace(info, layer_type="affinity_map", offsets=None)
    if box is not None:
        if box.empty or not info.bounds.contains(box):
            raise BoxError(f"the cutout {box} is not inside {info.path}, which holds {info.bounds}")
        info = replace(info, bounds=box)
    return info


def read_h5(
    path: str,
    dataset: str | None = None,
    *,
    box: Box | None = None,
    channels: str | None = None,
    channel_order: str = "xyz",
    voxel_offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
) -> Chunk:
    """Read a data set, or a part of it, as a chunk.

    Args:
        path: file, or ``file.h5:dataset``.
        dataset: its name; default ``main``, else the only volume in the file.
        box: the part to read, in voxels of the volume (not of the file).
        channels: which channels of a czyx set, say ``0,2`` or ``0:3``; one number gives zyx.
        channel_order: ``zyx`` for affinities stored z, y, x (PyTorch Connectomics): they are
            handed on as x, y, z.
        voxel_offset: zyx, voxels; voxel_size: zyx, nm; layer_type: each instead of the file's own.
        dtype: convert to this dtype.

    Raises:
        VolumeError: missing, broken, or no such data set. BoxError: ``box`` is not inside.
    """
    path, named = split_dataset(path)
    with _opened(path) as file:
        found = _choose(file, dataset or named, path)
        whole = _describe(file, found, path)
        whole = files.override(whole, voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type)
        info = select(whole, channels=channels, box=box, channel_order=channel_order)
        array = _read(found, whole, info, channels)
    if channel_order == "zyx":
        array = array[::-1]
    return files.make_chunk(array, replace(info, extra={**info.extra, "bounds": whole.bounds}), dtype)


def write_h5(
    path: str,
    chunk: Chunk,
    *,
    dtype: str | None = None,
    compression: str = "gzip",
    block_size: Sequence[int] | None = None,
    with_offset: bool = True,
    voxel_size: Sequence[float] | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write a chunk as ``main`` with ``voxel_offset`` and ``voxel_size`` beside it; whole or not at all.

    Args:
        path: file to make or replace.
        chunk: zyx or czyx.
        dtype: convert first; the default keeps the chunk's own.
        compression: one of COMPRESSIONS.
        block_size: zyx, voxels; HDF5's unit of compression.
        with_offset: whether ``voxel_offset`` is written.
        voxel_size: zyx, nm, instead of the chunk's.
        provenance: kept as attribute ``provenance`` of the file.

    Raises:
        VolumeError: the place cannot be written. ChunkError: values that do not fit ``dtype``.
    """
    import h5py

    from segflow.volumes.deflate import write_packed

    chunk = files.converted(chunk, dtype)
    if voxel_size is not None:
        z, y, x = voxel_size
        chunk = replace(chunk, voxel_size=(z, y, x))
    with files.replacing(path) as beside, Sink(beside) as sink, h5py.File(sink, "w") as file:
        main = begin(
            file, chunk, compression=compression, block_size=block_size or BLOCK, with_offset=with_offset,
            provenance=provenance,
        )  # fmt: skip
        if main.compression == "gzip":
            write_packed(main, chunk.array, sink.check)
        else:
            _fill(main, chunk.array, sink)


def begin(
    file: h5py.File,
    chunk: Chunk,
    *,
    compression: str = "gzip",
    block_size: Sequence[int] = BLOCK,
    with_offset: bool = True,
    provenance: dict[str, Any] | None = None,
) -> h5py.Dataset:
    """Make ``main`` for a chunk, and what stands beside it; give ``main``, still empty."""
    import numpy as np

    main = file.create_dataset(
        "main", chunk.shape, chunk.dtype, **_storage(chunk.shape, compression, block_size)
    )
    main.attrs["layer_type"] = chunk.layer_type or "unknown"
    if chunk.offsets:
        main.attrs["offsets"] = np.array(chunk.offsets, np.int64)
    if with_offset:
        file["voxel_offset"] = np.array(chunk.voxel_offset, np.int64)
    if chunk.voxel_size is not None:
        file["voxel_size"] = np.array(chunk.voxel_size, np.float64)
    if provenance is not None:
        file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
    return main


def _storage(shape: Sequence[int], compression: str, block_size: Sequence[int]) -> dict[str, Any]:
    """Give how HDF5 lays out and compresses a data set."""
    import h5py

    blocks = [max(1, min(b, n)) for b, n in zip(block_size, shape[-3:])]
    if compression == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        raise UsageError("this HDF5 library was built without szip; use --compression gzip")
    if 0 in shape or compression == "none" or (compression == "szip" and math.prod(blocks) < 32):
        return {} if 0 in shape else {"chunks": (*[1] * (len(shape) - 3), *blocks)}
    storage = {"chunks": (*[1] * (len(shape) - 3), *blocks), "compression": compression}
    return storage | ({"shuffle": True, "compression_opts": 1} if compression == "gzip" else {})


def _fill(main: h5py.Dataset, array: NDArray[Any], sink: Sink) -> None:
    """Write row by row of blocks; stop at the first that the disk refused."""
    step = main.chunks[-3] if main.chunks else 1
    for channel in range(array.shape[0]) if array.ndim == 4 else (None,):
        for z in range(0, array.shape[-3], step):
            part = slice(z, z + step)
            index = part if channel is None else (channel, part)
            main[index] = array[index]
            sink.check()


def parse_channels(text: str, count: int) -> tuple[list[int], bool]:
    """Read ``0,2`` or ``0:3`` or ``1``; give the channels, and whether it is one plain number.

    >>> parse_channels("0,2:4", 4)
    ([0, 2, 3], False)
    """
    wanted: list[int] = []
    try:
        for part in text.strip("()[] ").split(","):
            if ":" in part:
                wanted += range(count)[slice(*(int(v) if v.strip() else None for v in part.split(":")))]
            elif part.strip():
                wanted.append(range(count)[int(part)])
    except (ValueError, TypeError):
        raise ChunkError(f"--channels '{text}': write numbers and ranges, as 0,2 or 0:3") from None
    except IndexError:
        raise ChunkError(f"--channels '{text}': there are only {count} channel(s), counted from 0") from None
    if not wanted:
        raise ChunkError(f"--channels '{text}' chooses nothing of {count} channel(s)")
    return wanted, text.strip().lstrip("-").isdigit()


def _read(found: h5py.Dataset, whole: VolumeInfo, info: VolumeInfo, channels: str | None) -> NDArray[Any]:
    import numpy as np

    box = info.bounds.slices(whole.bounds.start)
    extra = found.ndim - whole.extra["ndim"]
    lead: tuple[Any, ...] = (0,) * extra
    if found.ndim == 2:
        return found[()][None][box]
    if channels is None or whole.extra["ndim"] == 3:
        return found[(*lead, *((slice(None),) * (whole.extra["ndim"] - 3)), *box)]
    wanted, plain = parse_channels(channels, whole.channels)
    if plain:
        return found[(*lead, wanted[0], *box)]
    array = np.empty((len(wanted), *info.bounds.shape), found.dtype)
    for at, channel in enumerate(wanted):
        array[at] = found[(*lead, channel, *box)]
    return array


@contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    import h5py

    place = Path(path).expanduser()
    with files.reading(path):
        if not place.exists():
            raise VolumeError(f"{path} does not exist")
        if place.is_dir():
            raise VolumeError(f"{path} is a folder; give an HDF5 file")
        if not place.stat().st_size:
            raise VolumeError(f"{path} is empty (0 bytes)")
        with h5py.File(place, "r") as file:
            yield file


def _volumes(file: h5py.File) -> list[h5py.Dataset]:
    """Give the data sets that can be chunks, in the order of their names."""
    import h5py

    found: list[h5py.Dataset] = []

    def visit(name: str, item: Any) -> None:
        numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in "buif"
        if numeric and item.ndim >= 2 and name.rpartition("/")[2] not in NOT_VOLUMES and _axes(item) <= 4:
            found.append(item)

    file.visititems(visit)
    return found


def _choose(file: h5py.File, dataset: str | None, path: str) -> h5py.Dataset:
    import h5py

    volumes = _volumes(file)
    held = ", ".join(f"{d.name} ({'x'.join(map(str, d.shape))} {d.dtype})" for d in volumes) or "no volume"
    if dataset is None:
        if "main" in file and isinstance(file["main"], h5py.Dataset):
            return file["main"]
        if len(volumes) == 1:
            return volumes[0]
        raise VolumeError(f"{path} holds {held}; choose one with --dataset-path, or as FILE.h5:/NAME")
    found = file.get(dataset)
    if not isinstance(found, h5py.Dataset):
        what = "is a group" if found is not None else "is not there"
        near = did_you_mean(dataset, [str(d.name) for d in volumes]) if found is None else ""
        raise VolumeError(f"the data set {dataset} {what} in {path}{near}; it holds {held}")
    return found


def _axes(found: h5py.Dataset) -> int:
    """Give the number of axes without the leading ones of one voxel that a chunk has no room for."""
    shape = list(found.shape)
    while len(shape) > 4 and shape[0] == 1:
        shape.pop(0)
    return len(shape)


def _describe(file: h5py.File, found: h5py.Dataset, path: str) -> VolumeInfo:
    from segflow.chunk import LAYER_TYPES

    shape = found.shape[found.ndim - _axes(found) :]
    shape = (1, *shape) if len(shape) == 2 else shape
    about = dict(found.attrs)
    if "offset" in about:
        about.setdefault("voxel_offset", None)
    about = {**_top_level(file), **about}
    size = _triple(about.get("voxel_size", about.get("resolution")))
    kind = about.get("layer_type")
    kind = kind.decode() if isinstance(kind, bytes) else kind
    offsets = about.get("offsets") if kind == "affinity_map" else None
    return files.describe(
        path, "h5", shape, found.dtype,
        voxel_offset=_voxel_offset(about, size, path), voxel_size=size,
        layer_type=kind if kind in LAYER_TYPES else None,
        offsets=None if offsets is None else tuple((int(z), int(y), int(x)) for z, y, x in offsets),
        block_size=found.chunks[-3:] if found.chunks and len(found.chunks) >= 3 else None,
        encoding=found.compression or "raw", extra={"dataset": found.name},
    )  # fmt: skip


def _top_level(file: h5py.File) -> dict[str, Any]:
    """Give chunkflow's voxel_offset (2020: global_offset) and voxel_size at the top of a file."""
    import h5py

    about = {}
    for old, name in (("global_offset", "voxel_offset"), ("voxel_offset",) * 2, ("voxel_size",) * 2):
        item = file.get(old)
        if isinstance(item, h5py.Dataset) and item.size == 3:
            about[name] = item[()].ravel()
    return about


def _triple(values: Any) -> tuple[float, float, float] | None:
    try:
        z, y, x = (float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if min(z, y, x) > 0 else None


def _voxel_offset(about: dict[str, Any], size: tuple[float, ...] | None, path: str) -> list[int] | None:
    found = about.get("voxel_offset")
    if found is not None:
        return [int(v) for v in found]
    if "offset" not in about or not size:
        return None
    exact = [float(o) / s for o, s in zip(about["offset"], size)]
    if any(abs(v - round(v)) > 0.01 for v in exact):
        log.warning("%s: its offset, %s nm, is no whole number of voxels: rounded", path, about["offset"])
    return [round(v) for v in exact]
