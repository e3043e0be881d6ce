"""Prefetch: tasks read from and written to slow storage, with and without overlap.

The storage is the local disk behind a delay for each file (``SECONDS``), as a far bucket has; the
computation is numpy on real EM data. ``model`` is what segflow estimate expects of the overlap:
max(longest part, sum / (1 + N)).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).parents[1] / "tests" / "data" / "ac4_image.tif"
TASKS, SECONDS = 12, 0.15
SLOW = """
import time
from segflow.volumes import open_volume

def execute(chunk=None, bbox=None, volume="", seconds=0.15, write=False):
    time.sleep(seconds)
    if write:
        open_volume(volume).write(chunk)
        return None
    return open_volume(volume).read(bbox)
"""
WORK = """
import time
import numpy as np

def execute(chunk, seconds=0.4):
    ends = time.perf_counter() + seconds
    array = chunk.array.astype(np.float32)
    while time.perf_counter() < ends:
        array = np.sqrt(array * array + 1)
    return chunk
"""
# The same chain in one process: parts that say what they use, which plugins do not.
RUN = """
import importlib.util, json, sys, time
from segflow.cli.engine import Chain, Step
from segflow.cli.operator import Operator
from segflow.geometry import Box
from segflow.state import Run

folder, prefetch, read_s, work_s, write_s, count = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])

def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{folder}/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute

slow, work = load("slow"), load("work")

def boxes(state):
    for i in range(int(count)):
        y, x = divmod(i, 4)
        yield state.child(bbox=Box.of((0, 128 * y, 128 * x), (20, 128, 128)), index=i)

def read(state):
    state["chunk"] = slow(bbox=state.bbox, volume=f"{folder}/em", seconds=read_s)

def compute(state):
    state["chunk"] = work(state["chunk"], work_s)

def write(state):
    slow(state["chunk"], volume=f"{folder}/out", seconds=write_s, write=True)

takes = frozenset({"state"})
steps = [
    Step(1, "boxes", Operator(boxes, "Tasks", "expand", "io", source=True, takes=takes), {}, []),
    Step(2, "read", Operator(read, "Reading", "map", "io", takes=takes), {}, []),
    Step(3, "work", Operator(compute, "Image", "map", "cpu", takes=takes), {}, []),
    Step(4, "write", Operator(write, "Writing", "map", "io", takes=takes), {}, []),
]
chain = Chain(steps, Run(), prefetch=prefetch)
began, spent = time.perf_counter(), [0.0] * 5
for state in chain.states():
    for record in state.log:
        spent[record.step] += record.seconds
    del state  # it would count as a task in memory
print(json.dumps({"seconds": time.perf_counter() - began, "parts": [spent[2], spent[3], spent[4]]}))
"""


def main() -> None:
    """Print seconds a task without and with prefetch, for three shares of reading, work and writing."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        print(f"{TASKS} tasks of 20x128x128, seconds a task; read | work | write")
        for parts in ((0.15, 0.4, 0.15), (0.2, 0.2, 0.2), (0.3, 0.1, 0.3)):
            base = 0.0
            for prefetch in (0, 1, 2):
                told = run(folder, prefetch, parts)
                each = told["seconds"] / TASKS
                base = base or each
                spent = [seconds / TASKS for seconds in told["parts"]]
                model = max(*spent, sum(spent) / (1 + prefetch)) if prefetch else sum(spent)
                print(
                    f"  {' | '.join(f'{p:.2f}' for p in parts)}   --prefetch {prefetch}   {each:6.3f} s   "
                    f"model {model:6.3f} s   speed-up {base / each:5.2f}",
                    flush=True,
                )


def prepare(folder: Path) -> None:
    """Write the image as a volume, an empty volume like it, and the steps."""
    line = [sys.executable, "-m", "segflow"]
    for name in ("em", "out"):
        read = ["read-tif", "-f", str(DATA), "--voxel-size", "30", "6", "6", "--layer-type", "image"]
        words = [*read, "write-precomputed", "-v", str(folder / name), "--block-size", "20", "128", "128"]
        subprocess.run([*line, *words], check=True, capture_output=True)
    for name, text in {"slow": SLOW, "work": WORK, "run": RUN}.items():
        (folder / f"{name}.py").write_text(text)


def run(folder: str, prefetch: int, parts: tuple[float, ...]) -> dict[str, object]:
    """Run the chain once; give its seconds and those of its parts."""
    words = [sys.executable, f"{folder}/run.py", folder, str(prefetch), *map(str, parts), str(TASKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"({time.perf_counter() - began:.0f} s)")
