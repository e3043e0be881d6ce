"""Where the patches of a chunk lie, and which box comes out of them; no array is touched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segflow.errors import ChunkError, UsageError
from segflow.geometry import Box, Vec, starts, vec

AXES = "zyx"
GRIDS = ("chunk", "volume")
AUTO = ((20, 256, 256), (32, 512, 512))  # what --patch-size auto chooses from


@dataclass(frozen=True)
class Patch:
    """The sizes of a patch: what goes in, what comes out, how much outputs share; zyx, voxels.

    Raises:
        UsageError: the output patch is larger than the input patch or lies off its middle, or the
            overlap is negative or not smaller than the output patch.

    >>> patch = Patch.of((20, 256, 256), (16, 192, 192), (2, 32, 32))
    >>> patch.rim, patch.stride
    ((2, 32, 32), (14, 160, 160))
    """

    size: Vec
    output: Vec
    overlap: Vec

    @classmethod
    def of(
        cls, size: Sequence[int], output: Sequence[int] | None = None, overlap: Sequence[int] = (4, 64, 64)
    ) -> Patch:
        """Make one; ``output`` is ``size`` when not given."""
        return cls(vec(size), vec(output or size), vec(overlap))

    def __post_init__(self) -> None:
        for axis, size, output, overlap in zip(AXES, self.size, self.output, self.overlap):
            if not 0 < output <= size:
                raise UsageError(
                    f"--output-patch-size {output} in {axis} must lie between 1 and the patch size {size}"
                )
            if (size - output) % 2:
                raise UsageError(
                    f"--output-patch-size {output} in {axis} does not lie in the middle of {size}; "
                    "they must differ by an even number"
                )
            if not 0 <= overlap < output:
                raise UsageError(
                    f"--patch-overlap {overlap} in {axis} must be smaller than the output patch {output}"
                )

    @property
    def rim(self) -> Vec:
        """What is lost on every side from input to output."""
        return vec([(i - o) // 2 for i, o in zip(self.size, self.output)])

    @property
    def meeting(self) -> int:
        """How many patches meet in a voxel."""
        return math.prod(-(-o // s) for o, s in zip(self.output, self.stride))

    @property
    def stride(self) -> Vec:
        """The distance of two patches."""
        return vec([o - v for o, v in zip(self.output, self.overlap)])


@dataclass(frozen=True)
class Layout:
    """The patches of one chunk.

    ``padded`` is the box that patches lie in (the chunk's, unless it was padded), ``reflect`` the
    axes where the image is mirrored to fill it (zeros elsewhere), ``starts`` the places of the
    input patches per axis and ``output`` the box that comes out; voxels, global.
    """

    patch: Patch
    padded: Box
    reflect: tuple[bool, ...]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    output: Box

    def windows(self, axis: int) -> list[tuple[int, int]]:
        """Give where the output patches begin and end along an axis."""
        rim, size = self.patch.rim[axis], self.patch.output[axis]
        return [(s + rim, s + rim + size) for s in self.starts[axis]]

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Give the index of each patch per axis, z slab by z slab."""
        counts = [range(len(s)) for s in self.starts]
        return ((z, y, x) for z in counts[0] for y in counts[1] for x in counts[2])

    def __len__(self) -> int:
        z, y, x = (len(s) for s in self.starts)
        return z * y * x

    def input_box(self, index: Sequence[int]) -> Box:
        """Give what the patch ``index`` reads."""
        return Box.of([s[i] for s, i in zip(self.starts, index)], self.patch.size)


def fitting(shape: Sequence[int], overlap: Sequence[int] = (4, 64, 64)) -> list[Patch]:
    """Give the patches of AUTO cut to a chunk of ``shape``, y and x to multiples of 16.

    >>> [patch.size for patch in fitting((24, 300, 1024))]
    [(20, 256, 256), (24, 288, 512)]
    """
    found: list[Patch] = []
    for size in AUTO:
        z, y, x = (min(a, b) for a, b in zip(size, shape))
        cut = (z, y // 16 * 16 or y, x // 16 * 16 or x)
        patch = Patch.of(cut, overlap=[min(o, n // 2) for o, n in zip(overlap, cut)])
        if patch not in found:
            found.append(patch)
    return found


def layout(
    box: Box,
    patch: Patch,
    *,
    crop_margin: Sequence[int] | None = None,
    mask_output_chunk: bool = False,
    patch_num: Sequence[int] | None = None,
    patch_grid: str = "chunk",
    pad: str | None = None,
    bounds: Box | None = None,
) -> Layout:
    """Lay patches over a chunk.

    Args:
        box: the chunk's box.
        patch: the sizes of a patch.
        crop_margin: what to cut off every side beyond the rim of the patches; by default the
            overlap, nothing with ``mask_output_chunk``, and whatever is not exact with
            ``patch_grid="volume"``.
        mask_output_chunk: keep the border, where fewer patches meet.
        patch_num: the number of patches per axis that is expected.
        patch_grid: ``chunk`` counts patches from the chunk's corner; ``volume`` from the corner of
            ``bounds`` (or 0), so that a block gives what the whole volume gives.
        pad: ``reflect`` lets the chunk be smaller than a patch.
        bounds: the bounds of the volume that the chunk is part of.

    Raises:
        ChunkError: the chunk is smaller than a patch, or nothing is left of it.
        UsageError: ``patch_num`` is not what the chunk gives, or an option is unknown.

    >>> patch = Patch.of((20, 256, 256), (16, 192, 192), (2, 32, 32))
    >>> layout(Box.of((0, 0, 0), (202, 1536, 1536)), patch, crop_margin=(8, 96, 96)).output.shape
    (182, 1280, 1280)
    """
    if patch_grid not in GRIDS:
        raise UsageError(f"--patch-grid '{patch_grid}' is neither chunk nor volume")
    if pad not in (None, "reflect"):
        raise UsageError(f"--pad '{pad}' is unknown; 'reflect' is the one there is")
    if crop_margin is not None and min(crop_margin) < 0:
        raise UsageError(f"--output-crop-margin {_text(crop_margin)} must not be negative")
    if patch_grid == "chunk":
        bounds = None
    padded, reflect = _pad(box, patch, pad, bounds)
    if patch_grid == "chunk":
        per_axis = zip(padded.shape, patch.size, patch.stride, padded.start)
        axes = [starts(*axis) for axis in per_axis]
        covered = padded.grow([-r for r in patch.rim])
        margin = crop_margin if crop_margin is not None else (0, 0, 0) if mask_output_chunk else patch.overlap
        output = covered.grow([-m for m in margin])
    else:
        axes, covered = _volume_grid(padded, patch, bounds)
        output = covered
        if crop_margin is not None:
            output = box.grow([-r - m for r, m in zip(patch.rim, crop_margin)])
            if not output.empty and not covered.contains(output):
                raise ChunkError(
                    f"only {covered} of the chunk {box} is covered by all its patches; "
                    "read a larger margin or leave --output-crop-margin out"
                )
    output = output.intersect(box)
    if output.empty:
        raise ChunkError(
            f"nothing is left of the chunk {_text(box.shape)} once its border is cut off; "
            "keep it with --mask-output-chunk, or read a larger chunk"
        )
    if patch_num is not None and vec(patch_num) != tuple(len(a) for a in axes):
        raise UsageError(
            f"--patch-num {_text(patch_num)} does not fit the chunk {_text(box.shape)}, "
            f"which takes {_text([len(a) for a in axes])} patches"
        )
    z, y, x = (
        tuple(s for s in axes[i] if s + patch.rim[i] < output.stop[i] and s + size > output.start[i])
        for i, size in enumerate(r + o for r, o in zip(patch.rim, patch.output))
    )
    return Layout(patch, padded, reflect, (z, y, x), output)


def _pad(box: Box, patch: Patch, pad: str | None, bounds: Box | None) -> tuple[Box, tuple[bool, ...]]:
    """Give the box that is laid out, a rim of zeros around a volume included, and what is mirrored."""
    begin, end, reflect = list(box.start), list(box.stop), []
    for axis, (size, rim) in enumerate(zip(patch.size, patch.rim)):
        whole = True
        if bounds is not None:
            low, high = bounds.start[axis], bounds.stop[axis]
            whole = begin[axis] <= low and end[axis] >= high
            begin[axis] = min(begin[axis], low - rim) if begin[axis] <= low else begin[axis]
            end[axis] = max(end[axis], high + rim) if end[axis] >= high else end[axis]
        small = end[axis] - begin[axis] < size
        if small and not (pad and whole):
            raise ChunkError(
                f"the chunk {_text(box.shape)} is smaller than a patch {_text(patch.size)}; "
                "give a smaller --patch-size, or --pad reflect"
            )
        if small:
            end[axis] = (begin[axis] if bounds is None else bounds.start[axis] - rim) + size
        reflect.append(small)
    return Box(vec(begin), vec(end)), tuple(reflect)


def _volume_grid(box: Box, patch: Patch, bounds: Box | None) -> tuple[list[list[int]], Box]:
    """Give the volume's patches that lie in ``box``, and what no other patch touches."""
    axes, low, high = [], [], []
    for axis, (begin, end) in enumerate(zip(box.start, box.stop)):
        size, stride, rim, output = (v[axis] for v in (patch.size, patch.stride, patch.rim, patch.output))
        if bounds is None:
            first = (begin - size) // stride * stride
            grid = list(range(first, end + stride, stride))
        else:
            extent = bounds.shape[axis] + 2 * rim
            grid = starts(extent, size, stride, bounds.start[axis] - rim)
        inside = [g for g in grid if begin <= g and g + size <= end]
        before = [g + rim + output for g in grid if g < begin]
        after = [g + rim for g in grid if g + size > end]
        if not inside:
            raise ChunkError(
                f"the chunk {box} holds no whole patch of the volume in {AXES[axis]}; "
                f"patches of {size} begin every {stride} voxels, so read at least {size + stride - 1}"
            )
        axes.append(inside)
        low.append(max([inside[0] + rim, *before]))
        high.append(min([inside[-1] + rim + output, *after]))
    return axes, Box(vec(low), vec(high))


def _text(values: Sequence[int]) -> str:
    return "x".join(str(v) for v in values)
