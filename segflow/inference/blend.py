"""Put patches together: separable weights that sum to one, added up slab by slab.

The answer is sum(w * patch) / sum(w). Since w is an outer product of one bump per axis and the
patches stand on a product grid, sum(w) is an outer product too: dividing each bump by its axis's
sum (in float64) leaves nothing to divide at the end, and needs no volume of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import cores, njit
from segflow.errors import UsageError
from segflow.geometry import Box, Vec
from segflow.inference.patches import Layout

MANY = 8  # patches that meet in a voxel: up to half of each axis overlaps
Weights = list[NDArray[np.float32]]


def _wu(u: NDArray[np.float64]) -> NDArray[np.float64]:
    w = np.exp(-1 / (1 - u * u))
    return 1e-6 + w / w.max()


def _gaussian(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-8 * u * u)


BUMPS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "wu": _wu,
    "gaussian": _gaussian,
    "flat": np.ones_like,
}


def bump(kind: str, size: int) -> NDArray[np.float64]:
    """Give the weights along one axis of a patch, before they are normalised.

    ``wu`` is exp(-1 / (1 - u^2)), ``gaussian`` has a standard deviation of an eighth of the patch,
    ``flat`` is 1; u runs from -1 to 1 outside the first and the last voxel.

    Raises:
        UsageError: there is no such bump.

    >>> bump("flat", 3).tolist()
    [1.0, 1.0, 1.0]
    """
    if kind not in BUMPS:
        raise UsageError(f"--bump '{kind}' is not built; choose {', '.join(BUMPS)}")
    return BUMPS[kind](2 * np.arange(1, size + 1) / (size + 1) - 1)


def axis_weights(layout: Layout, kind: str = "wu") -> list[Weights]:
    """Give, for each axis, the weights of each patch: float32, of the output patch's size.

    Over all patches that cover a voxel they sum to 1.
    """
    return [[w.astype(np.float32) for w in shares(layout.windows(axis), kind)] for axis in range(3)]


def shares(windows: Sequence[tuple[int, int]], kind: str = "wu") -> list[NDArray[np.float64]]:
    """Give the weights of windows (begin, end) along one axis: bumps that together sum to 1.

    >>> [w.tolist() for w in shares([(0, 2), (1, 3)], "flat")]
    [[1.0, 0.5], [0.5, 1.0]]
    """
    first = min(b for b, _ in windows)
    total = np.zeros(max(e for _, e in windows) - first)
    for begin, end in windows:
        total[begin - first : end - first] += bump(kind, end - begin)
    return [bump(kind, e - b) / total[b - first : e - first] for b, e in windows]


@cache
def workers() -> tuple[ThreadPoolExecutor, int]:
    """Give a pool of one thread a core that this process may use, and their number."""
    count = cores()
    return ThreadPoolExecutor(count, thread_name_prefix="blend"), count


@njit()
def _add(
    total: Any, patch: Any, wz: Any, wy: Any, wx: Any, low: Vec, high: Vec, place: Vec
) -> None:  # pragma: no cover
    """Add the part ``low`` to ``high`` of a weighted patch to ``total``, whose ``place`` is low's."""
    span = high[2] - low[2]
    weights = wx[low[2] : high[2]]
    for c in range(total.shape[0]):
        for z in range(low[0], high[0]):
            for y in range(low[1], high[1]):
                w = wz[z] * wy[y]
                row = total[c, z - low[0] + place[0], y - low[1] + place[1], place[2] : place[2] + span]
                values = patch[c, z, y, low[2] : high[2]]
                for x in range(span):
                    row[x] += w * weights[x] * values[x]


class Blender:
    """Adds patches into ``total`` (c, z, y, x), in order of z; ``finish`` says what is complete.

    Args:
        layout: where the patches lie.
        kind: the bump.
        depth: planes that ``total`` holds; by default all of the output, else a sliding slab of
            at least the output patch's depth.
    """

    def __init__(self, layout: Layout, channels: int, kind: str = "wu", depth: int | None = None) -> None:
        self.layout = layout
        self.weights = axis_weights(layout, kind)
        box = layout.output
        held = min(depth or box.shape[0], box.shape[0])
        self.total = np.zeros((channels, held, *box.shape[1:]), self.dtype(layout))
        self.first = 0  # the plane of the output that total[:, 0] is
        self.done = 0  # planes of the output that are complete

    @staticmethod
    def dtype(layout: Layout) -> type[np.floating[Any]]:
        """Give what patches are added up in: float64 where so many meet that float32 drifts."""
        return np.float32 if layout.patch.meeting <= MANY else np.float64

    def window(self, index: Sequence[int]) -> tuple[Box, Vec]:
        """Give the part of an output patch that is kept, in the patch, and its place in the output."""
        rim, patch = self.layout.patch.rim, self.layout.patch
        start = [s[i] + r for s, i, r in zip(self.layout.starts, index, rim)]
        kept = Box.of(start, patch.output).intersect(self.layout.output)
        z, y, x = (k - o for k, o in zip(kept.start, self.layout.output.start))
        return kept.shift([-s for s in start]), (z, y, x)

    def add(self, indices: Sequence[Sequence[int]], patches: NDArray[np.float32]) -> None:
        """Add a batch of output patches (b, c, z, y, x) that share their z."""
        pool, count = workers()
        ready = [np.ascontiguousarray(p, np.float32) for p in patches]
        parts = [self.window(i) for i in indices]
        low, high = parts[0][0].start[0], parts[0][0].stop[0]
        top = parts[0][1][0] - self.first
        if top < 0 or top + high - low > self.total.shape[1]:
            raise IndexError(
                f"planes {top} to {top + high - low} are not in the slab of {self.total.shape[1]}"
            )
        cuts = np.linspace(low, high, min(count, high - low) + 1).astype(int).tolist()

        def planes(begin: int, end: int) -> None:
            for index, (kept, place), patch in zip(indices, parts, ready):
                wz, wy, wx = (w[i] for w, i in zip(self.weights, index))
                _add(self.total, patch, wz, wy, wx, (begin, *kept.start[1:]), (end, *kept.stop[1:]),
                     (top + begin - low, *place[1:]))  # fmt: skip

        list(pool.map(planes, cuts[:-1], cuts[1:]))

    def complete(self, until: int) -> tuple[slice, NDArray[Any]] | None:
        """Give the planes of the output that became complete now that all before ``until`` are.

        With them, as a view, their values; ``forget`` must be called before the next ``add``.
        """
        if until <= self.done:
            return None
        planes = slice(self.done, until)
        self.done = until
        return planes, self.total[:, planes.start - self.first : until - self.first]

    @property
    def slides(self) -> bool:
        """Whether ``total`` is a slab that moves along z."""
        return bool(self.total.shape[1] < self.layout.output.shape[0])

    def skip(self, until: int) -> None:
        """Take the planes before ``until`` as complete, and zero, before anything was added."""
        self.done = max(until, 0)
        self.first = self.done if self.slides else 0

    def forget(self) -> None:
        """Make room for the next slab where ``total`` slides."""
        if not self.slides:
            return
        gone = self.done - self.first
        left = self.total.shape[1] - gone
        self.total[:, :left] = self.total[:, gone:].copy()
        self.total[:, left:] = 0
        self.first = self.done

    def host(self, values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give complete planes as another dtype."""
        return values.astype(dtype)
