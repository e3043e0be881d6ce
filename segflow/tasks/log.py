"""Timing logs: one JSON file a task, and their summary."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from segflow.errors import VolumeError

if TYPE_CHECKING:
    from segflow.state import Record, State

UNKNOWN_DEVICE = "unknown"


def timer(records: Iterable[Record]) -> dict[str, float]:
    """Give the seconds of each step by its name; a second step of the same name is ``NAME#2``.

    >>> from segflow.state import Record
    >>> timer([Record(1, "save", "save", 1.0), Record(2, "save", "save", 2.0), Record(2, "save", "save", 0.5)])
    {'save': 1.0, 'save#2': 2.5}
    """
    keys: dict[tuple[int, str], str] = {}
    seconds: dict[str, float] = {}
    for record in records:
        place = (record.step, record.name)
        if place not in keys:
            count = 1 + sum(name == record.name for _, name in keys)
            keys[place] = record.name if count == 1 else f"{record.name}#{count}"
        seconds[keys[place]] = seconds.get(keys[place], 0.0) + record.seconds
    return seconds


def log_dict(state: State) -> dict[str, Any]:
    """Give the log of one task.

    ``timer`` holds seconds by step name, ``records`` every step in order, ``bbox`` the task's box
    (z0-z1_y0-y1_x0-x1, or None), ``compute_device`` the device if one is known; ``skipped`` and
    ``error`` are there only for tasks that ended so.
    """
    found: dict[str, Any] = {
        "timer": timer(state.log),
        "bbox": None if state.bbox is None else str(state.bbox),
        "records": [
            {"step": r.step, "name": r.name, "operator": r.operator, "seconds": r.seconds} for r in state.log
        ],
    }
    if state.run.device:
        found["compute_device"] = state.run.device
    if state.skipped is not None:
        found["skipped"] = state.skipped
    if state.error is not None:
        found["error"] = str(state.error)
    return found


def write_log(state: State, folder: str | Path) -> Path:
    """Write a task's log as ``<bbox>.json`` (else ``<index>.json``) into ``folder``; give its path.

    Raises:
        VolumeError: the folder or file cannot be written.
    """
    place = Path(folder).expanduser()
    path = place / f"{state.label}.json"
    beside = place / f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(log_dict(state), indent=1) + "\n")
        os.replace(beside, path)
    except OSError as error:
        raise VolumeError(f"the log {path} cannot be written: {os.strerror(error.errno or 0)}") from error
    finally:
        beside.unlink(missing_ok=True)
    return path
