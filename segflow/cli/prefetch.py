"""Run a part of the chain ahead of the rest, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()
MOMENT = 2.0  # seconds


def ahead(source: Iterator[T], count: int, stop: threading.Event | None = None) -> Iterator[T]:
    """Give what ``source`` gives, up to ``count`` items ahead; errors come through in order.

    When the reader stops early the thread ends before its next item. With ``stop``, which the source
    heeds, that is set then, and the thread is waited for only a moment: a read may take long.

    >>> list(ahead(iter([1, 2, 3]), 1))
    [1, 2, 3]
    """
    # between the tasks of a queue go the marks of their ends, and the tasks are bounded where they come from
    items: queue.Queue[Any] = queue.Queue(maxsize=count if stop is None else 2 * count)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set() and not (stop and stop.is_set()):
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in source:
                if not put((item, None)):
                    return
                del item
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, daemon=True, name="ahead")
    thread.start()
    ended = False
    try:
        while True:
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
