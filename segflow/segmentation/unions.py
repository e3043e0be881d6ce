"""Union-find: what pairs connect."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit


@njit()
def find(parent: NDArray[Any], node: int) -> int:
    """Give the root of a node, and halve the way there."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def united(count: int, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    """Give for each of ``count`` nodes the smallest that it is connected with.

    >>> united(4, np.array([3]), np.array([1])).tolist()
    [0, 1, 2, 1]
    """
    return _united(count, np.asarray(first, np.int64), np.asarray(second, np.int64))  # type: ignore[no-any-return]


@njit()
def _united(count: int, first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    parent = np.arange(count)
    for i in range(first.size):
        a, b = find(parent, first[i]), find(parent, second[i])
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(count):
        parent[node] = parent[parent[node]]  # the parent is smaller, so it is done
    return parent
