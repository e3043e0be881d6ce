"""Inference of a chunk: patches out, through a backend, and blended back."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.errors import ModelError, SegflowError, UsageError
from segflow.geometry import Box
from segflow.inference.augment import Augmented
from segflow.inference.backends import Identity
from segflow.inference.blend import Blender
from segflow.inference.blend import bump as weights_of
from segflow.inference.patches import Layout, Patch, fitting, layout
from segflow.progress import bar

log = logging.getLogger("segflow")

SLACK = 1e-3  # rounding beyond [0, 1] of what is a probability
MYELIN = 3  # the channel that holds it

Index = tuple[int, int, int]
Answer = Callable[[NDArray[np.float32]], Any]


def infer(
    chunk: Chunk,
    backend: Answer,
    *,
    patch: Patch | None = None,
    crop_margin: Sequence[int] | None = None,
    mask_output_chunk: bool = False,
    patch_num: Sequence[int] | None = None,
    patch_grid: str = "chunk",
    pad: str | None = None,
    bump: str = "wu",
    batch_size: int | str = 1,
    channels: int | None = None,
    myelin_threshold: float | None = None,
    output_dtype: str = "float32",
    augment: str | None = None,
) -> Chunk:
    """Run a network over a chunk in overlapping patches and blend its answers.

    The result is sum(w * patch) / sum(w) with separable weights w, so that the identity gives its
    input back to 1e-6. Patches whose input is all zero are not computed: they add zeros.

    Args:
        chunk: zyx, or czyx for several input channels. Integers are divided by their dtype's maximum.
        backend: what answers for a batch (b, c, z, y, x): see segflow.inference.backends.
        patch: the sizes of a patch; by default 20 x 256 x 256 with an overlap of 4 x 64 x 64.
        crop_margin, mask_output_chunk, patch_num, patch_grid, pad: see segflow.inference.patches.
        bump: the weights in a patch: wu, gaussian or flat.
        batch_size: patches computed at once; ``auto`` begins with 1 on a CPU and 8 on a GPU and
            halves when memory runs out.
        channels: how many of the network's channels are kept; by default all.
        myelin_threshold: where the fourth channel is below this the first three are set to 0; it
            is then dropped.
        output_dtype: float32, or uint8 for round(255 a).
        augment: mean, min or max of each patch's answers in up to 16 poses; see
            segflow.inference.augment. Three channels without offsets count as affinities x, y, z.

    Returns:
        zyx for one channel, else czyx; at its place in the volume.

    Raises:
        ChunkError: the chunk is smaller than a patch, or nothing is left of it.
        ModelError: the network fails, runs out of memory, or gives what cannot be used.
        UsageError: options that do not fit each other.

    >>> image = Chunk(np.arange(8 * 32 * 32, dtype=np.float32).reshape(8, 32, 32))
    >>> same = infer(image, Identity(), patch=Patch.of((4, 16, 16), overlap=(2, 8, 8)),
    ...              mask_output_chunk=True)
    >>> bool(np.allclose(same.array, image.array, rtol=1e-6))
    True
    """
    if output_dtype not in ("float32", "uint8"):
        raise UsageError(f"--output-dtype '{output_dtype}' is neither float32 nor uint8")
    placed = layout(
        chunk.bbox, patch or Patch.of((20, 256, 256)), crop_margin=crop_margin, patch_num=patch_num,
        mask_output_chunk=mask_output_chunk, patch_grid=patch_grid, pad=pad,
        bounds=chunk.source.get("bounds"),
    )  # fmt: skip
    run = Run(placed, backend, bump, batch_size, channels, myelin_threshold, np.dtype(output_dtype))
    if augment is not None:
        run.answer = augmented(backend, augment, channels, myelin_threshold is not None)
    try:
        with bar(len(placed), "patches") as tick:
            array = run(Patches(chunk, placed), tick)
    finally:
        getattr(backend, "rest", int)()
    return as_chunk(chunk, array, placed.output, backend, run.probabilities)


def augmented(backend: Answer, mode: str, channels: int | None, myelin: bool) -> Augmented:
    """Give the backend with test-time augmentation, with the offsets that ``as_chunk`` gives its answer."""
    offsets = getattr(backend, "offsets", None)
    if isinstance(backend, Identity):
        offsets = ()
    elif offsets is None and (myelin or channels == len(DEFAULT_OFFSETS)):
        offsets = DEFAULT_OFFSETS
    return Augmented(backend, mode, offsets=offsets, channels=channels)


def best_patch(chunk: Chunk, backend: Answer, overlap: Sequence[int] = (4, 64, 64), **options: Any) -> Patch:
    """Give the patch with which ``backend`` is done with ``chunk`` sooner, of two sizes that it times.

    A larger patch computes fewer voxels twice, if memory and caches can take it. ``options`` are
    those of segflow.inference.patches.layout.
    """
    candidates = fitting(chunk.bbox.shape, overlap)
    placed = [layout(chunk.bbox, patch, **options) for patch in candidates]
    if len(placed) == 1 or len(placed[0]) < 8:  # timing would cost as much as it gains
        return candidates[0]
    seconds = [_seconds(chunk, backend, lay) for lay in placed]
    best = candidates[seconds.index(min(seconds))]
    log.info("inference: patch size %s, about %.0f s", "x".join(map(str, best.size)), min(seconds))
    return best


def _seconds(chunk: Chunk, backend: Answer, placed: Layout) -> float:
    """Estimate the time of all patches by that of one; infinite if it does not fit in memory."""
    batch = np.zeros((1, chunk.channels, *placed.patch.size), np.float32)
    middle = [len(s) // 2 for s in placed.starts]
    Patches(chunk, placed).read(middle, batch[0])
    try:
        backend(batch)
        began = time.perf_counter()
        answer = backend(batch)
        float(answer.max())  # waits for a GPU
        return (time.perf_counter() - began) * len(placed)
    except Exception as error:
        if out_of_memory(error):
            return float("inf")
        raise ModelError(f"the network failed: {_line(error)}") from error


class Patches:
    """The image as patches: float32, in [0, 1] for integers, padded where the layout says so."""

    def __init__(self, chunk: Chunk, placed: Layout) -> None:
        array = chunk.array if chunk.array.ndim == 4 else chunk.array[np.newaxis]
        box, inner = placed.padded, chunk.bbox
        for axis, mirrored in enumerate(placed.reflect, start=1):
            low, high = inner.start[axis - 1] - box.start[axis - 1], box.stop[axis - 1] - inner.stop[axis - 1]
            widths = [(low, high) if a == axis else (0, 0) for a in range(4)]
            if low or high:
                array = np.pad(array, widths, mode="reflect" if mirrored else "constant")
        kind = array.dtype
        self.scale = np.float32(np.iinfo(kind).max if kind.kind in "iu" else 1)
        self.array, self.placed = array, placed

    def read(self, index: Sequence[int], into: NDArray[np.float32]) -> bool:
        """Fill ``into`` (c, z, y, x) with a patch; give whether there is anything in it."""
        box = self.placed.input_box(index)
        part = self.array[(slice(None), *box.slices(self.placed.padded.start))]
        if not any(plane.any() for channel in part for plane in channel):
            return False
        np.divide(part, self.scale, out=into, casting="same_kind")
        return True


class Run:
    """One chunk's way through a backend."""

    def __init__(
        self,
        placed: Layout,
        backend: Answer,
        kind: str,
        batch_size: int | str,
        channels: int | None,
        myelin: float | None,
        dtype: np.dtype[Any],
    ) -> None:
        weights_of(kind, 1)
        self.placed, self.backend, self.kind, self.dtype = placed, backend, kind, dtype
        self.answer = backend
        self.channels, self.myelin = channels, myelin
        self.auto = batch_size == "auto"
        on_gpu = str(getattr(backend, "device", "cpu")).startswith("cuda")
        self.size = (8 if on_gpu else 2) if self.auto else int(batch_size)
        self.blender: Any = None
        self.output: Any = None
        self.reached = 0  # planes before it are touched by no later patch
        self.probabilities = True

    def __call__(self, image: Patches, tick: Callable[[int], object]) -> NDArray[Any]:
        """Compute all patches; give the output, czyx."""
        begin = self.placed.output.start[0]
        windows = self.placed.windows(0)
        for z, group in itertools.groupby(self.placed, key=lambda index: index[0]):
            self.reached = windows[z][0] - begin
            if self.blender is not None:
                self.finish(self.reached)
            for indices, batch in self.batches(image, group, tick):
                for part, answer in self.answers(indices, batch):
                    self.blend(part, answer)
                    tick(len(part))
        if self.blender is None:  # nothing but zeros
            self.reached = self.placed.output.shape[0]
            empty = np.zeros((1, len(image.array), *self.placed.patch.size), np.float32)
            for _, answer in self.answers([], empty):
                self.blend([], answer)
        self.finish(self.placed.output.shape[0])
        return self.output

    def batches(
        self, image: Patches, indices: Iterator[Index], tick: Callable[[int], object]
    ) -> Iterator[tuple[list[Index], NDArray[np.float32]]]:
        """Give the patches that hold something, as many at once as the batch size is by then."""
        found: list[Index] = []
        for index in indices:
            if not found:
                batch = np.empty((self.size, len(image.array), *self.placed.patch.size), np.float32)
            if image.read(index, batch[len(found)]):
                found.append(index)
            else:
                tick(1)
            if len(found) == len(batch):
                yield found, batch
                found = []
        if found:
            yield found, batch[: len(found)]

    def answers(self, indices: list[Index], batch: NDArray[np.float32]) -> Iterator[tuple[list[Index], Any]]:
        """Give what the backend answers, in smaller batches where memory runs out."""
        try:
            answer = (self.answer if indices else self.backend)(batch)
        except SegflowError:
            raise
        except Exception as error:
            patch = "x".join(str(n) for n in self.placed.patch.size)
            if not out_of_memory(error):
                raise ModelError(f"the network failed on a patch of {patch}: {_line(error)}") from error
            if len(batch) == 1:
                said = f"out of memory on a patch of {patch}; give a smaller --patch-size"
                raise ModelError(said) from error
            if not self.auto:
                raise ModelError(
                    f"out of memory with {len(batch)} patches of {patch} at once; "
                    "give a smaller --batch-size, or auto"
                ) from error
        else:
            yield indices, answer
            return
        self.size = len(batch) // 2
        log.warning("out of memory with %d patches at once; going on with %d", len(batch), self.size)
        at = 0
        while at < len(batch):
            end = at + self.size  # which may shrink further
            yield from self.answers(indices[at:end], batch[at:end])
            at = end

    def blend(self, indices: list[Index], answer: Any) -> None:
        """Check an answer, take its middle, and add it."""
        patch = self.placed.patch
        shape = tuple(answer.shape)
        if len(shape) != 5 or shape[2:] not in (patch.size, patch.output):
            raise ModelError(
                f"the network answers a patch of {patch.size} with {shape}; (batch, channel, "
                f"*{patch.output}) is needed, see --output-patch-size"
            )
        if self.blender is None:
            self.begin(answer, shape[1])
        if shape[2:] != patch.output:
            middle = (slice(r, r + n) for r, n in zip(patch.rim, patch.output))
            answer = answer[(..., *middle)]
        if indices:
            self.blender.add(indices, answer[:, : self.channels])

    def begin(self, answer: Any, given: int) -> None:
        """Make room for the output, now that the number of channels is known."""
        if self.channels is not None and self.channels > given:
            raise ModelError(
                f"the network gives {given} channels, and --num-output-channels is {self.channels}"
            )
        self.channels = self.channels or given
        if self.myelin is not None and self.channels <= MYELIN:
            raise ModelError(f"--mask-myelin-threshold needs four channels, and there are {self.channels}")
        if isinstance(answer, np.ndarray):
            direct = self.dtype == Blender.dtype(self.placed) and self.myelin is None
            depth = None if direct else self.placed.patch.output[0]
            self.blender = Blender(self.placed, self.channels, self.kind, depth)
            if direct:
                self.output = self.blender.total
        else:
            from segflow.inference.device import DeviceBlender

            self.blender = DeviceBlender(self.placed, self.channels, self.kind, device=answer.device)
        if self.output is None:
            count = MYELIN if self.myelin is not None else self.channels
            self.output = np.zeros((count, *self.placed.output.shape), self.dtype)
        self.blender.skip(self.reached)  # slabs of nothing but zeros came before

    def finish(self, until: int) -> None:
        """Hand on the planes that no later patch touches: checked, masked and quantised."""
        found = self.blender.complete(until)
        if found is None:
            return
        planes, values = found
        if not isinstance(self.backend, Identity) or self.dtype == np.uint8:
            self.check(values)
        if self.output is not self.blender.total:
            if self.myelin is not None:
                values = values[:MYELIN] * (values[MYELIN] >= self.myelin)
            if self.dtype == np.uint8:
                values = (values * 255).round().clip(0, 255)
            self.output[:, planes] = self.blender.host(values, self.dtype)
        self.blender.forget()

    def check(self, values: Any) -> None:
        """Refuse NaN, and values beyond [0, 1] where they are promised."""
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ModelError("the network gives NaN or infinite values; check its input, weights and --dtype")
        if low >= -SLACK and high <= 1 + SLACK:
            return
        said = f"the network gives values from {low:.3g} to {high:.3g}"
        if self.dtype == np.uint8:
            raise ModelError(f"{said}, and --output-dtype uint8 needs 0 to 1; a sigmoid may be missing")
        if getattr(self.backend, "offsets", None) is not None:
            raise ModelError(f"{said}, and affinities lie in 0 to 1; a sigmoid may be missing")
        if self.probabilities:
            log.warning("%s, which are no probabilities; a sigmoid may be missing", said)
        self.probabilities = False


def as_chunk(chunk: Chunk, array: NDArray[Any], box: Box, backend: Any, probabilities: bool) -> Chunk:
    """Give the output its place and its kind: affinities, probabilities, or an image."""
    count, offsets = len(array), getattr(backend, "offsets", None)
    kind = "probability_map" if probabilities and not isinstance(backend, Identity) else "image"
    if count == 3 and probabilities and offsets is None:
        offsets = DEFAULT_OFFSETS
    if offsets is not None and len(offsets) >= count > 1:
        kind, offsets = "affinity_map", tuple(offsets)[:count]
    else:
        offsets = None
    values = array[0] if count == 1 else array
    return Chunk(values, box.start, chunk.voxel_size, kind, offsets, chunk.source)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch is that memory ran out, of a GPU or of the host."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
