"""A network run on one patch: device, speed, memory, range, precision, and whether the image fits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, ModelError, SegflowError
from segflow.geometry import Vec
from segflow.inference import levels as grey
from segflow.inference.adapt import Training
from segflow.inference.header import TOLERANCE
from segflow.inference.patches import Patch
from segflow.inference.precision import machine, probe, seconds

BUNDLED = (30.0, 6.0, 6.0)  # voxel size of the bundled patch (SNEMI3D, AC4), zyx, nm
FLAT = 1e-6  # what differs by less is constant

Facts = dict[str, Any]


def bundled(shape: Vec) -> Chunk:
    """Give the bundled patch of a real image, mirrored to ``shape`` (zyx)."""
    return Chunk(np.rint(probe(shape)[0, 0] * 255).astype(np.uint8), voxel_size=BUNDLED)


def middle(chunk: Chunk, size: Vec) -> NDArray[np.float32]:
    """Give a patch (1, c, z, y, x) of a chunk, in [0, 1]: its middle, or the fullest of 27 places.

    Raises:
        ChunkError: the chunk is smaller than a patch, or the patch has one grey level.
    """
    array = chunk.array if chunk.array.ndim == 4 else chunk.array[None]
    free = [n - s for n, s in zip(array.shape[1:], size)]
    if min(free) < 0:
        sizes = ["x".join(map(str, shape)) for shape in (array.shape[1:], size)]
        raise ChunkError(f"the chunk {sizes[0]} is smaller than a patch {sizes[1]}; give --patch-size")
    places = [[f * k // 2 for f, k in zip(free, (z, y, x))]
              for z in (1, 0, 2) for y in (1, 0, 2) for x in (1, 0, 2)]  # fmt: skip
    parts = (array[(slice(None), *(slice(a, a + s) for a, s in zip(at, size)))] for at in places)
    best = max(parts, key=np.count_nonzero)
    patch = grey.unit(best)
    if not np.isfinite(patch).all():
        raise ChunkError("the image holds NaN or infinite values")
    if float(np.ptp(patch)) < FLAT:
        raise ChunkError(f"the patch is all {patch.flat[0]:g}, which tells nothing; give another part")
    return patch[None]


def check(backend: Any, chunk: Chunk, patch: Patch, *, path: str) -> Facts:
    """Run a network on one patch and tell how it does.

    Args:
        backend: as segflow.inference.load_backend gives it, computing in float32.
        chunk: the image, at least a patch large.
        patch: its size.
        path: the model file, for messages.

    Returns:
        ``model``, ``device``, ``machine``, ``patch_size``, ``dtype``, ``seconds`` and ``mvoxel_per_s`` of a
        patch; ``memory``, bytes at its height (of the GPU, else of this process), ``channels`` (min, max,
        mean of each), ``constant`` (channels of one value), ``bfloat16`` (``max``, ``mean`` difference from
        float32, ``seconds``; None where it cannot be computed), ``voxel_size`` and ``grey_levels``: what
        the image and the training have and whether they ``fit`` (None where one is unknown).

    Raises:
        ModelError: the network fails, answers with NaN, infinite values, one value everywhere, or a shape
            that is not the patch's.
        ChunkError: see ``middle``.
    """
    image = middle(chunk, patch.size)
    reset_memory(backend)
    answer = run(backend, image, "float32", path)
    if answer.ndim != 5 or answer.shape[2:] not in (patch.size, patch.output):
        raise ModelError(f"{path} is broken: it answers a patch of {image.shape} with {answer.shape}")
    channels = [{"min": float(c.min()), "max": float(c.max()), "mean": float(c.mean())} for c in answer[0]]
    if not np.isfinite(answer).all():
        wrong = np.count_nonzero(~np.isfinite(answer))
        raise ModelError(f"{path} is broken: {wrong} of {answer.size} values are NaN or infinite")
    constant = [c for c, found in enumerate(channels) if found["max"] - found["min"] < FLAT]
    if len(constant) == len(channels):
        raise ModelError(f"{path} is broken: its answer is {channels[0]['mean']:.4g} at every voxel")
    taken = seconds(lambda: run(backend, image, "float32", path))
    return {
        "model": path, "device": backend.device, "machine": machine_of(backend), "patch_size": patch.size,
        "dtype": "float32", "seconds": taken, "mvoxel_per_s": math.prod(patch.output) / taken / 1e6,
        "memory": memory(backend), "channels": channels, "constant": constant,
        "bfloat16": half(backend, image, answer, path), **fits(chunk, Training.of(backend)),
    }  # fmt: skip


def run(backend: Any, image: NDArray[np.float32], dtype: str, path: str) -> NDArray[np.float32]:
    """Give the answer in a dtype, as numpy; raise ModelError where the network fails."""
    try:
        answer = backend._answer(image, dtype) if hasattr(backend, "_answer") else backend(image)
    except SegflowError:
        raise
    except Exception as error:  # a network can raise anything
        line = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(f"{path} fails on a patch: {type(error).__name__}: {line}") from error
    return np.asarray(answer, np.float32)


def half(backend: Any, image: NDArray[np.float32], answer: NDArray[np.float32], path: str) -> Facts | None:
    """Compare bfloat16 with float32; None where the backend or network has no bfloat16."""
    if not hasattr(backend, "_answer"):
        return None
    try:
        off = np.abs(run(backend, image, "bfloat16", path) - answer)
    except ModelError:
        return None
    if not np.isfinite(off).all():
        return {"max": None, "mean": None, "seconds": None}
    taken = seconds(lambda: run(backend, image, "bfloat16", path))
    return {"max": float(off.max()), "mean": float(off.mean()), "seconds": taken}


def fits(chunk: Chunk, training: Training) -> Facts:
    """Tell whether voxel size and grey levels of an image are those of a training."""
    have, want = chunk.voxel_size, training.voxel_size
    voxel = None
    if have is not None and want is not None:
        voxel = all(1 / TOLERANCE <= a / b <= TOLERANCE for a, b in zip(have, want))
    mine = grey.of_array(chunk.array)
    limit = grey.limit(mine or {})
    levels: Facts = {"fit": None, "distance": None, "limit": limit, "inverted": None}
    if mine is not None and training.levels is not None:
        off, turned = grey.distance(mine, training.levels), grey.inverted(mine, training.levels)
        levels |= {"fit": off <= limit and not turned, "distance": off, "inverted": turned}
    sizes = {"image": have and list(have), "training": want and list(want)}
    return {"voxel_size": {"fit": voxel, **sizes}, "grey_levels": levels}


def machine_of(backend: Any) -> str:
    """Give the name of the processor or GPU that computes."""
    import torch

    return machine(getattr(backend, "place", torch.device("cpu")))


def reset_memory(backend: Any) -> None:
    """Let the height of memory be counted from now on."""
    if str(backend.device).startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux, proc(5)
    except OSError:
        return


def memory(backend: Any) -> int | None:
    """Give the height of memory, bytes: of the GPU, else of this process; None if it cannot be told."""
    if str(backend.device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def text(found: Facts) -> str:
    """Give what ``check`` found as lines for people."""
    size = "x".join(map(str, found["patch_size"]))
    lines = [
        f"model        {found['model']}",
        f"device       {found['device']}, {found['machine']}",
        f"speed        {found['mvoxel_per_s']:.3g} Mvoxel/s in float32; {found['seconds']:.3g} s for {size}",
        f"memory       {found['memory'] / 2**20:.0f} MiB at most"
        if found["memory"]
        else "memory       unknown",
    ]
    for c, channel in enumerate(found["channels"]):
        note = "  constant: look at this channel" if c in found["constant"] else ""
        lines.append(
            f"channel {c}    {channel['min']:.4f} to {channel['max']:.4f}, mean {channel['mean']:.4f}{note}"
        )
    lines.append(f"bfloat16     {_half_text(found['bfloat16'])}")
    lines.append(f"voxel size   {_voxel_text(found['voxel_size'])}")
    lines.append(f"grey levels  {_grey_text(found['grey_levels'])}")
    return "\n".join(lines)


def _half_text(half: Facts | None) -> str:
    if half is None:
        return "not computed by this backend or network"
    if half["max"] is None:
        return "NaN or infinite values; use --dtype float32"
    return f"off by {half['max']:.4f} at most, {half['mean']:.5f} on average; {half['seconds']:.3g} s a patch"


def _voxel_text(voxel: Facts) -> str:
    have, want = (
        "x".join(f"{v:g}" for v in voxel[k]) if voxel[k] else "unknown" for k in ("image", "training")
    )
    word = {None: "cannot be compared", True: "fits", False: "does not fit"}[voxel["fit"]]
    return f"{word}: image {have}, training {want} nm"


def _grey_text(levels: Facts) -> str:
    if levels["fit"] is None:
        return "cannot be compared: the file does not tell those of the training"
    word = "fit" if levels["fit"] else "do not fit"
    turned = "; the image looks inverted" if levels["inverted"] else ""
    return f"{word}: distance {levels['distance']:.3f}, limit {levels['limit']:g}{turned}"
