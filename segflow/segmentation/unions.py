"""Sets of nodes: which there are, and what pairs connect (union-find)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import njit


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Give the different values of an array, sorted.

    By sorting: for millions of ids, most of them different, numpy's unique takes several times as long.

    >>> distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    values = np.sort(values, axis=None)
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return values[new]


def renamed(ids: NDArray[Any], known: NDArray[Any], names: NDArray[Any]) -> NDArray[Any]:
    """Give the names of ids by a sorted table; ids that it does not hold keep theirs.

    >>> renamed(np.array([5, 1, 7]), np.array([1, 5]), np.array([2, 6])).tolist()
    [6, 2, 7]
    """
    if not len(known):
        return ids
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[places] == ids, names[places], ids)


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
