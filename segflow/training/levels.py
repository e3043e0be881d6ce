"""Grey levels of the volumes of a training, for its model file."""

from __future__ import annotations

from collections.abc import Sequence

from segflow.inference.levels import Levels, describe, share, windows
from segflow.training.sources import Volume


def training_levels(volumes: Sequence[Volume]) -> Levels | None:
    """Describe the images of a training by up to 32 of their sections, spread over all volumes.

    Volumes that are not in memory are read window by window (1 x 512 x 512 voxels). See
    segflow.inference.levels for what is kept.

    Raises:
        VolumeError: a volume cannot be read.
    """
    found = []
    for volume, count in zip(volumes, share([v.shape for v in volumes])):
        image = volume.image
        one = describe(lambda box, image=image: image.read(box.start, box.shape),  # type: ignore[misc]
                       windows(volume.shape, count))  # fmt: skip
        if one is not None:
            found.append(one)
    if not found:
        return None
    skews = sorted(float(levels["skew"]) for levels in found)
    rows = [row for levels in found for row in levels["sections"]]
    return {"sections": rows, "skew": skews[len(skews) // 2]}
