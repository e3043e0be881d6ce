"""Blocks joined to what they were cut from: cropped at mid-overlap, or blended; box by box."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.blocks.cut import Blocks, Source, Window, cuts_between
from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, VolumeError
from segflow.geometry import Box, vec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Joined:
    """What blocks give together: a header, and boxes of it, which are put together when asked for.

    A block may hold less than its box in the grid (inference cuts off what it cannot know), as
    long as it meets its neighbours. Blocks that are not there are zeros.

    Args:
        blocks: the grid.
        pieces: what each block holds, by its number.
        blend: sum the blocks with weights that fall towards their faces and add up to 1, instead
            of cropping each at the middle of its overlaps.

    Raises:
        ChunkError: no pieces; pieces that differ in channels, dtype or voxel size; blended labels.
        VolumeError: neighbours that do not meet.

    >>> image = Chunk(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    >>> blocks = Blocks.over(image.bbox, (2, 3, 3), overlap=(1, 1, 1))
    >>> from segflow.blocks.cut import Held
    >>> pieces = {i: Held(image.cutout(box)) for i, box in enumerate(blocks)}
    >>> bool((Joined(blocks, pieces).read().array == image.array).all())
    True
    """

    def __init__(self, blocks: Blocks, pieces: Mapping[int, Source], *, blend: bool = False) -> None:
        self.blocks, self.pieces = blocks, pieces
        if not pieces:
            raise ChunkError("there is no block to join")
        first = self._alike()
        windows, bounds = self._windows(), blocks.bounds
        self.bounds = Box(vec([w[0][0] for w in windows]), vec([max(b for _, b in w) for w in windows]))
        self.bounds = self.bounds.intersect(bounds)
        self.held = Blocks(self.bounds, tuple(tuple(w) for w in windows))  # as the pieces are
        self.cuts = [self._cut(axis, windows[axis]) for axis in range(3)]
        self.windows = windows if blend else [list(zip(c, c[1:])) for c in self.cuts]
        self.weights = _weights(self.windows) if blend else None
        if blend and first.layer_type == "segmentation":
            raise ChunkError("labels cannot be blended; leave --blend out")
        sizes = [blocks.windows[a][0][1] - blocks.windows[a][0][0] for a in range(3)]
        self.info = replace(first, path="", bounds=self.bounds, block_size=vec(sizes))

    def _alike(self) -> Any:
        """Give the header of one piece after checking that all are alike."""
        found: dict[str, tuple[Any, int]] = {}
        for index, piece in self.pieces.items():
            info = piece.info
            axes = info.extra.get("ndim", 4 if info.channels > 1 else 3)
            values = {
                "channels": info.channels if axes == 4 else "no axis of them",
                "dtype": info.dtype,
                "voxel size": info.voxel_size,
                "channel offsets": info.offsets,
            }
            for what, value in values.items():
                known, other = found.setdefault(what, (value, index))
                if value != known:
                    one, two = (self._called(i) for i in (other, index))
                    raise ChunkError(f"the blocks differ in {what}: {one} has {known}, {two} has {value}")
        return next(iter(self.pieces.values())).info

    def _called(self, index: int) -> str:
        path = self.pieces[index].info.path if index in self.pieces else ""
        name = self.blocks.name(index)
        return path if name in path else f"block {name}"

    def _windows(self) -> list[list[Window]]:
        """Give what the pieces hold along each axis, checked to be a grid."""
        found: list[dict[int, tuple[Window, int]]] = [{}, {}, {}]
        for index, piece in self.pieces.items():
            box = piece.info.bounds
            for axis, number in enumerate(self.blocks.place(index)):
                window = (box.start[axis], box.stop[axis])
                known, other = found[axis].setdefault(number, (window, index))
                if window != known:
                    raise VolumeError(
                        f"{self._called(other)} holds {known[0]}-{known[1]} in {'zyx'[axis]} and "
                        f"{self._called(index)} beside it {window[0]}-{window[1]}; blocks in a row must agree"
                    )
        return [
            [
                found[axis][i][0] if i in found[axis] else nominal
                for i, nominal in enumerate(self.blocks.windows[axis])
            ]
            for axis in range(3)
        ]

    def _cut(self, axis: int, windows: list[Window]) -> list[int]:
        """Give where the cores begin, inside what the pieces hold, and the end of the last."""
        low, high = self.bounds.start[axis], self.bounds.stop[axis]
        wanted = cuts_between(self.blocks.windows[axis], low, high)
        for i, (one, two) in enumerate(zip(windows, windows[1:]), 1):
            if two[0] > one[1]:
                raise VolumeError(
                    f"the blocks {'zyx'[axis]}{i - 1:02d} hold {one[0]}-{one[1]} and {'zyx'[axis]}{i:02d} "
                    f"{two[0]}-{two[1]}: nothing covers {one[1]}-{two[0]}; give split a larger --overlap "
                    "(for inference, twice its patch)"
                )
            wanted[i] = min(max(wanted[i], two[0]), one[1])
        return wanted

    def read(self, box: Box | None = None) -> Chunk:
        """Give the chunk in ``box`` (default: all).

        Raises:
            BoxError: it is not inside. ChunkError, VolumeError: a block cannot be read.
        """
        box, info = box or self.info.bounds, self.info
        if box.empty or not self.bounds.contains(box):
            raise BoxError(f"box {box} is not inside the {self.bounds} that the blocks cover")
        lead = (info.channels,) if info.extra.get("ndim", 3 if info.channels == 1 else 4) == 4 else ()
        total = np.zeros((*lead, *box.shape), np.float64 if self.weights else info.dtype)
        for index, part in self._touched(box):
            values = self.pieces[index].read(part).array
            target = (..., *part.slices(box.start))
            if self.weights is None:
                total[target] = values
            else:
                total[target] += values * self._weight(index, part)
        return Chunk(
            self._rounded(total), box.start, info.voxel_size, info.layer_type, info.offsets, self._source()
        )

    def _touched(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Give the pieces that add to ``box``, each with the part where it does."""
        near = [
            [i for i, (a, b) in enumerate(w) if a < stop and b > start]
            for w, start, stop in zip(self.windows, box.start, box.stop)
        ]
        for place in itertools.product(*near):
            index = self.blocks.index(place)
            if index in self.pieces:
                own = Box(
                    vec([w[i][0] for w, i in zip(self.windows, place)]),
                    vec([w[i][1] for w, i in zip(self.windows, place)]),
                )
                yield index, own.intersect(box)

    def _weight(self, index: int, part: Box) -> NDArray[np.float64]:
        z, y, x = (
            self.weights[axis][i][start - self.windows[axis][i][0] : stop - self.windows[axis][i][0]]  # type: ignore[index]
            for axis, (i, start, stop) in enumerate(zip(self.blocks.place(index), part.start, part.stop))
        )
        return z[:, None, None] * y[:, None] * x

    def _rounded(self, total: NDArray[Any]) -> NDArray[Any]:
        kind = np.dtype(self.info.dtype)
        if self.weights is None:
            return total
        return (np.rint(total) if kind.kind in "iu" else total).astype(kind)

    def _source(self) -> dict[str, Any]:
        first = next(iter(self.pieces.values()))
        held = getattr(first, "chunk", None)
        return dict(held.source) if held is not None else {"bounds": self.bounds}


def _weights(windows: list[list[Window]]) -> list[list[NDArray[np.float64]]]:
    """Give the weights of each window along each axis; over all windows they sum to 1."""
    from segflow.inference.blend import shares

    return [shares(w, "wu") for w in windows]
