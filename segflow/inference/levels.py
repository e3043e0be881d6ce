"""Grey levels of images: what a network was trained on, whether another image fits, and a map to them.

An image is described by up to 32 of its sections: of each, PARTS quantiles of its grey levels in [0, 1]
(at (i + 0.5) / PARTS), without black voxels, which are borders and masks. The distance of two
sections is the mean difference of their quantiles, which is the Wasserstein-1 distance of their
histograms (Villani, Optimal Transport, 2009; in one dimension the area between the quantile functions).
An image is as far from a training as half of its sections are from the nearest section there: sections of
one volume differ in contrast, and a network has seen them all.

Inverted contrast can leave a histogram as it was. It is told by the thin structures, membranes: the
skewness of what differs from the mean of 9 x 9 voxels around it has the other sign.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import ChunkError
from segflow.geometry import Box, Vec

log = logging.getLogger("segflow")

PARTS = 17  # quantiles of a section
SECTIONS = 32  # at most so many sections are looked at
WINDOW = 512  # of each a window of this side
STEP = 4  # of which each fourth row and column counts for the histogram
FULL = 64  # at least so many voxels must not be black
LIMIT = 0.06  # a larger distance is told; of 34 of AC4's sections one is further from all others
FEW = 256**2  # sections of fewer voxels may show one soma or vessel: of AC4, 3 to 10 % are further away
FEW_LIMIT = 0.09  # and this limit is theirs; half as bright is 0.1 to 0.2 there
RADIUS = 4  # of the neighbourhood, voxels
SKEW = 0.1  # signs of less than this mean nothing
GOLDEN = 0.6180339887  # windows of successive sections are spread by it

Read = Callable[[Box], NDArray[Any]]
Levels = dict[str, Any]


def unit(array: NDArray[Any]) -> NDArray[np.float32]:
    """Give grey levels as the network gets them: float32, integers divided by their dtype's maximum."""
    scale = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    return array.astype(np.float32) / np.float32(scale)


def _known(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell what is not black: not 0, and in integers not 1, which normalize-contrast makes of it."""
    return (array != 0) & (array != 1 if array.dtype.kind in "iu" else np.isfinite(array))


def windows(shape: Sequence[int], count: int = SECTIONS) -> list[Box]:
    """Give windows of one section each, spread over a volume of ``shape``; the same at each call.

    >>> [str(box) for box in windows((2, 100, 1000), 4)]
    ['0-1_0-100_0-512', '1-2_0-100_302-814']
    """
    depth, *sides = shape
    sections = sorted({round(i) for i in np.linspace(0, depth - 1, min(count, depth))})
    found = []
    for turn, z in enumerate(sections):
        free = [max(0, n - WINDOW) for n in sides]
        y, x = (int(turn * g % 1 * (f + 1)) for g, f in zip((GOLDEN**2, GOLDEN), free))
        found.append(Box((z, y, x), (z + 1, min(sides[0], y + WINDOW), min(sides[1], x + WINDOW))))
    return found


def describe(read: Read, boxes: Sequence[Box]) -> Levels | None:
    """Describe an image by the windows that ``read`` gives; None where all of it is black.

    Returns:
        ``sections``: a list of PARTS quantiles in [0, 1] for each window that holds something;
        ``skew``: of their fine structure, the median of windows: negative where membranes are dark.
    """
    at = (np.arange(PARTS) + 0.5) / PARTS
    sections, skews = [], []
    for box in boxes:
        raw = np.squeeze(read(box).reshape(-1, *box.shape)[:1], axis=(0, 1))
        plane = np.where(_known(raw), unit(raw), 0)
        values = plane[::STEP, ::STEP] if plane.size > FULL * STEP**2 else plane
        values = values[values != 0]
        if len(values) < FULL:
            continue
        sections.append([round(float(q), 4) for q in np.quantile(values, at)])
        skew = detail_skew(plane[:256, :256])
        skews += [skew] if skew else []  # 0 where that corner is empty
    if not sections:
        return None
    return {"sections": sections, "skew": round(float(np.median(skews or [0])), 3)}


def of_array(array: NDArray[Any]) -> Levels | None:
    """Describe an array (zyx, or the first channel of czyx); ``few``: its sections show less than FEW."""
    volume = array if array.ndim == 3 else array[0]
    found = describe(lambda box: volume[box.slices()], windows(volume.shape))
    return {**found, "few": True} if found and _few(volume) else found


def _few(volume: NDArray[Any]) -> bool:
    """Whether the sections (zyx) show less than FEW voxels each, in the mean; it stops where that is sure."""
    wanted = FEW * len(volume)
    for section in volume:
        wanted -= int(np.count_nonzero(_known(section)))
        if wanted <= 0:
            return False
    return True


def detail_skew(plane: NDArray[np.float32]) -> float:
    """Give the skewness of a section (yx) less the mean around each voxel; black does not count.

    >>> dark_lines = np.ones((64, 64), np.float32); dark_lines[::16] = 0.5
    >>> detail_skew(dark_lines) < -1 and detail_skew(1.6 - dark_lines) > 1
    True
    """
    known = (plane != 0) & np.isfinite(plane)
    around = _box_sum(np.where(known, plane, 0)) / np.maximum(_box_sum(known), 1)
    detail = (plane - around)[known]
    spread = float(detail.std()) if detail.size else 0.0
    if spread < 1e-6:
        return 0.0
    return float((((detail - detail.mean()) / spread) ** 3).mean())


def _box_sum(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Give the sum over the square of radius RADIUS around each voxel, 0 beyond the section."""
    sums = np.pad(plane.astype(np.float64), RADIUS)
    for axis in (0, 1):
        total = np.cumsum(sums, axis=axis)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis=axis)
        length, width = sums.shape[axis], 2 * RADIUS + 1
        high, low = (total.take(range(a, a + length - width + 1), axis) for a in (width, 0))
        sums = high - low
    return sums


def distance(image: Levels, training: Levels) -> float:
    """Give how far an image's grey levels are from those of a training, in parts of the range [0, 1].

    >>> a, b = ({"sections": [[level] * PARTS], "skew": 0} for level in (0.25, 0.75))
    >>> distance(a, b), distance(a, {"sections": [*a["sections"], *b["sections"]]})
    (0.5, 0.0)
    """
    mine, theirs = (np.array(levels["sections"], np.float64) for levels in (image, training))
    nearest = np.abs(mine[:, None] - theirs[None]).mean(-1).min(1)
    return float(np.median(nearest))


def limit(image: Levels) -> float:
    """Give the distance up to which an image fits.

    >>> limit({"few": True}), limit({})
    (0.09, 0.06)
    """
    return FEW_LIMIT if image.get("few") else LIMIT


def inverted(image: Levels, training: Levels) -> bool:
    """Whether thin structures are bright in the one and dark in the other."""
    a, b = image["skew"], training["skew"]
    return min(abs(a), abs(b)) > SKEW and a * b < 0


def typical(levels: Levels) -> NDArray[np.float64]:
    """Give the quantiles of a typical section: the mean of each, Wasserstein's barycentre."""
    return np.array(levels["sections"], np.float64).mean(0)


def warn(image: Levels | None, training: Levels | None) -> str | None:
    """Warn in one line where grey levels do not fit; give that line, or None."""
    if image is None or training is None:
        return None
    off, said = distance(image, training), None
    if inverted(image, training):
        bright = "bright" if image["skew"] > 0 else "dark"
        said = (
            f"the image looks inverted: its membranes are {bright}, and the network was trained on the "
            "opposite; invert it"
        )
    elif off > limit(image):
        (a, b), (c, d) = ((t[0], t[-1]) for t in (typical(image), typical(training)))
        said = (
            f"the grey levels of the image do not fit: 3 to 97 % of it lie in {a:.2f} to {b:.2f}, and of the "
            f"network's training in {c:.2f} to {d:.2f} (distance {off:.2f}, limit {limit(image):g}); the "
            "answer may be poor: compare with --adapt"
        )
    if said:
        log.warning("%s", said)
    return said


class Mapping:
    """A monotone map of grey levels in [0, 1]: through knots, straight between and beyond them.

    0 stays 0, and nothing else becomes 0.

    >>> stretch = Mapping([0.25, 0.5], [0.0, 1.0])
    >>> stretch(np.array([[0, 0.375, 0.5, 0.9]])).tolist()
    [[0.0, 0.5, 1.0, 1.0]]
    """

    def __init__(self, given: Sequence[float], wanted: Sequence[float]) -> None:
        source, target = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
        if not source[-1] > source[0]:
            raise ChunkError(f"--adapt: the image has one grey level only ({source[0]:g})")
        slope = (target[-1] - target[0]) / (source[-1] - source[0])
        source, first = np.unique(source, return_index=True)
        last = np.append(first[1:], len(target))
        target = np.array([target[a:b].mean() for a, b in zip(first, last)])
        self.given = np.concatenate([[source[0] - 1], source, [source[-1] + 1]])
        self.wanted = np.concatenate([[target[0] - slope], target, [target[-1] + slope]])

    def __call__(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Map grey levels in [0, 1], section by section."""
        made = np.empty(array.shape, np.float32)
        for plane, out in zip(array.reshape(-1, *array.shape[-2:]), made.reshape(-1, *array.shape[-2:])):
            levels = np.interp(plane, self.given, self.wanted).clip(1 / 255, 1)
            out[...] = np.where(plane == 0, 0, levels)
        return made


def mapping_of(image: Levels, training: Levels) -> Mapping:
    """Give the map that brings an image's typical section to that of the training.

    Raises:
        ChunkError: the image has one grey level only.
    """
    return Mapping(typical(image).tolist(), typical(training).tolist())


def mapping_between(low: float, high: float, training: Levels) -> Mapping:
    """Give the straight map of ``low`` and ``high`` to the training's lowest and highest quantile."""
    wanted = typical(training)
    return Mapping([low, high], [float(wanted[0]), float(wanted[-1])])


def checked(levels: Any) -> bool:
    """Whether ``levels`` is what ``describe`` gives."""
    try:
        rows = levels["sections"]
        good = len(rows) > 0 and all(len(row) == PARTS for row in rows)
        values = [float(v) for row in rows for v in row] + [float(levels["skew"])]
    except (KeyError, TypeError, ValueError):
        return False
    return good and all(math.isfinite(v) for v in values)


def share(shapes: Sequence[Vec], total: int = SECTIONS) -> list[int]:
    """Give how many of ``total`` sections each of several volumes gets, at least one.

    >>> share([(100, 9, 9), (100, 9, 9), (1, 9, 9)])
    [10, 10, 1]
    """
    return [min(depth, max(1, total // len(shapes))) for depth, *_ in shapes]
