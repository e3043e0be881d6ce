"""Boxes of tif files: only the pages, and of a page only the strips or tiles, that a box touches."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.volumes import files, tif
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

Parts = dict[str, slice]  # axis letter -> what is wanted of it


class TifPages:
    """One tif file that stays open; its voxels are read when a box is asked for.

    Uncompressed stacks are mapped into memory. ``info`` is the header, as ``peek_tif`` gives it.

    Raises:
        VolumeError: no tif, a truncated one, or axes that make no chunk.
    """

    def __init__(self, path: str) -> None:
        import tifffile

        self.path, self.lock = path, threading.Lock()
        self.info = tif.peek_tif(path)
        place = Path(path).expanduser()
        with files.reading(path):
            self.file = tifffile.TiffFile(place)
            weakref.finalize(self, self.file.close)
            order = tif.describe_tif(self.file, path)[1]
            series = self.file.series[0]
            self.order = order or "ZYX"
            self.axes = series.axes if order else "ZYX"
            self.shape = series.shape if order else (len(self.file.series), *series.shape)
            self.pages: Sequence[Any] = series.pages if order else [s.pages[0] for s in self.file.series]
            self.dtype = np.dtype(series.dtype).newbyteorder(self.file.byteorder)
            self.plain: int | None = None  # where its voxels begin, if they lie there as they are
            if order and 0 not in series.shape:
                self.plain = series.dataoffset

    def read(self, box: Box) -> NDArray[Any]:
        """Give zyx or czyx of a box inside ``info.bounds``."""
        zyx = box.slices(self.info.bounds.start)
        channels = [slice(0, self.info.channels)] if len(self.order) == 4 else []
        parts = dict(zip(self.order, [*channels, *zyx][-len(self.order) :]))
        with files.reading(self.path):
            if self.plain is not None:
                place = Path(self.path).expanduser()
                mapped = np.memmap(place, self.dtype, "r", self.plain, self.shape)
                array = np.array(mapped[tuple(parts.get(a, 0) for a in self.axes)])
            else:
                with self.lock:
                    array = self._gather(parts)
        kept = [a for a in self.axes if a in parts]
        array = array.transpose([kept.index(a) for a in self.order])
        return array if array.ndim > 2 else array[None]

    def _gather(self, parts: Parts) -> NDArray[Any]:
        """Put pages together along the axes in front of a page's own."""
        count = 0
        while len(self.pages) != int(np.prod(self.shape[:count], dtype=np.int64)) and count < len(self.shape):
            count += 1
        lead, inner = self.axes[:count], self.axes[count:]
        wanted = [range(*parts[a].indices(n)) if a in parts else [0] for a, n in zip(lead, self.shape)]
        pages = []
        for place in itertools.product(*wanted):
            number = int(np.ravel_multi_index(place, self.shape[:count])) if place else 0
            pages.append(self._page(number, inner, self.shape[count:], parts))
        kept = [len(w) for a, w in zip(lead, wanted) if a in parts]
        return np.stack(pages).reshape(*kept, *pages[0].shape)

    def _page(self, number: int, axes: str, shape: tuple[int, ...], parts: Parts) -> NDArray[Any]:
        page, index = self.pages[number], tuple(parts.get(a, 0) for a in axes)
        if page is None:
            return np.zeros(shape, self.dtype)[index]
        key = page.keyframe
        plain = axes in ("YX", "YXS") and key.imagedepth == 1 and len(key.chunked) == len(axes)
        if not plain or len(page.dataoffsets) != int(np.prod(key.chunked)):
            return page.asarray().reshape(shape)[index]
        rows, columns = parts["Y"], parts["X"]
        near = [range(p.start // n, -(-p.stop // n)) for p, n in zip((rows, columns), key.chunks)]
        found = [y * key.chunked[1] + x for y in near[0] for x in near[1]]
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start, *shape[2:]), self.dtype)
        for data, at in self.file.filehandle.read_segments(
            [page.dataoffsets[i] for i in found], [page.databytecounts[i] for i in found], indices=found
        ):
            part, (_, _, y, x, _), _ = key.decode(data, at, **_tables(page), _fullsize=key.is_tiled)
            if part is not None:
                _paste(
                    out, part[0].reshape(*part.shape[1:3], *shape[2:]), (y - rows.start, x - columns.start)
                )
        return out[(slice(None), slice(None), *index[2:])]


def _tables(page: Any) -> dict[str, Any]:
    """Give what jpeg strips leave to the page."""
    if page.keyframe.compression not in (6, 7, 34892, 33007):
        return {}
    return {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}


def _paste(out: NDArray[Any], part: NDArray[Any], place: tuple[int, int]) -> None:
    """Copy what ``part``, at ``place`` (y, x), shares with ``out``."""
    inner, outer = [], []
    for at, have, room in zip(place, part.shape, out.shape):
        low, high = max(at, 0), min(at + have, room)
        outer.append(slice(low, high))
        inner.append(slice(low - at, high - at))
    out[tuple(outer)] = part[tuple(inner)]


class TifFolder:
    """A folder of tif files stacked along z in natural order; each is opened when a box needs it.

    Raises:
        VolumeError: there is no tif file, or the first is broken.
    """

    def __init__(self, path: str) -> None:
        self.path, self.sections = path, tif.section_files(path)
        first = tif.peek_tif(str(self.sections[0]))
        depths = tif.depths(self.sections, first)
        self.starts = [0, *itertools.accumulate(depths)]
        lead = [first.channels] if first.extra.get("ndim") == 4 else []
        self.info: VolumeInfo = files.describe(
            path, "tif", [*lead, self.starts[-1], *first.bounds.shape[1:]], first.dtype,
            voxel_offset=first.bounds.start, voxel_size=first.voxel_size,
            layer_type=first.layer_type, offsets=first.offsets,
        )  # fmt: skip

    def read(self, box: Box) -> NDArray[Any]:
        """Give zyx or czyx of a box inside ``info.bounds``."""
        z, y, x = box.slices(self.info.bounds.start)
        lead = [self.info.channels] if self.info.extra.get("ndim") == 4 else []
        out = np.empty((*lead, *box.shape), self.info.dtype)
        for place, low, high in zip(self.sections, self.starts, self.starts[1:]):
            begin, end = max(low, z.start), min(high, z.stop)
            if begin >= end:
                continue
            pages = TifPages(str(place))
            self._check(pages.info, place, high - low)
            part = Box((begin - low, y.start, x.start), (end - low, y.stop, x.stop))
            out[..., begin - z.start : end - z.start, :, :] = pages.read(part.shift(pages.info.bounds.start))
        return out

    def _check(self, info: VolumeInfo, place: Path, depth: int) -> None:
        shape = (info.channels, depth, *self.info.bounds.shape[1:])
        if (info.channels, *info.bounds.shape) != shape or info.dtype != self.info.dtype:
            raise VolumeError(
                f"{place} is {'x'.join(map(str, info.bounds.shape))} {info.dtype} and does not fit the first "
                f"file of the folder ({'x'.join(map(str, shape[2:]))} {self.info.dtype})"
            )
