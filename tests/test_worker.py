"""worker: real processes on a folder queue; prefetch."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from segflow.cli.prefetch import Room, ahead
from segflow.errors import SegflowError
from segflow.geometry import Box
from segflow.tasks.queues import Counts, message, open_queue
from segflow.tasks.supervise import check_health

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


def test_a_task_that_hangs_fails_and_the_others_are_done(process, tasks, tmp_path):
    queue, health = tasks(4), tmp_path / "health.json"
    (tmp_path / "hang.py").write_text(
        "import time\n\ndef execute(bbox):\n    time.sleep(100 * str(bbox).startswith('4-8_'))\n"
    )
    fetch = ["fetch-task", "-q", queue.address, "-r", 0, "--tries", 2, "--max-time", 2]
    step = ["plugin", "-f", tmp_path / "hang.py", "delete-task-in-queue"]
    said = process("worker", "--health", health, "--", *fetch, *step, code=1)
    assert "restart 2 of 10" in said.err
    assert [(d.message["bbox"], d.error) for d in queue.dead()] == [
        ("4-8_0-8_0-8", "plugin: not done after 2 s, so it hangs, or needs more --max-time")
    ]
    assert queue.counts() == Counts(0, 0, 1)
    told = json.loads(health.read_text())
    assert (told["done"], told["dead"], told["exit_code"]) == (3, 1, 1)


def test_sigterm_before_it_began_ends_well(start, tmp_path):
    os.mkfifo(tmp_path / "slow.yaml")  # the check waits for its text
    process = start("worker", "--", "run", tmp_path / "slow.yaml")
    with open(tmp_path / "slow.yaml", "w"):  # waits until it is being read
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert process.wait(10) == 0, process.stderr.read()


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


def part(source, seconds, took=None):
    """Work on items for some seconds each; note in ``took`` how long it was."""
    for item in source:
        began = time.perf_counter()
        time.sleep(seconds)
        if took is not None:
            took.append(time.perf_counter() - began)
        yield item
        del item


@pytest.mark.parametrize("count", [1, 2])
def test_reading_and_writing_overlap_within_the_memory(count):
    Item.live = Item.peak = 0
    room, took = Room(1 + count), []
    read = ahead(part((Item() for _ in range(12)), 0.03, took), count, None, room, door=True)
    began = time.perf_counter()
    for item in part(ahead(part(read, 0.06, took), count, None, room), 0.03, took):
        del item
    seconds = time.perf_counter() - began
    assert Item.peak == 1 + count
    assert seconds < 0.85 * sum(took)  # one after the other it takes all of it


def test_a_step_that_keeps_what_it_gets_does_not_stop_the_chain():
    room = Room(2)
    assert len(list(part(ahead(part((Item() for _ in range(6)), 0), 1, None, room, door=True), 0))) == 6
