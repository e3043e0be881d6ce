"""Run a part of the chain ahead of the rest, in a thread; and how many tasks may be in memory then."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()
MOMENT = 2.0  # seconds
LOOK = 0.1  # seconds between two looks at whether the run was ended


class Room:
    """How many tasks of a chain that is cut into threads may be in memory at once.

    A task is in memory until its state, and all states that were made of it, are gone. Where all
    parts of the chain wait for more, though the room is full, a step holds states on purpose (it
    gathers them, or shows them), so the next one is let in.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.inside = self.parts = 0
        self._idle: set[int] = set()
        self._changed = threading.Condition(threading.RLock())

    def enter(self, stopped: threading.Event) -> None:
        """Wait until one more task may come in, or until ``stopped``."""
        with self._changed:
            while self.inside >= self.tasks and len(self._idle) < self.parts and not stopped.is_set():
                self._changed.wait(LOOK)

    def holds(self, state: Any) -> None:
        """Count a state as inside until it is gone."""
        with self._changed:
            self.inside += 1
        weakref.finalize(state, self._left).atexit = False

    def waits(self, items: queue.Queue[Any]) -> None:
        """Note that the reader of ``items`` waits, if there is nothing in it."""
        with self._changed:
            if items.empty():
                self._idle.add(id(items))
                self._changed.notify_all()

    def gave(self, items: queue.Queue[Any]) -> None:
        """Note that there is something in ``items``."""
        with self._changed:
            self._idle.discard(id(items))

    def _left(self) -> None:
        with self._changed:
            self.inside -= 1
            self._changed.notify_all()


def ahead(
    source: Iterator[T],
    count: int,
    stop: threading.Event | None = None,
    room: Room | None = None,
    door: bool = False,
) -> Iterator[T]:
    """Give what ``source`` gives, up to ``count`` items ahead; errors come through in order.

    When the reader stops early the thread ends before its next item. With ``stop``, which the source
    heeds, that is set then, and the thread is waited for only a moment: a read may take long. With
    ``room`` no more states are in memory than it has room for; ``door`` is where they are counted.

    >>> list(ahead(iter([1, 2, 3]), 1))
    [1, 2, 3]
    """
    items: queue.Queue[Any] = queue.Queue(maxsize=count)
    stopped = threading.Event()
    if room:
        room.parts += 1

    def put(item: Any, last: bool = False) -> bool:
        while not stopped.is_set() and (last or not (stop and stop.is_set())):
            try:
                items.put(item, timeout=LOOK)
                if room:
                    room.gave(items)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            while not stopped.is_set():
                if room and door:
                    room.enter(stopped)
                item = next(source, _END)
                if room and door and getattr(item, "ends", _END) is None:
                    room.holds(item)
                if not put((item, None), item is _END):
                    put((_END, None), True)  # the reader, if there still is one, waits for something
                    return
                if item is _END:
                    return
                del item
        except BaseException as error:
            put((_END, error), True)

    thread = threading.Thread(target=work, daemon=True, name="ahead")
    thread.start()
    yield from _given(source, items, thread, stopped, stop, room)


def _given(
    source: Iterator[T],
    items: queue.Queue[Any],
    thread: threading.Thread,
    stopped: threading.Event,
    stop: threading.Event | None,
    room: Room | None,
) -> Iterator[T]:
    """Give what the thread put into ``items``; end it when the reader wants no more."""
    ended = False
    try:
        while True:
            if room:
                room.waits(items)
            item, error = items.get()
            if error is not None:
                raise error
            if item is _END:
                ended = True
                return
            yield item
            del item
    finally:
        stopped.set()
        if stop is not None and not ended:
            stop.set()
            thread.join(MOMENT)
        else:
            thread.join()
        close = getattr(source, "close", None)
        if close and not thread.is_alive():
            close()
