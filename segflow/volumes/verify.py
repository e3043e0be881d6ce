"""Whether a volume is complete and intact: every block there, readable, of the right shape, as written."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.progress import bar
from segflow.volumes.base import VolumeInfo
from segflow.volumes.blockfiles import BrokenBlock, MissingBlock, Reader, block_reader
from segflow.volumes.checksums import EMPTY, Entry, crc, group_of, groups
from segflow.volumes.store import local_path
from segflow.volumes.voxels import cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAULTS = {
    "missing": "not stored",
    "truncated": "cannot be decoded",
    "zeroed": "zeros where something else was written",
    "stale": "other voxels than were written last",
    "incomplete": "a part of the block was never written",
}
REQUESTS = 16  # blocks of a bucket that are read at once


@dataclass(frozen=True)
class Fault:
    """What is wrong with a block: one of FAULTS, its mip, its box (zyx, voxels of the mip), and why."""

    kind: str
    mip: int
    box: Box
    text: str = ""


@dataclass
class Verdict:
    """What was found in a volume.

    ``unchecked`` blocks can be read, but have no checksum; ``background`` ones are deliberately
    not stored. ``voxels`` counts those of all blocks.
    """

    path: str
    mips: list[int]
    blocks: int = 0
    voxels: int = 0
    unchecked: int = 0
    background: int = 0
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many blocks have each fault."""
        found = Counter(f.kind for f in self.faults)
        return {kind: found[kind] for kind in FAULTS if found[kind]}


def verify(
    volume: Any, mips: Sequence[int] | None = None, *, fill_missing: bool = False, threads: int = 0
) -> Verdict:
    """Read every block of a volume and compare it with its checksum; O(block) memory a thread.

    Args:
        volume: precomputed (sharded or not), zarr or n5; only precomputed ones keep checksums.
        mips: which; default: all that the volume names.
        fill_missing: take blocks and parts that nobody wrote as background, not as faults.
        threads: blocks that are read at once; 0: one a core, 16 for a bucket.

    Raises:
        VolumeError: no such volume or mip, or the place cannot be reached.
    """
    began = time.perf_counter()
    count = volume.info().mips
    told = Verdict(volume.path, list(range(count)) if mips is None else list(mips))
    infos = [volume.info(mip) for mip in told.mips]
    workers = threads or ((os.cpu_count() or 1) if local_path(volume.store.path) is not None else REQUESTS)
    with ThreadPoolExecutor(workers) as pool, bar(sum(_count(i) for i in infos), "blocks") as tick:
        for info in infos:
            read = block_reader(volume, info)
            for cells_of, entries in _batches(volume, info):
                work = [_Work(read, info, c, entries.get(str(c)), fill_missing) for c in cells_of]
                for cell, (state, fault) in zip(cells_of, pool.map(_Work.judge, work)):
                    told.blocks += 1
                    told.voxels += cell.voxels
                    told.unchecked += state == "unchecked"
                    told.background += state == "background"
                    told.faults += [fault] if fault else []
                    tick(1)
    told.seconds = time.perf_counter() - began
    return told


def _count(info: VolumeInfo) -> int:
    block = info.block_size or info.bounds.shape
    grid = [-(-n // b) for n, b in zip(info.bounds.shape, block)]
    return grid[0] * grid[1] * grid[2]


def _batches(volume: Any, info: VolumeInfo) -> Iterator[tuple[list[Box], dict[str, Entry]]]:
    """Give the blocks of a mip, those of one file of checksums at a time, with its entries."""
    keeps = info.format == "precomputed"
    for _, box in groups(info):
        found = volume.store.get_json(group_of(info, box)) if keeps else None
        if found is not None and not isinstance(found, dict):
            raise VolumeError(f"{volume.store.path}/{group_of(info, box)} holds no checksums; delete it")
        yield list(cells(info, box)), found or {}


@dataclass
class _Work:
    """One block: how it is read, and what is known of it."""

    read: Reader
    info: VolumeInfo
    cell: Box
    entry: Entry | None
    fill_missing: bool

    def judge(self) -> tuple[str, Fault | None]:
        """Give checked, unchecked or background; or a fault."""
        entry = {str(self.cell): self.entry} if isinstance(self.entry, str) else self.entry or {}
        parts = {Box.parse(name): value for name, value in entry.items()}
        try:
            array = self.read(self.cell)
        except MissingBlock:
            return self._missing(parts)
        except BrokenBlock as error:
            return "fault", self._fault("zeroed" if error.blank else "truncated", str(error))
        for part, value in parts.items():
            wrong = self._differs(array, part, value)
            if wrong:
                return "fault", wrong
        if parts and not self.fill_missing and (gap := _gap(self.cell, list(parts))):
            return "fault", self._fault("incomplete", f"{gap} voxels of it")
        return ("unchecked" if not parts or None in parts.values() else "checked"), None

    def _missing(self, parts: dict[Box, str | None]) -> tuple[str, Fault | None]:
        stored = any(value != EMPTY for value in parts.values())
        if not stored and (self.fill_missing or (parts and not _gap(self.cell, list(parts)))):
            return "background", None
        return "fault", self._fault("missing", "" if stored else "nobody wrote it")

    def _differs(self, array: NDArray[Any], part: Box, value: str | None) -> Fault | None:
        if value is None:
            return None
        values = array[(slice(None), *part.slices(self.cell.start))]
        blank = not values.any()
        if blank if value == EMPTY else crc(values) == value:
            return None
        if blank:
            return self._fault("zeroed", "" if array.any() else "all of it")
        return self._fault("stale", "" if part == self.cell else f"in {part}")

    def _fault(self, kind: str, text: str) -> Fault:
        return Fault(kind, self.info.mip, self.cell, text)


def _gap(cell: Box, parts: list[Box]) -> int:
    """Give how many voxels of a block no part covers."""
    if cell in parts or (len(parts) == 1 and parts[0].contains(cell)):
        return 0
    import numpy as np

    free = np.ones(cell.shape, bool)
    for part in parts:
        free[part.intersect(cell).slices(cell.start)] = False
    return int(free.sum())


def as_json(found: Verdict) -> dict[str, Any]:
    """Give a verdict as JSON: counts, and every faulty block."""
    faults = [{"fault": f.kind, "mip": f.mip, "bbox": str(f.box), "why": f.text} for f in found.faults]
    return {
        "volume": found.path, "mips": found.mips, "blocks": found.blocks, "voxels": found.voxels,
        "ok": not faults, "faults": found.counts, "unchecked": found.unchecked,
        "background": found.background, "blocks_with_faults": faults,
    }  # fmt: skip


def table(found: Verdict, most: int = 10) -> str:
    """Give a verdict as lines: what was read, counts by fault, the first ``most`` boxes."""
    rate = found.voxels / 1e6 / max(found.seconds, 1e-9)
    of = f"mip{'s' if len(found.mips) > 1 else ''} {' '.join(map(str, found.mips))}"
    lines = [
        f"{found.path}, {of}: {found.blocks} blocks, {found.voxels / 1e6:.2f} Mvoxel "
        f"in {found.seconds:.2f} s ({rate:.1f} Mvoxel/s)"
    ]
    lines += [f"{count:9d} {kind}: {FAULTS[kind]}" for kind, count in found.counts.items()]
    if found.unchecked:
        lines.append(f"{found.unchecked:9d} readable, but without a checksum to compare with")
    if found.background:
        lines.append(f"{found.background:9d} background that is not stored")
    for fault in found.faults[:most]:
        lines.append(
            f"  {fault.box}  mip {fault.mip}  {fault.kind}{f' ({fault.text})' if fault.text else ''}"
        )
    if len(found.faults) > most:
        lines.append(f"  ... and {len(found.faults) - most} more; --json FILE names them all")
    bad = len(found.faults)
    good = "complete" if found.unchecked else "complete and as it was written"
    lines.append(f"{bad} {'block is' if bad == 1 else 'blocks are'} not as they should be" if bad else good)
    return "\n".join(lines)
