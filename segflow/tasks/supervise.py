"""Keep worker processes of one machine at their queue: start, watch, restart, tell, end."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.blocks.workers import Worker, end, share
from segflow.errors import QueueError, SegflowError
from segflow.tasks.queues import Counts, Queue

log = logging.getLogger("segflow")

PATIENCE = 25.0  # seconds for workers to give their tasks back; Kubernetes and SLURM wait 30
CALM = 600.0  # seconds: a process that worked so long before it crashed is restarted as if for the first time
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a restart; doubled each time
LOOK = 0.2  # seconds between two looks at the processes
ASK = (5.0, 60.0)  # seconds between two looks into the queue, at least and at most
HEALTH = 5.0  # seconds between two health files
LINES = 60.0  # seconds between two lines of status where there is no terminal


@dataclass
class Slot:
    """The place of one process."""

    environment: dict[str, str]
    worker: Worker | None = None
    crashes: int = 0  # in a row
    due: float = 0.0  # when to start it, by time.monotonic()
    code: int | None = None  # of its orderly end

    def state(self) -> dict[str, Any]:
        """Describe it for the health file."""
        if self.worker is not None:
            seconds = round(time.monotonic() - self.worker.began, 1)
            return {"pid": self.worker.process.pid, "seconds": seconds, "restarts": self.crashes}
        return {"pid": None, "restarts": self.crashes, "exit_code": self.code}


@dataclass
class Supervisor:
    """Keeps processes of one line running until their queue is empty.

    Attributes:
        words: the line of a process, without ``segflow``.
        processes: how many run at once; each gets its share of the cores.
        queue: where the line takes its tasks from.
        lease: how long the task of a killed process stays hidden, seconds.
        gpus: CUDA_VISIBLE_DEVICES of the processes, by turns; empty: as they are.
        max_restarts: so many crashes of a process in a row may be mended.
        health: file that tells how it goes, JSON.
        status: "bar" is one line on the terminal, "log" one now and then, "silent" none.
    """

    words: Sequence[str]
    processes: int
    queue: Queue
    lease: float
    gpus: Sequence[str] = ()
    max_restarts: int = 10
    health: Path | None = None
    status: str = "silent"
    slots: list[Slot] = field(default_factory=list)

    def run(self) -> int:
        """Run until all processes have ended; give 0, or 1 if tasks failed.

        Raises:
            SegflowError: a process crashed too often.
            KeyboardInterrupt: SIGINT or SIGTERM came; tasks were given back.
        """
        environment = share(self.processes, time.time())
        for number in range(self.processes):
            gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[number % len(self.gpus)]} if self.gpus else {}
            self.slots.append(Slot({**environment, **gpu}))
        self.board = Board(self.queue, self.health, self.status, self.slots)
        self.board.ask(time.monotonic())
        state, code = "failed", 1
        try:
            while self._step():
                self.board.show()
                time.sleep(LOOK)
            code = max((slot.code or 0 for slot in self.slots), default=0) or int(self.board.died())
            state = "ended"
            return code
        except KeyboardInterrupt:
            state, code = "stopped", 0
            raise
        finally:
            running = [slot.worker for slot in self.slots if slot.worker is not None]
            end(running, PATIENCE)
            self.board.close(state, code)

    def _step(self) -> bool:
        """Look at every process once; tell whether there is anything left to wait for."""
        now = time.monotonic()
        for number, slot in enumerate(self.slots, 1):
            if slot.worker is not None:
                self._hear(number, slot.worker)
                if slot.worker.process.poll() is not None:
                    self._ended(number, slot, slot.worker)
            elif slot.code is None and now >= slot.due:
                slot.worker = Worker(self.words, slot.environment, apart=True)
        waiting = any(slot.worker is not None or slot.code is None for slot in self.slots)
        return waiting or self._owed(now)

    def _hear(self, number: int, worker: Worker) -> None:
        for line in worker.heard():
            self.board.say(number, line)

    def _ended(self, number: int, slot: Slot, worker: Worker) -> None:
        """Take note of a process's end; plan its restart if it crashed."""
        code = worker.process.returncode
        self._hear(number, worker)
        last = worker.last
        worker.errors.close()
        slot.worker = None
        if code in (0, 1, 2):
            slot.code = code
            return
        long = time.monotonic() - worker.began >= CALM
        slot.crashes = 1 if long else slot.crashes + 1
        cause = (
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"crashed with exit code {code}"
        )
        cause += ", probably for want of memory" if code == -signal.SIGKILL else ""
        self.board.lost(f"process {number} {cause}", self.lease)
        if slot.crashes > self.max_restarts:
            text = f"; its last words: {last}" if last else ""
            raise SegflowError(
                f"process {number} {cause}, after {self.max_restarts} restarts in a row, so all were "
                f"ended{text}"
            )
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (slot.crashes - 1))
        slot.due = time.monotonic() + wait
        log.warning(
            "process %d %s; restart %d of %d in %.0f s",
            number, cause, slot.crashes, self.max_restarts, wait,
        )  # fmt: skip

    def _owed(self, now: float) -> bool:
        """After a crash: wait for the task that comes back when its lease is over, and start on it."""
        if now >= self.board.owed_until or any(slot.code for slot in self.slots):
            return False
        counts = self.board.ask(now)
        if counts is not None and not counts.waiting + counts.running:
            return False
        if counts is None or counts.waiting:
            self.slots[0].code, self.slots[0].due = None, now
        return True


class Board:
    """Tells how it goes: a status line, a health file, what processes say."""

    def __init__(self, queue: Queue, health: Path | None, status: str, slots: Sequence[Slot]) -> None:
        self.queue, self.health, self.status, self.slots = queue, health, status, slots
        self.began = time.time()
        self.restarts, self.owed_until, self.last_error = 0, 0.0, ""
        self.counts: Counts | None = None
        self._first: tuple[float, int] | None = None
        self._dead = 0  # at the start
        self._said: set[str] = set()
        self._next = {"ask": 0.0, "health": 0.0, "line": 0.0}
        self._told_health = False
        self._width = 0

    def say(self, number: int, line: str) -> None:
        """Log what a process said; the same is said once."""
        level = logging.ERROR if re.match(r"segflow( [\w-]+)?: (?!warning: )", line) else logging.WARNING
        if level == logging.ERROR:
            self.last_error = line
        if line in self._said:
            return
        if len(self._said) < 10_000:
            self._said.add(line)
        self._clear()
        log.log(level, "process %d: %s", number, line.removeprefix("segflow: warning: "))

    def lost(self, what: str, lease: float) -> None:
        """Note a crash."""
        self.restarts += 1
        self.last_error = what
        self.owed_until = time.monotonic() + lease + ASK[0]
        self._clear()

    def ask(self, now: float) -> Counts | None:
        """Give the queue's counts, asked rarely; None if it does not answer."""
        if now >= self._next["ask"]:
            try:
                self.counts = self.queue.counts()
                if self._first is None:
                    self._first, self._dead = (now, self._undone()), self.counts.dead
            except QueueError as error:
                self.counts = None
                log.warning("%s", error)
            took = time.monotonic() - now
            self._next["ask"] = time.monotonic() + min(ASK[1], max(ASK[0], 100 * took))
        return self.counts

    def died(self) -> bool:
        """Whether a crash left dead tasks, of which no process could tell."""
        self._next["ask"] = 0.0
        counts = self.ask(time.monotonic()) if self.restarts else None
        return counts is not None and counts.dead > self._dead

    def _left(self) -> int:
        return self.counts.waiting + self.counts.running if self.counts else 0

    def _undone(self) -> int:
        return self._left() + (self.counts.dead if self.counts else 0)

    def figures(self) -> dict[str, Any]:
        """Give counts, tasks done since the start (by all workers of the queue), speed and time left."""
        counts = self.counts
        if counts is None or self._first is None:
            return dict.fromkeys(
                ("waiting", "running", "dead", "done", "tasks_per_second", "seconds_left"), None
            )
        began, first = self._first
        done = max(0, first - self._undone())
        speed = done / max(1e-9, time.monotonic() - began)
        return {
            **counts._asdict(), "done": done, "tasks_per_second": round(speed, 4),
            "seconds_left": round(self._left() / speed, 1) if done else None,
        }  # fmt: skip

    def show(self) -> None:
        """Show what is due."""
        now = time.monotonic()
        if self.status != "silent" or self.health:
            self.ask(now)
        if self.health and now >= self._next["health"]:
            self._next["health"] = now + HEALTH
            self._write(self.health, "running", None)
        if self.status != "silent" and now >= self._next["line"]:
            self._next["line"] = now + (1.0 if self.status == "bar" else LINES)
            self._line()

    def text(self) -> str:
        """Give the status line."""
        told = self.figures()
        alive = sum(slot.worker is not None for slot in self.slots)
        parts = [f"{alive} of {len(self.slots)} processes"]
        if told["done"] is not None:
            parts += [f"{told[name]} {name}" for name in ("waiting", "running", "done", "dead")]
            parts.append(f"{told['tasks_per_second']:.2f} tasks/s")
        if told["seconds_left"] is not None:
            parts.append(f"{span(told['seconds_left'])} left")
        return ", ".join(parts)

    def _line(self) -> None:
        if self.status == "log":
            log.info("%s", self.text())
            return
        text = self.text()
        sys.stderr.write(f"\r{text.ljust(self._width)}")
        sys.stderr.flush()
        self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            self._width = 0

    def close(self, state: str, code: int) -> None:
        """Tell the end."""
        self._clear()
        if self.health or self.status != "silent":
            self._next["ask"] = 0.0
            self.ask(time.monotonic())
        if self.health:
            self._write(self.health, state, code)
        if self.status != "silent":
            log.info("%s: %s", state, self.text())

    def _write(self, place: Path, state: str, code: int | None) -> None:
        told = {
            "time": time.time(), "began": self.began, "state": state, "exit_code": code, "pid": os.getpid(),
            "queue": self.queue.address, **self.figures(), "crashes": self.restarts,
            "last_error": self.last_error, "processes": [slot.state() for slot in self.slots],
        }  # fmt: skip
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(told, indent=1) + "\n")
            os.replace(beside, place)
        except OSError as error:
            beside.unlink(missing_ok=True)
            if not self._told_health:
                log.warning("the health file %s cannot be written: %s", place, error.strerror)
            self._told_health = True


def span(seconds: float) -> str:
    """Give a time in words.

    >>> span(4), span(75), span(3700), span(200000)
    ('4 s', '1 min 15 s', '1 h 1 min', '2 d 7 h')
    """
    for unit, name, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole} {name} {rest // part} {smaller}"
    return f"{seconds:.0f} s" if seconds >= 1 or not seconds else f"{seconds:.2g} s"


def check_health(path: str | Path, oldest: float) -> None:
    """Raise SegflowError unless a health file says that the worker runs, and is new enough.

    Args:
        path: the file.
        oldest: how old it may be, seconds.
    """

    def say(text: str) -> SegflowError:
        return SegflowError(f"{path}: {text}")

    try:
        told = json.loads(Path(path).read_text())
        age = time.time() - float(told["time"])
        state = str(told["state"])
    except OSError as error:
        raise say(f"there is no health file ({(error.strerror or 'unreadable').lower()})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise say("it is no health file of segflow worker") from error
    if state == "failed":
        raise say(f"the worker failed: {told.get('last_error') or 'no error was told'}")
    if state == "running" and age > oldest:
        raise say(f"it is {span(age)} old, more than {span(oldest)}: the worker hangs or was killed")
