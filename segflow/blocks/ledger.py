"""The work folder of a block job: what is done is what is there, so it is true after any crash.

A job is stages of blocks. Each block leaves one result file, written beside, synced to the disk and
moved to its place: its presence is the block's status. Nothing that is shared is ever changed, but
``plan.json``, which is replaced whole and under a lock::

    WORK/plan.json                   job, options, grid, stages with their parameters and fingerprints
    WORK/STAGE/00000012.npz          result of block 12
    WORK/STAGE/failed/00000012.json  error, host, attempt and time of a block that failed
    WORK/STAGE/running/00000012      who computes it; touched every few seconds
    WORK/STAGE/files/NAME            tables that the stage itself writes

Two processes may compute one block, by an accident of timing: results are whole and identical.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from segflow.blocks.inputs import fingerprint, work_dir_of
from segflow.blocks.plan import FORMAT, Json, make_plan, merge_plans
from segflow.blocks.worker import host, lives, worker_name
from segflow.errors import SegflowError, UsageError, VolumeError
from segflow.geometry import Box, Grid
from segflow.volumes.files import reading, reason
from segflow.volumes.store import locked

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMAT", "Stage", "WorkFolder", "fingerprint", "whole", "work_dir_of"]

BEAT = 5.0  # seconds between two touches of a claim
DEAD = 60.0  # seconds without a touch after which a claim of another machine is void
FORGOTTEN = 3600.0  # seconds after which a temporary file of another machine is


@dataclass(frozen=True)
class Stage:
    """A step of a job over blocks; a global step is a stage of one block.

    Attributes:
        name: of the stage and of the folder of its results.
        count: number of blocks.
        run: computes block i; the arrays it returns become the block's result file.
        after: stages that must be complete before any block of this one starts.
        key: JSON-able parameters, and fingerprints of inputs, that its results depend on.
        boxes: the box of each block (a Grid will do), for messages.
    """

    name: str
    count: int
    run: Callable[[int], Mapping[str, NDArray[Any]] | None]
    after: tuple[str, ...] = ()
    key: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[Box] | None = None

    def label(self, block: int) -> str:
        """Give the block's box, else its number, for messages."""
        return str(self.boxes[block]) if self.boxes is not None else f"block {block}"


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


@dataclass(frozen=True)
class Claim:
    """Who computes a block, since when (seconds since 1970), and seconds since the last sign of life."""

    worker: str
    host: str
    since: float
    age: float

    @property
    def alive(self) -> bool:
        """Whether the block is being computed: the process lives, or beats if it is elsewhere."""
        known = lives(self.worker)
        return self.age < DEAD if known is None else known


class WorkFolder:
    """The work folder of a job, at ``path``; nothing is made before ``begin``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self._held: set[Path] = set()
        self._begun: dict[str, str] = {}

    # -- the plan ---------------------------------------------------------------------------

    def begin(
        self,
        job: str,
        options: Mapping[str, Any],
        stages: Sequence[Stage],
        *,
        grid: Grid | None = None,
        bounds: Box | None = None,
        stale: str = "fail",
    ) -> None:
        """Record what will be done in ``plan.json``, or compare with what is recorded there.

        Stages whose key, count or predecessors differ from the record are stale. Those that have
        results are refused (``stale="fail"``), deleted (``"redo"``) or gone on with (``"keep"``);
        those without are simply recorded anew. Stages that are not named here are left alone.

        Args:
            job: the command's name.
            options: JSON-able; whatever another process needs to join.
            stages: each after its predecessors.
            grid: the blocks, in voxels, zyx.
            bounds: of the volume that they cover.
            stale: fail, redo or keep.

        Raises:
            UsageError: results of another job, grid or of other parameters are there, or are being
                computed. VolumeError: the folder holds other things, or cannot be written.
        """
        new = make_plan(job, options, stages, grid, bounds)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in self.path.iterdir() if "plan.json" not in p.name]
            if foreign and not self._plan.exists():
                raise VolumeError(f"{self.path} holds {foreign[0]} but no plan.json; name another folder")
            with locked(self._plan):
                self._record(new, stale)
        except OSError as error:
            if isinstance(error, VolumeError):
                raise
            raise VolumeError(f"cannot make the work folder {self.path}: {reason(error)}") from error
        self._begun = {stage.name: new["stages"][stage.name]["fingerprint"] for stage in stages}

    @property
    def _plan(self) -> Path:
        return self.path / "plan.json"

    def _record(self, new: Json, stale: str) -> None:
        old = self.plan() if self._plan.exists() else None
        merged, gone = new, list[str]()
        if old is not None:
            have = [n for n in old["stages"] if self._has_work(n)]
            merged, gone = merge_plans(old, new, have, stale, str(self.path))
        if old is not None and gone:
            # Void first: from here on nobody starts a block with the old parameters.
            void = {n: {**s, "fingerprint": None} if n in gone else s for n, s in old["stages"].items()}
            self._write({**old, "stages": void})
            if any(claim.alive for name in gone for claim in self.running(name).values()):
                self._write(old)
                raise UsageError(f"blocks of {self.path} are being computed right now; end that run first")
            for name in gone:
                self.remove(name)
        if merged != old:
            self._write(merged)

    def _has_work(self, stage: str) -> bool:
        """Whether there are results, or blocks that are being computed."""
        done = next(_numbered(self.path / stage, ".npz"), None) is not None
        return done or any(claim.alive for claim in self.running(stage).values())

    def _write(self, plan: Json) -> None:
        with whole(self._plan) as beside:
            beside.write_text(json.dumps(plan, indent=1) + "\n")

    def plan(self) -> Json:
        """Read the plan: format, job, options, grid, bounds, stages.

        Raises:
            VolumeError: there is none, it is broken, or of a newer segflow.
        """
        try:
            text = self._plan.read_text()
        except (FileNotFoundError, NotADirectoryError):
            raise VolumeError(f"{self.path} is no work folder: it has no plan.json") from None
        with reading(self._plan):
            plan: Json = json.loads(text)
            if plan["format"] > FORMAT:
                raise VolumeError(f"{self._plan} is of a newer segflow; use that one")
            return {**plan, "stages": dict(plan["stages"])}

    def check_current(self, stage: str) -> None:
        """Raise SegflowError where another run changed what this one began."""
        now = self.plan()["stages"].get(stage, {}).get("fingerprint")
        if self._begun.setdefault(stage, now) != now or now is None:
            raise SegflowError(f"another run changed the parameters of stage {stage} in {self.path}")

    # -- results ----------------------------------------------------------------------------

    def done(self, stage: str) -> set[int]:
        """Give the blocks that have their result."""
        return set(_numbered(self.path / stage, ".npz"))

    def complete(self, stage: str) -> bool:
        """Whether every block of a stage has its result."""
        count = self.plan()["stages"].get(stage, {}).get("count")
        return count is not None and sum(block < count for block in self.done(stage)) == count

    def result(self, stage: str, block: int) -> Path:
        """Give the place of a block's result, where it may be or not."""
        return self.path / stage / f"{block:08d}.npz"

    def load(self, stage: str, block: int) -> dict[str, NDArray[Any]]:
        """Read what a block's computation returned.

        Raises:
            VolumeError: it is not there, or broken.
        """
        import numpy as np

        path = self.result(stage, block)
        if not path.exists():
            raise VolumeError(f"{path} is missing: block {block} of stage {stage} is not done")
        with reading(path), np.load(path) as held:
            return {name: held[name] for name in held.files}

    def publish(self, stage: str, block: int, arrays: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Write a block's result, whole and synced to the disk; the block is done then."""
        import numpy as np

        with whole(self.result(stage, block)) as beside, beside.open("wb") as file:
            np.savez(file, allow_pickle=False, **(arrays or {}))
        self._failed(stage, block).unlink(missing_ok=True)

    def file(self, stage: str, name: str) -> Path:
        """Give the place of a side file, which a stage writes (see ``whole``) before it publishes."""
        folder = self.path / stage / "files"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    # -- who computes what ------------------------------------------------------------------

    def claim(self, stage: str, block: int) -> bool:
        """Take a block, unless it is done or a live process computes it."""
        path = self.path / stage / "running" / f"{block:08d}"
        if self.result(stage, block).exists() or not self._take(path):
            return False
        self._held.add(path)
        if self.result(stage, block).exists():  # published since we looked
            self.release(stage, block)
            return False
        return True

    def _take(self, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = json.dumps({"worker": worker_name(), "host": host(), "since": time.time()})
        for _ in range(2):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                claim = _read_claim(path)
                if claim is not None and claim.alive:
                    return False
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(handle, "w") as file:
                file.write(mine)
            return True
        return False

    def release(self, stage: str, block: int) -> None:
        """Give a block back."""
        self._let_go(self.path / stage / "running" / f"{block:08d}")

    def _let_go(self, path: Path) -> None:
        self._held.discard(path)
        path.unlink(missing_ok=True)

    @contextmanager
    def heartbeat(self, every: float = BEAT) -> Iterator[None]:
        """Touch what this process claimed every few seconds; at the end give it all back."""
        ended = Event()

        def beat() -> None:
            while not ended.wait(every):
                for path in tuple(self._held):
                    with suppress(OSError):
                        os.utime(path)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for path in tuple(self._held):
                self._let_go(path)

    def running(self, stage: str) -> dict[int, Claim]:
        """Give the claims of blocks that are not done, those of dead processes too."""
        folder, done = self.path / stage / "running", self.done(stage)
        claims = {b: _read_claim(folder / f"{b:08d}") for b in _numbered(folder) if b not in done}
        return {block: claim for block, claim in claims.items() if claim is not None}

    def fail(self, stage: str, block: int, error: str, **more: Any) -> None:
        """Record why a block could not be computed."""
        before = self.failure(stage, block) or {}
        record = {"error": error, "host": host(), "attempt": before.get("attempt", 0) + 1}
        with whole(self._failed(stage, block)) as beside:
            beside.write_text(json.dumps({**record, "time": time.time(), **more}, indent=1) + "\n")

    def failure(self, stage: str, block: int) -> Json | None:
        """Give error, host, attempt and time of a block that failed, None if it did not."""
        path = self._failed(stage, block)
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        with reading(path):
            record: Json = json.loads(text)
            return record

    def failures(self, stage: str) -> dict[int, Json]:
        """Give the records of all blocks that failed and are not done."""
        done = self.done(stage)
        found = {b: self.failure(stage, b) for b in _numbered(self.path / stage / "failed", ".json")}
        return {block: record for block, record in found.items() if record and block not in done}

    def _failed(self, stage: str, block: int) -> Path:
        return self.path / stage / "failed" / f"{block:08d}.json"

    # -- cleaning ---------------------------------------------------------------------------

    def tidy(self, stage: str) -> None:
        """Remove what killed processes left: half-written files, claims that are void."""
        folder = self.path / stage
        for path in (p for name in ("", "failed", "files") for p in (folder / name).glob(".*-*-*.*")):
            writer = lives(path.name[1:].partition(".")[0])
            with suppress(OSError):
                if writer is False or (writer is None and time.time() - path.stat().st_mtime > FORGOTTEN):
                    path.unlink()
        done = self.done(stage)
        for block in _numbered(folder / "running"):
            claim = _read_claim(folder / "running" / f"{block:08d}")
            if block in done or (claim is not None and not claim.alive):
                self.release(stage, block)

    def files(self, stage: str) -> Iterator[Path]:
        """Give the files of a stage: results first, then whatever else it has."""
        folder = self.path / stage
        yield from (self.result(stage, block) for block in _numbered(folder, ".npz"))
        others = ((folder / name).rglob("*") for name in ("files", "failed", "running"))
        yield from (path for found in others for path in found if path.is_file())

    def remove(self, stage: str) -> None:
        """Delete everything of a stage, results first, so that none of its blocks is done."""
        for path in self.files(stage):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / stage, ignore_errors=True)


def _numbered(folder: Path, suffix: str = "") -> Iterator[int]:
    """Give the numbers of the files in a folder that are named by a block."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.removesuffix(suffix)
            if len(name) == 8 and name.isdigit() and entry.name == name + suffix:
                yield int(name)


def _read_claim(path: Path) -> Claim | None:
    """Read a claim; None where it was given back. One that is still being written has no worker."""
    try:
        text, age = path.read_text(), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        told = json.loads(text)
        return Claim(told["worker"], told["host"], told["since"], age)
    except (ValueError, KeyError):
        return Claim("", "", time.time() - age, age)
