"""Crops: drawn, rejected, augmented and made into targets, each from a random stream of its own.

Sample ``n`` of a rank depends on (seed, rank, n) alone: not on how many workers share the work, and
not on whether the training was interrupted before it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segflow.compiled import keep_memory
from segflow.training.sources import Volume, inside
from segflow.training.targets import head_layout, make_targets

if TYPE_CHECKING:
    from segflow.training.schema import Config

log = logging.getLogger("segflow")

Crop = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
Sample = tuple[Tensor, Tensor, Tensor]


def stream(seed: int, rank: int, sample: int) -> np.random.Generator:
    """Give the random stream of one sample; every (seed, rank, sample) has another.

    >>> stream(0, 0, 1).random() == stream(0, 0, 1).random() != stream(0, 1, 1).random()
    True
    """
    return np.random.default_rng(np.random.SeedSequence((seed, rank, sample)))


def as_image(array: NDArray[Any]) -> NDArray[np.float32]:
    """Give grey values in [0, 1] as ``inference`` does: integers by their dtype's maximum."""
    if array.dtype.kind in "iu":
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    return np.clip(array.astype(np.float32), 0, 1)


def as_labels(array: NDArray[Any]) -> NDArray[np.int64]:
    """Give labels as int64; ids of 2^63 and more are numbered anew, negative ones are 0."""
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        import fastremap

        array = fastremap.renumber(np.ascontiguousarray(array))[0]
    return np.maximum(array.astype(np.int64), 0)


class Crops(Dataset[Sample]):
    """Sample ``n``: image (1, z, y, x), float32 in [0, 1], then what ``make_targets`` gives."""

    def __init__(self, config: Config, volumes: list[Volume], rank: int = 0) -> None:
        self.config, self.volumes, self.rank = config, volumes, rank
        weights = np.array([v.weight for v in volumes], np.float64)
        self.shares = weights / weights.sum()
        self.patch = tuple(config.model.patch_size)
        self._augmenter: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_augmenter": None}

    @property
    def augmenter(self) -> Any:
        """What augments; made once in each process."""
        if self._augmenter is None:
            from segflow.training.augment import Augmenter

            settings, own = self.config.augment, self.config.augment.get("misalignment")
            if own and any("ids" in head for head in self.config.target.heads):  # new ids are not these
                settings = {**settings, "misalignment": {**own, "relabel": False}}
            self._augmenter = Augmenter(settings, self.patch)
        return self._augmenter

    def __getitem__(self, number: int) -> Sample:
        rng = stream(self.config.system.seed, self.rank, number)
        image, labels, mask = self.augmenter(*self.draw(rng), rng)
        return as_sample(self.config, image, labels, mask)

    def draw(self, rng: np.random.Generator) -> Crop:
        """Give a crop of the size that the augmentations need; poor ones are drawn again.

        Of crops that all were rejected the one with the most foreground is given.
        """
        data, best = self.config.data, (-1, self.volumes[0], [0, 0, 0])
        for _ in range(max(1, data.reject_tries)):
            volume = self.volumes[int(rng.choice(len(self.volumes), p=self.shares))]
            start = [
                int(rng.integers(-p, n + p - s + 1)) for n, p, s in zip(volume.shape, data.pad, self.patch)
            ]
            labels, mask = self._labels(volume, start, self.patch)
            good, foreground = accepted(self.config, labels, mask, rng)
            if foreground > best[0]:
                best = (foreground, volume, start)
            if good:
                break
        else:
            log.warning(
                "no crop in %d draws has what data.valid_ratio, reject_foreground and reject_objects "
                "ask for; the best of them is used", data.reject_tries,
            )  # fmt: skip
            _, volume, start = best
        size = self.augmenter.enlarged
        start = [a - (e - s) // 2 for a, e, s in zip(start, size, self.patch)]
        image = as_image(volume.image.read(start, size, data.pad_mode))
        return image, *self._labels(volume, start, size)

    def _labels(self, volume: Volume, start: Any, size: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        mode = self.config.data.pad_mode
        labels = as_labels(volume.labels.read(start, size, mode))
        if volume.mask is not None:
            return labels, volume.mask.read(start, size, mode) > 0
        if mode == "constant":
            return labels, inside(start, size, volume.shape)
        return labels, np.ones(labels.shape, bool)


def accepted(
    config: Config, labels: NDArray[np.int64], mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[bool, int]:
    """Tell whether a crop is good enough, and how many voxels of it are in objects."""
    data = config.data
    foreground = int(((labels > 0) & mask).sum())
    if not mask.all() and mask.mean() <= data.valid_ratio:
        return False, foreground
    poor = foreground < data.reject_foreground
    if not poor and data.reject_objects > 0:
        found = np.unique(labels[:, ::2, ::2] * mask[:, ::2, ::2])
        poor = len(found[found > 0]) < data.reject_objects
    return not (poor and rng.random() < data.reject_p), foreground


def as_sample(
    config: Config, image: NDArray[np.float32], labels: NDArray[np.int64], mask: NDArray[np.bool_]
) -> Sample:
    """Give image, target and known as tensors; the targets are computed last."""
    target, known, _ = make_targets(labels, mask, config.target, config.data.voxel_size)
    grey = np.ascontiguousarray(image[np.newaxis], np.float32)
    return torch.from_numpy(grey), torch.from_numpy(target), torch.from_numpy(known)


def layout_of(config: Config) -> list[tuple[str, int]]:
    """Give the heads and how many channels each has."""
    return head_layout(config.target, config.model.patch_size)


def _begin_worker(_number: int) -> None:
    """Keep a worker to one core, and its memory."""
    torch.set_num_threads(1)
    keep_memory()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started inside never hear SIGINT and SIGTERM: the trainer answers them.

    A mask is inherited from the first instruction on; here signals are only late.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def batches(crops: Crops, first: int, last: int, *, pin: bool = False) -> Iterator[list[Tensor]]:
    """Give the batches that hold the samples ``first`` to ``last`` - 1, in their order."""
    workers = crops.config.system.workers
    more: dict[str, Any] = {}
    if workers:
        more = {"multiprocessing_context": "spawn", "prefetch_factor": 3, "worker_init_fn": _begin_worker}
    loader = DataLoader(
        crops, batch_size=crops.config.solver.batch, sampler=range(first, last), num_workers=workers,
        pin_memory=pin, generator=torch.Generator(), **more,
    )  # fmt: skip
    with _deaf_children():
        return iter(loader)


def end(batches: Iterator[list[Tensor]] | None) -> None:
    """Stop the worker processes of ``batches``: they answer no signal, so an exit would wait for them."""
    stop = getattr(batches, "_shutdown_workers", None)
    if stop is not None:
        stop()
