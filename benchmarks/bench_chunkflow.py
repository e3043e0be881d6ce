"""Whole command lines against chunkflow's, start-up and all, where CHUNKFLOW names its program.

chunkflow 1.2.0 wants an environment of its own: pip install "numpy<2" "zarr<3"
"opencv-python-headless<4.12" "setuptools<81" torch chunkflow==1.2.0
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from table import in_turn, row

CHUNK = ["create-chunk", "--size", "128", "512", "512", "--pattern", "sin"]
PATCHES = ["--input-patch-size", "20", "256", "256", "--output-patch-overlap", "4", "64", "64"]
IDENTITY = ["inference", "--framework", "identity", "--num-output-channels", "1", "--mask-output-chunk"]

LINES = {
    "--help": ["--help"],
    "create-chunk 128x512x512": CHUNK,
    "the same, and identity inference": [*CHUNK, *IDENTITY, *PATCHES],
    "the same, and save-h5 of the chunk": [*CHUNK, "save-h5", "--file-name", "{}/chunk.h5"],
}


def run(*words: str) -> None:
    """Run a program and throw its output away."""
    with tempfile.TemporaryDirectory() as place:
        line = [w.format(place) for w in words]
        done = subprocess.run(line, capture_output=True, text=True, cwd=place)
        if done.returncode:
            raise SystemExit(f"{' '.join(line)}\n{done.stderr}")


def peak(*words: str) -> float:
    """Give the peak memory of a program in MB."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    with tempfile.TemporaryDirectory() as place:
        line = [sys.executable, "-c", code, *(w.format(place) for w in words)]
        return int(subprocess.run(line, capture_output=True, text=True, cwd=place).stdout) / 1024


if __name__ == "__main__":
    program = os.environ.get("CHUNKFLOW")
    if not program:
        print("set CHUNKFLOW to chunkflow's program to measure it beside")
        sys.exit(0)
    segflow = [sys.executable, "-m", "segflow"]
    for what, words in LINES.items():
        ours, theirs = in_turn(lambda w=words: run(*segflow, *w), lambda w=words: run(program, *w), 5)
        memory = f"peak {peak(*segflow, *words):.0f} MB against {peak(program, *words):.0f} MB"
        row(what, ours, "chunkflow", theirs, memory)
