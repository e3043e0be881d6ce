"""What all file formats share: names of tasks' files, whole-or-absent writes, headers that become chunks."""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import BoxError, ChunkError, SegflowError, UsageError, VolumeError
from segflow.geometry import Box, vec
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segflow.chunk import Chunk
    from segflow.state import State

log = logging.getLogger("segflow")

NANOMETERS = {
    "nm": 1, "nanometer": 1, "µm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3,
    "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9, "meter": 1e9, "å": 0.1, "angstrom": 0.1,
}  # fmt: skip


def natural(name: str) -> list[Any]:
    """Give a sort key that puts ``s9`` before ``s10``.

    >>> sorted(["s10.tif", "s9.tif"], key=natural)
    ['s9.tif', 's10.tif']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def reason(error: BaseException, folder: Path | None = None) -> str:
    """Say in a few words why an operating system or a library refused."""
    text = " ".join(str(error).split())
    number = getattr(error, "errno", None)
    full = "requested and" in text and "written" in text  # numpy's full disk has no errno
    if number in (errno.ENOSPC, errno.EDQUOT) or full or "No space left" in text:
        return f"no space left on device{f' of {folder}' if folder else ''}; free some space"
    system = re.search(r"([^:\"]+) \[os_error_code='\d+'\]", text)
    if system:
        return system[1].strip().lower()
    missing = re.search(r"chunk \{.*\} stored at (.*) is missing", text)
    if missing:
        return f"{missing[1]} is missing; use --fill-missing to read zeros there"
    if number is not None:
        return os.strerror(number).lower()
    return text or type(error).__name__


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; on success it takes the place of ``path``.

    On any failure nothing remains and what was at ``path`` is untouched.

    Raises:
        VolumeError: the place cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(Path(path).expanduser()))
    if target.exists() and not target.is_file():
        raise VolumeError(f"cannot write {path}: it is there and is no plain file; give another name")
    beside = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        yield beside
        os.replace(beside, target)
    except SegflowError:
        raise
    except OSError as error:
        raise VolumeError(f"cannot write {path}: {reason(error, target.parent)}") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn whatever a library raises over a broken file into a VolumeError that names it."""
    try:
        yield
    except (SegflowError, MemoryError):
        raise
    except Exception as error:
        known = getattr(error, "errno", None)
        what = "cannot be read" if known else "is broken, truncated or of another format"
        raise VolumeError(f"{path} {what}: {reason(error)}") from error


def is_per_task(path: str) -> bool:
    """Tell whether ``path`` names a file for each task: ``{bbox}`` in it, or a folder."""
    return "{bbox}" in path or path.endswith("/") or Path(path).expanduser().is_dir()


def task_path(path: str, state: State | None, suffix: str, box: Box | None = None) -> str:
    """Give the file of one task.

    ``{bbox}`` in ``path``, and a folder, take the task's box; a task without one takes ``box``,
    else its number. Any other ``path`` is given back.
    """
    if state is not None and (state.bbox is not None or box is None):
        label = state.label
    else:
        label = str(box) if box is not None else "0"
    if "{bbox}" in path:
        return path.replace("{bbox}", label)
    return str(Path(path) / f"{label}{suffix}") if is_per_task(path) else path


def input_path(path: str, state: State | None, suffix: str) -> str:
    """Give the file that a task reads: its own where there is one, else ``path``."""
    if not is_per_task(path):
        return path
    own = task_path(path, state, suffix)
    return own if "{bbox}" in path or Path(own).expanduser().exists() else path


def output_path(path: str, state: State | None, suffix: str, box: Box) -> str:
    """Give the file that a task writes, make its folder, and let no second state overwrite it.

    Raises:
        VolumeError: another state of this run wrote it, or its folder cannot be made.
    """
    target = task_path(path, state, suffix, box)
    if is_per_task(path):
        try:
            Path(target).expanduser().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VolumeError(f"cannot make the folder of {target}: {reason(error)}") from error
    if state is not None and not (is_per_task(path) and state.bbox is not None):
        claimed: set[str] = state.run.memory.setdefault("files", set())
        key = os.path.realpath(Path(target).expanduser())
        if key in claimed:
            raise VolumeError(
                f"{target} was already written in this run, and this task would overwrite it; "
                "give a folder (DIR/) or a name with {bbox}, for a file a task"
            )
        claimed.add(key)
    return target


def box_in_name(path: str | Path, shape: Sequence[int]) -> Box | None:
    """Give the box that a file's name tells, if it has the size of what the file holds."""
    try:
        box = Box.parse(Path(path).stem)
    except BoxError:
        return None
    return box if box.shape == tuple(shape[-3:]) else None


def describe(path: str | Path, form: str, shape: Sequence[int], dtype: Any, **fields: Any) -> VolumeInfo:
    """Give the VolumeInfo of an array of ``shape`` (zyx or czyx) in a file.

    ``voxel_offset`` among ``fields`` (None: from the file's name, else 0) places it. ``extra``
    keeps the number of axes, so that one channel stays czyx.

    Raises:
        VolumeError: the array has not three or four axes, or is not of numbers.
    """
    import numpy as np

    from segflow.chunk import guess_layer_type

    kind = np.dtype(dtype)
    if kind.kind not in "buif":
        raise VolumeError(f"{path} holds values of type {kind}; a chunk needs integers or floats")
    if len(shape) not in (3, 4):
        raise VolumeError(f"{path} holds an array of shape {tuple(shape)}; a chunk is zyx or czyx")
    offset = fields.pop("voxel_offset", None)
    channels = int(shape[0]) if len(shape) == 4 else 1
    layer_type = fields.pop("layer_type", None) or guess_layer_type(len(shape), kind, channels)
    named = box_in_name(path, shape)
    start = vec(offset) if offset is not None else named.start if named else (0, 0, 0)
    extra = {"ndim": len(shape), **fields.pop("extra", {})}
    return VolumeInfo(
        str(path), form, Box.of(start, vec(shape[-3:])), kind.newbyteorder("=").name, channels,
        layer_type=layer_type, extra=extra, **fields,
    )  # fmt: skip


def box_from(
    bounds: Box,
    start: Sequence[int] | None = None,
    stop: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Box | None:
    """Give the box that a start, a stop or a size choose in ``bounds``; None for all of it.

    Raises:
        UsageError: both a stop and a size.
    """
    if stop is not None and size is not None:
        raise UsageError("give a stop or a size, not both")
    if start is None and stop is None and size is None:
        return None
    begin = vec(bounds.start if start is None else start)
    return Box.of(begin, size) if size is not None else Box(begin, vec(stop or bounds.stop))


def task_chunk(chunk: Chunk | None, state: State | None, info: VolumeInfo | None = None) -> Chunk:
    """Give what a writer writes: the chunk, or zeros in the task's box where a skip led to it.

    The zeros have the channels and dtype of the volume ``info``, else of the chunk.

    Raises:
        ChunkError: there is no chunk, nor a volume to tell what zeros are written.
    """
    if chunk is not None and (state is None or not state.resumed or state.bbox is None):
        return chunk
    import numpy as np

    from segflow.chunk import Chunk

    box = state.bbox if state is not None else None
    if box is not None and info is not None:
        lead = (info.channels,) if info.channels > 1 else ()
        array = np.broadcast_to(np.zeros((), info.dtype), (*lead, *box.shape))
        return Chunk(array, box.start, info.voxel_size, info.layer_type, info.offsets)
    if box is None or chunk is None:
        raise ChunkError("there is no chunk to write, and no volume and task that tell the zeros for it")
    array = np.broadcast_to(np.zeros((), chunk.dtype), (*chunk.shape[:-3], *box.shape))
    return replace(chunk, array=array, voxel_offset=box.start)


def wrote(state: State | None, path: str, chunk: Chunk, kind: str) -> None:
    """Note for the closing lines that a chunk was written."""
    if state is not None:
        look = f"segflow read-{kind} -f {shlex.quote(path)} neuroglancer"
        state.run.wrote(path, chunk.bbox.voxels, look)


def override(
    info: VolumeInfo,
    *,
    voxel_offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    layer_type: str | None = None,
) -> VolumeInfo:
    """Give ``info`` with what the user says instead of what the file says."""
    if voxel_offset is not None:
        info = replace(info, bounds=Box.of(voxel_offset, info.bounds.shape))
    if voxel_size is not None:
        z, y, x = (float(v) for v in voxel_size)
        info = replace(info, voxel_size=(z, y, x))
    if layer_type is not None:
        offsets = info.offsets if layer_type == "affinity_map" else None
        info = replace(info, layer_type=layer_type, offsets=offsets)
    return info


def make_chunk(array: NDArray[Any], info: VolumeInfo, dtype: str | None = None) -> Chunk:
    """Give the chunk of an array that was read from what ``info`` describes.

    ``dtype`` converts it (segflow.volumes.convert.to_dtype). Warns of uint16 images that use a small
    part of their range.
    """
    from segflow.chunk import Chunk

    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    source = {"path": info.path, "mip": info.mip, "bounds": info.bounds, **info.extra}
    source.pop("ndim", None)
    chunk = Chunk(array, info.bounds.start, info.voxel_size, info.layer_type, info.offsets, source)
    warn_of_dark(chunk)
    return converted(chunk, dtype)


def converted(chunk: Chunk, dtype: str | None) -> Chunk:
    """Give the chunk in ``dtype`` (None: as it is), the same thing at the same place."""
    from segflow.volumes.convert import to_dtype

    if dtype is None or chunk.dtype == dtype:
        return chunk
    return chunk.with_array(to_dtype(chunk, dtype), layer_type=chunk.layer_type, offsets=chunk.offsets)


def warn_of_dark(chunk: Chunk) -> None:
    """Warn when a uint16 image uses under a tenth of its range (99.9th percentile)."""
    import numpy as np

    if chunk.dtype != np.uint16 or chunk.layer_type not in ("image", None) or 0 in chunk.shape:
        return
    step = max(1, chunk.shape[-3] // 8)
    sample = chunk.array[..., ::step, :, :][..., :, ::2, :]
    if chunk.layer_type is None and np.mean(sample[..., 1:] == sample[..., :-1]) > 0.5:
        return  # flat regions: labels
    top = float(np.percentile(sample, 99.9))
    if 0 < top < 6553.5:
        log.warning(
            "the uint16 image from %s uses under a tenth of its range (99.9th percentile %.0f of 65535); "
            "stretch it (normalize-contrast) before a network or a viewer sees it",
            chunk.source.get("path", "memory"), top,
        )  # fmt: skip
