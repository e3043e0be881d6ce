"""Test chunks made from nothing: random blobs with a black centre, sines, zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.geometry import Vec, vec

PATTERNS = ("random", "sin", "zero")
PERIOD = 32  # voxels of one wave
BLOB = 8  # voxels between the random values that blobs are made of
NOISE = 0.15  # part of the range that is white noise
OBJECTS = {"random": 0.7, "sin": 0.7}  # values above this become objects of a segmentation


def create_chunk(
    size: int | Sequence[int] = (64, 64, 64),
    dtype: DTypeLike = "uint8",
    pattern: str = "random",
    voxel_offset: Sequence[int] = (0, 0, 0),
    voxel_size: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> Chunk:
    """Make a test chunk.

    ``random`` is smooth blobs, in images with white noise; the middle third of every axis is black.
    ``sin`` is the sum of a sine along every axis, by global coordinates, so that neighbours fit;
    ``zero`` is zeros. uint8 takes values 1 to 255 and floats 0 to 1. Other integers hold a
    segmentation: the 6-connected objects of the pattern, numbered from 1.

    Args:
        size: zyx, voxels.
        dtype: of the array: uint8, any other integer, or a float.
        pattern: random, sin or zero.
        voxel_offset: zyx, voxels.
        voxel_size: zyx, nm; None if unknown.
        seed: of the random pattern; with the offset it determines every voxel.

    Raises:
        ChunkError: the size is not positive, the pattern is unknown, or more objects than the
            dtype can number.

    >>> chunk = create_chunk((8, 32, 32), voxel_offset=(10, 0, 0))
    >>> chunk.shape, str(chunk.dtype), chunk.array[4, 16, 16], bool(chunk.array[0].all())
    ((8, 32, 32), 'uint8', np.uint8(0), True)
    """
    shape, offset, kind = vec(size), vec(voxel_offset), np.dtype(dtype)
    if min(shape) < 1:
        raise ChunkError(f"a chunk of {shape} voxels is empty; every size must be at least 1")
    if pattern not in PATTERNS:
        raise ChunkError(f"no pattern '{pattern}'; there are {', '.join(PATTERNS)}")
    if pattern == "zero":
        return Chunk(np.zeros(shape, kind), offset, voxel_size)
    labels = kind.kind in "iu" and kind != np.uint8
    black: tuple[slice, ...] = (slice(0),)
    if pattern == "sin":
        sections = _waves(shape, offset)
    else:
        sections = _blobs(shape, offset, seed, 0.0 if labels else NOISE)
        black = tuple(slice(n // 3, n - n // 3) for n in shape)
    if labels:
        array = _objects(sections, shape, black, kind, OBJECTS[pattern])
    else:
        array = _values(sections, shape, kind)
        array[black] = 0
    return Chunk(array, offset, voxel_size, "segmentation" if labels else None)


def _blobs(shape: Vec, offset: Vec, seed: int, noise: float) -> Iterator[NDArray[np.float32]]:
    """Give sections in [0, 1]: random values every BLOB voxels, linearly between them, and noise."""
    random = np.random.default_rng([seed, *(o % 2**32 for o in offset)])
    coarse = random.random([(n - 1) // BLOB + 2 for n in shape], np.float32)
    for z in range(shape[0]):
        low, share = z // BLOB, np.float32(z % BLOB / BLOB)
        plane = coarse[low] + share * (coarse[low + 1] - coarse[low])
        section = _resample(_resample(plane, shape[1], 0), shape[2], 1)
        if noise:
            section *= np.float32(1 - noise)
            section += random.integers(0, 256, section.shape, np.uint8) * np.float32(noise / 255)
        yield section


def _resample(values: NDArray[np.float32], length: int, axis: int) -> NDArray[np.float32]:
    """Interpolate linearly along an axis, from values every BLOB voxels to all voxels."""
    low, rest = np.divmod(np.arange(length), BLOB)
    share = (rest / np.float32(BLOB)).astype(np.float32)
    share = share[:, np.newaxis] if axis == 0 else share
    made = values.take(low + 1, axis) - values.take(low, axis)
    made *= share
    made += values.take(low, axis)
    return made


def _waves(shape: Vec, offset: Vec) -> Iterator[NDArray[np.float32]]:
    """Give sections in [0, 1]: the mean of one sine along each axis."""
    z, y, x = (
        np.sin((np.arange(n) + o) * (2 * np.pi / PERIOD)).astype(np.float32) for n, o in zip(shape, offset)
    )
    plane = np.add.outer(y, x)
    for height in z:
        section = plane + (height + np.float32(3))
        section /= 6
        yield section


def _values(sections: Iterator[NDArray[np.float32]], shape: Vec, kind: np.dtype[Any]) -> NDArray[Any]:
    array = np.empty(shape, kind)
    for z, section in enumerate(sections):
        np.clip(section, 0, 1, out=section)
        array[z] = section if kind.kind == "f" else np.rint(1 + 254 * section)
    return array


def _objects(
    sections: Iterator[NDArray[np.float32]],
    shape: Vec,
    black: tuple[slice, ...],
    kind: np.dtype[Any],
    level: float,
) -> NDArray[Any]:
    import cc3d

    mask = np.empty(shape, bool)
    for z, section in enumerate(sections):
        np.greater(section, level, out=mask[z])
    mask[black] = False
    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    if count > np.iinfo(kind).max:
        raise ChunkError(f"{kind} cannot number {count} objects; use a wider dtype or a smaller size")
    return labels.astype(kind, copy=False)
