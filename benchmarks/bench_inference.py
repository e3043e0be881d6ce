"""inference against the bare forward of the same patches, precisions, and identity blending."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from table import in_turn, row

from segflow.chunk import Chunk
from segflow.inference import Identity, Patch, PyTorch, infer, layout, load_backend
from segflow.inference.models import shipped

DATA = Path(__file__).parent.parent / "tests" / "data"
SIZE = (128, 512, 512)
PATCH = Patch.of((20, 256, 256))
CHUNKFLOW = {1: 0.515, 3: 1.34}  # seconds of its identity inference, by channels; see table's title


def forward(backend: PyTorch, chunk: Chunk) -> Any:
    """Give a function that runs the network alone on every patch of a chunk."""
    boxes = [placed.input_box(index) for placed in [layout(chunk.bbox, PATCH)] for index in placed]
    patches = [
        torch.from_numpy(chunk.cutout(box).array.astype(np.float32)[None, None] / 255).to(
            backend.place, memory_format=torch.channels_last_3d
        )
        for box in boxes
    ]
    half = backend.dtype != "float32"

    def run() -> None:
        dtype = getattr(torch, backend.dtype) if half else None
        with torch.inference_mode(), torch.autocast(backend.place.type, dtype, enabled=half):
            for patch in patches:
                backend.net(patch)
        if backend.place.type == "cuda":
            torch.cuda.synchronize()

    return run


def network() -> None:
    """Time the shipped network on real sections, in both precisions."""
    model, weights = shipped("affinity-snemi3d")
    chunk = Chunk(tifffile.imread(DATA / "ac4_image.tif")[:, :448, :448])
    alone: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        backend = load_backend("pytorch", model, weights, patch=PATCH, dtype=dtype)
        assert isinstance(backend, PyTorch)
        ours, alone[backend.dtype] = in_turn(
            lambda b=backend: infer(chunk, b, patch=PATCH, mask_output_chunk=True),  # type: ignore[misc]
            forward(backend, chunk),
            runs=3,
        )
        speed = f"{chunk.array.size / ours / 1e6:.2f} output Mvoxel/s on {backend.device}"
        row(f"inference 20x448x448, {backend.dtype}", ours, "bare forwards", alone[backend.dtype], speed)
    row("forward, bfloat16", alone["bfloat16"], "float32", alone["float32"])


def identity(channels: int) -> None:
    """Time the blending of the identity, and its peak memory, in this process."""
    chunk = Chunk(np.random.default_rng(0).integers(1, 255, SIZE, dtype=np.uint8))
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        infer(chunk, Identity(channels), patch=PATCH, mask_output_chunk=True)
        best = min(best, time.perf_counter() - began)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024
    more = f"{chunk.array.size / best / 1e6:.0f} Mvoxel/s, peak {peak / chunk.array.size:.1f} bytes a voxel"
    row(
        f"identity 128x512x512, {channels} channel(s)",
        best,
        "chunkflow as published",
        CHUNKFLOW[channels],
        more,
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        identity(int(sys.argv[1]))
    else:
        for count in CHUNKFLOW:
            subprocess.run([sys.executable, __file__, str(count)], check=True)
        network()
