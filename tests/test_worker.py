"""worker, try and estimate: real processes on a folder queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.cli.aside import Sample
from segflow.cli.prefetch import Room, ahead
from segflow.errors import SegflowError
from segflow.geometry import Box
from segflow.tasks.queues import Counts, message, open_queue
from segflow.tasks.supervise import check_health
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume

STEP = """
import os, pathlib, signal, time

def execute(bbox, folder, seconds=0.0, die="", crash=0):
    folder = pathlib.Path(folder)
    (folder / f"began-{os.getpid()}").touch()
    time.sleep(float(seconds))
    once = folder / "died"
    if crash:
        print("the roof is on fire", file=__import__("sys").stderr, flush=True)
        os._exit(int(crash))
    if die and die in str(bbox) and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with open(folder / "log", "a") as log:
        log.write(f"{bbox} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ['OMP_NUM_THREADS']}\\n")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let workers end soon after their queue is empty."""
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.1")


@pytest.fixture
def tasks(tmp_path):
    """Give a function that puts ``count`` tasks into a new folder queue."""

    def fill(count):
        queue = open_queue(f"fq://{tmp_path}/tasks", create=True)
        queue.send(message(Box.of((4 * i, 0, 0), (4, 8, 8)), 0) for i in range(count))
        return queue

    return fill


@pytest.fixture
def chain(tmp_path):
    """Give the words of a worker's chain whose step notes its task, sleeps, dies or crashes."""
    (tmp_path / "step.py").write_text(STEP)

    def words(queue, lease=30, retries=1, **args):
        told = json.dumps({"folder": str(tmp_path), **args})
        fetch = ["fetch-task", "-q", queue.address, "-r", retries, "-v", lease]
        return ["--", *fetch, "plugin", "-f", tmp_path / "step.py", "-a", told, "delete-task-in-queue"]

    return words


@pytest.fixture
def start():
    """Give a function that starts a line as a process; all are ended with the test."""
    started = []

    def begin(*words):
        line = [sys.executable, "-m", "segflow", *map(str, words)]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def until(what, seconds=30.0):
    """Wait until something holds; give it."""
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.05)
    return found


def lines(tmp_path):
    place = tmp_path / "log"
    return place.read_text().splitlines() if place.exists() else []


def began(tmp_path):
    """Give the process ids of those that began a task."""
    return [int(p.name.split("-")[1]) for p in tmp_path.glob("began-*")]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- worker ----------------------------------------------------------------------------------------------


def test_processes_share_the_tasks_the_gpus_and_the_cores(process, tasks, chain, tmp_path):
    queue, health = tasks(8), tmp_path / "health.json"
    line = ["worker", "--processes", 2, "--gpus", "5,7", "--health", health, *chain(queue, seconds=0.3)]
    said = process(*line, NUMBA_NUM_THREADS="6")
    assert queue.counts() == Counts(0, 0, 0)
    noted = [line.split() for line in lines(tmp_path)]
    assert len({box for box, _, _ in noted}) == len(noted) == 8
    assert {(gpu, threads) for _, gpu, threads in noted} == {("5", "3"), ("7", "3")}
    told = json.loads(health.read_text())
    assert (told["state"], told["exit_code"], told["done"], told["waiting"]) == ("ended", 0, 8, 0)
    assert told["tasks_per_second"] > 0
    assert "8 done, 0 dead" in said.last
    assert sorted(p.name for p in tmp_path.iterdir() if "health" in p.name) == ["health.json"]
    process("worker", "--check", health)


def test_a_killed_process_is_restarted_and_its_task_is_done(process, tasks, chain, tmp_path):
    queue = tasks(5)
    said = process("worker", "--processes", 2, *chain(queue, lease=1, die="8-12_"))
    assert "was killed by SIGKILL, probably for want of memory; restart 1 of 10 in 1 s" in said.err
    assert queue.counts() == Counts(0, 0, 0)
    assert len({line.split()[0] for line in lines(tmp_path)}) == 5


def test_a_crash_loop_ends_with_the_last_words(process, tasks, chain, tmp_path):
    queue, health = tasks(3), tmp_path / "health.json"
    line = ["worker", "--max-restarts", 1, "--health", health, *chain(queue, crash=7)]
    said = process(*line, code=1)
    assert said.last.startswith(
        "segflow worker: process 1 crashed with exit code 7, after 1 restarts in a row, so all were ended; "
        "its last words: the roof is on fire"
    )
    assert json.loads(health.read_text())["state"] == "failed"
    with pytest.raises(SegflowError, match="the worker failed: process 1 crashed"):
        check_health(health, 60)


def test_failed_tasks_end_with_1_and_restart_nothing(process, tasks, tmp_path):
    queue = tasks(2)
    (tmp_path / "bad.py").write_text("def execute():\n    raise ValueError('no cheese')\n")
    fetch = ["fetch-task", "-q", queue.address, "-r", 0, "--tries", 1]
    said = process("worker", "--", *fetch, "plugin", "-f", tmp_path / "bad.py", code=1)
    assert said.err.count("no cheese") == 1
    assert "restart" not in said.err
    assert said.last.startswith("segflow worker: tasks failed; see the lines above, and segflow queue fq://")
    assert queue.counts().dead == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_tasks_back_and_ends_well(start, tasks, chain, tmp_path, number):
    queue = tasks(4)
    process = start("worker", "--processes", 2, *chain(queue, seconds=20))
    until(lambda: len(began(tmp_path)) == 2)
    process.send_signal(number)
    assert process.wait(20) == 0, process.stderr.read()
    assert queue.counts() == Counts(4, 0, 0)
    assert not any(alive(pid) for pid in began(tmp_path))


def test_processes_end_with_their_driver(start, tasks, chain, tmp_path):
    queue = tasks(2)
    process = start("worker", *chain(queue, seconds=20))
    (child,) = until(lambda: began(tmp_path))
    process.kill()
    process.wait(10)
    until(lambda: not alive(child))
    assert queue.counts() == Counts(2, 0, 0)


def test_options_of_the_group_and_pipeline_files(process, tasks, chain, tmp_path):
    queue = open_queue(f"fq://{tmp_path}/tasks", create=True)
    queue.send([message(Box.of((0, 0, 0), (4, 8, 8)), 2)])
    (tmp_path / "line.yaml").write_text(
        f"steps:\n- fetch-task: {{queue-name: '{queue.address}', retry-times: 0}}\n"
        "- create-chunk: {}\n"
        f"- write-h5: {{file-name: {tmp_path}/out/}}\n- delete-task-in-queue\n"
    )
    log_dir = tmp_path / "logs"
    process("--mip", 2, "--log-dir", log_dir, "worker", "--", "run", tmp_path / "line.yaml")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0-4_0-8_0-8.h5"]
    assert [p.name for p in log_dir.iterdir()] == ["0-4_0-8_0-8.json"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--"], "give the line to run after --"),
        (["--", "create-chunk"], "the line takes no tasks from a queue; begin it with fetch-task"),
        (["--", "fetch-task", "-q", "fq://t", "write-h5", "-f", "x/"], "no chunk named 'chunk'"),
        (["--", "fetch-tusk"], "no such command 'fetch-tusk' (did you mean 'fetch-task'?)"),
        (["--gpus", "0,", "--", "fetch-task", "-q", "fq://t"], "give the GPUs with commas between"),
        (["--health", "no/x.json", "--", "fetch-task", "-q", "fq://t"], "the folder"),
        (["--check", "x.json", "--", "fetch-task", "-q", "fq://t"], "runs no chain"),
        (["--", "status", "x"], "the line takes no tasks from a queue"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(segflow, tmp_path, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    assert error in segflow("worker", *words, code=2).last
    assert list(tmp_path.iterdir()) == []


def test_old_health_files_fail_the_check(segflow, tmp_path):
    place = tmp_path / "h.json"
    assert "there is no health file" in segflow("worker", "--check", place, code=1).last
    place.write_text(json.dumps({"time": time.time() - 100, "state": "running"}))
    assert segflow("worker", "--check", place, code=1).last.endswith(
        "it is 1 min 40 s old, more than 1 min 0 s: the worker hangs or was killed"
    )
    segflow("worker", "--check", place, "--max-age", 1000)
    place.write_text("{}")
    assert "no health file of segflow" in segflow("worker", "--check", place, code=1).last


# -- prefetch --------------------------------------------------------------------------------------------


class Item:
    """A task that counts how many of its kind are in memory."""

    ends = None
    live = peak = 0

    def __init__(self):
        Item.live += 1
        Item.peak = max(Item.peak, Item.live)

    def __del__(self):
        Item.live -= 1


def part(source, seconds):
    """Work on items for some seconds each."""
    for item in source:
        time.sleep(seconds)
        yield item
        del item


@pytest.mark.parametrize("count", [1, 2])
def test_reading_and_writing_overlap_within_the_memory(count):
    Item.live = Item.peak = 0
    room = Room(1 + count)
    read = ahead(part((Item() for _ in range(12)), 0.03), count, None, room, door=True)
    began = time.perf_counter()
    for item in part(ahead(part(read, 0.06), count, None, room), 0.03):
        del item
    seconds = time.perf_counter() - began
    assert Item.peak == 1 + count
    assert seconds < 12 * 0.12 * 0.85  # one after the other it takes all of it


def test_a_step_that_keeps_what_it_gets_does_not_stop_the_chain():
    room = Room(2)
    assert len(list(part(ahead(part((Item() for _ in range(6)), 0), 1, None, room, door=True), 0))) == 6


# -- try and estimate ------------------------------------------------------------------------------------


@pytest.fixture
def em(data, tmp_path, monkeypatch, tmp_path_factory):
    """Give a real image as a volume of four tasks of 20 x 256 x 256; one of them is all zero."""
    image = tifffile.imread(data / "ac4_image.tif")
    image[:, 256:, 256:] = 0
    volume = open_volume(str(tmp_path / "em"))
    make_volume(volume, Chunk(image, (0, 0, 0), (30, 6, 6), "image"), block_size=(20, 128, 128))
    volume.write(Chunk(image, (0, 0, 0), (30, 6, 6), "image"))
    monkeypatch.chdir(tmp_path)
    aside = str(tmp_path_factory.mktemp("aside"))
    monkeypatch.setenv("TMPDIR", aside)
    monkeypatch.setattr("tempfile.tempdir", aside)
    return tmp_path


def tree(folder):
    """Give all files of a folder with their times."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


GRID = ["generate-tasks", "-v", "em", "-c", 20, 256, 256]
LINE = ["cutout", "-v", "em", "normalize-contrast"]


def test_try_takes_nothing_and_writes_aside(segflow, em, tmp_path_factory):
    side = tmp_path_factory.mktemp("side")
    segflow(*GRID, "-q", "fq://tasks")
    segflow("create-info", "-v", "old", "--volume-size", 20, 512, 512, "--block-size", 10, 64, 64,
            "--data-type", "uint8", "--voxel-size", 30, 6, 6, "--max-mip", 2)  # fmt: skip
    before = tree(em)
    line = [*LINE, "save", "-v", "old", "save", "-v", "new", "write-zarr", "-f", "z.zarr", "write-h5", "-f",
            "h5/", "write-npy", "-f", "{bbox}/a.npy", "mark-complete", "-p", "done/", "delete-task-in-queue"]  # fmt: skip
    said = segflow("try", "--to", side, "--", "fetch-task", "-q", "fq://tasks", *line)
    assert tree(em) == before
    assert open_queue("fq://tasks").counts() == Counts(4, 0, 0)
    box = Box.parse(said.out.splitlines()[0].split()[-1])
    assert open_volume("em").read(box).array.any()
    chunk = open_volume(str(side / "old")).read(box)
    assert chunk.array.any()
    assert open_volume(str(side / "old")).info(2) == replace(open_volume("old").info(2), path=ANY)
    assert np.array_equal(open_volume(str(side / "new")).read(box).array, chunk.array)
    assert np.array_equal(open_volume(f"zarr://{side}/z.zarr").read(box).array, chunk.array)
    assert np.array_equal(np.load(side / str(box) / "a.npy"), chunk.array)
    assert sorted(p.name for p in side.iterdir()) == sorted(["old", "new", "z.zarr", "h5", str(box)])
    assert "one task of 4" in said.out
    assert "peak memory: " in said.out
    assert "instead of old\n" in said.out
    shape = " ".join(map(str, box.shape))
    assert f"--size {shape} neuroglancer" in said.out


def test_try_reads_again_what_it_wrote_aside(segflow, em, tmp_path_factory):
    side = tmp_path_factory.mktemp("side")
    line = ["save", "-v", "new", "delete-var", "-v", "chunk", "cutout", "-v", "new", "write-h5", "-f", "x.h5"]
    said = segflow("try", "--to", side, "--", *GRID, "-b", "0-20_0-256_0-256", *LINE, *line)
    assert sorted(p.name for p in side.iterdir()) == ["new", "x.h5"]
    assert [p.name for p in em.iterdir()] == ["em"]
    assert "one task: 0-20_0-256_0-256" in said.out


def test_try_leaves_out_what_changes_a_volume_itself(segflow, em):
    before = tree(em)
    said = segflow("try", "--", *LINE, "write-h5", "-f", "x.h5", "downsample", "-v", "em")
    assert tree(em) == before
    assert "note: downsample was left out: it changes em itself" in said.out


@pytest.mark.parametrize("only_zero", [False, True])
def test_a_box_that_shows_something_is_taken(segflow, em, only_zero):
    corner = ["--roi-start", 0, 256, 256] if only_zero else ["--roi-start", 0, 256, 128]
    grid = ["generate-tasks", "-v", "em", "-c", 20, 128, 128, *corner, "-f", "tasks.npy"]
    segflow(*grid)
    found = segflow("try", "--", "fetch-task-from-file", "-f", "tasks.npy", *LINE, "write-h5", "-f", "x/")
    assert ("note: all 4 boxes that were looked at are zero" in found.out) is only_zero
    assert ("_128-256" in found.out.splitlines()[0]) is not only_zero


def test_try_shows_the_task_until_it_is_interrupted(start, em):
    process = start("try", "--view", "--", *GRID, *LINE, "save", "-v", "new")
    said: list[str] = []
    while not any("wrote " in line for line in said) or "http://127.0.0.1" not in "".join(said):
        said.append(process.stdout.readline())
        assert said[-1], said
    place = next(line.split()[1] for line in said if line.startswith("wrote "))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)
    assert open_volume(place).info().dtype == "uint8"
    assert [p.name for p in em.iterdir()] == ["em"]


def test_a_failed_try_says_why_and_leaves_nothing(segflow, em, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(place))
    (em / "bad.py").write_text("def execute():\n    raise ValueError('no cheese')\n")
    said = segflow("try", "--", *GRID, *LINE, "plugin", "-f", "bad.py", code=1)
    assert "no cheese" in said.last
    assert [p for p in place.iterdir() if p.name.startswith("segflow-try")] == []


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["try", "--", *GRID, "-q", "fq://t"], "generate-tasks makes tasks here and runs none", 2),
        (["try", "--", "fetch-task", "-q", "fq://t", *LINE], "there is no queue at fq://", 1),
        (["try", "--", "status", "x"], "status is a job and has no tasks; give a chain", 2),
        (["try", "--to", "em", "--", *GRID], "--to em is not empty; give a new folder", 2),
        (["estimate", "--workers", "2,x", "--", *GRID], "give whole numbers with commas between", 2),
        (["estimate", "--", *GRID, *LINE, "save", "-v", "em/info/x"], "cannot write em/info/x", 2),
    ],
)
def test_what_cannot_be_tried(segflow, em, words, error, code):
    before = tree(em)
    assert error in segflow(*words, code=code).last
    assert tree(em) == before


def test_estimate_extrapolates_from_one_task(segflow, em):
    (em / "slow.py").write_text("import time\ndef execute(chunk):\n    time.sleep(0.4)\n    return chunk\n")
    line = [*GRID, *LINE, "plugin", "-f", "slow.py", "-i", "chunk", "-o", "chunk", "write-npy", "-f", "out/"]
    words = ["estimate", "--workers", "1,3,8", "--cost-per-hour", 3600, "--json", "--", *line]
    found = json.loads(segflow("--prefetch", 0, *words).out)
    assert found["tasks"] == 4
    assert 0.4 < found["seconds_per_task"] < 2
    one, three, eight = (row["seconds"] for row in found["workers"])
    each, begin = found["seconds_per_task"], found["seconds_to_begin"]
    assert one == pytest.approx(begin + 4 * each, abs=0.01)
    assert three == pytest.approx(begin + 2 * each, abs=0.01)
    assert eight == pytest.approx(begin + each, abs=0.01)
    assert [row["cost"] for row in found["workers"]] == pytest.approx([one, 3 * three, 4 * eight], rel=1e-3)
    assert found["bytes_per_task"] >= 20 * 256 * 256
    assert found["bytes"] == 4 * found["bytes_per_task"]
    assert found["memory_per_worker"] > 20 * 256 * 256
    assert [p.name for p in em.iterdir() if p.name not in ("em", "slow.py", "__pycache__")] == []
    ahead = json.loads(segflow("--prefetch", 1, *words).out)
    assert ahead["seconds_between_tasks"] <= ahead["seconds_per_task"]
    assert len(ahead["assumptions"]) == len(found["assumptions"]) + 1
    text = segflow("estimate", "--cost-per-hour", 1, "--", *line).out
    assert "assumed:" in text
    assert "workers" in text


def test_the_pace_of_overlapping_parts():
    sample = Sample(
        steps=[("read", 1.0, "io"), ("work", 3.0, "cpu"), ("net", 4.0, "gpu"), ("save", 2.0, "io")]
    )
    assert [sample.pace(n) for n in (0, 1, 2, 9)] == [10.0, 5.0, 4.0, 4.0]
