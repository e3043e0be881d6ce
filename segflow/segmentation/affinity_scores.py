"""Affinities against ground truth labels, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.segmentation.evaluate import labels_of

BINS = 65536
CLIP = 0.5 / 255  # half a step of 8 bits


def affinity_scores(
    affinities: Chunk,
    groundtruth: Chunk | NDArray[Any],
    thresholds: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *,
    mask: Chunk | NDArray[Any] | None = None,
    zero_is_background: bool = False,
) -> list[dict[str, Any]]:
    """Score each channel of affinities as a classifier of the edges along its offset.

    The edge of channel c joins voxel v and v + offsets[c]. It is true (1) if both have one label that is
    not 0, and known if both are labelled (not 0) and in the mask; only known edges inside the chunk count.
    Affinities are rounded once to 16 bits.

    Args:
        affinities: czyx with offsets; float in [0, 1], or uint8 (value / 255).
        groundtruth: zyx labels of the same box.
        thresholds: an edge is taken as joined if its affinity is at or above one.
        mask: zyx; edges with a voxel where it is 0 do not count.
        zero_is_background: edges of voxels labelled 0 count too, and are false.

    Returns:
        A dict for each channel: ``offset``, ``known`` (edges), ``true`` (their share), ``thresholds`` (rows
        of ``threshold``, ``precision``, ``recall``, ``f1``), ``best`` (the row of the largest F1 over all
        thresholds), ``average_precision`` (sum of precision x gain in recall), ``brier`` (mean squared
        error), ``bce`` (nats; affinities are kept half a step of 8 bits away from 0 and 1). What has no
        denominator is None.

    Raises:
        ChunkError: no offsets, other shapes, NaN or values outside [0, 1], or no known edge at all.
    """
    labels = labels_of(groundtruth, "ground truth")
    inside = None if mask is None else labels_of(mask, "mask") != 0
    _check(affinities, labels.shape, None if inside is None else inside.shape)
    found = []
    for channel, offset in enumerate(affinities.offsets or ()):
        no, yes = _histograms(affinities, channel, offset, labels, inside, zero_is_background)
        found.append({"offset": list(offset), **_scores(no, yes, thresholds)})
    if not any(row["known"] for row in found):
        raise ChunkError("no edge has ground truth: both voxels must be labelled (and in the mask)")
    return found


def _check(affinities: Chunk, *shapes: tuple[int, ...] | None) -> None:
    if affinities.array.ndim != 4 or affinities.offsets is None:
        raise ChunkError(
            f"affinities are czyx with an offset a channel, but this chunk has the shape "
            f"{affinities.shape} and {'no ' if affinities.offsets is None else ''}offsets"
        )
    if affinities.dtype != np.uint8 and affinities.dtype.kind != "f":
        raise ChunkError(f"affinities are float in [0, 1] or uint8 (value / 255), not {affinities.dtype}")
    for shape, what in zip(shapes, ("ground truth", "mask")):
        if shape is not None and shape != affinities.shape[1:]:
            raise ChunkError(
                f"the affinities have the shape {affinities.shape[1:]}, but the {what} {shape}; "
                "cut both to the same box"
            )


def _histograms(
    affinities: Chunk,
    channel: int,
    offset: Sequence[int],
    labels: NDArray[Any],
    inside: NDArray[np.bool_] | None,
    zero_is_background: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the affinities of known false and true edges, section by section."""
    counts = np.zeros(2 * BINS, np.int64)
    here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, labels.shape))
    there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, labels.shape))
    if any(s.stop <= s.start for s in here):
        return counts[:BINS], counts[BINS:]
    values = affinities.array[channel][here]
    for z in range(values.shape[0]):
        one, other = labels[here][z], labels[there][z]
        labelled = (one != 0) & (other != 0)
        true = (one == other) & labelled
        known = np.ones(one.shape, bool) if zero_is_background else labelled
        if inside is not None:
            known &= inside[here][z] & inside[there][z]
        bins = _bins(values[z][known], channel)
        counts += np.bincount(bins + BINS * true[known], minlength=2 * BINS)
    return counts[:BINS], counts[BINS:]


def _bins(values: NDArray[Any], channel: int) -> NDArray[np.int64]:
    if values.dtype == np.uint8:
        return values.astype(np.int64) * 257
    if values.size and not (values.min() >= -1e-4 and values.max() <= 1 + 1e-4):
        raise ChunkError(f"channel {channel} holds values outside [0, 1] or NaN; affinities lie in [0, 1]")
    return np.rint(np.clip(values.astype(np.float64), 0, 1) * (BINS - 1)).astype(np.int64)


def _scores(no: NDArray[np.int64], yes: NDArray[np.int64], thresholds: Sequence[float]) -> dict[str, Any]:
    known, true = int(no.sum() + yes.sum()), int(yes.sum())
    hits, taken = yes[::-1].cumsum()[::-1], (yes + no)[::-1].cumsum()[::-1]  # at or above each value

    def row(i: int, threshold: float) -> dict[str, Any]:
        inside = i < BINS
        h, n = (int(hits[i]), int(taken[i])) if inside else (0, 0)
        return {
            "threshold": threshold,
            "precision": h / n if n else None,
            "recall": h / true if true else None,
            "f1": 2 * h / (n + true) if n + true else None,
        }

    rows = [row(int(np.ceil(t * (BINS - 1) - 1e-6)), float(t)) for t in thresholds]
    if not known:
        empty = dict.fromkeys(("best", "average_precision", "brier", "bce"))
        return {"known": 0, "true": None, "thresholds": rows, **empty}
    value = np.arange(BINS) / (BINS - 1)
    safe = np.clip(value, CLIP, 1 - CLIP)
    used = taken > 0
    best = int(np.argmax(2 * hits / np.maximum(taken + true, 1)))
    precise = np.divide(hits, taken, where=used, out=np.zeros(BINS))
    return {
        "known": known,
        "true": true / known,
        "thresholds": rows,
        "best": row(best, float(value[best])) if true else None,
        "average_precision": float((precise * yes).sum() / true) if true else None,
        "brier": float((no * value**2 + yes * (1 - value) ** 2).sum() / known),
        "bce": float(-(no * np.log(1 - safe) + yes * np.log(safe)).sum() / known),
    }
