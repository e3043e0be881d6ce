"""The manifest of a folder of blocks: the grid, the box and file of each, what their values are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.blocks.cut import Blocks
from segflow.errors import SegflowError, VolumeError
from segflow.geometry import Box, Vec, vec
from segflow.volumes.files import reading, replacing

if TYPE_CHECKING:
    from segflow.volumes.base import VolumeInfo

NAME = "manifest.json"
FORMAT = "segflow blocks 1"
ENDINGS = {"h5": ".h5", "tif": ".tif"}
_FILE = re.compile(r"chunk_z(\d+)_y(\d+)_x(\d+)\.(h5|hdf5|tif|tiff)")


@dataclass(frozen=True)
class Manifest:
    """What ``split`` knew of the blocks in a folder.

    ``empty`` are the blocks that were left out since nothing is in them. ``complete`` is False
    until the last was written. ``source`` tells where the voxels came from.
    """

    bounds: Box
    size: Vec
    overlap: Vec
    edge: str
    dtype: str
    channels: int | None = None  # None is zyx
    voxel_size: tuple[float, ...] | None = None
    layer_type: str | None = None
    offsets: tuple[Vec, ...] | None = None
    form: str = "h5"
    source: dict[str, Any] = field(default_factory=dict)
    empty: frozenset[int] = frozenset()
    complete: bool = False

    @classmethod
    def of(
        cls,
        info: VolumeInfo,
        bounds: Box,
        size: Sequence[int],
        overlap: Sequence[int],
        edge: str,
        **told: Any,
    ) -> Manifest:
        """Give the manifest of blocks that are cut from what ``info`` describes."""
        axes = info.extra.get("ndim", 4 if info.channels > 1 else 3)
        return cls(
            bounds, vec(size), vec(overlap), edge, info.dtype, info.channels if axes == 4 else None,
            info.voxel_size, info.layer_type, info.offsets, **told,
        )  # fmt: skip

    @property
    def blocks(self) -> Blocks:
        """The blocks."""
        return Blocks.over(self.bounds, self.size, self.overlap, self.edge)

    def file(self, name: str) -> str:
        """Give the file of the block of that name."""
        return f"chunk_{name}{ENDINGS[self.form]}"

    def differs(self, other: Manifest) -> str:
        """Name the first thing in which another split differs; nothing if none does.

        A split without ``source`` is compared in all else.
        """
        left = ("empty", "complete") + ("source",) * (not other.source)
        for key in self.__dataclass_fields__:
            one, two = getattr(self, key), getattr(other, key)
            if key not in left and one != two:
                if key == "source":
                    return "its source is another, or has changed since"
                return f"{key.replace('_', ' ')} {_short(one)}, not {_short(two)}"
        return ""

    def save(self, folder: str | Path) -> None:
        """Write it, whole or not at all."""
        blocks, made = self.blocks, []
        for index, box in enumerate(blocks):
            name = blocks.name(index)
            empty = index in self.empty
            made.append(
                {"name": name, "box": str(box), **({"empty": True} if empty else {"file": self.file(name)})}
            )
        stride = [s - o for s, o in zip(self.size, self.overlap)]
        value = {
            "format": FORMAT, "complete": self.complete,
            "grid": {"start": list(self.bounds.start), "size": list(self.size), "stride": stride,
                     "counts": list(blocks.counts)},
            "overlap": list(self.overlap), "edge": self.edge, "bounds": str(self.bounds),
            "dtype": self.dtype, "channels": self.channels, "voxel_size": self.voxel_size,
            "layer_type": self.layer_type, "offsets": self.offsets, "file_format": self.form,
            "source": self.source, "blocks": made,
        }  # fmt: skip
        with replacing(Path(folder) / NAME) as beside:
            beside.write_text(json.dumps(value, indent=1) + "\n")


def load_manifest(folder: str | Path) -> Manifest | None:
    """Read a folder's manifest; None where there is none.

    Raises:
        VolumeError: it is broken, or contradicts itself.
    """
    path = Path(folder).expanduser() / NAME
    if not path.exists():
        return None
    with reading(path):
        value = json.loads(path.read_text())
        if value.get("format") != FORMAT:
            raise VolumeError(f"{path} is no manifest of segflow's split ({FORMAT})")
        size = value["voxel_size"]
        offsets = value["offsets"]
        found = Manifest(
            Box.parse(value["bounds"]), vec(value["grid"]["size"]), vec(value["overlap"]), value["edge"],
            value["dtype"], value["channels"], tuple(size) if size else None, value["layer_type"],
            tuple(vec(o) for o in offsets) if offsets else None, value["file_format"], value["source"],
            complete=bool(value["complete"]),
        )  # fmt: skip
        empty = _check(found, value, path)
    return replace(found, empty=empty)


def _check(found: Manifest, value: dict[str, Any], path: Path) -> frozenset[int]:
    """Raise VolumeError unless the blocks that are listed are those of the grid; give the empty ones."""
    try:
        blocks = found.blocks
    except SegflowError as error:
        raise VolumeError(f"{path} contradicts itself: {error}") from error
    listed = value["blocks"]
    if len(listed) != len(blocks) or list(blocks.counts) != value["grid"]["counts"]:
        raise VolumeError(f"{path} lists {len(listed)} blocks, and its grid has {len(blocks)}; split again")
    for index, entry in enumerate(listed):
        wanted = (blocks.name(index), str(blocks.box(index)))
        if (entry["name"], entry["box"]) != wanted:
            raise VolumeError(
                f"{path} lists block {entry['name']} at {entry['box']}, where its grid has {wanted[0]} at "
                f"{wanted[1]}; split again"
            )
    return frozenset(i for i, entry in enumerate(listed) if entry.get("empty"))


def block_files(folder: str | Path) -> dict[Vec, Path]:
    """Give the block files of a folder by their place in the grid, in its order.

    Raises:
        VolumeError: there is no folder or no block file, or two files are one block.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        what = "is no folder" if place.exists() else "does not exist"
        raise VolumeError(f"{folder} {what}; give the folder of block files chunk_z00_y00_x00.h5")
    found: dict[Vec, Path] = {}
    for path in sorted(place.iterdir()):
        named = _FILE.fullmatch(path.name)
        if not named:
            continue
        at = vec([int(n) for n in named.groups()[:3]])
        if at in found:
            raise VolumeError(f"{found[at]} and {path} are the same block; remove one of them")
        found[at] = path
    return dict(sorted(found.items()))


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) < 120 else text[:117] + "..."
