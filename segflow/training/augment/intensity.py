"""What changes greys: contrast, and blur and noise of a cuboid; images float32 zyx, changed in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit

STEPS = 4096  # of a table of greys
Image = NDArray[np.float32]


def grayscale(
    image: Image,
    rng: np.random.Generator,
    *,
    contrast: float,
    brightness: float,
    gamma: float,
    mode: str,
    invert: bool,
) -> None:
    """Change contrast, brightness and gamma: clip(v (1 + c) + b) to the power 2^g.

    c and b are uniform in +-contrast/2 and +-brightness/2, g in +-gamma. They are drawn once (3d), for
    each section (2d), or either way by a coin (mix). With ``invert`` a second coin turns black to white.
    Greys are read from a table of 4097 values with interpolation: right to 0.005, half of that rare.
    """
    alike = mode == "3d" or (mode == "mix" and rng.random() < 0.5)
    u = rng.uniform(-1, 1, (3, 1 if alike else len(image), 1))
    values = np.linspace(0, 1, STEPS + 1) * (1 + u[0] * contrast / 2) + u[1] * brightness / 2
    tables = np.clip(values, 0, 1) ** np.exp2(u[2] * gamma)
    if invert and rng.random() < 0.5:
        tables = 1 - tables
    _look_up(image, np.ascontiguousarray(tables, np.float32))


@njit()
def _look_up(image: Any, tables: Any) -> None:
    depth, height, width = image.shape
    last = tables.shape[1] - 1
    for z in range(depth):
        table = tables[min(z, tables.shape[0] - 1)]
        for y in range(height):
            for x in range(width):
                place = min(max(image[z, y, x], np.float32(0)), np.float32(1)) * np.float32(last)
                step = min(int(place), last - 1)
                low = table[step]
                image[z, y, x] = low + (place - np.float32(step)) * (table[step + 1] - low)


def cuboid(shape: tuple[int, ...], ratio: float, rng: np.random.Generator) -> tuple[slice, ...]:
    """Draw the place of a cuboid with ``ratio`` of each side, at least one voxel."""
    sides = [max(1, round(n * ratio)) for n in shape]
    starts = [int(rng.integers(n - side + 1)) for n, side in zip(shape, sides, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def cut_noise(
    image: Image, rng: np.random.Generator, *, length_ratio: float, scale: float, sigma: float
) -> None:
    """Add uniform noise in +-scale to a cuboid, then clip to 0..1.

    With ``sigma`` (voxels) the noise of each section is smoothed by that Gaussian and brought back to
    its standard deviation: grains of about that size.
    """
    part = image[cuboid(image.shape, length_ratio, rng)]
    noise = rng.random(part.shape, dtype=np.float32)
    noise = (noise * 2 - 1) * np.float32(scale)
    if sigma > 0:
        weights = gaussian(sigma)
        gain = np.float32(1 / (weights**2).sum())
        for section in noise:
            section[...] = smooth(section, weights, weights, "wrap") * gain
    np.clip(part + noise, 0, 1, out=part)


def cut_blur(
    image: Image,
    rng: np.random.Generator,
    *,
    length_ratio: float,
    down_min: float,
    down_max: float,
    downsample_z: bool,
) -> None:
    """Coarsen a cuboid: means over cells of u voxels a side in y and x (and z), u uniform in its range."""
    part = image[cuboid(image.shape, length_ratio, rng)]
    factor = rng.uniform(down_min, down_max)
    coarse: NDArray[Any] = part
    counts: list[tuple[int, NDArray[np.int64]]] = []
    for axis in range(0 if downsample_z else 1, 3):
        cells = max(1, round(part.shape[axis] / factor))
        edges = np.rint(np.linspace(0, part.shape[axis], cells + 1)).astype(np.int64)
        width = edges[1:] - edges[:-1]
        coarse = np.add.reduceat(coarse, edges[:-1], axis=axis)
        coarse = coarse / width.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
        counts.append((axis, width))
    for axis, width in counts:
        coarse = np.repeat(coarse, width, axis=axis)
    part[...] = coarse


def gaussian(sigma: float) -> NDArray[np.float32]:
    """Give the weights of a Gaussian out to 3 sigma (voxels); their sum is 1."""
    reach = max(1, math.ceil(3 * sigma))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)


def smooth(
    section: NDArray[np.float32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    border: Any = "edge",
) -> NDArray[np.float32]:
    """Smooth a section (y, x) by weights along y and along x; ``border`` is numpy.pad's mode."""
    around = [(len(w) // 2, len(w) - 1 - len(w) // 2) for w in (rows, columns)]
    out = np.zeros(section.shape, np.float32)
    _smooth(np.pad(section, around, mode=border), rows, columns, out)
    return out


@njit()
def _smooth(padded: Any, rows: Any, columns: Any, out: Any) -> None:
    height, width = out.shape
    line = np.empty(padded.shape[1], np.float32)
    for i in range(height):
        line[:] = 0
        for k in range(len(rows)):
            for j in range(len(line)):
                line[j] += rows[k] * padded[i + k, j]
        for k in range(len(columns)):
            for j in range(width):
                out[i, j] += columns[k] * line[j + k]
