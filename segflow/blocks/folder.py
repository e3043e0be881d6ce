"""A folder of block files: written by split, found and checked by merge-blocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.blocks.cut import Blocks, Held, Source
from segflow.blocks.inputs import fingerprint
from segflow.blocks.manifest import NAME, Manifest, block_files, load_manifest
from segflow.errors import UsageError, VolumeError
from segflow.geometry import Box, Vec, vec, words
from segflow.volumes import hdf5, tif
from segflow.volumes.base import VolumeInfo
from segflow.volumes.files import reason
from segflow.volumes.lazy import LazyVolume, open_lazy

if TYPE_CHECKING:
    from segflow.chunk import Chunk

log = logging.getLogger("segflow")

PYTC = "/vol0"  # the data set of PyTorch Connectomics and K_NeuronSeg: czyx, affinities z, y, x


class Folder:
    """Writes blocks into a folder, with their manifest; files that are there and whole are kept.

    Args:
        path: the folder; made if it is not there.
        manifest: what is written.
        provenance: kept in each file.

    Raises:
        VolumeError: it holds the blocks of another split, or cannot be written.
    """

    def __init__(self, path: str, manifest: Manifest, provenance: dict[str, Any] | None = None) -> None:
        self.path, self.manifest, self.provenance = Path(path).expanduser(), manifest, provenance
        self.blocks, self.empty = manifest.blocks, set[int]()
        check_folder(path, manifest)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VolumeError(f"cannot make the folder {path}: {reason(error)}") from error
        if not (self.path / NAME).exists():
            manifest.save(path)

    def write(self, index: int, chunk: Chunk) -> bool:
        """Write block ``index`` unless its file is there; give whether it was written."""
        path = str(self.path / self.manifest.file(self.blocks.name(index)))
        if _is_there(path, chunk):
            return False
        if self.manifest.form == "h5":
            hdf5.write_h5(path, chunk, provenance=self.provenance)
        else:
            tif.write_tif(path, chunk, provenance=self.provenance)
        return True

    def leave_out(self, index: int) -> None:
        """Note that block ``index`` is empty; a file that an earlier run left of it goes."""
        self.empty.add(index)
        (self.path / self.manifest.file(self.blocks.name(index))).unlink(missing_ok=True)

    def finish(self) -> None:
        """Note that all blocks are there."""
        done = replace(self.manifest, empty=frozenset(self.empty), complete=True)
        if load_manifest(self.path) != done:
            done.save(self.path)


def check_folder(path: str, manifest: Manifest) -> None:
    """Raise VolumeError where a folder holds the blocks of another split."""
    there = load_manifest(path)
    other = there.differs(manifest) if there is not None else ""
    if other:
        raise VolumeError(
            f"{path} holds the blocks of another split ({other}); delete it or name another folder"
        )


def _is_there(path: str, chunk: Chunk) -> bool:
    try:
        info = hdf5.peek_h5(path) if path.endswith(".h5") else tif.peek_tif(path)
    except VolumeError:
        return False
    return (info.bounds, info.dtype, info.channels) == (chunk.bbox, chunk.dtype.name, chunk.channels)


def open_blocks(
    path: str,
    *,
    dataset: str | None = None,
    channel_order: str | None = None,
    block_size: Sequence[int] | None = None,
    overlap: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    voxel_offset: Sequence[int] | None = None,
    layer_type: str | None = None,
    fill_missing: bool = False,
) -> tuple[Blocks, dict[int, Source]]:
    """Find the block files in a folder and check their headers; no voxel is read.

    Where there is a manifest it says what the blocks are. Without one the files' names give the
    grid, their shapes the sizes, and ``overlap``, or the places that the files tell, the rest.

    Args:
        path: folder of ``chunk_z00_y00_x00.h5`` (or tif).
        dataset: in h5 files; default ``main``, else the only one (``vol0``).
        channel_order: of three affinity channels; default: zyx in a data set ``vol0``, else xyz.
        block_size: zyx, voxels, of files without manifest; default: the largest file's.
        overlap: zyx, voxels, of files without manifest.
        voxel_size: zyx, nm; layer_type: instead of the files' own.
        voxel_offset: zyx, the first voxel of the whole, of files without manifest.
        fill_missing: blocks without file are zeros.

    Returns:
        the blocks, and by its number what each holds; empty blocks are not among them.

    Raises:
        VolumeError: files are missing, unreadable, twice there, or do not fit the grid.
    """
    files, manifest = block_files(path), load_manifest(path)
    if not files:
        raise VolumeError(f"{path} holds no block files chunk_z00_y00_x00.h5 (or .tif)")
    told = {"dataset": dataset, "voxel_size": voxel_size, "layer_type": layer_type}
    opened = {at: _open(file, channel_order, **told) for at, file in files.items()}
    if manifest is None:
        blocks = _grid_of(path, {a: v.info for a, v in opened.items()}, block_size, overlap, voxel_offset)
    else:
        if block_size or overlap or voxel_offset:
            raise UsageError(
                f"the manifest of {path} tells --block-size, --overlap and --voxel-offset; leave them out"
            )
        blocks = manifest.blocks
    strange = [f for a, f in files.items() if any(i >= n for i, n in zip(a, blocks.counts))]
    if strange:
        raise VolumeError(f"{strange[0]} is outside the grid of {words(blocks.counts)} blocks; remove it")
    _check_missing(path, blocks, files, manifest.empty if manifest else frozenset(), fill_missing)
    kept = {blocks.index(at): volume for at, volume in opened.items()}
    size = manifest.voxel_size if manifest else None
    return blocks, {i: _placed(v, blocks.box(i), size, told) for i, v in kept.items()}


def _open(file: Path, channel_order: str | None, **told: Any) -> LazyVolume:
    if file.suffix in (".tif", ".tiff"):
        told["dataset"] = None
    volume = open_lazy(str(file), channel_order=channel_order, **told)
    plain = volume.info.extra.get("dataset") == PYTC and volume.info.channels == 3
    if channel_order is None and plain and told["layer_type"] in (None, "affinity_map"):
        return open_lazy(str(file), channel_order="zyx", **told)
    return volume


def _check_missing(
    path: str, blocks: Blocks, files: Mapping[Vec, Path], empty: frozenset[int], fill_missing: bool
) -> None:
    missing = [i for i in range(len(blocks)) if i not in empty and blocks.place(i) not in files]
    if not missing:
        return
    names = ", ".join(blocks.name(i) for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
    text = f"{len(missing)} of {len(blocks)} blocks are missing in {path}: {names}"
    if not fill_missing:
        raise VolumeError(f"{text}; make them, or give --fill-missing for zeros there")
    log.warning("%s: zeros there", text)


def _placed(volume: LazyVolume, box: Box, size: Any, told: dict[str, Any]) -> LazyVolume:
    """Put a block where the grid has it, unless its file tells a place inside that."""
    info, known = volume.info, volume.info.voxel_size
    if size and told["voxel_size"] is None and known not in (None, size):
        raise VolumeError(
            f"{info.path} has voxels of {words(known or ())} nm, and {NAME} says {words(size)}; "
            "correct one, or give --voxel-size"
        )
    begins = info.bounds.start
    if info.bounds.shape == box.shape and begins in (box.start, (0, 0, 0)):
        return volume.moved(box.start, known or size)
    if box.contains(info.bounds) and any(begins):
        return volume.moved(begins, known or size)  # its border was cut off
    raise VolumeError(
        f"{info.path} holds {info.bounds} ({words(info.bounds.shape)} voxels), and its block of the grid is "
        f"{box} ({words(box.shape)}); split again, or write the block in its own shape"
    )


def _grid_of(
    path: str,
    files: Mapping[Vec, VolumeInfo],
    block_size: Sequence[int] | None,
    overlap: Sequence[int] | None,
    voxel_offset: Sequence[int] | None,
) -> Blocks:
    """Give the blocks of files without manifest, from their names and shapes, and places if told."""
    counts = [1 + max(at[axis] for at in files) for axis in range(3)]
    size = (
        vec(block_size)
        if block_size
        else vec([max(i.bounds.shape[a] for i in files.values()) for a in range(3)])
    )
    places = {i.bounds.start for i in files.values()}
    told = overlap is None and len(places) == len(files) and len(files) > 1
    if overlap is None and not told and max(counts) > 1:
        raise UsageError(f"{path} has no {NAME} and its files tell no place; give --overlap Z Y X, in voxels")
    axes = []
    for axis in range(3):
        windows = []
        for number in range(counts[axis]):
            row = {at: info.bounds for at, info in files.items() if at[axis] == number}
            windows.append(_window(path, axis, number, row, size[axis], (overlap or (0, 0, 0))[axis], told))
        axes.append(tuple(windows))
    bounds = Box(vec([w[0][0] for w in axes]), vec([max(b for _, b in w) for w in axes]))
    first = files[(0, 0, 0)].bounds.start if (0, 0, 0) in files else bounds.start
    shift = [a - b for a, b in zip(voxel_offset or first, bounds.start)]
    moved = tuple(tuple((a + s, b + s) for a, b in w) for w, s in zip(axes, shift))
    return Blocks(bounds.shift(shift), moved)


def _window(
    path: str, axis: int, number: int, row: Mapping[Vec, Box], size: int, overlap: int, told: bool
) -> tuple[int, int]:
    """Give where the blocks of one number along an axis begin and end."""
    letter = "zyx"[axis]
    if told:
        found = {(b.start[axis], b.stop[axis]) for b in row.values()}
    else:
        first = number * (size - overlap)
        found = {(first, first + b.shape[axis]) for b in row.values()}
    if len(found) > 1:
        raise VolumeError(
            f"the blocks {letter}{number:02d} in {path} do not agree in {letter}: "
            + ", ".join(f"{a}-{b}" for a, b in sorted(found)[:3])
        )
    if not found:
        if told:
            raise VolumeError(f"no block {letter}{number:02d} is in {path}, and nothing tells where it lies")
        return number * (size - overlap), number * (size - overlap) + size
    begin, end = found.pop()
    if end - begin > size:
        raise VolumeError(
            f"the blocks {letter}{number:02d} in {path} are {end - begin} voxels in {letter}, not {size}"
        )
    return begin, end


def told_apart(source: Source | VolumeInfo) -> dict[str, Any]:
    """Give what tells a source from another, and from itself after a change."""
    if isinstance(source, Held):
        import zlib

        return {"crc32": zlib.crc32(np.ascontiguousarray(source.chunk.array).data)}
    info = source if isinstance(source, VolumeInfo) else source.info
    known = {k: info.extra[k] for k in ("dataset",) if k in info.extra}
    return {**fingerprint(info.path, info.mip), "mip": info.mip, **known}
