"""agglomerate and watershed against waterz alone, evaluation against waterz's, on real data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import tifffile
import waterz
from numpy.typing import NDArray
from table import in_turn, row

from segflow.chunk import Chunk
from segflow.segmentation import agglomerate, connected_components, evaluate
from segflow.segmentation.affinities import NEAREST
from segflow.segmentation.quiet import muted

DATA = Path(__file__).parent.parent / "tests" / "data"


def affinities() -> NDArray[np.float32]:
    """Give z, y, x affinities of 50 x 400 x 400 voxels from a real boundary map."""
    with h5py.File(DATA / "gala.h5") as file:
        inside = 1 - file["volumes/boundary_probability"][:]
    inside = np.pad(inside, ((0, 0), (0, 300), (0, 200)), mode="symmetric")
    result = np.zeros((3, *inside.shape), np.float32)
    for axis in range(3):
        here, before = (
            tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(1, None), slice(-1))
        )
        np.minimum(inside[here], inside[before], out=result[(axis, *here)])
    return result


def labels() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Give a segmentation with splits and merges, and ground truth, of 100 x 512 x 512 voxels."""
    truth = tifffile.imread(DATA / "ac4_labels.tif").astype(np.uint64)
    truth = np.concatenate([np.where(truth, truth + 400 * i, 0) for i in range(5)]).astype(np.uint64)
    moved = np.roll(truth, (0, 4, 4), (0, 1, 2))
    parts = connected_components(moved.astype(np.uint32), connectivity=6).array
    return parts.astype(np.uint64), truth


def bare(affs: NDArray[np.float32]) -> object:
    """Call waterz as its documentation does."""
    with muted():
        return next(waterz.agglomerate(affs, [0.7]))


if __name__ == "__main__":
    zyx = affinities()
    quantised = np.round(zyx * 255).astype(np.uint8)
    rounded = (quantised / np.float32(255)).astype(np.float32)
    for what, chunk, values in (
        ("z y x", Chunk(zyx, layer_type="affinity_map", offsets=NEAREST), zyx),
        ("x y z", Chunk(np.ascontiguousarray(zyx[::-1])), zyx),
        ("x y z, uint8", Chunk(np.ascontiguousarray(quantised[::-1])), rounded),
    ):
        ours, peer = in_turn(partial(agglomerate, chunk), partial(bare, values))
        row(f"agglomerate 50x400x400, {what}", ours, "waterz alone", peer)

    seg, truth = labels()

    def scores() -> object:
        """Call waterz's evaluation."""
        with muted():
            return waterz.evaluate(seg, truth)

    ours, peer = in_turn(lambda: evaluate(seg, truth), scores)
    row("evaluate 100x512x512, all scores", ours, "waterz.evaluate", peer, "chunkflow: 10.6 x waterz")
