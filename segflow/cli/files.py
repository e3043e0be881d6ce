"""What the commands that read and write files share: options, and the checks before the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segflow.cli.operator import option, triple
from segflow.cli.plan import UNKNOWN, Plan, Spec, check_file, file_key
from segflow.errors import SegflowError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segflow.volumes.base import VolumeInfo

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
          "float16", "float32", "float64")  # fmt: skip
LAYER_TYPES = ("image", "affinity_map", "probability_map", "segmentation")
WRITES = "{bbox} in the name, or a folder (DIR/), makes a file for each task."


def dtype_option(help: str) -> Callable[[F], F]:
    """Declare ``--dtype``."""
    return option("--dtype", type=click.Choice(DTYPES), default=None, help=help)


def place_options(function: F) -> F:
    """Declare what a reader may be told instead of what the file says."""
    for mark in (
        dtype_option("Convert to this dtype; default: that of the file."),
        option("--layer-type", type=click.Choice(LAYER_TYPES), default=None,
               help="What the values are; default: as the file says, else from shape and dtype."),
        triple("--voxel-size", type=float, default=None, help="Voxel size, nm; default: that of the file."),
        triple("--voxel-offset", default=None, aliases=("--offset",),
               help="Place of the first voxel, voxels; default: that of the file, else 0 0 0."),
    ):  # fmt: skip
        function = mark(function)
    return function


def spec_of(info: VolumeInfo, dtype: str | None = None) -> Spec:
    """Give the Spec of what is read from ``info``."""
    lead = (info.channels,) if info.extra.get("ndim", 3 if info.channels == 1 else 4) == 4 else ()
    return Spec(
        (*lead, *info.bounds.shape), dtype or info.dtype, info.bounds.start, info.voxel_size, info.layer_type
    )


@contextmanager
def before_the_run() -> Iterator[None]:
    """Make errors over files errors of usage: they are known before any work."""
    try:
        yield
    except UsageError:
        raise
    except SegflowError as error:
        raise UsageError(str(error)) from error


def plan_read(
    plan: Plan, options: dict[str, Any], suffix: str, peek: Callable[[str], VolumeInfo]
) -> VolumeInfo | None:
    """Check the file of a reader; describe what it will give, or None where that is unknown yet."""
    from segflow.volumes.files import override

    path = _one_file(plan, options["path"], suffix)
    if path is None or not check_file(plan, path):
        return None
    told = {k: options.get(k) for k in ("voxel_offset", "voxel_size", "layer_type")}
    with before_the_run():
        return override(peek(path), **told)


def reads(suffix: str, peek: str) -> Callable[[Plan, dict[str, Any]], Spec]:
    """Give the plan of a reader; ``peek`` is ``module.function`` in segflow.volumes."""

    def plan(plan: Plan, options: dict[str, Any]) -> Spec:
        from importlib import import_module

        module, _, name = peek.partition(".")
        look = getattr(import_module(f"segflow.volumes.{module}"), name)
        info = plan_read(plan, options, suffix, look)
        return UNKNOWN if info is None else spec_of(info, options.get("dtype"))

    return plan


def _one_file(plan: Plan, path: str, suffix: str) -> str | None:
    """Give the file that is read if only one can be; None where the tasks choose."""
    from segflow.volumes.files import is_per_task

    if not is_per_task(path) or plan.made(path):
        return path
    place = Path(path).expanduser()
    if "{bbox}" in path:
        return None if plan.tasks or plan.bbox is None else path.replace("{bbox}", str(plan.bbox))
    if not place.is_dir():
        return path
    if plan.bbox is not None and not plan.tasks and (place / f"{plan.bbox}{suffix}").exists():
        return str(place / f"{plan.bbox}{suffix}")
    if suffix == ".tif":
        return None if plan.tasks else path
    if not any(p.suffix == suffix for p in place.iterdir()):
        raise UsageError(f"the folder {path} holds no {suffix} file")
    return None


def writes(suffix: str) -> Callable[[Plan, dict[str, Any]], None]:
    """Give the plan of a writer of files that end in ``suffix``."""

    def plan(plan: Plan, options: dict[str, Any]) -> None:
        from segflow.volumes.files import is_per_task

        path = options["path"]
        per_task = is_per_task(path)
        key = f"{path.rstrip('/')}/*{suffix}" if per_task and "{bbox}" not in path else path
        if file_key(key) in plan.files:
            raise UsageError(f"two steps write {path}, the later over the earlier; give two names")
        if plan.tasks and not per_task:
            raise UsageError(
                f"{path} is one file for several tasks, each over the one before; give a folder "
                "(DIR/) or a name with {bbox}"
            )
        check_writable(plan, path, folder=per_task)
        plan.makes(key)

    return plan


def check_writable(plan: Plan, path: str, *, folder: bool = False) -> None:
    """Raise UsageError unless something can be written at ``path``; a ``folder`` will be made."""
    parent = Path(path.partition("{bbox}")[0] + "x" if "{bbox}" in path else path).expanduser().absolute()
    parent = parent.parent if not (folder and "{bbox}" not in path) else parent
    if plan.made(str(parent)):
        return
    while folder and not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        what = "is not a folder" if parent.exists() else "does not exist"
        raise UsageError(f"cannot write {path}: {parent} {what}; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: the folder {parent} is not writable")
