"""segment: an image to neurons in one line."""

from __future__ import annotations

from pathlib import Path

import click

from segflow.cli.operator import job, option, triple

READERS = {".tif": "tif", ".tiff": "tif", ".h5": "h5", ".hdf5": "h5", ".hdf": "h5", ".npy": "npy"}


def reader(image: str) -> list[str]:
    """Give the words that read ``image``, by its address or ending; a folder holds tif files."""
    for scheme, name in (("zarr://", "zarr"), ("n5://", "n5")):
        if image.startswith(scheme):
            return [f"read-{name}", "-f", image]
    if "://" in image or (Path(image) / "info").exists():
        return ["read-precomputed", "-v", image]
    place = Path(image.rpartition(":")[0] or image) if ".h5:" in image else Path(image)
    if (place / "zarr.json").exists() or (place / ".zgroup").exists() or (place / ".zarray").exists():
        return ["read-zarr", "-f", image]
    return [f"read-{READERS.get(place.suffix.lower(), 'tif')}", "-f", image]


@job(example="segflow segment image.tif --voxel-size 30 6 6 -o neurons/")
@click.argument("image", metavar="IMAGE")
@triple("--voxel-size", type=float, required=True, show_default=False, help="Voxel size of the image, nm.")
@option("-o", "--output-dir", "folder", metavar="OUT", required=True, help="Folder for the volumes.")
@option("--model", default="affinity-snemi3d", help="Shipped network.")
@option("--threshold", type=float, default=0.7, help="Merge while 1 - mean affinity is below this.")
@triple("--patch-size", default=(20, 256, 256), help="Input patch of the network, voxels.")
@triple("--patch-overlap", default=(4, 64, 64), help="Overlap of patches, voxels.")
@click.pass_context
def segment(
    ctx: click.Context,
    image: str,
    voxel_size: tuple[float, float, float],
    folder: str,
    model: str = "affinity-snemi3d",
    threshold: float = 0.7,
    patch_size: tuple[int, int, int] = (20, 256, 256),
    patch_overlap: tuple[int, int, int] = (4, 64, 64),
) -> None:
    """Segment an image with a shipped network: prints the chain it stands for, then runs it.

    OUT gets two precomputed volumes with their pyramids, ``image`` and ``seg``. IMAGE is a tif,
    h5, npy or zarr file, a folder of tif files, or a volume.
    """
    import shlex

    from segflow.cli.main import run_tokens

    def words(values: tuple[float, ...]) -> list[str]:
        return [f"{v:g}" for v in values]

    read = reader(image)
    size = [] if read[0] in ("read-precomputed", "read-n5") else ["--voxel-size", *words(voxel_size)]
    place = folder if "://" in folder else f"file://{Path(folder).absolute()}"
    volumes = {name: f"{place.rstrip('/')}/{name}" for name in ("image", "seg")}
    written = ["--voxel-size", *words(voxel_size)]
    tokens = [
        *read, *size, "-o", "image",
        "write-precomputed", "-i", "image", "--layer-type", "image", *written, "-v", volumes["image"],
        "inference", "--model", model, "--patch-size", *words(patch_size),
        "--patch-overlap", *words(patch_overlap), "--pad", "reflect", "--mask-output-chunk",
        "-i", "image", "-o", "affs",
        "agglomerate", "--threshold", str(threshold), "--aff-threshold-low", "0.001",
        "--aff-threshold-high", "0.9999", "-i", "affs", "-o", "seg",
        "write-precomputed", "-i", "seg", *written, "-v", volumes["seg"],
        "downsample", "-v", volumes["image"], "downsample", "-v", volumes["seg"],
    ]  # fmt: skip
    click.echo(shlex.join(["segflow", *tokens]))
    run_tokens(ctx.find_root(), tokens)
