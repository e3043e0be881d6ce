"""Checkpoints: whole or absent, read without executing code, and what of them fits a network."""

from __future__ import annotations

import io
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segflow.errors import ModelError, UsageError
from segflow.volumes.files import reason, replacing

log = logging.getLogger("segflow")

COUNTER = "num_batches_tracked"
GOES_ON = ("iteration", "model", "optimizer")  # what a checkpoint must hold to go on from
_NAME = re.compile(r"checkpoint_(\d{5,})\.pt")


def path_of(folder: Path, iteration: int) -> Path:
    """Give the place of the checkpoint of an iteration."""
    return folder / f"checkpoint_{iteration:05d}.pt"


def iterations_in(folder: Path) -> list[int]:
    """Give the iterations of the checkpoints in a folder, the newest last."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for p in folder.iterdir() if (found := _NAME.fullmatch(p.name)))


def newest(folder: Path) -> Path | None:
    """Give the checkpoint of the latest iteration in a folder; None if there is none."""
    found = iterations_in(folder)
    return path_of(folder, found[-1]) if found else None


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values beside ``path``, flush them to the disk, and rename.

    Raises:
        VolumeError: the disk is full or cannot be written; what was at ``path`` is untouched.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load(path: str | Path) -> dict[str, Any]:
    """Read a file of tensors and plain values onto the CPU.

    Raises:
        UsageError: there is no such file.
        ModelError: it is broken, or holds Python objects, which could execute code.
    """
    if not Path(path).is_file():
        raise UsageError(f"--checkpoint {path} is not a file; give an existing checkpoint")
    try:
        import numpy as np

        scalars = [np._core.multiarray.scalar, np.dtype, type(np.dtype("float64")), type(np.dtype("int64"))]  # type: ignore[attr-defined]
        with torch.serialization.safe_globals(scalars):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {reason(error)}") from error
    except Exception as error:  # a broken file can raise anything here
        raise ModelError(
            f"{path} is broken or holds more than tensors and plain values ({type(error).__name__}); "
            "save its weights alone: torch.save({'state_dict': ...}, FILE)"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no checkpoint but a {type(found).__name__}")
    return found


def can_go_on(content: dict[str, Any]) -> bool:
    """Whether a file holds optimiser and iteration of a segflow training."""
    return all(key in content for key in GOES_ON)


def weights_of(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Give the weights in a checkpoint, a model file, PyTC's ``.pth.tar`` or a plain state_dict.

    The averaged weights (EMA) where there are any; ``module.`` prefixes are taken off.

    Raises:
        ModelError: there are none.
    """
    found: Any = content
    for key in ("ema", "model", "weights", "state_dict"):
        if isinstance(content.get(key), dict) and any(isinstance(v, Tensor) for v in content[key].values()):
            found = content[key]
            break
    weights = {str(k).removeprefix("module."): v for k, v in found.items() if isinstance(v, Tensor)}
    if not weights:
        raise ModelError(f"{path} holds no weights (under 'ema', 'model', 'weights' or 'state_dict')")
    return weights


@dataclass
class Fitted:
    """What became of the tensors of a checkpoint: names and shapes, as text."""

    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)

    def tell(self, path: str | Path) -> None:
        """Log it, tensor by tensor where something does not fit."""
        log.info(
            "%s: %d tensors loaded, %d skipped, %d of the network initialised anew",
            path, len(self.loaded), len(self.skipped), len(self.anew),
        )  # fmt: skip
        for word, names in (("loaded", self.loaded), ("skipped", self.skipped), ("anew", self.anew)):
            if names and (word != "loaded" or self.skipped or self.anew):
                log.info("  %s: %s", word, ", ".join(names))


def load_fitting(net: nn.Module, weights: dict[str, Tensor], path: str | Path) -> Fitted:
    """Load the tensors whose name and shape fit; the others of the network keep their values.

    Raises:
        ModelError: nothing fits, or no more than biases and norms.
    """
    own, result, kept = net.state_dict(), Fitted(), {}
    for name, tensor in weights.items():
        said = f"{name} {_shape(tensor)}"
        if name.endswith(COUNTER):
            continue
        if name not in own:
            result.skipped.append(f"{said} (not in the network)")
        elif own[name].shape != tensor.shape:
            result.skipped.append(f"{said} (the network's is {_shape(own[name])})")
        else:
            kept[name] = tensor
            result.loaded.append(said)
    result.anew = [f"{n} {_shape(t)}" for n, t in own.items() if n not in kept and not n.endswith(COUNTER)]
    if all(tensor.ndim < 2 for tensor in kept.values()):
        raise ModelError(
            f"no weight of {path} fits the network by name and shape: it has {_some(list(own))}, "
            f"the file {_some(list(weights))}; choose the model.* keys it was trained with"
        )
    net.load_state_dict(kept, strict=False)
    return result


def load_exactly(
    net: nn.Module,
    weights: dict[str, Tensor],
    path: str | Path,
    advice: str = "--fine-tune takes what fits and begins at iteration 0",
) -> None:
    """Load weights that must be those of this network; ``advice`` ends the message where they are not.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape.
    """
    own = net.state_dict()
    weights = {n: t for n, t in weights.items() if n in own or not n.endswith(COUNTER)}
    names = [n for n in {**own, **weights} if not n.endswith(COUNTER)]
    wrong = [n for n in names if n not in own or n not in weights]
    wrong += [
        f"{n} {_shape(t)} instead of {_shape(own[n])}"
        for n, t in weights.items()
        if n in own and own[n].shape != t.shape
    ]
    if wrong:
        raise ModelError(f"{path} holds the weights of another network: {_some(wrong)} differ; {advice}")
    net.load_state_dict(weights, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
