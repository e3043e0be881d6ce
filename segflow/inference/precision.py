"""Which numbers a network computes with: float32, or bfloat16 where that is safe."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

log = logging.getLogger("segflow")

DTYPES = ("float32", "bfloat16", "float16", "auto")
TOLERANCE = 0.02
PROBE_SIZE = 128  # y and x of the patch that decides


def probe(shape: Sequence[int], channels: int = 1) -> NDArray[np.float32]:
    """Give a fixed real patch (1, c, z, y, x) in [0, 1]; what is bundled is mirrored as needed."""
    with np.load(Path(__file__).with_name("probe.npz")) as stored:
        image = stored["image"]
    missing = [(0, max(0, n - have)) for n, have in zip(shape, image.shape)]
    z, y, x = shape
    image = np.pad(image, missing, mode="symmetric")[:z, :y, :x].astype(np.float32) / 255
    return np.repeat(image[np.newaxis, np.newaxis], channels, axis=1)


def machine(device: torch.device) -> str:
    """Give a name for the device, for messages and logs."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return str(capabilities.get("cpu_name") or platform.processor() or platform.machine())


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def decide(
    answer: Callable[[NDArray[np.float32], str], NDArray[np.float32]],
    patch: Sequence[int],
    channels: int,
    device: torch.device,
    key: str,
) -> str:
    """Give ``bfloat16`` where the device has it and the network's answer stays the same, else ``float32``.

    Decided by a fixed real patch: no voxel of ``answer(patch, dtype)`` may differ by more than
    0.02. The decision is kept in the cache folder, for this network (``key``) on this machine.
    """
    import torch

    if not has_bfloat16(device):
        return "float32"
    parts = (key, torch.__version__, machine(device), device.type, str(tuple(patch)), str(channels))
    kept = cache_dir() / "precision" / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:32]}.json"
    try:
        worst = float(json.loads(kept.read_text())["difference"])
    except (OSError, ValueError, KeyError, TypeError):
        worst = difference(answer, patch, channels)
        if key:
            _keep(kept, {"difference": worst})
    chosen = "bfloat16" if worst <= TOLERANCE else "float32"
    log.info("inference: %s; bfloat16 is off by %.4f at most (limit %g)", chosen, worst, TOLERANCE)
    return chosen


def difference(
    answer: Callable[[NDArray[np.float32], str], NDArray[np.float32]], patch: Sequence[int], channels: int
) -> float:
    """Give the largest difference of the answers in bfloat16 and float32; infinite if one fails."""
    image = probe(probe_shape(patch), channels)
    try:
        values = [answer(image, dtype) for dtype in ("float32", "bfloat16")]
    except Exception:  # a network may refuse the small patch, or bfloat16
        try:
            image = probe(patch, channels)
            values = [answer(image, dtype) for dtype in ("float32", "bfloat16")]
        except Exception:
            return float("inf")
    worst = float(np.abs(values[0] - values[1]).max())
    return worst if np.isfinite(worst) else float("inf")


def seconds(work: Callable[[], object]) -> float:
    """Give the shorter time of two runs, after one that warms up."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def probe_shape(patch: Sequence[int], side: int = PROBE_SIZE) -> tuple[int, int, int]:
    """Give the size of the patch that decides: as deep as a patch, but not as wide."""
    z, y, x = patch
    return (z, min(y, side), min(x, side))


def cache_dir() -> Path:
    """Give the folder for what can be computed again: $XDG_CACHE_HOME/segflow or ~/.cache/segflow."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "segflow"


def _keep(path: Path, value: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(value))
        os.replace(beside, path)
    except OSError as error:
        log.debug("the choice of precision is not kept: %s", error)
