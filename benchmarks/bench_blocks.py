"""segment-volume killed again and again: what was done stays, and the answer is that of an undisturbed run.

The number of kills may be given as an argument; 50 take several minutes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from segflow.blocks.ledger import WorkFolder
from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.segmentation import agglomerate
from segflow.volumes import open_volume
from segflow.volumes.hdf5 import write_h5

DATA = Path(__file__).parent.parent / "tests" / "data"
BLOCK = ("10", "25", "40")  # 100 blocks


def affinities() -> Chunk:
    """Give x, y, z affinities of 50 x 100 x 200 voxels from a real boundary map."""
    with h5py.File(DATA / "gala.h5") as file:
        inside = 1 - file["volumes/boundary_probability"][:]
    result = np.zeros((3, *inside.shape), np.float32)
    for axis in range(3):
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        np.minimum(inside[here], inside[before], out=result[(2 - axis, *here)])
    return Chunk(result, (0, 0, 0), (10, 10, 10), "affinity_map", DEFAULT_OFFSETS)


def done(folder: WorkFolder) -> set[tuple[str, int]]:
    """List the blocks that have their result."""
    if not (folder.path / "plan.json").exists():
        return set()
    return {(stage, block) for stage in folder.plan()["stages"] for block in folder.done(stage)}


def killed(line: list[str], seconds: float) -> bool:
    """Run a line for some seconds, then kill its whole group; tell whether it had not ended by itself."""
    run = subprocess.Popen(
        line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, told = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        return True
    if run.returncode:
        raise SystemExit(told)
    return False


def kills(count: int = 50, seed: int = 1) -> None:
    """Kill runs of 100 blocks at random moments, ``count`` times in all, and print what came of it."""
    rng, began = random.Random(seed), time.perf_counter()
    chunk = affinities()
    wanted = agglomerate(chunk, 0.5).array
    survived = lost = wrong = runs = 0
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        write_h5(str(here / "affs.h5"), chunk)
        while survived < count:
            out = here / f"seg{runs}"
            line = [
                sys.executable, "-m", "segflow", "segment-volume", "--affs", str(here / "affs.h5"),
                "--out", str(out), "--block-size", *BLOCK, "--threshold", "0.5", "--processes", "2",
            ]  # fmt: skip
            folder, before = WorkFolder(f"{out}.work"), set[tuple[str, int]]()
            while survived < count and killed(line, rng.uniform(1, 6)):
                survived += 1
                now = done(folder)
                lost += len(before - now)
                before = now
            while killed(line, 600):
                pass
            runs += 1
            wrong += not np.array_equal(open_volume(str(out)).read(fill_missing=False).array, wanted)
        stray = [p for p in here.rglob("*") if p.name.startswith(".") or p.name.endswith("lock")]
    print(
        f"segment-volume 50x100x200, 100 blocks: {survived} kills in {runs} runs survived, blocks lost = "
        f"{lost}, equal = {not wrong}, files left behind = {len(stray)}, {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    kills(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
