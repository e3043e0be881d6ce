"""Marks: files, often empty, that tell by their names which tasks are done."""

from __future__ import annotations

from segflow.errors import UsageError
from segflow.geometry import Box
from segflow.volumes.store import Store


def mark(prefix: str, box: Box | None, suffix: str = "", adjust_size: int | None = None) -> str:
    """Give the address of a task's file: PREFIX<box>SUFFIX, with the box as z0-z1_y0-y1_x0-x1.

    Args:
        prefix: path or address that the box follows.
        box: the task's.
        suffix: what follows the box.
        adjust_size: grow the box in the name by this on every face, voxels.

    Raises:
        UsageError: the task has no box.

    >>> mark("done/", Box((0, 0, 0), (8, 64, 64)), ".h5", 1)
    'done/-1-9_-1-65_-1-65.h5'
    """
    if box is None:
        raise UsageError("the task has no box, which its file is named by; begin with generate-tasks")
    return f"{prefix}{box.grow(adjust_size or 0)}{suffix}"


def size_of(address: str) -> int | None:
    """Give the bytes of a file at a path, file://, s3:// or gs:// address; None if there is none.

    Raises:
        VolumeError: the place cannot be reached.
    """
    store, name = _place(address)
    return store.size(name)


def touch(address: str) -> None:
    """Make an empty file, and its folder; a file that is there is left as it is.

    Raises:
        VolumeError: it cannot be written.
    """
    store, name = _place(address)
    store.put_if(name, b"", None)


def _place(address: str) -> tuple[Store, str]:
    from segflow.volumes import bucket_files

    folder, _, name = address.rpartition("/")
    if not folder.strip("/") and address.startswith("/"):
        folder = "/"
    return bucket_files(folder or "."), name
