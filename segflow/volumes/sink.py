"""A file object for HDF5 to write to, which survives a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Sink:
    """A file for HDF5 to write to.

    libhdf5 crashes when it cannot close a file. So the first refused write is remembered, and
    what comes after it is kept in memory (HDF5 only closes then); ``check`` raises the refusal.
    """

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self.error: OSError | None = None
        self.late: list[tuple[int, bytes]] = []
        self.at = 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *problem: Any) -> None:
        self.file.close()
        if problem[0] is None:
            self.check()

    def check(self) -> None:
        """Raise the refusal, if there was one."""
        if self.error is not None:
            raise self.error

    # what h5py's file-object driver calls

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        last = max([self.file.seek(0, os.SEEK_END), *(at + len(data) for at, data in self.late)])
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: last}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self.file.fileno(), view[done:], self.at + done)
        except OSError as error:
            self.error = error
        if self.error is not None:
            self.late.append((self.at, bytes(view)))
        self.at += len(view)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        os.preadv(self.file.fileno(), [view], self.at)
        for at, data in self.late:
            low, high = max(at, self.at), min(at + len(data), self.at + len(view))
            if low < high:
                view[low - self.at : high - self.at] = data[low - at : high - at]
        self.at += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(max(0, size))
        return bytes(buffer[: self.readinto(buffer)])

    def truncate(self, size: int | None = None) -> int:
        length = self.at if size is None else size
        if self.error is None:
            os.ftruncate(self.file.fileno(), length)
        return length

    def flush(self) -> None:
        """Nothing is held back."""
