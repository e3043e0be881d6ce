"""Volumes to train on: image, labels and mask, checked, shared between processes or read by box."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import BoxError, UsageError, VolumeError
from segflow.geometry import Box, Vec, vec
from segflow.training.targets import check_voxel_size
from segflow.volumes.lazy import LazyVolume, open_lazy

if TYPE_CHECKING:
    import torch

    from segflow.training.schema import Config

log = logging.getLogger("segflow")

LOOKS = 64  # boxes of a volume that is not held in memory, to look for objects


def mirrored(start: int, size: int, low: int, high: int, mode: str) -> NDArray[np.int64]:
    """Give for each of ``size`` places from ``start`` the place in [low, high) that stands for it.

    Modes are numpy's: reflect, symmetric, edge; ``constant`` gives the nearest place, as edge does.

    >>> mirrored(-2, 7, 0, 4, "reflect").tolist()
    [2, 1, 0, 1, 2, 3, 2]
    """
    at, count = np.arange(start, start + size) - low, high - low
    if mode == "reflect" and count > 1:
        at = at % (2 * count - 2)
        at = np.where(at >= count, 2 * count - 2 - at, at)
    elif mode == "symmetric":
        at = at % (2 * count)
        at = np.where(at >= count, 2 * count - 1 - at, at)
    return np.clip(at, 0, count - 1) + low


class Source:
    """One volume, or a box of it; from ``load`` on its voxels are shared with other processes.

    ``box`` is in the volume's own voxels.
    """

    def __init__(self, path: str, dataset: str | None, box: Box | None = None) -> None:
        self.path, self.dataset = path, dataset
        self._volume: LazyVolume | None = None
        self._memory: torch.Tensor | None = None
        self.info = self.volume.info
        self.box = box or self.info.bounds
        if not self.info.bounds.contains(self.box) or self.box.empty:
            raise UsageError(f"box {self.box} is not inside {path}, which holds {self.info.bounds}")
        if self.info.channels != 1:
            raise UsageError(f"{path} has {self.info.channels} channels; one is needed")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_volume": None}  # each process opens its own

    @property
    def volume(self) -> LazyVolume:
        """The volume, opened when it is first needed."""
        if self._volume is None:
            dataset = self.dataset or None
            if dataset and Path(self.path).suffix.lower() in (".tif", ".tiff", ".npy"):
                dataset = None
            self._volume = open_lazy(self.path, dataset=dataset)
        return self._volume

    @property
    def nbytes(self) -> int:
        """The size of the box in memory."""
        return self.box.voxels * np.dtype(self.info.dtype).itemsize

    def load(self) -> None:
        """Read the box into shared memory."""
        import torch

        array = self._plain(self.volume.read(self.box).array)
        shared = torch.empty(array.nbytes, dtype=torch.uint8).share_memory_()
        view = shared.numpy().view(array.dtype).reshape(array.shape)
        view[...] = array
        self._memory, self.dtype = shared, array.dtype

    @staticmethod
    def _plain(array: NDArray[Any]) -> NDArray[Any]:
        return array if array.ndim == 3 else array[0]

    def array(self) -> NDArray[Any] | None:
        """Give the voxels in memory; None before ``load``."""
        if self._memory is None:
            return None
        return self._memory.numpy().view(self.dtype).reshape(self.box.shape)

    def read(self, start: Sequence[int], size: Sequence[int], mode: str = "reflect") -> NDArray[Any]:
        """Give ``size`` voxels from ``start``, counted from the corner of the box.

        What lies beyond the box is made from it: see ``mirrored``; 0 with ``constant``.

        Raises:
            VolumeError: it cannot be read.
        """
        shape = self.box.shape
        if all(a >= 0 and a + s <= n for a, s, n in zip(start, size, shape)):
            return self._read(Box.of(start, size))
        at = [mirrored(a, s, 0, n, mode) for a, s, n in zip(start, size, shape)]
        box = Box(vec([int(a.min()) for a in at]), vec([int(a.max()) + 1 for a in at]))
        out = self._read(box)
        for axis, (places, first) in enumerate(zip(at, box.start)):
            if len(places) != box.shape[axis] or (np.diff(places) != 1).any():
                out = out.take(places - first, axis)
        if mode == "constant":
            out[~inside(start, size, shape)] = 0
        return out

    def _read(self, box: Box) -> NDArray[Any]:
        held = self.array()
        if held is not None:
            return held[box.slices()]
        return self._plain(self.volume.read(box.shift(self.box.start)).array)


def inside(start: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Give where the voxels from ``start`` lie inside [0, shape); zyx."""
    parts = [(np.arange(a, a + s) >= 0) & (np.arange(a, a + s) < n) for a, s, n in zip(start, size, shape)]
    return parts[0][:, None, None] & parts[1][:, None] & parts[2]


@dataclass
class Volume:
    """Image, labels and mask of one volume; ``weight`` is how often it is drawn, of all weights."""

    image: Source
    labels: Source
    mask: Source | None
    weight: float = 1.0

    @property
    def shape(self) -> Vec:
        """The size of the part that is used, voxels."""
        return self.image.box.shape

    @property
    def sources(self) -> list[Source]:
        """What it consists of."""
        return [s for s in (self.image, self.labels, self.mask) if s is not None]

    def describe(self) -> str:
        """Give a line that says what it is."""
        size = self.image.info.voxel_size
        nm = f"{' '.join(f'{s:g}' for s in size)} nm" if size else "voxel size not stored"
        return (
            f"{self.image.path} with {self.labels.path}: {'x'.join(map(str, self.shape))} voxels at "
            f"{self.image.box}, {self.image.info.dtype} and {self.labels.info.dtype}, {nm}, "
            f"{f'mask {self.mask.path}, ' if self.mask else ''}weight {self.weight:.6g}"
        )


def find_volumes(config: Config, validation: bool = False) -> list[Volume]:
    """Open the volumes of a configuration and check them, without reading their voxels.

    Raises:
        UsageError: lists that do not pair, image and labels of different shape, labels that are no
            integers, a crop larger than the volume, or a voxel size that does not fit.
        VolumeError: a file that is missing or broken.
    """
    data, word = config.data, "val_" if validation else ""
    images, labels, masks, boxes = (
        list(getattr(data, word + name)) for name in ("images", "labels", "masks", "boxes")
    )
    if not images and not validation:
        raise UsageError("nothing to train on: name the images and labels in data.images and data.labels")
    weights = list(data.weights) if not validation else []
    for name, found in (("labels", labels), ("masks", masks), ("boxes", boxes), ("weights", weights)):
        if len(found) != len(images) and (found or name == "labels"):
            key = name if name == "weights" else word + name
            raise UsageError(
                f"data.{key} has {len(found)} entries and data.{word}images {len(images)}; one for each"
            )
    volumes = [
        _open(config, image, label, masks[i] if masks else "", boxes[i] if boxes else "")
        for i, (image, label) in enumerate(zip(images, labels))
    ]
    _check_voxel_sizes(config, volumes)
    if any(w < 0 for w in weights) or (weights and not sum(weights)):
        raise UsageError(f"data.weights are {weights}; none may be negative, and not all 0")
    if not validation:
        for i, volume in enumerate(volumes):
            volume.weight = weights[i] if weights else float(math.prod(_positions(config, volume)))
    return volumes


def _open(config: Config, image: str, label: str, mask: str, box: str) -> Volume:
    try:
        found = Source(image, config.data.dataset_image, Box.parse(box) if box else None)
    except BoxError as error:
        raise UsageError(f"data.boxes: {error}") from error
    others: list[Source | None] = []
    for path, dataset in ((label, config.data.dataset_label), (mask, None)):
        if not path:
            others.append(None)
            continue
        other = Source(path, dataset)
        have, want = other.info.bounds, found.info.bounds
        if have.shape != want.shape:
            raise UsageError(
                f"{image} has the shape {_size(want.shape)} and {path} {_size(have.shape)}; "
                "image, labels and mask must have one shape"
            )
        if have.start != want.start:
            log.warning(
                "%s lies at %s and %s at %s; as their shapes agree they are taken to be of one place",
                image, want, path, have,
            )  # fmt: skip
        other.box = found.box.shift([h - w for h, w in zip(have.start, want.start)])
        others.append(other)
    labels, known = others
    if labels is None:
        raise UsageError(f"no labels are named for {image}")
    if np.dtype(labels.info.dtype).kind not in "ui":
        raise UsageError(f"labels are integer ids, and {label} holds {labels.info.dtype}")
    volume = Volume(found, labels, known)
    _positions(config, volume)
    return volume


def _positions(config: Config, volume: Volume) -> list[int]:
    """Give how many places a crop can have per axis; raise UsageError if there is none."""
    patch, pad = config.model.patch_size, config.data.pad
    counts = [n + 2 * p - s + 1 for n, p, s in zip(volume.shape, pad, patch)]
    if min(counts) < 1:
        padded = f", padded by {_size(pad)}" if any(pad) else ""
        raise UsageError(
            f"the crop model.patch_size {_size(patch)} is larger than {volume.image.path}, "
            f"{_size(volume.shape)}{padded}; give a smaller model.patch_size, or data.pad"
        )
    return counts


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _check_voxel_sizes(config: Config, volumes: list[Volume]) -> None:
    """Raise UsageError where a file says another voxel size than the configuration, or the first."""
    wanted, says = config.data.voxel_size, "data.voxel_size says"
    for source in (s for volume in volumes for s in volume.sources):
        have = source.info.voxel_size
        if have is None:
            continue
        if wanted is None:
            wanted, says = list(have), f"{source.path} says"
        if any(abs(a - b) > 0.01 * b for a, b in zip(have, wanted)):
            nm = [" ".join(f"{v:g}" for v in size) for size in (have, wanted)]
            raise UsageError(
                f"{source.path} has voxels of {nm[0]} nm, and {says} {nm[1]} nm; "
                "correct data.voxel_size, or resample the volume"
            )


def voxel_size_of(config: Config, volumes: list[Volume]) -> tuple[float, float, float] | None:
    """Give the voxel size of the training, zyx, nm: the configuration's, else that of the files.

    Raises:
        UsageError: neither says it, and a head is measured in nm.
    """
    if config.data.voxel_size is not None:
        z, y, x = (float(v) for v in config.data.voxel_size)
        return (z, y, x)
    sizes = (s.info.voxel_size for volume in volumes for s in volume.sources)
    found = next((s for s in sizes if s is not None), None)
    check_voxel_size(config.target.heads, found)
    return found


def memory_free() -> int:
    """Give the memory that can still be had, bytes: of the machine or, if less, of the container."""
    free = 1 << 62
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].strip().isdigit():
        free = min(free, max(0, int(limit[0]) - int(used[0])))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def load_volumes(volumes: list[Volume], budget: int, need_objects: bool = True) -> None:
    """Read into shared memory what fits in ``budget`` bytes; look at greys and for objects.

    Raises:
        VolumeError: labels without two objects, or greys of floats that are not in 0 to 1.
    """
    for volume in volumes:
        size = sum(s.nbytes for s in volume.sources)
        if size <= budget:
            budget -= size
            for source in volume.sources:
                source.load()
        else:
            log.info("%s is read crop by crop: it does not fit into memory", volume.image.path)
        check_greys(volume.image)
        if need_objects:
            check_objects(volume.labels, volume.mask)


def check_greys(image: Source) -> None:
    """Raise VolumeError where greys of floats are not in 0 to 1; the middle of an image is looked at."""
    if np.dtype(image.info.dtype).kind != "f":
        return
    size = [min(n, s) for n, s in zip(image.box.shape, (1, 512, 512))]
    greys = image.read([(n - s) // 2 for n, s in zip(image.box.shape, size)], size)
    if ((greys < 0) | (greys > 1)).mean() > 0.05:
        raise VolumeError(
            f"{image.path} holds greys from {greys.min():g} to {greys.max():g}; those of "
            f"{greys.dtype} images lie in 0 to 1: divide them, or store them as uint8"
        )


def check_objects(labels: Source, mask: Source | None = None) -> None:
    """Raise VolumeError unless two objects are found, where they are known.

    Of a volume that is not held only some boxes are looked at; where these have too little it is logged.
    """
    held, found = labels.array(), set()
    known = mask.array() if mask is not None else None
    if held is not None:
        if known is not None:
            held = np.where(known > 0, held, held.dtype.type(0))
        found = {int(i) for i in np.unique(held[::2, ::4, ::4])} - {0}
        found = found if len(found) > 1 else {int(i) for i in np.unique(held)} - {0}
    else:
        rng = np.random.default_rng(0)
        size = [min(n, s) for n, s in zip(labels.box.shape, (16, 128, 128))]
        for _ in range(LOOKS):
            start = [int(rng.integers(n - s + 1)) for n, s in zip(labels.box.shape, size)]
            found |= {int(i) for i in np.unique(labels.read(start, size))} - {0}
            if len(found) > 1:
                return
        log.warning(
            "no two objects were found in %d places of the labels %s; where few of them are labelled, "
            "name the part in data.boxes, or crops are seldom good", LOOKS, labels.path,
        )  # fmt: skip
        return
    if len(found) < 2:
        what = "are all 0" if not found else f"hold one object only (id {next(iter(found))})"
        where = f", where the mask {mask.path} is not 0" if mask is not None else ""
        raise VolumeError(
            f"the labels {labels.path} {what} in {labels.box}{where}; affinities are learned from two "
            "objects and more, each with an id of its own"
        )
