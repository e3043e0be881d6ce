"""Where meshes go: fragments in a precomputed volume, or a ply or obj file an object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segflow.errors import ChunkError
from segflow.meshing import fragments
from segflow.meshing.formats import Mesh, encode_fragment, encode_obj, encode_ply

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.geometry import Box

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Target:
    """Where meshes go and how.

    Args:
        path: a precomputed volume's address; for ``ply`` and ``obj`` any folder or place in a bucket.
        form: ``precomputed``, ``ply`` or ``obj``.
        mip: that of the chunks, which names the folder of fragments.
        max_error: nm, which names it too.
        several: more chunks follow, so the names of ply and obj files hold their boxes.
        manifest: fragments are added to the manifests of their objects.
    """

    path: str
    form: str
    mip: int = 0
    max_error: float = 40.0
    several: bool = False
    manifest: bool = False

    @property
    def folder(self) -> str:
        """The volume's folder of fragments."""
        return fragments.folder_name(self.mip, self.max_error)

    def voxel_size(self, chunk: Chunk, told: Size | None = None) -> Size:
        """Give the voxel size (zyx, nm) of the meshes of a chunk.

        Raises:
            ChunkError: nobody knows it, or the chunk's is not that of the volume at this mip.
            VolumeError: there is no volume, or it has no such mip.
        """
        if self.form != "precomputed":
            size = told or chunk.voxel_size
            if size is None:
                raise ChunkError("the voxel size is not known; give --voxel-size Z Y X in nm")
            return size
        from segflow.volumes import info, open_volume

        volume: Any = open_volume(self.path)
        known, own = volume.info(self.mip).voxel_size, chunk.voxel_size
        if known and own and not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(known, own)):
            raise ChunkError(
                f"the chunk's voxels are {own} nm and those of mip {self.mip} of {volume.path} "
                f"{known}; give the chunk's mip with --mip"
            )
        return info.resolution(volume.raw["scales"][self.mip])


def save_meshes(
    target: Target, chunk: Chunk, meshes: Iterable[tuple[int, Mesh]], record: dict[str, Any] | None = None
) -> int:
    """Write the meshes of a chunk; give how many. ``record`` (how they are made) goes into the volume.

    Raises:
        VolumeError: they cannot be written.
    """
    from segflow.volumes import bucket_files, open_volume

    store = bucket_files(target.path)
    if target.form != "precomputed":
        encode = {"ply": encode_ply, "obj": encode_obj}[target.form]
        part = f"_{chunk.bbox}" if target.several else ""
        files = ((f"{label}{part}.{target.form}", encode(mesh)) for label, mesh in meshes)
        return fragments.write_all(store, files, packed=False)
    volume: Any = open_volume(target.path)
    box = volume.inside(chunk.bbox, volume.info(target.mip))
    fragments.open_folder(store, target.folder)
    names: list[str] = []
    count = fragments.write_all(store, _named(meshes, box, target.folder, names), packed=True)
    if target.manifest:
        fragments.add_to_manifests(store, target.folder, names)
    if record is not None:
        volume.note(record)
    return count


def _named(
    meshes: Iterable[tuple[int, Mesh]], box: Box, folder: str, names: list[str]
) -> Iterator[tuple[str, bytes]]:
    for label, mesh in meshes:
        names.append(fragments.fragment_name(label, box))
        yield f"{folder}/{names[-1]}", encode_fragment(mesh)
