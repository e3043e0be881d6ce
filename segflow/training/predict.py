"""Affinities of whole volumes by a network in training: what PyTC's ``--inference`` writes."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch
from torch import nn

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.errors import UsageError
from segflow.inference.augment import Augmented
from segflow.inference.engine import infer
from segflow.inference.patches import Patch
from segflow.training import checkpoint as files
from segflow.training.config import from_dict, to_yaml
from segflow.training.data import as_image, layout_of
from segflow.training.fabric import precision_of
from segflow.training.modelfile import load_model
from segflow.training.networks import build
from segflow.training.sources import Source
from segflow.training.validation import Answers
from segflow.volumes.files import reason, replacing

if TYPE_CHECKING:
    from segflow.training.schema import Config

log = logging.getLogger("segflow")

Offsets = list[tuple[int, int, int]]


def predict(config: Config, checkpoint: str | None = None) -> Path:
    """Predict the volumes in ``inference.images``.

    The h5 file holds ``vol0``, ``vol1``, ...: uint8 (c, z, y, x), round(255 a), channels z, y, x and
    then the others that target.outputs counts. Attributes: ``offsets`` (zyx, a row for each
    channel), ``voxel_offset`` and ``voxel_size`` (zyx, nm).

    Args:
        config: all keys; the network is that of the checkpoint, where it says so.
        checkpoint: a checkpoint of segflow or PyTC, or a model file; by default ``model.pt`` in the
            output folder, else its newest checkpoint.

    Returns:
        The path of the h5 file.

    Raises:
        UsageError: no volumes or no weights are named. ModelError: the weights do not fit.
        VolumeError: a volume cannot be read, or the file not written.
    """
    sources, place, path = found(config, checkpoint)
    answers = make_answers(config, place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path.parent}: {reason(error)}") from error
    with replacing(path) as beside, h5py.File(beside, "w") as file:
        for number, source in enumerate(sources):
            write(file, f"vol{number}", source, run(config, answers, source), config.data.voxel_size)
    names = ", ".join(f"vol{number}" for number in range(len(sources)))
    log.info("wrote %s with %s, by the weights in %s", path, names, place)
    return path


def report(config: Config, checkpoint: str | None = None) -> str:
    """Give what ``predict`` would do: configuration, volumes, weights and memory. It raises the same."""
    sources, place, path = found(config, checkpoint)
    answers = make_answers(config, place)
    channels = len(getattr(answers, "backend", answers).channels)
    need = max(s.nbytes + (4 + channels) * s.box.voxels for s in sources)
    lines = [f"predict {s.path}: {'x'.join(map(str, s.box.shape))} voxels, {s.info.dtype}" for s in sources]
    tail = f"by the weights in {place}: {channels} channels, to {path}"
    memory = f"memory of the host: {need / 2**30:.2f} GiB for the largest volume and its answer"
    return "\n".join([to_yaml(config, comments=False).rstrip(), "", *lines, tail, memory])


def found(config: Config, checkpoint: str | None) -> tuple[list[Source], str, Path]:
    """Give the volumes to predict, the file of the weights, and that of the answer."""
    if not config.inference.images:
        raise UsageError("nothing to predict: name the volumes in inference.images")
    place = weights_file(config, checkpoint)
    sources = [Source(path, config.data.dataset_image) for path in config.inference.images]
    folder = Path(config.inference.output_path or config.output_path).expanduser()
    return sources, place, folder / config.inference.output_name


def weights_file(config: Config, checkpoint: str | None) -> str:
    """Give the file of the weights; raise UsageError if there is none."""
    folder = Path(config.output_path).expanduser()
    model = folder / "model.pt"
    found = checkpoint or (model if model.is_file() else files.newest(folder))
    if found is None:
        raise UsageError(f"--inference needs weights: --checkpoint FILE; {folder} holds none")
    return str(found)


def make_answers(config: Config, path: str) -> Any:
    """Give what answers for a batch of patches, channels in PyTC's order."""
    content = files.load(path)
    net: nn.Module
    if "header" in content and "weights" in content:
        exported, header = load_model(path)
        net, count, offsets = exported.net, header["outputs"], header["offsets"]
        config.model.patch_size = header["patch_size"]
        order, kept = channel_order(offsets, count)
    else:
        if isinstance(content.get("config"), dict):
            told = from_dict(content["config"], path)
            config.model, config.target, config.loss = told.model, told.target, told.loss
        layout = layout_of(config)
        net = build(config.model, sum(count for _, count in layout))
        files.load_exactly(net, files.weights_of(content, path), path, "choose the model.* keys it has")
        affinity = layout[0][0] == "affinity"
        count = min(config.target.outputs, layout[0][1]) if affinity else layout[0][1]
        order, kept = channel_order(config.target.offsets if affinity else None, count)
    cuda = torch.cuda.is_available() and config.system.gpus != 0
    device = torch.device("cuda" if cuda else "cpu")
    half = precision_of(config, cuda) != "32-true"
    context = (lambda: torch.autocast(device.type, torch.bfloat16)) if half else nullcontext
    answers = Answers(net.to(device).eval(), order, device, context, kept)
    if not config.inference.augment:
        return answers
    return Augmented(answers, config.inference.augment_mode, offsets=kept or ())


def channel_order(offsets: Any, count: int) -> tuple[list[int], Offsets | None]:
    """Give the channels, those of the z, y and x neighbours first, and their offsets.

    >>> channel_order([(0, 0, -1), (0, -1, 0), (-1, 0, 0), (-2, 0, 0)], 4)
    ([2, 1, 0, 3], [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (-2, 0, 0)])
    """
    if not offsets:
        return list(range(count)), None
    found: Offsets = [(int(z), int(y), int(x)) for z, y, x in offsets[:count]]
    first = [found.index(o) for o in reversed(DEFAULT_OFFSETS) if o in found]
    order = [*first, *(c for c in range(len(found)) if c not in first)]
    return order, [found[c] for c in order]


def run(config: Config, answers: Any, source: Source) -> Chunk:
    """Give the uint8 answer for one volume."""
    size = config.inference.patch_size or config.model.patch_size
    overlap = config.inference.overlap or [n // 2 for n in size]
    image = Chunk(as_image(source.read((0, 0, 0), source.box.shape)))
    patch = Patch.of(size, overlap=overlap)
    return infer(image, answers, patch=patch, mask_output_chunk=True, pad="reflect", output_dtype="uint8")


def write(file: h5py.File, name: str, source: Source, chunk: Chunk, told: Any) -> None:
    """Write one volume with what stands beside it."""
    array = chunk.array if chunk.array.ndim == 4 else chunk.array[np.newaxis]
    block = tuple(min(a, b) for a, b in zip(array.shape, (1, 64, 64, 64)))
    made = file.create_dataset(name, data=array, chunks=block, compression="gzip", compression_opts=4)
    made.attrs["voxel_offset"] = np.array(source.box.start, np.int64)
    size = source.info.voxel_size or told
    if size is not None:
        made.attrs["voxel_size"] = np.array(size, np.float64)
    if chunk.offsets is not None:
        made.attrs["offsets"] = np.array(chunk.offsets, np.int64)
