"""The rules of challenges: which voxels count, and what label 0 is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError, did_you_mean
from segflow.segmentation.contingency import contingency
from segflow.segmentation.evaluate import scores_of, two_labels


@dataclass(frozen=True)
class Rules:
    """How a segmentation is compared with ground truth.

    Args:
        border: voxels of the ground truth so near to a border in their section do not count, nm.
        rand_singletons: for Rand, each 0 of the segmentation is a segment of its own; else all are one.
        voi_singletons: the same for VOI.
        keep_zero: voxels that are 0 in the ground truth count too, as one object.
    """

    border: float = 0.0
    rand_singletons: bool = False
    voi_singletons: bool = False
    keep_zero: bool = False


RULES = {
    "plain": Rules(),
    "snemi3d": Rules(rand_singletons=True, voi_singletons=True),
    "cremi": Rules(border=25.0, rand_singletons=True),
}


def rules_named(name: str) -> Rules:
    """Give the rules of that name: plain, snemi3d or cremi.

    snemi3d: zeros of the segmentation are singletons. cremi: so for Rand, for VOI they are one segment;
    ground truth within 25 nm of a border in its section does not count.

    Raises:
        UsageError: there are none.
    """
    if name not in RULES:
        raise UsageError(f"no rules '{name}'{did_you_mean(name, list(RULES))}; there are {', '.join(RULES)}")
    return RULES[name]


def score_table(
    table: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], rules: Rules, size_threshold: int = 1000
) -> dict[str, float]:
    """Score a table of overlaps (see ``evaluate.scores_of``) by the rules.

    Beside those scores it gives ``voi``, the sum of both, and ``cremi_score``, the square root of VOI
    times adapted Rand error (cremi.org/metrics).
    """
    options: dict[str, Any] = {"keep_zero": rules.keep_zero, "size_threshold": size_threshold}
    found = scores_of(*table, zero_as_singletons=rules.rand_singletons, **options)
    if rules.rand_singletons != rules.voi_singletons:
        other = scores_of(*table, zero_as_singletons=rules.voi_singletons, **options)
        found.update({key: other[key] for key in ("voi_split", "voi_merge")})
    found["voi"] = found["voi_split"] + found["voi_merge"]
    found["cremi_score"] = math.sqrt(max(found["voi"] * found["adapted_rand_error"], 0.0))
    return found


def without_borders(
    labels: NDArray[Any], border: float, voxel_size: tuple[float, ...] | None
) -> NDArray[Any]:
    """Give ground truth with 0 near borders, each section for itself, as CREMI does.

    A border voxel is one with another label beside it in y or x. It and all voxels whose Euclidean
    distance to one is at most ``border`` become 0.

    Args:
        labels: zyx integers.
        border: nm; at 0 the labels are given back as they are.
        voxel_size: zyx, nm.

    Raises:
        ChunkError: the voxel size is unknown, or the border takes every voxel.

    >>> without_borders(np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]]), 8, (40, 4, 4)).tolist()
    [[[1, 0, 0, 0, 0, 0, 0, 2]]]
    """
    if border <= 0:
        return labels
    if voxel_size is None:
        raise ChunkError(
            f"a border of {border:g} nm needs the voxel size of the ground truth; "
            "give --voxel-size to its reader"
        )
    import edt

    result = labels.copy()
    for section in result:
        near = _beside_another(section)
        distance = edt.edt(np.ascontiguousarray(~near), anisotropy=voxel_size[1:], black_border=False)
        section[distance <= border * (1 + 1e-6)] = 0  # rounding of 32-bit distances
    if labels.any() and not result.any():
        raise ChunkError(
            f"a border of {border:g} nm takes every voxel of the ground truth; is the voxel size "
            f"{tuple(voxel_size)} nm right?"
        )
    return result


def _beside_another(section: NDArray[Any]) -> NDArray[np.bool_]:
    found = np.zeros(section.shape, bool)
    down, right = section[1:] != section[:-1], section[:, 1:] != section[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def evaluate_by(
    segmentation: Chunk, groundtruth: Chunk, rules: Rules, size_threshold: int = 1000
) -> dict[str, float]:
    """Score a segmentation against ground truth by the rules: the scores of ``score_table``.

    Raises:
        ChunkError: as ``evaluate`` and ``without_borders``.
    """
    seg, truth = two_labels(segmentation, groundtruth)
    truth = without_borders(truth, rules.border, groundtruth.voxel_size or segmentation.voxel_size)
    return score_table(contingency(truth, seg), rules, size_threshold)
