"""Segmentation against waterz on real affinities, evaluation against waterz's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

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
DEPTH = 100


def affinities() -> NDArray[np.float32]:
    """Give the shipped network's affinities, z y x, of the bundled image reflected to 100 x 512 x 512."""
    from segflow.operators.inference import inference

    image = tifffile.imread(DATA / "ac4_image.tif")
    image = np.pad(image, ((0, DEPTH - len(image)), (0, 0), (0, 0)), mode="symmetric")
    patches = {"patch_size": (20, 256, 256), "patch_overlap": (4, 64, 64)}
    made = inference(Chunk(image), model="affinity-snemi3d", mask_output_chunk=True, **patches)
    return np.ascontiguousarray(made.array[::-1])


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
        return next(waterz.agglomerate(affs, [0.7], aff_threshold_low=0.001))


def exact(affs: NDArray[np.generic]) -> object:
    """Call segflow's engine, as the chain does."""
    chunk = Chunk(affs, layer_type="affinity_map", offsets=NEAREST)
    return agglomerate(chunk, 0.7, aff_threshold_low=0.001, engine="exact")


def memory(field: str) -> int:
    """Give VmRSS (now) or VmHWM (the most so far) of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(engine: str, path: str) -> None:
    """Print the seconds of one call on the affinities in a file, and bytes a voxel beside them."""
    affs = np.load(path)
    work = {"exact": exact, "waterz": bare}[engine]
    work(np.ascontiguousarray(affs[:, :4, :64, :64]))
    before = memory("VmRSS")
    began = time.perf_counter()
    result = work(affs)
    seconds = time.perf_counter() - began
    del result
    print(json.dumps([seconds, (memory("VmHWM") - before) / affs[0].size]))


def alone(engine: str, path: Path, cores: int, runs: int = 1) -> tuple[float, float]:
    """Give the smallest seconds and bytes a voxel of runs in processes of their own."""
    command = [sys.executable, __file__, engine, str(path)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(cores)}
    results = [
        json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        )
        for _ in range(runs)
    ]
    return min(s for s, _ in results), min(b for _, b in results)


def engines(folder: Path) -> None:
    """Measure watershed and agglomeration together, float32 and rounded to 8 bits."""
    values = affinities()
    eight = np.rint(values * 255).astype(np.uint8)
    for what, ours, peers in (
        ("float32", values, values),
        ("uint8", eight, eight / np.float32(255)),
    ):
        np.save(folder / "ours.npy", ours)
        np.save(folder / "peers.npy", peers)
        peer, theirs = alone("waterz", folder / "peers.npy", 1)
        for cores in (2, 1):
            seconds, mine = alone("exact", folder / "ours.npy", cores, 3)
            more = f"{mine:.0f} B a voxel, waterz {theirs:.0f}"
            row(f"exact {DEPTH}x512x512, {what}, {cores} cores", seconds, "waterz", peer, more)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        engines(Path(folder))
        zyx = np.load(Path(folder) / "peers.npy")[:, :20]
    xyz = np.ascontiguousarray(zyx[::-1])
    ours, peer = in_turn(
        partial(agglomerate, xyz, aff_threshold_low=0.001, engine="waterz"), partial(bare, zyx), 3
    )
    row("agglomerate --engine waterz 20x512x512, x y z", ours, "waterz alone", peer)

    seg, truth = labels()

    def scores() -> object:
        """Call waterz's evaluation."""
        with muted():
            return waterz.evaluate(seg, truth)

    ours, peer = in_turn(lambda: evaluate(seg, truth), scores)
    row("evaluate 100x512x512, all scores", ours, "waterz.evaluate", peer, "chunkflow: 10.6 x waterz")


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        main()
