"""Where the labels of a block job go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segflow.errors import UsageError, VolumeError
from segflow.geometry import Box, Vec, words
from segflow.volumes import info as metadata
from segflow.volumes import open_volume, split_address
from segflow.volumes.base import VolumeInfo
from segflow.volumes.copy import empty_like, file_format
from segflow.volumes.create import info_for, realise
from segflow.volumes.store import local_path


@dataclass
class Output:
    """Where the joined labels go: a precomputed or zarr volume, made if it is not there, or a file.

    Args:
        path: address of a volume, or a tif or h5 file.
        is_file: which of them.
        dtype: of what is new; None: uint32 where the labels fit, else uint64.
        options: others of a new volume; see ``segflow.volumes.create.info_for``.
        provenance: kept with it.
        mip: of the volume.
    """

    path: str
    is_file: bool = False
    dtype: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None
    mip: int = 0

    @classmethod
    def at(cls, path: str | None, volume: str | None, **told: Any) -> Output:
        """Give the output of ``--file-name`` or ``--volume-path``; a zarr file is a volume."""
        if path and file_format(path) != "zarr":
            return cls(path, True, **told)
        return cls(volume or (str(path) if "://" in str(path) else f"zarr://{path}"), **told)

    @cached_property
    def volume(self) -> Any:
        """The volume, there or not."""
        return open_volume(self.path)

    def found(self) -> VolumeInfo | None:
        """Describe the volume if it is there."""
        info: VolumeInfo | None = None
        if not self.is_file and self.volume.exists:
            info = self.volume.info(self.mip)
        return info

    def gone(self) -> bool:
        """Whether there is nothing."""
        return not Path(self.path).expanduser().exists() if self.is_file else self.found() is None

    def check(self, labels: VolumeInfo) -> None:
        """Raise VolumeError if the volume is there and does not hold ``labels``, or disagrees with them."""
        info = self.found()
        if info is None:
            return
        if not info.bounds.contains(labels.bounds):
            raise VolumeError(
                f"{self.path} fills {info.bounds} and the blocks {labels.bounds}: voxels would be lost; give "
                "another volume"
            )
        whole = info.channels == 1 and np.dtype(info.dtype).kind in "ui"
        if not whole or info.layer_type == "image":
            what = "an image" if whole else f"{info.channels} channel(s)"
            raise VolumeError(f"{self.path} holds {what} of {info.dtype}, no labels; give another volume")
        if info.voxel_size and labels.voxel_size and info.voxel_size != labels.voxel_size:
            one, two = (" ".join(f"{v:g}" for v in i.voxel_size or ()) for i in (info, labels))
            raise VolumeError(f"{self.path} has voxels of {one} nm, the blocks of {two}; correct one of them")
        if self.dtype not in (None, info.dtype):
            raise VolumeError(f"{self.path} is {info.dtype}, not {self.dtype}; leave --dtype out")

    def check_chunks(self, bounds: Box, size: Vec, labels: VolumeInfo) -> None:
        """Raise UsageError unless blocks of ``size`` over ``bounds`` can be written one by one.

        A bucket takes whole chunks only; a folder takes any blocks.

        Raises:
            ChunkError: the volume is not there, and its options do not go together.
        """
        info = self.found()
        if info is None:
            known = {"voxel_size": labels.voxel_size or (1, 1, 1), **self.options}
            raw = info_for(empty_like(labels), mip=self.mip, **known)
            info = metadata.parse(self.path, raw, self.mip)
        if not self.in_bucket:
            return
        unit = info.block_size or (1, 1, 1)
        spans = list(zip(bounds.start, bounds.stop, info.bounds.start, info.bounds.stop, unit))
        if any((a - o) % u or ((b - o) % u and b != end) for a, b, o, end, u in spans):
            raise UsageError(
                f"{bounds} begins or ends inside chunks ({words(unit)}) of {self.path}, which is in a "
                "bucket and takes whole ones; give another volume"
            )
        if any(s % u and s < b - a for s, (a, b, *_, u) in zip(size, spans)):
            fitting = [max(1, round(s / u)) * u for s, u in zip(size, unit)]
            raise UsageError(
                f"blocks of {words(size)} are not whole chunks ({words(unit)}) of {self.path}, which is in "
                f"a bucket and takes whole ones; give --block-size {words(fitting)}"
            )

    @property
    def in_bucket(self) -> bool:
        """Whether it is no local file or folder: only whole chunks can be written."""
        return not self.is_file and local_path(split_address(self.path)[1]) is None

    def ready(self, labels: VolumeInfo) -> Any:
        """Give the volume, made for ``labels`` if it is not there; several processes may do so at once."""
        self.check(labels)
        if self.found() is None:
            realise(self.volume, info_for(empty_like(labels), mip=self.mip, **self.options), same=False)
        return self.volume

    def note(self) -> None:
        """Keep with a volume how it was made; a file has that in it."""
        if not self.is_file and self.provenance is not None:
            self.volume.note(self.provenance)
