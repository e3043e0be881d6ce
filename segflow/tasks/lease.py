"""The tasks that a worker holds: a heartbeat keeps them, and each is ended exactly once."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator

from segflow.errors import LeaseLost, QueueError, SegflowError
from segflow.tasks.queues import Leased, Message, Queue
from segflow.tasks.queues.base import poll_max

log = logging.getLogger("segflow")

# boto3's errors of a server that cannot be reached
AWAY = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError")
FIRST_WAIT = 0.5  # seconds between two looks into an empty queue; they grow to poll_max()


class Held:
    """A task that this worker holds (``state.lease``), until all its states came to the chain's end.

    The task counts as done when every one of them was acknowledged, as failed when one failed. If
    they ended without that it is left alone: it returns when its time is over.
    """

    level = 0  # as the mark of an end it belongs to no group of blocks

    def __init__(self, keeper: Keeper, leased: Leased) -> None:
        self.keeper, self.leased = keeper, leased
        self.message: Message = leased.message
        self.tries = leased.tries
        self.error: BaseException | None = None
        self.step = ""  # where it is
        self.lock = threading.Lock()  # between the heartbeat and the end
        self.open = True
        self._acknowledged = self._ended = 0

    @property
    def label(self) -> str:
        """The task's box, for messages."""
        return str(self.message["bbox"])

    def acknowledge(self) -> None:
        """Say that a state of the task is done or skipped."""
        self._acknowledged += 1

    def counts_as_failed(self, error: BaseException) -> bool:
        """Whether this is the first time that the task failed here; it may be tried again."""
        if self.keeper.waits_for(error):
            return False
        first = self.label not in self.keeper.failed
        self.keeper.failed.add(self.label)
        return first

    def note(self, error: BaseException | None = None) -> None:
        """Say that a state of the task came to the end of the chain, perhaps with an error."""
        self._ended += 1
        self.error = self.error or error

    def finish(self) -> None:
        """End the lease: no more states of the task will come.

        Raises:
            SegflowError: so many tasks failed in the same way that the worker shall stop.
        """
        if not self._concluded():
            self.open = False
        self.keeper.ended(self)

    def give_back(self) -> None:
        """End the lease of a task that is not finished, so that another worker takes it."""
        if self._concluded():
            return
        if self._ended:  # came to the end without being acknowledged
            self.open = False
        else:
            self._end(None)

    def extend(self, seconds: float) -> None:
        """Keep the task for so many seconds; if it was lost, say so."""
        with self.lock:
            if not self.open:
                return
            try:
                self.leased.extend(seconds)
            except LeaseLost as error:
                self.open = False
                log.warning("%s; what this one does is not counted", error)
            except QueueError as error:
                log.warning("%s (task %s is kept for now)", error, self.label)

    def _concluded(self) -> bool:
        """Tell the queue how the task ended, where that is known; give whether it is."""
        if self.error is not None:
            self._end(None if self.keeper.waits_for(self.error) else True)
        elif self._ended and self._acknowledged >= self._ended:
            self._end(False)
        else:
            return False
        return True

    def _end(self, failed: bool | None) -> None:
        """Tell the queue: failed, done (False) or given back (None)."""
        with self.lock:
            if not self.open:
                return
            self.open = False
            try:
                if failed is False:
                    self.leased.done()
                elif self.leased.release(None if failed is None else text_of(self.error)):
                    count = self.keeper.queue.failures
                    log.error("task %s failed %d time%s and is dead", self.label, count, "s" * (count != 1))
            except LeaseLost as error:
                log.warning("%s; the task will be done again", error)
            except QueueError as error:
                log.warning("%s; telling it again later", error)
                self.keeper.unsaid.append((self, failed and None))


class Keeper:
    """Takes tasks from a queue for one run, keeps them by a heartbeat, and gives them back at the end.

    Args:
        queue: where the tasks come from.
        seconds: how long a lease is; it is extended every third of that.
        stop: set when the run shall end.
        row: so many different tasks that fail equally, one after the other, stop the worker.
        most: so many tasks are held at once; what that takes of memory is known before the run.
        longest: a task hangs that is not done after so many seconds, and fails.
        hung: called then; it ends the process. Without it the rest of the run goes on.
    """

    def __init__(
        self, queue: Queue, seconds: float, stop: threading.Event, *, row: int = 3, most: int = 1,
        longest: float = math.inf, hung: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.queue, self.seconds, self.stop, self.row = queue, seconds, stop, row
        self.most, self.longest, self.hung = most, longest, hung
        self._retries = self._away = 0  # so often a server may be, and was, away one after the other
        self._moved = 0.0  # when a task began or ended, by time.monotonic()
        self.failed: set[str] = set()  # the tasks that failed here
        self.unsaid: list[tuple[Held, bool | None]] = []  # ends that the queue could not be told
        self._held: list[Held] = []
        self._trouble: QueueError | None = None  # what the queue said to the last look
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._kind = self._told = ""  # of the last failures
        self._equal: set[str] = set()  # the tasks that failed so, one after the other
        threading.Thread(target=self._beat, daemon=True, name="lease").start()

    def tasks(self, retries: int, most: int | None = None) -> Iterator[Held]:
        """Give tasks until the queue was found empty ``retries`` times more, or ``most`` of them.

        The waits grow to SEGFLOW_POLL_MAX seconds (default 10). While tasks of this run are unfinished
        they may come back, so the queue is not given up.
        """
        count = tries = 0
        longest = poll_max()
        wait = min(FIRST_WAIT, longest)
        self._retries = retries
        while (most is None or count < most) and self._has_room():
            if self._away and self.stop.wait(min(FIRST_WAIT * 2 ** min(self._away, 10), longest)):
                return
            self._say_again()
            held = self._take()
            if held is not None:
                count, tries, wait = count + 1, 0, min(FIRST_WAIT, longest)
                yield held
                continue
            if not self._held:
                if tries >= retries:
                    if self._trouble is not None:
                        raise self._trouble
                    return
                tries += 1
                if tries == 1 and self._trouble is None:
                    log.info("nothing is free in %s; asking again, %d at most", self.queue.address, retries)
            if self.stop.wait(wait):
                return
            wait = min(2 * wait, longest)

    def waits_for(self, error: BaseException) -> bool:
        """Whether a task did not fail, but its storage is away: it is done again after a wait."""
        return self._away < self._retries and is_away(error)

    def same(self, error: BaseException) -> bool:
        """Whether the failure that was told before was just like that."""
        kind = kind_of(error)
        with self._lock:
            same, self._told = kind == self._told, kind
        return same

    def ended(self, held: Held) -> None:
        """Let go of a task; count failures.

        Raises:
            SegflowError: the limit of equal failures is reached.
        """
        with self._lock:
            self._moved = time.monotonic()
            if held in self._held:
                self._held.remove(held)
            self._room.notify_all()
        if held.error is not None and self.waits_for(held.error):
            self._away += 1
            return
        self._away = 0
        if held.error is None:
            self._kind, self._told, self._equal = "", "", set()
            return
        kind = kind_of(held.error)
        if kind != self._kind:
            self._kind, self._equal = kind, set()
        self._equal.add(held.label)
        if len(self._equal) >= self.row > 0:
            raise SegflowError(
                f"{len(self._equal)} tasks failed in the same way, one after another, so this worker stops: "
                f"{text_of(held.error)}"
            )

    def close(self) -> None:
        """Give back what is held."""
        self._closed.set()
        with self._lock:
            held, self._held = self._held, []
        for one in held:
            one.give_back()
        self._say_again()

    def _say_again(self) -> None:
        """Tell the queue the ends of tasks that it could not be told."""
        unsaid, self.unsaid = self.unsaid, []
        for held, failed in unsaid:
            held.open = True
            held._end(failed)

    def _has_room(self) -> bool:
        """Wait until another task may be held; tell whether the run goes on."""
        with self._room:
            while len(self._held) >= self.most and not self.stop.is_set():
                self._room.wait(0.1)
        return not self.stop.is_set()

    def _take(self) -> Held | None:
        self._trouble = None
        try:
            leased = self.queue.lease(self.seconds)
        except QueueError as error:
            log.warning("%s; asking again", error)
            self._trouble = error
            return None
        if leased is None:
            return None
        held = Held(self, leased)
        with self._lock:
            if not self._closed.is_set():
                self._moved = self._moved if self._held else time.monotonic()
                self._held.append(held)
                return held
        held.give_back()
        return None

    def _beat(self) -> None:
        while not self._closed.wait(min(self.seconds, self.longest) / 3):
            with self._lock:
                held = [one for one in self._held if one.open]
                late = held and time.monotonic() - self._moved >= self.longest
            if late:
                self._give_up(held[0])
            for one in held:
                one.extend(self.seconds)

    def _give_up(self, held: Held) -> None:
        """Let a task fail that hangs: the heartbeat would keep it for ever."""
        self._moved = time.monotonic()
        where = f"{held.step}: " if held.step else ""
        told = f"{where}not done after {self.longest:g} s, so it hangs, or needs more --max-time"
        error = SegflowError(told)
        log.error("segflow fetch-task: task %s: %s", held.label, error)
        held.note(error)
        held.give_back()
        if self.hung is not None:
            self.close()
            self.hung()


def is_away(error: BaseException | None) -> bool:
    """Whether a server could not be reached: it restarts, say.

    >>> is_away(ConnectionRefusedError()), is_away(ValueError())
    (True, False)
    """
    while error is not None:
        if isinstance(error, ConnectionError) or type(error).__name__ in AWAY or "CURL error" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def text_of(error: BaseException | None) -> str:
    """Give an error in a line, with the step where it arose."""
    step = getattr(error, "segflow_step", None)
    text = " ".join(str(error).split())
    if not isinstance(error, SegflowError):
        text = f"{type(error).__name__}: {text}"
    return f"{step.name}: {text}" if step else text


def kind_of(error: BaseException) -> str:
    """Give what two equal failures share: the error without its numbers."""
    return re.sub(r"\d+", "#", text_of(error))
