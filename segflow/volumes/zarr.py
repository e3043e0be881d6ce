"""Zarr v2 and v3 (sharded too), plain arrays and OME-Zarr pyramids; n5 is read.

A volume is an array, or a group with OME's ``multiscales`` (0.4 in v2, 0.5 in v3) whose levels are
mips. OME's translation of a level is the place of its first voxel's centre, so a level that is
coarser by f begins half of f - 1 fine voxels further on. What OME has no place for stands in one more
attribute, ``segflow``: ``layer_type``, ``offsets`` of affinities, exact ``voxel_offsets``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box, vec
from segflow.volumes.arrays import NANOMETERS, ArrayVolume, Layout, Level, Size, axes_of
from segflow.volumes.n5 import N5Volume
from segflow.volumes.store import Store, change_json

__all__ = ["COMPRESSIONS", "N5Volume", "ZarrVolume"]

Json = dict[str, Any]
COMPRESSIONS = ("zstd", "gzip", "blosc", "none")
BLOCK = (64, 64, 64)
DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
          "float16", "float32", "float64")  # fmt: skip


class ZarrVolume(ArrayVolume):
    """A zarr array or OME-Zarr pyramid in a folder or bucket.

    Args:
        path: its address, with or without ``zarr://`` before it.
    """

    format = "zarr"

    def parse(self) -> Layout | None:
        """Read the metadata; None where there are none."""
        node = _node(self.store, "")
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
            return Layout((_placed(_level(array, version, "", attributes, self.path), attributes),), **about)
        ome = attributes.get("ome", attributes)
        if not ome.get("multiscales"):
            raise VolumeError(f"{self.path} is a zarr group without a pyramid;{_arrays_in(self.store)}")
        if "image-label" in ome and about["layer_type"] is None:
            about["layer_type"] = "segmentation"
        return Layout(tuple(self._levels(ome["multiscales"][0], own)), **about)

    def _levels(self, scales: Json, own: Json) -> list[Level]:
        levels = []
        names = [a["name"] if isinstance(a, dict) else a for a in scales.get("axes", ())]
        units = {str(a["name"]).lower(): a.get("unit") for a in scales.get("axes", ()) if isinstance(a, dict)}
        factors = [NANOMETERS.get(str(units.get(a)).lower()) for a in "zyx"]
        for number, dataset in enumerate(scales["datasets"]):
            node = _node(self.store, dataset["path"])
            if node is None or node[1] != "array":
                raise VolumeError(f"{self.path} names the level {dataset['path']}, which is not there")
            level = _level(node[3], node[0], dataset["path"], {"axes": names}, self.path)
            size, begin = _transforms(level.axes, dataset, scales)
            known = all(f is not None for f in factors)
            exact = own.get("voxel_offsets", [])
            offset = exact[number] if number < len(exact) else [math.floor(t / s + 1e-3) for t, s in begin]
            z, y, x = (s * (f or 1) for s, f in zip(size, factors)) if known else size
            levels.append(_with(level, size=(z, y, x), known=known, offset=vec(offset)))
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
        meta = _array_meta(
            version, [sizes[a] for a in axes], dtype, _spread(axes, block_size),
            _spread(axes, shard_size) if shard_size else None, compression, axes,
        )  # fmt: skip
        names = {"_ARRAY_DIMENSIONS": list(axes)} if version == 2 else {}
        if not ome:
            own["voxel_offset"] = list(bounds.start)
            own["voxel_size"] = [float(v) for v in voxel_size] if voxel_size else None
            _put(volume.store, "", meta, names | {"segflow": _known(own)})
            return volume._checked(bounds, voxel_size)
        _put(volume.store, "0", meta, names)
        own["voxel_offsets"] = [list(bounds.start)]
        group = _group(axes, voxel_size, _known(own), version)
        _put(volume.store, "", {"zarr_format": version, "node_type": "group"}, group)
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
            node = _node(self.store, last.key)
            if not last.key or node is None:
                raise VolumeError(f"{self.path} is a plain array without mips; make it as OME-Zarr")
            sizes = {**dict(zip("tc", (1, last.extent("c")))), **dict(zip("zyx", box.shape))}
            meta = {**node[3], "shape": [sizes[a] for a in last.axes]}
            key = f"{last.key.rpartition('/')[0]}/{number}".lstrip("/")
            _put(self.store, key, meta, node[2] if node[0] == 2 else {})
            scale = _transform(last.axes, size, box.start, self.layout.levels[0])
            _add_level(self.store, node[0], {"path": key, "coordinateTransformations": scale}, number, box)
            self._layout = None


def _known(own: Json) -> Json:
    return {k: v for k, v in own.items() if v is not None}


def _with(level: Level, **fields: Any) -> Level:
    from dataclasses import replace

    return replace(level, **fields)


def _node(store: Store, key: str) -> tuple[int, str, Json, Json] | None:
    """Give version, kind (array or group), attributes and array metadata of a node."""
    at = f"{key}/" if key else ""
    meta = store.get_json(f"{at}zarr.json")
    if meta is not None:
        return 3, meta.get("node_type", "array"), meta.get("attributes", {}), meta
    array = store.get_json(f"{at}.zarray")
    if array is None and store.get_json(f"{at}.zgroup") is None:
        return None
    return 2, "group" if array is None else "array", store.get_json(f"{at}.zattrs") or {}, array or {}


def _arrays_in(store: Store) -> str:
    names = {n.split("/")[0] for n in store.list()} if store.path.startswith("file://") else set()
    found = sorted(n for n in names if (_node(store, n) or (0, "group"))[1] == "array")
    held = f" of {', '.join(found)}" if found else ""
    return f" add the name of an array{held} to the path"


def _level(meta: Json, version: int, key: str, attributes: Json, path: str) -> Level:
    """Describe an array from its own metadata."""
    import numpy as np

    shape = tuple(int(s) for s in meta["shape"])
    if version == 3:
        names = meta.get("dimension_names")
        blocks = meta["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = meta.get("codecs", [])
        dtype, encoding = meta["data_type"], codecs[-1]["name"] if codecs else "raw"
    else:
        names, blocks = attributes.get("_ARRAY_DIMENSIONS"), meta["chunks"]
        dtype = np.dtype(meta["dtype"]).newbyteorder("=").name if isinstance(meta["dtype"], str) else "?"
        encoding = (meta.get("compressor") or {}).get("id", "raw")
    if dtype not in DTYPES:
        raise VolumeError(f"{path} holds values of type {dtype}; a chunk needs integers or floats")
    names = attributes.get("axes") or attributes.get("axis_names") or names
    axes = axes_of(names, shape, path, "tczyx")
    driver = "zarr3" if version == 3 else "zarr"
    return Level(key, driver, axes, shape, tuple(int(b) for b in blocks), dtype, encoding)


def _placed(level: Level, attributes: Json) -> Level:
    """Place a plain array by our own attributes, or by ``resolution`` and ``offset`` (zyx, nm)."""
    own = attributes.get("segflow", attributes)
    size = own.get("voxel_size") or own.get("resolution")
    if not size or len(size) < 3:
        return _with(level, offset=vec(own.get("voxel_offset") or (0, 0, 0)))
    z, y, x = (float(v) for v in size[-3:])
    begin = own.get("voxel_offset")
    if begin is None:
        begin = [round(o / s) for o, s in zip((own.get("offset") or (0, 0, 0))[-3:], (z, y, x))]
    return _with(level, size=(z, y, x), known=True, offset=vec(begin))


def _transforms(axes: str, *steps: Json) -> tuple[list[float], list[tuple[float, float]]]:
    """Give the scale along z, y, x, and (translation, scale) pairs, of OME's transformations in order."""
    scale, shift = dict.fromkeys("tczyx", 1.0), dict.fromkeys("tczyx", 0.0)
    for step in steps:
        for change in step.get("coordinateTransformations", ()):
            for axis, value in zip(axes, change.get(change["type"], ())):
                if change["type"] == "scale":
                    scale[axis], shift[axis] = scale[axis] * value, shift[axis] * value
                elif change["type"] == "translation":
                    shift[axis] += value
    return [scale[a] for a in "zyx"], [(shift[a], scale[a]) for a in "zyx"]


def _spread(axes: str, size: Sequence[int]) -> list[int]:
    sizes = {"c": 1, "t": 1, **dict(zip("zyx", (int(s) for s in size)))}
    return [sizes[a] for a in axes]


def _array_meta(
    version: int, shape: Sequence[int], dtype: str, blocks: list[int], shards: list[int] | None,
    compression: str, axes: str,
) -> Json:  # fmt: skip
    """Make the metadata of an array, without attributes."""
    import numpy as np

    if version == 2:
        packers: Json = {
            "zstd": {"id": "zstd", "level": 3}, "gzip": {"id": "gzip", "level": 5}, "none": None,
            "blosc": {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1, "blocksize": 0},
        }  # fmt: skip
        return {
            "zarr_format": 2, "shape": list(shape), "chunks": blocks,
            "dtype": np.dtype(dtype).newbyteorder("<").str, "compressor": packers[compression],
            "fill_value": 0 if dtype != "bool" else False, "order": "C",
            "filters": None, "dimension_separator": "/",
        }  # fmt: skip
    packer = {
        "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
        "gzip": [{"name": "gzip", "configuration": {"level": 5}}],
        "none": [],
        "blosc": [{"name": "blosc", "configuration": {
            "cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": 0,
            "typesize": np.dtype(dtype).itemsize}}],
    }[compression]  # fmt: skip
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs: list[Json] = [little, *packer]
    if shards:
        index = [little, {"name": "crc32c"}]
        inner = {"chunk_shape": blocks, "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs, blocks = [{"name": "sharding_indexed", "configuration": inner}], shards
    return {
        "zarr_format": 3, "node_type": "array", "shape": list(shape), "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": blocks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if dtype != "bool" else False, "codecs": codecs, "dimension_names": list(axes),
    }  # fmt: skip


def _put(store: Store, key: str, meta: Json, attributes: Json) -> None:
    """Write a node's metadata unless they are there; refuse those of another volume."""
    at = f"{key}/" if key else ""

    def same(found: Json | None, wanted: Json) -> Json:
        if found is None:
            return wanted
        differ = [k for k in wanted if k != "attributes" and found.get(k) != wanted[k]]
        if differ:
            raise VolumeError(
                f"{store.path}/{key} is there already with {differ[0]} {found.get(differ[0])}, not "
                f"{wanted[differ[0]]}; use another path".replace("/ is", " is")
            )
        return found

    if meta["zarr_format"] == 3:
        change_json(store, f"{at}zarr.json", lambda found: same(found, {**meta, "attributes": attributes}))
        return
    if attributes:
        change_json(store, f"{at}.zattrs", lambda found: found or attributes)
    group = meta.get("node_type") == "group"
    wanted = {"zarr_format": 2} if group else meta
    change_json(store, f"{at}{'.zgroup' if group else '.zarray'}", lambda found: same(found, wanted))


def _transform(axes: str, size: Sequence[float], start: Sequence[int], finest: Level | Size) -> list[Json]:
    """Give OME's transformations of a level of voxel ``size`` that begins at ``start`` voxels."""
    fine = finest.size if isinstance(finest, Level) else finest
    scale = dict(zip("zyx", size))
    shift = {a: (b + 0.5) * s - 0.5 * f for a, b, s, f in zip("zyx", start, size, fine)}
    return [
        {"type": "scale", "scale": [float(scale.get(a, 1)) for a in axes]},
        {"type": "translation", "translation": [float(shift.get(a, 0)) for a in axes]},
    ]


def _group(axes: str, voxel_size: Sequence[float] | None, own: Json, version: int) -> Json:
    """Make the attributes of an OME-Zarr group with one level."""
    unit = {"unit": "nanometer"} if voxel_size else {}
    z, y, x = (float(v) for v in voxel_size or (1, 1, 1))
    first = _transform(axes, (z, y, x), own["voxel_offsets"][0], (z, y, x))
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    ome: Json = {"multiscales": [{
        "axes": [{"name": a, **kinds.get(a, {"type": "space", **unit})} for a in axes],
        "datasets": [{"path": "0", "coordinateTransformations": first}],
    }]}  # fmt: skip
    if own.get("layer_type") == "segmentation":
        ome["image-label"] = {}
    if version == 3:
        return {"ome": {"version": "0.5", **ome}, "segflow": own}
    for part in (*ome["multiscales"], *([ome["image-label"]] if "image-label" in ome else [])):
        part["version"] = "0.4"
    return {**ome, "segflow": own}


def _add_level(store: Store, version: int, dataset: Json, number: int, box: Box) -> None:
    """Add one level to the group's metadata, unless another process did."""

    def edit(found: Json | None) -> Json:
        found = found or {}
        attributes: Json = found["attributes"] if version == 3 else found
        scales = attributes.get("ome", attributes)["multiscales"][0]
        if len(scales["datasets"]) == number:
            scales["datasets"].append(dataset)
            if "voxel_offsets" in attributes.get("segflow", {}):
                attributes["segflow"]["voxel_offsets"].append(list(box.start))
        return found

    change_json(store, "zarr.json" if version == 3 else ".zattrs", edit)
