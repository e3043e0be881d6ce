"""Fragments made elsewhere may be in several pieces, anywhere: which of a part's lie outside of it too.

A fragment whose neighbours are not all known must not be merged yet. Of connected fragments the faces
of a part tell that; of others only the list of all fragments of all parts does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def gathered(parts: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Give the sorted ``ids`` of all parts, and those that are ``shared`` by several of them.

    Args:
        parts: the ids of each, every id once.

    >>> found = gathered([np.array([1, 5]), np.array([5, 7])])
    >>> found["ids"].tolist(), found["shared"].tolist()
    ([1, 5, 7], [5])
    """
    ids, counts = np.unique(np.concatenate(parts), return_counts=True)
    return {"ids": ids, "shared": ids[counts > 1]}


def outside(
    ids: NDArray[np.int64], shared: NDArray[np.int64], around: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give those of a part's ids that lie outside of it too.

    Args:
        ids: of the part.
        shared: ids that several parts of the box around it have.
        around: ids that lie outside that box too.
    """
    return ids[np.isin(ids, shared) | np.isin(ids, around)]
