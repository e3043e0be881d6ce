"""Chains that take tasks from a queue: each task ends once, whatever happens to its worker."""

from __future__ import annotations

import json
import shutil
import signal
import time
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest

from segflow.chunk import Chunk
from segflow.cli import registry
from segflow.cli.main import chain_from_tokens
from segflow.errors import UsageError
from segflow.geometry import Box
from segflow.tasks.lease import Keeper
from segflow.tasks.queues import Counts, message, open_queue, sqs
from segflow.tasks.queues.base import poll_max
from segflow.volumes import open_volume

SLOW = """
import pathlib, time

def execute(bbox, folder, seconds=0.0):
    pathlib.Path(folder, f"began-{bbox}").touch()
    ends = time.monotonic() + float(seconds)
    while (left := ends - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))  # Python loses a signal to a sleep that just begins
    with open(pathlib.Path(folder, "log"), "a") as log:
        log.write(f"{bbox}\\n")
"""
PICKY = """
def execute(bbox, bad, text="it is bad"):
    if bad == "all" or bad in str(bbox):
        raise ValueError(text)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let workers end soon after their queue is empty."""
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.05")


@pytest.fixture
def tasks(tmp_path):
    """Give a function that puts ``count`` tasks into a new folder queue."""

    def fill(count, mip=0):
        queue = open_queue(f"fq://{tmp_path}/tasks", create=True)
        queue.send(message(Box.of((4 * i, 0, 0), (4, 8, 8)), mip) for i in range(count))
        return queue

    return fill


@pytest.fixture
def plugin(tmp_path):
    """Give the words of a step that sleeps, notes its task and perhaps fails."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "picky.py").write_text(PICKY)

    def words(name, **args):
        told = {"folder": str(tmp_path), **args} if name == "slow" else args
        return ["plugin", "-f", f"{tmp_path}/{name}.py", "-a", json.dumps(told)]

    return words


def until(what, seconds=30.0):
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.02)


def log_of(tmp_path):
    place = tmp_path / "log"
    return place.read_text().splitlines() if place.exists() else []


# -- a task ends once --------------------------------------------------------------------------------


def test_done_tasks_leave_the_queue(segflow, tasks, plugin, tmp_path):
    queue = tasks(5)
    segflow("fetch-task", "-q", queue.address, "-r", 1, *plugin("slow"), "delete-task-in-queue")
    assert queue.counts() == Counts(0, 0, 0)
    assert sorted(log_of(tmp_path)) == sorted(str(Box.of((4 * i, 0, 0), (4, 8, 8))) for i in range(5))


def test_without_delete_the_task_comes_back(segflow, tasks, plugin, tmp_path):
    queue = tasks(1)
    line = ["fetch-task", "-q", queue.address, "-v", 1, "-r", 0, *plugin("slow")]
    segflow(*line)
    assert queue.counts() == Counts(0, 1, 0)
    time.sleep(2.1)
    segflow(*line, "delete-task-in-queue")
    assert queue.counts() == Counts(0, 0, 0)
    assert len(log_of(tmp_path)) == 2


def test_skipped_tasks_leave_the_queue(segflow, tasks, tmp_path):
    queue = tasks(2)
    line = ["create-chunk", "-s", 4, 8, 8, "--pattern", "zero", "skip-all-zero", "write-h5", "-f"]
    segflow("fetch-task", "-q", queue.address, "-r", 0, *line, f"{tmp_path}/out/", "delete-task-in-queue")
    assert queue.counts() == Counts(0, 0, 0)
    assert not (tmp_path / "out").exists()


def test_a_failing_task_is_dead_with_its_error_and_the_others_are_done(segflow, tasks, plugin):
    queue = tasks(5)
    line = [*plugin("picky", bad="8-12_"), "delete-task-in-queue"]
    said = segflow("fetch-task", "-q", queue.address, "-r", 2, *line, code=1)
    assert queue.counts() == Counts(0, 0, 1)
    ((found, error),) = queue.dead()
    assert found["bbox"] == "8-12_0-8_0-8"
    assert error.startswith("plugin: ")
    assert "it is bad" in error
    assert "failed 3 times and is dead" in said.err
    assert said.last == "segflow: 1 task failed; see the lines above"
    assert "segflow queue" not in said.err


def test_equal_failures_stop_the_worker_and_are_shown_once(segflow, tasks, plugin):
    queue = tasks(20)
    line = [*plugin("picky", bad="all", text="no cheese, case 17"), "delete-task-in-queue"]
    fetch = ["fetch-task", "-q", queue.address, "-r", 0]
    said = segflow("--log-level", "warning", *fetch, *line, code=1)
    assert said.err.count("no cheese") == 2  # the first failure, and why the worker stops
    assert "3 tasks failed in the same way" in said.last
    assert queue.counts() == Counts(20, 0, 0)
    segflow(*fetch, "--max-failures", 0, "--tries", 1, *line, code=1)
    assert queue.counts() == Counts(0, 0, 20)


def test_stop_releases_the_task_with_its_error_and_gives_back_the_others(segflow, tasks, plugin):
    queue = tasks(3)
    line = [
        "fetch-task",
        "-q",
        queue.address,
        "--tries",
        1,
        *plugin("picky", bad="all"),
        "delete-task-in-queue",
    ]
    said = segflow("--on-error", "stop", *line, code=1)
    assert "it is bad" in said.last
    assert queue.counts() == Counts(2, 0, 1)
    assert {queue.lease(9).tries for _ in range(2)} == {1}


def test_a_box_outside_the_volume_is_a_failed_task(segflow, tmp_path, tasks):
    volume = open_volume(f"file://{tmp_path}/em")
    chunk = Chunk(np.full((8, 8, 8), 7, np.uint8), voxel_size=(30, 6, 6))
    np.save(tmp_path / "em.npy", chunk.array)
    segflow("read-npy", "-f", tmp_path / "em.npy", "save", "-v", volume.path)
    queue = tasks(4)  # two of them lie outside
    read = ["fetch-task", "-q", queue.address, "-r", 2, "--tries", 2, "cutout", "-v", volume.path]
    said = segflow(*read, "write-h5", "-f", f"{tmp_path}/out/", "delete-task-in-queue", code=1)
    assert [f["bbox"] for f, _ in queue.dead()] == ["12-16_0-8_0-8", "8-12_0-8_0-8"] or len(queue.dead()) == 2
    for found, error in queue.dead():
        assert f"box {found['bbox']} is wholly outside" in error
        assert error.count("\n") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-4_0-8_0-8.h5", "4-8_0-8_0-8.h5"]
    assert "Traceback" not in said.err


def test_a_task_cut_into_parts_ends_when_all_parts_did(segflow, tasks, plugin):
    queue = tasks(2)
    parts = ["generate-tasks", "-c", 4, 4, 8, "-g", 1, 2, 1]
    fetch = ["fetch-task", "-q", queue.address, "-r", 0, "--tries", 1]
    segflow(*fetch, *parts, *plugin("picky", bad="_4-8_"), "delete-task-in-queue", code=1)
    assert queue.counts() == Counts(0, 0, 2)
    queue.retry_dead()
    segflow(*fetch, *parts, *plugin("slow"), "delete-task-in-queue")
    assert queue.counts() == Counts(0, 0, 0)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_a_task_split_and_joined_ends_once(segflow, tasks, tmp_path, prefetch):
    queue = tasks(3)
    line = ["create-chunk", "-s", 4, 8, 8, "split", "-i", "chunk", "--block-size", 4, 4, 4, "merge-blocks"]
    segflow(
        "--prefetch", prefetch, "fetch-task", "-q", queue.address, "-r", 0, *line, "write-h5", "-f",
        f"{tmp_path}/out/", "delete-task-in-queue",
    )  # fmt: skip
    assert queue.counts() == Counts(0, 0, 0)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_num_takes_so_many_tasks(segflow, tasks, plugin, tmp_path):
    queue = tasks(5)
    segflow("fetch-task", "-q", queue.address, "-n", 2, *plugin("slow"), "delete-task-in-queue")
    assert queue.counts() == Counts(3, 0, 0)
    assert len(log_of(tmp_path)) == 2


def test_the_mip_of_a_task(segflow, tasks, tmp_path):
    queue = tasks(1, mip=2)
    line = ["fetch-task", "-q", queue.address, "-r", 0, "create-chunk", "-s", 4, 8, 8, "delete-task-in-queue"]
    said = segflow("--mip", 3, *line, code=2)
    assert "are at mip 2, but --mip says 3" in said.err
    assert queue.counts() == Counts(1, 0, 0)
    states = list(chain_from_tokens([str(w) for w in line]).states())
    assert [state.mip for state in states] == [2]
    bare = open_queue(queue.address)
    bare.send([message(Box.of((0, 0, 0), (4, 8, 8)))])
    states = list(chain_from_tokens([str(w) for w in ["--mip", 5, *line]]).states())
    assert [state.mip for state in states] == [5]


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_no_more_tasks_are_held_than_prefetch_says(segflow, tasks, tmp_path, prefetch):
    queue = tasks(8)
    (tmp_path / "look.py").write_text(
        "import time\nfrom segflow.tasks.queues import open_queue\n"
        f"def execute(address={queue.address!r}, log={str(tmp_path / 'log')!r}):\n"
        "    time.sleep(0.05)\n"
        "    with open(log, 'a') as file:\n"
        "        file.write(f'{open_queue(address).counts().running}\\n')\n"
    )
    line = ["plugin", "-f", tmp_path / "look.py", "delete-task-in-queue"]  # in a thread of its own
    segflow("--prefetch", prefetch, "fetch-task", "-q", queue.address, "-r", 0, *line)
    held = [int(n) for n in log_of(tmp_path)]
    assert len(held) == 8
    assert min(2, 1 + prefetch) <= max(held) <= 1 + prefetch


def test_what_joins_tasks_cannot_be_a_start(segflow, tasks, monkeypatch):
    import operators_for_tests as ours

    registry.load.cache_clear()
    found = {"total": SimpleNamespace(load=lambda: ours.total, value="tests")}
    monkeypatch.setattr(registry, "third_party", lambda: found)
    said = segflow("fetch-task", "-q", tasks(1).address, "total", code=2)
    assert said.last == "segflow total: it joins tasks, but those of fetch-task end one by one"
    registry.load.cache_clear()


# -- processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fq", "sqs"])
def test_two_workers_do_each_of_thirty_tasks_once(kind, request, tmp_path, plugin, start):
    address = f"fq://{tmp_path}/q"
    if kind == "sqs":
        request.getfixturevalue("bucket")
        address = f"q{uuid4().hex[:8]}"
    queue = open_queue(address, create=True)
    queue.send(message(Box.of((4 * i, 0, 0), (4, 8, 8)), 0) for i in range(30))
    line = ["fetch-task", "-q", address, "-r", 1, *plugin("slow", seconds=0.02), "delete-task-in-queue"]
    both = [start(*line) for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = log_of(tmp_path)
    assert (len(found), len(set(found))) == (30, 30)
    assert queue.counts() == Counts(0, 0, 0)


def test_a_killed_worker_loses_nothing(tmp_path, plugin, start, tasks, segflow):
    queue = tasks(2)
    fetch = ["fetch-task", "-q", queue.address, "-v", 1, "-r", 0]
    killed = start(*fetch, *plugin("slow", seconds=60), "delete-task-in-queue")
    until(lambda: list(tmp_path.glob("began-*")))
    until(lambda: queue.counts().running == 2)  # one runs, one is read ahead
    time.sleep(2.2)
    assert queue.counts() == Counts(0, 2, 0)  # the heartbeat holds both beyond their time
    killed.kill()
    killed.wait()
    until(lambda: queue.counts().waiting == 2)
    segflow(*fetch, *plugin("slow"), "delete-task-in-queue")
    assert len(set(log_of(tmp_path))) == 2
    assert queue.counts() == Counts(0, 0, 0)


def test_sigterm_while_waiting_ends_at_once(tmp_path, start, plugin, monkeypatch):
    monkeypatch.delenv("SEGFLOW_POLL_MAX")
    queue = open_queue(f"fq://{tmp_path}/q", create=True)
    for prefetch in (0, 1):
        waiting = start(
            "--prefetch", prefetch, "fetch-task", "-q", queue.address, *plugin("slow"), "delete-task-in-queue"
        )
        assert "nothing is free" in waiting.stderr.readline()
        time.sleep(0.3)
        began = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        said = waiting.communicate(timeout=10)[1]
        assert (waiting.returncode, time.monotonic() - began < 2.5) == (0, True), said
        assert "given back" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_tasks_back(tmp_path, plugin, start, tasks, number):
    queue = tasks(3)
    line = ["fetch-task", "-q", queue.address, *plugin("slow", seconds=60), "delete-task-in-queue"]
    ended = start(*line)
    until(lambda: list(tmp_path.glob("began-*")))
    until(lambda: queue.counts().running == 2)
    began = time.monotonic()
    ended.send_signal(number)
    said = ended.communicate(timeout=20)[1]
    assert ended.returncode == (0 if number == signal.SIGTERM else 130), said
    assert time.monotonic() - began < 5
    assert "Traceback" not in said
    assert queue.counts() == Counts(3, 0, 0)
    assert {queue.lease(60).tries for _ in range(3)} == {1}


def test_a_lost_lease_is_told_and_not_ended(segflow, tmp_path, tasks, plugin, monkeypatch):
    """Another worker took the task, since this one was suspended: it keeps it."""
    queue = tasks(1)
    (tmp_path / "thief.py").write_text(
        "import os, pathlib\n"
        f"def execute(folder={str(tmp_path / 'tasks' / 'queue')!r}):\n"
        "    for place in pathlib.Path(folder).iterdir():\n"
        "        rest = place.name.partition('--')[2]\n"
        "        os.rename(place, place.with_name('99999999999--' + rest))\n"
    )
    line = ["plugin", "-f", tmp_path / "thief.py", "delete-task-in-queue"]
    said = segflow("fetch-task", "-q", queue.address, "-r", 0, *line)
    assert "ran out, and another worker has it" in said.err
    assert queue.counts() == Counts(0, 1, 0)


def test_a_server_that_does_not_answer_is_asked_again(segflow, bucket, monkeypatch):
    queue = open_queue("my-queue", create=True)
    queue.send([message(Box.of((0, 0, 0), (4, 8, 8)), 0)])
    real, calls = sqs.SqsQueue._receive, []

    def flaky(self, *words):
        calls.append(1)
        if len(calls) == 1:
            from botocore.exceptions import EndpointConnectionError

            raise EndpointConnectionError(endpoint_url="http://127.0.0.1")
        return real(self, *words)

    monkeypatch.setattr(sqs.SqsQueue, "_receive", flaky)
    line = ["create-chunk", "-s", 4, 8, 8, "delete-task-in-queue"]
    said = segflow("fetch-task", "-q", "my-queue", "-r", 1, *line)
    assert "cannot be used" in said.err
    assert queue.counts() == Counts(0, 0, 0)


def test_a_queue_that_never_answers_is_an_error(segflow, tmp_path, tasks):
    queue = tasks(1)
    shutil.rmtree(tmp_path / "tasks" / "movement")
    (tmp_path / "tasks" / "movement").write_text("in the way")
    said = segflow("fetch-task", "-q", queue.address, "-r", 1, "create-chunk", "-s", 4, 8, 8, code=1)
    assert said.err.count("cannot be used") >= 1
    assert "Traceback" not in said.err


def test_an_empty_queue_is_asked_again_so_often(tmp_path):
    import threading

    queue = open_queue(f"fq://{tmp_path}/q", create=True)
    asked = []
    queue.lease = lambda seconds: asked.append(seconds)
    keeper = Keeper(queue, 60, threading.Event())
    assert list(keeper.tasks(4)) == []
    assert len(asked) == 5
    keeper.close()


def test_what_gives_no_tasks_is_no_failed_task(segflow, tmp_path, tasks, monkeypatch):
    line = ["create-chunk", "-s", 4, 8, 8, "delete-task-in-queue"]
    said = segflow("--mip", 1, "fetch-task", "-q", tasks(2).address, "-r", 0, *line, code=2)
    assert "are at mip 0, but --mip says 1" in said.last
    assert "1 task failed" not in said.err
    assert open_queue(f"fq://{tmp_path}/tasks").counts() == Counts(2, 0, 0)
    assert (
        "'' names no queue" in segflow("generate-tasks", "-c", 4, 8, 8, "-g", 1, 1, 1, "-q", "", code=2).last
    )


def test_an_error_comes_through_all_threads(process, tasks, plugin):
    queue = tasks(2)
    line = ["fetch-task", "-q", queue.address, "-r", 0, "create-chunk", "-s", 4, 8, 8, "copy-var"]
    bad = [*plugin("picky", bad="all"), "mark-complete", "-p", "never/", "copy-var", "delete-task-in-queue"]
    said = process("--on-error", "stop", *line, *bad, code=None, timeout=30)
    assert said.code != 0
    assert "it is bad" in said.err
    assert sum(queue.counts()) == 2


def test_border_tasks_are_quiet(segflow, tmp_path, tasks):
    path = f"file://{tmp_path}/v"
    segflow("create-chunk", "-s", 6, 8, 8, "save", "-v", path, "--block-size", 4, 8, 8)
    queue = tasks(2)
    segflow("create-info", "-v", f"{path}2", "--volume-size", 6, 8, 8, "--block-size", 4, 8, 8)
    line = ["cutout", "-v", path, "--fill-missing", "save", "-v", f"{path}2", "delete-task-in-queue"]
    said = segflow("fetch-task", "-q", queue.address, "-r", 0, *line)
    assert "partly outside" not in said.err
    assert queue.counts() == Counts(0, 0, 0)


def test_poll_max(monkeypatch, segflow):
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "soon")
    with pytest.raises(UsageError, match="soon"):
        poll_max()
    assert "SEGFLOW_POLL_MAX" in segflow("fetch-task", "-q", "q", code=2).last
    monkeypatch.delenv("SEGFLOW_POLL_MAX")
    assert poll_max() == 10


def test_delete_without_fetch_warns(segflow):
    said = segflow("create-chunk", "-s", 4, 8, 8, "delete-task-in-queue")
    assert "no fetch-task stands before it" in said.err
