"""The meshes of a precomputed volume: a fragment for each object and task, a manifest for each object.

Names are those of the format: ``<id>:0:<x0-x1_y0-y1_z0-z1>`` holds a fragment and ``<id>:0`` the list
of an object's fragments. In a folder the files are plain, so any web server can hand them out; in a
bucket fragments are packed with gzip and say so in their header, which browsers and cloud-volume undo.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from segflow.errors import VolumeError
from segflow.geometry import Box
from segflow.volumes.info import name_mesh
from segflow.volumes.store import FileStore, Store, change_json, dump_json

log = logging.getLogger("segflow")

LEGACY = "neuroglancer_legacy_mesh"
FRAGMENT = re.compile(r"(\d+):0:((-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+))")


def folder_name(mip: int, max_error: float) -> str:
    """Give the folder of a volume's meshes at a mip.

    >>> folder_name(3, 40.0)
    'mesh_mip_3_err_40'
    """
    return f"mesh_mip_{mip}_err_{max_error:g}"


def fragment_name(label: int, box: Box) -> str:
    """Give the name of the fragment of an object in a box.

    >>> fragment_name(7, Box((0, 64, 128), (20, 96, 192)))
    '7:0:128-192_64-96_0-20'
    """
    return f"{label}:0:" + "_".join(f"{a}-{b}" for a, b in zip(box.start[::-1], box.stop[::-1]))


def open_folder(store: Store, folder: str) -> None:
    """Make the folder of a volume's meshes and name it in the volume's info; safe with many workers.

    Raises:
        VolumeError: there is no info, or the folder holds meshes of another format.
    """

    def edit(found: Any) -> Any:
        if found is not None and found.get("@type") != LEGACY:
            raise VolumeError(
                f"{store.path}/{folder} holds meshes of the type {found.get('@type')}, not single fragments; "
                "remove it or use another --max-simplification-error"
            )
        return found or {"@type": LEGACY}

    change_json(store, f"{folder}/info", edit)
    before = name_mesh(store, folder)
    if before not in (None, folder):
        log.warning("%s showed the meshes in %s; it now shows %s", store.path, before, folder)


def write_all(store: Store, files: Iterable[tuple[str, bytes]], *, packed: bool) -> int:
    """Write files, several at once into a bucket; give how many."""
    return _each(store, files, lambda file: store.put(*file, packed=packed))


def add_to_manifests(store: Store, folder: str, names: Iterable[str]) -> int:
    """Add fragments to the manifests of their objects; safe with many workers; give how many."""

    def add(name: str) -> None:
        label = name.partition(":")[0]
        change_json(
            store,
            f"{folder}/{label}:0",
            lambda found: {"fragments": sorted({name, *(found or {}).get("fragments", ())})},
        )

    return _each(store, names, add)


def write_manifests(store: Store, folder: str, prefix: str = "") -> int:
    """Write the manifest of every object whose id begins with ``prefix``; give how many.

    A prefix that ends in ``:`` is one id. What there was of manifests is replaced.

    Raises:
        VolumeError: fragments of two grids lie together, which would show objects twice.
    """
    objects: dict[str, list[str]] = {}
    ends: dict[tuple[str, ...], tuple[str, str]] = {}
    start = f"{folder}/{prefix}"
    for path in store.list(start):
        name = path.rpartition("/")[2]
        found = FRAGMENT.fullmatch(name)
        if found is None:
            continue
        x0, x1, y0, y1, z0, z1 = found.groups()[2:]
        other, stop = ends.setdefault((x0, y0, z0), (name, f"{x1} {y1} {z1}"))
        if stop != f"{x1} {y1} {z1}":
            raise VolumeError(
                f"{store.path}/{folder} holds fragments of two task sizes ({other} and {name}), which would "
                "show objects twice; remove that folder and run mesh again"
            )
        objects.setdefault(found[1], []).append(name)
    files = ((f"{folder}/{label}:0", dump_json({"fragments": sorted(n)})) for label, n in objects.items())
    return write_all(store, files, packed=False)


def _each(store: Store, items: Iterable[Any], work: Callable[[Any], None]) -> int:
    if isinstance(store, FileStore):
        done = 0
        for item in items:
            work(item)
            done += 1
        return done
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        return sum(sum(1 for _ in pool.map(work, batch)) for batch in _batches(items))


def _batches(items: Iterable[Any], size: int = 256) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
