"""Timing logs: one JSON file a task, and their summary."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from segflow.errors import VolumeError

if TYPE_CHECKING:
    from segflow.state import Record, State

log = logging.getLogger("segflow")

COMPLETE = "complete_task"  # the row that adds up all steps of a task


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


@dataclass(frozen=True)
class Timing:
    """The seconds that one step took in several tasks."""

    name: str
    seconds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the tasks in which the step ran."""
        return sum(self.seconds) / len(self.seconds)

    def speed(self, output_size: Sequence[int]) -> float:
        """Give Mvoxel/s for tasks of this size, voxels."""
        return math.prod(output_size) / self.mean / 1e6 if self.mean else math.inf


def timings(logs: Iterable[dict[str, Any]]) -> dict[str, list[Timing]]:
    """Give, for every compute device, the timings of all steps, and of the complete tasks at last.

    Tasks that were skipped or failed do not count; steps that only some tasks have count where they
    are. A log without a device stands under "unknown".

    >>> logs = [{"timer": {"save": 1.0}, "compute_device": "cpu"}, {"timer": {"save": 3.0, "view": 1.0}}]
    >>> [(t.name, t.mean) for t in timings(logs)["unknown"]]
    [('save', 3.0), ('view', 1.0), ('complete_task', 4.0)]
    """
    found: dict[str, dict[str, list[float]]] = {}
    for entry in logs:
        if _ended(entry) != "done":
            continue
        steps = found.setdefault(_device(entry), {})
        for name, seconds in entry["timer"].items():
            steps.setdefault(name, []).append(seconds)
        total = sum(entry["timer"].values())
        steps[COMPLETE] = [*steps.pop(COMPLETE, []), total]  # stays the last
    return {
        device: [Timing(name, tuple(seconds)) for name, seconds in steps.items()]
        for device, steps in sorted(found.items())
    }


def summary(logs: Sequence[dict[str, Any]], output_size: Sequence[int] | None = None) -> str:
    """Give a table for every compute device: mean, max, min seconds, hours in all, mean speed.

    Args:
        logs: as ``read_logs`` gives them.
        output_size: zyx voxels of one task; with it the speed of every step is told.
    """
    ends = Counter((_device(entry), _ended(entry)) for entry in logs)
    groups = timings(logs)
    parts = []
    for device in sorted({device for device, _ in ends}):
        done = ends[device, "done"]
        counts = [f"{done} task" + "s" * (done != 1)]
        counts += [f"{ends[device, end]} {end}" for end in ("skipped", "failed") if ends[device, end]]
        parts.append(f"compute device: {device} ({', '.join(counts)})")
        parts.append(_table(groups[device], output_size) if device in groups else "")
    return "\n".join(parts).rstrip()


def _device(entry: dict[str, Any]) -> str:
    return str(entry.get("compute_device") or "unknown")


def _ended(entry: dict[str, Any]) -> str:
    return "failed" if entry.get("error") else "skipped" if entry.get("skipped") else "done"


def _table(steps: Sequence[Timing], output_size: Sequence[int] | None) -> str:
    heads = ["operator", "tasks", "mean time (s)", "max time (s)", "min time (s)", "sum (hour)"]
    rows = [
        [
            step.name, str(len(step.seconds)), f"{step.mean:.3f}", f"{max(step.seconds):.3f}",
            f"{min(step.seconds):.3f}", f"{sum(step.seconds) / 3600:.4f}",
        ]
        for step in steps
    ]  # fmt: skip
    if output_size:
        heads.append("mean speed (Mvoxel/s)")
        for row, step in zip(rows, steps):
            row.append(f"{step.speed(output_size):.3f}")
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
        for row in [heads, *rows]
    ]
    return "\n".join(lines) + "\n"
