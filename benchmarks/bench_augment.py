"""Augmented samples of 17 x 257 x 257 on one core, every coin as SNEMI's configuration of PyTC has it.

PyTC 1's figure, 0.20 s, was measured before on one core; it is not run here. The seconds are those
that the process computed, so that what else the machine does matters less.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import tifffile
from table import row

from segflow.compiled import keep_memory
from segflow.training.augment import Augmenter

DATA = Path(__file__).parent.parent / "tests" / "data"
SIZE = (17, 257, 257)
PYTC = 0.20  # seconds a sample
OWN = ("blank_section", "blur_section")  # PyTC has none
SNEMI = {
    "rotate": {}, "rescale": {}, "flip": {}, "elastic": {"amplitude": 0.65, "sigma": 4.0}, "grayscale": {},
    "missing_parts": {"p": 0.9, "rate": 0.9}, "missing_section": {}, "misalignment": {}, "motion_blur": {},
    "cut_blur": {}, "cut_noise": {},
}  # fmt: skip


def seconds(settings: dict[str, dict[str, float]], samples: int = 100) -> float:
    """Give the mean seconds of a sample from the bundled volume, mirrored where it is too small."""
    augmenter = Augmenter(settings, SIZE)
    image, labels = (
        np.pad(a, [(0, max(0, e - n)) for n, e in zip(a.shape, augmenter.enlarged)], mode="reflect")[
            tuple(slice(e) for e in augmenter.enlarged)
        ]
        for a in (tifffile.imread(DATA / "ac4_image.tif"), tifffile.imread(DATA / "ac4_labels.tif"))
    )
    crop = (image.astype(np.float32) / 255, labels.astype(np.int64), np.ones(augmenter.enlarged, bool))
    rng = np.random.default_rng(0)
    for _ in range(5):
        augmenter(*crop, rng)
    began = time.process_time()
    for _ in range(samples):
        augmenter(*crop, rng)
    return (time.process_time() - began) / samples


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_memory()
    row("augment, coins of PyTC's SNEMI", seconds(SNEMI), "PyTC 1", PYTC)
    own = {**SNEMI, **{name: {} for name in OWN}}
    row("augment, and blank and blurred sections", seconds(own), "PyTC 1", PYTC)
    row("augment, all of it always", seconds({n: {**s, "p": 1.0} for n, s in own.items()}), "PyTC 1", PYTC)
