"""Train the affinity network beside this file on an image and its labels.

    python train.py --image train-image.tif --labels train-labels.tif --sections 0 80 --minutes 100

Twelve affinity channels are learned (Lee et al. 2017, arXiv 1706.00120): x and y at 1, 3, 9, 27
voxels, z at 1 to 4 sections. The long ones only help the training; ``weights.pt`` keeps the first
three. Weights are averaged over the steps (EMA), then the BatchNorm statistics are measured again
with the averaged weights. Every augmentation works on the crop and its labels together, and the
affinities are computed last.

The shipped weights: --minutes 105 --bias 0.7 on two shared CPU cores (10,700 steps). Balanced
classes make a network doubt edges too much; the bias, chosen on sections 50:100, brings the best
threshold of agglomeration near 0.7.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from model import OFFSETS, AffinityUNet
from torch import Tensor

LONG_OFFSETS = (
    (0, 0, -3), (0, -3, 0), (-2, 0, 0),
    (0, 0, -9), (0, -9, 0), (-3, 0, 0),
    (0, 0, -27), (0, -27, 0), (-4, 0, 0),
)  # fmt: skip


def erode_borders(labels: Tensor) -> Tensor:
    """Set voxels to 0 whose 3 x 3 window in the section holds two objects; ``labels`` is zyx."""
    window = {"kernel_size": (1, 3, 3), "stride": 1, "padding": (0, 1, 1)}
    volume = labels[None, None]
    largest = F.max_pool3d(volume, **window)
    smallest = -F.max_pool3d(-torch.where(volume > 0, volume, 1e9), **window)
    return torch.where((largest == smallest)[0, 0], labels, 0)


def affinities(labels: Tensor, offsets: tuple[tuple[int, int, int], ...]) -> Tensor:
    """Give czyx affinities of ``labels`` (uint8); edges that leave the crop hold 255."""
    truth = torch.full((len(offsets), *labels.shape), 255, dtype=torch.uint8)
    for channel, offset in enumerate(offsets):
        here = tuple(slice(-o, None) for o in offset)
        there = tuple(slice(None, o or None) for o in offset)
        truth[(channel, *here)] = (labels[here] == labels[there]) & (labels[here] > 0)
    return truth


def smooth_field(rng: np.random.Generator, size: int, amplitude: float) -> Tensor:
    """Give (size, size, 2) smooth random displacements in voxels."""
    coarse = torch.from_numpy(rng.normal(0, amplitude, (1, 2, 5, 5)).astype(np.float32))
    field = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return field[0].permute(1, 2, 0)


def section_shifts(rng: np.random.Generator, depth: int) -> np.ndarray:
    """Give (depth, 2) shifts in voxels: jitter, one section slipped, or a step in the stack."""
    shifts = rng.normal(0, 0.6, (depth, 2)) * (rng.random() < 0.5)
    kind, where = rng.random(), rng.integers(1, depth)
    jump = rng.uniform(-12, 12, 2)
    if kind < 0.12:
        shifts[where] += jump
    elif kind < 0.24:
        shifts[where:] += jump
    return shifts.astype(np.float32)


def warp(rng: np.random.Generator, image: Tensor, labels: Tensor, size: int) -> tuple[Tensor, ...]:
    """Rotate, scale, bend and misalign; cut the middle ``size`` voxels in y and x."""
    depth, full = image.shape[0], image.shape[-1]
    angle = rng.uniform(-math.pi, math.pi) if rng.random() < 0.6 else 0.0
    scale = math.exp(rng.uniform(-0.13, 0.13))
    matrix = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    ticks = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    grid = torch.stack([x, y], -1) @ torch.from_numpy(matrix.T.astype(np.float32))
    if rng.random() < 0.5:
        grid = grid + smooth_field(rng, size, rng.uniform(0, 3.5))
    grid = grid[None] + torch.from_numpy(section_shifts(rng, depth))[:, None, None]
    grid = grid * (2 / full)
    image = F.grid_sample(image[:, None], grid, padding_mode="reflection", align_corners=False)
    labels = F.grid_sample(labels[:, None], grid, "nearest", "zeros", align_corners=False)
    return image[:, 0], labels[:, 0]


def spoil(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Change grey levels as microscopes and cutters do: contrast, noise, blur, lost sections."""
    depth = image.shape[0]

    def random(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    image = image.clamp(0, 1) ** math.exp(rng.uniform(-0.35, 0.35))
    image = (image - 0.5) * float(random(0.7, 1.3)) + 0.5 + float(random(-0.15, 0.15))
    if rng.random() < 0.5:
        image = (image - 0.5) * random(0.8, 1.2, depth, 1, 1) + 0.5 + random(-0.1, 0.1, depth, 1, 1)
    if rng.random() < 0.3:
        noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        image = image + float(random(0, 0.07)) * noise
    if rng.random() < 0.2:  # out of focus: one section, or a part of it
        z, sigma = rng.integers(depth), rng.uniform(0.8, 2.5)
        taps = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma) ** 2)
        taps = taps / taps.sum()
        part = image[z, rng.integers(image.shape[1] // 2) :]
        soft = F.conv2d(part[None, None], taps.view(1, 1, 1, -1), padding=(0, 6))
        part.copy_(F.conv2d(soft, taps.view(1, 1, -1, 1), padding=(6, 0))[0, 0])
    if rng.random() < 0.2:  # missing: one section, or a part of it
        z, start = rng.integers(depth), rng.integers(image.shape[1]) * (rng.random() < 0.4)
        image[z, start:] = rng.choice([0.0, rng.random(), float(image[z].mean())])
    return image.clamp(0, 1)


def crops(
    image: np.ndarray, labels: np.ndarray, size: tuple[int, int, int], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give for ever: (1, z, y, x) image and (12, z, y, x) affinities."""
    rng = np.random.default_rng(seed)
    margin = int(size[1] * 1.45)
    while True:
        start = [rng.integers(n - s + 1) for n, s in zip(image.shape, (size[0], margin, margin))]
        box = tuple(slice(b, b + s) for b, s in zip(start, (size[0], margin, margin)))
        grey, ids = image[box], labels[box]
        for axis in range(3):
            if rng.random() < 0.5:
                grey, ids = np.flip(grey, axis), np.flip(ids, axis)
        if rng.random() < 0.5:
            grey, ids = grey.swapaxes(1, 2), ids.swapaxes(1, 2)
        grey = torch.from_numpy(np.ascontiguousarray(grey, np.float32) / 255)
        ids = torch.from_numpy(np.ascontiguousarray(ids, np.float32))
        grey, ids = warp(rng, grey, ids, size[1])
        yield spoil(rng, grey)[None], affinities(erode_borders(ids), OFFSETS + LONG_OFFSETS)


class Crops(torch.utils.data.IterableDataset):
    """``crops`` for a DataLoader; every worker has its own random stream."""

    def __init__(self, *arguments: object, seed: int) -> None:
        self.arguments, self.seed = arguments, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        worker = info.id if info else 0
        return crops(*self.arguments, seed=self.seed * 1000 + worker)


def balanced_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy; in each channel both classes weigh the same (at most 1 : 10)."""
    one, known = truth == 1, truth != 255
    axes = (0, 2, 3, 4)
    share = (one.sum(axes) / known.sum(axes)).clamp(1 / 11, 10 / 11).view(1, -1, 1, 1, 1)
    weight = known * torch.where(one, 0.5 / share, 0.5 / (1 - share))
    loss = F.binary_cross_entropy_with_logits(logits, one.float(), weight, reduction="sum")
    return loss / known.sum()


def measure_norms(network: AffinityUNet, loader: Iterator[tuple[Tensor, ...]], count: int) -> None:
    """Measure the BatchNorm statistics of ``network`` anew over ``count`` crops."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    device = next(network.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for _ in range(count):
            network.logits(next(loader)[0].to(device))


def export(network: AffinityUNet, path: Path, bias: float) -> None:
    """Write the weights of the first three channels, beside and renamed; add ``bias`` to the logits."""
    state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
    for key in ("head.weight", "head.bias"):
        state[key] = state[key][: len(OFFSETS)].clone()
    state["head.bias"] += bias
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def main() -> None:
    """Train, and write ``--output`` now and then and at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", required=True, help="tif, uint8")
    parser.add_argument("--labels", required=True, help="tif; 0 is membrane or outside")
    parser.add_argument("--sections", type=int, nargs=2, default=(0, 80), help="start and stop in z")
    parser.add_argument("--patch-size", type=int, nargs=3, default=(16, 160, 160), help="z y x")
    parser.add_argument("--minutes", type=float, default=100, help="the schedule's length")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--bias", type=float, default=0.0, help="added to the logits of what is written")
    parser.add_argument("--output", type=Path, default=Path("weights.pt"))
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    section = slice(*options.sections)
    image = tifffile.imread(options.image)[section]
    labels = tifffile.imread(options.labels)[section]
    data = Crops(image, labels, tuple(options.patch_size), seed=options.seed)
    loader = iter(torch.utils.data.DataLoader(data, batch_size=1, num_workers=options.workers))

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = AffinityUNet(len(OFFSETS + LONG_OFFSETS)).to(device, memory_format=torch.channels_last_3d)
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=0.01)
    began, step, recent = time.monotonic(), 0, []
    while (progress := (time.monotonic() - began) / (60 * options.minutes)) < 1:
        rate = options.learning_rate * min(1, (step + 1) / 200) * (1 + math.cos(math.pi * progress)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        grey, truth = (t.to(device) for t in next(loader))
        with torch.autocast(device.type, torch.bfloat16):
            logits = network.logits(grey.to(memory_format=torch.channels_last_3d))
        loss = balanced_loss(logits.float(), truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(options.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
        recent.append(loss.detach())
        if step % 50 == 0:
            mean = float(torch.stack(recent).mean())
            recent.clear()
            elapsed = time.monotonic() - began
            print(f"step {step}  loss {mean:.4f}  {elapsed / step:.3f} s a step  {progress:.0%}", flush=True)
        if step % 2000 == 0:
            snapshot = copy.deepcopy(averaged)
            measure_norms(snapshot, loader, 50)
            export(snapshot, options.output, options.bias)
    measure_norms(averaged, loader, 300)
    export(averaged, options.output, options.bias)


if __name__ == "__main__":
    main()
