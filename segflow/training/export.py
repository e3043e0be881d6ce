"""The model file of a trained network: what its configuration says of it, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from segflow import __version__
from segflow.training.config import as_dict
from segflow.training.data import layout_of
from segflow.training.modelfile import save_model
from segflow.training.networks import describe

if TYPE_CHECKING:
    from segflow.training.schema import Config


def export(
    path: str | Path,
    net: nn.Module,
    config: Config,
    iterations: int | None,
    grey_levels: Any = None,
    **record: Any,
) -> None:
    """Write a network of ``segflow train`` as a model file.

    Args:
        path: the file, by habit ``model.pt``.
        net: the network that ``config`` describes, as it is to be used.
        config: of its training.
        iterations: how many it was trained for.
        grey_levels: of the images of its training, see segflow.inference.levels.
        record: what else is to be said of its training, values that JSON can hold.

    Raises:
        ModelError: network and configuration do not fit. VolumeError: the place cannot be written.
    """  # fmt: skip
    layout = layout_of(config)
    kind, count = layout[0]
    outputs = min(config.target.outputs, count) if kind == "affinity" else count
    save_model(
        path, net, model=describe(config.model, sum(n for _, n in layout)),
        offsets=config.target.offsets[:outputs] if kind == "affinity" else None,
        voxel_size=config.data.voxel_size, patch_size=config.model.patch_size,
        record={"segflow": __version__, "iterations": iterations, "config": as_dict(config), **record},
        licence=config.licence, outputs=outputs, grey_levels=grey_levels,
    )  # fmt: skip
