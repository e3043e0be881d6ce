"""n5, read only. Its arrays count their dimensions from x; what is given is zyx.

A volume is an array, or a group of levels ``s0``, ``s1``, ... (n5-viewer, BigDataViewer, COSEM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.geometry import vec
from segflow.volumes.arrays import ArrayVolume, Layout, Level, axes_of
from segflow.volumes.files import NANOMETERS

if TYPE_CHECKING:
    from segflow.chunk import Chunk

Json = dict[str, Any]


class N5Volume(ArrayVolume):
    """An n5 array or pyramid in a folder or bucket.

    Args:
        path: its address, with or without ``n5://`` before it.
    """

    format = "n5"

    def parse(self) -> Layout | None:
        """Read the metadata; None where there are none."""
        root = self.store.get_json("attributes.json")
        if root is not None and "dimensions" in root:
            return Layout((self._level("", root, {}, {}, 0),))
        levels: list[Level] = []
        first: Json = {}
        while (found := self.store.get_json(f"s{len(levels)}/attributes.json")) is not None:
            first = first or found
            levels.append(self._level(f"s{len(levels)}", found, first, root or {}, len(levels)))
        if not levels and root is not None:
            raise VolumeError(f"{self.path} is an n5 group without s0; add the name of an array to the path")
        return Layout(tuple(levels)) if levels else None

    def _level(self, key: str, found: Json, first: Json, root: Json, number: int) -> Level:
        shape = tuple(int(s) for s in found["dimensions"])
        names = found.get("axes")
        axes = axes_of(names if isinstance(names, list) else None, shape, self.path, "xyzct")
        size, known = _size(found, root)
        factors = found.get("downsamplingFactors") or (root.get("scales") or [])[number : number + 1]
        factors = factors[0] if factors and isinstance(factors[0], list) else factors
        if number and (not known or size == _size(first, root)[0]):
            wide = first["dimensions"]
            by = factors or [max(1, round(a / b)) for a, b in zip(wide, shape)]
            by = dict(zip("xyz", by)) if factors else dict(zip(axes, by))
            size = [s * float(by.get(a, 1)) for s, a in zip(size, "zyx")]
        compression = found.get("compression", found.get("compressionType", "raw"))
        return Level(
            key, "n5", axes, shape, tuple(int(b) for b in found["blockSize"]), str(found["dataType"]),
            compression.get("type", "raw") if isinstance(compression, dict) else str(compression),
            (size[0], size[1], size[2]), known, vec(_offset(found, size)),
        )  # fmt: skip

    def write(self, chunk: Chunk, mip: int = 0) -> None:
        """Refuse: n5 is only read."""
        raise VolumeError(f"{self.path}: n5 is only read; write zarr:// instead")


def _size(found: Json, root: Json) -> tuple[list[float], bool]:
    """Give the voxel size (zyx) and whether it is known, in nm."""
    transform = found.get("transform")
    if isinstance(transform, dict) and "scale" in transform:
        by = dict(zip(transform["axes"], zip(transform["scale"], transform.get("units", ["nm"] * 3))))
        return [float(by[a][0]) * NANOMETERS.get(by[a][1], 1) for a in "zyx"], True
    for attributes in (found, root):
        for name in ("pixelResolution", "resolution", "voxelSize"):
            value = attributes.get(name)
            unit = value.get("unit", "nm") if isinstance(value, dict) else "nm"
            value = value.get("dimensions") if isinstance(value, dict) else value
            if isinstance(value, list) and len(value) >= 3:
                return [float(v) * NANOMETERS.get(unit, 1) for v in value[2::-1]], True
    return [1.0, 1.0, 1.0], False


def _offset(found: Json, size: list[float]) -> list[int]:
    """Give the place of the first voxel, zyx voxels, from a translation or offset in nm."""
    transform = found.get("transform")
    if isinstance(transform, dict) and "translate" in transform:
        by = dict(zip(transform["axes"], zip(transform["translate"], transform.get("units", ["nm"] * 3))))
        return [round(float(by[a][0]) * NANOMETERS.get(by[a][1], 1) / s - 0.01) for a, s in zip("zyx", size)]
    begin = found.get("offset")
    if isinstance(begin, list) and len(begin) >= 3:
        return [round(float(o) / s) for o, s in zip(begin[2::-1], size)]
    return [0, 0, 0]
