"""What a SLURM job asks for, and K_NeuronSeg's HPC file, which says it in YAML."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segflow.errors import UsageError, did_you_mean

log = logging.getLogger("segflow")

TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
GPUS = re.compile(r"([A-Za-z][\w.-]*:)?\d+(,[A-Za-z][\w.-]*:\d+)*")
MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?)?", re.IGNORECASE)
PARTITION = re.compile(r"[\w.+-]+(,[\w.+-]+)*")
FORMS = {
    "time": (TIME, "minutes, HH:MM:SS or D-HH:MM:SS"),
    "gpus": (GPUS, "a number, or TYPE:NUMBER as a100:1"),
    "partition": (PARTITION, "the name of a partition, or several with commas"),
}
MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}

KEYS = (
    "enable", "scheduler", "job_dir", "python_bin", "time", "gpus", "cpus", "mem", "mem_per_gpu", "partition",
    "extra_modules", "conda", "env", "work_path", "blocks_per_job", "workers_per_job", "hpc_num",
    "multi_jobs", "multi_jobs_configs",
)  # fmt: skip
INNER = ("configs_save_path", "input_folder", "batch_num", "config_base")
THEIRS = {
    "mutil_jobs": "multi_jobs", "mutil_jobs_configs": "multi_jobs_configs", "input_floder": "input_folder",
}  # fmt: skip
NEEDLESS = ("blocks_per_job", "input_folder", "configs_save_path", "config_base")


@dataclass(frozen=True)
class Resources:
    """What each task of an array gets, and where it runs.

    Args:
        time: wall time, as SLURM writes it; None: the partition's.
        gpus: number, or ``TYPE:NUMBER``.
        cpus: cores.
        mem: memory of the whole task; a number without a unit is GiB. mem_per_cpu, mem_per_gpu: the same
            a core, a GPU.
        partition: one, or several with commas.
        max_running: so many tasks at once.
        modules: for ``module load``. conda: a file that is sourced, or conda's own folder. env: conda's
            environment.
        work_path: folder in which the tasks run; None: the present one.
        python: the interpreter; None: the present one.
        job_dir: folder for script and logs; None: the user's state folder.
        workers: processes in each task.
        more: words for sbatch, as ``--account=lab``.
    """

    time: str | None = None
    gpus: str | None = None
    cpus: int | None = None
    mem: str | None = None
    mem_per_cpu: str | None = None
    mem_per_gpu: str | None = None
    partition: str | None = None
    max_running: int | None = None
    modules: tuple[str, ...] = ()
    conda: str | None = None
    env: str | None = None
    work_path: str | None = None
    python: str | None = None
    job_dir: str | None = None
    workers: int = 1
    more: tuple[str, ...] = ()

    def checked(self, where: str = "") -> Resources:
        """Give these with sizes as SLURM writes them.

        Raises:
            UsageError: a value has not the form that SLURM reads; ``where`` is put before its name.
        """
        for name, (form, told) in FORMS.items():
            value = getattr(self, name)
            if value is not None and not form.fullmatch(value):
                raise UsageError(f"{where}{name} '{value}' is not {told}")
        for word in self.more:
            if not re.fullmatch(r"--[a-z][a-z-]*(=[^\n]*)?", word):
                raise UsageError(f"{where}sbatch option '{word}' is not --NAME or --NAME=VALUE")
        sizes = {name: getattr(self, name) for name in ("mem", "mem_per_cpu", "mem_per_gpu")}
        read: dict[str, Any] = {name: megabytes(size, where + name) for name, size in sizes.items() if size}
        return replace(self, **read)

    def over(self, told: Mapping[str, Any]) -> Resources:
        """Give these, changed by what ``told`` has that is not None and not empty."""
        change = {name: value for name, value in told.items() if value is not None and value != ()}
        if "mem" in change:
            change |= {"mem_per_cpu": None, "mem_per_gpu": None}
        return replace(self, **change)


def megabytes(text: str, name: str = "mem") -> str:
    """Give a size as SLURM writes it: whole megabytes or gigabytes.

    >>> megabytes("64"), megabytes("0.5"), megabytes("4000M")
    ('64G', '512M', '4000M')

    Raises:
        UsageError: it is no size.
    """
    found = MEMORY.fullmatch(text.strip())
    size = float(found[1]) * MEGABYTES[(found[2] or "G").upper()] if found else 0.0
    if size < 1:
        raise UsageError(f"{name} '{text}' is no size; write it in GiB, as 16, or as 16G, 4000M")
    return f"{int(size) // 1024}G" if size % 1024 == 0 else f"{int(-(-size // 1))}M"


def read_profile(path: str | Path) -> Resources:
    """Read K_NeuronSeg's HPC file: its ``hpc`` section, or the keys alone, its misspellings too.

    Raises:
        UsageError: there is no such file, a key is not known or has a wrong value, or it asks for
            another scheduler or for nothing (``enable: false``).
    """
    import yaml

    try:
        # every value as its text: YAML reads 12:00:00 as a number of base 60
        document = yaml.load(Path(path).read_text(), Loader=yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    section = document.get("hpc", document) if isinstance(document, dict) else None
    if not isinstance(section, dict) or not section:
        raise UsageError(f"{path} holds no profile; it needs keys like time and cpus, or a section hpc")
    told = _known(section, KEYS, f"{path}: ")
    inner = told.pop("multi_jobs_configs", None)
    if inner is not None and not isinstance(inner, dict):
        raise UsageError(f"{path}: mutil_jobs_configs is no section of keys")
    told |= _known(inner or {}, INNER, f"{path}: mutil_jobs_configs.")
    return _resources(str(path), told)


def _known(section: Mapping[str, Any], keys: tuple[str, ...], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, value in section.items():
        key = THEIRS.get(word, word.replace("-", "_"))
        key = THEIRS.get(key, key)
        if key not in keys:
            raise UsageError(f"{where}unknown key '{word}'{did_you_mean(word, [*keys, *THEIRS])}")
        if key in found:
            raise UsageError(f"{where}{key} is there twice, once as '{word}'")
        found[key] = value
    return found


def _resources(path: str, told: dict[str, Any]) -> Resources:
    where = f"{path}: "
    if not _yes(told.get("enable", "true"), f"{where}enable"):
        raise UsageError(f"{where}enable is false, so nothing is submitted; set it to true")
    if told.get("scheduler", "slurm").lower() != "slurm":
        raise UsageError(f"{where}scheduler is {told['scheduler']}; there is only slurm")
    many = _yes(told.get("multi_jobs", "true"), f"{where}mutil_jobs")
    running = (told.get("batch_num") if many else None) or told.get("hpc_num")
    needless = [key for key in NEEDLESS if told.get(key)]
    if needless:
        log.info("%snot used, since tasks come from a queue: %s", where, ", ".join(needless))
    modules = told.get("extra_modules") or []
    if isinstance(modules, str):
        modules = modules.split()
    return Resources(
        told.get("time"), told.get("gpus") or None, _count(told.get("cpus"), f"{where}cpus"),
        mem_per_cpu=None if told.get("mem_per_gpu") else told.get("mem") or None,
        mem_per_gpu=told.get("mem_per_gpu") or None, partition=told.get("partition") or None,
        max_running=_count(running, f"{where}batch_num"), modules=tuple(map(str, modules)),
        conda=told.get("conda") or None, env=told.get("env") or None, work_path=told.get("work_path") or None,
        python=told.get("python_bin") or None, job_dir=told.get("job_dir") or None,
        workers=_count(told.get("workers_per_job"), f"{where}workers_per_job") or 1,
    ).checked(where)  # fmt: skip


def _yes(text: Any, name: str) -> bool:
    word = str(text).strip().lower()
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise UsageError(f"{name} '{text}' is neither true nor false")
    return word in ("true", "yes", "on", "1")


def _count(text: Any, name: str) -> int | None:
    if text in (None, ""):
        return None
    if not re.fullmatch(r"[1-9]\d{0,6}", str(text)):
        raise UsageError(f"{name} '{text}' is no whole number from 1 on")
    return int(text)
