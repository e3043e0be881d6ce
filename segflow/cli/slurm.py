"""What the commands for SLURM share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.cli.wrapped import Line
    from segflow.tasks.slurm import Submission
    from segflow.tasks.slurm_state import Standing

SHOWN = 3  # failed tasks that are told of one by one


def fit_array(line: Line, count: int) -> None:
    """Raise UsageError where the tasks of an array would all do the same work, over each other."""
    if count == 1 or "fetch-task" in line.operators or "join" in line.params:
        return
    what = f"{line.job} is one piece of work" if line.job else "the chain takes no tasks from a queue"
    raise UsageError(
        f"{what}, so {count} tasks would do the same over each other; leave --array out, or begin the chain "
        "with fetch-task -q QUEUE"
    )


def with_processes(line: Line, processes: int) -> list[str]:
    """Give the words of a line with so many processes in each task.

    Raises:
        UsageError: the line is no chain of a worker, and no job that has --processes.
    """
    if processes == 1:
        return line.words
    if line.job is None and "fetch-task" in line.operators:
        return ["worker", "--processes", str(processes), "--", *line.words]
    if line.params.get("join"):
        raise UsageError(f"--workers {processes}: --join is one process; leave it out, or raise --array")
    if "processes" in line.params:
        told = line.params["processes"] is not None
        return line.words if told else [*line.words, "--processes", str(processes)]
    raise UsageError(f"--workers {processes} needs a chain with fetch-task, or a job that has --processes")


def as_json(found: Standing) -> dict[str, Any]:
    """Give all that is known of a submission."""
    one = found.submission
    return {
        "id": one.id, "line": one.words, "folder": one.cwd, "submitted": one.made, "after": one.after,
        "jobs": [job for job, _ in one.jobs], "script": str(one.script), "logs": f"{one.folder}/logs",
        "unsubmitted": found.unsubmitted or None,
        **{state: found.counts[state] for state in states()},
        "tasks": [
            {"task": t.name, "state": t.state, "why": t.why or None, "log": t.log, "error": t.error or None}
            for t in found.tasks
        ],
    }  # fmt: skip


def states() -> tuple[str, ...]:
    """Give the states of tasks, in the order of their columns."""
    from segflow.tasks.slurm_state import STATES

    return STATES


def table(found: list[Standing]) -> str:
    """Give the submissions as lines for people."""
    rows = [f"{'id':8}  {'submitted':16}" + "".join(f"{state:>10}" for state in states()) + "  line"]
    for one in found:
        rows += _rows(one)
    return "\n".join(rows)


def _rows(found: Standing) -> list[str]:
    import shlex
    import time

    one = found.submission
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made))
    line = shlex.join(one.words)
    line = line if len(line) <= 60 else f"{line[:59]}…"
    counts = "".join(f"{found.counts[state]:10d}" for state in states())
    rows = [f"{one.id:8}  {made:16}{counts}  {line}"]
    if found.unsubmitted:
        return [*rows, f"  not submitted: {found.unsubmitted}"]
    jobs = ", ".join(str(job) for job in sorted({task.place[0] for task in found.tasks}))
    after = f"; after {', '.join(one.after)}" if one.after else ""
    rows.append(f"  SLURM {jobs}{after}; logs in {one.folder}/logs")
    reasons = sorted({task.why for task in found.tasks if task.state == "waiting" and task.why})
    if reasons:
        rows.append(f"  waits for: {', '.join(reasons)}")
    failed = [task for task in found.tasks if task.state == "failed"]
    for task in failed[-SHOWN:]:
        rows.append(f"  {task.name} failed ({task.why})" + (f": {task.error}" if task.error else ""))
    return rows


def tell(submission: Submission) -> None:
    """Say what was submitted, and print its id alone on stdout."""
    import logging

    import click

    log = logging.getLogger("segflow")
    jobs = ", ".join(str(job) for job, _ in submission.jobs)
    tasks = "a task" if submission.count == 1 else f"{submission.count} tasks"
    log.info("submitted %s as SLURM job %s; logs in %s/logs", tasks, jobs, submission.folder)
    log.info("  see it: segflow jobs %s    end it: segflow jobs --cancel %s", submission.id, submission.id)
    click.echo(submission.id)
