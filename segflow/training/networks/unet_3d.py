"""The U-Net of PyTorch Connectomics 1.x (unet_3d), with its parameter names, to take its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segflow.training.networks.parts import (
    Grey,
    activation,
    check_levels,
    half,
    in_float32,
    norm,
    one_of,
    strides,
    take,
)

BLOCKS = ("residual", "residual_pa", "residual_se", "residual_se_pa")
SQUEEZE = 4


def layer(
    inputs: int, outputs: int, kernel: tuple[int, int, int], style: dict[str, Any], stride: Any = 1
) -> nn.Sequential:
    """Give convolution, norm and activation; no bias, edges repeated."""
    conv = nn.Conv3d(
        inputs, outputs, kernel, stride, half(kernel), bias=False, padding_mode=style["pad_mode"]
    )
    return nn.Sequential(conv, norm(style["norm"], outputs, affine=False), activation(style["act"]))


def early(width: int, style: dict[str, Any]) -> nn.Sequential:
    """Give norm, activation and a convolution 1 3 3, in this order."""
    conv = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), bias=False, padding_mode=style["pad_mode"])
    act = activation(style["act"], inplace=False)  # without a norm it would change the sum
    return nn.Sequential(norm(style["norm"], width, affine=False), act, conv)


class Squeeze(nn.Module):
    """Scales each channel by what the means of all say (squeeze and excitation)."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        few = max(1, width // SQUEEZE)
        self.fc = nn.Sequential(
            nn.Linear(width, few, bias=False),
            activation(act),
            nn.Linear(few, width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give the scaled features."""
        return x * self.fc(x.mean((2, 3, 4)))[..., None, None, None]


class Block(nn.Module):
    """Two convolutions 1 3 3 with a sum around them, at every level, as PyTC's are."""

    def __init__(self, width: int, kind: str, style: dict[str, Any]) -> None:
        super().__init__()
        before = kind.endswith("_pa")
        if before:
            self.conv = nn.Sequential(early(width, style), early(width, style))
        else:
            plain = style | {"act": "none"}
            self.conv = nn.Sequential(
                layer(width, width, (1, 3, 3), style), layer(width, width, (1, 3, 3), plain)
            )
        if "_se" in kind:
            self.conv = nn.Sequential(self.conv, Squeeze(width, style["act"]))
        self.act = nn.Identity() if before else activation(style["act"])

    def forward(self, x: Tensor) -> Tensor:
        """Give features of the same size and width."""
        return self.act(x + self.conv(x))


class UNet3D(nn.Module):
    """Input (b, c, z, y, x) in [0, 1]; output (b, channels_out, z, y, x) logits of the same size.

    Levels shrink by strided convolutions (1 3 3 of stride 1 2 2, or 3 3 3 of stride 2 where
    isotropic), grow by trilinear interpolation, corner to corner, and skips are added. Sizes of the
    form k 2^n + 1 keep voxels in place. No size is refused.

    Args:
        widths: channels of each level, finest first.
        isotropic: of each level.
        norm: bn, gn, in or none. act: see parts.activation.
        options: ``block`` residual, residual_pa, residual_se or residual_se_pa; ``pad_mode``;
            ``all_isotropic``: PyTC's IS_ISOTROPIC; ``pooling``: shrink by maxima instead of
            strides; ``mean``, ``std``: of the grey levels (PyTC's DATASET.MEAN and STD).

    Raises:
        UsageError: options that are unknown or do not fit each other.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        widths: Sequence[int],
        isotropic: Sequence[bool],
        norm: str = "bn",
        act: str = "elu",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = take(
            options or {}, "unet_3d", block="residual", pad_mode="replicate", all_isotropic=False,
            pooling=False, mean=0.5, std=0.5,
        )  # fmt: skip
        check_levels(widths, isotropic=isotropic)
        one_of("model.options.block", given["block"], BLOCKS)
        one_of("model.options.pad_mode", given["pad_mode"], ("replicate", "reflect", "zeros", "circular"))
        style = {"norm": norm, "act": act, "pad_mode": given["pad_mode"]}
        flags = [True] * len(widths) if given["all_isotropic"] else list(isotropic)
        ends = (5, 5, 5) if given["all_isotropic"] else (1, 5, 5)
        self.corners = not given["pooling"]
        self.grey = Grey(given["mean"], given["std"])
        self.conv_in = layer(channels_in, widths[0], ends, style)
        last = nn.Conv3d(
            widths[0], channels_out, ends, padding=half(ends), padding_mode=given["pad_mode"]
        )  # fmt: skip
        self.conv_out = nn.Sequential(last)
        self.down_layers, self.up_layers = nn.ModuleList(), nn.ModuleList()
        for level, (width, stride) in enumerate(zip(widths, strides(flags))):
            kernel = (3, 3, 3) if flags[level] else (1, 3, 3)
            above = widths[max(0, level - 1)]
            pool = nn.MaxPool3d(stride, stride) if given["pooling"] and level else nn.Identity()
            enter = layer(above, width, kernel, style, 1 if given["pooling"] else stride)
            self.down_layers.append(nn.Sequential(pool, enter, Block(width, given["block"], style)))
            if level:
                enter = layer(width, above, kernel, style)
                self.up_layers.append(nn.ModuleList([enter, Block(above, given["block"], style)]))
        self.apply(orthogonal)

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        x = self.conv_in(self.grey(x))
        skips = []
        for down in self.down_layers:
            x = down(x)
            skips.append(x)
        for level in reversed(range(len(self.up_layers))):
            (narrow, block), skip = list(self.up_layers[level].children()), skips[level]
            size = skip.shape[2:]
            x = F.interpolate(narrow(x), size=size, mode="trilinear", align_corners=self.corners)
            x = block(skip + x)
        return in_float32(self.conv_out, x)


def orthogonal(module: nn.Module) -> None:
    """Set the weights of a convolution or a linear layer orthogonal, its bias zero."""
    if isinstance(module, (nn.Conv3d, nn.Linear)):
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
