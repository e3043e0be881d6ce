"""preview-augment: what each augmentation does to a crop, as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import before_the_run
from segflow.cli.operator import OVERRIDES, job, option, triple
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.training.augment import Sample
    from segflow.training.config import Config
    from segflow.training.sources import Volume


@job(example="segflow preview-augment --config-file net.yaml augment.elastic.amplitude=6 -o sheet.png")
@option("--config-base", metavar="FILE", default=None, help="YAML that is read first, as of train.")
@option("--config-file", metavar="FILE", default=None, help="YAML over it; of segflow or PyTC 1.x.")
@option("-f", "--image", metavar="FILE", default=None, help="Image; default: the first of data.images.")
@option("-l", "--labels", metavar="FILE", default=None, help="Its labels; default: the first of data.labels.")
@option("-o", "--output", metavar="FILE", required=True, help="PNG file to make or replace.")
@triple("--patch-size", type=click.IntRange(1), default=None, show_default="model.patch_size",
        help="Of the samples, voxels; what is larger than the image is cut to it.")  # fmt: skip
@option("--seed", type=click.IntRange(0), default=None, show_default="system.seed",
        help="Of the first row of each kind.")  # fmt: skip
@option("--tile", type=click.IntRange(32, 2048), default=256, help="Longer side of a section, pixels.")
@click.argument("overrides", nargs=-1, metavar=OVERRIDES, type=click.UNPROCESSED)
def preview_augment(
    output: str,
    config_base: str | None = None,
    config_file: str | None = None,
    image: str | None = None,
    labels: str | None = None,
    patch_size: tuple[int, int, int] | None = None,
    seed: int | None = None,
    tile: int = 256,
    overrides: tuple[str, ...] = (),
) -> None:
    """Draw each augmentation of a configuration before and after, as a PNG sheet.

    Each is shown alone, always on, and then all together as configured, on the middle of the first
    volume. Without a configuration all are shown as they are by default.
    """
    from segflow.training import config as configuration
    from segflow.training.augment.preview import sheet
    from segflow.volumes.files import replacing

    if (image is None) != (labels is None):
        raise UsageError("give both an image and its labels: -f IMAGE -l LABELS")
    config, _ = configuration.load(config_base, config_file, overrides)
    if image is not None and labels is not None:
        config.data.images, config.data.labels = [image], [labels]
        config.data.masks, config.data.boxes, config.data.weights = [], [], []
    with before_the_run():
        volume = first_volume(config)
        wanted = patch_size or config.model.patch_size
        size = [min(n, s) for n, s in zip(wanted, volume.shape)]
        seed = config.system.seed if seed is None else seed
        nm = config.data.voxel_size or volume.image.info.voxel_size
        picture = sheet(
            lambda enlarged: middle(volume, size, enlarged, config.data.pad_mode), size, config.augment,
            seed=seed, tile=tile, aspect=nm[0] / nm[2] if nm else 1.0,
            title=f"{volume.image.path}   sample {'x'.join(map(str, size))}   seed {seed}",
        )  # fmt: skip
    with replacing(output) as beside:
        picture.save(beside, "PNG")
    click.echo(f"{output}: {picture.width}x{picture.height} pixels, seed {seed}", err=True)


def first_volume(config: Config) -> Volume:
    """Give the first volume of a configuration, its files checked."""
    import copy

    from segflow.training.sources import find_volumes

    own = copy.deepcopy(config)
    own.model.patch_size = [1, 1, 1]
    return find_volumes(own)[0]


def middle(volume: Volume, size: Any, enlarged: Any, mode: str) -> Sample:
    """Read the crop whose sample of ``size`` lies in the middle of a volume."""
    import numpy as np

    from segflow.training.data import as_image, as_labels
    from segflow.training.sources import inside

    start = [(n - s) // 2 - (e - s) // 2 for n, s, e in zip(volume.shape, size, enlarged)]
    known = inside(start, enlarged, volume.shape) if mode == "constant" else np.ones(enlarged, bool)
    if volume.mask is not None:
        known = volume.mask.read(start, enlarged, mode) > 0
    image, labels = (source.read(start, enlarged, mode) for source in (volume.image, volume.labels))
    return as_image(image), as_labels(labels), known
