"""One task of a chain, run aside: no queue is touched, and what it writes goes to another folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.cli.engine import Chain, Step
from segflow.cli.operator import Operator
from segflow.cli.plan import Plan, file_key
from segflow.errors import SegflowError, UsageError

if TYPE_CHECKING:
    from segflow.state import State

SOURCES = ("fetch-task", "generate-tasks", "fetch-task-from-file")
SILENT = ("mark-complete", "skip-task-by-file", "skip-task-by-blocks-in-volume", "cloud-watch",
          "mesh-manifest", "neuroglancer", "view")  # fmt: skip
OUTPUTS = {"mesh": "output_path"}  # written to without being made
LOOKED_AT = 5  # boxes, for one that is not all zero
SAMPLED = 4096  # boxes, for a central one


@dataclass(frozen=True)
class Place:
    """A task: its box at ``mip``; None where the chain takes no tasks."""

    bbox: Any
    mip: int


@dataclass
class Sample:
    """What one task took.

    Attributes:
        count: how many tasks there are.
        bbox: the task's box.
        begin: seconds before its first step: models that are loaded.
        steps: name, seconds and what it uses (io, cpu, gpu) of every step.
        memory: the most that the process held, bytes.
        chunks: bytes of the task's chunks at the end.
        written: address -> (where it went, bytes).
        views: lines that look at what was written.
        notes: what a person should know.
    """

    count: int = 1
    bbox: str | None = None
    begin: float = 0.0
    steps: list[tuple[str, float, str]] = field(default_factory=list)
    memory: int = 0
    chunks: int = 0
    written: dict[str, tuple[str, int]] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """What the task took, one step after the other."""
        return sum(seconds for _, seconds, _ in self.steps)

    def pace(self, prefetch: int) -> float:
        """Give the seconds from one task to the next where parts overlap and 1 + prefetch are in memory."""
        if not prefetch:
            return self.seconds
        parts: list[float] = []
        last = ""
        for _, seconds, uses in self.steps:
            if uses != last:
                parts.append(0.0)
            parts[-1] += seconds
            last = uses
        return max(*parts, self.seconds / (1 + prefetch), 0.0)


class Aside:
    """A chain whose writers are sent to ``folder``.

    Raises:
        UsageError: it cannot be run aside.
    """

    def __init__(self, chain: Chain, folder: Path) -> None:
        self.chain, self.folder = chain, folder
        self.sample = Sample()
        self.moved: dict[str, str] = {}  # file key -> place in the folder
        self.names: dict[str, str] = {}  # address as it was written -> place in the folder
        self._metadata: dict[Path, int] = {}
        self._last: Any = None  # chunk
        found = [s for s in chain.steps if s.name in SOURCES]
        self.source = found[0] if found else None
        if len(found) > 1:
            raise UsageError(f"{found[0].name} and {found[1].name} both give tasks; leave one out")
        self.steps = self._redirected()

    # -- where things go ------------------------------------------------------------------------

    def _redirected(self) -> list[Step]:
        """Give the steps with the paths that they write changed."""
        steps: list[Step] = []
        before: set[str] = set()
        for step, plan, _ in self.chain.check():
            made = set(plan.files) - before
            before = set(plan.files)
            fills = step.options.get("queue_name") or step.options.get("file_path")
            if step.name in ("generate-tasks", "setup-env") and fills:
                raise UsageError(f"{step.name} makes tasks here and runs none; give the workers' line")
            if step.name in SILENT:
                steps.append(replace(step, operator=_quiet(step.operator), options={}, names=[]))
                continue
            if step.name == "downsample" and step.options["volume"] and made:
                self.sample.notes.append(
                    f"downsample was left out: it changes {step.options['volume']} itself"
                )
                steps.append(replace(step, operator=_quiet(step.operator), options={}, names=[]))
                continue
            if step.name == "plugin":
                self.sample.notes.append("plugin ran as it is: if it writes files, it wrote them")
            steps.append(replace(step, options=self._moved(step, made)))
        return steps

    def _moved(self, step: Step, made: set[str]) -> dict[str, Any]:
        options = dict(step.options)
        if step.name in OUTPUTS and not made:
            made = {_keys(options[OUTPUTS[step.name]])[-1]} - set(self.moved)
        for key in made:
            name = next((n for n, v in options.items() if _writes(v, key)), None)
            if name is None:
                raise UsageError(f"{step.name} cannot be run aside: what it writes has no option of its own")
            self._place(str(options[name]), key)
        for name, value in options.items():
            if isinstance(value, str) and not any(p.name == name for p in step.names):
                options[name] = self._moved_path(value)
        return options

    def _moved_path(self, value: str) -> str:
        for key, side in self.moved.items():
            if _writes(value, key):
                return side
            whole = _keys(value)[-1]
            if "*" not in key and whole.startswith(f"{key}/"):
                return side.rstrip("/") + whole[len(key) :]
        return value

    def _place(self, value: str, key: str) -> None:
        """Choose where what is written at ``value`` goes; a volume that is there lends its metadata."""
        form = next((f for f in ("zarr://", "precomputed://") if value.startswith(f)), "")
        parts = [p for p in value.rstrip("/").split("/") if p]
        first = next((i for i, p in enumerate(parts) if "{bbox}" in p), len(parts) - 1)
        name = "/".join(parts[first:])
        taken = {Path(s.rpartition("://")[2]).relative_to(self.folder).parts[0] for s in self.moved.values()}
        base = self.folder / name
        if parts[first] in taken:
            base = self.folder / f"{len(self.moved)}-{name}"
        folder = "/" if key.endswith("/*" + Path(key).suffix) and "{bbox}" not in value else ""
        self.moved[key] = self.names[value] = f"{form}{base}{folder}"
        copy_metadata(value, str(base))
        for path in self._files():
            self._metadata[path] = path.stat().st_size

    def _files(self) -> Iterator[Path]:
        return (p for p in self.folder.rglob("*") if p.is_file())

    # -- which task -----------------------------------------------------------------------------

    def place(self) -> Place:
        """Choose a central task whose input is not all zero, if there is one."""
        if self.source is None:
            return Place(None, self.chain.run.mip)
        self.sample.count, found = candidates(self.source, self.chain.run.mip)
        for place in found[:LOOKED_AT]:
            if self._shows_something(place):
                return place
        seen = min(LOOKED_AT, len(found))
        self.sample.notes.append(f"all {seen} boxes that were looked at are zero" if seen > 1 else
                                 "the only box that was looked at is zero")  # fmt: skip
        return found[0]

    def _shows_something(self, place: Place) -> bool:
        number = next((s.number for s in self.steps if s.operator.section == "Reading"), 0)
        if not number:
            return True
        step = self.steps[number - 1]
        for state in self._chain(self.steps[:number], place).states():
            if step.outputs and step.outputs[0] in state:
                return bool(state[step.outputs[0]].array.any())
        return False

    def _chain(self, steps: Sequence[Step], place: Place) -> Chain:
        """Give the chain of ``steps`` for one task."""
        from segflow.state import Run

        run = Run(mip=self.chain.run.mip, debug=self.chain.run.debug, chain=self.chain.run.chain)
        lease, count = self.chain.run.has_lease, self.sample.count

        def give(state: State) -> Iterator[State]:
            yield state.child(bbox=place.bbox, mip=place.mip, index=0, count=count)

        def plan(plan: Plan, options: dict[str, Any]) -> None:
            plan.bbox, plan.mip, plan.lease = place.bbox, place.mip, lease

        one = Operator(
            give, "Tasks", "expand", "io", source=True, plan=plan, takes=frozenset({"state"}),
        )  # fmt: skip
        given = [
            replace(s, name="task", operator=one, options={}, names=[]) if s.name in SOURCES else s
            for s in steps
        ]
        return Chain(given, run, on_error="stop", prefetch=0)

    # -- the run ---------------------------------------------------------------------------------

    def run(self, place: Place, more: Sequence[Step] = (), at_end: Any = None) -> Sample:
        """Run the task; ``more`` steps are not measured, ``at_end`` is called before viewers hold."""
        import time

        sample = self.sample
        chain = self._chain([*self.steps, *more], place)
        own = len(self.steps)
        seconds = dict.fromkeys(range(1, own + 1), 0.0)
        began = time.perf_counter()
        last = chain.steps[own - 1]

        def ready(**options: Any) -> None:
            if last.operator.prepare:
                last.operator.prepare(**options)
            sample.begin = time.perf_counter() - began

        def ended() -> None:
            self._measure(seconds)
            sample.views = [self._view(line) for line in chain.run.written.values() if line]
            if at_end:
                at_end(sample)

        chain.steps[own - 1] = replace(last, operator=replace(last.operator, prepare=ready))
        chain.at_end = ended
        for state in chain.states():
            for record in state.log:
                if record.step in seconds:
                    seconds[record.step] += record.seconds
            sample.bbox = sample.bbox or (None if state.bbox is None else str(state.bbox))
            self._last = state.get("chunk") or next(iter(state.values()), None)
            sample.chunks = max(sample.chunks, sum(c.array.nbytes for c in state.values()))
            if state.skipped is not None:
                sample.notes.append(f"the task was passed over: {state.skipped}")
            del state
        return sample

    def _view(self, line: str) -> str:
        """Give the line that views a volume, for the task alone: the rest of it is empty."""
        begin, mark, rest = line.partition(" neuroglancer")
        if "read-precomputed" not in begin or self._last is None or "--mip" in begin:
            return line
        box = self._last.bbox
        start, shape = (" ".join(map(str, v)) for v in (box.start, box.shape))
        return f"{begin} --start {start} --size {shape}{mark}{rest}"

    def _measure(self, seconds: dict[int, float]) -> None:
        from segflow.tasks.usage import peak_memory

        sample = self.sample
        sample.steps = [(s.title or s.name, seconds[s.number], s.operator.uses) for s in self.steps]
        sample.memory = peak_memory()
        for address, side in self.names.items():
            start, per_task, _ = side.rpartition("://")[2].partition("{bbox}")
            start = start.rstrip("/")
            own = [
                p for p in self._files()
                if str(p) == start or str(p).startswith(start if per_task else f"{start}/")
            ]  # fmt: skip
            sample.written[address] = (side, sum(p.stat().st_size for p in own if p not in self._metadata))


def _quiet(operator: Operator) -> Operator:
    """Give an operator that does nothing in the place of one that must not run."""
    return Operator(lambda: None, operator.section, "map", operator.uses)


def _keys(value: str) -> list[str]:
    """Give the keys that a plan may have noted for a path: of a file, of a volume."""
    from segflow.volumes import split_address

    try:
        return [file_key(value), file_key(split_address(value)[1])]
    except SegflowError:
        return [file_key(value)]


def _writes(value: Any, key: str) -> bool:
    """Whether the option's value is the path that a plan noted as ``key``."""
    if not isinstance(value, str) or not value:
        return False
    return any(key == own or re.fullmatch(re.escape(own) + r"/\*\.\w+", key) for own in _keys(value))


def copy_metadata(value: str, side: str) -> None:
    """Give a new folder the metadata of the volume at ``value``, if one is there, so that it is alike."""
    from segflow.volumes import split_address
    from segflow.volumes.store import local_path, open_store

    form, place = split_address(value)
    local = local_path(place)
    if "{" in value or (local is not None and not local.is_dir()):
        return
    own, copy = open_store(place), open_store(f"file://{os.path.abspath(side)}")

    def copied(folder: str) -> bool:
        names = ("info",) if form == "precomputed" and not folder else ()
        found = {n: own.get(folder + n) for n in (*names, "zarr.json", ".zgroup", ".zattrs", ".zarray")}
        for name, data in found.items():
            if data is not None:
                copy.put(folder + name, data)
        return any(data is not None for name, data in found.items() if name != "info")

    if copied(""):
        for prefix in ("", "s"):
            any(not copied(f"{prefix}{level}/") for level in range(20))  # until the first that is missing


def candidates(source: Step, mip: int) -> tuple[int, list[Place]]:
    """Give how many tasks a source has, and some of them, the most central first; none is taken.

    Raises:
        SegflowError: there is none.
    """
    from segflow.geometry import Box

    options = {k: v for k, v in source.options.items() if k != "step_name"}
    found: list[tuple[Box, int]] = []
    if source.name == "fetch-task":
        from segflow.tasks.queues import open_queue

        queue = open_queue(options["queue_name"])
        counts = queue.counts()
        count = counts.waiting + counts.running
        for told in queue.peek(100):
            level = told.get("mip")
            found.append((Box.parse(told["bbox"]), mip if level is None else level))
        where = queue.address
    elif source.name == "generate-tasks":
        from segflow.operators.generate_tasks import tasks_of

        level = mip if options["mip"] is None else options["mip"]
        left = {k: v for k, v in options.items() if k not in ("mip", "file_path", "queue_name")}
        tasks = tasks_of(level, **left)
        count, where = len(tasks), "generate-tasks"
        found = [(tasks.box(i), level) for i in _some(tasks.indices)]
    else:
        from segflow.tasks import boxfile

        where = options["path"]
        rows = boxfile.read_boxes(where)
        count = len(rows)
        found = [(box, mip) for _, box in boxfile.boxes_of(rows, _some(range(count)), where)]
    if not found:
        raise SegflowError(f"no task waits in {where}; put some in with generate-tasks")
    return count, [Place(box, level) for box, level in _central(found)]


def _some(indices: range) -> range:
    return indices[:: max(1, len(indices) // SAMPLED)]


def _central(found: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Sort boxes by the distance of their middles from the middle of all."""
    lows = [min(box.start[axis] for box, _ in found) for axis in range(3)]
    highs = [max(box.stop[axis] for box, _ in found) for axis in range(3)]

    def distance(item: tuple[Any, int]) -> float:
        box = item[0]
        return sum(
            ((box.start[a] + box.stop[a] - lows[a] - highs[a]) / max(1, highs[a] - lows[a])) ** 2
            for a in range(3)
        )

    return sorted(found, key=distance)
