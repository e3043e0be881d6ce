"""Serving what is looked at: the address, its tunnel, and holding the process until Ctrl+C."""

from __future__ import annotations

import errno
import getpass
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol, TypeVar

from segflow.errors import UsageError

log = logging.getLogger("segflow")

GRACE = 0.5  # seconds a signal waits for the stream to end before it interrupts the run


class Viewer(Protocol):
    """Something that is served at ``url`` until it is closed."""

    url: str

    def close(self) -> None:
        """Stop serving."""


V = TypeVar("V", bound=Viewer)


class Stop:
    """SIGINT and SIGTERM while something is served.

    Once the stream has ended they end the viewing, which is no failure. Before that the first one
    gives the stream ``GRACE`` seconds to end, then it (or the second) interrupts the run.
    """

    def __init__(self) -> None:
        self.asked = False
        self.holding = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Take the signals, where this is the main thread."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                self._before[number] = signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self.holding:
            raise KeyboardInterrupt
        self.asked = True
        if not self.holding:
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def wait(self) -> None:
        """Return when a signal has come; then the signals are as they were before."""
        self.holding = True
        self.watch()
        while not self.asked:
            time.sleep(0.1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Serving:
    """What one run serves: viewers by name, held together until a signal comes."""

    def __init__(self) -> None:
        self.viewers: dict[str, Viewer] = {}
        self.stop = Stop()

    @classmethod
    def of(cls, memory: dict[str, Any]) -> Serving:
        """Give that of the run whose ``memory`` this is."""
        found: Serving = memory.setdefault("serving", cls())
        return found

    def viewer(self, key: str, make: Callable[[], V]) -> V:
        """Give the viewer ``key``; the first time it is made."""
        if key not in self.viewers:
            self.viewers[key] = make()
        return self.viewers[key]  # type: ignore[return-value]

    def hold(self) -> None:
        """Serve until Ctrl+C or SIGTERM, with or without a terminal.

        Returns at once if nothing is served.
        """
        if not self.viewers:
            return
        log.info("serving; Ctrl+C ends it")
        self.stop.wait()
        for viewer in self.viewers.values():
            viewer.close()
        self.viewers = {}


def announce(url: str, port: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Give the lines that say where to look: the address and, over SSH, the tunnel to it.

    >>> announce("http://127.0.0.1:8080/", 8080, {"SSH_CONNECTION": "10.0.0.2 5000 10.0.0.9 22"})[1]
    'from your own machine: ssh -L 8080:127.0.0.1:8080 ...@10.0.0.9'
    """
    lines = [url]
    if environment.get("SSH_CONNECTION"):
        words = environment["SSH_CONNECTION"].split()
        host = words[2] if len(words) == 4 else socket.gethostname()
        other = f" -p {words[3]}" if len(words) == 4 and words[3] != "22" else ""
        try:
            user = f"{getpass.getuser()}@"
        except (KeyError, OSError):
            user = ""
        lines.append(f"from your own machine: ssh{other} -L {port}:127.0.0.1:{port} {user}{host}")
    return lines


def host_of(bind: str) -> str:
    """Give the host part of an address for what listens at ``bind``.

    >>> host_of("127.0.0.1"), host_of("::1")
    ('127.0.0.1', '[::1]')
    """
    name = socket.gethostname() if bind in ("0.0.0.0", "::", "") else bind
    return f"[{name}]" if ":" in name else name


def check_port(bind: str, port: int) -> None:
    """Try to listen at ``bind`` and ``port`` (0: any).

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except (OSError, OverflowError) as error:
        raise UsageError(port_message(bind, port, error)) from error


def port_message(bind: str, port: int, error: BaseException) -> str:
    """Say why nothing can be served at ``bind`` and ``port``."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"port {port} is in use; give another one to --port (0: any free one)"
    if number in (errno.EACCES, errno.EPERM):
        return f"port {port} needs more rights; give one above 1023 to --port (0: any free one)"
    if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return f"'{bind}' is no address of this machine; give --bind 127.0.0.1 (this machine only) or 0.0.0.0"
    return f"cannot serve at {bind} port {port}: {error}"
