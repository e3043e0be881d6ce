"""A mesh, and the bytes of its files: neuroglancer's legacy fragment, ply, obj."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segflow.errors import VolumeError


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    Args:
        vertices: (n, 3) float32, **x, y, z** in nm, as all mesh formats have them.
        faces: (m, 3) uint32, rows of ``vertices``, counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]

    def joined(self, *others: Mesh) -> Mesh:
        """Give one mesh of this and others; vertices at the same place become one."""
        meshes = [self, *others]
        shifts = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
        faces = np.concatenate([m.faces.astype(np.int64) + s for m, s in zip(meshes, shifts)])
        every = np.concatenate([m.vertices for m in meshes])
        vertices, place = np.unique(every, axis=0, return_inverse=True)
        return Mesh(vertices, place.reshape(-1)[faces].astype(np.uint32))


def encode_fragment(mesh: Mesh) -> bytes:
    """Give a fragment of a ``neuroglancer_legacy_mesh``: uint32 n, n x, y, z float32, faces uint32."""
    parts = (np.array(len(mesh.vertices), "<u4"), mesh.vertices.astype("<f4"), mesh.faces.astype("<u4"))
    return b"".join(part.tobytes() for part in parts)


def decode_fragment(data: bytes) -> Mesh:
    """Read what ``encode_fragment`` gives; raise VolumeError where it is no fragment."""
    count = int(np.frombuffer(data, "<u4", 1)[0]) if len(data) >= 4 else 0
    rest = len(data) - 4 - 12 * count
    if rest < 0 or rest % 12:
        raise VolumeError(f"{len(data)} bytes are no mesh fragment; it is truncated or of another format")
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    faces = np.frombuffer(data, "<u4", rest // 4, 4 + 12 * count).reshape(-1, 3)
    if faces.size and int(faces.max()) >= count:
        raise VolumeError(f"a face of the mesh fragment names vertex {faces.max()} of {count}")
    return Mesh(vertices, faces)


def encode_ply(mesh: Mesh) -> bytes:
    """Give a binary little-endian ply file."""
    head = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list int int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(mesh.faces), [("count", "<i4"), ("face", "<i4", 3)])
    rows["count"], rows["face"] = 3, mesh.faces
    return head.encode() + mesh.vertices.astype("<f4").tobytes() + rows.tobytes()


def encode_obj(mesh: Mesh) -> bytes:
    """Give a Wavefront obj file; its faces count from 1, places are in nm to 0.001."""
    lines = ["v {:.3f} {:.3f} {:.3f}".format(*v) for v in mesh.vertices.tolist()]
    lines += ["f {} {} {}".format(*f) for f in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()
