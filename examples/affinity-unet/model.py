"""The shipped network as a Python file: ``--convnet-model model.py --convnet-weight-path weights.pt``.

A network of your own looks like this too: ``InstantiatedModel`` is a torch module that takes
(batch, 1, z, y, x) grey levels in [0, 1] and answers (batch, channels, z, y, x); ``OFFSETS`` and
``VOXEL_SIZE`` (nm, zyx) are told to the steps that follow. ``weights.pt`` is the model file that
``snemi3d.yaml`` makes, which ``inference`` also takes alone.
"""

from __future__ import annotations

import torch

from segflow.training.networks.rsunet import RSUNet

OFFSETS = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
VOXEL_SIZE = (30, 6, 6)
TRAINED = 12  # channels that were trained: the long affinities only help the near ones


class AffinityUNet(RSUNet):
    """Affinities of the nearest neighbours, x, y, z, in [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the first three channels."""
        return torch.sigmoid(super().forward(x)[:, : len(OFFSETS)])


InstantiatedModel = AffinityUNet(
    1,
    TRAINED,
    widths=(16, 32, 64, 128),
    isotropic=(False,) * 4,
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    options={"block": "light", "thin_top": True, "bottom": 2, "stem": (1, 3, 3), "mean": 0.5, "std": 0.19},
)
