"""Expected run length: how far one can follow a traced neuron before the segmentation errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.geometry import Box
from segflow.segmentation.evaluate import labels_of
from segflow.segmentation.skeleton_files import Skeleton

OUTSIDE = -1


def run_length(
    segmentation: Chunk,
    skeletons: Sequence[Skeleton],
    *,
    unit: str = "nm",
    merge_nodes: int = 1,
) -> dict[str, Any]:
    """Give the expected run length (ERL) of a segmentation along skeletons.

    An edge is *correct* if both its nodes lie in one segment that holds no other skeleton. Otherwise it
    is *omitted* (a node in segment 0), *split* (two segments), or *merged* (the segment holds nodes of
    another skeleton too). A segment's run along a skeleton is the length of its correct edges. The ERL is
    the mean run of a random point of the skeletons: sum of run^2 / length of all skeletons. That of a
    perfect segmentation is sum of L^2 / sum of L over skeletons; NERL is the ratio.

    Edges that leave the chunk do not count; what is left of a skeleton counts as one.

    Args:
        segmentation: zyx labels.
        skeletons: their nodes zyx, in ``unit``.
        unit: nm, or voxel (of the volume that the chunk lies in). Voxel i covers [i, i + 1).
        merge_nodes: a segment holds a skeleton if at least so many of its nodes lie in it.

    Returns:
        ``erl``, ``erl_truth`` and lengths ``length``, ``correct``, ``split``, ``merged``, ``omitted`` in
        ``length_unit`` (nm, or voxel where the voxel size is unknown), ``nerl``; ``skeletons``: name,
        length, erl, splits; ``merges``: segment and the skeletons in it, with nodes and a voxel each;
        ``splits``: skeleton, two segments, and the voxel (zyx, of the volume) before the split.

    Raises:
        ChunkError: nm without a voxel size, or no skeleton has an edge in the chunk.

    Januszewski et al., Nature Methods 15:605, 2018.
    """
    paths = _paths(segmentation, skeletons, unit)
    merging = _merging(paths, merge_nodes)
    bad = np.array(sorted(merging), np.int64)
    total = sum(path.length for path in paths)
    if total == 0:
        raise ChunkError(
            f"no edge of {len(skeletons)} skeletons lies in the box {segmentation.bbox}; "
            "check --skeleton-unit and the voxel size"
        )
    kinds = dict.fromkeys(("correct", "split", "merged", "omitted"), 0.0)
    each, splits, squares = [], [], 0.0
    for path in paths:
        runs, broken = path.score(bad, kinds)
        splits += broken
        squares += runs
        if path.length:
            each.append({"name": path.name, "length": path.length, "erl": runs / path.length,
                         "splits": len(broken)})  # fmt: skip
    truth = sum(path.length**2 for path in paths) / total
    return {
        "erl": squares / total, "erl_truth": truth, "nerl": squares / total / truth, "length": total, **kinds,
        "length_unit": "voxel" if segmentation.voxel_size is None else "nm",
        "skeletons": sorted(each, key=lambda row: -row["length"]),
        "merges": [
            {"segment": segment, "skeletons": sorted(held, key=lambda row: -row["nodes"])}
            for segment, held in sorted(merging.items(), key=lambda item: -sum(h["nodes"] for h in item[1]))
        ],
        "splits": splits,
    }  # fmt: skip


@dataclass
class _Path:
    """What of a skeleton lies in the chunk: segments and voxels of its nodes, its edges, their lengths."""

    name: str
    segments: NDArray[np.int64]
    voxels: NDArray[np.int64]
    edges: NDArray[np.int64]
    lengths: NDArray[np.float64]

    @property
    def length(self) -> float:
        return float(self.lengths.sum())

    def score(self, bad: NDArray[np.int64], kinds: dict[str, float]) -> tuple[float, list[dict[str, Any]]]:
        """Give the sum of squared runs and the splits; add the lengths of each kind to ``kinds``."""
        a, b = self.segments[self.edges[:, 0]], self.segments[self.edges[:, 1]]
        omitted = (a == 0) | (b == 0)
        split = ~omitted & (a != b)
        merged = ~omitted & ~split & np.isin(a, bad)
        correct = ~(omitted | split | merged)
        for kind, here in (("correct", correct), ("split", split), ("merged", merged), ("omitted", omitted)):
            kinds[kind] += float(self.lengths[here].sum())
        _, place = np.unique(a[correct], return_inverse=True)
        runs = np.bincount(place, self.lengths[correct])
        broken = [
            {"skeleton": self.name, "segments": [int(a[i]), int(b[i])],
             "zyx": self.voxels[self.edges[i, 0]].tolist()}
            for i in np.flatnonzero(split)
        ]  # fmt: skip
        return float((runs**2).sum()), broken


def _paths(segmentation: Chunk, skeletons: Sequence[Skeleton], unit: str) -> list[_Path]:
    labels = labels_of(segmentation, "segmentation")
    box = Box.of(segmentation.voxel_offset, labels.shape)
    size = segmentation.voxel_size
    if unit == "nm" and size is None:
        raise ChunkError(
            "skeletons in nm need the voxel size of the segmentation; give --voxel-size to its reader, "
            "or --skeleton-unit voxel"
        )
    voxel = np.asarray(size if size is not None else (1.0, 1.0, 1.0))
    scale = voxel if unit == "nm" else np.ones(3)
    made = []
    for skeleton in skeletons:
        voxels = np.floor(skeleton.nodes / scale + 1e-6).astype(np.int64)
        inside = np.all((voxels >= box.start) & (voxels < box.stop), axis=1)
        segments = np.full(len(voxels), OUTSIDE, np.int64)
        places = tuple((voxels[inside] - np.asarray(box.start)).T)
        segments[inside] = labels[places].astype(np.int64)
        edges = skeleton.edges[inside[skeleton.edges].all(1)]
        ends = skeleton.nodes[edges] / scale * voxel
        lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        made.append(_Path(skeleton.name, segments, voxels, edges, lengths))
    return made


def _merging(paths: Sequence[_Path], merge_nodes: int) -> dict[int, list[dict[str, Any]]]:
    """Give the segments that hold several skeletons: of each skeleton its name, nodes, and a voxel."""
    held: dict[int, list[dict[str, Any]]] = {}
    for path in paths:
        ids, first, count = np.unique(path.segments, return_index=True, return_counts=True)
        for segment, i, nodes in zip(ids.tolist(), first.tolist(), count.tolist()):
            if segment not in (0, OUTSIDE) and nodes >= merge_nodes:
                row = {"name": path.name, "nodes": nodes, "zyx": path.voxels[i].tolist()}
                held.setdefault(segment, []).append(row)
    return {segment: rows for segment, rows in held.items() if len(rows) > 1}
