"""Model files: a trained network in one file that needs no Python file and runs no code when read.

A model file is a zip as ``torch.save`` writes it, of plain values and tensors: a dict with
``segflow_model`` (the version of this format), ``header`` and ``weights``. The header is in it a
second time, as ``header.json``, so that it can be read without torch. Header keys:

architecture
    what segflow.training.networks.build_from takes; its normalisation is part of the network.
outputs
    how many of the network's first channels are answered, after a sigmoid: the x, y and z neighbours
    first, then the others.
offsets
    zyx voxels, one triple for each of the network's channels where they are affinities, else null.
voxel_size, patch_size
    zyx, nm and voxels, of its training; voxel_size may be null.
parameters
    how many it has.
grey_levels
    of the images of its training, see segflow.inference.levels; older files have none.
record, licence
    how it was trained (a dict), and what may be done with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segflow.errors import ModelError, SegflowError
from segflow.inference.header import (
    FORMAT,
    HEADER,
    METADATA,
    VERSION,
    channels_of,
    checked,
    read_header,
)
from segflow.training.networks import build_from, plain
from segflow.volumes.files import replacing

if TYPE_CHECKING:
    from segflow.geometry import Vec

__all__ = ["Exported", "export_onnx", "export_torch", "load_model", "read_header", "save_model"]


class Exported(nn.Module):
    """A network that answers with the sigmoid of some of its ``channels``, float32."""

    def __init__(self, net: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.net, self.channels = net, list(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give (b, channels, z, y, x) in [0, 1] of grey levels (b, c, z, y, x) in [0, 1]."""
        return torch.sigmoid(self.net(x)[:, self.channels].float())


def save_model(
    path: str | Path,
    module: nn.Module,
    *,
    model: dict[str, Any],
    offsets: Sequence[Sequence[int]] | None,
    voxel_size: Sequence[float] | None,
    patch_size: Sequence[int],
    record: dict[str, Any],
    licence: str,
    outputs: int,
    half: bool = False,
    grey_levels: dict[str, Any] | None = None,
) -> None:
    """Write a model file, whole or not at all; the same network gives the same bytes.

    Args:
        path: the file, by habit ``model.pt``.
        module: the network, as segflow.training.networks.build gave it, or a wrapper's ``module``.
        model: its architecture, as segflow.training.networks.describe gives it.
        offsets: of the affinities (zyx voxels), at least one for each output; None for other maps.
        voxel_size: of the training data, zyx, nm; None if unknown.
        patch_size: zyx voxels, used by ``inference`` where the line names none.
        record: how it was trained: values that JSON can hold; NaN and infinite ones become null.
        licence: of the weights, in one line.
        outputs: how many of the first channels it is to answer with.
        grey_levels: of the training's images, as segflow.inference.levels.describe gives them.
        half: keep weights in float16, half as large; they are float32 again when read.

    Raises:
        ModelError: values that do not fit each other, or that a model file cannot hold.
        VolumeError: the place cannot be written.
    """
    header = {
        "architecture": model, "outputs": outputs, "offsets": offsets, "voxel_size": voxel_size,
        "patch_size": patch_size, "record": record, "licence": licence,
        "parameters": sum(p.numel() for p in module.parameters()),
    }  # fmt: skip
    if grey_levels is not None:
        header["grey_levels"] = grey_levels
    try:
        text = json.dumps(_finite(plain(header)), indent=1, sort_keys=True, default=_number)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: a model file holds plain values only: {error}") from error
    header = checked(json.loads(text), str(path))
    weights = {k: _stored(v, half) for k, v in module.state_dict().items()}
    _fits(header, weights, str(path))
    stream = io.BytesIO()
    torch.save({FORMAT: VERSION, "header": header, "weights": weights}, stream)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"archive/{HEADER}"), text)
    with replacing(path) as beside:
        beside.write_bytes(stream.getvalue())


def load_model(path: str | Path) -> tuple[Exported, dict[str, Any]]:
    """Read a model file; no code of it is run.

    Returns:
        the network, which answers with the sigmoid of the channels that ``channels_of`` the header
        gives, in evaluation mode on the CPU; and the header.

    Raises:
        ModelError: the file is no model file, broken, would run code, or needs what is not installed.
    """
    found = _read(path)
    header = checked(found["header"], str(path))
    try:
        net = build_from(header["architecture"])
    except SegflowError as error:
        raise ModelError(f"{path} cannot be made: {error}") from error
    wanted = net.state_dict()
    weights = {k: v.to(wanted[k].dtype) if k in wanted else v for k, v in found["weights"].items()}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"{path}: its weights do not fit its architecture: {lines[-1]}") from error
    return Exported(net, channels_of(header)).eval(), header


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters say of themselves off the terminal."""
    names = ("torch.onnx", "httpx")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in zip(names, levels):
            logging.getLogger(name).setLevel(level)


def export_torch(path: str | Path, out: str | Path) -> None:
    """Write a model file as a program of torch.export (``.pt2``), for a patch of its patch size.

    Raises:
        ModelError: see ``load_model``. VolumeError: the place cannot be written.
    """
    module, header = load_model(path)
    stream = io.BytesIO()
    with quiet():
        torch.export.save(torch.export.export(module, (_example(header),)), stream)
    with replacing(out) as beside:
        beside.write_bytes(stream.getvalue())


def export_onnx(path: str | Path, out: str | Path) -> None:
    """Write a model file as ONNX, for one patch of its patch size, with the header among its metadata.

    Input ``image`` (1, c, z, y, x) float32 in [0, 1], output ``map`` (1, outputs, z, y, x).

    Raises:
        ModelError: see ``load_model``, or the package onnxscript is missing.
        VolumeError: the place cannot be written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ModelError(
            "ONNX export needs the packages onnx and onnxscript; pip install 'segflow[train]'"
        ) from None
    module, header = load_model(path)
    with quiet():
        program = torch.onnx.export(
            module, (_example(header),), input_names=["image"], output_names=["map"], dynamo=True,
            verbose=False,
        )  # fmt: skip
    if program is None:
        raise ModelError(f"{path} cannot be written as ONNX: torch gave no program")
    program.model.metadata_props[METADATA] = json.dumps(header, sort_keys=True)
    with replacing(out) as beside:
        program.save(str(beside))


def _number(value: Any) -> Any:
    """Give a scalar of numpy or torch as Python's; raise TypeError for all else."""
    if getattr(value, "shape", None) == ():
        return _finite(value.item())
    raise TypeError(f"{type(value).__name__} is none")


def _finite(value: Any) -> Any:
    """Give None for infinite numbers and NaN, all the way down: JSON has none."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _example(header: dict[str, Any]) -> Tensor:
    size: Vec = tuple(header["patch_size"])  # type: ignore[assignment]
    return torch.rand(1, int(header["architecture"].get("channels_in", 1)), *size)


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """Give what is written of a tensor: on the CPU, contiguous, and of its own memory alone."""
    kept = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
    return (kept.half() if half and kept.is_floating_point() else kept).clone()


def _fits(header: dict[str, Any], weights: dict[str, Tensor], path: str) -> None:
    """Raise ModelError unless the weights are those of the header's architecture."""
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in build_from(header["architecture"]).state_dict().items()}
    wrong = [k for k in {**wanted, **weights} if k not in weights or wanted.get(k) != weights[k].shape]
    if wrong:
        raise ModelError(f"{path}: {len(wrong)} tensors do not fit the architecture ({', '.join(wrong[:3])})")


def _read(path: str | Path) -> dict[str, Any]:
    """Read what torch.save wrote, if it is a model file."""
    try:
        stream = io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        found = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is not read, since it holds more than tensors and plain values and could run code; "
            "give a model.pt of segflow train"
        ) from error
    except Exception as error:  # a broken file can raise anything here
        if _is_program(stream):
            raise ModelError(
                f"{path} is a program of torch.export, which is for other software; "
                "give the model.pt that it was made of"
            ) from error
        raise ModelError(f"{path} is broken or truncated; copy or export it again") from error
    if not isinstance(found, dict) or FORMAT not in found:
        hint = "weights alone go to --convnet-weight-path, with a Python file of their network"
        if isinstance(found, dict) and "config" in found:
            hint = (
                "it is a checkpoint: give the model.pt that ends its training, or make one of it by "
                "segflow select-checkpoint --output, or run it by segflow train --inference"
            )
        raise ModelError(f"{path} is no model file of segflow train; {hint}")
    if found[FORMAT] != VERSION or not isinstance(found.get("weights"), dict):
        raise ModelError(f"{path} is a model file of version {found[FORMAT]}; this segflow reads {VERSION}")
    return found


def _is_program(stream: io.BytesIO) -> bool:
    """Whether a file is one of torch.export."""
    if not zipfile.is_zipfile(stream):
        return False
    with zipfile.ZipFile(stream) as archive:
        return any("/models/" in name for name in archive.namelist())
