"""Blocks of an HDF5 data set (shuffle, gzip), compressed in threads with libdeflate."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.compiled import cores


def pack(array: NDArray[Any], start: tuple[int, ...], size: tuple[int, ...]) -> bytes:
    """Give the block at ``start`` as HDF5 stores it: padded to ``size``, bytes by significance, deflated."""
    import imagecodecs

    part = array[tuple(slice(a, a + n) for a, n in zip(start, size))]
    if part.shape != size:
        whole = np.zeros(size, array.dtype)
        whole[tuple(slice(n) for n in part.shape)] = part
        part = whole
    values = np.ascontiguousarray(part).reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return bytes(imagecodecs.deflate_encode(values.T.tobytes(), level=1))


def write_packed(
    main: Any, array: NDArray[Any], check: Callable[[], None], at: tuple[int, ...] | None = None
) -> None:
    """Fill a data set that has the filters shuffle and gzip, or whole blocks of it.

    Args:
        main: h5py data set of the array's dtype, and shape unless ``at`` is given.
        array: what is written.
        check: called after each block; what it raises ends the writing.
        at: where in the data set, the corner of a block.
    """
    size = main.chunks
    starts = product(*(range(0, n, s) for n, s in zip(array.shape, size)))
    place = at or (0,) * array.ndim
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(starts, 4 * workers)):
            for start, data in zip(some, pool.map(lambda s: pack(array, s, size), some)):
                main.id.write_direct_chunk(tuple(s + p for s, p in zip(start, place)), data)
                check()
