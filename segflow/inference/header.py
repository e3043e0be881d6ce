"""The header of a model file (segflow.training.modelfile), read without torch."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segflow.chunk import DEFAULT_OFFSETS
from segflow.errors import ModelError

log = logging.getLogger("segflow")

FORMAT = "segflow_model"
VERSION = 1
HEADER = "header.json"
METADATA = "segflow_header"  # the entry of an ONNX file that holds the header
TOLERANCE = 1.25  # how far a voxel size may be off, as a factor
MAGIC = (b"PK\x03\x04", b"\x80")  # what torch.save and pickle write first; no Python file does


def is_model_file(path: str | Path) -> bool:
    """Whether a file is one that torch or pickle wrote, so no Python file; its content is not read."""
    with open(path, "rb") as file:
        return file.read(4).startswith(MAGIC)


def read_header(path: str | Path) -> dict[str, Any]:
    """Give the header of a model file.

    Raises:
        ModelError: it is no model file, or broken.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(f"/{HEADER}")), None)
            text = archive.read(name) if name else b""
        if text:
            return checked(json.loads(text), str(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass  # torch's reader says what is wrong
    from segflow.training.modelfile import load_model

    return load_model(path)[1]


def checked(header: Any, path: str) -> dict[str, Any]:
    """Give ``header`` if its values have the kinds that they need; raise ModelError if not."""
    from segflow.inference.levels import checked as good_levels

    try:
        architecture, outputs = header["architecture"], header["outputs"]
        channels, patch = architecture["channels_out"], header["patch_size"]
        voxel, offsets = header["voxel_size"], header["offsets"]
        good = isinstance(outputs, int) and 1 <= outputs <= channels and isinstance(header["licence"], str)
        good = good and len(patch) == 3 and all(isinstance(n, int) and n > 0 for n in patch)
        good = good and (voxel is None or (len(voxel) == 3 and all(float(v) > 0 for v in voxel)))
        if offsets is not None:
            good = good and len(offsets) >= outputs
            good = good and all(len(o) == 3 and all(isinstance(n, int) for n in o) for o in offsets)
        good = good and isinstance(header["record"], dict)
        good = good and (header.get("grey_levels") is None or good_levels(header["grey_levels"]))
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise ModelError(f"{path}: the header of this model file is incomplete or wrong; export it again")
    return header


def header_of(path: str | Path | None, framework: str = "pytorch") -> dict[str, Any] | None:
    """Give the header if ``path`` is a model file; None for a Python file, TorchScript, or no file.

    With the framework onnx, of an ONNX file that was made of a model file; with others, None.

    Raises:
        ModelError: it is broken, or a file of weights alone.
    """
    from segflow.inference.models import is_torchscript

    if path is None or not Path(path).is_file():
        return None
    if framework == "onnx":
        from segflow.inference.onnx import header_in

        return header_in(str(path))
    if framework != "pytorch" or not is_model_file(path) or is_torchscript(str(path)):
        return None
    return read_header(path)


def channels_of(header: dict[str, Any]) -> list[int]:
    """Give the network's channels that the answer is made of: the x, y and z neighbours first.

    >>> channels_of({"outputs": 4, "offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-2, 0, 0]]})
    [2, 1, 0, 3]
    """
    found = [tuple(o) for o in (header["offsets"] or ())[: header["outputs"]]]
    first = [found.index(o) for o in DEFAULT_OFFSETS if o in found]
    return [*first, *(c for c in range(header["outputs"]) if c not in first)]


def offsets_of(header: dict[str, Any]) -> tuple[tuple[int, int, int], ...]:
    """Give the offsets (zyx) of the channels of the answer; none if they are no affinities."""
    if header["offsets"] is None:
        return ()
    return tuple((z, y, x) for z, y, x in (header["offsets"][c] for c in channels_of(header)))


def default_patch(header: dict[str, Any]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Give the patch size of the training, and the overlap that goes with it: a fifth in z, else a quarter.

    >>> default_patch({"patch_size": [20, 256, 256]})
    ((20, 256, 256), (4, 64, 64))
    """
    z, y, x = header["patch_size"]
    return (z, y, x), (z // 5, y // 4, x // 4)


def warn_of_voxel_size(image: Sequence[float] | None, training: Sequence[float] | None) -> bool:
    """Warn where an image's voxels (zyx, nm) are not those that a network was trained on."""
    if image is None or training is None:
        return False
    off = any(not 1 / TOLERANCE <= a / b <= TOLERANCE for a, b in zip(image, training))
    if off:
        given, wanted = ("x".join(f"{v:g}" for v in size) for size in (image, training))
        log.warning(
            "the image has voxels of %s nm (zyx) and the network was trained on %s; expect a poor "
            "answer, or read a mip (-m) nearer to that, or give --adapt", given, wanted,
        )  # fmt: skip
    return off
