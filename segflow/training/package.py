"""bioimage.io packages of model files (https://bioimage.io, model description 0.5).

A package is a zip with ``bioimageio.yaml``, the network as TorchScript and ONNX, a test image with its
answer, documentation, a cover and the licence. It is written and tested by ``bioimageio.core``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segflow import __version__
from segflow.errors import ModelError, UsageError
from segflow.inference.header import offsets_of
from segflow.inference.models import digest
from segflow.training.data import as_image
from segflow.training.modelfile import load_model
from segflow.training.networks.parts import product, strides
from segflow.training.sources import Source
from segflow.volumes.files import replacing

log = logging.getLogger("segflow")

LEE = "Lee, Zung, Li, Jain, Seung: Superhuman Accuracy on the SNEMI3D Connectomics Challenge. 2017"
LEE_DOI = "10.48550/arXiv.1706.00120"
AXES = "zyx"
CLOSE = 1e-3  # by how much answers of another program may differ

README = """# {name}

{description}

Made from `{file}` (sha256 {sha256}) by segflow {version}. A network of {parameters} parameters that was
trained on {trained_on}.

## Input

Grey levels of electron microscopy as uint8, axes batch, channel, z, y, x. The pre-processing of the
description divides them by 255. Voxels of the training: {voxels}. {sizes}

## Output

float32 in [0, 1], one channel for each of these: {channels}.
{meaning}

With segflow: `segflow ... inference --convnet-model model.pt ...`, or with the ONNX file of this package
`inference -f onnx`. The segments are made by `segflow agglomerate`.

## Test image

{sample}

## Validation

Segment a volume with labels and compare: `segflow select-checkpoint model.pt`, or
`segflow evaluate-segmentation --thresholds 0.1:0.9:0.1` over the affinities: VOI and adapted Rand error at
each threshold. The record of the training, with its scores, is `config.segflow` in `bioimageio.yaml`.

## Licence

{licence}
"""


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
        formats = write_weights(folder, module, scaled(image), step)
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
        import bioimageio.core
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise ModelError(
            "bioimage.io packages need bioimageio.core, onnxruntime and onnxscript; "
            "pip install 'segflow[bioimageio]'"
        ) from None


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
    return grey[None, None], f"The middle of {Path(sample).name}, {box} voxels (mirrored where it is smaller)."


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


def write_weights(folder: Path, module: nn.Module, example: Tensor, step: list[int] | None) -> list[str]:
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
        write_onnx(folder / "weights.onnx", module, example, step)
        formats.append("onnx")
    except Exception as error:  # likewise
        log.warning("no ONNX in the package: %s", _line(error))
    if not formats:
        raise ModelError("this network can be written neither as TorchScript nor as ONNX")
    return formats


def write_onnx(path: Path, module: nn.Module, example: Tensor, step: list[int] | None) -> None:
    """Write ONNX for one patch, whose sizes may differ by multiples of ``step``."""
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
    program.save(str(path))


def describe(
    folder: Path, header: dict[str, Any], file: Path, image: NDArray[np.uint8], step: list[int] | None,
    formats: list[str], said: str, authors: Sequence[str],
) -> Any:  # fmt: skip
    """Write the test image, licence and documentation; give a function that makes the description.

    It is called when all files are there, since the description checks them.
    """
    np.save(folder / "test_input.npy", image)
    about = _about(header, file, said, step)
    (folder / "README.md").write_text(README.format(**about), encoding="utf-8")

    def make() -> Any:
        from bioimageio.spec.model import v0_5 as spec

        return spec.ModelDescr(
            name=about["name"], description=about["description"],
            authors=[spec.Author(name=name) for name in authors or ["segflow"]],
            cite=[spec.CiteEntry(text=LEE, doi=spec.Doi(LEE_DOI))],
            license=licence(spec, header["licence"], folder),
            documentation=_file(spec, folder / "README.md"), covers=[_file(spec, folder / "cover.png")],
            tags=["3d", "electron-microscopy", "connectomics", "neurons", "affinities", "segflow"],
            inputs=[input_of(spec, header, folder, step)], outputs=[output_of(spec, header, folder)],
            weights=weights_of(spec, folder, formats), version=spec.Version("0.1.0"),
            config=spec.Config(
                bioimageio=spec.BioimageioConfig(
                    reproducibility_tolerance=[spec.ReproducibilityTolerance(absolute_tolerance=CLOSE)],
                    modality="electron microscopy", task="affinity map" if header["offsets"] else "map",
                    target_structure=["neurons"], model_parameter_count=header["parameters"],
                ),
                segflow=_record(header),
            ),
        )  # fmt: skip

    return make


def licence(spec: Any, text: str, folder: Path) -> Any:
    """Give the SPDX identifier that the licence is; any other text becomes a file of the package."""
    from pydantic import TypeAdapter, ValidationError

    with contextlib.suppress(ValidationError):
        return TypeAdapter(spec.LicenseId).validate_python(text)
    (folder / "LICENSE.md").write_text(f"{text}\n", encoding="utf-8")
    return _file(spec, folder / "LICENSE.md")


def input_of(spec: Any, header: dict[str, Any], folder: Path, step: list[int] | None) -> Any:
    """Describe the image: axes, voxel size, dtype, and how it is scaled."""
    channels = int(header["architecture"].get("channels_in", 1))
    names = ["grey"] if channels == 1 else [f"grey_{n}" for n in range(channels)]
    sizes = header["patch_size"]
    if step:
        sizes = [spec.ParameterizedSize(min=n, step=s) for n, s in zip(sizes, step)]
    axes = [
        spec.SpaceInputAxis(id=spec.AxisId(axis), size=size, **_voxel(header, at), concatenable=True)
        for at, (axis, size) in enumerate(zip(AXES, sizes))
    ]
    return spec.InputTensorDescr(
        id=spec.TensorId("image"), description="grey levels",
        axes=[spec.BatchAxis(size=1), spec.ChannelAxis(channel_names=names), *axes],
        test_tensor=_file(spec, folder / "test_input.npy"),
        data=spec.IntervalOrRatioDataDescr(type="uint8", range=(0, 255)),
        preprocessing=[
            spec.EnsureDtypeDescr(kwargs=spec.EnsureDtypeKwargs(dtype="float32")),
            spec.ScaleLinearDescr(kwargs=spec.ScaleLinearKwargs(gain=1 / 255)),
            spec.EnsureDtypeDescr(kwargs=spec.EnsureDtypeKwargs(dtype="float32")),  # else uint8 is added
        ],
    )  # fmt: skip


def output_of(spec: Any, header: dict[str, Any], folder: Path) -> Any:
    """Describe the answer: its channels, and axes of the same sizes as the image's."""
    axes = [
        spec.SpaceOutputAxis(
            id=spec.AxisId(axis), **_voxel(header, at),
            size=spec.SizeReference(tensor_id=spec.TensorId("image"), axis_id=spec.AxisId(axis)),
        )
        for at, axis in enumerate(AXES)
    ]  # fmt: skip
    return spec.OutputTensorDescr(
        id=spec.TensorId("map"), description="affinities" if header["offsets"] else "probabilities",
        axes=[spec.BatchAxis(size=1), spec.ChannelAxis(channel_names=channel_names(header)), *axes],
        test_tensor=_file(spec, folder / "test_output.npy"),
        data=spec.IntervalOrRatioDataDescr(type="float32", range=(0, 1)),
    )  # fmt: skip


def channel_names(header: dict[str, Any]) -> list[str]:
    """Give a name for each channel: of affinities, axis by axis, m (minus) or p (plus) and voxels.

    >>> channel_names({"outputs": 2, "offsets": [(0, 0, -1), (-3, 2, 0)]})
    ['affinity_xm1', 'affinity_zm3_yp2']
    """
    named = [
        "_".join(["affinity", *(f"{a}{'m' if n < 0 else 'p'}{abs(n)}" for a, n in zip(AXES, offset) if n)])
        for offset in offsets_of(header)
    ]
    return named or [f"map_{n}" for n in range(header["outputs"])]


def weights_of(spec: Any, folder: Path, formats: list[str]) -> Any:
    """Describe the weights in the folder."""
    found: dict[str, Any] = {}
    if "torchscript" in formats:
        file = _file(spec, folder / "weights.torchscript.pt", spec.TorchscriptWeightsDescr)
        found["torchscript"] = file(pytorch_version=spec.Version(torch.__version__.split("+")[0]))
    if "onnx" in formats:
        import onnx

        opset = onnx.load(str(folder / "weights.onnx"), load_external_data=False).opset_import[0].version
        parent = "torchscript" if "torchscript" in formats else None
        file = _file(spec, folder / "weights.onnx", spec.OnnxWeightsDescr)
        found["onnx"] = file(opset_version=opset, parent=parent)
    return spec.WeightsDescr(**found)


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


def _file(spec: Any, path: Path, kind: Any = None) -> Any:
    """Describe a file of the package; with ``kind``, give what takes the rest of that description."""
    from functools import partial

    given = {"source": path, "sha256": digest(str(path))}
    return spec.FileDescr(**given) if kind is None else partial(kind, **given)


def _voxel(header: dict[str, Any], at: int) -> dict[str, Any]:
    """Give unit and scale of an axis; nothing where the voxel size is unknown."""
    size = header["voxel_size"]
    return {} if size is None else {"unit": "nanometer", "scale": float(size[at])}


def _record(header: dict[str, Any]) -> dict[str, Any]:
    """Give what only segflow reads: the header, with the offsets of the channels of the answer."""
    found = {key: value for key, value in header.items() if key != "offsets"}
    offsets = [list(o) for o in offsets_of(header)] or None
    kept: dict[str, Any] = json.loads(json.dumps(found | {"offsets": offsets}))
    return kept


def _about(header: dict[str, Any], file: Path, said: str, step: list[int] | None) -> dict[str, str]:
    """Give the words of the documentation."""
    name = "segflow " + "".join(c if c.isascii() and (c.isalnum() or c in "_+- ()") else "-" for c in file.stem)
    size, record = header["voxel_size"], header["record"]
    images = record.get("config", {}).get("data", {}).get("images", [])
    trained = record.get("trained_on") or ", ".join(Path(i).name for i in images) or "data that is not named"
    patch = "x".join(map(str, header["patch_size"]))
    kind = "Affinities between voxels" if header["offsets"] else "A map"
    grow = f"Sizes are {patch} (z, y, x) and larger by multiples of {'x'.join(map(str, step or []))}."
    offsets = [list(o) for o in offsets_of(header)]
    return {
        "name": name[:64], "file": file.name, "sha256": digest(str(file)), "version": __version__,
        "description": f"{kind} in electron microscopy of neural tissue, for the segmentation of neurons. "
        "Made with segflow.",
        "parameters": f"{header['parameters']:,}", "trained_on": str(trained),
        "voxels": f"{'x'.join(f'{v:g}' for v in size)} nm (z, y, x)" if size else "of unknown size",
        "sizes": grow if step else f"The size is {patch} (z, y, x).",
        "channels": ", ".join(channel_names(header)),
        "meaning": f"Channel c joins voxel v to v + offsets[c]; offsets (z, y, x): {offsets}."
        if offsets else "",
        "sample": said, "licence": header["licence"],
    }  # fmt: skip


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
