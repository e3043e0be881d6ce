"""The metadata of zarr: arrays of v2 and v3, OME's groups; JSON only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segflow.errors import VolumeError
from segflow.geometry import Box, vec
from segflow.volumes.arrays import Level, Size, axes_of
from segflow.volumes.store import Store, change_json

Json = dict[str, Any]
DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
          "float16", "float32", "float64")  # fmt: skip


def known_only(own: Json) -> Json:
    """Leave out what is None."""
    return {k: v for k, v in own.items() if v is not None}


def read_node(store: Store, key: str) -> tuple[int, str, Json, Json] | None:
    """Give version, kind (array or group), attributes and array metadata of a node."""
    at = f"{key}/" if key else ""
    meta = store.get_json(f"{at}zarr.json")
    if meta is not None:
        return 3, meta.get("node_type", "array"), meta.get("attributes", {}), meta
    array = store.get_json(f"{at}.zarray")
    if array is None and store.get_json(f"{at}.zgroup") is None:
        return None
    return 2, "group" if array is None else "array", store.get_json(f"{at}.zattrs") or {}, array or {}


def arrays_in(store: Store) -> str:
    """Say which arrays a local group holds."""
    names = {n.split("/")[0] for n in store.list()} if store.path.startswith("file://") else set()
    found = sorted(n for n in names if (read_node(store, n) or (0, "group"))[1] == "array")
    held = f" of {', '.join(found)}" if found else ""
    return f" add the name of an array{held} to the path"


def read_level(meta: Json, version: int, key: str, attributes: Json, path: str) -> Level:
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


def place_plain(level: Level, attributes: Json) -> Level:
    """Place a plain array by our own attributes, or by ``resolution`` and ``offset`` (zyx, nm)."""
    own = attributes.get("segflow", attributes)
    size = own.get("voxel_size") or own.get("resolution")
    if not size or len(size) < 3:
        return replace(level, offset=vec(own.get("voxel_offset") or (0, 0, 0)))
    z, y, x = (float(v) for v in size[-3:])
    begin = own.get("voxel_offset")
    if begin is None:
        begin = [round(o / s) for o, s in zip((own.get("offset") or (0, 0, 0))[-3:], (z, y, x))]
    return replace(level, size=(z, y, x), known=True, offset=vec(begin))


def transforms(axes: str, *steps: Json) -> tuple[list[float], list[tuple[float, float]]]:
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


def spread(axes: str, size: Sequence[int]) -> list[int]:
    """Give a zyx size along ``axes``, 1 along the others."""
    sizes = {"c": 1, "t": 1, **dict(zip("zyx", (int(s) for s in size)))}
    return [sizes[a] for a in axes]


def array_meta(
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


def put_node(store: Store, key: str, meta: Json, attributes: Json) -> None:
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


def level_transforms(
    axes: str, size: Sequence[float], start: Sequence[int], finest: Level | Size
) -> list[Json]:
    """Give OME's transformations of a level of voxel ``size`` that begins at ``start`` voxels."""
    fine = finest.size if isinstance(finest, Level) else finest
    scale = dict(zip("zyx", size))
    shift = {a: (b + 0.5) * s - 0.5 * f for a, b, s, f in zip("zyx", start, size, fine)}
    return [
        {"type": "scale", "scale": [float(scale.get(a, 1)) for a in axes]},
        {"type": "translation", "translation": [float(shift.get(a, 0)) for a in axes]},
    ]


def group_meta(axes: str, voxel_size: Sequence[float] | None, own: Json, version: int) -> Json:
    """Make the attributes of an OME-Zarr group with one level."""
    unit = {"unit": "nanometer"} if voxel_size else {}
    z, y, x = (float(v) for v in voxel_size or (1, 1, 1))
    first = level_transforms(axes, (z, y, x), own["voxel_offsets"][0], (z, y, x))
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


def add_level(store: Store, version: int, dataset: Json, number: int, box: Box) -> None:
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
