"""A small block job on real data, for the tests of work folders: equalise an image by its smoothed values.

Three stages: each block is smoothed, all histograms are added up, each block is written to a npy file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from segflow.blocks.ledger import Stage, WorkFolder, fingerprint, whole, work_dir_of
from segflow.blocks.runner import drive, run_stages
from segflow.cli.operator import job, option, triple
from segflow.errors import ChunkError
from segflow.geometry import Box, Grid

SIZE = (20, 64, 64)


def smoothed(image: np.ndarray, width: int) -> np.ndarray:
    """Average over ``width`` voxels along x, in integers; the border repeats."""
    padded = np.pad(image.astype(np.uint32), ((0, 0), (0, 0), (width, width)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1, axis=2)
    return (windows.sum(axis=-1) // (2 * width + 1)).astype(np.uint8)


def equalised(values: np.ndarray, histogram: np.ndarray) -> np.ndarray:
    table = (np.cumsum(histogram) * 255 // histogram.sum()).astype(np.uint8)
    return table[values]


def expected(image: np.ndarray, width: int = 1) -> np.ndarray:
    values = smoothed(image, width)
    return equalised(values, np.bincount(values.ravel(), minlength=256))


class Job:
    """The job as functions of a block; ``calls`` counts what was computed in this process."""

    def __init__(self, image_path: Path, output: Path, *, size=SIZE, width=1, slow=0.0, fail=()) -> None:
        import tifffile

        self.image = tifffile.imread(image_path)
        self.image_path, self.output = Path(image_path), Path(output)
        self.bounds = Box((0, 0, 0), self.image.shape)
        self.grid = Grid.over(self.bounds, size)
        self.width, self.slow, self.fail = width, slow, set(fail)
        self.folder = WorkFolder(work_dir_of(str(output)))
        self.calls: list[tuple[str, int]] = []
        self.options = {
            "image": str(image_path), "output": str(output), "size": size, "width": width, "slow": slow,
        }  # fmt: skip

    @property
    def stages(self) -> list[Stage]:
        n, known = len(self.grid), fingerprint(str(self.image_path))
        return [
            Stage("smooth", n, self.smooth, key={"width": self.width, "image": known}, boxes=self.grid),
            Stage("histogram", 1, self.histogram, after=("smooth",)),
            Stage(
                "write", n, self.write, after=("histogram",), key={"to": str(self.output)}, boxes=self.grid
            ),
        ]

    def begin(self, **options: Any) -> Job:
        if not self.output.exists():
            with whole(self.output) as beside, beside.open("wb") as file:
                np.save(file, np.zeros(self.bounds.shape, np.uint8))
        self.folder.begin(
            "equalise", self.options, self.stages, grid=self.grid, bounds=self.bounds, **options
        )
        return self

    def run(self, **options: Any):
        return run_stages(self.folder, self.stages, **options)

    def _started(self, stage: str, block: int) -> None:
        self.calls.append((stage, block))
        time.sleep(self.slow)
        if block in self.fail:
            raise ChunkError(f"the voxels of {stage} block {block} are bad")
        if os.environ.get("TEST_DIE_AT") == f"{stage}:{block}":
            os.kill(os.getpid(), 9)

    def smooth(self, block: int) -> dict[str, np.ndarray]:
        self._started("smooth", block)
        box = self.grid[block].intersect(self.bounds)
        wide = box.grow((0, 0, self.width)).intersect(self.bounds)
        values = smoothed(self.image[wide.slices()], self.width)[box.slices(wide.start)]
        return {"values": values, "counts": np.bincount(values.ravel(), minlength=256)}

    def histogram(self, block: int) -> None:
        self._started("histogram", block)
        total = sum(self.folder.load("smooth", b)["counts"] for b in range(len(self.grid)))
        with whole(self.folder.file("histogram", "total.npy")) as beside:
            np.save(beside, total)

    def write(self, block: int) -> None:
        self._started("write", block)
        total = np.load(self.folder.file("histogram", "total.npy"))
        box = self.grid[block].intersect(self.bounds)
        array = np.lib.format.open_memmap(self.output, mode="r+")
        array[box.slices()] = equalised(self.folder.load("smooth", block)["values"], total)
        array.flush()


@job(example="segflow equalise --image a.tif --out b.npy")
@option("--image", default=None, help="Image, tif.")
@option("--out", default=None, help="Output, npy.")
@triple("--block-size", default=SIZE, help="Blocks, voxels.")
@option("--width", type=int, default=1, help="Voxels.")
@option("--slow", type=float, default=0.0, help="Seconds a block.")
@option("--processes", type=int, default=1, help="Processes.")
@option("--work-dir", default=None, help="Folder.")
@option("--join", is_flag=True, help="Join a job that was begun.")
@option("--stale", type=click.Choice(["fail", "redo", "keep"]), default="fail", help="What to do then.")
def equalise(
    *, image: str, out: str, block_size: Any, width: int, slow: float, processes: int, work_dir: str, join: bool,
    stale: str,
) -> None:  # fmt: skip
    """Equalise an image block by block."""
    if join:
        told = WorkFolder(work_dir).plan()["options"]
        made = Job(told.pop("image"), told.pop("output"), **{**told, "size": tuple(told["size"])})
        click.echo(f"computed {made.run().total} blocks")
        return
    made = Job(Path(image), Path(out), size=tuple(block_size), width=width, slow=slow).begin(stale=stale)
    words = ["equalise", "--work-dir", str(made.folder.path), "--join"]
    click.echo(f"computed {drive(made.folder, made.stages, words, processes).total} blocks")
