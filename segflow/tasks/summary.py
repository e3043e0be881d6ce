"""What the timing logs of many tasks say: a table, JSON, a picture of bars, a Prometheus text file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPLETE = "complete_task"  # the row that adds up all steps of a task
ENDS = ("done", "skipped", "failed")
PEAKS = {"peak_memory": "memory", "device_peak_memory": "device memory"}
USES = {"cpu_use": "busy cores", "device_use": "share of time on the device"}


@dataclass(frozen=True)
class Timing:
    """The seconds that one step took in several tasks; ``share`` is its part of all tasks' time."""

    name: str
    seconds: tuple[float, ...]
    share: float = 0.0

    @property
    def mean(self) -> float:
        """The mean of the tasks in which the step ran."""
        return sum(self.seconds) / len(self.seconds)

    def speed(self, output_size: Sequence[int]) -> float:
        """Give Mvoxel/s for tasks of this size, voxels."""
        return math.prod(output_size) / self.mean / 1e6 if self.mean else math.inf

    def numbers(self, output_size: Sequence[int] | None = None) -> dict[str, float | None]:
        """Give what is told of it, seconds; ``mvoxel_per_s`` with a size of one task, voxels."""
        found: dict[str, float | None] = {
            "n": len(self.seconds), "mean": self.mean, "min": min(self.seconds), "max": max(self.seconds),
            "sum": sum(self.seconds), "share": self.share,
        }  # fmt: skip
        if output_size:
            speed = self.speed(output_size)
            found["mvoxel_per_s"] = speed if math.isfinite(speed) else None
        return found


def timings(logs: Iterable[dict[str, Any]]) -> dict[str, list[Timing]]:
    """Give, for every compute device, the timings of all steps, and of the complete tasks at last.

    Tasks that were skipped or failed do not count; steps that only some tasks have count where they
    are. A log without a device stands under "unknown".

    >>> logs = [{"timer": {"save": 1.0}, "compute_device": "cpu"}, {"timer": {"save": 3.0, "view": 1.0}}]
    >>> [(t.name, t.mean, t.share) for t in timings(logs)["unknown"]]
    [('save', 3.0, 0.75), ('view', 1.0, 0.25), ('complete_task', 4.0, 1.0)]
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
    return {device: _shared(steps) for device, steps in sorted(found.items())}


def _shared(steps: dict[str, list[float]]) -> list[Timing]:
    whole = sum(steps[COMPLETE])
    return [
        Timing(name, tuple(seconds), sum(seconds) / whole if whole else 0.0)
        for name, seconds in steps.items()
    ]


def usages(logs: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Give what the tasks of every compute device took: the largest peaks (bytes), the mean uses.

    >>> usages([{"timer": {}, "peak_memory": 5, "cpu_use": 1.0}, {"timer": {}, "cpu_use": 2.0}])
    {'unknown': {'peak_memory': 5.0, 'cpu_use': 1.5}}
    """
    found: dict[str, dict[str, list[float]]] = {}
    for entry in logs:
        kept = found.setdefault(_device(entry), {})
        for key in (*PEAKS, *USES):
            value = entry.get(key)
            if isinstance(value, (int, float)) and _ended(entry) == "done":
                kept.setdefault(key, []).append(float(value))
    return {
        device: {k: max(v) if k in PEAKS else sum(v) / len(v) for k, v in kept.items()}
        for device, kept in sorted(found.items())
    }


def _device(entry: dict[str, Any]) -> str:
    return str(entry.get("compute_device") or "unknown")


def _ended(entry: dict[str, Any]) -> str:
    return "failed" if entry.get("error") else "skipped" if entry.get("skipped") else "done"


def as_json(logs: Sequence[dict[str, Any]], output_size: Sequence[int] | None = None) -> dict[str, Any]:
    """Give all numbers by compute device: ``tasks`` by how they ended, ``usage``, ``steps``."""
    ends = Counter((_device(entry), _ended(entry)) for entry in logs)
    groups, taken = timings(logs), usages(logs)
    return {
        device: {
            "tasks": {end: ends[device, end] for end in ENDS},
            "usage": taken.get(device, {}),
            "steps": {step.name: step.numbers(output_size) for step in groups.get(device, [])},
        }
        for device in sorted({device for device, _ in ends})
    }


def summary(logs: Sequence[dict[str, Any]], output_size: Sequence[int] | None = None) -> str:
    """Give a table for every compute device: mean, max, min seconds, hours in all, share, mean speed.

    Args:
        logs: as segflow.tasks.log.read_logs gives them.
        output_size: zyx voxels of one task; with it the speed of every step is told.
    """
    groups = timings(logs)
    parts = []
    for device, found in as_json(logs).items():
        done = found["tasks"]["done"]
        counts = [f"{done} task" + "s" * (done != 1)]
        counts += [f"{found['tasks'][end]} {end}" for end in ENDS[1:] if found["tasks"][end]]
        parts.append(f"compute device: {device} ({', '.join(counts)})")
        peaks = [
            f"peak {n} {found['usage'][k] / 1e9:.3g} GB" for k, n in PEAKS.items() if k in found["usage"]
        ]
        uses = [f"{n} {found['usage'][k]:.2f}" for k, n in USES.items() if k in found["usage"]]
        parts += [", ".join(peaks + uses)] if peaks or uses else []
        parts.append(_table(groups[device], output_size) if device in groups else "")
    return "\n".join(parts).rstrip()


def _table(steps: Sequence[Timing], output_size: Sequence[int] | None) -> str:
    heads = ["operator", "tasks", "mean time (s)", "max time (s)", "min time (s)", "sum (hour)", "share (%)"]
    rows = [
        [
            step.name, str(len(step.seconds)), f"{step.mean:.3f}", f"{max(step.seconds):.3f}",
            f"{min(step.seconds):.3f}", f"{sum(step.seconds) / 3600:.4f}", f"{100 * step.share:.1f}",
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


# -- Prometheus ---------------------------------------------------------------------------------


def prometheus(logs: Sequence[dict[str, Any]]) -> str:
    """Give the numbers in Prometheus' text format, for node_exporter's textfile collector.

    ``segflow_tasks{device,end}``, ``segflow_step_seconds{device,step}`` (a summary: _sum and _count),
    ``segflow_step_seconds_min`` and ``_max``, ``segflow_<usage>{device}`` (bytes, cores, a share).
    """
    found = as_json(logs)
    tasks: list[str] = []
    seconds: list[str] = []
    least: list[str] = []
    most: list[str] = []
    taken: dict[str, list[str]] = {key: [] for key in (*PEAKS, *USES)}
    for device, group in found.items():
        for end, count in group["tasks"].items():
            tasks.append(f"segflow_tasks{_labels(device=device, end=end)} {count}")
        for name, step in group["steps"].items():
            labels = _labels(device=device, step=name)
            seconds.append(f"segflow_step_seconds_sum{labels} {step['sum']:.9g}")
            seconds.append(f"segflow_step_seconds_count{labels} {step['n']}")
            least.append(f"segflow_step_seconds_min{labels} {step['min']:.9g}")
            most.append(f"segflow_step_seconds_max{labels} {step['max']:.9g}")
        for key, value in group["usage"].items():
            taken[key].append(f"segflow_{_metric(key)}{_labels(device=device)} {value:.9g}")
    families = [
        ("tasks", "gauge", "Tasks by how they ended.", tasks),
        ("step_seconds", "summary", "Seconds of a step in the tasks that were done.", seconds),
        ("step_seconds_min", "gauge", "Seconds of the step's quickest task.", least),
        ("step_seconds_max", "gauge", "Seconds of the step's slowest task.", most),
        *((_metric(k), "gauge", f"Largest peak {n} of a task, bytes.", taken[k]) for k, n in PEAKS.items()),
        *((_metric(k), "gauge", f"Mean of the tasks: {n}.", taken[k]) for k, n in USES.items()),
    ]
    lines: list[str] = []
    for name, kind, text, samples in families:
        if samples:
            lines += [f"# HELP segflow_{name} {text}", f"# TYPE segflow_{name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _metric(key: str) -> str:
    return f"task_{key}_bytes" if key in PEAKS else f"task_{key}"


def _labels(**labels: str) -> str:
    """Give labels as they stand in the text format.

    >>> _labels(step='a"b')
    '{step="a\\\\"b"}'
    """
    safe = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in safe.items()) + "}"


# -- the picture --------------------------------------------------------------------------------

BAR, GAP, WIDTH = 18, 6, 420  # pixels
BLUE, DARK = "#0072b2", "#222222"


def save_bars(logs: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw the mean seconds of every step as bars, min to max as a line, into a PNG file.

    Raises:
        VolumeError: the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    from segflow.volumes.files import replacing

    font = ImageFont.load_default(12)
    rows: list[Timing | str] = []
    for device, steps in timings(logs).items():
        rows += [f"{device}: mean seconds of {len(steps[-1].seconds)} task(s), min to max", *steps]
    rows = rows or ["no task was done"]
    steps = [row for row in rows if isinstance(row, Timing)]
    left = 16 + max([int(font.getlength(step.name)) for step in steps], default=0)
    longest = max([max(step.seconds) for step in steps], default=0) or 1.0
    picture = Image.new("RGB", (left + WIDTH + 130, (BAR + GAP) * len(rows) + 2 * GAP), "white")
    pen = ImageDraw.Draw(picture)
    for index, row in enumerate(rows):
        top = GAP + index * (BAR + GAP)
        middle = top + BAR / 2
        if isinstance(row, str):
            pen.text((8, middle), row, font=font, fill=DARK, anchor="lm")
            continue
        low, mean, high = (left + v / longest * WIDTH for v in (min(row.seconds), row.mean, max(row.seconds)))
        pen.text((left - 8, middle), row.name, font=font, fill=DARK, anchor="rm")
        pen.rectangle((left, top, max(mean, left + 1), top + BAR), fill=BLUE)
        pen.line((low, middle, high, middle), fill="#d55e00", width=2)
        pen.text(
            (high + 8, middle),
            f"{row.mean:.3g} s, {100 * row.share:.0f} %",
            font=font,
            fill=DARK,
            anchor="lm",
        )
    with replacing(path) as beside:
        picture.save(beside, "PNG")
