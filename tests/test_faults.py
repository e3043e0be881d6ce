"""Workers under faults: killed, frozen servers, tasks handed out twice, full disks. The output is the same.

moto keeps queues in memory only, so a restart of it loses every task, which SQS never does. What a
restart is to a worker, a server that does not answer, or refuses, for some seconds, is tested by
freezing it and by shutting the way to it.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import tifffile

from segflow.geometry import Box, blocks
from segflow.tasks.queues import Counts, message, open_queue
from segflow.volumes import open_volume
from segflow.volumes.verify import verify

TASK = (4, 64, 64)
LEASE = 4  # seconds; a killed worker's task is free again after that


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.2")


@pytest.fixture
def job(tmp_path, data, segflow):
    """Give a function that makes input, output and queue of ``count`` tasks; it gives queue and line."""
    image = tifffile.imread(data / "ac4_image.tif")[:16, :192, :256]
    tifffile.imwrite(tmp_path / "em.tif", image)
    voxel = ["--voxel-size", 30, 6, 6]
    source = f"file://{tmp_path}/em"
    segflow("read-tif", "-f", tmp_path / "em.tif", "write-precomputed", "-v", source, *voxel)

    def make(name, count, address, out=None, task=TASK):
        out = out or f"file://{tmp_path}/{name}"
        queue = open_queue(address, create=True)
        boxes = list(blocks(Box((0, 0, 0), image.shape), task))[:count]
        queue.send(message(box, 0) for box in boxes)
        segflow(
            "create-info", "-v", out, "--volume-size", *image.shape, "--block-size", 8, 64, 64, "--data-type",
            "uint32", "--layer-type", "segmentation", *voxel,
        )  # fmt: skip
        line = [
            "--log-level", "warning", "fetch-task", "-q", address, "-v", LEASE, "-r", 40, "read-precomputed", "-v", source,
            "connected-components", "-t", 128, "write-precomputed", "-v", out, "delete-task-in-queue",
        ]  # fmt: skip
        return queue, [str(word) for word in line]

    return make


@pytest.fixture
def start(tmp_path):
    """Give a function that starts a worker; all are ended with the test."""
    started = []

    def worker(line):
        with open(tmp_path / f"worker{len(started)}.log", "wb") as log:
            started.append(subprocess.Popen([sys.executable, "-m", "segflow", *line], stdout=log, stderr=log))
        return started[-1]

    yield worker
    for process in started:
        process.kill()
        process.wait()


def once(line, *more):
    """Give the line of a worker that ends when its queue is empty."""
    at = line.index("-r")
    return [*line[: at + 1], "0", *more, *line[at + 2 :]]


def bytes_of(place):
    """Give the hashes of a volume's files, without what killed writers left beside them."""
    return {
        str(p.relative_to(place)): hashlib.sha1(p.read_bytes()).hexdigest()
        for p in place.rglob("*")
        if p.is_file() and not p.name.startswith(".") and "lock" not in p.name and "provenance" not in str(p)
    }


def work(start, line, queue, count, kills, during=None, seconds=120):
    """Keep ``count`` workers running until the queue is empty, and kill -9 some of them; give how many."""
    chance, killed, ends = random.Random(1), 0, time.monotonic() + seconds
    workers = [start(line) for _ in range(count)]
    while any(queue.counts()[:2]):
        assert time.monotonic() < ends, f"{queue.counts()} after {seconds} s"
        time.sleep(0.2)
        if during is not None:
            during = during()
        if killed < kills and chance.random() < 0.3:
            victim = chance.randrange(count)
            killed += workers[victim].poll() is None
            workers[victim].kill()
        workers = [w if w.poll() is None else start(line) for w in workers]
    for process in workers:
        process.send_signal(signal.SIGTERM)
    codes = {process.wait(timeout=20) for process in workers}
    assert codes <= {0, -signal.SIGTERM, -signal.SIGKILL}  # one may have just begun, or just been killed
    return killed


def test_killed_workers_on_a_folder_of_tasks(job, start, tmp_path, segflow):
    queue, line = job("calm", 40, f"fq://{tmp_path}/calm-tasks")
    segflow(*once(line))
    assert queue.counts() == Counts(0, 0, 0)
    queue, line = job("wild", 40, f"fq://{tmp_path}/wild-tasks")
    began = time.time()
    boxes = [Box.parse(str(b)) for b in blocks(Box((0, 0, 0), (16, 192, 256)), TASK)]
    queue.send(message(box, 0) for box in boxes[:5])  # five tasks are there twice
    killed = work(start, line, queue, 3, kills=5)
    assert killed >= 1
    assert queue.counts() == Counts(0, 0, 0)
    assert bytes_of(tmp_path / "wild") == bytes_of(tmp_path / "calm")
    assert time.time() - began < 100
    found = verify(open_volume(f"file://{tmp_path}/wild"))
    wanted = {"missing", "incomplete"} if len(boxes) > 40 else set()
    assert set(found.counts) <= wanted


def test_a_frozen_server_and_killed_workers_on_sqs(job, start, tmp_path, bucket, server, segflow):
    queue, line = job("calm", 20, f"fq://{tmp_path}/calm-tasks")
    segflow(*once(line))
    queue, line = job("wild", 20, f"q{uuid4().hex[:8]}")
    pid = pid_of(server)
    frozen = []

    def freeze():
        """Stop the server's process for 3 seconds, once a part of the tasks is done."""
        if queue.counts().waiting > 15:
            return freeze
        os.kill(pid, signal.SIGSTOP)
        frozen.append(time.monotonic())
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        return None

    try:
        work(start, line, queue, 2, kills=2, during=freeze)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert frozen
    assert queue.dead() == []
    assert bytes_of(tmp_path / "wild") == bytes_of(tmp_path / "calm")


def pid_of(server):
    """Give the process that listens at the server's port."""
    port = f":{int(server.rsplit(':', 1)[1]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    node = next(r[9] for r in rows if r[1].endswith(port) and r[3] == "0A")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if f"socket:[{node}]" in links:
            return int(pid)
    raise AssertionError("nothing listens there")


def test_a_full_disk_loses_no_task(job, disk, tmp_path, segflow):
    """Tasks fail with one clear line and stay; when there is room again they are done."""
    small = disk("700k")
    address = f"fq://{tmp_path}/tasks"
    queue, line = job("out", 24, address, out=f"file://{small}/out")
    (small / "filler").write_bytes(bytes(600_000))
    said = segflow(*once(line, "--tries", "1"), code=1)
    assert "no space left" in said.err
    assert "Traceback" not in said.err
    counts = queue.counts()
    assert sum(counts) >= 3
    (small / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
    queue.retry_dead()
    segflow(*once(line))
    assert queue.counts() == Counts(0, 0, 0)
    calm, line = job("calm", 24, f"fq://{tmp_path}/calm-tasks")
    segflow(*once(line))
    assert bytes_of(small / "out") == bytes_of(tmp_path / "calm")


def test_an_expired_lease_done_twice_leaves_the_same_bytes(job, start, tmp_path, segflow):
    """A worker that slept beyond its lease writes again what another did; neither harms."""
    queue, line = job("wild", 6, f"fq://{tmp_path}/tasks")
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import time, pathlib\ndef execute():\n    pathlib.Path({str(tmp_path / 'began')!r}).touch()\n"
        "    time.sleep(2)\n"
    )
    at = line.index("connected-components")
    sleeper = start([*line[:at], "plugin", "-f", str(slow), *line[at:]])
    ends = time.monotonic() + 30
    while not (tmp_path / "began").exists():
        assert time.monotonic() < ends
        time.sleep(0.05)
    sleeper.send_signal(signal.SIGSTOP)  # no heartbeat now
    time.sleep(LEASE + 1.5)
    segflow(*once(line))
    assert queue.counts() == Counts(0, 0, 0)
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(timeout=40) == 0
    assert queue.counts() == Counts(0, 0, 0)
    _, line = job("calm", 6, f"fq://{tmp_path}/calm-tasks")
    segflow(*once(line))
    assert bytes_of(tmp_path / "wild") == bytes_of(tmp_path / "calm")
    assert "ran out" in (tmp_path / "worker0.log").read_text()


def test_slow_storage_keeps_its_task(tmp_path, bucket, server, segflow, data):
    """Storage that takes longer than a lease: the heartbeat keeps the task, which is done once."""
    image = np.ascontiguousarray(tifffile.imread(data / "ac4_image.tif")[:4, :64, :64])
    np.save(tmp_path / "em.npy", image)
    segflow(
        "read-npy",
        "-f",
        tmp_path / "em.npy",
        "write-precomputed",
        "-v",
        f"{bucket}/em",
        "--block-size",
        *TASK,
    )
    queue = open_queue(f"fq://{tmp_path}/tasks", create=True)
    queue.send([message(Box((0, 0, 0), TASK), 0)])
    pid = pid_of(server)
    (tmp_path / "wait.py").write_text(
        "import time, pathlib\n"
        f"def execute(folder=pathlib.Path({str(tmp_path)!r})):\n"
        "    (folder / 'began').touch()\n    while not (folder / 'go').exists():\n        time.sleep(0.02)\n"
    )
    line = [sys.executable, "-m", "segflow", "--prefetch", "0", "fetch-task", "-q", queue.address, "-v", "1", "-r", "0",
            "plugin", "-f", str(tmp_path / "wait.py"), "read-precomputed", "-v", f"{bucket}/em",
            "write-h5", "-f", f"{tmp_path}/out/", "delete-task-in-queue"]  # fmt: skip
    worker = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    ends = time.monotonic() + 30
    while not (tmp_path / "began").exists():  # its checks before the run are over
        assert time.monotonic() < ends
        time.sleep(0.05)
    os.kill(pid, signal.SIGSTOP)
    try:
        (tmp_path / "go").touch()
        time.sleep(3)
        assert queue.counts() == Counts(0, 1, 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    said = worker.communicate(timeout=60)[1]
    assert (worker.returncode, "ran out" in said) == (0, False), said
    assert queue.counts() == Counts(0, 0, 0)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0-4_0-64_0-64.h5"]


class Door:
    """The way to a server; while it is shut, nobody gets through, as while the server restarts."""

    def __init__(self, server):
        self.there = ("127.0.0.1", int(server.rpartition(":")[2]))
        self.here = ("127.0.0.1", 0)
        self.open()

    def open(self):
        self.door = socket.create_server(self.here)
        self.here, self.passing = self.door.getsockname(), []
        threading.Thread(target=self._let_in, args=(self.door,), daemon=True).start()

    def shut(self):
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()
        for end in self.passing:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _let_in(self, door):
        with suppress(OSError):
            while True:
                ends = door.accept()[0], socket.create_connection(self.there)
                self.passing += ends
                for a, b in (ends, ends[::-1]):
                    threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    def _carry(self, a, b):
        with suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        for end in (a, b):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_servers_that_restart_fail_no_task(job, tmp_path, bucket, server, start, monkeypatch):
    """Storage and queue refuse for seconds: tasks are not counted as failed, and all are done at last."""
    door = Door(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{door.here[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    queue, line = job("out", 24, "sqs://tasks", f"{bucket}/out", (8, 64, 64))
    (tmp_path / "slow.py").write_text("import time\n\ndef execute():\n    time.sleep(0.2)\n")
    at = line.index("connected-components")
    line[line.index("40")] = "20"
    line[line.index(str(LEASE))] = "600"  # what nobody tells the queue comes too late
    worker = start([*line[:at], "plugin", "-f", str(tmp_path / "slow.py"), *line[at:]])
    ends = time.monotonic() + 30
    while queue.counts().waiting > 18:
        assert time.monotonic() < ends
        time.sleep(0.05)
    door.shut()
    time.sleep(3)
    door.open()
    code, said = worker.wait(60), (tmp_path / "worker0.log").read_text()
    assert (code, queue.counts()) == (0, Counts(0, 0, 0)), said
    assert "asking again" in said
    assert not verify(open_volume(f"{bucket}/out")).counts
