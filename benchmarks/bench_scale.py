"""segment-volume at 0.125, 0.5 and 2 gigavoxels: seconds and memory a gigavoxel.

    python benchmarks/bench_scale.py [GIGAVOXELS ...]

The affinities are real: the shipped network's on the bundled image, 20 x 512 x 512, reflected to a unit
of 40 x 1024 x 1024 voxels that repeats. The volume's chunk files are links to the unit's, so that 2
gigavoxels (6 GB) lie on the disk once; segment-volume reads them as any other volume.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.geometry import Box, Grid
from segflow.operators.inference import inference
from segflow.volumes import info as metadata
from segflow.volumes.precomputed import PrecomputedVolume
from segflow.volumes.tif import read_tif

IMAGE = Path(__file__).parent.parent / "tests" / "data" / "ac4_image.tif"
CHUNK = (40, 64, 64)
SIZES = {0.125: (120, 1024, 1024), 0.5: (120, 2048, 2048), 2.0: (480, 2048, 2048)}
BLOCK = (120, 256, 512)


def affinities() -> NDArray[np.uint8]:
    """Give the shipped network's affinities of the bundled image, channels x, y, z."""
    found = inference(
        read_tif(str(IMAGE)), model="affinity-snemi3d", pad="reflect", mask_output_chunk=True,
        patch_size=(20, 256, 256), patch_overlap=(4, 64, 64), output_dtype="uint8",
    )  # fmt: skip
    return found.array


def reflected(affs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reflect affinities on z, y and x: an edge of the mirrored half is the edge it mirrors."""
    for axis, channel in ((1, 2), (2, 1), (3, 0)):
        mirrored = np.flip(affs, axis).copy()
        # voxel i of n there is n - 1 - i here, and its edge goes to the voxel that comes after that one
        mirrored[channel] = np.roll(mirrored[channel], 1, axis - 1)
        affs = np.concatenate([affs, mirrored], axis)
    return affs


def make_volume(folder: Path, unit: NDArray[np.uint8], size: tuple[int, ...]) -> str:
    """Make a volume of ``size`` in which the unit repeats."""
    first = PrecomputedVolume(f"file://{folder}/unit")
    for place, extent in ((first, unit.shape[1:]), (PrecomputedVolume(f"file://{folder}/affs"), size)):
        raw = metadata.make(
            Box((0, 0, 0), (extent[0], extent[1], extent[2])), "uint8", channels=3, block_size=CHUNK,
            layer_type="affinity_map", voxel_size=(30, 6, 6), offsets=((0, 0, -1), (0, -1, 0), (-1, 0, 0)),
        )  # fmt: skip
        place.create(raw)
    first.write(Chunk(unit, layer_type="affinity_map", voxel_size=(30, 6, 6)))
    source, target = folder / "unit" / "6_6_30", folder / "affs" / "6_6_30"
    target.mkdir()
    for box in Grid.over(Box((0, 0, 0), (size[0], size[1], size[2])), CHUNK):
        inside = box.shift([-(a // n) * n for a, n in zip(box.start, unit.shape[1:])])
        os.link(source / _name(inside), target / _name(box))
    return str(folder / "affs")


def _name(box: Box) -> str:
    return "_".join(f"{a}-{b}" for a, b in zip(box.start[::-1], box.stop[::-1]))


def _memory(pid: int) -> int:
    """Give the bytes that a process and its children hold for themselves."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total += int(line.split()[1]) << 10
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        total += _memory(int(child))
    return total


def run(gigavoxels: float, unit: NDArray[np.uint8], processes: int = 2) -> None:
    """Segment a volume of a size; print seconds, memory and what the work folder holds."""
    size = SIZES[gigavoxels]
    voxels = int(np.prod(size))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        affs = make_volume(folder, unit, size)
        line = [
            sys.executable, "-m", "segflow", "--quiet", "segment-volume", "--affs", affs, "--out",
            str(folder / "seg"), "--block-size", *map(str, BLOCK), "--threshold", "0.7",
            "--aff-threshold-low", "0.001", "--processes", str(processes),
        ]  # fmt: skip
        began, peak = time.perf_counter(), 0
        job = subprocess.Popen(line)
        while job.poll() is None:
            try:
                peak = max(peak, _memory(job.pid))
            except (OSError, ProcessLookupError):
                continue
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        if job.returncode:
            raise SystemExit(job.returncode)
        work = sum(f.stat().st_size for f in (folder / "seg.work").rglob("*") if f.is_file())
        fragments, edges = _graph(folder / "seg.work")
    print(
        f"segment-volume {voxels / 1e9:.3f} gigavoxels: {seconds:6.0f} s, {seconds / voxels * 1e9:5.0f} s a "
        f"gigavoxel, peak {peak / 2**30:.2f} GiB, work folder {work / voxels:.2f} bytes a voxel, "
        f"{voxels / fragments:.0f} voxels a fragment, {edges} edges at the top",
        flush=True,
    )


def _graph(work: Path) -> tuple[int, int]:
    """Count the fragments, and the edges that reach the last step."""
    from segflow.blocks.ledger import WorkFolder

    folder = WorkFolder(work)
    levels = [n for n in folder.plan()["stages"] if n.startswith("merge-")]
    fragments = sum(len(np.unique(folder.load("names-0", b)["means"])) for b in folder.done("names-0"))
    below = levels[-2]
    return fragments, sum(len(folder.load(below, b, "edges")["edges"]) for b in folder.done(below))


if __name__ == "__main__":
    wanted = [float(word) for word in sys.argv[1:]] or list(SIZES)
    base = reflected(affinities())
    for gigavoxels in wanted:
        run(gigavoxels, base)
