"""Tasks made from sizes: the boxes that a volume, a region or a grid is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segflow.errors import UsageError
from segflow.geometry import Box, Grid, Vec, vec, words


@dataclass(frozen=True)
class Tasks:
    """The boxes of a grid, some or all of them; ``clip`` is the region that none goes beyond.

    ``indices`` are places in the whole grid, which keep their meaning when it is done in parts.
    """

    grid: Grid
    indices: range
    clip: Box | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, Box]]:
        return ((index, self.box(index)) for index in self.indices)

    def box(self, index: int) -> Box:
        """Give the box at ``index`` of the whole grid."""
        box = self.grid[index]
        return box if self.clip is None else box.intersect(self.clip)


def make_tasks(
    bounds: Box | None = None,
    *,
    roi_start: Sequence[int] | None = None,
    roi_stop: Sequence[int] | None = None,
    roi_size: Sequence[int] | None = None,
    bounding_box: Box | None = None,
    chunk_size: Sequence[int] | None = None,
    grid_size: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    overlap: Sequence[int] | None = None,
    aligned_block_size: Sequence[int] | None = None,
    respect_chunk_size: bool = True,
    index_start: int = 0,
    index_stop: int | None = None,
) -> Tasks:
    """Cut a region into boxes.

    The region is ``bounding_box``, or what ``roi_start``, ``roi_stop`` and ``roi_size`` say; what
    they leave open comes from ``bounds``. Boxes begin at its start (without a region: at 0 0 0),
    every ``stride``, as many as cover it, or ``grid_size`` of them. All in voxels, zyx.

    Args:
        bounds: of the volume, if there is one.
        roi_start: first voxel of the region.
        roi_stop: the voxel after its last.
        roi_size: its size, instead of its stop.
        bounding_box: the region.
        chunk_size: size of a box; default: the region.
        grid_size: number of boxes along each axis; default: the fewest that cover the region.
        stride: voxels from box to box; default: ``chunk_size`` - ``overlap``.
        overlap: voxels that neighbours share; default: 0.
        aligned_block_size: grow the region to whole blocks, counted from ``bounds``, else from 0 0 0.
        respect_chunk_size: all boxes are of ``chunk_size``, else they end with the region.
        index_start: first box, of all in raster order.
        index_stop: the box after the last.

    Raises:
        UsageError: sizes that contradict each other, or none.

    >>> tasks = make_tasks(Box((0, 0, 0), (30, 64, 64)), chunk_size=(20, 64, 64), overlap=(4, 0, 0))
    >>> [str(box) for _, box in tasks]
    ['0-20_0-64_0-64', '16-36_0-64_0-64']
    """
    region = region_from(bounds, roi_start, roi_stop, roi_size, bounding_box)
    origin = bounds.start if bounds is not None else (0, 0, 0)
    if region is not None and aligned_block_size is not None:
        region = region.snap(_positive("aligned block size", aligned_block_size), origin)
    grid = _grid(region, vec(roi_start or (0, 0, 0)), chunk_size, grid_size, stride, overlap)
    start = vec([a - o for a, o in zip(grid.start, origin)])
    for name, numbers in (("start", start), ("chunk size", grid.size), ("stride", grid.stride)):
        if any(n % b for n, b in zip(numbers, aligned_block_size or (1, 1, 1))):
            raise UsageError(
                f"the {name} {words(numbers)} is not whole blocks of {words(aligned_block_size or ())}"
            )
    clip = None if respect_chunk_size else region
    if clip is not None and grid[len(grid) - 1].intersect(clip).empty:
        raise UsageError(f"a grid of {words(grid.counts)} goes beyond {clip}; give a smaller --grid-size")
    return Tasks(grid, _indices(len(grid), index_start, index_stop), clip)


def _grid(
    region: Box | None,
    start: Vec,
    chunk_size: Sequence[int] | None,
    grid_size: Sequence[int] | None,
    stride: Sequence[int] | None,
    overlap: Sequence[int] | None,
) -> Grid:
    extent = chunk_size if chunk_size is not None or region is None else region.shape
    if extent is None or (region is None and grid_size is None):
        raise UsageError(
            "nothing says which region: give --volume-path, --roi-stop or --roi-size, --bounding-box, "
            "or --grid-size with --chunk-size"
        )
    size = _positive("chunk size", extent)
    step = _stride(size, stride, overlap, grid_size)
    if grid_size is not None:
        return Grid(region.start if region else start, size, step, _positive("grid size", grid_size))
    return Grid.over(region or Box(start, start), size, step)


def region_from(
    bounds: Box | None,
    start: Sequence[int] | None = None,
    stop: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    box: Box | None = None,
) -> Box | None:
    """Give the region that is told by ``box``, or by a start and a stop or size; None if nothing is.

    What is left open comes from ``bounds``; a start without them is 0 0 0.

    Raises:
        UsageError: a contradiction, an empty region, or one wholly outside ``bounds``.
    """
    if box is not None:
        if not (start is stop is size is None):
            raise UsageError("the bounding box is the whole region; leave out its start, stop and size")
        region = box
    else:
        begin = vec(start if start is not None else bounds.start if bounds is not None else (0, 0, 0))
        if stop is None and size is None:
            if bounds is None:
                return None
            region = Box(begin, bounds.stop)
        else:
            region = Box.of(begin, size) if size is not None else Box(begin, vec(stop or ()))
            if stop is not None and region.stop != vec(stop):
                raise UsageError(f"by its size the region ends at {words(region.stop)}, not at {words(stop)}")
    if region.empty:
        raise UsageError(f"the region {region} is empty; every stop must be greater than its start")
    if bounds is not None and region.intersect(bounds).empty:
        raise UsageError(f"the region {region} is wholly outside the volume's {bounds}")
    return region


def _stride(
    size: Vec, stride: Sequence[int] | None, overlap: Sequence[int] | None, grid_size: Sequence[int] | None
) -> Vec:
    if stride is not None and overlap is not None:
        raise UsageError("--stride and --overlap say the same; give one of them")
    if stride is None:
        step = vec([s - o for s, o in zip(size, overlap or (0, 0, 0))])
        if min(step) < 1 or min(overlap or (0,)) < 0:
            raise UsageError(
                f"the overlap {words(overlap or ())} must be 0 to less than the chunk {words(size)}"
            )
        return step
    counts = grid_size or (2, 2, 2)
    if any(d < 0 or (d == 0 and n > 1) for d, n in zip(stride, counts)):
        raise UsageError(
            f"with a stride of {words(stride)} the chunks would not move on; give positive numbers"
        )
    return vec(stride)


def _indices(count: int, start: int, stop: int | None) -> range:
    end = count if stop is None else min(stop, count)
    if not 0 <= start < end:
        raise UsageError(
            f"there are {count} tasks, 0 to {count - 1}; --task-index-start {start} and "
            f"--task-index-stop {end if stop is None else stop} leave none"
        )
    return range(start, end)


def _positive(name: str, numbers: Sequence[int]) -> Vec:
    if min(numbers) < 1:
        raise UsageError(f"the {name} {words(numbers)} must be positive")
    return vec(numbers)
