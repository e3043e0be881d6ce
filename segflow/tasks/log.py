"""Timing logs: one JSON file a task."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from segflow.errors import VolumeError

if TYPE_CHECKING:
    from segflow.state import Record, State

log = logging.getLogger("segflow")


def timer(records: Iterable[Record]) -> dict[str, float]:
    """Give the seconds of each step by its name; a second step of the same name is ``NAME#2``.

    >>> from segflow.state import Record
    >>> timer([Record(step, "save", "save", 0.5) for step in (1, 2, 2)])
    {'save': 0.5, 'save#2': 1.0}
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

    ``timer`` holds seconds by step name (so far, of the step that asks), ``records`` every step in
    order, ``bbox`` the task's box (z0-z1_y0-y1_x0-x1, or None), ``compute_device`` the device if one is
    known; in a run also what segflow.tasks.usage.Meter tells: ``peak_memory``, ``device_peak_memory``,
    ``cpu_use``, ``device_use``. ``skipped`` and ``error`` are there only for tasks that ended so.
    """
    records = list(state.log)
    if state.running is not None:
        records.append(replace(state.running, seconds=time.perf_counter() - state.running.seconds))
    found: dict[str, Any] = {
        "timer": timer(records),
        "bbox": None if state.bbox is None else str(state.bbox),
        "records": [
            {"step": r.step, "name": r.name, "operator": r.operator, "seconds": r.seconds} for r in records
        ],
    }
    if state.run.device:
        found["compute_device"] = state.run.device
    if state.run.meter is not None:
        found |= state.run.meter.usage(records)
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
    path = Path(folder).expanduser() / f"{state.label}.json"
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(log_dict(state), indent=1) + "\n")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise VolumeError(f"the log {path} cannot be written: {error.strerror}") from error
    return path


def read_logs(folder: str) -> list[dict[str, Any]]:
    """Read every ``*.json`` timing log of a folder (a path, or file:// s3:// gs://).

    Logs that were encoded as JSON twice are read too; files that are no logs are passed over with a
    warning.

    Raises:
        VolumeError: there is no log.
    """
    from segflow.volumes import bucket_files

    store = bucket_files(folder)
    names = [n for n in store.list() if n.endswith(".json")]
    found = []
    for name in names:
        try:
            value = json.loads(store.get(name) or b"")
            value = json.loads(value) if isinstance(value, str) else value
            value["timer"] = {str(k): float(v) for k, v in value["timer"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            log.warning("%s/%s is no timing log and is left out", folder, name)
            continue
        found.append(value)
    if not found:
        raise VolumeError(f"there is no timing log in {folder}; --log-dir writes them")
    return found
