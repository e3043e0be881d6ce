"""What every queue must keep; a kind of queue is done when a subclass of this passes.

::

    class TestMine(QueueContract):
        @pytest.fixture
        def address(self, tmp_path):
            return ...  # of a queue of its own for each test

        def open(self, address, failures=3):
            ...  # open the queue, make it if it is not there

        def put_raw(self, queue, text):
            ...  # put a text into it that segflow did not write
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest

from segflow.errors import LeaseLost, QueueError
from segflow.geometry import Box
from segflow.tasks.queues import Counts, Leased, Queue, message

BOXES = [Box.of((4 * i, 0, 0), (4, 8, 8)) for i in range(4)]
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


def taken(queue: Queue, seconds: float = 30) -> Leased:
    """Take a task that must be there."""
    held = queue.lease(seconds)
    assert held is not None
    return held


class QueueContract:
    """Tests that any Queue passes."""

    many = 24  # tasks, where many are needed

    def open(self, address: str, failures: int = 3) -> Queue:
        """Open a queue, and make it if it is not there."""
        raise TypeError("a subclass opens the queue")

    def put_raw(self, queue: Any, text: str) -> None:
        """Put a text into a queue."""
        raise TypeError("a subclass puts it in")

    @pytest.fixture
    def queue(self, address: str) -> Queue:
        """Give an empty queue."""
        return self.open(address)

    def test_a_look_takes_nothing(self, address: str) -> None:
        """Peek gives waiting tasks and leaves them where they are."""
        queue = self.open(address)
        queue.send(message(box, 1) for box in BOXES[:2])
        found = queue.peek(10)
        assert {told["bbox"] for told in found} <= {str(box) for box in BOXES[:2]}
        assert 1 <= len(found) <= 2
        assert queue.peek(1)
        assert {str(taken(queue).message["bbox"]) for _ in range(2)} == {str(box) for box in BOXES[:2]}
        assert queue.peek(10) == []

    def test_a_task_waits_runs_and_is_done(self, queue: Queue) -> None:
        assert queue.send(message(box, mip) for mip, box in enumerate(BOXES[:2])) == 2
        assert queue.counts() == Counts(2, 0, 0)
        held = [taken(queue), taken(queue)]
        assert sorted(one.message["bbox"] for one in held) == [str(box) for box in BOXES[:2]]
        assert sorted(one.message["mip"] for one in held) == [0, 1]
        assert [one.tries for one in held] == [1, 1]
        assert queue.lease(30) is None
        assert queue.counts() == Counts(0, 2, 0)
        held[0].done()
        held[1].release()
        assert queue.counts() == Counts(1, 0, 0)
        assert taken(queue).message == held[1].message

    def test_a_lease_ends_with_its_time_and_not_before(self, queue: Queue) -> None:
        queue.send([message(BOXES[0])])
        first = taken(queue, 1)
        first.extend(3)
        time.sleep(1.6)
        assert queue.lease(1) is None
        time.sleep(2.5)
        second = taken(queue)
        assert (second.message, second.tries) == (first.message, 2)
        for late in (first.done, first.release, lambda: first.extend(30), lambda: first.release("it failed")):
            with pytest.raises(LeaseLost, match="ran out"):
                late()
        assert queue.counts() == Counts(0, 1, 0)
        second.done()
        assert queue.counts() == Counts(0, 0, 0)

    def test_a_task_that_failed_three_times_is_dead_and_tells_why(self, queue: Queue) -> None:
        queue.send([message(BOXES[0], 1)])
        for count in (1, 2, 3):
            held = taken(queue)
            assert held.tries == count
            assert held.release(f"it broke\n {count} times \x00 ünd so") == (count == 3)
        assert queue.counts() == Counts(0, 0, 1)
        assert queue.lease(30) is None
        assert queue.dead() == [(message(BOXES[0], 1), "it broke 3 times   ünd so")]
        assert queue.dead() == queue.dead()
        assert queue.retry_dead() == 1
        assert queue.counts() == Counts(1, 0, 0)
        assert taken(queue).tries == 1

    def test_to_give_back_is_no_failure(self, address: str) -> None:
        queue = self.open(address, failures=2)
        queue.send([message(BOXES[0])])
        for _ in range(4):
            assert not taken(queue).release()
        assert not taken(queue).release("once")
        assert queue.counts() == Counts(1, 0, 0)
        assert taken(queue).release("twice")
        assert [error for _, error in queue.dead()] == ["twice"]

    def test_failures_count_across_workers(self, address: str) -> None:
        queues = [self.open(address) for _ in range(3)]
        queues[0].send([message(BOXES[0])])
        assert [taken(queue).release("no") for queue in queues] == [False, False, True]

    def test_what_is_no_task_is_dead_at_once(self, queue: Queue) -> None:
        poison = [text for text in POISON if text]  # SQS takes no empty message
        for text in poison:
            self.put_raw(queue, text)
        queue.send([message(BOXES[0])])
        assert taken(queue).message == message(BOXES[0])
        while queue.lease(1) is not None:
            pass
        dead = queue.dead()
        assert queue.counts().dead == len(dead) == len(poison)
        errors = {found["raw"][:10_000]: error for found, error in dead}
        for text in poison:
            assert POISON[text] in errors[text[:10_000]]
        assert queue.retry_dead() == 0
        assert len(queue.dead()) == len(poison)
        queue.purge()
        assert queue.counts() == Counts(0, 0, 0)

    def test_bare_boxes_are_read(self, queue: Queue) -> None:
        self.put_raw(queue, "-4-4_0-8_0-8")
        assert taken(queue).message == {"bbox": "-4-4_0-8_0-8"}

    def test_only_tasks_are_sent(self, queue: Queue) -> None:
        for found in ({}, {"bbox": "x"}, {"bbox": "0-0_0-1_0-1"}, {"bbox": "0-1_0-1_0-1", "mip": -1}):
            with pytest.raises(QueueError, match="message"):
                queue.send([found])
        assert queue.counts() == Counts(0, 0, 0)

    def test_sending_streams(self, queue: Queue) -> None:
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

    def test_many_workers_get_each_task_once(self, queue: Queue) -> None:
        count = self.many
        queue.send(message(Box.of((i, 0, 0), (1, 1, 1))) for i in range(count))
        seen: list[str] = []

        def work():
            mine = self.open(queue.address)
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
