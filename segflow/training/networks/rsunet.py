"""The residual symmetric U-Net of Lee et al. 2017 (arXiv 1706.00120), for anisotropic voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from segflow.errors import UsageError
from segflow.training.networks.parts import (
    Grey,
    Kernel,
    activation,
    check_levels,
    conv_norm,
    half,
    in_float32,
    norm,
    one_of,
    pad_to,
    product,
    strides,
    take,
    triple,
)

BLOCKS = ("full", "light")


class Block(nn.Module):
    """A residual module of one level.

    ``full``, as in the paper: a convolution that enters, then two with a sum around them.
    ``light``: two, the first within the section, with a sum around them.
    """

    def __init__(self, width: int, kernel: Sequence[int], kind: str, norm_name: str, act: str) -> None:
        super().__init__()
        first = kernel if kind == "full" else (1, *kernel[1:])
        self.enter = conv_norm(width, width, kernel, norm_name) if kind == "full" else None
        self.first = conv_norm(width, width, first, norm_name)
        self.second = conv_norm(width, width, kernel, norm_name)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Give features of the same size and width."""
        if self.enter is not None:
            x = self.act(self.enter(x))
        return self.act(x + self.second(self.act(self.first(x))))


class RSUNet(nn.Module):
    """Input (b, c, z, y, x) in [0, 1]; output (b, channels_out, z, y, x) logits of the same size.

    Levels shrink by a convolution of stride 1 2 2, or 2 2 2 where the level is isotropic, and grow by
    its transpose; skips are added. Sizes that do not divide are padded inside by repeating the edge.

    Args:
        widths: channels of each level, finest first.
        isotropic: whether each level has kernels 3 3 3 and is entered by stride 2 2 2; else 1 3 3
            and 1 2 2. That of the first level means only its kernel.
        kernels: the kernel (odd, zyx) of each level, where it is not that of ``isotropic``.
        norm: bn, gn, in or none. act: see parts.activation.
        options: ``block`` full (the paper's) or light; ``thin_top``: at full resolution only a
            convolution instead of a block; ``bottom``: how many blocks the coarsest level has;
            ``stem``: kernel of the first convolution; ``head``: of the last; ``mean``, ``std``: of
            the grey levels.

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
        kernels: Sequence[Sequence[int]] = (),
        norm: str = "bn",
        act: str = "relu",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = take(
            options or {}, "rsunet", block="full", thin_top=False, bottom=1, stem=(1, 5, 5),
            head=(1, 1, 1), mean=0.5, std=0.2,
        )  # fmt: skip
        one_of("model.options.block", given["block"], BLOCKS)
        kernels = kernels or [(3, 3, 3) if flag else (1, 3, 3) for flag in isotropic]
        check_levels(widths, isotropic=isotropic, kernels=kernels)
        stem, head = odd(given["stem"], "options.stem"), odd(given["head"], "options.head")
        sizes = [odd(k, "kernels") for k in kernels]

        if not isinstance(given["bottom"], int) or given["bottom"] < 1:
            raise UsageError(f"model.options.bottom {given['bottom']} must be a whole number from 1 on")

        def block(level: int) -> nn.Module:
            return Block(widths[level], sizes[level], given["block"], norm, act)

        blocks = [block(level) for level in range(len(widths))]
        if given["bottom"] > 1:
            blocks[-1] = nn.Sequential(*(block(-1) for _ in range(given["bottom"])))
        grown = [block(level) for level in range(len(widths) - 1)]
        if given["thin_top"]:
            grown[:1] = [Thin(widths[0], sizes[0], norm, act)] if grown else []
        self.strides = strides(isotropic)
        self.multiple = product(self.strides)
        self.grey = Grey(given["mean"], given["std"])
        self.stem = conv_norm(channels_in, widths[0], stem, norm)
        self.act = activation(act)
        self.encode = nn.ModuleList([nn.Identity(), *blocks[1:]] if given["thin_top"] else blocks)
        self.decode = nn.ModuleList(grown)
        pairs = list(zip(widths, widths[1:], self.strides[1:]))
        self.down = nn.ModuleList(shrink(fine, coarse, stride, norm) for fine, coarse, stride in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, stride, stride) for fine, coarse, stride in pairs
        )
        self.head = nn.Conv3d(widths[0], channels_out, head, padding=half(head))

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits."""
        size = x.shape[2:]
        x = self.encode[0](self.act(self.stem(self.grey(pad_to(x, self.multiple)))))
        skips = []
        for level, down in enumerate(self.down, start=1):
            skips.append(x)
            x = self.encode[level](self.act(down(x)))
        for level in reversed(range(len(self.up))):
            x = self.decode[level](self.act(skips[level] + self.up[level](x)))
        return in_float32(self.head, x)[..., : size[0], : size[1], : size[2]]


class Thin(nn.Module):
    """A convolution, its norm and activation, instead of a block at full resolution."""

    def __init__(self, width: int, kernel: Sequence[int], norm_name: str, act: str) -> None:
        super().__init__()
        self.only = conv_norm(width, width, kernel, norm_name)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Give features of the same size and width."""
        return self.act(self.only(x))


def shrink(fine: int, coarse: int, stride: Kernel, norm_name: str) -> nn.Sequential:
    """Give the convolution, as large as its stride, that leads to a coarser level, and its norm."""
    conv = nn.Conv3d(fine, coarse, stride, stride, bias=norm_name == "none")
    return nn.Sequential(conv, norm(norm_name, coarse))


def odd(kernel: Sequence[int], key: str) -> Kernel:
    """Give a kernel as a triple; raise UsageError unless it is three odd numbers."""
    if len(kernel) != 3 or any(k < 1 or k % 2 == 0 for k in kernel):
        raise UsageError(f"model.{key}: the kernel {list(kernel)} must be three odd numbers, z y x")
    return triple(kernel)
