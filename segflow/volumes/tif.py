"""TIFF: stacks, folders of sections, BigTIFF; the place of a chunk in the first page's description.

segflow writes one page a section and, as JSON in the ImageDescription of the first page, what
tifffile calls a shaped series (``shape``, ``axes``) with ``voxel_size``, ``voxel_offset``,
``layer_type`` and ``offsets`` beside. Voxel sizes of OME and ImageJ files are read too. Every
dtype is written as it is: float32 stays float32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import UsageError, VolumeError
from segflow.volumes import files
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    import tifffile
    from numpy.typing import NDArray

    from segflow.chunk import Chunk

log = logging.getLogger("segflow")

COMPRESSIONS = ("none", "zlib", "lzw", "zstd", "lzma", "packbits", "jpeg")
BIG = 2**32 - 2**25  # bytes from which offsets may need more than 32 bits


def peek_tif(path: str) -> VolumeInfo:
    """Describe a tif file or a folder of them from headers alone.

    Raises:
        VolumeError: no tif, a truncated one, or axes that make no chunk.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        with opened(place) as tif:
            return describe_tif(tif, path)[0]
    sections = section_files(path)
    first = peek_tif(str(sections[0]))
    depth = sum(depths(sections, first))
    shape = [*_channels(first), depth, *first.bounds.shape[1:]]
    return files.describe(
        path, "tif", shape, first.dtype, voxel_offset=first.bounds.start, voxel_size=first.voxel_size,
        layer_type=first.layer_type, offsets=first.offsets,
    )  # fmt: skip


def read_tif(
    path: str,
    *,
    voxel_offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
) -> Chunk:
    """Read a tif file, or a folder whose files are stacked along z in natural order.

    Args:
        path: file or folder. Colour files give czyx, all others zyx or, with a channel axis, czyx.
        voxel_offset: zyx, voxels; voxel_size: zyx, nm; layer_type: each instead of the file's own.
        dtype: convert to this dtype.

    Raises:
        VolumeError: missing, truncated, or no tif; files of a folder that differ in size.
    """
    info = files.override(
        peek_tif(path), voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type
    )
    place = Path(path).expanduser()
    array = _read_folder(path, info) if place.is_dir() else _read_file(place)
    return files.make_chunk(array, info, dtype)


def write_tif(
    path: str,
    chunk: Chunk,
    *,
    dtype: str | None = None,
    compression: str = "zlib",
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write a chunk as a tif stack (BigTIFF when it may pass 4 GiB), whole or not at all.

    Args:
        path: file to make or replace.
        chunk: zyx or czyx.
        dtype: convert first; the default keeps the chunk's own.
        compression: one of COMPRESSIONS; jpeg loses detail and takes uint8 images only.
        provenance: kept in the description.

    Raises:
        VolumeError: the place cannot be written. ChunkError: values that do not fit ``dtype``.
    """
    import tifffile

    chunk = files.converted(chunk, dtype)
    array = chunk.array.view("uint8") if chunk.dtype == bool else chunk.array
    if compression == "jpeg" and (array.dtype != "uint8" or chunk.is_segmentation):
        raise UsageError(f"--compression jpeg takes uint8 images, not a {chunk.layer_type} of {array.dtype}")
    with files.replacing(path) as beside:
        tifffile.imwrite(
            beside, array, compression=None if compression in ("none", "") else compression,
            **tags_of(chunk, provenance),
        )  # fmt: skip


def tags_of(chunk: Chunk, provenance: dict[str, Any] | None = None) -> dict[str, Any]:
    """Give what tifffile's ``imwrite`` is told of a chunk besides its values."""
    about: dict[str, Any] = {
        "axes": "CZYX"[-chunk.array.ndim :],
        "voxel_offset": list(chunk.voxel_offset),
        "voxel_size": list(chunk.voxel_size) if chunk.voxel_size else None,
        "layer_type": chunk.layer_type,
        "offsets": [list(o) for o in chunk.offsets] if chunk.offsets else None,
        "provenance": provenance,
    }
    options: dict[str, Any] = {}
    if chunk.voxel_size:
        _, y, x = chunk.voxel_size
        options = {"resolution": (1e7 / x, 1e7 / y), "resolutionunit": "CENTIMETER"}
    return options | {
        "photometric": "minisblack", "bigtiff": chunk.array.nbytes > BIG, "software": "segflow",
        "metadata": {k: v for k, v in about.items() if v is not None},
    }  # fmt: skip


def section_files(path: str) -> list[Path]:
    """Give the tif files of a folder in natural order; raise VolumeError if there are none."""
    place = Path(path).expanduser()
    found = [p for p in place.iterdir() if p.suffix.lower() in (".tif", ".tiff") and p.name[0] != "."]
    if not found:
        raise VolumeError(f"the folder {path} holds no .tif or .tiff file")
    return sorted(found, key=lambda p: files.natural(p.name))


def depths(sections: Sequence[Path], first: VolumeInfo) -> list[int]:
    """Give the number of sections in each file; single ones are not opened."""
    if first.bounds.shape[0] == 1:
        return [1] * len(sections)
    return [peek_tif(str(p)).bounds.shape[0] for p in sections]


class _Complaints(logging.Handler):
    """What tifffile only logs although the file is cut off."""

    SIGNS = ("invalid page offset", "invalid value offset", "corrupt")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if any(sign in text for sign in self.SIGNS):
            self.texts.append(text)


@contextmanager
def opened(place: Path) -> Iterator[tifffile.TiffFile]:
    """Open a tif and raise VolumeError for whatever is wrong with it, also later in the block."""
    import tifffile

    complaints, logger = _Complaints(), logging.getLogger("tifffile")
    before = logger.propagate
    with files.reading(place):
        if not place.exists():
            raise VolumeError(f"{place} does not exist")
        if not place.stat().st_size:
            raise VolumeError(f"{place} is empty (0 bytes)")
        logger.addHandler(complaints)
        logger.propagate = False
        try:
            with tifffile.TiffFile(place) as tif:
                if not tif.series or complaints.texts:
                    what = (complaints.texts or ["it holds no image"])[0]
                    raise VolumeError(f"{place} is truncated or broken: {what}")
                yield tif
        finally:
            logger.removeHandler(complaints)
            logger.propagate = before


def _read_file(place: Path) -> NDArray[Any]:
    with opened(place) as tif:
        _, order = describe_tif(tif, str(place))
        series = tif.series
        if len(series) > 1 and order is None:
            return tif.asarray(key=slice(None))
        array = series[0].asarray()
        axes, kept = series[0].axes, order or ""
        index = tuple(slice(None) if a in kept else 0 for a in axes)
        array = array[index]
        left = [a for a in axes if a in kept]
        array = array.transpose([left.index(a) for a in kept])
        return array if array.ndim > 2 else array[None]


def _read_folder(path: str, info: VolumeInfo) -> NDArray[Any]:
    import numpy as np

    shape = (*_channels(info), *info.bounds.shape)
    array, at = np.empty(shape, info.dtype), 0
    for place in section_files(path):
        part = _read_file(place)
        wanted = (*shape[:-3], part.shape[-3], *shape[-2:])
        fits = at + part.shape[-3] <= shape[-3]
        if part.shape != wanted or part.dtype.newbyteorder("=") != array.dtype or not fits:
            raise VolumeError(
                f"{place} is {'x'.join(map(str, part.shape))} {part.dtype} and does not fit the first file "
                f"of the folder ({'x'.join(map(str, shape[-2:]))} {array.dtype})"
            )
        array[..., at : at + part.shape[-3], :, :] = part
        at += part.shape[-3]
    return array


def describe_tif(tif: tifffile.TiffFile, path: str) -> tuple[VolumeInfo, str | None]:
    """Give the header of an open tif, and which of its axes are kept, in order.

    None instead of the axes stands for equal sections in many series.
    """
    series, first = tif.series, tif.series[0]
    about, page = _about(tif), first.keyframe
    shape: tuple[int, ...]
    order: str | None
    if len(series) > 1 and len({(s.shape, s.dtype) for s in series}) == 1 and len(first.shape) == 2:
        shape, order = (len(series), *first.shape), None
    else:
        if len(series) > 1:
            log.warning("%s holds %d images of different sizes; the first is read", path, len(series))
        order = _axes_to_keep(path, first.axes, first.shape, bool(about.get("layer_type")))
        sizes = dict(zip(first.axes, first.shape))
        shape = tuple(sizes[a] for a in order)
        shape = shape if len(shape) > 2 else (1, *shape)
    color = getattr(page.photometric, "name", "") in ("RGB", "YCBCR") and len(shape) == 4
    return files.describe(
        path, "tif", shape, first.dtype, voxel_offset=about.get("voxel_offset"),
        voxel_size=_voxel_size(tif, about),
        layer_type=about.get("layer_type") or ("image" if color else None),
        offsets=tuple(tuple(o) for o in about["offsets"]) if about.get("offsets") else None,
        encoding=getattr(page.compression, "name", "unknown").lower(),
    ), order  # fmt: skip


def _axes_to_keep(path: str, axes: str, shape: Sequence[int], ours: bool) -> str:
    """Choose which of a series' axes are c, z, y, x; one-voxel others are dropped."""
    sizes = dict(zip(axes, shape))
    if len(sizes) != len(axes) or "Y" not in sizes or "X" not in sizes:
        raise VolumeError(f"{path} has the axes {axes} of sizes {tuple(shape)}; a chunk needs (c)zyx")
    rest = [a for a in axes if a not in "YX" and (sizes[a] > 1 or a == "Z" or (ours and a == "C"))]
    depth = "Z" if "Z" in rest else next((a for a in rest if a not in "CS"), "")
    color = next((a for a in rest if a in "CS" and a != depth), "")
    if set(rest) - {depth, color}:
        raise VolumeError(f"{path} has the axes {axes} of sizes {tuple(shape)}; a chunk has only c, z, y, x")
    return f"{color}{depth}YX" if depth else f"{color}{_flat(axes)}YX" if color else "YX"


def _flat(axes: str) -> str:
    """Give a one-voxel axis to stand for z, if there is one."""
    return next((a for a in axes if a not in "YXCS"), "")


def _about(tif: tifffile.TiffFile) -> dict[str, Any]:
    """Give our own JSON of the first page, or nothing."""
    try:
        found = json.loads(tif.pages[0].description)  # type: ignore[union-attr]
    except (ValueError, AttributeError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _channels(info: VolumeInfo) -> list[int]:
    return [info.channels] if info.extra.get("ndim") == 4 else []


def _voxel_size(tif: tifffile.TiffFile, about: dict[str, Any]) -> tuple[float, float, float] | None:
    """Give the voxel size (zyx, nm) that our JSON, OME or ImageJ states; None if unknown."""
    if about.get("voxel_size"):
        z, y, x = (float(v) for v in about["voxel_size"])
        return (z, y, x)
    if tif.is_ome and tif.ome_metadata:
        return _ome_voxel_size(tif.ome_metadata)
    if tif.is_imagej and tif.imagej_metadata:
        found = tif.imagej_metadata
        unit = files.NANOMETERS.get(str(found.get("unit", "")).replace("\\u00B5", "µ").lower())
        tags = tif.pages[0].tags  # type: ignore[union-attr]
        if unit and "spacing" in found and "XResolution" in tags and "YResolution" in tags:
            (ny, dy), (nx, dx) = tags["YResolution"].value, tags["XResolution"].value
            return (float(found["spacing"]) * unit, dy / max(ny, 1) * unit, dx / max(nx, 1) * unit)
    return None


def _ome_voxel_size(text: str) -> tuple[float, float, float] | None:
    from xml.etree import ElementTree

    try:
        pixels = next(e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("Pixels"))
        sizes = [
            float(pixels.attrib[f"PhysicalSize{a}"])
            * files.NANOMETERS[pixels.attrib.get(f"PhysicalSize{a}Unit", "µm").lower()]
            for a in "ZYX"
        ]
    except (StopIteration, KeyError, ValueError, ElementTree.ParseError):
        return None
    return (sizes[0], sizes[1], sizes[2])
