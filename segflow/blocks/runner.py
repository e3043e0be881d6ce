"""Run the stages of a block job: in this process, or in several that share its work folder."""

from __future__ import annotations

import logging
import random
import time
import traceback
from collections.abc import Callable, Collection, Generator, Iterator, Sequence

from segflow.blocks.ledger import Stage, WorkFolder
from segflow.blocks.workers import Worker, driver_of_this, workers
from segflow.errors import Interrupted, SegflowError
from segflow.progress import bar

log = logging.getLogger("segflow")

LONGEST = 2.0  # seconds between two looks at what others do

Tick = Callable[[int], object]


class Counts(dict[str, int]):
    """How many blocks were computed, by stage."""

    @property
    def total(self) -> int:
        """The number of all of them."""
        return sum(self.values())


def run_stages(
    folder: WorkFolder,
    stages: Sequence[Stage],
    *,
    tick: Tick | None = None,
    only: Collection[str] | None = None,
) -> Counts:
    """Compute in this process what is missing, beside other processes that do the same.

    Takes blocks whose stage may start, one by one, and waits for those that others compute; those
    of processes that died are taken over. A block that raises is recorded, and not tried again in
    this run; what does not depend on it goes on.

    Args:
        folder: after ``begin``.
        stages: of the job, each after its predecessors.
        tick: is told how many more blocks are done, by whomever.
        only: names of the stages to run; default: all.

    Returns:
        how many blocks this process computed.

    Raises:
        SegflowError: blocks failed, or a stage cannot start.
    """
    driver, since = driver_of_this()
    wanted = [s for s in stages if only is None or s.name in only]
    work = _Work(folder, since or time.time(), tick or (lambda n: None), quiet=bool(driver))
    try:
        for _ in work.through(wanted):
            pass
    except KeyboardInterrupt:
        if driver:
            raise SystemExit(Interrupted.exit_code) from None  # the driver tells of it
        raise
    if not driver:
        check_complete(folder, wanted)
    return work.counts


class _Work:
    """What one process knows of a job while it works on it."""

    def __init__(self, folder: WorkFolder, since: float, tick: Tick, quiet: bool) -> None:
        self.folder, self.since, self.tick, self.quiet = folder, since, tick, quiet
        self.counts = Counts()
        self.told: dict[str, int] = {}  # how many blocks of a stage were told to tick
        self.complete: set[str] = set()
        self.waits = False  # whether others compute blocks

    def through(self, stages: Sequence[Stage]) -> Iterator[str]:
        """Compute all that can be had, block by block; after each give its error, or nothing."""
        pause = 0.02
        with self.folder.heartbeat():
            while not all(self.finished(stage) for stage in stages):
                self.waits, tried = False, 0
                for stage in stages:
                    for block in self.sweep(stage):
                        tried += 1
                        failure = self.folder.failure(stage.name, block)
                        yield (
                            f"stage {stage.name}, {stage.label(block)}: {failure['error']}" if failure else ""
                        )
                if tried:
                    pause = 0.02
                elif self.waits:
                    time.sleep(pause * random.uniform(0.5, 1))
                    pause = min(LONGEST, 1.5 * pause)
                else:
                    return

    def finished(self, stage: Stage) -> bool:
        """Whether all blocks of a stage are done."""
        return stage.name in self.complete or not self._missing(stage)

    def _missing(self, stage: Stage) -> list[int]:
        """List what is not done, and tell of what is."""
        done = self.folder.done(stage.name)
        if stage.name not in self.told:
            self.folder.tidy(stage.name)
        self.tick(len(done) - self.told.get(stage.name, 0))
        self.told[stage.name] = len(done)
        missing = [block for block in range(stage.count) if block not in done]
        if not missing:
            self.complete.add(stage.name)
        return missing

    def _may_start(self, stage: Stage) -> bool:
        for name in stage.after:
            if name not in self.complete and self.folder.complete(name):
                self.complete.add(name)
        return self.complete.issuperset(stage.after)

    def sweep(self, stage: Stage) -> Iterator[int]:
        """Compute whatever can be had of a stage; give each block that was tried."""
        if stage.name not in self.complete and self._may_start(stage):
            yield from (block for block in self._missing(stage) if self._try(stage, block))

    def _try(self, stage: Stage, block: int) -> bool:
        folder, name = self.folder, stage.name
        failure = folder.failure(name, block)
        if failure and failure["time"] >= self.since:
            return False
        if not folder.claim(name, block):
            self.waits |= not folder.result(name, block).exists()
            return False
        try:
            folder.check_current(name)
            self._compute(stage, block)
        finally:
            folder.release(name, block)
        return True

    def _compute(self, stage: Stage, block: int) -> None:
        try:
            arrays = stage.run(block)
        except Interrupted:
            raise
        except Exception as error:
            told = str(error) if isinstance(error, SegflowError) else f"{type(error).__name__}: {error}"
            if isinstance(error, MemoryError):
                told = "out of memory; use smaller blocks or fewer processes"
            more = {"box": stage.label(block), "traceback": traceback.format_exception(error)}
            self.folder.fail(stage.name, block, " ".join(told.split()), **more)
            if not self.quiet:
                log.error("stage %s, %s: %s", stage.name, stage.label(block), told)
            return
        self.folder.publish(stage.name, block, arrays)
        self.counts[stage.name] = self.counts.get(stage.name, 0) + 1
        self.told[stage.name] += 1
        self.tick(1)


def each_block(folder: WorkFolder, stages: Sequence[Stage]) -> Generator[str, None, None]:
    """Compute in this process what is missing, as ``run_stages``, but one block each time one is asked for.

    Gives what is wrong with the block, or nothing. Ends when all is done, or nothing more can be had;
    then ``check_complete`` tells which.
    """
    yield from _Work(folder, time.time(), lambda n: None, quiet=False).through(stages)


def check_complete(folder: WorkFolder, stages: Sequence[Stage]) -> None:
    """Raise SegflowError with the first failure, or the first stage that is not complete."""
    lacking = [s for s in stages if not folder.complete(s.name)]
    for stage in lacking:
        failures = folder.failures(stage.name)
        if failures:
            first = min(failures)
            raise SegflowError(
                f"{len(failures)} of {stage.count} blocks of stage {stage.name} failed; the first, "
                f"{stage.label(first)}: {failures[first]['error']}"
            )
    for stage in lacking:
        before = [name for name in stage.after if not folder.complete(name)]
        what = f"it needs stage {before[0]}, which is not complete" if before else "run the same line again"
        raise SegflowError(f"stage {stage.name} is not complete in {folder.path}: {what}")


def drive(
    folder: WorkFolder,
    stages: Sequence[Stage],
    words: Sequence[str],
    processes: int,
    *,
    only: Collection[str] | None = None,
) -> Counts:
    """Run a job in several processes of this machine, which share its cores, and show its progress.

    Args:
        folder: after ``begin``.
        stages: of the job.
        words: the line that joins the job, without ``segflow``; each process runs it.
        processes: how many; one is this process itself.
        only: names of the stages that are run; ``words`` say the same.

    Returns:
        how many blocks were computed, here and by others that joined.

    Raises:
        SegflowError: blocks failed, or a process did; what is done stays.
    """
    wanted = [s for s in stages if only is None or s.name in only]
    with bar(sum(s.count for s in wanted), "blocks") as tick:
        if processes == 1 or all(folder.complete(s.name) for s in wanted):
            return run_stages(folder, stages, tick=tick, only=only)
        before = {s.name: len(folder.done(s.name)) for s in wanted}
        since = time.time()
        with workers(words, processes, since) as started:
            _watch(folder, wanted, started, tick, since)
    check_complete(folder, wanted)
    return Counts({name: len(folder.done(name)) - count for name, count in before.items()})


def _watch(
    folder: WorkFolder, stages: Sequence[Stage], workers: list[Worker], tick: Tick, since: float
) -> None:
    """Wait until all workers have ended; tell of progress, failures and warnings, each once."""
    shown, told = 0, set[str]()
    while True:
        ended = all(worker.process.poll() is not None for worker in workers)
        for worker in workers:
            worker.check(str(folder.path))
        looked = time.monotonic()
        done = sum(len(folder.done(stage.name)) for stage in stages)
        tick(done - shown)
        shown = done
        failed = {
            f"stage {stage.name}, {stage.label(block)}: {record['error']}"
            for stage in stages
            for block, record in folder.failures(stage.name).items()
            if record["time"] >= since
        }
        heard = {line.removeprefix("segflow: warning: ") for worker in workers for line in worker.heard()}
        for level, lines in ((logging.ERROR, failed), (logging.WARNING, heard)):
            for line in sorted(lines - told):
                log.log(level, "%s", line)
        told |= failed | heard
        if ended:
            return
        time.sleep(max(0.1, min(10.0, 20 * (time.monotonic() - looked))))
