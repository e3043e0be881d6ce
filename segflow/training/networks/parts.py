"""What the networks are made of: norms and activations by name, convolutions, and their checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segflow.errors import UsageError, did_you_mean

NORMS = ("bn", "gn", "in", "none")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "none")
GROUPS = 8  # of a GroupNorm; fewer where the width does not divide

Kernel = tuple[int, int, int]


def norm(name: str, width: int, *, affine: bool = True) -> nn.Module:
    """Give the norm ``name`` of ``width`` channels: bn, gn (eight groups), in, or none.

    ``affine`` is whether an InstanceNorm learns a scale and a shift.

    Raises:
        UsageError: there is no such norm.
    """
    one_of("model.norm", name, NORMS)
    if name == "bn":
        return nn.BatchNorm3d(width)
    if name == "gn":
        return nn.GroupNorm(math.gcd(GROUPS, width), width)
    return nn.InstanceNorm3d(width, affine=affine) if name == "in" else nn.Identity()


def activation(name: str, *, inplace: bool = True) -> nn.Module:
    """Give the activation ``name``; leaky_relu has the slope 0.2. ``inplace``: where it can be.

    Raises:
        UsageError: there is no such activation.
    """
    one_of("model.act", name, ACTIVATIONS)
    if name in ("relu", "silu", "elu"):
        return {"relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}[name](inplace=inplace)
    if name == "leaky_relu":
        return nn.LeakyReLU(0.2, inplace=inplace)
    return nn.GELU() if name == "gelu" else nn.Identity()


def triple(kernel: Sequence[int]) -> Kernel:
    """Give three whole numbers, zyx, as a tuple."""
    z, y, x = (int(k) for k in kernel)
    return z, y, x


def half(kernel: Sequence[int]) -> Kernel:
    """Give the padding with which a convolution of an odd ``kernel`` keeps the size."""
    z, y, x = (int(k) // 2 for k in kernel)
    return z, y, x


def conv_norm(inputs: int, outputs: int, kernel: Sequence[int], norm_name: str) -> nn.Sequential:
    """Give a convolution that keeps the size (odd kernel, no stride), and its norm.

    They stand in a plain ``nn.Sequential``, so that ``inference`` folds a BatchNorm into it.
    """
    bias = norm_name == "none"
    conv = nn.Conv3d(inputs, outputs, triple(kernel), padding=half(kernel), bias=bias)
    return nn.Sequential(conv, norm(norm_name, outputs))


class Grey(nn.Module):
    """The normalisation of grey levels in [0, 1]: (x - mean) / std."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = float(mean), float(std)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        return (x - self.mean) / self.std


def pad_to(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Repeat the last planes of ``x`` (b, c, z, y, x) until each size divides by ``multiple``."""
    missing = [-n % m for n, m in zip(x.shape[2:], multiple)]
    if not any(missing):
        return x
    return F.pad(x, [w for m in reversed(missing) for w in (0, m)], mode="replicate")


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply ``layer`` outside autocast: the last sum decides, and bfloat16 is too coarse for it."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(next(layer.parameters()).dtype))


def strides(isotropic: Sequence[bool]) -> list[Kernel]:
    """Give the stride into each level: none into the first, 2 2 2 where isotropic, else 1 2 2."""
    return [(1, 1, 1), *((2, 2, 2) if flag else (1, 2, 2) for flag in isotropic[1:])]


def product(triples: Iterable[Kernel]) -> Kernel:
    """Multiply triples axis by axis."""
    z, y, x = (math.prod(axis) for axis in zip(*triples))
    return z, y, x


def one_of(key: str, value: str, known: Sequence[str]) -> None:
    """Raise UsageError unless ``value`` is one of ``known``."""
    if value not in known:
        hint = did_you_mean(str(value), list(known))
        raise UsageError(f"{key} '{value}' is unknown{hint}; choose {', '.join(known)}")


def check_levels(widths: Sequence[int], **lists: Sequence[Any]) -> None:
    """Raise UsageError unless the widths are positive and each list has one entry a level."""
    if not widths or any(not isinstance(w, int) or w < 1 for w in widths):
        raise UsageError(f"model.widths {list(widths)} must be whole numbers from 1 on, one a level")
    for key, values in lists.items():
        if len(values) != len(widths):
            raise UsageError(
                f"model.{key} has {len(values)} entries and model.widths {len(widths)}; give one a level"
            )


def take(options: dict[str, Any], network: str, **defaults: Any) -> dict[str, Any]:
    """Give ``defaults`` with what ``options`` says instead.

    Raises:
        UsageError: an option that this network has not.
    """
    for key in options:
        if key not in defaults:
            hint = did_you_mean(key, list(defaults))
            raise UsageError(
                f"model.options: {network} has no '{key}'{hint}; it has {', '.join(sorted(defaults))}"
            )
    return defaults | options
