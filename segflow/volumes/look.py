"""What a file or volume is: its header, the range of its values, its empty sections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segflow.chunk import Chunk
from segflow.geometry import Box
from segflow.volumes.base import VolumeInfo
from segflow.volumes.lazy import LazyVolume, open_lazy

LIMIT = 2**28  # voxels that are read for the range of values; sections are sampled beyond


class Source:
    """A file or volume that is looked at: its header, and its sections a few at a time."""

    def __init__(self, path: str, dataset: str | None = None, mip: int | None = None) -> None:
        self.path, self._lazy = path, open_lazy(path, dataset=dataset, mip=mip or 0)
        if mip is None and self._lazy.info.mips > 1:
            self._lazy = self._small(dataset)
        self.info: VolumeInfo = self._lazy.info

    def _small(self, dataset: str | None) -> LazyVolume:
        """Give the finest mip of at most LIMIT voxels, else the coarsest."""
        mips = [open_lazy(self.path, dataset=dataset, mip=m) for m in range(self._lazy.info.mips)]
        return next((v for v in mips if v.info.bounds.voxels <= LIMIT), mips[-1])

    def read(self, box: Box) -> Chunk:
        """Give the chunk in ``box``."""
        return self._lazy.read(box)

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
