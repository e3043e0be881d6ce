"""The volume that a chunk asks for, when it is written to a place that has none yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box, Vec, vec
from segflow.volumes import info as metadata
from segflow.volumes import open_volume
from segflow.volumes.bounded import BoundedVolume
from segflow.volumes.convert import disk_dtype
from segflow.volumes.precomputed import PrecomputedVolume

log = logging.getLogger("segflow")


def make_volume(
    volume: Any, chunk: Chunk | None, *, whole: bool = False, mip: int = 0, **options: Any
) -> None:
    """Make a precomputed or zarr volume for a chunk, unless another process is quicker.

    Args:
        volume: the volume that is not there yet.
        chunk: what will be written first.
        whole: it is one of several tasks, so the bounds are those of the volume it came from.
        mip: the chunk's.
        options: those of ``info_for``.

    Raises:
        VolumeError: there is no chunk to tell what volume is wanted.
    """
    if chunk is None:
        raise VolumeError(
            f"there is no volume at {volume.path}, and no chunk to make one for; make it with create-info"
        )
    source = chunk.source.get("bounds") if whole and chunk.source.get("mip") == mip else None
    bounds = source if source is not None and source.contains(chunk.bbox) else chunk.bbox
    realise(volume, info_for(chunk, mip=mip, bounds=bounds, **options), same=False)


def realise(volume: Any, raw: metadata.Info, *, same: bool) -> None:
    """Make the precomputed or zarr volume that an info describes; see PrecomputedVolume.create."""
    if isinstance(volume, PrecomputedVolume):
        volume.create(raw, same=same)
        return
    from segflow.volumes.zarr import ZarrVolume

    if not isinstance(volume, ZarrVolume):
        raise VolumeError(f"{volume.path} can only be read; write to a precomputed volume or zarr://")
    for mip in range(len(raw["scales"])):
        info = metadata.parse(volume.path, raw, mip)
        if mip == 0:
            ZarrVolume.create(
                volume.path, info.bounds, info.dtype, channels=info.channels,
                voxel_size=info.voxel_size, layer_type=info.layer_type, offsets=info.offsets,
                block_size=info.block_size or metadata.BLOCK,
            )  # fmt: skip
        else:
            volume.add_mips(mip + 1, metadata.ratio(raw, mip - 1, mip)[1])


def empty_info(
    chunk: Chunk | None = None,
    *,
    size: Sequence[int] | None = None,
    offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    dtype: str | None = None,
    channels: int | None = None,
    layer_type: str | None = None,
    block_size: Sequence[int] = metadata.BLOCK,
    encoding: str = "raw",
    mips: int = 1,
    factor: Sequence[int] = (2, 2, 2),
) -> metadata.Info:
    """Make the info of a volume from what is told, and from a chunk where that says nothing.

    Without a chunk the offset is 0 0 0, the dtype uint8, the channels 1, and uint32 and uint64 are
    segmentations. Raises what ``info_for`` raises.
    """
    if chunk is None or any(v is not None for v in (size, offset, dtype, channels)):
        count = channels or (chunk.channels if chunk else 1)
        kind = dtype or (disk_dtype(chunk) if chunk else "uint8")
        place = offset or (chunk.voxel_offset if chunk else (0, 0, 0))
        extent = size or (chunk.bbox.shape if chunk else None)
        if extent is None:
            raise VolumeError("the size of the volume is not told")
        shape = (count, *extent) if count > 1 else tuple(extent)
        known = chunk.voxel_size if chunk else None
        chunk = Chunk(np.broadcast_to(np.zeros((), kind), shape), vec(place), known, layer_type)
    return info_for(
        chunk, voxel_size=voxel_size, block_size=block_size, encoding=encoding, layer_type=layer_type,
        dtype=dtype, mips=mips, factor=factor,
    )  # fmt: skip


def with_own_mips(volume: Any, raw: metadata.Info, mips: int, factor: Sequence[int] | None) -> metadata.Info:
    """Give the info with ``mips`` mips, by the factors of the volume if that is there and names them.

    Args:
        volume: precomputed or zarr, there or not.
        raw: an info of one mip.
        mips: how many it shall name.
        factor: from each mip to the next; None: as in the volume, beyond its last mip 2 2 2.
    """
    have = volume.info().mips if factor is None and volume.exists else 1
    for mip in range(1, mips):
        raw = metadata.add_mip(raw, volume.ratio(mip - 1, mip)[1] if mip < have else factor or (2, 2, 2))
    return raw


def info_for(
    chunk: Chunk,
    *,
    mip: int = 0,
    mips: int = 1,
    bounds: Box | None = None,
    voxel_size: Sequence[float] | None = None,
    block_size: Sequence[int] = metadata.BLOCK,
    encoding: str | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
    factor: Sequence[int] | None = None,
) -> metadata.Info:
    """Make the info of a volume into which ``chunk`` can be written.

    Args:
        chunk: what will be written at ``mip``; what is not given otherwise is taken from it.
        mip: the chunk's; finer mips are named too, by the factors of the volume it came from.
        mips: how many mips the info names in all.
        bounds: box of the volume at ``mip``; default: the chunk's.
        voxel_size: at ``mip``, nm; neither here nor in the chunk: 1 1 1 is written, with a warning.
        block_size: zyx, voxels.
        encoding: default compressed_segmentation for uint32 and uint64 labels, else raw.
        layer_type: image, segmentation, affinity_map or probability_map.
        dtype: default as ``segflow.volumes.convert.disk_dtype`` says.
        factor: downsampling from each mip to the next; default: towards cubic voxels.

    Raises:
        ChunkError: it is undecided whether the chunk holds labels (uint16), or the format does not
            hold what is asked for.
        BoxError: the bounds do not fit the finer mips.
    """
    kind = layer_type or chunk.layer_type
    if kind is None:
        raise ChunkError(
            f"{chunk.dtype} may be an image or a segmentation; say which with --layer-type image or "
            "--layer-type segmentation"
        )
    chunk = replace(chunk, layer_type=kind)
    values = dtype or disk_dtype(chunk)
    size = voxel_size or chunk.voxel_size
    if size is None:
        log.warning("the voxel size is unknown: 1 1 1 nm is written; give it with --voxel-size Z Y X")
    if encoding is None:
        wide = values in ("uint32", "uint64")
        encoding = "compressed_segmentation" if wide and kind == "segmentation" else "raw"
    steps = _finer(chunk, mip, factor)
    up = vec([math.prod(step[axis] for step in steps) for axis in range(3)])
    raw = metadata.make(
        (bounds or chunk.bbox).scale(up), values, channels=chunk.channels, layer_type=kind,
        voxel_size=size and [s / u for s, u in zip(size, up)], block_size=block_size,
        encoding=encoding, offsets=chunk.offsets,
    )  # fmt: skip
    for step in steps:
        raw = metadata.add_mip(raw, step)
    return metadata.with_mips(raw, max(mips, mip + 1), factor)


def _finer(chunk: Chunk, mip: int, factor: Sequence[int] | None) -> list[Vec]:
    """Give the factors between mips 0 to ``mip``: as told, as in the chunk's source, else 1 2 2."""
    if mip and factor is None and chunk.source.get("mip") == mip:
        try:
            source = open_volume(str(chunk.source["path"]))
            return [source.ratio(m, m + 1)[1] for m in range(mip)]  # type: ignore[attr-defined]
        except (VolumeError, AttributeError, KeyError):
            log.debug("the mips of %s are not known", chunk.source)
    return [vec(factor or (1, 2, 2))] * mip


def thumbnail_of(volume: BoundedVolume, chunk: Chunk, mip: int, last: int = 6) -> None:
    """Write a chunk's xy-average as uint8 into the last mip of the volume's ``thumbnail``.

    The thumbnail is a volume with mips 0 to ``last``, made if it is not there. Of several channels
    the last is taken; floats in [0, 1] become round(255 a). A window that several chunks share is
    written by the one that has its last voxel, so in any order they write the same.

    Raises:
        ChunkError: the chunk holds labels, or numbers that are neither uint8 nor in [0, 1].
    """
    from segflow.image.downsample import downsample_chunk
    from segflow.volumes.convert import to_dtype

    if chunk.is_segmentation:
        raise ChunkError("a thumbnail is an average, which labels do not have; leave --create-thumbnail out")
    plane = chunk.array[-1] if chunk.array.ndim == 4 else chunk.array
    bounds = volume.info(mip).bounds
    grey = Chunk(plane, chunk.voxel_offset, chunk.voxel_size, "image", source=chunk.source)
    grey = grey.cutout(volume.inside(chunk.bbox, volume.info(mip)))
    try:
        grey = grey.with_array(to_dtype(grey, "uint8"), layer_type="image")
    except ChunkError as error:
        raise ChunkError(
            f"a thumbnail is made of uint8 images and of floats in [0, 1], not of such {chunk.dtype}; leave "
            "--create-thumbnail out"
        ) from error
    target = PrecomputedVolume(f"{volume.store.path}/thumbnail")
    if not target.exists:
        target.create(_thumbnail_info(volume, chunk, mip, last), same=False)
    coarse = target.info(target.info().mips - 1)
    if coarse.mip < mip:
        raise VolumeError(f"{target.path} has no mip {mip}; delete it, and it is made anew")
    window = target.ratio(mip, coarse.mip)[1]
    stop = [-(-b // f) if b == end else b // f for b, f, end in zip(grey.bbox.stop, window, bounds.stop)]
    small = downsample_chunk(grey, window)
    own = Box(small.bbox.start, vec(stop)).intersect(coarse.bounds)
    if not own.empty:
        target.write(small.cutout(own), coarse.mip)


def _thumbnail_info(volume: BoundedVolume, chunk: Chunk, mip: int, last: int) -> metadata.Info:
    """Give the info of a thumbnail: blocks as large as the chunk there, so that tasks write whole ones."""
    step = 2 ** max(0, last - mip)
    sizes = zip(chunk.shape[-2:], volume.info(mip).bounds.shape[-2:])
    block = [chunk.shape[-3], *(-(-n // step) if n % step == 0 or n >= all_ else 1 for n, all_ in sizes)]
    finest = volume.info(0)
    raw = metadata.make(finest.bounds, "uint8", voxel_size=finest.voxel_size, block_size=block)
    for level in range(max(last, mip)):
        raw = metadata.add_mip(raw, volume.ratio(level, level + 1)[1] if level < mip else (1, 2, 2))
    return raw
