"""Networks in ONNX (https://onnx.ai), run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import cores
from segflow.errors import ModelError, UsageError
from segflow.geometry import Vec
from segflow.inference.header import METADATA, checked, offsets_of
from segflow.inference.models import digest


class Onnx:
    """A network with one input (b, c, z, y, x) float32 whose first output is its map, float32.

    Where the file was made of a model file, its offsets and voxel size are known. A batch that is
    larger than the file allows is run patch by patch.

    Raises:
        UsageError: a device that onnxruntime does not have here.
        ModelError: onnxruntime is not installed, the file is broken, or its sizes do not fit.
    """

    def __init__(
        self, path: str, *, device: str | None = None, patch: Sequence[int], channels: int = 1
    ) -> None:
        try:
            import onnxruntime as runtime
        except ImportError:
            raise ModelError("-f onnx needs onnxruntime; pip install 'segflow[train]'") from None
        have = runtime.get_available_providers()
        on_gpu = "CUDAExecutionProvider" in have and device not in ("cpu",)
        if str(device).startswith("cuda") and not on_gpu:
            raise UsageError(f"--device {device} is not there; this onnxruntime has {', '.join(have)}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 3
        providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
        try:
            self.session = runtime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # a broken file can raise anything here
            raise ModelError(
                f"{path} is no ONNX file that this onnxruntime reads; export it again"
            ) from error
        self.device = "cuda" if on_gpu else "cpu"
        self.files = {Path(path).name: digest(path)}
        self.offsets: tuple[Vec, ...] | None = None
        self.voxel_size: Sequence[float] | None = None
        self.grey_levels: dict[str, Any] | None = None
        self._check(path, (channels, *patch))
        self._read_header(path)

    def _check(self, path: str, wanted: tuple[int, ...]) -> None:
        """Raise ModelError unless there is one input that takes such patches."""
        given = self.session.get_inputs()
        if len(given) != 1 or len(given[0].shape) != 5 or given[0].type != "tensor(float)":
            raise ModelError(f"{path} must have one input (batch, channel, z, y, x) of float32")
        self.name = given[0].name
        batch, *shape = given[0].shape
        self.batch = batch if isinstance(batch, int) else None
        if any(isinstance(n, int) and n != w for n, w in zip(shape, wanted)):
            sizes = ["x".join(map(str, size)) for size in (shape, wanted)]
            size = " ".join(str(n) if isinstance(n, int) else str(w) for n, w in zip(shape[1:], wanted[1:]))
            hint = f"; give --patch-size {size}" if shape[0] == wanted[0] else ""
            raise ModelError(
                f"{path} takes patches of {sizes[0]} (c, z, y, x), and they are {sizes[1]}{hint}"
            )

    def _read_header(self, path: str) -> None:
        header = _header(self.session, path)
        if header is None:
            return
        self.offsets, self.voxel_size = offsets_of(header), header["voxel_size"]
        self.grey_levels = header.get("grey_levels")

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.batch is None or self.batch == len(batch):
            return self._run(batch)
        if self.batch != 1:
            raise ModelError(f"this ONNX file takes batches of {self.batch}; give --batch-size {self.batch}")
        return np.concatenate([self._run(patch[np.newaxis]) for patch in batch])

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: Any = self.session.run(None, {self.name: np.ascontiguousarray(batch)})[0]
        return np.asarray(answer, np.float32)


def header_in(path: str) -> dict[str, Any] | None:
    """Give the header of the model file that an ONNX file was made of; None if it holds none.

    Raises:
        ModelError: it is broken.
    """
    try:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # said when the network is loaded
        return None
    return _header(session, path)


def _header(session: Any, path: str) -> dict[str, Any] | None:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        return None
    try:
        return checked(json.loads(text), path)
    except ValueError:
        raise ModelError(f"{path}: its {METADATA} is no JSON; export it again") from None
