"""What a file or volume is: its header, the range of its values, its empty sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segflow.chunk import Chunk
from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.volumes import hdf5, npy, open_volume, tif
from segflow.volumes.base import VolumeInfo

LIMIT = 2**28  # voxels that are read for the range of values; sections are sampled beyond
READERS = {".tif": "tif", ".tiff": "tif", ".npy": "npy", **dict.fromkeys(hdf5.ENDINGS, "h5")}


def format_of(path: str) -> str:
    """Tell the format of a file, folder or address: tif, h5, npy, or volume (zarr, n5, precomputed).

    Raises:
        VolumeError: there is nothing, or nothing known.
    """
    name, dataset = hdf5.split_dataset(path)
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
    place = Path(folder)
    for marks, scheme in (
        (("zarr.json", ".zarray", ".zgroup"), "zarr://"),
        (("attributes.json", "s0/attributes.json"), "n5://"),
        (("info",), "precomputed://"),
    ):
        if any((place / mark).exists() for mark in marks):
            return f"{scheme}{place.absolute()}"
    return None


class Source:
    """A file or volume that is looked at: its header, and its sections a few at a time."""

    def __init__(self, path: str, dataset: str | None = None, mip: int | None = None) -> None:
        self.path, form = path, format_of(path)
        self._chunk: Chunk | None = None
        self.dataset = dataset or hdf5.split_dataset(path)[1]
        self._volume: Any = None
        if form == "volume":
            local = path.removeprefix("file://")
            self._volume = open_volume(path if "://" in local else address_of(local) or path)
            self.info: VolumeInfo = self._volume.info(self._mip() if mip is None else mip)
        elif form == "h5":
            self.info = hdf5.peek_h5(path, dataset)
        else:
            self.info = tif.peek_tif(path) if form == "tif" else npy.peek_npy(path)

    def _mip(self) -> int:
        """Give the finest mip of at most LIMIT voxels, else the coarsest."""
        last = self._volume.info(0).mips - 1
        small = (m for m in range(last + 1) if self._volume.info(m).bounds.voxels <= LIMIT)
        return next(small, last)

    def read(self, box: Box) -> Chunk:
        """Give the chunk in ``box``."""
        if self._volume is not None:
            return self._volume.read(box, self.info.mip)
        if self.info.format == "h5":
            return hdf5.read_h5(self.path, self.dataset, box=box)
        if self._chunk is None:
            read = tif.read_tif if self.info.format == "tif" else npy.read_npy
            self._chunk = read(self.path)
        return self._chunk.cutout(box)

    def middle(self) -> Chunk:
        """Give the middle section."""
        (low, y, x), (high, y1, x1) = self.info.bounds.start, self.info.bounds.stop
        z = (low + high) // 2
        return self.read(Box((z, y, x), (z + 1, y1, x1)))

    def slabs(self) -> Iterator[Chunk]:
        """Give all sections in slabs, or evenly spaced ones where the volume is large."""
        (low, y, x), (high, y1, x1) = self.info.bounds.start, self.info.bounds.stop
        section = max(1, self.info.bounds.voxels // max(1, high - low) * self.info.channels)
        step = self.info.block_size[0] if self.info.block_size else max(1, min(64, LIMIT // section))
        if self.info.bounds.voxels * self.info.channels <= LIMIT:
            starts: Any = range(low, high, step)
        else:
            step, starts = 1, np.unique(np.linspace(low, high - 1, max(1, LIMIT // section)).astype(int))
        for z in starts:
            yield self.read(Box((int(z), y, x), (min(int(z) + step, high), y1, x1)))


@dataclass
class Survey:
    """The values of a volume: range, mean, sections of zeros only, how many sections were looked at."""

    low: Any = float("inf")
    high: Any = float("-inf")
    mean: float = 0.0
    empty: list[int] = field(default_factory=list)
    sections: int = 0
    not_finite: int = 0


def survey(source: Source) -> Survey:
    """Look at the values of a volume, slab by slab (sampled sections beyond LIMIT voxels)."""
    found, total, count = Survey(), 0.0, 0
    for chunk in source.slabs():
        values = chunk.array
        if values.dtype.kind == "f":
            bad = int(values.size - np.isfinite(values).sum())
            found.not_finite += bad
            values = values[np.isfinite(values)] if bad else values
        if values.size:
            found.low, found.high = min(found.low, values.min().item()), max(found.high, values.max().item())
            total, count = total + float(values.sum(dtype=np.float64)), count + values.size
        for z in range(chunk.shape[-3]):
            if not chunk.array[..., z, :, :].any():
                found.empty.append(chunk.voxel_offset[0] + z)
        found.sections += chunk.shape[-3]
    found.mean = total / count if count else 0.0
    return found


def ranges(numbers: list[int]) -> str:
    """Give numbers as ranges.

    >>> ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in parts)
