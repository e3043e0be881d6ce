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
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

from segflow.blocks.claims import Claim, Claims, lives
from segflow.blocks.disk import numbered, whole
from segflow.blocks.inputs import fingerprint, work_dir_of
from segflow.blocks.plan import FORMAT, Json, changes, make_plan, merge_plans
from segflow.errors import SegflowError, UsageError, VolumeError
from segflow.geometry import Box, Grid
from segflow.volumes.files import reading, reason
from segflow.volumes.store import locked

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMAT", "Stage", "WorkFolder", "fingerprint", "whole", "work_dir_of"]

FORGOTTEN = 3600.0  # seconds after which a temporary file of another machine is void


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


class WorkFolder:
    """The work folder of a job, at ``path``; nothing is made before ``begin``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self._claims = Claims()
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
            stages: each after its predecessors, which may be recorded stages that are not named.
            grid: the blocks, in voxels, zyx.
            bounds: of the volume that they cover.
            stale: fail, redo or keep.

        Raises:
            UsageError: results of another job, grid or of other parameters are there, or are being
                computed. VolumeError: the folder holds other things, or cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in self.path.iterdir() if "plan.json" not in p.name]
            if foreign and not self._plan.exists():
                raise VolumeError(f"{self.path} holds {foreign[0]} but no plan.json; name another folder")
            with locked(self._plan):
                for half_written in self.path.glob(".*.plan.json"):
                    half_written.unlink()
                old = self.plan() if self._plan.exists() else None
                known = old["stages"] if old else {}
                new = make_plan(job, options, stages, grid, bounds, known)
                self._record(old, new, stale)
        except OSError as error:
            if isinstance(error, VolumeError):
                raise
            raise VolumeError(f"cannot write the work folder {self.path}: {reason(error)}") from error
        self._begun = {stage.name: new["stages"][stage.name]["fingerprint"] for stage in stages}

    def join(self, stages: Sequence[Stage]) -> None:
        """Work on what another process recorded, as ``begin`` in that one allows it.

        Raises:
            UsageError: these stages are not recorded, or otherwise. VolumeError: there is no plan.
        """
        plan = self.plan()
        mine = make_plan(plan["job"], {}, stages, known=plan["stages"])["stages"]
        for name, stage in mine.items():
            there = plan["stages"].get(name)
            if there is None or there["fingerprint"] != stage["fingerprint"]:
                told = ", ".join(changes(there, stage)) if there else "not begun"
                raise UsageError(
                    f"stage {name} in {self.path} is another one ({told or 'of other stages before it'}); "
                    "begin it with this segflow, without --join"
                )
        self._begun = {name: stage["fingerprint"] for name, stage in mine.items()}

    @property
    def _plan(self) -> Path:
        return self.path / "plan.json"

    def _record(self, old: Json | None, new: Json, stale: str) -> None:
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
        done = next(numbered(self.path / stage, ".npz"), None) is not None
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
        return set(numbered(self.path / stage, ".npz"))

    def complete(self, stage: str) -> bool:
        """Whether every block of a stage has its result."""
        count = self.plan()["stages"].get(stage, {}).get("count")
        return count is not None and sum(block < count for block in self.done(stage)) == count

    def result(self, stage: str, block: int) -> Path:
        """Give the place of a block's result, where it may be or not."""
        return self.path / stage / f"{block:08d}.npz"

    def load(self, stage: str, block: int, *names: str) -> dict[str, NDArray[Any]]:
        """Read what a block's computation returned: the arrays ``names``, default all.

        Raises:
            VolumeError: it is not there, or broken.
        """
        import numpy as np

        path = self.result(stage, block)
        if not path.exists():
            raise VolumeError(f"{path} is missing: block {block} of stage {stage} is not done")
        try:
            with reading(path), np.load(path) as held:
                return {name: held[name] for name in names or held.files}
        except VolumeError as error:
            raise VolumeError(f"{error}; delete this file and run the same line again") from error

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
        result = self.result(stage, block)
        if result.exists() or not self._claims.take(self._running(stage, block)):
            return False
        if result.exists():  # published since we looked
            self.release(stage, block)
            return False
        return True

    def release(self, stage: str, block: int) -> None:
        """Give a block back."""
        self._claims.give_back(self._running(stage, block))

    def heartbeat(self) -> AbstractContextManager[None]:
        """Keep this process's claims alive; at the end give them all back."""
        return self._claims.heartbeat()

    def running(self, stage: str) -> dict[int, Claim]:
        """Give the claims of blocks that are not done, those of dead processes too."""
        done = self.done(stage)
        return {block: claim for block, claim in self._all_claims(stage).items() if block not in done}

    def _all_claims(self, stage: str) -> dict[int, Claim]:
        found = {b: Claim.read(self._running(stage, b)) for b in numbered(self.path / stage / "running")}
        return {block: claim for block, claim in found.items() if claim is not None}

    def fail(self, stage: str, block: int, error: str, **more: Any) -> None:
        """Record why a block could not be computed."""
        before = self.failure(stage, block) or {}
        record = {"error": error, "host": gethostname(), "attempt": before.get("attempt", 0) + 1}
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
        found = {b: self.failure(stage, b) for b in numbered(self.path / stage / "failed", ".json")}
        return {block: record for block, record in found.items() if record and block not in done}

    def _running(self, stage: str, block: int) -> Path:
        return self.path / stage / "running" / f"{block:08d}"

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
        for block, claim in self._all_claims(stage).items():
            if block in done or not claim.alive:
                self.release(stage, block)

    def files(self, stage: str) -> Iterator[Path]:
        """Give the files of a stage: results first, then whatever else it has."""
        folder = self.path / stage
        yield from (self.result(stage, block) for block in numbered(folder, ".npz"))
        others = ((folder / name).rglob("*") for name in ("files", "failed", "running"))
        yield from (path for found in others for path in found if path.is_file())

    def remove(self, stage: str) -> None:
        """Delete everything of a stage, results first, so that none of its blocks is done."""
        for path in list(self.files(stage)):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / stage, ignore_errors=True)
