"""Networks by name: rsunet, unet_3d (as PyTorch Connectomics 1.x has it), and MONAI's.

All take (b, 1, z, y, x) grey levels in [0, 1], normalise them, and answer with logits
(b, channels_out, z, y, x) of the same size.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from segflow.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from segflow.training.config import Model

NAMES = ("rsunet", "unet_3d")
KEYS = ("widths", "isotropic", "kernels", "norm", "act", "options")


def build(model: Model, channels_out: int, channels_in: int = 1) -> nn.Module:
    """Make the network that a configuration describes, with random weights.

    Raises:
        UsageError: a name, width, kernel or option that does not work; it names the key.
    """
    return build_from(describe(model, channels_out, channels_in))


def describe(model: Model, channels_out: int, channels_in: int = 1) -> dict[str, Any]:
    """Give the architecture as plain values, as a model file keeps it: all that ``build_from`` needs."""
    found: dict[str, Any] = {"name": model.name, "channels_in": channels_in, "channels_out": channels_out}
    return found | {key: plain(getattr(model, key)) for key in KEYS if hasattr(model, key)}


def build_from(architecture: dict[str, Any]) -> nn.Module:
    """Make the network that ``describe`` described, with random weights.

    Raises:
        UsageError: as ``build``.
    """
    given = dict(architecture)
    name = str(given.pop("name"))
    channels = int(given.pop("channels_in", 1)), int(given.pop("channels_out"))
    if name.startswith("monai:"):
        from segflow.training.networks.monai import Monai

        return Monai(name.removeprefix("monai:"), *channels, **fitting(Monai, name, given))
    if name == "rsunet":
        from segflow.training.networks.rsunet import RSUNet

        return RSUNet(*channels, **fitting(RSUNet, name, given))
    if name == "unet_3d":
        from segflow.training.networks.unet_3d import UNet3D

        return UNet3D(*channels, **fitting(UNet3D, name, given))
    hint = did_you_mean(name, list(NAMES))
    raise UsageError(f"model.name '{name}' is unknown{hint}; choose {', '.join(NAMES)} or monai:NAME")


def fitting(kind: type, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty; raise UsageError for a key that this network has not."""
    takes = inspect.signature(kind).parameters
    kept = {key: value for key, value in given.items() if value not in (None, [], {}, ())}
    for key in kept:
        if key not in takes:
            raise UsageError(f"model.{key} does not go with model.name {name}; leave it out")
    for key in ("widths", "isotropic"):
        if key not in kept:
            raise UsageError(f"model.{key} is empty; give one entry a level")
    return kept


def plain(value: Any) -> Any:
    """Give lists for tuples, all the way down."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
