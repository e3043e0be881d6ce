"""Precomputed volumes (neuroglancer's format) in folders and buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.volumes import info as metadata
from segflow.volumes.base import VolumeInfo
from segflow.volumes.bounded import BoundedVolume
from segflow.volumes.store import Store, open_store

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.geometry import Box

OTHERS = {"zarr": ("zarr.json", ".zarray", ".zgroup"), "n5": ("attributes.json",)}  # by their files
MAKE = "make one with write-precomputed or create-info"


class PrecomputedVolume(BoundedVolume):
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
            form = next((f for f, names in OTHERS.items() if any(map(self.store.get, names))), None)
            raise VolumeError(
                f"there is no precomputed volume at {self.path} (no info file); "
                + (f"it is {form}: write {form}://{self.path}" if form else MAKE)
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

    def write(self, chunk: Chunk, mip: int = 0) -> None:
        if chunk.offsets is not None and chunk.offsets != self.info(mip).offsets:
            self._raw = metadata.keep_offsets(self.store, chunk.offsets)
        super().write(chunk, mip)

    def leave_out(self, box: Box, mip: int = 0) -> None:
        """Note that what is in ``box`` is background and is deliberately not stored, for ``verify``.

        Raises:
            BoxError: the box is wholly outside. VolumeError: no such volume or mip.
        """
        from segflow.volumes.checksums import record

        info = self.info(mip)
        record(self.store, info, self.inside(box, info), None)

    def _expect(self, voxels: Any, info: VolumeInfo, box: Box, array: Any) -> None:
        from segflow.volumes.checksums import record

        voxels.check(box)
        record(self.store, info, box, array)

    def _voxels(self, info: VolumeInfo) -> Any:
        from segflow.volumes.voxels import open_voxels

        return open_voxels(info, self.use_https, self.threads)
