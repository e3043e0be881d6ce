"""NumPy's npy: an array and nothing else; the place is in the file's name, if it is a box."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from segflow.errors import VolumeError
from segflow.volumes import files
from segflow.volumes.base import VolumeInfo

if TYPE_CHECKING:
    from segflow.chunk import Chunk


def peek_npy(path: str) -> VolumeInfo:
    """Describe an npy file from its header.

    Raises:
        VolumeError: missing, truncated, or no npy of numbers with 2 to 4 axes.
    """
    with _opened(path) as file:
        shape, order, dtype = _header(file)
        left = Path(path).expanduser().stat().st_size - file.tell()
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    if left < wanted:
        raise VolumeError(f"{path} is truncated: its array needs {wanted} bytes and {left} are there")
    shape = (1, *shape) if len(shape) == 2 else shape
    return files.describe(path, "npy", shape, dtype, extra={"order": "F" if order else "C"})


def read_npy(
    path: str,
    *,
    voxel_offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    layer_type: str | None = None,
    dtype: str | None = None,
) -> Chunk:
    """Read an npy file: zyx, czyx or one section yx.

    Args:
        path: file; a box as its name (``0-20_0-256_0-256.npy``) places the chunk.
        voxel_offset: zyx, voxels; voxel_size: zyx, nm; layer_type: what the format cannot tell.
        dtype: convert to this dtype.

    Raises:
        VolumeError: missing, truncated, or no npy.
    """
    import numpy as np

    info = peek_npy(path)
    info = files.override(info, voxel_offset=voxel_offset, voxel_size=voxel_size, layer_type=layer_type)
    with files.reading(path):
        array = np.load(Path(path).expanduser(), allow_pickle=False)
    return files.make_chunk(array if array.ndim > 2 else array[None], info, dtype)


def write_npy(
    path: str, chunk: Chunk, *, dtype: str | None = None, provenance: dict[str, Any] | None = None
) -> None:
    """Write a chunk's array, whole or not at all.

    Args:
        path: file to make or replace.
        chunk: zyx or czyx; its place is not kept.
        dtype: convert first; the default keeps the chunk's own.
        provenance: written beside, as ``<path>.provenance.json``.

    Raises:
        VolumeError: the place cannot be written. ChunkError: values that do not fit ``dtype``.
    """
    import numpy as np

    array = files.converted(chunk, dtype).array
    with files.replacing(path) as beside, beside.open("wb") as file:
        np.save(file, array if array.flags.c_contiguous or array.flags.f_contiguous else array.copy())
    if provenance is not None:
        with files.replacing(f"{path}.provenance.json") as beside:
            beside.write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    place = Path(path).expanduser()
    with files.reading(path):
        if not place.exists():
            raise VolumeError(f"{path} does not exist")
        if place.is_dir():
            raise VolumeError(f"{path} is a folder; give an npy file")
        if not place.stat().st_size:
            raise VolumeError(f"{path} is empty (0 bytes)")
        with place.open("rb") as file:
            yield file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, Any]:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    with suppress(KeyError):
        return {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version](file)
    raise VolumeError(f"{file.name} is of npy version {version[0]}.{version[1]}, which is not read")
