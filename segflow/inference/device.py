"""Blending on a GPU: the slab stays there, complete planes come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segflow.inference.blend import Blender
from segflow.inference.patches import Layout


class DeviceBlender(Blender):
    """A Blender whose slab is a tensor on ``device``; for complete planes see Blender."""

    def __init__(self, layout: Layout, channels: int, kind: str = "wu", *, device: torch.device) -> None:
        super().__init__(layout, 0, kind, depth=layout.patch.output[0])
        dtype = getattr(torch, self.total.dtype.name)
        self.total: Any = torch.zeros((channels, *self.total.shape[1:]), dtype=dtype, device=device)
        self.on_device = [[torch.from_numpy(w).to(device) for w in axis] for axis in self.weights]

    def add(self, indices: Sequence[Sequence[int]], patches: Any) -> None:
        for index, patch in zip(indices, patches):
            kept, (z, y, x) = self.window(index)
            depth, height, width = kept.shape
            part = (slice(None), *kept.slices())
            wz, wy, wx = (w[i][s] for w, i, s in zip(self.on_device, index, kept.slices()))
            weights = (wz[:, None, None] * wy[:, None]) * wx
            z -= self.first
            self.total[:, z : z + depth, y : y + height, x : x + width] += weights * patch[part]

    def forget(self) -> None:
        """Make room for the next slab."""
        gone = self.done - self.first
        if gone and self.slides:
            self.total = torch.roll(self.total, -gone, dims=1)
            self.total[:, -gone:] = 0
            self.first = self.done

    def host(self, values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give complete planes as numpy, converted on the device."""
        return np.asarray(values.to(getattr(torch, dtype.name)).cpu())
