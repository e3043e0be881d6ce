"""Fragments by a seeded watershed: seeds in the middle of what is inside, as K_NeuronSeg, PyTC and lsd do."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import UsageError, did_you_mean
from segflow.geometry import Vec
from segflow.progress import bar
from segflow.segmentation.affinities import nearest_bytes

SEEDS = ("maxima", "minima", "grid")
SURFACES = ("distance", "boundary")
FAR = 2048**2  # the largest squared distance that is told apart


@dataclass(frozen=True)
class _Rule:
    """The options of a distance watershed, with the defaults of its mode filled in."""

    interior: float
    min_distance: int
    seeds: str
    surface: str
    low: float


def distance_watershed(
    affinities: Chunk | NDArray[Any],
    *,
    per_section: bool = False,
    interior_threshold: float | None = None,
    min_distance: int = 3,
    seeds: str = "maxima",
    surface: str | None = None,
    aff_threshold_low: float = 0.0001,
) -> Chunk:
    """Give fragments grown from seeds that lie in the middle of what is inside.

    Inside is where the mean of a voxel's three affinities (``per_section``: of y and x, each section
    for itself) is above a threshold. There the Euclidean distance to the outside is taken, counted
    in voxels on every axis; the edge of the chunk is no outside. Its maxima are the seeds. Affinities
    are rounded once to 8 bits; ties follow the z, y, x order; threads change nothing.

    Fragments of sections do not depend on other sections: they are the same, but for their numbers,
    for any blocks that hold whole sections. Fragments in 3-D do depend on the block.

    It needs at its peak, beside its input, 22 bytes a voxel (``surface="boundary"``: 17,
    ``per_section``: 12), of which 8 are the result.

    Args:
        affinities: czyx; float in [0, 1], or uint8 (value / 255). Channels are picked by the
            chunk's offsets (a plain array: x, y, z).
        per_section: cut each section for itself, with ids that go on from section to section.
        interior_threshold: inside is where the mean affinity is above it. None is 0.1,
            ``per_section`` 0.5, as in K_NeuronSeg.
        min_distance: voxels, at least 1. No other seed lies within so many voxels on every axis.
        seeds: ``maxima`` of the distance, ``minima`` of the boundary map (1 - mean affinity), or a
            ``grid`` with a seed every ``min_distance`` voxels of the volume.
        surface: what is flooded. ``distance``: the inside, the middle first (K_NeuronSeg in 3-D,
            lsd); all else is 0. ``boundary``: the boundary map, its valleys first, over all voxels but
            those of ``aff_threshold_low`` (PyTC, and K_NeuronSeg's sections). None is ``distance``,
            ``per_section`` ``boundary``.
        aff_threshold_low: voxels whose best affinity (``per_section``: of y and x) is not above it
            become 0.

    Returns:
        A zyx uint64 segmentation at the same place with the ids 0 (background), 1, 2 ... n. A part
        without a seed of its own is one fragment.

    Raises:
        ChunkError: affinities of the wrong shape, dtype or range.
        UsageError: an option out of range.

    >>> values = np.full((3, 4, 8, 9), 0.9, np.float32)
    >>> values[:, :, :, 4] = 0  # a membrane
    >>> distance_watershed(values).array[0, 0].tolist()
    [1, 1, 1, 1, 0, 2, 2, 2, 2]
    """
    interior = (0.5 if per_section else 0.1) if interior_threshold is None else interior_threshold
    surface = surface or ("boundary" if per_section else "distance")
    check_distance(interior, min_distance, seeds, surface)
    rule = _Rule(interior, min_distance, seeds, surface, aff_threshold_low)
    chunk = affinities if isinstance(affinities, Chunk) else Chunk(np.asarray(affinities))
    cut = _sections if per_section else _volume
    return chunk.with_array(cut(chunk, rule), layer_type="segmentation", offsets=None)


def check_distance(interior_threshold: float, min_distance: int, seeds: str, surface: str) -> None:
    """Raise UsageError for options of ``distance_watershed`` that are out of range."""
    if not 0 <= interior_threshold < 1:
        raise UsageError(f"the interior threshold is at least 0 and below 1, not {interior_threshold:g}")
    if min_distance < 1 or min_distance != int(min_distance):
        raise UsageError(f"the distance of seeds is a whole number of voxels from 1 on, not {min_distance}")
    for what, word, known in (("seeds", seeds, SEEDS), ("surface", surface, SURFACES)):
        if word not in known:
            raise UsageError(f"no {what} '{word}'{did_you_mean(word, [*known])}; give {' or '.join(known)}")


def _volume(chunk: Chunk, rule: _Rule) -> NDArray[np.uint64]:
    """Cut a chunk in 3-D."""
    return _cut(_levels(nearest_bytes(chunk), rule.low), 3, chunk.voxel_offset, rule, _threads())[0]


def _sections(chunk: Chunk, rule: _Rule) -> NDArray[np.uint64]:
    """Cut the sections of a chunk, several at a time, and number their fragments in order."""
    affs = nearest_bytes(chunk)[1:]
    result = np.empty(affs.shape[1:], np.uint64)

    def cut(z: int) -> int:
        labels, found = _cut(_levels(affs[:, z : z + 1], rule.low), 2, chunk.voxel_offset, rule)
        result[z] = labels[0]
        return found

    before = 0
    with ThreadPoolExecutor(_threads()) as pool, bar(len(result), "sections") as tick:
        for section, found in zip(result, pool.map(cut, range(len(result)))):
            np.add(section, np.uint64(before), out=section, where=section > 0)
            before += found
            tick(1)
    return result


def _levels(affs: NDArray[np.uint8], low: float) -> NDArray[np.uint16]:
    """Give 1 + the sum of the affinities of each voxel, 0 where none to either side is above ``low``.

    ``affs`` holds the channels z, y, x, or y, x.
    """
    level = np.ones(affs.shape[1:], np.uint16)
    best = affs.max(axis=0)
    for axis, values in enumerate(affs, 3 - len(affs)):
        level += values
        here, after = (tuple(s if a == axis else slice(None) for a in range(3)) for s in _NEXT)
        np.maximum(best[here], values[after], out=best[here])
    level[best <= _bytes(low)] = 0
    return level


_NEXT = (slice(-1), slice(1, None))


def _bytes(fraction: float, channels: int = 1) -> int:
    """Give the largest sum of bytes that is not above a mean affinity."""
    return math.floor(Fraction(str(fraction)) * 255 * channels)


def _cut(
    level: NDArray[np.uint16], channels: int, start: Vec, rule: _Rule, threads: int = 1
) -> tuple[NDArray[np.uint64], int]:
    """Give the fragments of the whole array, and their number; ``level`` is not changed."""
    from segflow.segmentation.flooding import flood

    surface, labels, found = _seeded(level, channels, start, rule, threads)
    link = np.empty(level.size, np.int32 if level.size < 2**31 else np.int64)
    return labels, flood(surface, labels, link, int(surface.max()), found)


def _seeded(
    level: NDArray[np.uint16], channels: int, start: Vec, rule: _Rule, threads: int
) -> tuple[NDArray[Any], NDArray[np.uint64], int]:
    """Give what is to be flooded (0 is left out), an array with the seeds, and their number."""
    from segflow.segmentation.flooding import place_seeds

    height: NDArray[Any] = level
    surface: NDArray[Any] = level
    if rule.seeds == "maxima" or rule.surface == "distance":
        distance = _distance(level, 1 + _bytes(rule.interior, channels), threads)
        height = distance if rule.seeds == "maxima" else level
        surface = distance if rule.surface == "distance" else level
    labels = np.zeros(level.shape, np.uint64)
    if rule.seeds == "grid":
        return surface, labels, _grid(surface, labels, channels, start, rule.min_distance)
    return surface, labels, place_seeds(height, surface, rule.min_distance, labels)


def _distance(level: NDArray[np.uint16], cut: int, threads: int) -> NDArray[np.float32]:
    """Give the squared distance, in voxels, to where ``level`` is not above ``cut``; whole numbers."""
    from edt import edtsq

    flat = level if len(level) > 1 else level[0]  # a section is an array of two axes
    distance: NDArray[np.float32] = edtsq(flat > cut, parallel=threads).reshape(level.shape)
    return np.minimum(distance, FAR, out=distance)  # without an outside it is infinite


def _grid(surface: NDArray[Any], labels: NDArray[np.uint64], channels: int, start: Vec, step: int) -> int:
    """Number the voxels of a lattice through the volume's voxel 0, 0, 0; give how many."""
    first = 3 - channels  # a section has no lattice along z
    lattice = tuple(slice(-start[a] % step if a >= first else 0, None, step) for a in range(3))
    taken = surface[lattice] > 0
    found = int(taken.sum())
    labels[lattice][taken] = np.arange(1, found + 1)
    return found


def _threads() -> int:
    """Give numba's number of threads, which ``NUMBA_NUM_THREADS`` sets."""
    import numba

    return int(numba.get_num_threads())
