"""The values of a chunk in the dtype of a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError

MAPS = ("affinity_map", "probability_map")


def disk_dtype(chunk: Chunk) -> str:
    """Give the dtype that a new precomputed volume gets for a chunk.

    Affinities and probabilities become uint8 (q stands for q / 255); float64 and float16 become
    float32, signed labels unsigned, booleans uint8; everything else stays.
    """
    kind = chunk.dtype
    if kind.kind == "f":
        return "uint8" if chunk.layer_type in MAPS else "float32"
    if kind.kind == "b":
        return "uint8"
    if kind.kind == "i" and chunk.is_segmentation:
        return f"uint{8 * kind.itemsize}"
    return kind.name


def to_dtype(chunk: Chunk, dtype: str) -> NDArray[Any]:
    """Give the chunk's values in another dtype; what would change them is refused.

    Floats in [0, 1] become uint8 by round(255 a), uint8 becomes float as q / 255; integers only
    change their width, and floats that are all whole numbers become integers.

    Raises:
        ChunkError: values do not fit, are NaN, or there is no rule for the two dtypes.
    """
    array, target = chunk.array, np.dtype(dtype)
    if array.dtype == target:
        return array
    if array.dtype.kind == "f" and target == np.uint8:
        from segflow.image.quantize import mean_bytes

        return mean_bytes(array[np.newaxis])
    if array.dtype.kind == "f" and target.kind == "f":
        return array.astype(target)
    if array.dtype == np.uint8 and target.kind == "f" and not chunk.is_segmentation:
        return array.astype(target) / target.type(255)
    if array.dtype.kind in "iub" and target.kind in "iu":
        return _integers(array, target)
    if array.dtype.kind == "f" and target.kind in "iu" and bool((array == np.rint(array)).all()):
        return _integers(array.astype(np.int64), target)
    raise ChunkError(
        f"the chunk is {array.dtype} and the volume {target}, which does not hold it; "
        "convert the chunk or write to a volume of its dtype"
    )


def _integers(array: NDArray[Any], target: np.dtype[Any]) -> NDArray[Any]:
    if array.size and not np.can_cast(array.dtype, target, "safe"):
        limits = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise ChunkError(
                f"values from {low} to {high} do not fit into {target}; use --dtype or renumber them"
            )
    return array.astype(target)
