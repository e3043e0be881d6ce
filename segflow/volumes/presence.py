"""Whether a box of a volume has been written: its blocks are files with names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.volumes.voxels import PACKED, cell_name, cells

THREADS = 16
BATCH = 512  # blocks that are asked for before one that is missing ends it


def missing_blocks(volume: Any, box: Box, mip: int = 0, limit: int | None = None) -> list[Box]:
    """Give the blocks of a precomputed volume in a box that no file holds, in raster order.

    Args:
        volume: an unsharded precomputed volume in a folder or bucket.
        box: in voxels of ``mip``; what lies outside the volume is left out.
        mip: of the volume.
        limit: stop about here when at least one is missing; default: find all of them.

    Raises:
        VolumeError: the volume is of another format or sharded, so its files tell nothing.
        BoxError: the box is wholly outside.
    """
    info = volume.info(mip)
    if info.format != "precomputed" or info.extra.get("sharded"):
        what = "sharded" if info.extra.get("sharded") else info.format
        raise VolumeError(f"{volume.path} is {what}: which blocks it has is not told by its files")
    store, key = volume.store, info.extra["key"]

    def lacks(cell: Box) -> bool:
        name = f"{key}/{cell_name(cell)}"
        return all(store.size(name + ending) is None for ending in ("", *_endings(store)))

    found: list[Box] = []
    batch: list[Box] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for cell in [*cells(info, volume.inside(box, info)), None]:
            if cell is not None:
                batch.append(cell)
            if cell is None or len(batch) == BATCH:
                found += [c for c, gone in zip(batch, pool.map(lacks, batch)) if gone]
                batch = []
                if limit is not None and len(found) >= limit:
                    break
    return found


def _endings(store: Any) -> tuple[str, ...]:
    """Give what other programs append to the names of compressed blocks: in folders only."""
    return tuple(PACKED) if store.path.startswith("file://") else ()
