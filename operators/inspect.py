"""inspect: what a file or volume is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.operator import job, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segflow.volumes.base import VolumeInfo
    from segflow.volumes.look import Survey


@job("Viewing", example="segflow inspect image.tif --png section.png")
@click.argument("path", metavar="FILE|VOLUME")
@option("-d", "--dataset-path", "dataset", metavar="NAME", default=None,
        help="Data set of an h5 file; default: main, else the only one, else all are listed.")  # fmt: skip
@option("-m", "--mip", type=int, default=None, help="Mip; default: the finest of at most 268 Mvoxel.")
@option("--png", metavar="FILE", default=None, help="Write a picture of the middle section.")
def inspect(path: str, *, dataset: str | None = None, mip: int | None = None, png: str | None = None) -> None:
    """Tell what a file or volume is: axes, shape, dtype, voxel size, place, values, empty sections.

    FILE is a tif (or a folder of them), h5 (FILE.h5:DATASET) or npy file, VOLUME a precomputed,
    zarr or n5 folder or address.
    """
    from segflow.volumes import hdf5, lazy, look

    if lazy.format_of(path) == "h5" and not (dataset or hdf5.split_dataset(path)[1]):
        held = hdf5.list_datasets(path)
        names = [str(i.extra["dataset"]) for i in held]
        if len(held) != 1 and "/main" not in names:
            click.echo(f"{path}: h5 with {len(held)} data sets")
            for info in held:
                click.echo(f"\n{info.extra['dataset']}\n" + header(info))
            return
    source = look.Source(path, dataset, mip)
    click.echo(f"{path}: {source.info.format}")
    click.echo(header(source.info))
    click.echo(values(source.info, look.survey(source)))
    if png is not None:
        from PIL import Image

        from segflow.view.section import section_picture
        from segflow.volumes.files import replacing

        with replacing(png) as beside:
            Image.fromarray(section_picture(source.middle(), size=1024)).save(beside, format="PNG")


def header(info: VolumeInfo) -> str:
    """Give the lines that a header tells."""
    lead = [info.channels] if info.extra.get("ndim", 4 if info.channels > 1 else 3) == 4 else []
    rows = {
        "data set": info.extra.get("dataset"),
        "axes": "czyx" if lead else "zyx",
        "shape": words([*lead, *info.bounds.shape]),
        "dtype": info.dtype,
        "layer type": info.layer_type or "undecided (image or segmentation)",
        "voxel size": f"{words(info.voxel_size)} nm" if info.voxel_size else "unknown",
        "voxel offset": words(info.bounds.start),
        "channel offsets": "; ".join(words(o) for o in info.offsets) if info.offsets else None,
        "mip": f"{info.mip} of 0 to {info.mips - 1}" if info.mips > 1 else None,
        "block size": words(info.block_size) if info.block_size else None,
        "encoding": info.encoding,
    }
    return "\n".join(f"  {key:16s} {value}" for key, value in rows.items() if value is not None)


def values(info: VolumeInfo, found: Survey) -> str:
    """Give the lines that the values tell."""
    from segflow.volumes.look import ranges

    depth = info.bounds.shape[0]
    sampled = f" (of {found.sections} sections out of {depth})" if found.sections < depth else ""
    rows = {
        "value range": f"{words([found.low, found.high], ' to ')}, mean {found.mean:.6g}{sampled}",
        "not finite": f"{found.not_finite} voxels" if found.not_finite else None,
        "empty sections": (ranges(found.empty) or "none") + sampled,
    }
    return "\n".join(f"  {key:16s} {value}" for key, value in rows.items() if value is not None)


def words(numbers: Sequence[float], between: str = " ") -> str:
    """Give numbers with something between them."""
    return between.join(f"{n:g}" if isinstance(n, float) else str(n) for n in numbers)
