"""What goes wrong with sections, labels kept: bands, blank, out of focus, moved while they were imaged.

Images are float32 zyx in [0, 1], changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit
from segflow.training.augment.intensity import cut_blur, cut_noise, gaussian, grayscale, smooth

Image = NDArray[np.float32]


def missing_parts(image: Image, rng: np.random.Generator, *, size: int, rate: float) -> None:
    """Cover a band of some sections with the section's mean grey.

    The band goes along a straight line between random points of two opposite edges; ``size`` is its
    half width, voxels, at most a quarter of the section's shorter side. Each section is hit with
    probability ``rate``, but none after one that was hit.
    """
    height, width = image.shape[1:]
    half = min(float(size), min(height, width) / 4)
    free = True
    for section in image:
        free = not (free and rng.random() < rate)
        if free:
            continue
        down, one, two = bool(rng.integers(2)), *rng.random(2)
        start = (0.0, one * (width - 1)) if down else (one * (height - 1), 0.0)
        stop = (height - 1.0, two * (width - 1)) if down else (two * (height - 1), width - 1.0)
        _cover(section, start[0], start[1], stop[0], stop[1], half, section.mean())


@njit()
def _cover(section: Any, y0: Any, x0: Any, y1: Any, x1: Any, half: Any, value: Any) -> None:
    """Set what is not farther than ``half`` from a line to ``value``."""
    length = max(math.hypot(y1 - y0, x1 - x0), 1e-9)
    a, b = (x1 - x0) / length, (y1 - y0) / length
    for y in range(section.shape[0]):
        for x in range(section.shape[1]):
            if abs((y - y0) * a - (x - x0) * b) <= half:
                section[y, x] = value


def some(image: Image, sections: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw 1 to ``sections`` different sections of an image."""
    count = int(rng.integers(1, min(sections, len(image)) + 1))
    return rng.choice(len(image), count, replace=False)


def blank_section(image: Image, rng: np.random.Generator, *, sections: int, value: float) -> None:
    """Set 1 to ``sections`` whole sections to ``value``; below 0: black or, as often, any grey."""
    for z in some(image, sections, rng):
        grey = rng.random() if rng.integers(2) else 0.0
        image[z] = grey if value < 0 else value


def blur_section(image: Image, rng: np.random.Generator, *, sections: int, sigma: float) -> None:
    """Put 1 to ``sections`` whole sections out of focus: a Gaussian of 0.2 to 1 of ``sigma``, voxels."""
    for z in some(image, sections, rng):
        weights = gaussian(max(sigma * rng.uniform(0.2, 1), 1e-3))
        image[z] = smooth(image[z], weights, weights)


def motion_blur(image: Image, rng: np.random.Generator, *, sections: int, size: int) -> None:
    """Average ``sections`` random sections over ``size`` voxels along y or along x."""
    box, one = np.full(size, 1 / size, np.float32), np.ones(1, np.float32)
    for z in rng.choice(len(image), min(sections, len(image)), replace=False):
        image[z] = smooth(image[z], box, one) if rng.integers(2) else smooth(image[z], one, box)


CHANGES: dict[str, Callable[..., None]] = {  # in this order
    "cut_noise": cut_noise,
    "cut_blur": cut_blur,
    "motion_blur": motion_blur,
    "blur_section": blur_section,
    "missing_parts": missing_parts,
    "grayscale": grayscale,
    "blank_section": blank_section,
}
