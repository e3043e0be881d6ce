"""mesh: surfaces of objects."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import mip_option, name_in, operator, option, triple
from segflow.cli.plan import Plan
from segflow.cli.volumes import can_write, existing
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import Run, State

log = logging.getLogger("segflow")


def plan_mesh(plan: Plan, options: dict[str, Any]) -> None:
    """Check the output, the lists of ids and that zmesh is there."""
    from segflow.volumes import split_address

    path, form = options["output_path"], options["output_format"]
    if importlib.util.find_spec("zmesh") is None:
        raise UsageError("meshes need zmesh; pip install 'segflow[mesh]'")
    for option_name in ("ids", "skip_ids"):
        _ids(options[option_name], option_name)
    size = options["voxel_size"]
    if size and min(size) <= 0:
        raise UsageError(f"--voxel-size is {size}; all three must be greater than 0")
    kind = plan.spec(options["chunk"]).layer_type
    if kind not in (None, "segmentation"):
        raise UsageError(f"meshes are made of labels, and '{options['chunk']}' is of the type {kind}")
    can_write(path)
    if form != "precomputed":
        return plan.makes(split_address(path)[1])
    if split_address(path)[0] != "precomputed":
        raise UsageError(f"precomputed meshes lie in a precomputed volume, not in {path}; or use -t ply")
    info = existing(plan, path, 0)
    if info is not None and info.layer_type in ("image", "affinity_map", "probability_map"):
        raise UsageError(f"{path} is of the type {info.layer_type}; give --output-path the labels' volume")
    return None


def prepare_mesh(*, output_format: str, voxel_size: Any = None, **_: Any) -> None:
    """Say what is not used."""
    if output_format == "precomputed" and voxel_size:
        log.warning("--voxel-size is not used: precomputed meshes take the voxel size of the volume's info")


def finish_mesh(run: Run, *, output_path: str, output_format: str, manifest: bool, **_: Any) -> None:
    """Say what comes next."""
    if output_format == "precomputed" and not manifest and output_path in run.written:
        log.info(
            "when all tasks are meshed, list the fragments: segflow mesh-manifest -v %s",
            shlex.quote(output_path),
        )
    if output_path not in run.written and not run.failed:
        log.warning("nothing was meshed: no object of the wanted ids, or size, is in the chunks")


def _ids(text: str | None, name: str) -> set[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if not word.isdecimal():
            raise UsageError(f"--{name.replace('_', '-')} has '{word}'; give ids as 34,56,78")
    return {int(word) for word in words}


@operator("Segmentation", plan=plan_mesh, prepare=prepare_mesh, finish=finish_mesh,
          example="segflow --mip 3 generate-tasks -v seg -c 448 448 448 cutout -v seg mesh -o seg "
          "--dust-threshold 100")  # fmt: skip
@name_in(help="Labels.")
@mip_option("Mip of the chunk; default: the one it was read at, else that of the task (--mip).")
@triple("-v", "--voxel-size", type=float, default=None,
        help="Voxel size for ply and obj, nm; default: the chunk's. Precomputed: the volume's.")  # fmt: skip
@option("-o", "--output-path", default="file:///tmp/mesh/", metavar="PATH",
        help="The labels' precomputed volume; for ply and obj a folder or a place in a bucket.")  # fmt: skip
@option("-t", "--output-format", type=click.Choice(["precomputed", "ply", "obj"]), default="precomputed",
        help="Kind of files.")  # fmt: skip
@option("-f", "--simplification-factor", type=click.IntRange(0), default=100,
        help="Divide the number of triangles by up to this; 0 does not simplify.")  # fmt: skip
@option("-e", "--max-simplification-error", "max_error", type=click.FloatRange(0), default=40,
        help="How far simplification may move the surface, nm.")  # fmt: skip
@option("--skip-ids", aliases=("-s",), default=None, metavar="IDS", help="Objects left out, as 34,56,78.")
@option("--ids", default=None, metavar="IDS", help="Mesh only these objects, as 34,56,78.")
@option("--dust-threshold", aliases=("-d",), type=click.IntRange(0), default=0,
        help="Leave out objects of fewer voxels that lie wholly inside the chunk.")  # fmt: skip
@option("--manifest/--no-manifest", default=False,
        help="Add the fragments to manifests at once; else run mesh-manifest at the end.")  # fmt: skip
def mesh(
    chunk: Chunk,
    *,
    mip: int | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    output_path: str = "file:///tmp/mesh/",
    output_format: str = "precomputed",
    simplification_factor: int = 100,
    max_error: float = 40,
    skip_ids: str | None = None,
    ids: str | None = None,
    dust_threshold: int = 0,
    manifest: bool = False,
    state: State | None = None,
) -> None:
    """Mesh the objects of a chunk, in nm: fragments in a volume, or a ply or obj file each.

    A chunk that was read from a volume is meshed with the planes of its neighbours that it touches,
    so the fragments of all tasks meet exactly. Fragments show when mesh-manifest has listed them.
    """
    from segflow.meshing import mesh_objects, with_neighbours
    from segflow.meshing.save import Target, save_meshes

    if state is not None and state.resumed:
        return  # skipped up to here: there is nothing in the task
    level = mip if mip is not None else chunk.source.get("mip", state.mip if state is not None else 0)
    several = state is not None and state.parent is not None and state.count != 1
    target = Target(output_path, output_format, level, max_error, several, manifest)
    size = target.voxel_size(chunk, voxel_size)
    around = with_neighbours(chunk)
    meshes = mesh_objects(
        around.array, size, around.start, ids=_ids(ids, "ids"), skip_ids=_ids(skip_ids, "skip_ids") or (),
        dust_threshold=dust_threshold, shared=around.shared,
        simplification_factor=simplification_factor, max_error=max_error,
    )  # fmt: skip
    count = save_meshes(target, chunk, meshes, state.run.provenance() if state is not None else None)
    log.debug("%d meshes of %s", count, chunk.bbox)
    if state is not None and count:
        state.run.wrote(output_path, chunk.bbox.voxels)
