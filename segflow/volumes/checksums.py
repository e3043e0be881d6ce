"""Checksums of what was written into a precomputed volume, so that ``verify`` can prove it intact.

``segflow_checksums/KEY/Z_Y_X.json`` holds those of 8 x 8 x 8 blocks: one small file for up to 512
blocks, so a bucket gets 0.2 % more objects. It is changed as the info is (``change_json``: a lock file,
or If-Match), so workers that share it never lose each other's entries, and the last one to come is the
newest, with no clock involved. It names

    {BLOCK: crc} for a block that was written whole,
    {BLOCK: {PART: crc, ...}} for one that several tasks wrote, each its part.

A crc is the CRC-32 of the voxels (czyx, little endian), not of the file: a part keeps its crc when
another task changes the rest of its block, and no block is ever read back. None is a part whose crc was
lost to a later write of some of its voxels; EMPTY is background that was deliberately not stored.

The entry is written *before* the voxels. A worker that is killed between the two leaves a block that
does not match: it is found, and the task, which is still in its queue, mends it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from segflow.compiled import cores
from segflow.geometry import Box, Vec, vec
from segflow.volumes.base import VolumeInfo
from segflow.volumes.store import Store, change_json, local_path
from segflow.volumes.voxels import cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "segflow_checksums"
GROUP = 8  # blocks of one file along each axis
LOSSY = ("jpeg", "kempressed", "npz_uint8")  # what is read is not what was written
EMPTY = "empty"
TRIES = 300  # of a change that others may come before
REQUESTS = 8  # at a time, to a bucket

Entry = str | dict[str, str | None]


def crc(array: NDArray[Any]) -> str:
    """Give the CRC-32 of an array's values in C order, as 8 hex digits."""
    import numpy as np

    values: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return f"{zlib.crc32(values):08x}"


def group_of(info: VolumeInfo, cell: Box) -> str:
    """Give the name of the file that holds the entry of a block."""
    block = info.block_size or info.bounds.shape
    place = [(a - o) // (b * GROUP) for a, o, b in zip(cell.start, info.bounds.start, block)]
    return f"{FOLDER}/{info.extra['key']}/{'_'.join(map(str, place))}.json"


def groups(info: VolumeInfo) -> Iterator[tuple[str, Box]]:
    """Give the files of a mip with the boxes of blocks that each is for."""
    from segflow.geometry import blocks

    size: Vec = vec([b * GROUP for b in info.block_size or info.bounds.shape])
    for box in blocks(info.bounds, size):
        yield group_of(info, box), box.intersect(info.bounds)


def record(store: Store, info: VolumeInfo, box: Box, array: NDArray[Any] | None) -> None:
    """Note what is about to be written.

    Args:
        store: the volume's files.
        info: of the mip; encodings that change values are not noted.
        box: inside the bounds.
        array: czyx; None: background that is not stored.

    Raises:
        VolumeError: the files cannot be written.
    """
    if info.encoding in LOSSY:
        return
    fresh: dict[str, dict[str, tuple[str, str]]] = {}
    whole = list(cells(info, box))
    parts = [cell.intersect(box) for cell in whole]

    def value(part: Box) -> str:
        return EMPTY if array is None else crc(array[(slice(None), *part.slices(box.start))])

    with ThreadPoolExecutor(cores()) as pool:
        values = list((pool.map if len(parts) > 8 else map)(value, parts))
    for cell, part, found in zip(whole, parts, values):
        fresh.setdefault(group_of(info, cell), {})[str(cell)] = (str(part), found)

    def change(name: str) -> None:
        change_json(store, name, partial(merged, fresh=fresh[name]), TRIES)

    if len(fresh) == 1 or local_path(store.path) is not None:
        for name in fresh:
            change(name)
        return
    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(change, fresh))


def merged(found: dict[str, Entry] | None, fresh: dict[str, tuple[str, str]]) -> dict[str, Entry]:
    """Give the entries of a file with those of newly written parts.

    >>> merged({"0-4_0-4_0-4": "aa"}, {"0-4_0-4_0-4": ("0-4_0-4_0-4", "bb")})
    {'0-4_0-4_0-4': 'bb'}
    >>> merged({"0-4_0-4_0-4": {"0-2_0-4_0-4": "aa"}}, {"0-4_0-4_0-4": ("2-4_0-4_0-4", "bb")})
    {'0-4_0-4_0-4': {'0-2_0-4_0-4': 'aa', '2-4_0-4_0-4': 'bb'}}
    """
    new = dict(found or {})
    for cell, (part, value) in fresh.items():
        new[cell] = value if part == cell else with_part(new.get(cell), cell, part, value)
    return new


def with_part(entry: Entry | None, cell: str, part: str, value: str) -> Entry:
    """Give the entry of a block of which a part is newly written."""
    old = {cell: entry} if isinstance(entry, str) else entry or {}
    box = Box.parse(part)
    kept: dict[str, str | None] = {}
    for name, known in old.items():
        other = Box.parse(name)
        if not box.contains(other):
            kept[name] = known if box.intersect(other).empty else None
    return kept | {part: value}
