"""An image made to look as a network's training did: grey levels mapped, voxels resampled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segflow.chunk import Chunk
from segflow.errors import ModelError, UsageError
from segflow.inference import levels as grey
from segflow.inference.header import warn_of_voxel_size
from segflow.inference.resample import Resampling, bring_back

log = logging.getLogger("segflow")


@dataclass(frozen=True)
class Training:
    """What is known of the images of a training: voxel size (zyx, nm) and grey levels, or None."""

    voxel_size: Sequence[float] | None = None
    levels: grey.Levels | None = None

    @classmethod
    def of(cls, backend: Any) -> Training:
        """Give what a backend knows of its network's training."""
        return cls(getattr(backend, "voxel_size", None), getattr(backend, "grey_levels", None))


def warn(chunk: Chunk, training: Training) -> bool:
    """Warn in one line each where voxel size or grey levels do not fit; give whether one was given."""
    voxels = warn_of_voxel_size(chunk.voxel_size, training.voxel_size)
    if training.levels is None:
        return voxels
    return grey.warn(grey.of_array(chunk.array), training.levels) is not None or voxels


def adapt(
    chunk: Chunk, training: Training, between: Sequence[float] | None = None
) -> tuple[Chunk, Callable[[Chunk], Chunk]]:
    """Map an image's grey levels to the training's, and resample it to the training's voxel size.

    Args:
        chunk: the image, zyx or czyx; integers count as parts of their dtype's maximum.
        training: what the network was trained on.
        between: two grey levels of the image, in its own units, that become the lowest and highest of
            a typical section of the training (its 3 and 97 %), straight between; by default all
            quantiles of a typical section of this image are mapped.

    Returns:
        the image as float32; and what brings an answer for it back to this image's grid.

    Raises:
        ModelError: neither voxel size nor grey levels of the training are known.
        ChunkError: voxels too different, or an image of one grey level.
        UsageError: ``between`` without known grey levels.
    """
    if training.voxel_size is None and training.levels is None:
        raise ModelError("--adapt needs a model file that tells voxel size or grey levels of its training")
    found = mapped(chunk, training, between)
    way = None
    if training.voxel_size is not None and chunk.voxel_size is None:
        log.warning("--adapt: the voxel size of the image is unknown, so it is not resampled; tell it when "
                    "it is read (--voxel-size)")  # fmt: skip
    elif training.voxel_size is not None and chunk.voxel_size is not None:
        way = Resampling.between(chunk.bbox.shape, chunk.voxel_size, training.voxel_size)
    if way is None:
        return found, lambda answer: answer
    array = way.there(grey.unit(found.array))
    size = tuple(v / r for v, r in zip(chunk.voxel_size or (), way.ratio))
    source = {k: v for k, v in chunk.source.items() if k != "bounds"}
    there = Chunk(array, (0, 0, 0), size, "image", None, source)  # type: ignore[arg-type]
    log.info("inference: resampled from %s to %s voxels", chunk.bbox.shape, there.bbox.shape)
    return there, lambda answer: bring_back(answer, way, chunk)


def mapped(chunk: Chunk, training: Training, between: Sequence[float] | None) -> Chunk:
    """Give an image with its grey levels mapped; as it is where there is nothing to map by."""
    if training.levels is None:
        if between:
            raise UsageError("--adapt-levels needs a model file that tells the grey levels of its training")
        log.warning("--adapt: this model file tells no grey levels of its training; they stay as they are")
        return chunk
    mine = grey.of_array(chunk.array)
    if mine is None:
        return chunk
    if grey.inverted(mine, training.levels):
        grey.warn(mine, training.levels)
    kind = chunk.dtype
    scale = np.iinfo(kind).max if kind.kind in "iu" else 1
    if between:
        mapping = grey.mapping_between(between[0] / scale, between[1] / scale, training.levels)
    else:
        mapping = grey.mapping_of(mine, training.levels)
        ends = grey.typical(mine)[[0, -1]] * scale
        log.info("inference: grey levels are mapped as with --adapt-levels %.4g %.4g, and between by "
                 "quantiles", *ends)  # fmt: skip
    return replace(chunk, array=mapping(grey.unit(chunk.array)))
