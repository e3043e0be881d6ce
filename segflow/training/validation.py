"""Validation: the loss on fixed crops, and the segmentation of whole volumes against their labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.errors import Interrupted, UsageError
from segflow.geometry import starts
from segflow.inference.engine import infer
from segflow.inference.patches import Patch
from segflow.training.data import as_image, as_labels, as_sample
from segflow.training.sources import Volume

if TYPE_CHECKING:
    from segflow.training.schema import Config

AT = tuple(Fraction(n, 10) for n in range(1, 10))
THRESHOLDS = tuple(float(t) for t in AT)
LOSS_CROPS = 32  # of all validation volumes

Context = Callable[[], Any]


def nearest_channels(config: Config, layout: list[tuple[str, int]]) -> list[int] | None:
    """Give the channels of the x, y and z neighbours; None where the network has no such."""
    first = 0
    for kind, count in layout:
        if kind == "affinity":
            offsets = [tuple(o) for o in config.target.offsets]
            if all(o in offsets for o in DEFAULT_OFFSETS):
                return [first + offsets.index(o) for o in DEFAULT_OFFSETS]
            return None
        first += count
    return None


class Cut(Interrupted):
    """A validation was cut short: the training shall end."""


class Answers:
    """A network as ``infer`` calls it: sigmoid of some channels of its logits; ends once ``stop`` is set."""

    def __init__(
        self, net: nn.Module, channels: list[int], device: torch.device, context: Context, offsets: Any,
        stop: Any = False,
    ) -> None:  # fmt: skip
        self.net, self.channels, self.device, self.context = net, channels, device, context
        self.offsets, self.stop = offsets, stop

    def __call__(self, batch: NDArray[np.float32]) -> Any:
        if self.stop:
            raise Cut
        with torch.inference_mode(), self.context():
            logits = self.net(torch.from_numpy(batch).to(self.device))
        found = logits[:, self.channels].float().sigmoid()
        return found if found.is_cuda else found.numpy()


class Validation:
    """Scores of a network on the validation volumes; ranks share the work by turns."""

    def __init__(
        self, config: Config, volumes: list[Volume], layout: list[tuple[str, int]], rank: int, world: int
    ) -> None:
        self.config, self.volumes, self.rank, self.world = config, volumes, rank, world
        self.channels = nearest_channels(config, layout)
        self.segments = config.solver.best_by != "loss"
        if self.segments and self.channels is None:
            raise UsageError(
                f"solver.best_by {config.solver.best_by} needs an affinity head with the offsets of the "
                "nearest x, y and z neighbours; use solver.best_by=loss"
            )

    def __call__(
        self, net: nn.Module, loss: Any, device: torch.device, context: Context, stop: Any = False
    ) -> dict[str, float]:
        """Give ``loss`` and, unless solver.best_by is loss, ``voi``, ``are`` and ``threshold``.

        Raises Cut on all ranks where ``stop`` becomes true on one of them meanwhile.

        VOI (bits, split + merge) and adapted Rand error are those of the exact agglomeration at the
        threshold where the score in solver.best_by is least; volumes count by their voxels.
        """
        was = net.training
        net.eval()
        try:
            losses = self._all(self._losses(net, loss, device, context, stop))
            tables = self._all(self._tables(net, device, context, stop))
        finally:
            net.train(was)
        scores = {"loss": float(np.mean(losses)) if losses else float("nan")}
        if not self.segments:
            return scores
        size = sum(voxels for voxels, _ in tables)
        mean = sum(voxels * table for voxels, table in tables) / size
        best = int(mean[:, ("voi", "are").index(self.config.solver.best_by)].argmin())
        return {**scores, "voi": float(mean[best, 0]), "are": float(mean[best, 1]),
                "threshold": THRESHOLDS[best]}  # fmt: skip

    def _all(self, mine: Iterator[Any]) -> list[Any]:
        """Give what all ranks found; raise Cut if one of them was stopped."""
        found: list[Any] | None
        try:
            found = list(mine)
        except Cut:
            found = None
        parts = shared(found, self.world)
        if None in parts:
            raise Cut
        return [x for part in parts for x in part]

    def _losses(
        self, net: nn.Module, loss: Any, device: torch.device, context: Context, stop: Any
    ) -> Iterator[float]:
        for image, target, known in itertools.islice(self._crops(), self.rank, None, self.world):
            if stop:
                raise Cut
            tensors: list[Tensor] = [t[None].to(device) for t in (image, target, known)]
            with torch.inference_mode(), context():
                logits = net(tensors[0])
            yield float(loss(logits.float(), *tensors[1:])[0])

    def _crops(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give crops spread evenly over the volumes, the same each time; none where nothing is known."""
        patch = self.config.model.patch_size
        places = []
        for volume in self.volumes:
            axes = [starts(max(n, s), s, s) for n, s in zip(volume.shape, patch)]
            places += [(volume, place) for place in itertools.product(*axes)]
        step = max(1, -(-len(places) // LOSS_CROPS))
        for volume, place in places[::step]:
            labels = as_labels(volume.labels.read(place, patch))
            known = np.ones(labels.shape, bool)
            if volume.mask is not None:
                known = volume.mask.read(place, patch) > 0
            if known.any():
                yield as_sample(self.config, as_image(volume.image.read(place, patch)), labels, known)

    def _tables(
        self, net: nn.Module, device: torch.device, context: Context, stop: Any
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Give for each volume its voxels and an array (threshold, voi | are)."""
        if self.segments and self.channels is not None:
            answers = Answers(net, self.channels, device, context, DEFAULT_OFFSETS, stop)
            for volume in self.volumes[self.rank :: self.world]:
                yield self._table(volume, answers)

    def _table(self, volume: Volume, answers: Answers) -> tuple[int, NDArray[np.float64]]:
        image, truth = whole(volume)
        found = scored(predicted(image, answers, self.config.model.patch_size), truth, AT)
        return truth.size, np.array([(row["voi"], row["adapted_rand_error"]) for row in found])


def whole(volume: Volume) -> tuple[Chunk, NDArray[np.int64]]:
    """Give the image of a volume, grey values in [0, 1], and its labels, 0 where they are unknown."""
    image = Chunk(as_image(volume.image.read((0, 0, 0), volume.shape)))
    truth = as_labels(volume.labels.read((0, 0, 0), volume.shape))
    if volume.mask is not None:
        truth = np.where(volume.mask.read((0, 0, 0), volume.shape) > 0, truth, 0)
    return image, truth


def predicted(image: Chunk, answers: Answers, patch_size: Sequence[int]) -> Chunk:
    """Give the affinities of a whole image, in patches that share a quarter of their size."""
    patch = Patch.of(patch_size, overlap=[n // 4 for n in patch_size])
    return infer(image, answers, patch=patch, mask_output_chunk=True, pad="reflect")


def scored(
    affinities: Chunk, truth: NDArray[np.int64], thresholds: Sequence[Fraction]
) -> list[dict[str, float]]:
    """Give the scores of the exact agglomeration at each threshold; see ``curves.score_curve``."""
    from segflow.segmentation.curves import Merging, score_curve

    return score_curve(Merging(affinities, thresholds[-1]), Chunk(truth), thresholds)


def shared(mine: Any, world: int) -> list[Any]:
    """Give what each rank has."""
    if world == 1:
        return [mine]
    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, mine)
    return found
