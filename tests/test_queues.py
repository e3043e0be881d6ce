"""Queues: one contract for a folder and for SQS; messages; the tools of task-queue on our folders."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.errors import LeaseLost, QueueError, UsageError
from segflow.geometry import Box
from segflow.tasks.queues import Counts, folder, message, messages, open_queue, sqs
from segflow.testing.queues import QueueContract

BOXES = [Box.of((4 * i, 0, 0), (4, 8, 8)) for i in range(4)]


class TestFolder(QueueContract):
    """The contract, in a folder."""

    many = 200

    @pytest.fixture
    def address(self, tmp_path):
        return f"fq://{tmp_path}/tasks"

    def open(self, address, failures=3):
        return open_queue(address, create=True, failures=failures)

    def put_raw(self, queue, text):
        ident = str(uuid4())
        (queue.folder / "movement" / ident).write_text(f"0--{ident}.json\n")
        (queue.folder / "queue" / f"0--{ident}.json").write_text(text)


class TestSqs(QueueContract):
    """The contract, on an SQS server."""

    @pytest.fixture
    def address(self, bucket, monkeypatch):
        monkeypatch.setattr(sqs, "WAIT", 0)  # seconds; the server here knows at once what there is
        return f"sqs://q{uuid4().hex[:10]}"

    def open(self, address, failures=3):
        return open_queue(address, create=True, failures=failures)

    def put_raw(self, queue, text):
        queue.client.send_message(QueueUrl=queue.url, MessageBody=text)


@pytest.fixture(params=["fq", "sqs"])
def address(request, tmp_path, monkeypatch):
    """Give the address of a queue that is not there yet, in a folder and on the SQS server."""
    if request.param == "fq":
        return f"fq://{tmp_path}/tasks"
    request.getfixturevalue("bucket")
    monkeypatch.setattr(sqs, "WAIT", 0)  # seconds; the server here knows at once what there is
    return f"sqs://q{uuid4().hex[:10]}"


@pytest.fixture
def queue(address):
    """Give an empty queue."""
    return open_queue(address, create=True)


def test_a_task_that_kills_its_workers_is_dead_at_last(queue, monkeypatch, caplog):
    monkeypatch.setattr(folder, "LOST", 1)
    monkeypatch.setattr(sqs, "LOST", 1)
    queue.send([message(BOXES[0])])
    assert queue.lease(1) is not None
    time.sleep(2.1)
    assert queue.lease(1) is None
    assert f"a message of {queue.address} is dead" in caplog.text
    ((found, error),) = queue.dead()
    assert found == message(BOXES[0])
    assert "out of memory" in error


def test_a_queue_that_is_not_there(address, segflow):
    with pytest.raises(QueueError, match="there is no queue"):
        open_queue(address)
    said = segflow("queue", address, code=1)
    assert said.last == f"segflow queue: there is no queue at {address}; generate-tasks -q makes one".replace(
        " at sqs", " sqs"
    )


@pytest.mark.parametrize("wrong", ["", "fq://", "sqs://", "s3://bkt/q", "a b", "sqs://a.fifo", "x" * 76])
def test_what_is_no_address(wrong, segflow):
    with pytest.raises(UsageError, match="names no queue"):
        open_queue(wrong)
    said = segflow("fetch-task", "-q", wrong, code=2)
    assert said.last.startswith("segflow fetch-task: ")
    assert "names no queue" in said.last


# -- messages -----------------------------------------------------------------------------------

NUMBERS = st.integers(-(10**9), 10**9)


@given(
    st.tuples(NUMBERS, NUMBERS, NUMBERS),
    st.tuples(*[st.integers(1, 10**6)] * 3),
    st.none() | st.integers(0, 30),
)
def test_messages_come_back(start, size, mip):
    found = message(Box.of(start, size), mip)
    assert messages.read(messages.body(found)) == found
    assert messages.box_of(found) == Box.of(start, size)
    assert messages.read(found["bbox"]) == {"bbox": found["bbox"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["bbox", "mip", "payload", "id"]), inner),
)


@given(JSON.map(json.dumps) | st.text() | st.binary())
def test_any_text_is_a_task_or_refused(text):
    try:
        found = messages.read(text)
    except QueueError:
        return
    assert set(found) <= {"bbox", "mip"}
    assert not messages.box_of(found).empty


# -- the folder ---------------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(["send", "lease", "done", "release", "fail", "expire", "retry"]), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.randoms())
def test_no_step_loses_or_doubles_a_task(tmp_path_factory, steps, choice):
    """Every task that was sent is waiting, running, dead or done, whatever happens in which order."""
    queue = open_queue(f"fq://{tmp_path_factory.mktemp('law')}", create=True, failures=2)
    sent, done, held, now = 0, 0, [], time.time()
    for step in steps:
        if step == "send":
            sent += queue.send([message(Box.of((sent, 0, 0), (1, 1, 1)))])
        elif step == "retry":
            queue.retry_dead()
        elif step == "lease":
            held += filter(None, [queue.lease(600)])
        elif held:
            one = held.pop(choice.randrange(len(held)))
            if step == "expire":
                old = one.path.with_name(f"{int(now) - 5}--{one.ident}.json")
                one.path.rename(old)
                with pytest.raises(LeaseLost):
                    one.done()
            elif step == "done":
                one.done()
                done += 1
            else:
                one.release("x" if step == "fail" else None)
        counts = queue.counts()
        assert counts.running == len(held)
        assert sum(counts) + done == sent
    boxes = [found["bbox"] for found, _ in queue.dead()] + [one.message["bbox"] for one in held]
    while one := queue.lease(600):
        boxes.append(one.message["bbox"])
    assert len(boxes) == len(set(boxes)) == sent - done


def test_purge_and_counts_of_a_folder(tmp_path, segflow):
    queue = open_queue(f"fq://{tmp_path}/q", create=True)
    queue.send(message(box) for box in BOXES)
    queue.lease(600)
    queue.lease(600).done()
    assert ((tmp_path / "q" / "insertions").read_text(), (tmp_path / "q" / "completions").stat().st_size) == (
        "4",
        1,
    )
    command = [sys.executable, "-m", "segflow", "queue", queue.address, "--purge"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (said.returncode, "--yes" in said.stderr) == (2, True)
    assert sum(queue.counts()) == 3
    assert "waiting         0" in segflow("queue", queue.address, "--purge", "--yes").out
    assert sum(queue.counts()) == 0
    assert sorted(p.name for p in (tmp_path / "q").rglob("*") if p.is_file()) == []


def test_a_full_disk_is_told_and_loses_nothing(disk):
    place = disk("1m")
    queue = open_queue(f"fq://{place}/q", create=True)
    queue.send(message(box) for box in BOXES)
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(QueueError, match="no space left"):
        queue.send(message(box) for box in BOXES * 40)
    filler.unlink()
    assert queue.counts().waiting == 4
    while held := queue.lease(60):
        assert messages.box_of(held.message) in BOXES
        held.done()
    assert queue.counts() == Counts(0, 0, 0)


def test_the_tools_of_task_queue_work_on_our_folder(tmp_path):
    taskqueue = pytest.importorskip("taskqueue")
    ours = open_queue(f"fq://{tmp_path}/q", create=True)
    ours.send(message(box, 0) for box in BOXES)
    ours.lease(600).done()
    mine = ours.lease(600)
    theirs = taskqueue.TaskQueue(ours.address, progress=False)
    assert (theirs.inserted, theirs.enqueued, theirs.leased, theirs.completed) == (4, 3, 1, 1)
    listed = theirs.list()
    assert {task.kwargs["bbox"] for task in listed} <= {str(box) for box in BOXES}
    assert len(listed) == 3
    said = ptq("status", ours.address)
    assert "Enqueued: 3 (75.0% left)" in said
    assert "Leased: 1 (33.3% of queue)" in said
    task = theirs.lease(seconds=600)
    assert ours.counts() == Counts(1, 2, 0)
    theirs.renew(task, 900)
    theirs.delete(task)
    assert ours.counts() == Counts(1, 1, 0)
    ptq("release", ours.address)
    assert ours.counts() == Counts(2, 0, 0)
    with pytest.raises(LeaseLost):
        mine.done()
    ptq("cp", ours.address, f"fq://{tmp_path}/copy")
    copied = open_queue(f"fq://{tmp_path}/copy")
    assert copied.counts() == Counts(2, 0, 0)
    assert messages.box_of(copied.lease(60).message) in BOXES
    ptq("purge", ours.address)
    assert ours.counts() == Counts(0, 0, 0)


def ptq(*words: str) -> str:
    """Run task-queue's command line."""
    from click.testing import CliRunner
    from taskqueue_cli import main

    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- generate-tasks -q and queue -------------------------------------------------------------------


def test_queue_shows_tasks_and_errors(address, segflow):
    segflow("generate-tasks", "-c", 4, 8, 8, "-g", 3, 1, 1, "-q", address)
    queue = open_queue(address, failures=1)
    queue.lease(60).release("out of cheese")
    queue.lease(60)
    shown = segflow("queue", address).out.splitlines()
    assert [line.split() for line in shown[1:4]] == [["waiting", "1"], ["running", "1"], ["dead", "1"]]
    assert shown[0] == address
    assert "out of cheese" in shown[4]
    told = json.loads(segflow("queue", address, "--json").out)
    assert (told["waiting"], told["running"], told["dead"]) == (1, 1, 1)
    assert told["tasks"][0]["error"] == "out of cheese"
    assert set(told["tasks"][0]) == {"bbox", "error"}  # without -m the mip is the worker's
    said = segflow("queue", address, "--retry-dead").out
    assert said.startswith("put 1 dead task back")
    assert queue.counts() == Counts(2, 1, 0)


def test_generated_tasks_hold_their_mip_and_nothing_flows_on(address, segflow, tmp_path):
    out = tmp_path / "out"
    line = ["generate-tasks", "-m", 2, "-c", 4, 8, 8, "-g", 2, 1, 1, "-q", address]
    segflow("--dry-run", *line)
    with pytest.raises(QueueError):
        open_queue(address)
    first = segflow(*line, "create-chunk", "write-h5", "-f", f"{out}/")
    assert not out.exists()
    assert "put 2 tasks into" in first.err
    assert "held" not in first.err
    assert "held 2 tasks before" in segflow(*line).err
    queue = open_queue(address)
    assert sorted([queue.lease(60).message["bbox"] for _ in range(4)]) == 2 * ["0-4_0-8_0-8"] + 2 * [
        "4-8_0-8_0-8"
    ]
    assert queue.lease(60) is None


def test_credentials_are_not_told(bucket, segflow, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(sqs, "TRIES", 1)
    said = segflow("queue", "my-queue", code=1)
    assert said.last.startswith("segflow queue: the queue sqs://my-queue cannot be used: ")
    assert "SKTEST" not in said.err + said.out
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert (
        "(AWS_DEFAULT_REGION, aws configure); a queue in a folder is fq://my-queue"
        in segflow("queue", "my-queue", code=1).last
    )
