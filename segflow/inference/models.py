"""Model files and weights: found, executed, checked, and their norms folded."""

from __future__ import annotations

import copy
import hashlib
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from segflow.errors import ModelError, UsageError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

UNCOUNTED = "num_batches_tracked"  # a counter of BatchNorm, of no use here


def shipped(name: str) -> str:
    """Give the model file of a shipped network.

    Raises:
        UsageError: there is no such network.
    """
    known = shipped_names()
    if name not in known:
        raise UsageError(f"no network '{name}'{did_you_mean(name, known)}; shipped are: {', '.join(known)}")
    return str(shipped_root() / name / "model.pt")


def shipped_root() -> Path:
    """Give the folder of the shipped networks, a folder each."""
    import segflow.models

    return Path(next(iter(segflow.models.__path__)))


def shipped_names() -> list[str]:
    """Give the names of the shipped networks."""
    return sorted(p.parent.name for p in shipped_root().glob("*/model.pt"))


def digest(path: str) -> str:
    """Give the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_torchscript(path: str) -> bool:
    """Whether a file is a TorchScript archive, which holds its own code and weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def run_file(path: str) -> ModuleType:
    """Execute a Python file of any ending, with ``__file__`` set and its folder importable.

    Raises:
        ModelError: it cannot be read, or fails when it is executed.
    """
    place = Path(path).absolute()
    module = ModuleType(f"segflow_model_{hashlib.sha256(str(place).encode()).hexdigest()[:12]}")
    module.__file__ = str(place)
    folder = str(place.parent)
    try:
        code = compile(place.read_bytes(), str(place), "exec")
    except SyntaxError as error:
        if error.lineno is None:
            raise ModelError(f"{path} is not a Python file: {error.msg}") from error
        raise ModelError(f"{path} is not valid Python: {error.msg} (line {error.lineno})") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a Python file: {error}") from error
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    sys.path.insert(0, folder)
    try:
        exec(code, module.__dict__)
    except Exception as error:
        raise ModelError(f"{path} fails when it is executed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # imports inside its functions run later
    return module


def defined(module: ModuleType, name: str) -> Any:
    """Give what a model file defines as ``name``; raise ModelError if it is not there."""
    found = getattr(module, name, None)
    if found is None:
        raise ModelError(f"{module.__file__} does not define {name}{did_you_mean(name, dir(module))}")
    return found


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a state_dict, {'state_dict': ...} or a model file; 'module.' prefixes are taken off.

    Raises:
        ModelError: it is missing, or holds anything but tensors.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise anything here
        raise ModelError(
            f"{path} is broken or not a file of weights alone; save them by "
            f"torch.save(model.state_dict(), ...) ({type(error).__name__})"
        ) from error
    for key in ("state_dict", "weights"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ModelError(f"{path} holds no state_dict (a dict of tensors, or one under 'state_dict')")
    if all(k.startswith("module.") for k in found):
        found = {k.removeprefix("module."): v for k, v in found.items()}
    return found


def load_weights(net: nn.Module, path: str) -> None:
    """Load the weights in ``path`` into ``net``; each tensor must be there and fit.

    Raises:
        ModelError: the weights are another network's; it names the first tensors that differ.
    """
    given, wanted = read_weights(path), net.state_dict()
    missing = [k for k in wanted if k not in given and not k.endswith(UNCOUNTED)]
    extra = [k for k in given if k not in wanted and not k.endswith(UNCOUNTED)]
    shapes = [
        f"{k} is {tuple(given[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if names
    ]
    if found:
        raise ModelError(f"{path} holds the weights of another network: tensors {'; '.join(found)}")
    net.load_state_dict({k: v for k, v in given.items() if k in wanted}, strict=False)


def first_map(answer: Any) -> Tensor | None:
    """Give the first 5-D tensor (b, c, z, y, x) of what a network answered; None if there is none."""
    import numpy as np
    import torch

    if isinstance(answer, np.ndarray):
        answer = torch.from_numpy(answer)
    if isinstance(answer, torch.Tensor):
        return answer if answer.ndim == 5 else None
    if isinstance(answer, dict):
        answer = answer.values()
    if isinstance(answer, (list, tuple)) or hasattr(answer, "__iter__"):
        return next((m for m in map(first_map, answer) if m is not None), None)
    return None


def fold_norms(net: nn.Module, example: Tensor) -> nn.Module:
    """Give the network with each BatchNorm folded into the convolution before it.

    Only neighbours inside a plain ``nn.Sequential`` are folded, and only where nothing else uses
    them. The result is kept if it answers to ``example`` as ``net`` does; else ``net`` comes back.
    """
    import torch

    try:
        folded = copy.deepcopy(net)
    except Exception:  # networks may hold what cannot be copied
        return net
    if not _fold(folded):
        return net
    with torch.inference_mode():
        before, after = first_map(net(example)), first_map(folded(example))
    if before is None or after is None or before.shape != after.shape:
        return net
    scale = float(before.abs().max())
    return folded if torch.allclose(before, after, rtol=1e-3, atol=1e-4 * max(scale, 1e-6)) else net


def _fold(net: nn.Module) -> int:
    """Fold in place; give how many norms were."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    uses = Counter(id(m) for _, m in net.named_modules(remove_duplicate=False))
    count = 0
    for sequence in [m for m in net.modules() if type(m) is nn.Sequential]:
        for at, (conv, norm) in enumerate(zip(list(sequence), list(sequence)[1:])):
            if type(conv) is not nn.Conv3d or type(norm) is not nn.BatchNorm3d or norm.running_mean is None:
                continue
            if any(uses[id(m)] > 1 or _hooked(m) for m in (conv, norm)):
                continue
            sequence[at] = fuse_conv_bn_eval(conv, norm)
            sequence[at + 1] = nn.Identity()
            count += 1
    return count


def _hooked(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, getattr(module, "parametrizations", None))
    return any(hooks)


def pick_device(name: str | None) -> torch.device:
    """Give the device named, by default CUDA where there is one, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    import torch

    if name in (None, "", "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise UsageError(f"--device '{name}' is unknown; give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name} is not there; torch sees {torch.cuda.device_count()} GPUs")
    return device
