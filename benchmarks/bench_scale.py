"""segment-volume at 0.125, 0.5 and 2 gigavoxels: seconds and memory a gigavoxel.

    python benchmarks/bench_scale.py [GIGAVOXELS ...] [edges]

The affinities are real: the shipped network's on the bundled image, 20 x 512 x 512, reflected to a unit
of 40 x 1024 x 1024 voxels that repeats. The volume's chunk files are links to the unit's, so that 2
gigavoxels (6 GB) lie on the disk once; segment-volume reads them as any other volume. ``edges`` merges
the region graph of so many of these units, one behind the other, that it has 10^8 edges.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.exact import segment
from segflow.blocks.ledger import WorkFolder
from segflow.chunk import Chunk
from segflow.compiled import keep_memory
from segflow.geometry import Box, Grid
from segflow.operators.inference import inference
from segflow.segmentation.merging import merge
from segflow.segmentation.regions import contacts
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


def _cpu() -> float:
    """Give the seconds of a core that ended child processes, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        began, peak, used = time.perf_counter(), 0, _cpu()
        job = subprocess.Popen(line)
        while job.poll() is None:
            try:
                peak = max(peak, _memory(job.pid))
            except (OSError, ProcessLookupError):
                continue
            time.sleep(0.2)
        seconds, used = time.perf_counter() - began, _cpu() - used
        if job.returncode:
            raise SystemExit(job.returncode)
        work = sum(f.stat().st_size for f in (folder / "seg.work").rglob("*") if f.is_file())
        levels = _levels(folder / "seg.work")
    fragments = levels[0][1]
    giga = voxels / 1e9
    print(
        f"segment-volume {giga:.3f} gigavoxels: {seconds:.0f} s, {seconds / giga:.0f} s and "
        f"{used / giga:.0f} s of a core a gigavoxel, peak {peak / 2**30:.2f} GiB, "
        f"work folder {work / voxels:.2f} bytes a voxel, {voxels / fragments:.0f} voxels a fragment",
        flush=True,
    )
    for level, (parts, nodes, merges, edges, largest) in enumerate(levels):
        print(
            f"    level {level}: {parts} parts, {nodes} nodes, {merges} merges, {edges} edges left, "
            f"{largest} in the largest part",
            flush=True,
        )


def _levels(work: Path) -> list[tuple[int, int, int, int, int]]:
    """Count for each level parts, nodes, merges, edges that are left, and the most of one part."""
    folder = WorkFolder(work)
    found = []
    for stage in (n for n in folder.plan()["stages"] if n.startswith("merge-")):
        parts = [folder.load(stage, b, "ids", "merges", "ends") for b in sorted(folder.done(stage))]
        nodes, merges, edges = ([len(p[name]) for p in parts] for name in ("ids", "merges", "ends"))
        found.append((len(parts), sum(nodes), sum(merges), sum(edges), max(edges)))
    return found


def merge_edges(unit: NDArray[np.uint8], edges: int = 10**8) -> None:
    """Merge a region graph of so many edges at once; print seconds and bytes an edge."""
    affs = np.ascontiguousarray(unit[::-1])
    fragments = segment(affs, 0, 255, None)
    ids, places = np.unique(fragments, return_inverse=True)
    labels = (places + int(ids[0] != 0)).reshape(fragments.shape).astype(np.int32)
    nodes = int(labels.max())
    inner = contacts(labels, affs)
    joint = contacts(np.stack([labels[-1], labels[0] + nodes]), affs[:, :1], (1, 0, 0))
    one = tuple(np.concatenate([a, b]) for a, b in zip(inner, _only_between(joint, nodes)))
    copies = -(-edges // len(one[0]))
    u, v = (np.concatenate([ends - 1 + i * nodes for i in range(copies)]) for ends in one[:2])
    sums, counts = (np.tile(values, copies) for values in one[2:])
    order = np.lexsort((v, u))
    u, v, sums, counts = (column[order] for column in (u, v, sums, counts))
    del order, fragments, places
    merge(2, *(column[:1] for column in (u * 0, v * 0 + 1, sums, counts)), Fraction(1, 2))
    with watched() as most:
        began = time.perf_counter()
        found = merge((copies + 1) * nodes, u, v, sums, counts, Fraction(7, 10))
        seconds = time.perf_counter() - began
    print(
        f"merge {len(u)} edges of {copies} x {nodes} fragments at 0.7: {seconds:.0f} s, "
        f"{seconds / len(u) * 1e6:.2f} us and {most[0] / len(u):.0f} bytes an edge beside the graph's 24, "
        f"{len(found.merges)} merges",
        flush=True,
    )


def _only_between(edges: tuple[NDArray[Any], ...], nodes: int) -> tuple[NDArray[Any], ...]:
    between = (edges[0] <= nodes) & (edges[1] > nodes)
    return tuple(column[between] for column in edges)


@contextmanager
def watched() -> Iterator[list[int]]:
    """Give the most bytes that this process holds more than before, while the block runs."""
    page, most, done = os.sysconf("SC_PAGESIZE"), [0], threading.Event()

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    library = keep_memory()
    if library is not None:
        library.malloc_trim(0)  # what was freed before does not count
    before = held()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    wanted = sys.argv[1:] or [*map(str, SIZES), "edges"]
    base = reflected(affinities())
    for word in wanted:
        if word == "edges":
            merge_edges(base)
        else:
            run(float(word), base)
