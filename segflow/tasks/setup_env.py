"""The production of a volume by tasks, laid out: sizes of tasks and blocks, infos, the workers' line.

A task is a whole number of patches with what they overlap cut off, so that neighbours fit without a
gap and nothing is computed that is thrown away but the margin. Sizes are zyx voxels at the mip of the
tasks, unless said otherwise; the mips of a new volume halve y and x.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from segflow.errors import UsageError
from segflow.geometry import Box, Vec, vec, words
from segflow.inference.patches import Patch
from segflow.tasks.tasks import Tasks, make_tasks, region_from
from segflow.volumes import info as metadata
from segflow.volumes.info import Info

FLOAT = 4  # bytes of a voxel of the network's answer
VOXEL_SIZE = (40.0, 4.0, 4.0)
LOSSY = ("fpzip", "kempressed")  # encodings of floats


@dataclass(frozen=True)
class Sizes:
    """What a task reads and gives: ``patch_num`` patches, ``margin`` cut off the blended answer.

    >>> patch = Patch.of((20, 256, 256), (16, 192, 192), (2, 32, 32))
    >>> sizes = Sizes(patch, (8, 96, 96), (14, 9, 9))
    >>> sizes.output, sizes.input, sizes.expand
    ((182, 1280, 1280), (202, 1536, 1536), (10, 128, 128))
    """

    patch: Patch
    margin: Vec
    patch_num: Vec

    @property
    def blended(self) -> Vec:
        """The size of what all patches give together."""
        parts = zip(self.patch_num, self.patch.stride, self.patch.overlap)
        return vec([n * stride + overlap for n, stride, overlap in parts])

    @property
    def output(self) -> Vec:
        """The size of a task: what is left of ``blended``."""
        return vec([b - 2 * m for b, m in zip(self.blended, self.margin)])

    @property
    def expand(self) -> Vec:
        """What is read beyond the task on every side."""
        return vec([m + r for m, r in zip(self.margin, self.patch.rim)])

    @property
    def input(self) -> Vec:
        """The size of the image that a task reads."""
        return vec([o + 2 * e for o, e in zip(self.output, self.expand)])

    def block(self, mip: int, thumbnail_mip: int) -> Vec:
        """Give a size of blocks that divides a task: a fraction of it that falls with the mips."""
        half = (mip + thumbnail_mip) // 2
        return vec([_part(o, e) for o, e in zip(self.output, (mip, half, half))])


def _part(size: int, exponent: int) -> int:
    """Divide by two as often as told, and as it goes without a rest.

    >>> _part(2176, 3), _part(12, 5)
    (272, 3)
    """
    while exponent and size % 2**exponent:
        exponent -= 1
    return size // 2**exponent


def find_sizes(
    patch: Patch,
    *,
    ram: float,
    channels: int = 1,
    margin: Sequence[int] | None = None,
    mip: int = 0,
    max_mip: int = 8,
) -> Sizes:
    """Find the number of patches of a task whose answer fits the memory and whose size divides.

    Half of ``ram`` is for the answer: the count is the one nearest to that, between half and one and a
    half of its cube root along each axis (any smaller one if none of these divides). chunkflow's rule.

    Args:
        patch: sizes of input patch, output patch, overlap.
        ram: GB (1e9 bytes) for the float32 answer, twice.
        channels: of the answer.
        margin: what is cut off the answer; default: the overlap.
        mip: z is to divide by 2 ** mip.
        max_mip: y and x are to divide by 2 ** max_mip.

    Raises:
        UsageError: not one patch fits, or no size divides.

    >>> find_sizes(Patch.of((20, 256, 256), overlap=(10, 128, 128)), ram=14, channels=3, mip=1,
    ...     max_mip=6).patch_num
    (11, 18, 18)
    """
    cut = vec(patch.overlap if margin is None else margin)
    if min(cut) < 0:
        raise UsageError(f"--crop-chunk-margin {words(cut)} must not be negative")
    each = FLOAT * channels * math.prod(patch.stride)
    ideal = int(ram * 1e9 / 2 / each)
    if ideal < 1:
        raise UsageError(
            f"--max-ram-size {ram:g} GB holds no patch; give at least {math.ceil(2 * each / 1e5) / 1e4:g}"
        )
    least = int(ideal ** (1 / 3) / 2)
    limit = ram * 1e9 / FLOAT / channels
    for low, high in ((least, 3 * least), (1, 3 * least + 4)):
        found = _nearest(Sizes(patch, cut, (1, 1, 1)), range(low, high), ideal, limit, mip, max_mip)
        if found is not None:
            return found
    raise UsageError(_nothing(Sizes(patch, cut, (1, 1, 1)), ram, ideal, limit, least, mip, max_mip))


def _nearest(start: Sizes, counts: range, ideal: int, limit: float, mip: int, max_mip: int) -> Sizes | None:
    """Give the sizes of the counts nearest to ``ideal`` that divide and hold at most ``limit`` voxels."""
    deep, wide = _dividing(start, counts, mip, max_mip)
    best, found = math.inf, None
    for xy in wide:
        for z in deep:
            away = (xy**2 * z / ideal - 1) ** 2
            if away < best:
                sizes = replace(start, patch_num=(z, xy, xy))
                if math.prod(sizes.blended) <= limit:
                    best, found = away, sizes
    return found


def _dividing(start: Sizes, counts: range, mip: int, max_mip: int) -> tuple[list[int], list[int]]:
    """Give the counts that divide in z, and those in y and x."""
    deep, wide = [], []
    for n in counts:
        z, y, x = replace(start, patch_num=(n, n, n)).output
        if z > 0 and z % 2**mip == 0:
            deep.append(n)
        if min(y, x) > 0 and y % 2**max_mip == 0 == x % 2**max_mip:
            wide.append(n)
    return deep, wide


def _nothing(start: Sizes, ram: float, ideal: int, limit: float, least: int, mip: int, max_mip: int) -> str:
    """Say what does not divide, and what would help."""
    counts = range(1, 3 * least + 4)
    what = (
        f"no number of output patches {words(start.patch.output)} with overlap {words(start.patch.overlap)} "
        f"and margin {words(start.margin)} within {ram:g} GB"
    )
    deep, _ = _dividing(start, counts, mip, max_mip)
    if not deep:
        return f"{what} makes a task's z a positive multiple of {2**mip}; change -o or --crop-chunk-margin"
    for lower in range(max_mip - 1, -1, -1):
        if _nearest(start, counts, ideal, limit, mip, lower) is not None:
            return (
                f"{what} makes a task's y and x multiples of 2^{max_mip} = {2**max_mip}; "
                f"--max-mip {lower} has one, or give a larger -r"
            )
    return f"{what} makes a task; give a larger -r, or a smaller -o or --crop-chunk-margin"


@dataclass(frozen=True)
class Setup:
    """A production that is laid out.

    ``info`` is the layer's as it shall be, ``thumbnail`` that of its thumbnail (None: none), ``tasks``
    the boxes at ``mip``, ``notes`` what the user should know.
    """

    sizes: Sizes
    channels: int
    mip: int
    info: Info
    thumbnail: Info | None
    tasks: Tasks
    notes: tuple[str, ...] = ()

    @property
    def bounds(self) -> Box:
        """The region that the tasks cover."""
        grid = self.tasks.grid
        return Box(grid.start, grid[len(grid) - 1].stop)

    def describe(self) -> list[str]:
        """Give the sizes in lines for people."""
        sizes, count = self.sizes, len(self.tasks)
        block = metadata.parse("", self.info, self.mip).block_size or ()
        work = count * math.prod(sizes.input) / metadata.parse("", self.info, self.mip).bounds.voxels
        memory = FLOAT * self.channels * math.prod(sizes.blended) / 1e9
        return [
            f"{words(sizes.patch_num)} patches: tasks of {words(sizes.output)} voxels, each reads "
            f"{words(sizes.input)} (margin {words(sizes.expand)}); blocks of {words(block)}",
            f"{count} {'task' if count == 1 else 'tasks'} at mip {self.mip} from {words(self.bounds.start)}; "
            f"{memory:.3g} GB for the answer of one; {work:.2f} voxels are read for each one of the volume",
        ]


def lay_out(
    found: Info | None,
    sizes: Sizes,
    *,
    path: str = "",
    channels: int = 1,
    mip: int = 0,
    thumbnail_mip: int = 6,
    thumbnail: bool = True,
    start: Sequence[int] | None = None,
    stop: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    dtype: str | None = None,
    encoding: str | None = None,
    voxel_size: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Setup:
    """Lay out a volume and its tasks.

    Args:
        found: the info at ``path``, if there is one; it is kept unless ``overwrite``.
        sizes: of a task.
        path: the layer's address, for errors.
        channels: of the layer.
        mip: of the tasks.
        thumbnail_mip: the coarsest mip of the thumbnail.
        thumbnail: whether there is one.
        start: first voxel of the region at mip 0; default: the info's, else 0 0 0.
        stop: the voxel after the last at mip 0; default: the info's.
        size: instead of ``stop``.
        dtype: of a new layer; default: uint8.
        encoding: of a new layer; default: raw.
        voxel_size: of a new layer at mip 0, nm; default: that of ``found``, else 40 4 4.
        overwrite: give a new info though there is one.

    Raises:
        UsageError: nothing tells the region, or the info that is there does not fit.
    """
    kept = found is not None and not overwrite
    before = metadata.parse(path, found) if found is not None else None
    region = region_from(before.bounds if before else None, start, stop, size)
    if region is None:
        raise UsageError(
            f"how large is the volume? there is no info at {path}; give --volume-size (or --volume-stop), "
            "voxels at mip 0"
        )
    notes: list[str] = []
    if kept and found is not None:
        raw = metadata.with_mips(found, mip + 1, (1, 2, 2))
        notes += _check_kept(raw, path, region, sizes, channels, mip, dtype, encoding, voxel_size)
    else:
        nm = voxel_size or (before.voxel_size if before else None) or VOXEL_SIZE
        block = sizes.block(mip, thumbnail_mip)
        raw = new_info(region, block, channels, mip, dtype or "uint8", encoding or "raw", nm)
    box = _at_mip(raw, region, mip, path)
    tasks = make_tasks(bounding_box=box, chunk_size=sizes.output)
    small = None
    if thumbnail:
        last = _thumbnail_mip(sizes.output, mip, thumbnail_mip)
        if last < thumbnail_mip:
            notes.append(f"the thumbnail ends at mip {last}, the last by which tasks divide")
        small = thumbnail_info(raw, sizes, mip, last)
    return Setup(sizes, channels, mip, raw, small, tasks, tuple(notes))


def new_info(
    region: Box,
    block: Sequence[int],
    channels: int,
    mip: int,
    dtype: str = "uint8",
    encoding: str = "raw",
    voxel_size: Sequence[float] = VOXEL_SIZE,
) -> Info:
    """Give the info of a layer with mips 0 to ``mip``; ``region`` and ``voxel_size`` are of mip 0.

    Raises:
        UsageError: the encoding does not hold the dtype.
    """
    if encoding in LOSSY and dtype != "float32":
        raise UsageError(f"the encoding {encoding} takes float32, not {dtype}; give --dtype float32")
    if encoding == "compressed_segmentation":
        raise UsageError("the encoding compressed_segmentation is for labels; a network gives none")
    kind = "affinity_map" if channels == 3 else "probability_map"
    raw = metadata.make(
        region, dtype, channels=channels, layer_type=kind, voxel_size=voxel_size, block_size=block,
        encoding=encoding,
    )  # fmt: skip
    return metadata.with_mips(raw, mip + 1, (1, 2, 2))


def _check_kept(
    raw: Info,
    path: str,
    region: Box,
    sizes: Sizes,
    channels: int,
    mip: int,
    dtype: str | None,
    encoding: str | None,
    voxel_size: Sequence[float] | None,
) -> list[str]:
    """Refuse an info that the tasks cannot be written by; tell what of it is not as asked for."""
    finest, here = metadata.parse(path, raw), metadata.parse(path, raw, mip)
    again = "--overwrite-info makes it anew"
    if here.channels != channels:
        raise UsageError(f"the info at {path} has {here.channels} channel(s), not {channels}; {again}")
    if not finest.bounds.contains(region):
        raise UsageError(f"the region {region} goes beyond {finest.bounds} of the info at {path}; {again}")
    block = here.block_size or (1, 1, 1)
    begin = _at_mip(raw, region, mip, path).start
    away = [b - a for a, b in zip(here.bounds.start, begin)]
    notes = []
    if any(n % b for values in (sizes.output, away) for n, b in zip(values, block)):
        text = f"tasks of {words(sizes.output)} are not whole blocks of {words(block)} of the info at {path}"
        if not path.startswith("file://"):
            raise UsageError(f"{text}, as a bucket needs; {again}")
        notes.append(f"{text}: workers take turns at blocks that they share; {again}")
    asked = [("dtype", dtype, here.dtype), ("encoding", encoding, here.encoding)]
    if voxel_size is not None and finest.voxel_size is not None:
        asked.append(("voxel size", words(voxel_size), words(finest.voxel_size)))
    differ = [f"{name} {has}, not {want}" for name, want, has in asked if want is not None and want != has]
    if differ:
        notes.append(f"the info at {path} is kept: {'; '.join(differ)}; {again}")
    return notes


def _at_mip(raw: Info, region: Box, mip: int, path: str) -> Box:
    """Give the box at a mip that covers a region of mip 0, within the bounds there."""
    over, under = metadata.ratio(raw, 0, mip, path)
    box = Box(
        vec([a * n // d for a, n, d in zip(region.start, over, under)]),
        vec([-(-b * n // d) for b, n, d in zip(region.stop, over, under)]),
    )
    return box.intersect(metadata.parse(path, raw, mip).bounds)


def _thumbnail_mip(size: Sequence[int], mip: int, last: int) -> int:
    """Give the coarsest mip, at most ``last``, at which tasks are whole voxels in y and x."""
    while last > mip and any(n % 2 ** (last - mip) for n in size[1:]):
        last -= 1
    return max(last, mip)


def thumbnail_info(raw: Info, sizes: Sizes, mip: int, last: int) -> Info:
    """Give the info of a layer's thumbnail, mips 0 to ``last``: uint8, the blocks whole parts of a task."""
    finest = metadata.parse("", raw)
    z, y, x = sizes.output
    block = (_part(z, mip), *(_part(n, last) for n in (y, x)))
    small = metadata.make(
        finest.bounds, "uint8", voxel_size=finest.voxel_size, block_size=block, layer_type="image"
    )
    for level in range(last):
        small = metadata.add_mip(
            small, metadata.ratio(raw, level, level + 1)[1] if level < mip else (1, 2, 2)
        )
    return small


def worker_line(setup: Setup, layer: str, queue: str | None, timeout: float) -> str:
    """Give the shell line that runs the tasks.

    $IMAGE_LAYER_PATH and $CONVNET_MODEL_FILE are the user's, and $CONVNET_WEIGHT_FILE where the network
    is a Python file. Without a queue one process runs all tasks.
    """
    sizes, patch = setup.sizes, setup.sizes.patch

    def option(name: str, *values: Any) -> str:
        return " ".join([f"--{name}", *(shlex.quote(v if isinstance(v, str) else f"{v:g}") for v in values)])

    def size(name: str, values: Sequence[int]) -> str:
        return f"--{name} {words(values)}"

    if queue is not None:
        source = ["fetch-task", option("queue-name", queue), option("visibility-timeout", timeout)]
    else:
        box = Box(setup.tasks.grid.start, setup.bounds.stop)
        source = ["generate-tasks", option("bounding-box", str(box)), size("chunk-size", sizes.output)]
    line = [
        "segflow", f"--mip {setup.mip}", *source,
        'read-precomputed --volume-path "$IMAGE_LAYER_PATH"', size("expand-margin-size", sizes.expand),
        "--fill-missing",
        'inference --convnet-model "$CONVNET_MODEL_FILE"',
        '${CONVNET_WEIGHT_FILE:+--convnet-weight-path "$CONVNET_WEIGHT_FILE"}',
        size("input-patch-size", patch.size), size("output-patch-size", patch.output),
        size("output-patch-overlap", patch.overlap), size("output-crop-margin", sizes.margin),
        f"--num-output-channels {setup.channels}", "--framework pytorch", size("patch-num", sizes.patch_num),
        "write-precomputed", option("volume-path", layer), "--upload-log",
    ]  # fmt: skip
    line += ["--create-thumbnail"] if setup.thumbnail is not None else []
    return " ".join([*line, "delete-task-in-queue"] if queue is not None else line)
