"""Queues: one contract for a folder and for SQS; messages; the tools of task-queue on our folders."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.errors import LeaseLost, QueueError, UsageError
from segflow.geometry import Box
from segflow.tasks.queues import Counts, folder, message, messages, open_queue, sqs

BOXES = [Box.of((4 * i, 0, 0), (4, 8, 8)) for i in range(4)]


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


def put_raw(queue, text: str) -> None:
    """Put a text into a queue that no segflow wrote."""
    if isinstance(queue, folder.FolderQueue):
        ident = str(uuid4())
        (queue.folder / "movement" / ident).write_text(f"0--{ident}.json\n")
        (queue.folder / "queue" / f"0--{ident}.json").write_text(text)
    else:
        queue.client.send_message(QueueUrl=queue.url, MessageBody=text)


# -- the contract -------------------------------------------------------------------------------


def test_a_task_waits_runs_and_is_done(queue):
    assert queue.send(message(box, mip) for mip, box in enumerate(BOXES[:2])) == 2
    assert queue.counts() == Counts(2, 0, 0)
    held = [queue.lease(30), queue.lease(30)]
    assert sorted(one.message["bbox"] for one in held) == [str(box) for box in BOXES[:2]]
    assert sorted(one.message["mip"] for one in held) == [0, 1]
    assert [one.tries for one in held] == [1, 1]
    assert queue.lease(30) is None
    assert queue.counts() == Counts(0, 2, 0)
    held[0].done()
    held[1].release()
    assert queue.counts() == Counts(1, 0, 0)
    assert queue.lease(30).message == held[1].message


def test_a_lease_ends_with_its_time_and_not_before(queue):
    queue.send([message(BOXES[0])])
    first = queue.lease(1)
    first.extend(3)
    time.sleep(1.6)
    assert queue.lease(1) is None
    time.sleep(2.5)
    second = queue.lease(30)
    assert (second.message, second.tries) == (first.message, 2)
    for late in (first.done, first.release, lambda: first.extend(30), lambda: first.release("it failed")):
        with pytest.raises(LeaseLost, match="ran out"):
            late()
    assert queue.counts() == Counts(0, 1, 0)
    second.done()
    assert queue.counts() == Counts(0, 0, 0)


def test_a_task_that_failed_three_times_is_dead_and_tells_why(queue):
    queue.send([message(BOXES[0], 1)])
    for count in (1, 2, 3):
        held = queue.lease(30)
        assert held.tries == count
        assert held.release(f"it broke\n {count} times \x00 ünd so") == (count == 3)
    assert queue.counts() == Counts(0, 0, 1)
    assert queue.lease(30) is None
    assert queue.dead() == [(message(BOXES[0], 1), "it broke 3 times   ünd so")]
    assert queue.dead() == queue.dead()
    assert queue.retry_dead() == 1
    assert queue.counts() == Counts(1, 0, 0)
    assert queue.lease(30).tries == 1


def test_to_give_back_is_no_failure(address):
    queue = open_queue(address, create=True, failures=2)
    queue.send([message(BOXES[0])])
    for _ in range(4):
        assert not queue.lease(30).release()
    assert not queue.lease(30).release("once")
    assert queue.counts() == Counts(1, 0, 0)
    assert queue.lease(30).release("twice")
    assert [error for _, error in queue.dead()] == ["twice"]


def test_failures_count_across_workers(address):
    queues = [open_queue(address, create=True) for _ in range(3)]
    queues[0].send([message(BOXES[0])])
    assert [queue.lease(30).release("no") for queue in queues] == [False, False, True]


POISON = {
    "": "neither JSON nor a box",
    "import os": "neither JSON nor a box",
    '{"mip": 1}': "no task",
    '[["os", "system"], ["touch /tmp/x"], {}, -1]': "no task",
    '{"payload": [["os", "system"], ["touch x"], {"bbox": "0-1_0-1_0-1"}, -1]}': "no task",
    '{"bbox": "0-4_0-4"}': "is no box",
    '{"bbox": "../../0-4_0-4_0-4"}': "is no box",
    '{"bbox": "4-4_0-4_0-4"}': "is empty",
    '{"bbox": "0-4_0-4_0-4", "mip": "1; rm"}': "no whole number",
    '{"bbox": "0-4_0-4_0-4", "mip": true}': "no whole number",
    "[" * 100_000: "neither JSON nor a box",
}


def test_what_is_no_task_is_dead_at_once(queue):
    poison = [text for text in POISON if text]  # SQS takes no empty message
    for text in poison:
        put_raw(queue, text)
    queue.send([message(BOXES[0])])
    assert queue.lease(30).message == message(BOXES[0])
    while queue.lease(1) is not None:
        pass
    dead = queue.dead()
    assert queue.counts().dead == len(dead) == len(poison)
    errors = {found["raw"][:10_000]: error for found, error in dead}
    for text in poison:
        assert POISON[text] in errors[text[:10_000]]
    assert queue.retry_dead() == 0
    queue.purge()
    assert queue.counts() == Counts(0, 0, 0)


def test_bare_boxes_are_read(queue):
    put_raw(queue, "-4-4_0-8_0-8")
    assert queue.lease(30).message == {"bbox": "-4-4_0-8_0-8"}


def test_a_task_that_kills_its_workers_is_dead_at_last(queue, monkeypatch):
    monkeypatch.setattr(folder, "LOST", 2)
    monkeypatch.setattr(sqs, "LOST", 2)
    queue.send([message(BOXES[0])])
    for _ in range(2):
        assert queue.lease(1) is not None
        time.sleep(2.1)
    assert queue.lease(1) is None
    ((found, error),) = queue.dead()
    assert found == message(BOXES[0])
    assert "out of memory" in error


def test_only_tasks_are_sent(queue):
    for found in ({}, {"bbox": "x"}, {"bbox": "0-0_0-1_0-1"}, {"bbox": "0-1_0-1_0-1", "mip": -1}):
        with pytest.raises(QueueError, match="message"):
            queue.send([found])
    assert queue.counts() == Counts(0, 0, 0)


def test_sending_streams(queue):
    """What is sent is taken from the iterator as it goes, not all before."""
    ahead = []

    def many():
        for i in range(300):
            ahead.append(i)
            yield message(Box.of((i, 0, 0), (1, 1, 1)))
            if i == 250:
                raise OSError("the source broke")

    with pytest.raises(OSError, match="source broke"):
        queue.send(many())
    assert len(ahead) == 251
    assert queue.counts().waiting > 50


def test_many_workers_get_each_task_once(queue):
    count = 200 if isinstance(queue, folder.FolderQueue) else 24
    queue.send(message(Box.of((i, 0, 0), (1, 1, 1))) for i in range(count))
    seen: list[str] = []

    def work():
        mine = open_queue(queue.address)
        while held := mine.lease(60):
            seen.append(held.message["bbox"])
            held.done()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == count == len(Counter(seen))
    assert queue.counts() == Counts(0, 0, 0)


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
    segflow(*line, "create-chunk", "write-h5", "-f", f"{out}/")
    assert not out.exists()
    queue = open_queue(address)
    assert sorted([queue.lease(60).message["bbox"] for _ in range(2)]) == ["0-4_0-8_0-8", "4-8_0-8_0-8"]
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
    assert "region" in segflow("queue", "my-queue", code=1).last
