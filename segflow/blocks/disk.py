"""Files that are there whole or not at all, and the numbers in their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segflow.blocks.claims import worker_name
from segflow.errors import VolumeError
from segflow.volumes.files import reason


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; on success it is synced and takes its place.

    The name ends as ``path`` does. A process that is killed leaves it behind; it is never read, and
    removed when the stage is worked on again.

    Raises:
        VolumeError: the place cannot be written, or the disk is full.
    """
    beside = path.with_name(f".{worker_name()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        for place, at in ((beside, None), (path.parent, beside)):
            if at is not None:
                os.replace(at, path)
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(f"cannot write {path}: {reason(error, path.parent)}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def numbered(folder: Path, suffix: str = "") -> Iterator[int]:
    """Give the numbers of the files in a folder that are named by a block."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.removesuffix(suffix)
            if len(name) >= 8 and name.isdigit() and entry.name == name + suffix:
                yield int(name)
