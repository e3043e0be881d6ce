"""What a bioimage.io package (segflow.training.package) says of its network: description and README.

``spec`` is the module bioimageio.spec.model.v0_5.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow import __version__
from segflow.inference.header import offsets_of
from segflow.inference.models import digest

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

Segment a volume with labels and compare: `segflow select-checkpoint --checkpoints model.pt`, or
`segflow evaluate-segmentation --thresholds 0.1:0.9:0.1` over the affinities: VOI and adapted Rand error at
each threshold. The record of the training, with its scores, is `config.segflow` in `rdf.yaml`.

## Licence

{licence}
"""


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

    record: dict[str, Any] = {"segflow": _record(header)}

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
                **record,
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
        import torch

        file = _file(spec, folder / "weights.torchscript.pt", spec.TorchscriptWeightsDescr)
        found["torchscript"] = file(pytorch_version=spec.Version(torch.__version__.split("+")[0]))
    if "onnx" in formats:
        import onnx

        opset = onnx.load(str(folder / "weights.onnx"), load_external_data=False).opset_import[0].version
        parent = "torchscript" if "torchscript" in formats else None
        file = _file(spec, folder / "weights.onnx", spec.OnnxWeightsDescr)
        found["onnx"] = file(opset_version=opset, parent=parent)
    return spec.WeightsDescr(**found)


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
    given = file.absolute().parent.name if file.stem == "model" else file.stem  # each is called model.pt
    name = "segflow " + "".join(c if c.isascii() and (c.isalnum() or c in "_+- ()") else "-" for c in given)
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
