"""Workers on a queue of small tasks while they are killed: tasks a second, what a task costs beside its work.

    python benchmarks/bench_fleet.py --workers 8 --tasks 500 --kills 100

Real EM is read, its bright parts numbered and written, task by task. The output must be byte for byte
that of one process that nobody disturbed, or the benchmark fails. SQS is moto's server on this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from segflow.chunk import Chunk
from segflow.geometry import Box, blocks
from segflow.tasks.queues import Queue, message, open_queue
from segflow.volumes import info as metadata
from segflow.volumes import open_volume
from segflow.volumes.verify import verify

DATA = Path(__file__).parent.parent / "tests" / "data"
TASK = (10, 64, 64)
LEASE = 10  # seconds: after that a killed worker's task is free again
COUNT = "import os\ndef execute(bbox, path):\n    with open(path, 'a') as f:\n        f.write(f'{bbox}\\n')\n"


@dataclass
class Job:
    """One run: its queue, its workers' line, where it writes."""

    queue: Queue
    line: list[str]
    out: Path
    done: Path


def boxes(count: int) -> list[Box]:
    """Give the boxes of ``count`` tasks, over as many sections as they need."""
    depth = TASK[0] * -(-count // 64)
    return list(blocks(Box((0, 0, 0), (depth, 512, 512)), TASK))[:count]


def make(folder: Path, name: str, tasks: list[Box], address: str) -> Job:
    """Make the queue and the output of a run."""
    out = folder / name
    shape = (max(b.stop[0] for b in tasks), 512, 512)
    open_volume(str(out)).create(
        metadata.make(
            Box((0, 0, 0), shape), "uint32", layer_type="segmentation", voxel_size=(30, 6, 6),
            block_size=(20, 128, 128), encoding="compressed_segmentation",
        )
    )  # fmt: skip
    queue = open_queue(address, create=True)
    queue.send(message(box, 0) for box in tasks)
    (folder / "count.py").write_text(COUNT)
    done = folder / f"{name}.done"
    told = json.dumps({"path": str(done)})
    line = [
        "--log-level", "error", "fetch-task", "-q", address, "-v", str(LEASE), "-r", "3", "read-precomputed",
        "-v", str(folder / "em"), "connected-components", "-t", "128", "write-precomputed", "-v", str(out),
        "plugin", "-f", str(folder / "count.py"), "-a", told, "delete-task-in-queue",
    ]  # fmt: skip
    return Job(queue, line, out, done)


def start(job: Job) -> subprocess.Popen[bytes]:
    """Start a worker."""
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "SEGFLOW_POLL_MAX": "0.5"}
    return subprocess.Popen([sys.executable, "-m", "segflow", *job.line], env={**os.environ, **one})


def run(job: Job, workers: int, kills: int, limit: float) -> tuple[float, int]:
    """Keep workers running until the queue is empty, killing some at random; give seconds and kills."""
    chance, killed, began = random.Random(0), 0, time.perf_counter()
    total, running = sum(job.queue.counts()), [start(job) for _ in range(workers)]
    born = [time.perf_counter()] * workers
    while any((counts := job.queue.counts())[:2]):
        if time.perf_counter() - began > limit:
            raise SystemExit(f"not done after {limit:.0f} s: {counts}")
        time.sleep(0.1)
        done = 1 - (counts.waiting + counts.running) / total
        victim = chance.randrange(workers)
        if killed < kills * min(1.0, done + 0.02) and time.perf_counter() - born[victim] > 1:
            killed += running[victim].poll() is None
            running[victim].kill()
        for i, process in enumerate(running):
            if process.poll() is not None:
                running[i], born[i] = start(job), time.perf_counter()
    seconds = time.perf_counter() - began
    for process in running:
        process.terminate()
    for process in running:
        process.wait()
    return seconds, killed


def work_of(source: Any, job: Job, tasks: list[Box]) -> float:
    """Give the median seconds of a task's work, in this process and without a queue."""
    from segflow.segmentation.components import connected_components

    out, seconds = open_volume(str(job.out)), []
    for box in tasks[:50]:
        began = time.perf_counter()
        chunk = source.read(box)
        out.write(connected_components(chunk, 128))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def hashes(place: Path) -> dict[str, str]:
    """Give the content of a volume; not what killed writers left beside it, nor how it was made."""
    found = {}
    for path in place.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and "lock" not in path.name:
            found[str(path.relative_to(place))] = hashlib.sha1(path.read_bytes()).hexdigest()
    return {name: value for name, value in found.items() if "provenance" not in name}


def compare(job: Job, calm: Job, name: str, timed: tuple[float, int], alone: float, workers: int) -> None:
    """Print the line of a run; end if its output differs or a task was lost."""
    seconds, killed = timed
    wanted, runs = calm.done.read_text().split(), job.done.read_text().split()
    equal = hashes(job.out) == hashes(calm.out)
    count, each = len(wanted), seconds / len(wanted) * workers
    print(
        f"{name:28s} {count:5d} tasks {workers:2d} workers {killed:4d} killed {seconds:8.1f} s "
        f"{count / seconds:7.2f} tasks/s {1e3 * each:7.0f} ms a task and worker (work {1e3 * alone:.0f})  "
        f"{len(runs) - len(set(runs)):3d} done twice  dead {job.queue.counts().dead}  bytes equal: {equal}",
        flush=True,
    )
    if not equal or set(runs) != set(wanted) or job.queue.counts().dead:
        raise SystemExit("the output differs from that of an undisturbed run")


@contextmanager
def sqs() -> Iterator[None]:
    """Run moto's server in a process of its own, and point the AWS variables at it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    os.environ.update(
        AWS_ENDPOINT_URL=address, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s",
        AWS_DEFAULT_REGION="us-east-1", AWS_SESSION_TOKEN="",
    )  # fmt: skip
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--limit", type=float, default=3600, help="seconds of a run")
    parser.add_argument("--queues", default="fq,sqs")
    told = parser.parse_args()
    tasks = boxes(told.tasks)
    image = tifffile.imread(DATA / "ac4_image.tif")
    depth = max(b.stop[0] for b in tasks)
    image = np.tile(image, (-(-depth // len(image)), 1, 1))[:depth]
    with tempfile.TemporaryDirectory() as made, sqs():
        folder = Path(made)
        source = open_volume(str(folder / "em"))
        source.create(metadata.make(Chunk(image).bbox, "uint8", voxel_size=(30, 6, 6)))
        source.write(Chunk(image))
        calm = make(folder, "calm", tasks, f"fq://{folder}/calm-tasks")
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "segflow", *calm.line], check=True)
        seconds = time.perf_counter() - began
        alone = work_of(source, calm, tasks)
        compare(calm, calm, "folder, undisturbed", (seconds, 0), alone, 1)
        for kind in told.queues.split(","):
            for kills in (0, told.kills):
                name = f"{kind}{kills}"
                address = f"fq://{folder}/{name}-tasks" if kind == "fq" else f"{kind}-{kills}"
                job = make(folder, name, tasks, address)
                timed = run(job, told.workers, kills, told.limit)
                what = "folder" if kind == "fq" else "SQS (moto)"
                compare(job, calm, f"{what}{', killed' if kills else ''}", timed, alone, told.workers)
        found = verify(open_volume(str(calm.out)), fill_missing=True)
        print(f"verify: {found.voxels / found.seconds / 1e6:.0f} Mvoxel/s, faults {found.counts}")


if __name__ == "__main__":
    main()
