"""The ``info`` file of a precomputed volume: read, made, changed. JSON only, so it is quick.

On disk everything is x, y, z, as the format says; what these functions take and give is z, y, x,
but for the raw dicts. What the format has no place for stands in one more key, ``segflow``:
``layer_type``, the zyx ``offsets`` of affinities, and ``voxel_size`` = "unknown" where 1 1 1 was
only written because the format must have one. Other programs keep or ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box, Vec, vec, words
from segflow.volumes.base import VolumeInfo
from segflow.volumes.store import Store, change_json

Info = dict[str, Any]
Size = tuple[float, float, float]

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")
ENCODINGS = (
    "raw", "compressed_segmentation", "jpeg", "png", "compresso", "kempressed", "fpzip", "npz", "npz_uint8",
)  # fmt: skip
LABEL_ENCODINGS = ("compressed_segmentation", "compresso")
BLOCK = (64, 64, 64)


def parse(path: str, raw: Info, mip: int = 0) -> VolumeInfo:
    """Describe one mip of an info.

    Raises:
        VolumeError: there is no such mip, or a key is missing or makes no sense.
    """
    try:
        scales = raw["scales"]
        if not 0 <= mip < len(scales):
            raise VolumeError(f"{path} has no mip {mip}; it has {_count(scales)}")
        scale, own = scales[mip], raw.get("segflow", {})
        channels = int(raw["num_channels"])
        size = own.get("voxel_size") != "unknown"
        offsets = own.get("offsets")
        return VolumeInfo(
            path=path,
            format="precomputed",
            bounds=bounds(scale),
            dtype=str(raw["data_type"]).lower(),
            channels=channels,
            voxel_size=resolution(scale) if size else None,
            layer_type=own.get("layer_type") or _layer_type(raw["type"], channels),
            block_size=vec(scale["chunk_sizes"][0][::-1]),
            mip=mip,
            mips=len(scales),
            encoding=scale["encoding"],
            offsets=tuple(vec(o) for o in offsets) if offsets else None,
            extra={"key": scale["key"], "sharded": bool(scale.get("sharding"))},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(
            f"{path}/info is no description of a precomputed volume ({error!r}); repair or replace it"
        ) from error


def _count(scales: Sequence[Any]) -> str:
    return "1 mip, 0" if len(scales) == 1 else f"{len(scales)} mips, 0 to {len(scales) - 1}"


def _layer_type(kind: str, channels: int) -> str:
    if kind == "segmentation":
        return "segmentation"
    if channels == 1:
        return "image"
    return "affinity_map" if channels == 3 else "probability_map"


def bounds(scale: Info) -> Box:
    """Give the box of one scale."""
    return Box.of(scale.get("voxel_offset", (0, 0, 0))[::-1], scale["size"][::-1])


def resolution(scale: Info) -> Size:
    """Give the voxel size of one scale, nm."""
    x, y, z = (float(v) for v in scale["resolution"])
    return (z, y, x)


def ratio(raw: Info, fine: int, coarse: int, path: str = "the volume") -> tuple[Vec, Vec]:
    """Give numerators and denominators that scale a box from mip ``fine`` to mip ``coarse``.

    Raises:
        VolumeError: the voxel sizes are not whole multiples of each other.
    """
    over, under = [], []
    for a, b in zip(resolution(raw["scales"][fine]), resolution(raw["scales"][coarse])):
        n, d = (1, round(b / a)) if b >= a else (round(a / b), 1)
        if not math.isclose(a * d, b * n, rel_tol=1e-3):
            raise VolumeError(f"mip {coarse} of {path} is no whole multiple of mip {fine}")
        over.append(n)
        under.append(d)
    return vec(over), vec(under)


def voxel_factor(
    fine: Sequence[float], coarse: Sequence[float], mask: str = "the mask", what: str = "the chunk"
) -> Vec:
    """Give how many voxels of ``fine`` nm one of ``coarse`` nm is, zyx.

    Raises:
        VolumeError: they are no whole multiples, or the mask has the smaller voxels.

    >>> voxel_factor((30, 12, 12), (30, 24, 48))
    (1, 2, 4)
    """
    factor = vec([round(c / f) for f, c in zip(fine, coarse)])
    if min(factor) < 1 or not all(
        math.isclose(f * n, c, rel_tol=1e-3) for f, c, n in zip(fine, coarse, factor)
    ):
        raise VolumeError(
            f"voxels of {mask} ({words(tuple(coarse))} nm) are no whole multiples of those of {what} "
            f"({words(tuple(fine))} nm); give a mask or a --mip whose voxels divide by them"
        )
    return factor


def isotropic_factor(voxel_size: Sequence[float] | None) -> Vec:
    """Give the downsampling factor that brings a voxel nearer to a cube; 2 2 2 if it is unknown.

    >>> isotropic_factor((30, 6, 6)), isotropic_factor((40, 32, 32)), isotropic_factor(None)
    ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    """
    if voxel_size is None:
        return (2, 2, 2)
    least = min(voxel_size) * math.sqrt(2)
    return vec([2 if size <= least else 1 for size in voxel_size])


def make(
    box: Box,
    dtype: str,
    *,
    channels: int = 1,
    layer_type: str = "image",
    voxel_size: Sequence[float] | None = None,
    block_size: Sequence[int] = BLOCK,
    encoding: str = "raw",
    offsets: Sequence[Vec] | None = None,
) -> Info:
    """Make the info of a new volume with one mip.

    Raises:
        ChunkError: the format has no such dtype, or the encoding does not take it.
    """
    if dtype not in DTYPES:
        raise ChunkError(f"precomputed volumes hold {', '.join(DTYPES)}, not {dtype}; use --dtype")
    if encoding in LABEL_ENCODINGS and layer_type != "segmentation":
        raise ChunkError(f"the encoding {encoding} is for segmentations, not for {layer_type}")
    if encoding == "compressed_segmentation" and dtype not in ("uint32", "uint64"):
        raise ChunkError(f"the encoding {encoding} takes uint32 or uint64, not {dtype}; use --dtype")
    if encoding == "jpeg" and (dtype != "uint8" or channels not in (1, 3)):
        raise ChunkError(f"jpeg takes uint8 of 1 or 3 channels, not {dtype} of {channels}")
    own: Info = {} if layer_type == "image" and channels > 1 else {"layer_type": layer_type}
    if offsets:
        own["offsets"] = [list(o) for o in offsets]
    if voxel_size is None:
        own["voxel_size"] = "unknown"
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if layer_type == "segmentation" else "image",
        "data_type": dtype,
        "num_channels": channels,
        "scales": [_scale(box, voxel_size or (1, 1, 1), block_size, encoding)],
        "segflow": own,
    }


def _scale(box: Box, voxel_size: Sequence[float], block_size: Sequence[int], encoding: str) -> Info:
    size = [int(v) if float(v).is_integer() else float(v) for v in voxel_size][::-1]
    scale: Info = {
        "key": "_".join(map(str, size)),
        "resolution": size,
        "size": list(box.shape[::-1]),
        "voxel_offset": list(box.start[::-1]),
        "chunk_sizes": [[int(b) for b in block_size][::-1]],
        "encoding": encoding,
    }
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    return scale


def coarser(box: Box, factor: Sequence[int]) -> Box:
    """Give the box one level up that covers ``box``; windows are counted from voxel 0."""
    return Box(
        vec([a // f for a, f in zip(box.start, factor)]), vec([-(-b // f) for b, f in zip(box.stop, factor)])
    )


def add_mip(raw: Info, factor: Sequence[int]) -> Info:
    """Give the info with one more mip, ``factor`` coarser than the last."""
    last = raw["scales"][-1]
    size = [s * f for s, f in zip(resolution(last), factor)]
    scale = _scale(coarser(bounds(last), factor), size, last["chunk_sizes"][0][::-1], last["encoding"])
    for key in ("compressed_segmentation_block_size", "jpeg_quality"):
        if key in last:
            scale[key] = last[key]
    return {**raw, "scales": [*raw["scales"], scale]}


def with_mips(raw: Info, mips: int, factor: Sequence[int] | None = None) -> Info:
    """Give the info with at least ``mips`` mips; ``factor`` None goes towards cubic voxels."""
    known = raw.get("segflow", {}).get("voxel_size") != "unknown"
    while len(raw["scales"]) < mips:
        raw = add_mip(raw, factor or isotropic_factor(resolution(raw["scales"][-1]) if known else None))
    return raw


def ensure(store: Store, wanted: Info) -> Info:
    """Make the info, or add to the one there is the mips of ``wanted`` that it lacks; give it.

    Raises:
        VolumeError: there is one that describes another volume.
    """

    def edit(found: Info | None) -> Info:
        if found is None:
            return wanted
        for mip, (have, want) in enumerate(zip(found["scales"], wanted["scales"])):
            if (bounds(have), resolution(have)) != (bounds(want), resolution(want)):
                raise VolumeError(
                    f"{store.path} is there already and its mip {mip} is {bounds(have)} at "
                    f"{resolution(have)} nm, not {bounds(want)} at {resolution(want)} nm; use another path"
                )
        for key in ("data_type", "num_channels", "type"):
            if found[key] != wanted[key]:
                raise VolumeError(
                    f"{store.path} is there already with {key} {found[key]}, not {wanted[key]}; "
                    "use another path"
                )
        return {**found, "scales": [*found["scales"], *wanted["scales"][len(found["scales"]) :]]}

    return change_json(store, "info", edit)


def add_mips(store: Store, mips: int, factor: Sequence[int] | None = None) -> Info:
    """Add to a volume's info the mips it lacks, up to ``mips`` in all; give it."""

    def edit(found: Info | None) -> Info:
        if found is None:
            raise VolumeError(f"{store.path} has no info; make one with create-info or write-precomputed")
        return with_mips(found, mips, factor)

    return change_json(store, "info", edit)


def keep_offsets(store: Store, offsets: Sequence[Vec]) -> Info:
    """Note which neighbours the channels of an affinity volume join; give the info.

    Raises:
        ChunkError: the volume's channels join others.
    """

    def edit(found: Info | None) -> Info:
        own = dict((found or {}).get("segflow", {}))
        have = own.setdefault("offsets", [list(o) for o in offsets])
        if [vec(o) for o in have] != list(offsets):
            raise ChunkError(
                f"the chunk's affinity offsets are {list(offsets)}, those of {store.path} {have}"
            )
        return {**(found or {}), "segflow": {**own, "layer_type": "affinity_map"}}

    return change_json(store, "info", edit)


def name_mesh(store: Store, folder: str) -> str | None:
    """Name the folder of a volume's meshes in its info; give the one that was named before.

    Raises:
        VolumeError: there is no info.
    """
    before: list[str | None] = []

    def edit(found: Info | None) -> Info:
        if found is None:
            raise VolumeError(f"{store.path} has no info; make one with create-info or write-precomputed")
        before.append(found.get("mesh"))
        return {**found, "mesh": folder}

    change_json(store, "info", edit)
    return before[-1]
