"""How the tasks of submissions stand: what SLURM knows, and what they wrote down themselves."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.errors import UsageError
from segflow.tasks.slurm import PREFIX, Submission, load, run, user

STATES = ("waiting", "running", "ended", "failed", "cancelled")
WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
TAIL = 8192  # bytes of a log that are looked at
SETTLING = 30.0  # seconds in which a new submission may not be in SLURM yet

Place = tuple[int, int]  # number of SLURM's job, index in its array


@dataclass(frozen=True)
class Task:
    """A task of an array.

    Attributes:
        place: number of SLURM's job, index in its array.
        state: one of STATES.
        why: SLURM's reason to wait, or what ended it.
        log: where its log is.
        error: the last line of error in it, of a task that failed.
    """

    place: Place
    state: str
    why: str
    log: str
    error: str = ""

    @property
    def name(self) -> str:
        """What SLURM calls it."""
        return f"{self.place[0]}_{self.place[1]}"


@dataclass(frozen=True)
class Standing:
    """A submission and how its tasks stand; ``unsubmitted`` says why it has none."""

    submission: Submission
    tasks: list[Task]
    unsubmitted: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not self.counts["waiting"] and not self.counts["running"]


def ask(name: str | None = None) -> dict[str, dict[Place, tuple[str, str]]]:
    """Ask squeue for all tasks of this user's submissions: state and reason, by job's name and place.

    Raises:
        SlurmError: squeue is missing or does not answer.
    """
    words = [f"--name={name}"] if name else []
    said = run("squeue", "-h", "-r", "-t", "all", "-u", user(), "-o", "%j|%F|%K|%T|%r", *words)
    found: dict[str, dict[Place, tuple[str, str]]] = {}
    for line in said.splitlines():
        name, job, index, state, why = (line.split("|") + [""] * 5)[:5]
        if name.startswith(PREFIX) and job.isdigit():
            at = int(index) if index.isdigit() else 0
            found.setdefault(name, {})[int(job), at] = state, "" if why == "None" else why
    return found


def standing(submission: Submission, live: dict[str, dict[Place, tuple[str, str]]]) -> Standing:
    """Tell how a submission stands; ``live`` is what ``ask`` gave."""
    known = live.get(submission.name, {})
    own = _own(Path(submission.folder) / "tasks")
    planned = {(job, index) for job, count in submission.jobs for index in range(count)}
    tasks = [
        _task(submission, place, known.get(place), own.get(place))
        for place in sorted(planned | set(known) | set(own))
    ]
    unsubmitted = ""
    if not tasks:
        new = time.time() - submission.made < SETTLING
        unsubmitted = submission.refused or ("being submitted" if new else "sbatch was never called")
    return Standing(submission, tasks, unsubmitted, Counter(task.state for task in tasks))


def _own(folder: Path) -> dict[Place, dict[str, Any]]:
    """Read what the tasks wrote down."""
    found = {}
    for path in folder.glob("[0-9]*_*.json"):
        job, _, index = path.stem.partition("_")
        with suppress(OSError, ValueError):
            found[int(job), int(index)] = json.loads(path.read_text())
    return found


def _task(
    submission: Submission, place: Place, live: tuple[str, str] | None, own: dict[str, Any] | None
) -> Task:
    state, why = _state(submission, live, own)
    log = Path(submission.folder) / "logs" / f"{place[0]}_{place[1]}.log"
    return Task(place, state, why, str(log), last_error(log) if state == "failed" else "")


def _state(
    submission: Submission, live: tuple[str, str] | None, own: dict[str, Any] | None
) -> tuple[str, str]:
    """Give state and reason: SLURM's while it knows the task, then what the task wrote."""
    if live is not None:
        word, why = live
        if word in WAITING or word in RUNNING:
            return "waiting" if word in WAITING else "running", why if word in WAITING else ""
        if word.startswith("CANCELLED"):
            return "cancelled", why
        if word != "COMPLETED":
            code = (own or {}).get("code")
            return "failed", f"exit code {code}" if word == "FAILED" and code else word.lower()
        return "ended", ""
    if own is not None and own.get("code") is not None:
        return ("failed", f"exit code {own['code']}") if own["code"] else ("ended", "")
    if submission.cancelled:
        return "cancelled", ""
    return "failed", "SLURM does not know it any more; it was killed" if own else "it never began"


def last_error(log: Path) -> str:
    """Give the last line of a log that tells of an error, else its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    errors = [line for line in lines if "error:" in line or line.startswith("segflow ")]
    return (errors or lines or [""])[-1]


def dependencies(idents: Iterable[str]) -> list[int]:
    """Give the SLURM jobs to wait for, so that the submissions ``idents`` have ended well.

    Those that have ended well already are not waited for: SLURM forgets them.

    Raises:
        UsageError: there is no such submission, nothing of it was submitted, or it did not end well.
    """
    jobs: list[int] = []
    for ident in idents:
        submission = load(ident)
        found = standing(submission, ask(submission.name))
        if not found.tasks:
            raise UsageError(f"--after {ident}: nothing of it is in SLURM ({found.unsubmitted})")
        for state in ("cancelled", "failed"):
            if found.counts[state]:
                told = f"{found.counts[state]} of its {len(found.tasks)} tasks"
                raise UsageError(
                    f"--after {ident} would never start: {told} {state}; see segflow jobs {ident}"
                )
        if not found.over:
            jobs += sorted({task.place[0] for task in found.tasks})
    return jobs
