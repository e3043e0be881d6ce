"""What the commands that read and write volumes share: the checks before the run."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from segflow.cli.files import before_the_run
from segflow.cli.plan import Plan
from segflow.errors import UsageError
from segflow.geometry import Box

if TYPE_CHECKING:
    from segflow.volumes.base import VolumeInfo


def look(plan: Plan, path: str, mip: int = 0) -> VolumeInfo | None:
    """Describe a volume before the run; None if an earlier step makes it, or it is not told quickly.

    Raises:
        UsageError: it is broken or has no such mip.
    """
    from segflow.volumes import peek, split_address

    with before_the_run():
        return None if plan.made(split_address(path)[1]) else peek(path, mip)


def existing(plan: Plan, path: str, mip: int = 0) -> VolumeInfo | None:
    """Do what ``look`` does, and raise UsageError for a folder or bucket that holds no volume."""
    from segflow.volumes import split_address

    info = look(plan, path, mip)
    form, place = split_address(path)
    known = place.startswith("file://") or (form == "precomputed" and place.startswith("s3://"))
    if info is None and known and not plan.made(place):
        raise UsageError(
            f"there is no {form} volume at {place}{' (no info file)' if form == 'precomputed' else ''}; "
            "make one with write-precomputed or create-info"
        )
    return info


def writable(plan: Plan, path: str) -> None:
    """Raise UsageError unless a volume can be written at ``path``; note that it will be there."""
    from segflow.volumes import split_address

    can_write(path)
    plan.makes(split_address(path)[1])


def can_write(path: str) -> None:
    """Raise UsageError unless a volume can be written at ``path``."""
    from segflow.volumes import split_address
    from segflow.volumes.store import local_path

    form, place = split_address(path)
    folder = local_path(place)
    if form == "n5" or place.startswith("http"):
        raise UsageError(f"{path} can only be read; write to file://, s3://, gs:// or zarr://")
    if folder is not None:
        parent = folder
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            what = "is not a folder" if not parent.is_dir() else "is not writable"
            raise UsageError(f"cannot write {path}: {parent} {what}")


def check_box(box: Box, info: VolumeInfo) -> None:
    """Raise UsageError where ``box`` is empty or wholly outside the volume."""
    if box.empty:
        raise UsageError(f"box {box} is empty; every stop must be greater than its start")
    if box.intersect(info.bounds).empty:
        raise UsageError(
            f"box {box} is wholly outside {info.bounds}, the bounds of {info.path} at mip {info.mip}"
        )


def view_line(volume: Any) -> str:
    """Give the line that looks at a volume, at its finest mip of at most 268 Mvoxel."""
    count = volume.info().mips
    mip = next((m for m in range(count) if volume.info(m).bounds.voxels <= 2**28), count - 1)
    at = f" --mip {mip}" if mip else ""
    return f"segflow read-precomputed -v {shlex.quote(volume.path)}{at} neuroglancer"
