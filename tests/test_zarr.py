"""Zarr and n5 volumes: the contract of every volume, other readers, levels, places, several writers."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import zarr as reference

from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.testing.volumes import VolumeContract
from segflow.volumes import open_volume
from segflow.volumes.zarr import COMPRESSIONS, N5Volume, ZarrVolume

BOX = Box((2, 0, 5), (9, 20, 38))


class TestZarr3(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype, block_size=(4, 8, 16)
        )


class TestZarr2(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            f"zarr://file://{place}/a.zarr", Box.of(voxel_offset, shape), dtype, version=2, block_size=(4, 8, 16)
        )


class TestSharded(VolumeContract):
    dtype = "uint64"
    layer_type = "segmentation"

    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype,
            block_size=(2, 8, 8), shard_size=(4, 16, 16), layer_type="segmentation",
        )  # fmt: skip


class TestPlainReversed(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype, ome=False, order="xyz", version=2
        )
