"""Blocks that stream through a chain: cut one by one, and gathered again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.blocks.cut import Blocks, Held, Source, read_block
from segflow.blocks.folder import Folder
from segflow.blocks.join import Joined
from segflow.blocks.mask import Mask
from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.geometry import Box
from segflow.volumes.npy import write_npy

if TYPE_CHECKING:
    from segflow.blocks.overlap import Matching


@dataclass
class Cut:
    """What ``split`` cuts: the blocks of a source, with what passes over empty ones.

    Args:
        blocks: the grid.
        source: what is read.
        mask: blocks without a voxel of it are empty.
        threshold: blocks without a value above it are empty.
        folder: where blocks are written too.
    """

    blocks: Blocks
    source: Source
    mask: Mask | None = None
    threshold: float | None = None
    folder: Folder | None = None

    def block(self, index: int) -> Chunk | str:
        """Read a block, and write its file; give it, or the reason why it is left out."""
        box = self.blocks.box(index)
        chunk, why = None, ""
        if self.mask is not None and not self.mask.any(box):
            why = f"block {self.blocks.name(index)} is outside the mask"
        else:
            chunk = read_block(self.source, box)
            if self.threshold is not None and not (chunk.array > self.threshold).any():
                why = f"nothing in block {self.blocks.name(index)} is above {self.threshold:g}"
        if chunk is None or why:
            if self.folder is not None:
                self.folder.leave_out(index)
            return why
        if self.folder is not None:
            self.folder.write(index, chunk)
        return chunk


class Spilled(Held):
    """A chunk that waits in a file; boxes of it are read from there."""

    def __init__(self, chunk: Chunk, path: Path) -> None:
        write_npy(str(path), chunk)
        self.path = path
        super().__init__(replace(chunk, array=np.broadcast_to(np.zeros((), chunk.dtype), chunk.shape)))

    def read(self, box: Box) -> Chunk:
        """Read the chunk in ``box``."""
        place = self.chunk.cutout(box)
        mapped = np.load(self.path, mmap_mode="r")
        return replace(place, array=np.array(mapped[(..., *box.slices(self.chunk.voxel_offset))]))


class Gathered:
    """The blocks of one group as they come back.

    Args:
        blocks: the grid they were cut on.
        spill: a folder in which blocks wait on the disk; None keeps them in memory.
    """

    def __init__(self, blocks: Blocks, spill: Path | None = None) -> None:
        self.blocks, self.pieces, self.empty = blocks, dict[int, Source](), set[int]()
        self.folder: Path | None = None
        if spill is not None:
            self.folder = Path(tempfile.mkdtemp(prefix=".merge-blocks-", dir=spill))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def add(self, index: int, chunk: Chunk) -> None:
        """Take a block.

        Raises:
            ChunkError: it came before, or does not lie in its place of the grid.
        """
        name, box = self.blocks.name(index), self.blocks.box(index)
        if index in self.pieces or index in self.empty:
            raise ChunkError(
                f"block {name} came twice; between split and merge-blocks a block stays one state"
            )
        if not box.contains(chunk.bbox):
            raise ChunkError(
                f"block {name} is {box}, and what came of it is {chunk.bbox}, which is not inside"
            )
        if self.folder is not None:
            self.pieces[index] = Spilled(chunk, self.folder / f"{index}.npy")
        else:
            self.pieces[index] = Held(chunk)

    def skip(self, index: int) -> None:
        """Note that a block was passed over: it is zeros."""
        self.empty.add(index)

    def joined(
        self, blend: bool = False, *, matching: Matching | None = None, dtype: str | None = None
    ) -> Source:
        """Give what the blocks make together.

        Labels are matched where blocks overlap (segflow.blocks.labels), so that an object has one id.

        Args:
            blend: sum the blocks with weights instead of cropping them.
            matching: the blocks are labels, matched so; None: segmentations are, by the default.
            dtype: of joined labels; default: what holds them.

        Raises:
            ChunkError: blocks are missing or differ. VolumeError: neighbours do not meet.
            UsageError: blocks of labels that do not overlap.
        """
        count = len(self.blocks)
        missing = [i for i in range(count) if i not in self.pieces and i not in self.empty]
        if missing:
            names = ", ".join(self.blocks.name(i) for i in missing[:5]) + (
                ", ..." if len(missing) > 5 else ""
            )
            raise ChunkError(f"{len(missing)} of {count} blocks never came to merge-blocks: {names}")
        kinds = {piece.info.layer_type for piece in self.pieces.values()}
        if matching is None and (kinds != {"segmentation"} or count == 1):
            return Joined(self.blocks, self.pieces, blend=blend)
        from segflow.blocks.labels import joined_labels

        return joined_labels(self.blocks, self.pieces, matching, dtype=dtype)


def spill_beside(target: str | None) -> Path | None:
    """Give the folder where blocks wait for what is written at ``target``: its own, if it is local."""
    if target is None:
        return None
    folder = Path(target.rpartition("://")[2]).expanduser().absolute().parent
    local = "://" not in target or target.rpartition("://")[0].endswith(("file", "zarr", "precomputed"))
    return folder if local and folder.is_dir() else Path(tempfile.gettempdir())
