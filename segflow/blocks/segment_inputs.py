"""What segment-volume reads: affinities and fragments, opened and checked before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from segflow.errors import ChunkError, VolumeError
from segflow.segmentation.affinities import NEAREST
from segflow.volumes.base import VolumeInfo
from segflow.volumes.lazy import LazyVolume, open_lazy


def open_affinities(path: str, **told: Any) -> LazyVolume:
    """Open a volume of affinities; ``told`` is for ``open_lazy``.

    Raises:
        VolumeError: it is not there or broken. ChunkError: it holds no affinities.
    """
    volume = open_lazy(path, **told)
    info = volume.info
    if info.channels < 3:
        raise ChunkError(
            f"{path} has {info.channels} channel(s); affinities need three, to the voxels before on x, y "
            "and z"
        )
    if np.dtype(info.dtype) != np.uint8 and not info.dtype.startswith("float"):
        raise ChunkError(f"{path} is {info.dtype}; affinities are float in [0, 1] or uint8")
    if info.offsets is None and info.channels != 3:
        raise ChunkError(
            f"{path} has {info.channels} channels and does not say their offsets; affinities need three, to "
            "the voxels before on x, y and z"
        )
    if info.offsets is not None and not set(NEAREST) <= set(info.offsets):
        raise ChunkError(f"{path} has the offsets {info.offsets} and lacks one of {NEAREST}")
    if info.layer_type != "affinity_map":
        volume = open_lazy(path, **told, layer_type="affinity_map")
    return volume


def open_fragments(path: str, info: VolumeInfo) -> LazyVolume:
    """Open a volume of fragments for the affinities that ``info`` describes.

    Raises:
        VolumeError: it is not there or broken, or smaller. ChunkError: it holds no labels.
    """
    volume = open_lazy(path)
    if volume.info.channels != 1 or np.dtype(volume.info.dtype).kind not in "ui":
        raise ChunkError(f"{path} holds {volume.info.channels} x {volume.info.dtype}, no labels of fragments")
    if not volume.info.bounds.contains(info.bounds):
        raise VolumeError(
            f"the fragments {path} fill {volume.info.bounds} and the affinities {info.bounds}; give "
            "fragments of all of it"
        )
    return volume
