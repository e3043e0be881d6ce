"""A small residual U-Net that predicts affinities of serial-section EM (30 x 6 x 6 nm).

Input: (batch, 1, z, y, x), grey levels in [0, 1]; the normalisation is part of the network.
Output: (batch, 3, z, y, x) affinities in [0, 1], channels x, y, z: voxel v and the voxel
before it, offsets (0, 0, -1), (0, -1, 0), (-1, 0, 0). y and x must divide by 8.

The full-resolution level is thin; nearly all features live at half resolution and below, where a
membrane of 15 nm is still a voxel wide and a convolution costs a quarter. Sections are never
pooled in z. Residual blocks after Lee et al. 2017 (arXiv 1706.00120), with BatchNorm and ReLU so
that the norms fold into the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OFFSETS = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
VOXEL_SIZE = (30, 6, 6)
WIDTHS = (16, 32, 64, 128)


def conv_norm(inputs: int, outputs: int, kernel: tuple[int, int, int]) -> nn.Sequential:
    """Give a convolution that keeps the size, and its BatchNorm."""
    padding = tuple(k // 2 for k in kernel)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=False),
        nn.BatchNorm3d(outputs),
    )


class Block(nn.Module):
    """A residual block: one convolution in the section, one across sections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = conv_norm(width, width, (1, 3, 3))
        self.across = conv_norm(width, width, (3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.across(torch.relu(self.inside(x))))


class AffinityUNet(nn.Module):
    """The network; ``outputs`` channels of logits before ``forward`` keeps those of OFFSETS."""

    def __init__(self, outputs: int = len(OFFSETS), widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = conv_norm(1, widths[0], (1, 3, 3))
        self.down = nn.ModuleList()
        self.encode = nn.ModuleList()
        self.up = nn.ModuleList()
        self.decode = nn.ModuleList()
        for level, (fine, coarse) in enumerate(zip(widths[:-1], widths[1:])):
            self.down.append(
                nn.Sequential(
                    nn.Conv3d(fine, coarse, (1, 2, 2), stride=(1, 2, 2), bias=False),
                    nn.BatchNorm3d(coarse),
                )
            )
            self.encode.append(Block(coarse))
            self.up.append(nn.ConvTranspose3d(coarse, fine, (1, 2, 2), stride=(1, 2, 2)))
            self.decode.append(conv_norm(fine, fine, (1, 3, 3)) if level == 0 else Block(fine))
        self.bottom = Block(widths[-1])
        self.head = nn.Conv3d(widths[0], outputs, 1)

    def logits(self, x: Tensor) -> Tensor:
        """Give the raw scores of all channels; ``x`` is grey in [0, 1]."""
        x = torch.relu(self.stem((x - 0.5) / 0.19))
        skips = []
        for down, encode in zip(self.down, self.encode):
            skips.append(x)
            x = encode(torch.relu(down(x)))
        x = self.bottom(x)
        for level in reversed(range(len(self.up))):
            x = torch.relu(skips[level] + self.up[level](x))
            x = self.decode[level](x)
        with torch.autocast(x.device.type, enabled=False):  # the last sum decides: not in bfloat16
            return self.head(torch.relu(x).to(self.head.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x)[:, : len(OFFSETS)])


InstantiatedModel = AffinityUNet()
