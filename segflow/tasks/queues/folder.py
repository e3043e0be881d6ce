"""A queue in a folder, in the layout of python-task-queue, so that its tools read it too.

    queue/EXPIRY--ID.json   a task; EXPIRY is when its lease ends (Unix seconds), 0 where it is free
    movement/ID             the names that the task had
    insertions completions  how many came and were done
    failures/ID             a JSON line for each failure                                 (ours)
    dead/ID.json            the dead-letter place: the task with its error                (ours)
    incoming/               tasks that are being written                                  (ours)

A lease is a rename, which only one worker can win; it is never taken back by looking at clocks of
other machines, but these must agree within the lease. No server, no locks that outlive a process.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from segflow.errors import LeaseLost, QueueError
from segflow.tasks.queues import messages
from segflow.tasks.queues.base import LOST, Counts, Dead, Leased, Queue
from segflow.tasks.queues.messages import Message

BATCH = 1000
VANISHED = f"its worker ended {LOST} times without a word: killed, or out of memory"


class FolderQueue(Queue):
    """The queue of a folder; ``failures`` is how many make a task dead."""

    def __init__(self, folder: str | Path, *, create: bool = False, failures: int = 3) -> None:
        self.folder = Path(folder)
        self.address = f"fq://{self.folder}"
        self.failures = failures
        self._free: list[str] = []  # names that were free when the folder was last read
        if not (create or (self.folder / "queue").is_dir()):
            raise QueueError(f"there is no queue at {self.address}; generate-tasks -q makes one")
        with self._telling():
            for name in ("queue", "movement", "failures", "dead", "incoming"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)

    def send(self, messages: Iterable[Message]) -> int:
        """Put tasks in; each is there whole or not at all."""
        count = told = 0
        try:
            for found in messages:
                self._insert(found)
                count += 1
                if count - told == BATCH:
                    self._counted(count - told)
                    told = count
        finally:
            self._counted(count - told)
        return count

    def lease(self, seconds: float) -> Leased | None:
        """Take a free task; what is no task, or kills its workers, goes to the dead-letter place."""
        with self._telling():
            while True:
                name = self._take_name()
                if name is None:
                    return None
                with suppress(FileNotFoundError):  # another worker was faster
                    found = self._lease(name, seconds)
                    if found is not None:
                        return found

    def peek(self, most: int) -> list[Message]:
        """Read tasks where they lie."""
        found: list[Message] = []
        now = time.time()
        with self._telling():
            for name in self._names("queue"):
                if len(found) == most:
                    break
                if _expiry(name) > now:
                    continue
                with suppress(FileNotFoundError, QueueError):
                    found.append(messages.read((self.folder / "queue" / name).read_bytes()))
        return found

    def counts(self) -> Counts:
        """Count the files of the folder."""
        now, waiting, running = time.time(), 0, 0
        with self._telling():
            for name in self._names("queue"):
                free = _expiry(name) <= now
                waiting, running = waiting + free, running + (not free)
            return Counts(waiting, running, sum(1 for _ in self._names("dead")))

    def dead(self) -> list[Dead]:
        """Read the dead-letter place."""
        found = []
        with self._telling():
            for name in sorted(self._names("dead")):
                with suppress(FileNotFoundError):
                    found.append(self._dead(name))
        return found

    def retry_dead(self) -> int:
        """Put dead tasks back."""
        count = 0
        with self._telling():
            for name in list(self._names("dead")):
                with suppress(FileNotFoundError):
                    found = self._dead(name).message
                    if "raw" in found:
                        continue
                    ident = name.removesuffix(".json")
                    place = self.folder / "dead" / name
                    self._write(place, self._body(found, ident))
                    self._remove("failures", ident)
                    self._moved(ident, f"0--{name}")
                    os.rename(place, self.folder / "queue" / f"0--{name}")
                    count += 1
        return count

    def purge(self) -> None:
        """Remove all tasks and counts."""
        with self._telling():
            for part in ("queue", "movement", "failures", "dead", "incoming"):
                for name in self._names(part, ending=""):
                    self._remove(part, name)
            for name in ("insertions", "completions"):
                self._remove("", name)

    # -- parts ------------------------------------------------------------------------------

    def _names(self, part: str, ending: str = ".json") -> Iterator[str]:
        with os.scandir(self.folder / part) as entries:
            for entry in entries:
                if entry.name.endswith(ending) and (part != "queue" or _expiry(entry.name) >= 0):
                    yield entry.name

    def _take_name(self) -> str | None:
        """Give a name that is, or was a moment ago, free: in random order, so that workers do not collide."""
        if not self._free:
            now = time.time()
            for name in self._names("queue"):
                if _expiry(name) <= now:
                    self._free.append(name)
                    if len(self._free) == BATCH:
                        break
            random.shuffle(self._free)
        return self._free.pop() if self._free else None

    def _lease(self, name: str, seconds: float) -> FolderLease | None:
        held = FolderLease(self, name)
        held.rename(seconds)
        if _expiry(name) > 0:
            self._failed(held.ident, None)
        errors, lost = self._record(held.ident)
        if lost >= LOST:
            held.bury(VANISHED)
            self.tell_dead(VANISHED)
            return None
        try:
            held.message = messages.read(held.path.read_bytes())
        except QueueError as error:
            held.bury(str(error))
            self.tell_dead(str(error))
            return None
        held.tries = len(errors) + lost + 1
        return held

    def _insert(self, found: Message) -> None:
        ident = str(uuid4())
        with self._telling():
            place = self.folder / "incoming" / ident
            place.write_text(self._body(messages.check(found), ident))
            self._moved(ident, f"0--{ident}.json")
            os.rename(place, self.folder / "queue" / f"0--{ident}.json")

    def _body(self, found: Message, ident: str) -> str:
        """Give a task as task-queue writes one, so that its tools can list, copy and move it."""
        return json.dumps(
            {"payload": [messages.KIND, [], found, -1], "queueName": str(self.folder), "id": ident}
        )

    def _moved(self, ident: str, name: str) -> None:
        self._append("movement", ident, f"{name}\n")

    def _failed(self, ident: str, error: str | None) -> None:
        """Note a failure; None is a lease that ended without a word."""
        told: dict[str, Any] = {"lost": True} if error is None else {"error": messages.line(error)}
        self._append("failures", ident, json.dumps(told) + "\n")

    def _record(self, ident: str) -> tuple[list[str], int]:
        """Give the errors of a task so far, and how many of its workers vanished."""
        errors, lost = [], 0
        with suppress(FileNotFoundError):
            for text in (self.folder / "failures" / ident).read_text().splitlines():
                with suppress(ValueError):  # a line that a full disk cut short
                    told = json.loads(text)
                    lost += "lost" in told
                    errors += [told["error"]] if "error" in told else []
        return errors, lost

    def _dead(self, name: str) -> Dead:
        text = (self.folder / "dead" / name).read_text(errors="replace")
        try:
            found = messages.read(text)
        except QueueError:
            found = {"raw": text}
        error = None
        with suppress(ValueError, AttributeError):
            told = json.loads(text)
            error = told.get("error")
            found = {"raw": told["raw"]} if "raw" in told else found
        errors, lost = self._record(name.removesuffix(".json"))
        return Dead(found, error or (errors[-1] if errors else VANISHED if lost else "unknown"))

    def _append(self, part: str, name: str, text: str) -> None:
        handle = os.open(self.folder / part / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def _write(self, place: Path, text: str) -> None:
        """Write a file anew, whole."""
        beside = self.folder / "incoming" / str(uuid4())
        try:
            beside.write_text(text)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)

    def _remove(self, part: str, name: str) -> None:
        (self.folder / part / name).unlink(missing_ok=True)

    def _counted(self, more: int) -> None:
        if not more:
            return
        with self._telling(), open(self.folder / "insertions", "a+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            file.seek(0)
            total = int(file.read().strip() or 0) + more
            file.truncate(0)
            file.write(str(total))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what the system says into one line."""
        from segflow.volumes.files import reason

        try:
            yield
        except OSError as error:
            raise QueueError(
                f"the queue {self.address} cannot be used: {reason(error, self.folder)}"
            ) from error


class FolderLease(Leased):
    """A task of a folder; it is ours as long as the file has the name that we gave it."""

    def __init__(self, queue: FolderQueue, name: str) -> None:
        self.queue, self.name = queue, name
        self.ident = name.partition("--")[2].removesuffix(".json")
        self.tries = 1

    @property
    def path(self) -> Path:
        """The task's file."""
        return self.queue.folder / "queue" / self.name

    def rename(self, seconds: float) -> None:
        """Take the file for so many seconds, 0: free it; raise FileNotFoundError if it is not there."""
        expiry = math.ceil(time.time() + seconds) if seconds else 0
        name = f"{expiry}--{self.ident}.json"
        os.rename(self.path, self.path.with_name(name))
        if name != self.name:
            self.name = name
            self.queue._moved(self.ident, name)

    def extend(self, seconds: float) -> None:
        with self._ours():
            self.rename(seconds)

    def done(self) -> None:
        with self._ours():
            self.path.unlink()
            self.queue._remove("movement", self.ident)
            self.queue._remove("failures", self.ident)
            self.queue._append("", "completions", "\0")

    def release(self, error: str | None = None) -> bool:
        with self._ours():
            if error is not None:
                self.queue._failed(self.ident, error)
                if len(self.queue._record(self.ident)[0]) >= self.queue.failures:
                    self.bury(error)
                    return True
            self.rename(0)
        return False

    def bury(self, error: str) -> None:
        """Move the task to the dead-letter place, with its error."""
        place = self.queue.folder / "dead" / f"{self.ident}.json"
        os.rename(self.path, place)
        self.queue._remove("movement", self.ident)
        text = place.read_text(errors="replace")
        try:
            told = self.queue._body(messages.read(text), self.ident)
            told = json.dumps({**json.loads(told), "error": messages.line(error)})
        except QueueError:
            told = json.dumps({"raw": text[:10_000], "error": messages.line(error)})
        self.queue._write(place, told)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        with self.queue._telling():
            try:
                yield
            except FileNotFoundError:
                raise LeaseLost(
                    f"the lease of task {self.message['bbox']} ran out, and another worker has it"
                ) from None


def _expiry(name: str) -> int:
    """Give when the lease in a file's name ends; -1 for names that are none."""
    number, mark, _ = name.partition("--")
    return int(number) if mark and number.isdigit() else -1
