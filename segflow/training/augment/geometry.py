"""All that moves voxels, as one map from a sample to its crop: each voxel is read once.

A sample's voxel p (in the plane, from the centre) is read at M_z (A (p + d(p))) + t_z, where d is the
elastic shift, A turns, flips and rescales, and M_z, t_z misalign section z; a list says which sections
are read. The image is interpolated, labels and mask are those of the nearest voxel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit

REACH = 3.0  # the longest elastic shift, of its standard deviation
Three = tuple[int, int, int]
Settings = Mapping[str, Mapping[str, Any]]
Crop = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]


@dataclass
class Sections:
    """Where each section of a sample comes from; arrays of length z.

    Attributes:
        first, second: sections of the crop that are mixed, int64.
        share: of the second, float32.
        nearest: section of the labels, int64.
        moves: cosine and sine of the turn, shift in y and x (voxels), float32, (z, 4).
        misaligned: whether some sections moved against others.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.float32]
    nearest: NDArray[np.int64]
    moves: NDArray[np.float32]
    misaligned: bool = False


class Geometry:
    """Rotate, rescale, flip, elastic, misalignment and missing_section of samples of ``size`` (zyx).

    ``settings`` are complete. ``enlarged`` is the zyx of the crops it takes.
    """

    def __init__(self, settings: Settings, size: Three) -> None:
        self.settings, self.size = settings, size
        self.square = size[1] == size[2]
        missing = settings.get("missing_section", {}).get("sections", 0)
        self.missing = missing if size[0] > 1 else 0
        self.reach = self._reach()
        rescale = settings.get("rescale", {})
        z_low = min(1.0, rescale["low"]) if rescale.get("z") else 1.0
        self.margin = (_margin(size[0], (size[0] - 1) / 2 / z_low), *(
            _margin(n, extent) for n, extent in zip(size[1:], self.reach, strict=True)
        ))  # fmt: skip
        self.enlarged = (
            size[0] + 2 * self.margin[0] + self.missing,
            size[1] + 2 * self.margin[1],
            size[2] + 2 * self.margin[2],
        )

    def __call__(
        self,
        image: NDArray[np.float32],
        labels: NDArray[np.int64],
        mask: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """Give image, labels and mask of ``size`` from crops of ``enlarged``; see Augmenter."""
        turn, back = self._turn(rng)
        factors = self._factors(rng)
        plane = self._plane(turn, factors, rng)
        sections = self._sections(factors[0], back, rng)
        out = resample((image, labels, mask), plane, sections, self.size)
        flip = self.settings.get("flip", {})
        if flip.get("transpose_z") and rng.random() < 0.5 * flip["p"]:
            out = tuple(np.ascontiguousarray(a.swapaxes(0, 2)) for a in out)  # type: ignore[assignment]
        if sections.misaligned and self.settings["misalignment"]["relabel"]:
            return out[0], separate(out[1], out[2]), out[2]
        return out

    def _reach(self) -> tuple[float, float]:
        """Give how far from the centre a crop may be read in y and x, and set the largest turn (radian)."""
        own = self.settings
        elastic = REACH * own["elastic"]["amplitude"] if "elastic" in own else 0.0
        y, x = ((n - 1) / 2 + elastic for n in self.size[1:])
        if own.get("rotate", {}).get("any_angle"):
            y = x = math.hypot(y, x)
        if "rescale" in own:
            low = min(1.0, own["rescale"]["low"])
            y, x = y / low, x / low
        self.angle = 0.0
        if "misalignment" in own and self.size[0] > 1:
            shift = own["misalignment"]["displacement"]
            if own["misalignment"]["rotate_ratio"]:
                self.angle = 2 * math.asin(min(1.0, shift / max(2 * math.hypot(y, x), 1)))
            y, x = (n + shift - shift // 2 for n in (y, x))
        return y, x

    def _turn(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], bool]:
        """Draw turn and flips: a matrix for y and x, and whether z runs backwards."""
        turn, back = np.eye(2), False
        rotate, flip = self.settings.get("rotate"), self.settings.get("flip")
        if rotate and rng.random() < rotate["p"]:
            if rotate["any_angle"]:
                angle = rng.uniform(0, 2 * math.pi)
                c, s = math.cos(angle), math.sin(angle)
            else:
                quarter = int(rng.integers(4)) if self.square else 2 * int(rng.integers(2))
                c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
            turn = np.array([[c, -s], [s, c]], np.float64)
        if flip and rng.random() < flip["p"]:
            back, y, x, transpose = (bool(coin) for coin in rng.integers(2, size=4))
            turn = turn @ np.diag([-1.0 if y else 1.0, -1.0 if x else 1.0])
            if transpose and self.square:
                turn = turn[:, ::-1]
        return turn, back

    def _factors(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Draw how much larger things become in z, y and x."""
        own = self.settings.get("rescale")
        if own is None or rng.random() >= own["p"]:
            return 1.0, 1.0, 1.0
        z, y, x = (float(f) for f in rng.uniform(own["low"], own["high"], 3))
        return z if own["z"] else 1.0, y, y if own["fix_aspect"] else x

    def _plane(
        self, turn: NDArray[np.float64], factors: tuple[float, float, float], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Give where each pixel of a section is read, from the centre: float32, (2, y, x)."""
        matrix = turn / np.array(factors[1:])[:, None]
        y, x = (np.arange(n) - (n - 1) / 2 for n in self.size[1:])
        plane = np.empty((2, *self.size[1:]), np.float32)
        for out, (to_y, to_x) in zip(plane, matrix, strict=True):
            np.add(to_y * y[:, None], to_x * x, out=out, casting="same_kind")
        own = self.settings.get("elastic")
        if own and rng.random() < own["p"]:
            shift = elastic_field(self.size[1:], own["amplitude"], own["sigma"], rng)
            for out, (to_y, to_x) in zip(plane, matrix.astype(np.float32), strict=True):
                out += to_y * shift[0] + to_x * shift[1]
        return plane

    def _sections(self, factor: float, back: bool, rng: np.random.Generator) -> Sections:
        """Draw which sections are read, and how each is misaligned."""
        kept = np.arange(self.enlarged[0])
        own = self.settings.get("missing_section")
        if self.missing and own and rng.random() < own["p"]:
            gone = 1 + rng.choice(self.enlarged[0] - 2, self.missing, replace=False)
            kept = np.delete(kept, gone)
        else:
            kept = kept[self.missing // 2 :][: self.enlarged[0] - self.missing]
        depth = self.size[0]
        place = (len(kept) - 1) / 2 + (np.arange(depth) - (depth - 1) / 2) / factor
        place = np.clip(place[::-1] if back else place, 0, len(kept) - 1)
        low = np.floor(place).astype(np.int64)
        moves = np.tile(np.array([1, 0, 0, 0], np.float32), (depth, 1))
        own = self.settings.get("misalignment")
        hit = bool(own and depth > 1 and rng.random() < own["p"])
        if own and hit:
            misalign(moves, own["displacement"], self.angle, own["rotate_ratio"], own["slip"], rng)
        return Sections(
            kept[low], kept[np.minimum(low + 1, len(kept) - 1)], (place - low).astype(np.float32),
            kept[np.floor(place + 0.5).astype(np.int64)], moves, hit,
        )  # fmt: skip


def _margin(size: int, extent: float) -> int:
    """Give how many voxels a crop needs on each side to be read ``extent`` from the sample's centre."""
    return max(0, math.ceil(extent - (size - 1) / 2 - 1e-6))


def elastic_field(
    size: tuple[int, ...], amplitude: float, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a smooth random shift in y and x.

    White noise on a lattice of step ``sigma`` is smoothed by a Gaussian of that ``sigma`` and divided
    by the root of the sum of its squared weights, so each component has the standard deviation
    ``amplitude`` at every pixel. No shift is longer than 3 ``amplitude``.

    Args:
        size: y, x.
        amplitude: voxels.
        sigma: of the Gaussian, voxels.
        rng: the source of chance.

    Returns:
        float32 (2, y, x), voxels.
    """
    weights, firsts = [], []
    for n in size:
        first = np.floor(np.arange(n) / sigma).astype(np.int64)
        away = np.arange(n)[:, None] - (first[:, None] + np.arange(-4, 5)) * sigma
        weight = np.exp(-(away**2) / (2 * sigma**2))
        weights.append((weight / np.sqrt((weight**2).sum(1, keepdims=True))).astype(np.float32))
        firsts.append(first)
    nodes = [int(first[-1]) + 9 for first in firsts]
    noise = rng.standard_normal((2, *nodes), dtype=np.float32)
    field = np.empty((2, *size), np.float32)
    _between(noise, weights[0], weights[1], firsts[0], firsts[1], field)
    length = (field**2).sum(0) / REACH**2
    field *= amplitude / np.sqrt(np.sqrt(np.sqrt(1 + length**4)))
    return field


@njit()
def _between(noise: Any, rows: Any, columns: Any, first_row: Any, first_column: Any, out: Any) -> None:
    """Weigh the nodes of a lattice around each pixel; matrix products would start threads in a worker."""
    line = np.empty(noise.shape[2], np.float32)
    for c in range(2):
        for y in range(out.shape[1]):
            line[:] = 0
            for k in range(rows.shape[1]):
                for j in range(len(line)):
                    line[j] += rows[y, k] * noise[c, first_row[y] + k, j]
            for x in range(out.shape[2]):
                total = np.float32(0)
                for k in range(columns.shape[1]):
                    total += columns[x, k] * line[first_column[x] + k]
                out[c, y, x] = total


def misalign(
    moves: NDArray[np.float32],
    displacement: int,
    angle: float,
    rotate_ratio: float,
    slip: float,
    rng: np.random.Generator,
) -> None:
    """Draw a fault and write it into ``moves`` (z, 4: cosine, sine, shift y, shift x), in place.

    A slip moves one inner section, a translation all from one section on. Half of the move goes the
    other way in the other sections, so both stay near the middle of the crop.

    Args:
        moves: of at least two sections.
        displacement: largest shift of the ones against the others in y and in x, voxels.
        angle: largest turn of the ones against the others, radian.
        rotate_ratio: share of faults that turn and do not shift.
        slip: share of faults that are slips (none with fewer than three sections).
        rng: the source of chance.
    """
    depth = len(moves)
    moved = np.zeros(depth, bool)
    if depth > 2 and rng.random() < slip:
        moved[rng.integers(1, depth - 1)] = True
    else:
        moved[rng.integers(1, depth) :] = True
    if rng.random() < rotate_ratio:
        half = rng.uniform(-angle, angle) / 2
        moves[:, 0] = math.cos(half)
        moves[:, 1] = np.where(moved, 1, -1) * math.sin(half)
        return
    shifts = rng.integers(0, displacement + 1, (2, 2)) - displacement // 2
    moves[:, 2:] = shifts[moved.astype(np.int64)]


def separate(labels: NDArray[np.int64], mask: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Give every part of an object that touches its other parts by no face a label of its own.

    An object that touches what is unknown (``mask`` False) keeps its parts: that may join them.
    """
    from segflow.training.label_changes import as_ids, pieces_of

    valid = None if mask is None or mask.all() else mask
    return pieces_of(as_ids(labels), valid, connectivity=6).astype(np.int64)


def resample(
    crop: Crop, plane: NDArray[np.float32], sections: Sections, size: Three
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Read a sample from a crop.

    Where a pixel is read is worked out once for each run of sections that move alike.

    Args:
        crop: image float32, labels int64 and mask bool, zyx.
        plane: float32 (2, y, x), where a pixel is read, from the crop's centre.
        sections: which sections are read, and their moves.
        size: zyx of the sample.
    """
    image, labels, mask = (np.ascontiguousarray(a).reshape(len(a), -1) for a in crop)
    rows, columns = crop[0].shape[1:]
    pixels = size[1] * size[2]
    out = tuple(np.empty((size[0], pixels), a.dtype) for a in crop)
    nearest, corner = np.empty(pixels, np.uint32), np.empty(pixels, np.uint32)
    parts, known = np.empty((2, pixels), np.float32), np.empty(pixels, np.bool_)
    steps = np.array([columns if rows > 1 else 0, 1 if columns > 1 else 0], np.uint32)
    for z in range(size[0]):
        if z == 0 or (sections.moves[z] != sections.moves[z - 1]).any():
            _place(plane.reshape(2, -1), sections.moves[z], rows, columns, nearest, corner, parts, known)
        _labels(labels[sections.nearest[z]], mask[sections.nearest[z]], nearest, known, out[1][z], out[2][z])
        _greys(image[sections.first[z]], steps, corner, parts, known, out[0][z])
        if sections.share[z] > 0:
            other = np.empty(pixels, np.float32)
            _greys(image[sections.second[z]], steps, corner, parts, known, other)
            out[0][z] += sections.share[z] * (other - out[0][z])
    return tuple(a.reshape(size) for a in out)  # type: ignore[return-value]


@njit()
def _place(
    plane: Any, move: Any, rows: int, columns: int, nearest: Any, corner: Any, parts: Any, known: Any
) -> None:
    """Work out the nearest pixel, the upper left one of four, and the shares of the lower and right ones."""
    half = np.float32(0.5)
    c, s = move[0], move[1]
    shift_y, shift_x = move[2] + np.float32((rows - 1) / 2), move[3] + np.float32((columns - 1) / 2)
    for k in range(plane.shape[1]):
        v, u = plane[0, k], plane[1, k]
        y, x = c * v - s * u + shift_y, s * v + c * u + shift_x
        known[k] = -half <= y < rows - half and -half <= x < columns - half
        if not known[k]:
            nearest[k], corner[k], parts[0, k], parts[1, k] = 0, 0, 0, 0
            continue
        nearest[k] = int(y + half) * columns + int(x + half)
        y = min(max(y, np.float32(0)), np.float32(rows - 1))
        x = min(max(x, np.float32(0)), np.float32(columns - 1))
        top, left = min(int(y), max(rows - 2, 0)), min(int(x), max(columns - 2, 0))
        corner[k] = top * columns + left
        parts[0, k], parts[1, k] = y - np.float32(top), x - np.float32(left)


@njit()
def _labels(labels: Any, mask: Any, nearest: Any, known: Any, out_labels: Any, out_mask: Any) -> None:
    for k in range(len(nearest)):
        place = nearest[k]
        out_labels[k] = labels[place] * known[k]
        out_mask[k] = mask[place] & known[k]


@njit()
def _greys(image: Any, steps: Any, corner: Any, parts: Any, known: Any, out: Any) -> None:
    step_y, step_x = steps[0], steps[1]
    for k in range(len(corner)):
        place = corner[k]
        low = place + step_y
        fy, fx = parts[0, k], parts[1, k]
        gy, gx = np.float32(1) - fy, np.float32(1) - fx
        up = gx * image[place] + fx * image[place + step_x]
        down = gx * image[low] + fx * image[low + step_x]
        out[k] = (gy * up + fy * down) * np.float32(known[k])
