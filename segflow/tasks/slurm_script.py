"""The script of a SLURM array: each of its tasks runs the same line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from segflow.errors import UsageError
from segflow.tasks.slurm_profile import Resources

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def make_script(
    name: str,
    words: Sequence[str],
    count: int,
    resources: Resources,
    folder: Path,
    cwd: Path,
    *,
    requeue: bool = True,
    after: Sequence[int] = (),
) -> str:
    """Give the script of an array of ``count`` tasks.

    The environment is not in it; sbatch hands that on by itself.

    Args:
        name: of the job; it is how the job is found again.
        words: the line, without ``segflow``.
        count: tasks.
        resources: what each task gets.
        folder: for ``logs`` and ``tasks``.
        cwd: where the line runs.
        requeue: whether SLURM puts a task that it stopped, or that lost its node, back into its queue.
        after: SLURM jobs that must have ended well before.

    Raises:
        UsageError: a path or word that a script cannot hold.
    """
    asks = _asks(name, count, resources, folder, requeue, after)
    body = [f"cd {shlex.quote(str(cwd))} || exit 1", *_settings(resources)]
    python = resources.python or sys.executable
    line = [python, "-P", "-m", "segflow.cli.slurm_task", str(folder / "tasks"), *words]
    script = "\n".join(["#!/bin/bash", *(f"#SBATCH {ask}" for ask in asks), "", *body,
                        f"exec {shlex.join(line)}", ""])  # fmt: skip
    if any(c in ask for ask in asks for c in "\n\r\\\0"):
        raise UsageError(f"sbatch cannot read the backslash or line break in {folder}, or in an option")
    return script


def _asks(
    name: str, count: int, resources: Resources, folder: Path, requeue: bool, after: Sequence[int]
) -> list[str]:
    """Give the options of sbatch."""
    log = str(folder / "logs" / "PLACE").replace("%", "%%").replace("PLACE", "%A_%a.log")
    some = {
        "time": resources.time,
        "gpus": resources.gpus,
        "cpus-per-task": resources.cpus,
        "mem": resources.mem,
        "mem-per-cpu": resources.mem_per_cpu,
        "mem-per-gpu": resources.mem_per_gpu,
        "partition": resources.partition,
        "dependency": "afterok:" + ":".join(map(str, after)) if after else None,
        "kill-on-invalid-dep": "yes" if after else None,
    }
    return [
        f"--job-name={name}",
        f"--array={array(0, count, resources.max_running)}",
        *(f"--{key}={value}" for key, value in some.items() if value is not None),
        "--requeue" if requeue else "--no-requeue",
        "--open-mode=append",
        f"--output={quoted(log)}",
        *(_quoted_value(word) for word in resources.more),
    ]


def array(first: int, count: int, most: int | None = None) -> str:
    """Give the indices of an array as sbatch reads them; ``most`` run at once.

    >>> array(0, 4, 2)
    '0-3%2'
    """
    return f"{first}-{first + count - 1}{f'%{most}' if most else ''}"


def quoted(text: str) -> str:
    """Quote a value for a ``#SBATCH`` line, which reads quotes as the shell does.

    >>> quoted("/my data/a"), quoted("/data/a")
    ("'/my data/a'", '/data/a')
    """
    return shlex.quote(text)


def _quoted_value(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}{equals}{quoted(value)}"


def _settings(resources: Resources) -> list[str]:
    """Give the lines that make the surroundings of the task."""
    lines = [f"module load {shlex.quote(module)}" for module in resources.modules]
    if resources.conda:
        place = shlex.quote(resources.conda)
        lines.append(
            f"if [ -d {place} ]; then source {place}/etc/profile.d/conda.sh; else source {place}; fi"
        )
    if resources.env:
        lines.append(f"conda activate {shlex.quote(resources.env)} || exit 1")
    cores = '"${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"'
    return [*lines, "export " + " ".join(f"{name}={cores}" for name in THREADS)]
