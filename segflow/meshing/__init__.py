"""Meshes of labels: surfaces in nm by zmesh, their files, and the fragments of large volumes."""

from segflow.meshing.formats import Mesh, decode_fragment, encode_fragment, encode_obj, encode_ply
from segflow.meshing.neighbours import Surrounded, with_neighbours
from segflow.meshing.objects import mesh_objects

__all__ = [
    "Mesh",
    "Surrounded",
    "decode_fragment",
    "encode_fragment",
    "encode_obj",
    "encode_ply",
    "mesh_objects",
    "with_neighbours",
]
