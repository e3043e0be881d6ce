"""Submissions to SLURM: written down before sbatch is called, found again by the name of their jobs.

A submission lies in the user's state folder, which all machines of a cluster see::

    ID.json          what was submitted: the line, its folder, the numbers that sbatch gave
    ID/script.sh     what sbatch read (in --job-dir, if there is one)
    ID/logs/J_T.log  what task T of SLURM's job J said, of all its runs
    ID/tasks/J_T.json  when and where it began, how it ended
    ID/cancelled     was cancelled

Its jobs are called segflow-ID, so those of a driver that died before it wrote their numbers down are
known too. SLURM forgets a job minutes after its end; the tasks folder does not.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, chdir
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segflow.blocks.disk import whole
from segflow.errors import SegflowError, UsageError, VolumeError
from segflow.tasks.slurm_profile import Resources
from segflow.tasks.slurm_script import array, make_script
from segflow.volumes.files import reading

PREFIX = "segflow-"
PATIENCE = 60.0  # seconds that a command of SLURM may take


class SlurmError(SegflowError):
    """SLURM is not there, or refuses."""


@dataclass
class Submission:
    """What was, or is to be, submitted.

    Attributes:
        id: eight letters and digits; the jobs are called ``segflow-ID``.
        words: the line, without ``segflow``.
        count: tasks of the array.
        folder: with script, logs and tasks.
        cwd: where the line runs.
        resources: of each task.
        requeue: see ``make_script``.
        after: ids of submissions that must end well before.
        made: seconds since 1970.
        jobs: numbers of SLURM's jobs, each with the number of its tasks.
        refused: what sbatch said when it took nothing.
    """

    id: str
    words: list[str]
    count: int
    folder: str
    cwd: str
    resources: Resources = field(default_factory=Resources)
    requeue: bool = True
    after: list[str] = field(default_factory=list)
    made: float = 0.0
    jobs: list[tuple[int, int]] = field(default_factory=list)
    refused: str = ""

    @property
    def name(self) -> str:
        """The name of its jobs."""
        return PREFIX + self.id

    @property
    def script(self) -> Path:
        """Where its script is."""
        return Path(self.folder) / "script.sh"

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled by ``cancel``."""
        return (Path(self.folder) / "cancelled").exists()

    def text(self, after: Sequence[int] = ()) -> str:
        """Give its script, which waits for the jobs ``after``."""
        return make_script(
            self.name, self.words, self.count, self.resources, Path(self.folder), Path(self.cwd),
            requeue=self.requeue, after=after,
        )  # fmt: skip


def new(words: Sequence[str], count: int, resources: Resources, **more: Any) -> Submission:
    """Make a submission; nothing is written yet."""
    ident = secrets.token_hex(4)
    place = Path(resources.job_dir).expanduser().absolute() if resources.job_dir else state_folder()
    cwd = work_path(resources)
    return Submission(ident, list(words), count, str(place / ident), cwd, resources, made=time.time(), **more)


def work_path(resources: Resources) -> str:
    """Give the folder in which tasks run."""
    return os.path.abspath(os.path.expanduser(resources.work_path or "."))


def inside(resources: Resources) -> AbstractContextManager[None]:
    """Stand where the tasks will.

    Raises:
        UsageError: there is no such folder.
    """
    place = work_path(resources)
    if not os.path.isdir(place):
        raise UsageError(f"work_path {place} is no folder")
    return chdir(place)


def state_folder() -> Path:
    """Give the folder of submissions: ``segflow/slurm`` in $XDG_STATE_HOME, or in ~/.local/state."""
    told = os.environ.get("XDG_STATE_HOME", "")
    return (Path(told) if os.path.isabs(told) else Path.home() / ".local/state") / "segflow" / "slurm"


def save(submission: Submission) -> None:
    """Write a submission down."""
    with whole(state_folder() / f"{submission.id}.json") as beside:
        beside.write_text(json.dumps(asdict(submission), indent=1) + "\n")


def load(ident: str) -> Submission:
    """Read a submission.

    Raises:
        UsageError: there is none of that id.
    """
    path = state_folder() / f"{ident}.json"
    if not re.fullmatch(r"[\w-]+", ident) or not path.exists():
        raise UsageError(f"there is no submission '{ident}' in {state_folder()}; 'segflow jobs' lists them")
    with reading(path):
        told = json.loads(path.read_text())
        resources: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in told.pop("resources").items()
        }
        jobs = [(int(job), int(count)) for job, count in told.pop("jobs")]
        return Submission(**told, resources=Resources(**resources), jobs=jobs)


def submissions() -> list[Submission]:
    """Give all submissions, the newest first; files that are no submissions are passed over."""
    found = []
    for path in state_folder().glob("*.json"):
        if path.name.startswith("."):
            continue
        try:
            found.append(load(path.stem))
        except (VolumeError, UsageError):
            continue
    return sorted(found, key=lambda one: -one.made)


def submit(submission: Submission, after: Sequence[int] = ()) -> None:
    """Write the submission down, then hand its script to sbatch, in several arrays if it must be.

    Args:
        submission: from ``new``; gets the numbers of its jobs.
        after: SLURM jobs that must end well before; see ``dependencies``.

    Raises:
        SlurmError: sbatch is missing or refuses; the message has the line to run by hand.
    """
    folder = Path(submission.folder)
    try:
        for place in (folder / "logs", folder / "tasks"):
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VolumeError(f"cannot make the folder {folder}: {(error.strerror or '').lower()}") from error
    with whole(submission.script) as beside:
        beside.write_text(submission.text(after))
    save(submission)
    for count in parts(submission.count, largest_array()):
        words = [f"--array={array(0, count, submission.resources.max_running)}"]
        if submission.resources.max_running and submission.jobs:  # the limit holds for all arrays
            rules = ["afterok:" + ":".join(map(str, after))] if after else []
            words.append(f"--dependency={','.join([*rules, f'afterany:{submission.jobs[-1][0]}'])}")
        words.append(str(submission.script))
        try:
            said = run("sbatch", "--parsable", *words)
        except SlurmError as error:
            submission.refused = str(error)
            save(submission)
            line = shlex.join(["sbatch", *words])
            raise SlurmError(f"{error}; when that is mended, run by hand: {line}") from None
        submission.jobs.append((_number(said), count))
        save(submission)
    if submission.cancelled:  # meanwhile, by another process
        cancel(submission)


def parts(count: int, largest: int) -> list[int]:
    """Cut an array into arrays that SLURM takes.

    >>> parts(5, 4), parts(4, 4)
    ([4, 1], [4])
    """
    whole_ones, rest = divmod(count, largest)
    return [largest] * whole_ones + [rest] * bool(rest)


def largest_array() -> int:
    """Give how many tasks an array may have here; 1000 where SLURM does not tell."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run("scontrol", "show", "config"), re.MULTILINE)
    except SlurmError:
        found = None
    return max(1, int(found[1])) if found else 1000


def run(*line: str) -> str:
    """Run a command of SLURM; give what it says on stdout.

    Raises:
        SlurmError: it is not there, fails, or does not answer within a minute.
    """
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {line[0]} on this machine; do this where SLURM's commands are"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{line[0]} did not answer within {PATIENCE:.0f} seconds") from None
    if done.returncode:
        said = [text for text in done.stderr.splitlines() if text.strip()] or ["it said nothing"]
        raise SlurmError(f"{line[0]} failed: {' '.join(said[0].split())}")
    return done.stdout


def _number(said: str) -> int:
    found = re.match(r"\d+", said.strip())
    if not found:
        raise SlurmError(f"sbatch gave no number of a job but '{said.strip()[:80]}'")
    return int(found[0])


def cancel(submission: Submission) -> None:
    """End all of a submission, also jobs whose numbers were never written down.

    Raises:
        SlurmError: SLURM's commands are missing or fail.
    """
    Path(submission.folder).mkdir(parents=True, exist_ok=True)
    (Path(submission.folder) / "cancelled").touch()
    run("scancel", "--quiet", "--user", user(), f"--name={submission.name}")
    if submission.jobs:
        run("scancel", "--quiet", *(str(job) for job, _ in submission.jobs))


def with_dependents(submission: Submission, everything: Iterable[Submission]) -> list[Submission]:
    """Give a submission and all that wait for it, directly or not; those first that wait."""
    found, ids = [submission], {submission.id}
    rest = sorted(everything, key=lambda one: one.made)
    for one in rest:
        if one.id not in ids and ids.intersection(one.after):
            found.append(one)
            ids.add(one.id)
    return found[::-1]


def user() -> str:
    """Give the name of this user, as SLURM has it."""
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
