"""What is done of a block job, read from its work folder: as a table, as JSON, as a map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.claims import Claim
from segflow.blocks.ledger import WorkFolder
from segflow.blocks.plan import Json, is_stale
from segflow.errors import UsageError
from segflow.geometry import Box, Grid

COLOURS = {
    "missing": (205, 205, 205),
    "done": (46, 160, 67),
    "running": (31, 119, 220),
    "failed": (214, 39, 40),
}
LISTED = 20  # blocks that a table lists of a kind


@dataclass(frozen=True)
class StageStatus:
    """One stage: which of its ``count`` blocks are done, being computed, or failed.

    ``boxwise`` says that its blocks are those of the job's grid, ``stale`` that earlier stages were
    computed anew with other parameters since, ``kept`` which changes its results outlived.
    """

    name: str
    count: int
    done: frozenset[int]
    running: dict[int, Claim]
    failed: dict[int, Json]
    boxwise: bool = False
    stale: bool = False
    kept: tuple[str, ...] = ()

    @cached_property
    def missing(self) -> list[int]:
        """The blocks that are nothing of this."""
        return [b for b in range(self.count) if not (b in self.done or b in self.running or b in self.failed)]


@dataclass(frozen=True)
class Status:
    """What is done of a job."""

    path: str
    job: str
    stages: tuple[StageStatus, ...]
    grid: Grid | None = None
    bounds: Box | None = None

    @property
    def complete(self) -> bool:
        """Whether every block is done."""
        return all(len(s.done) == s.count for s in self.stages)

    @property
    def stopped_by_failure(self) -> bool:
        """Whether blocks failed and none is being computed."""
        return any(s.failed for s in self.stages) and not any(s.running for s in self.stages)

    def label(self, stage: StageStatus, block: int) -> str:
        """Give a block's box, else its number."""
        if self.grid is None or not stage.boxwise:
            return f"block {block}"
        box = self.grid[block]
        return str(box if self.bounds is None else box.intersect(self.bounds))


def survey(folder: WorkFolder) -> Status:
    """Read the status of a job: its plan, and what the folders of its stages hold.

    Raises:
        VolumeError: it is no work folder.
    """
    plan = folder.plan()
    grid = (
        Grid(*(tuple(plan["grid"][w]) for w in ("start", "size", "stride", "counts")))
        if plan["grid"]
        else None
    )
    stages = []
    for name, entry in plan["stages"].items():
        running = {b: c for b, c in folder.running(name).items() if c.alive}
        failed = {b: f for b, f in folder.failures(name).items() if b not in running}
        done = frozenset(b for b in folder.done(name) if b < entry["count"])
        boxwise = grid is not None and entry["count"] == len(grid)
        stale, kept = is_stale(plan["stages"], name), tuple(entry.get("kept", ()))
        stages.append(StageStatus(name, entry["count"], done, running, failed, boxwise, stale, kept))
    bounds = Box.parse(plan["bounds"]) if plan["bounds"] else None
    return Status(str(folder.path), plan["job"], tuple(stages), grid, bounds)


def as_json(status: Status) -> Json:
    """Give everything as JSON: of each stage the blocks by state, with what is known of them."""

    def stage_json(stage: StageStatus) -> Json:
        def blocks(found: dict[int, Any]) -> list[Json]:
            return [{"block": b, "box": status.label(stage, b), **found[b]} for b in sorted(found)]

        claims = {
            b: {"host": c.host, "since": c.since, "heartbeat_age": c.age} for b, c in stage.running.items()
        }
        return {
            "name": stage.name, "total": stage.count, "stale": stage.stale, "kept": list(stage.kept),
            "done": sorted(stage.done), "running": blocks(claims), "failed": blocks(stage.failed),
            "missing": stage.missing,
        }  # fmt: skip

    about = {"work_dir": status.path, "job": status.job, "complete": status.complete}
    return {**about, "stages": [stage_json(s) for s in status.stages]}


def table(status: Status) -> str:
    """Give the status for people: a row a stage, the running and failed blocks, one line for all."""
    width = max([len(s.name) for s in status.stages] + [5])
    words = ("done", "running", "failed", "missing", "total")
    lines = [f"{'stage':{width}}" + "".join(f"{word:>10}" for word in words)]
    for s in status.stages:
        numbers = (len(s.done), len(s.running), len(s.failed), len(s.missing), s.count)
        notes = ["stale: earlier stages were redone"] * s.stale + [f"kept from before {k}" for k in s.kept]
        lines.append(
            f"{s.name:{width}}" + "".join(f"{n:10d}" for n in numbers) + "".join(f"  {n}" for n in notes)
        )
    for s in status.stages:
        lines += _listed(f"running, stage {s.name}:", [
            f"{status.label(s, b)}  {c.host}, since {_clock(c.since)}, heartbeat {c.age:.0f} s ago"
            for b, c in sorted(s.running.items())
        ])  # fmt: skip
        lines += _listed(f"failed, stage {s.name}:", [
            f"{status.label(s, b)}  {f['error']} ({f['host']}, attempt {f['attempt']}, {_clock(f['time'])})"
            for b, f in sorted(s.failed.items())
        ])  # fmt: skip
    return "\n".join([*lines, summary(status)])


def summary(status: Status) -> str:
    """Give one line about the whole job."""
    total = sum(s.count for s in status.stages)
    done, running, failed = (
        sum(len(getattr(s, w)) for s in status.stages) for w in ("done", "running", "failed")
    )
    if status.complete:
        return f"{status.job}: all {total} blocks are done"
    share = int(100 * done / total)
    return f"{status.job}: {done} of {total} blocks done ({share} %), {running} running, {failed} failed"


def _listed(title: str, lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - LISTED} more; --json lists all"] if len(lines) > LISTED else []
    return [title, *(f"  {line}" for line in [*lines[:LISTED], *more])] if lines else []


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class Map:
    """The picture of a job: for each stage over the grid its cells, sections of the grid side by side."""

    GAP, TITLE = 8, 18  # pixels between sections, and for a line of text

    def __init__(self, status: Status) -> None:
        self.stages = [s for s in status.stages if s.boxwise]
        if status.grid is None or not self.stages:
            raise UsageError(f"a map shows the blocks of a grid, and the job in {status.path} has none")
        self.counts = status.grid.counts
        _, rows, columns = self.counts
        self.cell = max(1, min(14, 640 // max(rows, columns)))
        self.across = max(1, min(self.counts[0], 1600 // (columns * self.cell + self.GAP)))
        lines = -(-self.counts[0] // self.across)
        self.height = self.TITLE + lines * (rows * self.cell + self.GAP)

    def corner(self, row: int, z: int) -> tuple[int, int]:
        """Give the pixel (y, x) where section ``z`` of the stage in ``row`` begins."""
        line, place = divmod(z, self.across)
        y = self.TITLE + row * self.height + self.TITLE + line * (self.counts[1] * self.cell + self.GAP)
        return y, self.GAP + place * (self.counts[2] * self.cell + self.GAP)

    def centre(self, row: int, block: int) -> tuple[int, int]:
        """Give the pixel (y, x) in the middle of a block's cell."""
        z, y, x = (int(i) for i in np.unravel_index(block, self.counts))
        top, left = self.corner(row, z)
        return top + y * self.cell + self.cell // 2, left + x * self.cell + self.cell // 2

    def draw(self) -> NDArray[np.uint8]:
        """Draw it: uint8, (y, x, 3)."""
        from PIL import Image, ImageDraw

        width = max(420, self.GAP + self.across * (self.counts[2] * self.cell + self.GAP))
        picture = Image.new("RGB", (width, self.TITLE + len(self.stages) * self.height), "white")
        pen, left = ImageDraw.Draw(picture), self.GAP
        for word, colour in COLOURS.items():
            pen.rectangle((left, 4, left + 9, 13), fill=colour)
            pen.text((left + 14, 3), word, fill="black")
            left += 80
        for row, stage in enumerate(self.stages):
            title = f"{stage.name}: {len(stage.done)} of {stage.count}, sections z 0 to {self.counts[0] - 1}"
            pen.text((self.GAP, self.corner(row, 0)[0] - 14), title, fill="black")
        canvas = np.array(picture)
        for row, stage in enumerate(self.stages):
            for z, section in enumerate(self._cells(stage)):
                top, left = self.corner(row, z)
                canvas[top : top + section.shape[0], left : left + section.shape[1]] = section
        return canvas

    def _cells(self, stage: StageStatus) -> NDArray[np.uint8]:
        """Give the coloured cells: (z, y, x, 3), with white lines between cells that have room for them."""
        codes = np.zeros(stage.count, np.uint8)
        found: tuple[Sequence[int], ...] = (list(stage.done), list(stage.running), list(stage.failed))
        for code, blocks in enumerate(found, 1):
            codes[list(blocks)] = code
        cells = np.array(list(COLOURS.values()), np.uint8)[codes.reshape(self.counts)]
        cells = cells.repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        if self.cell > 3:
            cells[:, self.cell - 1 :: self.cell] = 255
            cells[:, :, self.cell - 1 :: self.cell] = 255
        return cells
