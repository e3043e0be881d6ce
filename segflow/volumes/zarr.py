"""Zarr v2 and v3 (sharded too), plain arrays and OME-Zarr pyramids; n5 is read.

A volume is an array, or a group with OME's ``multiscales`` (0.4 in v2, 0.5 in v3) whose levels are
mips. OME's translation of a level is the place of its first voxel's centre, so a level that is
coarser by f begins half of f - 1 fine voxels further on. What OME has no place for stands in one more
attribute, ``segflow``: ``layer_type``, ``offsets`` of affinities, exact ``voxel_offsets``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box, vec
from segflow.volumes.arrays import ArrayVolume, Layout, Level
from segflow.volumes.files import NANOMETERS
from segflow.volumes.n5 import N5Volume
from segflow.volumes.zarr_meta import (
    DTYPES,
    Json,
    add_level,
    array_meta,
    arrays_in,
    group_meta,
    known_only,
    level_transforms,
    place_plain,
    put_node,
    read_level,
    read_node,
    spread,
    transforms,
)

if TYPE_CHECKING:
    from segflow.chunk import Chunk

__all__ = ["COMPRESSIONS", "N5Volume", "ZarrVolume", "volume_for"]

COMPRESSIONS = ("zstd", "gzip", "blosc", "none")
BLOCK = (64, 64, 64)


class ZarrVolume(ArrayVolume):
    """A zarr array or OME-Zarr pyramid in a folder or bucket.

    Args:
        path: its address, with or without ``zarr://`` before it.
    """

    format = "zarr"

    def parse(self) -> Layout | None:
        """Read the metadata; None where there are none."""
        node = read_node(self.store, "")
        if node is None:
            return None
        version, kind, attributes, array = node
        own = attributes.get("segflow", {})
        offsets = own.get("offsets")
        about = {
            "layer_type": own.get("layer_type"),
            "offsets": tuple(vec(o) for o in offsets) if offsets else None,
        }
        if kind == "array":
            level = read_level(array, version, "", attributes, self.path)
            return Layout((place_plain(level, attributes),), **about)
        ome = attributes.get("ome", attributes)
        if not ome.get("multiscales"):
            raise VolumeError(f"{self.path} is a zarr group without a pyramid;{arrays_in(self.store)}")
        if "image-label" in ome and about["layer_type"] is None:
            about["layer_type"] = "segmentation"
        return Layout(tuple(self._levels(ome["multiscales"][0], own)), **about)

    def _levels(self, scales: Json, own: Json) -> list[Level]:
        levels = []
        names = [a["name"] if isinstance(a, dict) else a for a in scales.get("axes", ())]
        units = {str(a["name"]).lower(): a.get("unit") for a in scales.get("axes", ()) if isinstance(a, dict)}
        factors = [NANOMETERS.get(str(units.get(a)).lower()) for a in "zyx"]
        for number, dataset in enumerate(scales["datasets"]):
            node = read_node(self.store, dataset["path"])
            if node is None or node[1] != "array":
                raise VolumeError(f"{self.path} names the level {dataset['path']}, which is not there")
            level = read_level(node[3], node[0], dataset["path"], {"axes": names}, self.path)
            size, begin = transforms(level.axes, dataset, scales)
            known = all(f is not None for f in factors)
            exact = own.get("voxel_offsets", [])
            offset = exact[number] if number < len(exact) else [math.floor(t / s + 1e-3) for t, s in begin]
            z, y, x = (s * (f or 1) for s, f in zip(size, factors)) if known else size
            levels.append(replace(level, size=(z, y, x), known=known, offset=vec(offset)))
        return levels

    @classmethod
    def create(
        cls,
        path: str,
        bounds: Box,
        dtype: str,
        *,
        channels: int = 1,
        voxel_size: Sequence[float] | None = None,
        layer_type: str | None = None,
        offsets: Sequence[Sequence[int]] | None = None,
        block_size: Sequence[int] = BLOCK,
        shard_size: Sequence[int] | None = None,
        version: int = 3,
        ome: bool = True,
        compression: str = "zstd",
        order: str = "zyx",
        mips: int = 1,
        factor: Sequence[int] | None = None,
    ) -> ZarrVolume:
        """Make a volume; if an equal one is there, give that. Several processes may do it at once.

        Args:
            path: address, with or without ``zarr://``.
            bounds: box of mip 0, voxels.
            dtype: numpy's name; affinities as uint8 stand for q / 255.
            channels: more than one gives arrays of four axes.
            voxel_size: zyx, nm; None is stored as unknown.
            layer_type: image, affinity_map, probability_map or segmentation.
            offsets: of affinities, one zyx triple a channel.
            block_size: zyx; shard_size: zyx, multiples of it, v3 only.
            version: of zarr, 2 or 3.
            ome: a group with OME metadata, else a plain array.
            compression: one of COMPRESSIONS.
            order: ``zyx``, or ``xyz`` for a plain array whose axes are reversed.
            mips: levels; factor: downsampling from each to the next (default: towards cubic voxels).

        Raises:
            VolumeError: another volume is there. ChunkError, UsageError: what zarr cannot hold.
        """
        if dtype not in DTYPES:
            raise ChunkError(f"zarr volumes hold {', '.join(DTYPES)}, not {dtype}; use --dtype")
        if shard_size is not None and (version == 2 or any(s % b for s, b in zip(shard_size, block_size))):
            what = "need zarr version 3" if version == 2 else f"must be multiples of the blocks {block_size}"
            raise UsageError(f"shards of {' '.join(map(str, shard_size))} {what}")
        if order != "zyx" and ome:
            raise UsageError("OME-Zarr has its axes in the order zyx; with --order xyz use --plain")
        if mips > 1 and not ome:
            raise UsageError("a plain zarr array has no mips; leave --plain out")
        volume = cls(path)
        own: Json = {"layer_type": layer_type, "offsets": [list(o) for o in offsets] if offsets else None}
        axes = ("c" if channels > 1 else "") + order
        sizes = {"c": channels, **dict(zip("zyx", bounds.shape))}
        meta = array_meta(
            version, [sizes[a] for a in axes], dtype, spread(axes, block_size),
            spread(axes, shard_size) if shard_size else None, compression, axes,
        )  # fmt: skip
        names = {"_ARRAY_DIMENSIONS": list(axes)} if version == 2 else {}
        if not ome:
            own["voxel_offset"] = list(bounds.start)
            own["voxel_size"] = [float(v) for v in voxel_size] if voxel_size else None
            put_node(volume.store, "", meta, names | {"segflow": known_only(own)})
            return volume._checked(bounds, voxel_size)
        put_node(volume.store, "0", meta, names)
        own["voxel_offsets"] = [list(bounds.start)]
        group = group_meta(axes, voxel_size, known_only(own), version)
        put_node(volume.store, "", {"zarr_format": version, "node_type": "group"}, group)
        volume._checked(bounds, voxel_size).add_mips(mips, factor)
        return volume

    def _checked(self, bounds: Box, voxel_size: Sequence[float] | None) -> ZarrVolume:
        """Refuse a volume that was there and lies elsewhere."""
        info = self.info()
        wanted = tuple(float(v) for v in voxel_size) if voxel_size else None
        if (info.bounds, info.voxel_size) != (bounds, wanted):
            raise VolumeError(
                f"{self.path} is there already, {info.bounds} at {info.voxel_size} nm, not {bounds} at "
                f"{wanted} nm; use another path"
            )
        return self

    def add_mips(self, mips: int, factor: Sequence[int] | None = None) -> None:
        """Add the levels it lacks, up to ``mips`` in all; ``factor`` None goes towards cubic voxels.

        Raises:
            VolumeError: it is a plain array and has no place for them.
        """
        from segflow.volumes.info import coarser, isotropic_factor

        while len(self.layout.levels) < mips:
            last = self.layout.levels[-1]
            number = len(self.layout.levels)
            step = vec(factor or isotropic_factor(last.size if last.known else None))
            box, size = coarser(last.bounds, step), [s * f for s, f in zip(last.size, step)]
            node = read_node(self.store, last.key)
            if not last.key or node is None:
                raise VolumeError(f"{self.path} is a plain array without mips; make it as OME-Zarr")
            sizes = {**dict(zip("tc", (1, last.extent("c")))), **dict(zip("zyx", box.shape))}
            meta = {**node[3], "shape": [sizes[a] for a in last.axes]}
            key = f"{last.key.rpartition('/')[0]}/{number}".lstrip("/")
            put_node(self.store, key, meta, node[2] if node[0] == 2 else {})
            scale = level_transforms(last.axes, size, box.start, self.layout.levels[0])
            add_level(self.store, node[0], {"path": key, "coordinateTransformations": scale}, number, box)
            self._layout = None


def volume_for(
    chunk: Chunk | None,
    path: str,
    *,
    several: bool = False,
    shape: Sequence[int] | None = None,
    start: Sequence[int] | None = None,
    dtype: str | None = None,
    keep_dtype: bool = False,
    voxel_size: Sequence[float] | None = None,
    layer_type: str | None = None,
    **options: Any,
) -> ZarrVolume:
    """Make the zarr volume that a chunk asks for.

    Args:
        chunk: what will be written; what is not given otherwise is taken from it.
        path: address.
        several: it is one of several tasks: without ``shape`` the bounds are those of the volume
            that it was read from.
        shape: zyx, voxels; start: its first voxel (default 0 0 0, without ``shape`` the chunk's).
        dtype: default the chunk's; uint8 for float maps unless ``keep_dtype``.
        keep_dtype: keep the dtype of float maps.
        voxel_size: zyx, nm; layer_type: default the chunk's.
        options: those of ZarrVolume.create.

    Raises:
        UsageError: one of several tasks does not tell how large the volume is.
        VolumeError: there is no chunk to tell what volume is wanted.
    """
    from segflow.volumes.convert import MAPS

    if chunk is None:
        raise VolumeError(f"there is no volume at {path}, and no chunk to make one for; make it before")
    kind = layer_type or chunk.layer_type
    bounds = chunk.bbox
    if shape is not None:
        bounds = Box.of(start or (0, 0, 0), shape)
    elif several:
        found = chunk.source.get("bounds")
        if found is None or not found.contains(chunk.bbox):
            raise UsageError(
                f"there is no volume at {path}, and one of several tasks does not tell its size; give "
                "--shape (and --volume-offset)"
            )
        bounds = found
    is_map = chunk.dtype.kind == "f" and kind in MAPS and not keep_dtype
    return ZarrVolume.create(
        path, bounds, dtype or ("uint8" if is_map else chunk.dtype.name), channels=chunk.channels,
        voxel_size=voxel_size or chunk.voxel_size, layer_type=kind,
        offsets=chunk.offsets if kind == "affinity_map" else None, **options,
    )  # fmt: skip
