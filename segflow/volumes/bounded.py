"""What volumes of every format do alike: boxes against bounds, channels, dtypes, the record of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segflow.errors import BoxError, ChunkError
from segflow.geometry import Box
from segflow.volumes.base import VolumeInfo
from segflow.volumes.files import box_from
from segflow.volumes.store import Store, dump_json

if TYPE_CHECKING:
    from segflow.chunk import Chunk

log = logging.getLogger("segflow")


class BoundedVolume:
    """A volume whose format gives ``info`` and, by ``_voxels``, czyx arrays inside the bounds."""

    path: str
    store: Store
    border = logging.WARNING  # level of what is said of boxes partly outside; lower where that is expected

    def info(self, mip: int = 0) -> VolumeInfo:
        """Describe one mip; raise VolumeError if there is no such mip."""
        raise TypeError("a format describes its volumes")

    def ratio(self, fine: int, coarse: int) -> tuple[Any, Any]:
        """Give numerators and denominators that scale a box between two mips."""
        raise TypeError("a format knows how its mips relate")

    def _voxels(self, info: VolumeInfo) -> Any:
        raise TypeError("a format gives its voxels")

    def read(self, box: Box | None = None, mip: int = 0, *, fill_missing: bool = True) -> Chunk:
        """Give the chunk in ``box`` (default: all): zyx, czyx where there are several channels.

        A part outside the bounds comes back as zeros, with a warning.

        Raises:
            BoxError: ``box`` is empty or wholly outside.
            VolumeError: no such volume or mip, a broken block, or a missing one when
                ``fill_missing`` is false.
        """
        from segflow.chunk import Chunk

        info = self.info(mip)
        wanted = box or info.bounds
        inside = self.inside(wanted, info)
        array = self._voxels(info).read(inside, fill_missing)
        chunk = Chunk(
            array[0] if info.channels == 1 else array,
            voxel_offset=inside.start,
            voxel_size=info.voxel_size,
            layer_type=info.layer_type,
            offsets=info.offsets,
            source={"path": self.path, "mip": mip, "bounds": info.bounds},
        )
        if inside != wanted:
            log.log(
                self.border,
                "box %s is partly outside %s of %s: zeros there", wanted, info.bounds, self.path,
            )  # fmt: skip
        return chunk.pad_to(wanted)

    def inside(self, box: Box, info: VolumeInfo) -> Box:
        """Give the part of ``box`` that lies in the volume; raise BoxError if nothing does."""
        shared = box.intersect(info.bounds)
        if box.empty:
            raise BoxError(f"box {box} is empty; every stop must be greater than its start")
        if shared.empty:
            raise BoxError(
                f"box {box} is wholly outside {info.bounds}, the bounds of {self.path} at mip {info.mip}"
            )
        return shared

    def choose(
        self,
        mip: int = 0,
        start: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        task: Box | None = None,
        task_mip: int = 0,
    ) -> Box:
        """Give the box to read: what start, stop or size say at ``mip``, else the task's, else all.

        Raises:
            UsageError: both a stop and a size. BoxError: the task's box does not divide at ``mip``.
        """
        bounds = self.info(mip).bounds
        told = box_from(bounds, start, stop, size)
        if told is not None:
            return told
        if task is None:
            return bounds
        return task if mip == task_mip else task.scale(*self.ratio(task_mip, mip))

    def write(self, chunk: Chunk, mip: int = 0) -> None:
        """Write a chunk at its place, in the volume's dtype.

        In a folder any box, with several writers at once; in a bucket boxes that are aligned to
        the blocks. A part outside the bounds is left out, with a warning.

        Raises:
            BoxError: the chunk is wholly outside, or not aligned in a bucket.
            ChunkError: channels or dtype do not fit, or it was read at another mip of this volume.
            VolumeError: no such volume or mip, or it cannot be written.
        """
        from segflow.volumes.convert import to_dtype

        info = self.info(mip)
        self.check_mip(chunk, mip)
        inside = self.inside(chunk.bbox, info)
        if chunk.channels != info.channels:
            raise ChunkError(
                f"the chunk has {_channels(chunk.channels)} and {self.path} {_channels(info.channels)}"
            )
        if inside != chunk.bbox:
            log.log(
                self.border,
                "box %s is partly outside %s of %s: only %s is written",
                chunk.bbox, info.bounds, self.path, inside,
            )  # fmt: skip
            chunk = chunk.cutout(inside)
        array = to_dtype(chunk, info.dtype)
        array = array if array.ndim == 4 else array[None]
        voxels = self._voxels(info)
        self._expect(voxels, info, inside, array)
        voxels.write(array, inside)

    def check_mip(self, chunk: Chunk, mip: int, option: str = "--mip") -> None:
        """Raise ChunkError where a chunk that was read here at another mip is taken for one of ``mip``."""
        known = chunk.source.get("mip", mip)
        if chunk.source.get("path") == self.path and known != mip:
            raise ChunkError(
                f"the chunk was read at mip {known} of {self.path} and is taken for mip {mip}; give "
                f"{option} {known}"
            )

    def _expect(self, voxels: Any, info: VolumeInfo, box: Box, array: Any) -> None:
        """Note what is about to be written, where a format keeps that."""

    def leave_out(self, box: Box, mip: int = 0) -> None:
        """Note that what is in ``box`` is background and is not stored, where a format keeps that."""

    def note(self, record: dict[str, Any]) -> None:
        """Store how the volume was made, under a name that its content gives."""
        from segflow.provenance import FOLDER, dump, name_of

        name = f"{FOLDER}/{name_of(record)}"
        if self.store.get(name) is None:
            self.store.put(name, dump(record).encode())

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the volume's folder."""
        self.store.put(name, dump_json(value))


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
