"""What a block job reads and writes, as its work folder sees it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segflow.errors import UsageError, VolumeError
from segflow.volumes import bucket_files, peek, split_address
from segflow.volumes.hdf5 import split_dataset
from segflow.volumes.store import local_path

HEADS = ("info", "zarr.json", ".zarray", ".zgroup", ".zattrs", "attributes.json")


def work_dir_of(output: str) -> Path:
    """Give the work folder of the job that writes ``output``: beside it, ``.work`` added to its name.

    >>> work_dir_of("/data/seg/"), work_dir_of("zarr:///data/a.zarr")
    (PosixPath('/data/seg.work'), PosixPath('/data/a.zarr.work'))

    Raises:
        UsageError: the output is in a bucket, beside which no folder can be.
    """
    _, place = split_address(split_dataset(output)[0])
    folder = local_path(place)
    if folder is None:
        raise UsageError(f"{output} is in a bucket; name a local folder for the work with --work-dir")
    return folder.with_name(folder.name + ".work")


def absolute(path: str) -> str:
    """Give a path or address that means the same from any folder.

    >>> absolute("zarr:///data/a.zarr"), absolute("s3://bucket/a"), absolute("/data/../a.h5:main")
    ('zarr:///data/a.zarr', 's3://bucket/a', '/data/../a.h5:main')
    """
    before, mark, place = path.rpartition("://")
    if mark and before.rpartition("://")[2] not in ("file", "precomputed", "zarr", "n5"):
        return path
    return before + mark + str(Path(place).expanduser().absolute())


def place_of(path: str) -> str:
    """Give the file, folder or bucket of a path or address, whatever its format or data set.

    >>> place_of("zarr:///data/a"), place_of("/data/b.h5:main")
    ('file:///data/a', 'file:///data/b.h5')
    """
    return split_address(split_dataset(path.rstrip("/"))[0])[1]


def find_work_dir(path: str) -> Path:
    """Give the work folder at ``path``, or that of the job that writes to ``path``.

    Raises:
        VolumeError: there is none.
    """
    place = Path(path).expanduser()
    if (place / "plan.json").is_file():
        return place
    try:
        beside = work_dir_of(path)
    except UsageError:
        raise VolumeError(f"{path} is in a bucket; give the local work folder") from None
    if not (beside / "plan.json").is_file():
        raise VolumeError(f"{path} is no work folder (it has no plan.json), nor is there one at {beside}")
    return beside


def fingerprint(path: str, mip: int = 0) -> dict[str, Any]:
    """Tell an input from any other, and from itself after a change, without reading its voxels.

    Args:
        path: a file (``file.h5:dataset`` too), a folder of tif files, or a volume's address.
        mip: of the volume.

    Returns:
        JSON: its path; of a file the size and the time of its last change; of a local volume a
        hash of what its metadata say of this mip and of names, sizes and times of its chunk files;
        of a volume in a bucket a hash of its metadata alone.

    Raises:
        VolumeError: there is nothing at ``path``, or it is broken.
    """
    file = Path(split_dataset(path)[0].removeprefix("file://")).expanduser()
    if file.is_file():
        status = file.stat()
        dataset = split_dataset(path)[1]
        known: dict[str, Any] = {"path": str(file.absolute()) + (f":{dataset}" if dataset else "")}
        return {**known, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    address = path
    if file.is_dir():
        from segflow.volumes.lazy import address_of

        found = address_of(str(file))
        if found is None:
            return {"path": str(file.absolute()), **_files(file)}
        address = found
    _, place = split_address(address)
    info, folder = peek(address, mip), local_path(place)
    if info is None:
        store = bucket_files(address)
        heads = [store.get(name) for name in HEADS] if folder is None else []
        if not any(heads):
            raise VolumeError(f"there is no volume at {path}")
        return {"path": place, "mip": mip, "metadata": _hash(heads)}
    told = (info.bounds, info.dtype, info.channels, info.voxel_size, info.offsets, info.encoding)
    known = {"path": place, "mip": mip, "metadata": _hash([*told, info.block_size])}
    return {**known, **(_files(folder / info.extra["key"]) if folder else {})}


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _files(folder: Path) -> dict[str, Any]:
    """Count the files below a folder, and hash their names, sizes and times."""
    found = sorted(_walk(str(folder)))
    return {"files": len(found), "bytes": sum(f[1] for f in found), "chunks": _hash(found)}


def _walk(folder: str, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif not entry.name.startswith(".") or entry.name in HEADS:
                status = entry.stat()
                yield f"{prefix}{entry.name}", status.st_size, status.st_mtime_ns
