"""Precomputed volumes (neuroglancer's format) in folders and buckets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segflow.errors import BoxError, ChunkError, VolumeError
from segflow.geometry import Box
from segflow.volumes import info as metadata
from segflow.volumes.base import VolumeInfo
from segflow.volumes.store import Store, dump_json, open_store

if TYPE_CHECKING:
    from segflow.chunk import Chunk

log = logging.getLogger("segflow")


class PrecomputedVolume:
    """A precomputed volume at file://, s3://, gs:// or http(s)://.

    Args:
        path: its address.
        use_https: read a bucket anonymously over https.
        threads: threads for copying; 0 is one a core.
    """

    def __init__(self, path: str, *, use_https: bool = False, threads: int = 0) -> None:
        self.path = path
        self.use_https, self.threads = use_https, threads
        self.store: Store = open_store(path, use_https)
        self._raw: metadata.Info | None = None

    @property
    def exists(self) -> bool:
        """Whether it has an info."""
        if self._raw is None:
            self._raw = self.store.get_json("info")
        return self._raw is not None

    @property
    def raw(self) -> metadata.Info:
        """The info file, read once.

        Raises:
            VolumeError: there is none, or it is no JSON.
        """
        if not self.exists or self._raw is None:
            raise VolumeError(
                f"there is no precomputed volume at {self.path} (no info file); "
                "make one with write-precomputed or create-info"
            )
        return self._raw

    def info(self, mip: int = 0) -> VolumeInfo:
        """Describe one mip; raise VolumeError if there is no such mip."""
        return metadata.parse(self.path, self.raw, mip)

    def create(self, wanted: metadata.Info, *, same: bool = True) -> None:
        """Make the info if there is none; else add the mips it lacks (``same=False``: leave it).

        Raises:
            VolumeError: with ``same``, there is one that describes another volume.
        """
        if same:
            self._raw = metadata.ensure(self.store, wanted)
        else:
            self._raw = metadata.change_json(self.store, "info", lambda found: found or wanted)

    def add_mips(self, mips: int, factor: Sequence[int] | None = None) -> None:
        """Add to the info the mips it lacks, up to ``mips`` in all."""
        self._raw = metadata.add_mips(self.store, mips, factor)

    def ratio(self, fine: int, coarse: int) -> tuple[Any, Any]:
        """Give numerators and denominators that scale a box between two mips."""
        self.info(max(fine, coarse))
        return metadata.ratio(self.raw, fine, coarse, self.path)

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
            log.warning("box %s is partly outside %s of %s: zeros there", wanted, info.bounds, self.path)
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

    def write(self, chunk: Chunk, mip: int = 0) -> None:
        """Write a chunk at its place, in the volume's dtype.

        In a folder any box, with several writers at once; in a bucket boxes that are aligned to
        the blocks. A part outside the bounds is left out, with a warning.

        Raises:
            BoxError: the chunk is wholly outside, or not aligned in a bucket.
            ChunkError: channels or dtype do not fit.
            VolumeError: no such volume or mip, or it cannot be written.
        """
        from segflow.volumes.convert import to_dtype

        info = self.info(mip)
        inside = self.inside(chunk.bbox, info)
        if chunk.channels != info.channels:
            raise ChunkError(
                f"the chunk has {_channels(chunk.channels)} and {self.path} {_channels(info.channels)}"
            )
        if inside != chunk.bbox:
            log.warning(
                "box %s is partly outside %s of %s: only %s is written",
                chunk.bbox, info.bounds, self.path, inside,
            )  # fmt: skip
            chunk = chunk.cutout(inside)
        array = to_dtype(chunk, info.dtype)
        self._voxels(info).write(array if array.ndim == 4 else array[None], inside)

    def note(self, record: dict[str, Any]) -> None:
        """Store how the volume was made, under a name that its content gives."""
        from segflow.provenance import FOLDER, dump, name_of

        name = f"{FOLDER}/{name_of(record)}"
        if self.store.get(name) is None:
            self.store.put(name, dump(record).encode())

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON file into the volume's folder."""
        self.store.put(name, dump_json(value))

    def _voxels(self, info: VolumeInfo) -> Any:
        from segflow.volumes.voxels import open_voxels

        return open_voxels(info, self.use_https, self.threads)


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
