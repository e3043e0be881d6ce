"""Test-time augmentation: a patch is answered in up to 16 poses, and the answers are combined.

A pose mirrors a patch in any of z, y, x and may then exchange y and x: 2 * 2 * 2 * 2 = 16, and 8
where y and x differ in size. An answer is turned back in space. That is all for a probability; an
affinity also has a direction. Channel c with offset o_c holds at voxel p the edge {p, p + o_c};
turned back by R^-1 that edge runs along o' = R^-1 o_c:

- o' is the offset of a channel c': the answer belongs to c', where it is;
- -o' is: the edge belongs to c' at its other end, so the answer is shifted by o'. At one face
  |o'| planes of c' then get nothing from this pose: it has no vote there;
- neither is: the offsets do not allow this pose, and it is left out.

For the mean, votes are counted for each voxel and channel. The shift into c' is by -o_c' whatever the
pose, so that there are two counts a channel: all poses inside, and at that face the poses that do
not shift. The pose that changes nothing never shifts: each voxel has a vote. Where o_c' points out of
the patch a network only guesses; what comes out there is what the poses that do not shift guess.

Answers are added up one by one, on the device they are on: memory does not grow with the poses.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import DEFAULT_OFFSETS
from segflow.errors import ModelError, UsageError
from segflow.geometry import Vec, vec

log = logging.getLogger("segflow")

MODES = ("mean", "min", "max")

Source = tuple[int, bool]


@dataclass(frozen=True)
class Variant:
    """One pose: the axes that are mirrored (0, 1, 2 for z, y, x), then whether y and x are exchanged.

    >>> Variant((2,), swap=True).turn(np.array([[[1, 2], [3, 4]]])).tolist()
    [[[2, 4], [1, 3]]]
    """

    flips: tuple[int, ...] = ()
    swap: bool = False

    def turn(self, array: Any) -> Any:
        """Turn an array or tensor (..., z, y, x) into this pose."""
        return self._swap(self._flip(array))

    def turn_back(self, array: Any) -> Any:
        """Turn an array or tensor (..., z, y, x) in this pose back."""
        return self._flip(self._swap(array))

    def back(self, offset: Sequence[int]) -> Vec:
        """Give where an offset (z, y, x) of this pose points once it is turned back.

        >>> Variant((2,), swap=True).back((0, -3, 0))
        (0, 0, 3)
        """
        z, y, x = offset
        turned = (z, x, y) if self.swap else (z, y, x)
        return vec([-n if axis in self.flips else n for axis, n in enumerate(turned)])

    def _flip(self, array: Any) -> Any:
        return _library(array).flip(array, [axis - 3 for axis in self.flips]) if self.flips else array

    def _swap(self, array: Any) -> Any:
        return array.swapaxes(-1, -2) if self.swap else array


def variants(square: bool = True) -> list[Variant]:
    """Give all poses, the one that changes nothing first; those that exchange y and x if ``square``.

    >>> len(variants()), len(variants(square=False)), variants()[0]
    (16, 8, Variant(flips=(), swap=False))
    """
    flips = [f for count in range(4) for f in itertools.combinations((2, 1, 0), count)]
    return [Variant(f, swap) for swap in ((False, True) if square else (False,)) for f in flips]


def sources(variant: Variant, offsets: Sequence[Sequence[int]]) -> list[Source] | None:
    """Give, for each channel, the channel of a pose's answer that holds its edges, and if shifted.

    Args:
        variant: the pose.
        offsets: of the channels: (z, y, x), voxels, either sign.

    Returns:
        For channel c a pair (channel, shifted): with ``shifted`` the answer, turned back, holds at
        voxel q the edge of c at q - offsets[c]. None if the offsets do not allow this pose.

    >>> sources(Variant((2,), swap=True), [(0, 0, -1), (0, -1, 0), (-1, 0, 0)])
    [(1, True), (0, False), (2, False)]
    >>> sources(Variant(swap=True), [(0, 0, -9)]) is None
    True
    """
    turned = [variant.back(offset) for offset in offsets]
    found: list[Source] = []
    for offset in map(vec, offsets):
        other = vec([-n for n in offset])
        if offset in turned:
            found.append((turned.index(offset), False))
        elif other in turned:
            found.append((turned.index(other), True))
        else:
            return None
    return found


def reach(offset: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the voxels u of a patch (z, y, x) whose u + offset lies in it too, and those u + offset.

    >>> reach((0, 0, -2), (4, 4, 4))[0][2], reach((0, 0, -2), (4, 4, 4))[1][2]
    (slice(2, 4, None), slice(0, 2, None))
    """
    here, there = [], []
    for o, n in zip(offset, shape):
        length = max(n - abs(o), 0)
        low = min(max(-o, 0), n)
        here.append(slice(low, low + length))
        low = min(max(o, 0), n)
        there.append(slice(low, low + length))
    return tuple(here), tuple(there)


class Augmented:
    """A backend whose answer for a patch is the combination of its answers in all poses.

    Args:
        backend: what answers for a batch (b, c, z, y, x); see segflow.inference.backends.
        mode: mean, min or max of the votes of each voxel and channel.
        offsets: of its first channels, (z, y, x); channels beyond them have no direction. None takes
            three channels for the affinities of ``DEFAULT_OFFSETS`` and any other number for
            channels without direction, which () says of all channels.
        channels: how many channels are kept; by default all that it answers.
        poses: the poses to use, that which changes nothing first; by default all that the sizes allow.

    Raises:
        UsageError: there is no such mode.
        ModelError: the network answers a turned patch in another shape.

    >>> blur = lambda batch: (batch + np.roll(batch, 1, axis=-1)) / 2
    >>> Augmented(blur)(np.float32([[[[[4, 0, 0, 0]]]]])).tolist()
    [[[[[2.0, 1.0, 0.0, 1.0]]]]]
    """

    def __init__(
        self,
        backend: Callable[[NDArray[np.float32]], Any],
        mode: str = "mean",
        *,
        offsets: Sequence[Sequence[int]] | None = None,
        channels: int | None = None,
        poses: Sequence[Variant] | None = None,
    ) -> None:
        check_mode(mode)
        self.backend, self.mode, self.channels, self.poses = backend, mode, channels, poses
        self.offsets = None if offsets is None else tuple(map(vec, offsets))

    def __call__(self, batch: NDArray[np.float32]) -> Any:
        """Answer for a batch of patches."""
        answer = self.backend(batch.copy())  # a network may write into its input
        if len(answer.shape) != 5:
            return answer  # whoever asked says what is wrong with it
        total = _copy(answer[:, : self.channels])
        shape, count = tuple(answer.shape[2:]), answer.shape[1]
        del answer
        square = batch.shape[3] == batch.shape[4] and shape[1] == shape[2]
        offsets = self._offsets(count)
        poses = self._poses(square, offsets, count)
        for variant, origin in poses[1:]:
            self._vote(total, batch, variant, origin, offsets)
        if self.mode == "mean":
            _divide(total, [origin for _, origin in poses], offsets)
        return total

    def _offsets(self, count: int) -> tuple[Vec, ...]:
        if self.offsets is None:
            return DEFAULT_OFFSETS if count == len(DEFAULT_OFFSETS) else ()
        return self.offsets[:count]

    def _poses(
        self, square: bool, offsets: tuple[Vec, ...], count: int
    ) -> list[tuple[Variant, list[Source]]]:
        """Give the poses that sizes and offsets allow, and the source of each channel."""
        plain = [(channel, False) for channel in range(len(offsets), count)]
        wanted = self.poses or variants(square)
        origins = [(variant, sources(variant, offsets)) for variant in wanted]
        found = [(v, o + plain) for v, o in origins if o is not None]
        if self.poses is None:
            _say(len(found), square, offsets)
        return found

    def _vote(
        self,
        total: Any,
        batch: NDArray[np.float32],
        variant: Variant,
        origin: list[Source],
        offsets: tuple[Vec, ...],
    ) -> None:
        """Ask the network in a pose, and add what it says to ``total`` (b, c, z, y, x)."""
        answer = self.backend(np.ascontiguousarray(variant.turn(batch)))
        shape = tuple(total.shape[2:])
        if tuple(variant.turn_back(answer).shape[2:]) != shape or len(answer.shape) != 5:
            raise ModelError(
                f"the network answers a turned patch with {tuple(answer.shape)}, and --augment needs "
                f"the shape of the patch as it is, {tuple(total.shape)}; leave --augment out"
            )
        for channel, (source, shifted) in enumerate(origin[: total.shape[1]]):
            values = variant.turn_back(answer[:, source])
            into = total[:, channel]
            if shifted:
                here, there = reach(offsets[channel], shape)
                into, values = into[(..., *here)], values[(..., *there)]
            _merge(into, values, self.mode)


def check_mode(mode: str) -> None:
    """Raise UsageError unless ``mode`` is one of MODES."""
    if mode not in MODES:
        raise UsageError(f"--augment-mode '{mode}' is unknown; choose {', '.join(MODES)}")


def _merge(into: Any, values: Any, mode: str) -> None:
    """Combine ``values`` with ``into`` in place."""
    if mode == "mean":
        into += values
    elif mode == "min":
        _library(into).minimum(into, values, out=into)
    else:
        _library(into).maximum(into, values, out=into)


def _divide(total: Any, origins: list[list[Source]], offsets: tuple[Vec, ...]) -> None:
    """Divide sums (b, c, z, y, x) by the number of votes, which is known for each channel and place."""
    for channel in range(total.shape[1]):
        still = sum(not origin[channel][1] for origin in origins)
        if still < len(origins):
            here, _ = reach(offsets[channel], total.shape[2:])
            total[(slice(None), channel, *here)] *= still / len(origins)
        total[:, channel] /= still


def _copy(values: Any) -> Any:
    """Give a contiguous copy of an array or tensor."""
    return np.array(values, np.float32) if isinstance(values, np.ndarray) else values.clone()


def _library(values: Any) -> Any:
    """Give numpy for arrays and torch for tensors: what is used of them has the same names."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


@lru_cache(maxsize=64)
def _say(count: int, square: bool, offsets: tuple[Vec, ...]) -> None:
    """Log once how often each patch is computed, and a warning where the offsets allow fewer poses."""
    possible = len(variants(square))
    why = "" if square else "; y and x of a patch differ, so that they are not exchanged"
    log.info("inference: --augment computes each patch %d times%s", count, why)
    if count < possible:
        log.warning(
            "inference: --augment uses %d of %d poses; the others turn the network's offsets %s to where "
            "it has no channel", count, possible, " ".join(str(o).replace(" ", "") for o in offsets),
        )  # fmt: skip
