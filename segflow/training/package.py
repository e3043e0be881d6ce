"""bioimage.io packages of model files (https://bioimage.io, model description 0.5).

A package is a zip with ``rdf.yaml``, the network as TorchScript and ONNX, a test image with its
answer, documentation, a cover and the licence. It is written and tested by ``bioimageio.core``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segflow.errors import ModelError, UsageError
from segflow.inference.header import METADATA
from segflow.training.data import as_image
from segflow.training.modelfile import load_model, quiet
from segflow.training.networks.parts import product, strides
from segflow.training.package_description import AXES, CLOSE, describe
from segflow.training.sources import Source
from segflow.volumes.files import replacing

log = logging.getLogger("segflow")


def export_bioimageio(
    path: str | Path, out: str | Path, *, sample: str | None = None, authors: Sequence[str] = ()
) -> str:
    """Write a model file as a bioimage.io package, which ``bioimageio.core`` has tested.

    The answer to the test image is that of the network itself, so the test also compares TorchScript
    and ONNX with it. Sizes in space are the patch size and larger ones where the network takes them.

    Args:
        path: a model file.
        out: the package, a zip.
        sample: image whose middle becomes the test image (tif, h5, zarr, precomputed); by default
            smooth noise is made, and the documentation says so.
        authors: their names; by default segflow is named, which wrote the description.

    Returns:
        The formats of the weights in it, as "torchscript, onnx".

    Raises:
        ModelError: no model file, the package bioimageio.core is missing, or the test fails.
        VolumeError: the sample cannot be read, or the place not be written.
    """
    need_bioimageio(out)
    module, header = load_model(path)
    module.requires_grad_(False)
    with tempfile.TemporaryDirectory() as made, quiet():
        folder = Path(made)
        image, said = test_image(header, sample)
        step = steps_of(header, module)
        formats = write_weights(folder, module, scaled(image), step, header)
        model = describe(folder, header, Path(path), image, step, formats, said, authors)
        with torch.inference_mode():
            answer = module(scaled(image)).numpy()
        np.save(folder / "test_output.npy", answer)
        cover(image, answer, folder / "cover.png")
        with replacing(out) as beside:
            pack(model(), folder, beside, str(out))
    return ", ".join(formats)


def need_bioimageio(out: str | Path) -> None:
    """Raise unless the libraries are there and ``out`` is named as a zip."""
    if Path(out).suffix.lower() != ".zip":
        raise UsageError(f"--bioimageio {out}: a bioimage.io package is a zip; give a name that ends in .zip")
    try:
        import bioimageio.core  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ModelError(
            "bioimage.io packages need bioimageio.core, onnxruntime and onnxscript; "
            "pip install 'segflow[bioimageio]'"
        ) from None


def test_image(header: dict[str, Any], sample: str | None) -> tuple[NDArray[np.uint8], str]:
    """Give the test image, uint8 (1, c, z, y, x) of the patch size, and a sentence that says what it is."""
    size, channels = header["patch_size"], int(header["architecture"].get("channels_in", 1))
    if sample is None:
        return noise((channels, *size)), "Smooth noise, made from a seed; it is no electron microscopy."
    if channels != 1:
        raise UsageError(f"--sample {sample}: the network takes {channels} channels; leave --sample out")
    source = Source(sample, None)
    start = [(n - s) // 2 for n, s in zip(source.box.shape, size)]
    grey = np.rint(as_image(source.read(start, size)) * 255).astype(np.uint8)
    if grey.min() == grey.max():
        raise UsageError(f"--sample {sample}: its middle is of one grey level; give an image of tissue")
    box = "x".join(map(str, size))
    return grey[
        None, None
    ], f"The middle of {Path(sample).name}, {box} voxels (mirrored where it is smaller)."


def noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Give smooth noise (1, c, z, y, x), the same each time."""
    coarse = [max(2, -(-n // k)) for n, k in zip(shape[1:], (2, 8, 8))]
    grid = torch.from_numpy(np.random.default_rng(0).random((1, shape[0], *coarse), np.float32))
    fine = nn.functional.interpolate(grid, size=shape[1:], mode="trilinear", align_corners=True)
    return (fine * 255).round().to(torch.uint8).numpy()


def scaled(image: NDArray[np.uint8]) -> Tensor:
    """Give what the network takes, as the pre-processing of the package makes it."""
    return torch.from_numpy(as_image(image))


def steps_of(header: dict[str, Any], module: nn.Module) -> list[int] | None:
    """Give by how much a patch can grow per axis (zyx) with the same padding inside; None if it cannot."""
    known = getattr(getattr(module, "net", None), "multiple", None)
    flags = header["architecture"].get("isotropic")
    if known is None and not flags:
        return None
    return [int(n) for n in known or product(strides(flags))]


def write_weights(
    folder: Path, module: nn.Module, example: Tensor, step: list[int] | None, header: dict[str, Any]
) -> list[str]:
    """Write TorchScript and ONNX; give the formats that answer as the network does.

    ``step`` is emptied where TorchScript does not follow other sizes; then ONNX is of one size too.

    Raises:
        ModelError: neither can be written.
    """
    formats = []
    larger = _larger(example, step) if step else None
    try:
        traced = torch.jit.trace(module, example, check_trace=False)
        if larger is not None and step and not _same(traced, module, larger):
            step.clear()
        if _same(traced, module, example):
            traced.save(str(folder / "weights.torchscript.pt"))
            formats.append("torchscript")
    except Exception as error:  # what a tracer raises over a network it cannot follow
        log.warning("no TorchScript in the package: %s", _line(error))
    try:
        write_onnx(folder / "weights.onnx", module, example, step, header)
        formats.append("onnx")
    except Exception as error:  # likewise
        log.warning("no ONNX in the package: %s", _line(error))
    if not formats:
        raise ModelError("this network can be written neither as TorchScript nor as ONNX")
    return formats


def write_onnx(
    path: Path, module: nn.Module, example: Tensor, step: list[int] | None, header: dict[str, Any]
) -> None:
    """Write ONNX for one patch, whose sizes may differ by multiples of ``step``, with the header in it."""
    sizes = None
    if step and any(n % s for n, s in zip(example.shape[2:], step)):
        raise ModelError(f"sizes that are no multiples of {step} cannot vary")
    if step:
        dims = {axis: torch.export.Dim(name) for axis, name in enumerate(AXES)}
        sizes = ({axis + 2: dims[axis] if s == 1 else s * dims[axis] for axis, s in enumerate(step)},)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            module, (example,), input_names=["image"], output_names=["map"], dynamo=True, verbose=False,
            dynamic_shapes=sizes,
        )  # fmt: skip
    if program is None:
        raise ModelError("torch gave no program")
    program.model.metadata_props[METADATA] = json.dumps(header, sort_keys=True)
    program.save(str(path))


def pack(model: Any, folder: Path, beside: Path, name: str) -> None:
    """Write the package and test it.

    Raises:
        ModelError: bioimageio.core finds a fault; its first words.
    """
    from bioimageio.core import test_model
    from bioimageio.spec import save_bioimageio_package

    save_bioimageio_package(model, output_path=beside)
    summary = test_model(beside)
    if summary.status != "passed":
        found = [error.msg for detail in summary.details for error in detail.errors]
        first = " ".join(found[0].split())[:300] if found else summary.status
        raise ModelError(f"{name}: the package does not pass the test of bioimageio.core: {first}")


def cover(image: NDArray[np.uint8], answer: NDArray[np.float32], path: Path) -> None:
    """Draw the middle section of the test image, and the least of its affinities beside it."""
    from PIL import Image

    z = image.shape[2] // 2
    pair = np.hstack([image[0, 0, z], np.rint(answer[0].min(0)[z] * 255).astype(np.uint8)])
    side = min(256, image.shape[-1])
    Image.fromarray(pair).resize((2 * side, side)).save(path)


def _larger(example: Tensor, step: Sequence[int]) -> Tensor:
    """Give an example that is one step larger on each axis."""
    widths = [w for s in reversed(step) for w in (0, s)]
    return nn.functional.pad(example, widths, mode="replicate")


def _same(program: Any, module: nn.Module, example: Tensor) -> bool:
    """Whether both give the same answer."""
    try:
        with torch.inference_mode():
            one, two = program(example), module(example)
    except RuntimeError:
        return False
    return one.shape == two.shape and torch.allclose(one, two, atol=CLOSE)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
