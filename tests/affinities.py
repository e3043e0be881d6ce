"""Real affinities for tests of segmentation in blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import tifffile

from segflow.chunk import DEFAULT_OFFSETS, Chunk

DATA = Path(__file__).parent / "data"


def gala() -> Chunk:
    """Give x, y, z affinities of a real boundary map: the smaller of both voxels' probabilities."""
    with h5py.File(DATA / "gala.h5") as file:
        inside = np.rint((1 - file["volumes/boundary_probability"][:]) * 255).astype(np.uint8)
    result = np.zeros((3, *inside.shape), np.uint8)
    for axis in range(3):
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        result[(2 - axis, *here)] = np.minimum(inside[here], inside[before])
    return Chunk(result, (0, 0, 0), (10, 10, 10), "affinity_map", DEFAULT_OFFSETS)


def sections(size: Sequence[int] = (10, 96, 120)) -> Chunk:
    """Give x, y, z affinities of real serial sections, made without a network."""
    path = DATA.parent.parent / "examples" / "gradient_affinities.py"
    spec = importlib.util.spec_from_file_location("gradient_affinities", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    image = tifffile.imread(DATA / "ac4_image.tif")[tuple(slice(n) for n in size)]
    found = module.execute(Chunk(image, (0, 0, 0), (30, 6, 6)), sigma=1.0)
    return found.with_array(np.rint(found.array * 255).astype(np.uint8))


def crop(chunk: Chunk, size: Sequence[int], start: Sequence[int] = (0, 0, 0)) -> Chunk:
    """Give a part of it as a chunk that begins at 0 0 0; the affinities of its first planes are 0."""
    array = chunk.array[(slice(None), *(slice(a, a + n) for a, n in zip(start, size)))].copy()
    for channel, axis in enumerate((2, 1, 0)):
        array[(channel, *(slice(None),) * axis, 0)] = 0
    return Chunk(array, (0, 0, 0), chunk.voxel_size, "affinity_map", DEFAULT_OFFSETS)
