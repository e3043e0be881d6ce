"""What answers for a patch: a network in PyTorch, a Python file of one's own, or the identity.

A backend is called with a batch (b, c, z, y, x), float32, and gives (b, channels, z, y, x): float32,
of the input patch's size or of the output patch's, a numpy array or a tensor on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import keep_memory
from segflow.errors import ModelError, UsageError, did_you_mean
from segflow.geometry import Vec
from segflow.inference.patches import Patch

if TYPE_CHECKING:
    import torch

FRAMEWORKS = ("pytorch", "onnx", "universal", "general", "identity")


class Backend(Protocol):
    """What the engine needs to know of a backend.

    ``device`` names the device for people, ``files`` maps names of weights to their sha256,
    ``offsets`` are those of its affinities if it says so.
    """

    device: str
    files: dict[str, str]
    offsets: tuple[Vec, ...] | None

    def __call__(self, batch: NDArray[np.float32]) -> Any:
        """Answer for a batch of patches."""
        ...


class Identity:
    """Gives back what it gets; for tests and benchmarks of everything around a network.

    One input channel is repeated to ``channels``.
    """

    device = "cpu"
    offsets: tuple[Vec, ...] | None = None

    def __init__(self, channels: int | None = None) -> None:
        self.files: dict[str, str] = {}
        self.channels = channels

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        repeat = self.channels is not None and batch.shape[1] == 1 < self.channels
        return np.repeat(batch, self.channels or 1, axis=1) if repeat else batch


class Universal:
    """The ``PatchInferencer(weight_path, output_patch_mask)`` of a user's file.

    It is called with numpy batches. The mask it gets is all ones: patches are weighted here.
    """

    offsets: tuple[Vec, ...] | None = None

    def __init__(self, model: str, weights: str | None, patch: Patch) -> None:
        from segflow.inference.models import defined, digest, run_file

        make = defined(run_file(model), "PatchInferencer")
        try:
            self.inferencer = make(weights, np.ones(patch.output, np.float32))
        except Exception as error:
            raise ModelError(f"PatchInferencer of {model} cannot be made: {_words(error)}") from error
        self.device = str(getattr(self.inferencer, "compute_device", "cpu"))
        self.files = {Path(weights).name: digest(weights)} if weights and Path(weights).is_file() else {}

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        answer = self.inferencer(batch)
        return np.asarray(answer.cpu() if hasattr(answer, "cpu") else answer, np.float32)


class PyTorch:
    """A network in PyTorch, from a file or an ``nn.Module`` at hand.

    Args:
        net: the network.
        device: where it computes; None is CUDA where there is one, else the CPU.
        dtype: float32, bfloat16, float16, or auto (see segflow.inference.precision).
        patch: the patch size it will be called with, zyx.
        channels: the number of input channels.
        pre_process: makes the network's input of a numpy batch.
        post_process: makes the map of the network's answer.
        offsets: of its affinities, if that is what it gives.
        voxel_size: zyx, nm, of the images that it was trained on, if it is known.
        grey_levels: of these images, see segflow.inference.levels, if they are known.
        files: names of its weights and their sha256.
        key: what identifies the network where the choice of dtype is kept; it is not kept without.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        *,
        device: str | None = None,
        dtype: str = "float32",
        patch: Sequence[int] = (20, 256, 256),
        channels: int = 1,
        pre_process: Any = None,
        post_process: Any = None,
        offsets: tuple[Vec, ...] | None = None,
        voxel_size: Sequence[float] | None = None,
        grey_levels: dict[str, Any] | None = None,
        files: dict[str, str] | None = None,
        key: str = "",
    ) -> None:
        import torch

        from segflow.inference import models, precision

        self.place = models.pick_device(device)
        self.device = "cpu" if self.place.type == "cpu" else f"{self.place} ({precision.machine(self.place)})"
        self.files, self.offsets, self.voxel_size = files or {}, offsets, voxel_size
        self.grey_levels = grey_levels
        self.pre_process, self.post_process, self.wants_list = pre_process, post_process, False
        if self.place.type == "cpu":
            keep_memory()
        self.layout = torch.channels_last_3d
        self.dtype = "float32"
        self.net = net.eval().to(self.place)
        if not isinstance(net, torch.jit.ScriptModule):
            self.net = self._folded(self.net, patch, channels).to(memory_format=self.layout)  # type: ignore[call-overload]
        if self.place.type == "cuda":
            torch.backends.cudnn.benchmark = True
            self.layout = self._faster_layout(patch, channels)
        if dtype == "auto":
            dtype = precision.decide(self._answer, patch, channels, self.place, key)
        self.dtype = dtype

    def _folded(self, net: torch.nn.Module, patch: Sequence[int], channels: int) -> torch.nn.Module:
        from segflow.inference import models, precision

        for side in (32, precision.PROBE_SIZE):
            example = precision.probe(precision.probe_shape(patch, side), channels)
            try:
                return models.fold_norms(net, self._input(example))
            except Exception:  # too small for this network, or it needs more than its forward
                continue
        return net

    def _faster_layout(self, patch: Sequence[int], channels: int) -> torch.memory_format:
        """Give the order of channels in memory with which a test patch is sooner done."""
        import torch

        from segflow.inference import precision

        image = precision.probe(precision.probe_shape(patch), channels)
        seconds = {}
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            self.layout = layout
            self.net.to(memory_format=layout)  # type: ignore[call-overload]
            try:
                seconds[layout] = precision.seconds(lambda: self._answer(image, "float32"))
            except RuntimeError:  # too small for this network
                break
        best = min(seconds, key=lambda k: seconds[k], default=torch.channels_last_3d)
        self.net.to(memory_format=best)  # type: ignore[call-overload]
        return best

    def _answer(self, batch: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
        before, self.dtype = self.dtype, dtype
        try:
            return np.asarray(self._forward(batch).cpu())
        finally:
            self.dtype = before

    def _input(self, batch: NDArray[np.float32]) -> torch.Tensor:
        import torch

        given = self.pre_process(batch) if self.pre_process else batch
        tensor = torch.as_tensor(given)
        if self.place.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self.place, torch.float32, non_blocking=True, memory_format=self.layout)

    def _forward(self, batch: NDArray[np.float32]) -> torch.Tensor:
        import torch

        half = self.dtype != "float32"
        context = torch.autocast(self.place.type, getattr(torch, self.dtype)) if half else nullcontext()
        with torch.inference_mode():
            image = self._input(batch)
            with context:
                answer = self.net(image)
            return self._post(_widened(answer)).float()

    def _post(self, answer: Any) -> torch.Tensor:
        """Give the map in a network's answer; a post_process may count on a list of maps."""
        import torch

        from segflow.inference.models import first_map

        single = isinstance(answer, torch.Tensor)
        found = first_map(answer) if self.post_process is None else None
        if self.post_process is not None and not (single and self.wants_list):
            try:
                found = first_map(self.post_process(answer))
            except (IndexError, TypeError):
                if not single:
                    raise
        if self.post_process is not None and found is None and single:
            found = first_map(self.post_process([answer]))
            self.wants_list = found is not None
        if found is None:
            raise ModelError("the network's answer holds no tensor of (batch, channel, z, y, x)")
        return found

    def __call__(self, batch: NDArray[np.float32]) -> Any:
        found = self._forward(batch)
        return found.numpy() if self.place.type == "cpu" else found

    def rest(self) -> None:
        """Give memory that was kept between patches back, once a chunk is done."""
        library = keep_memory() if self.place.type == "cpu" else None
        if library is not None:
            library.malloc_trim(0)


def load_backend(
    framework: str = "pytorch",
    model: str | None = None,
    weights: str | None = None,
    *,
    patch: Patch,
    channels: int = 1,
    output_channels: int | None = None,
    device: str | None = None,
    dtype: str = "float32",
) -> Backend:
    """Load what ``inference`` runs.

    Args:
        framework: pytorch, onnx, universal (or general), or identity.
        model: the model file: a Python file; for pytorch also one of segflow train, or TorchScript.
        weights: the file of the weights.
        patch: the sizes of the patches it will be called with.
        channels: the number of input channels.
        output_channels: what identity repeats one channel to.
        device: cpu, cuda or cuda:N; None is CUDA where there is one.
        dtype: float32, bfloat16, float16 or auto.

    Raises:
        UsageError: an unknown word, or files that this framework needs are not given.
        ModelError: the model or its weights cannot be loaded, or do not fit each other.
    """
    check_files(framework, model, weights)
    if framework == "identity":
        return Identity(output_channels)
    from segflow.inference import precision

    if dtype not in precision.DTYPES:
        raise UsageError(f"--dtype '{dtype}' is unknown; choose {', '.join(precision.DTYPES)}")
    if framework == "onnx":
        from segflow.inference.onnx import Onnx

        return Onnx(str(model), device=device, patch=patch.size, channels=channels)
    if framework in ("universal", "general"):
        return Universal(str(model), weights, patch)
    return _load_pytorch(str(model), weights, device=device, dtype=dtype, patch=patch.size, channels=channels)


def check_files(framework: str, model: str | None, weights: str | None) -> None:
    """Raise UsageError where the files that a framework needs are not given or not there."""
    if framework not in FRAMEWORKS:
        raise UsageError(f"no framework '{framework}'{did_you_mean(framework, list(FRAMEWORKS))}")
    if framework == "identity":
        return
    if model is None:
        raise UsageError("name the network: --convnet-model FILE, or --model for a shipped one")
    files = {"--convnet-model": model}
    if weights is not None and framework == "pytorch":
        files["--convnet-weight-path"] = weights
    for option, path in files.items():
        if not Path(path).is_file():
            raise UsageError(f"{option} {path} is not a file; give an existing file")
    if framework == "pytorch":
        from segflow.inference.header import is_model_file
        from segflow.inference.models import is_torchscript

        whole = is_model_file(model)
        if whole and weights is not None and not is_torchscript(model):
            raise UsageError(f"{model} holds its weights; leave out --convnet-weight-path")
        if weights is None and not whole:
            raise UsageError(
                f"{model} is no model.pt of segflow train and no TorchScript; a Python file needs its "
                "weights too (--convnet-weight-path), and an ONNX file -f onnx"
            )


def _load_pytorch(model: str, weights: str | None, **options: Any) -> PyTorch:
    import torch

    from segflow.inference import models
    from segflow.inference.header import is_model_file

    source = weights or model  # TorchScript and model files hold their own
    options |= {"files": {Path(source).name: models.digest(source)}}
    options["key"] = "|".join([models.digest(model), *options["files"].values()])
    if models.is_torchscript(model):
        try:
            net: Any = torch.jit.load(model, map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{model} cannot be read as TorchScript: {_words(error)}") from error
        if weights is not None:
            models.load_weights(net, weights)
        return PyTorch(net, **options)
    if is_model_file(model):
        return _load_model_file(model, **options)
    module = models.run_file(model)
    if hasattr(module, "load_model"):
        try:
            net = module.load_model(weights)
        except Exception as error:
            raise ModelError(f"load_model of {model} failed on {weights}: {_words(error)}") from error
        net = module.InstantiatedModel if net is None and hasattr(module, "InstantiatedModel") else net
    else:
        net = models.defined(module, "InstantiatedModel")
    if not isinstance(net, torch.nn.Module):
        raise ModelError(f"InstantiatedModel in {model} is no torch.nn.Module but {type(net).__name__}")
    if not hasattr(module, "load_model") and weights is not None:
        models.load_weights(net, weights)
    for name in ("pre_process", "post_process"):
        options[name] = getattr(module, name, None)
    options["voxel_size"] = getattr(module, "VOXEL_SIZE", None)
    return PyTorch(net, offsets=getattr(module, "OFFSETS", None), **options)


def _load_model_file(path: str, **options: Any) -> PyTorch:
    from segflow.inference.header import offsets_of
    from segflow.training.modelfile import load_model

    net, header = load_model(path)
    wanted = header["architecture"].get("channels_in", 1)
    if wanted != options["channels"]:
        raise ModelError(f"{path} takes {wanted} input channels, and the image has {options['channels']}")
    told = {"voxel_size": header["voxel_size"], "grey_levels": header.get("grey_levels")}
    return PyTorch(net, offsets=offsets_of(header), **told, **options)


def _widened(answer: Any) -> Any:
    """Give a network's answer in float32, so that a sigmoid after it keeps values near 0 and 1."""
    if isinstance(answer, dict):
        return {key: _widened(value) for key, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [_widened(value) for value in answer]
    return answer.float() if hasattr(answer, "float") else answer


def _words(error: BaseException) -> str:
    """Give an error of other code as one line."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
