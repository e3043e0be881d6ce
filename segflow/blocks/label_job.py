"""Blocks of labels become one volume as a job: two steps that can be restarted.

``pool``: the stage ``count`` leaves a table a block, and ``pool`` makes of all of them
``WORK/pool/files/pool.npy``, the ID pool: rows block, label, global label (uint64), sorted.
``apply``: every block is relabelled and written into a volume. What a block writes is whole chunks
of the volume, so no two blocks write one chunk. A file is written whole, from all blocks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks.cut import Blocks, Source
from segflow.blocks.disk import whole
from segflow.blocks.join import Joined
from segflow.blocks.labels import Arrays, Segments, aligned, count_block, match, relabelled
from segflow.blocks.ledger import Stage, WorkFolder, fingerprint, work_dir_of
from segflow.blocks.output import Output
from segflow.blocks.overlap import Matching
from segflow.blocks.pool import Guards, pool_dtype
from segflow.blocks.runner import Counts, run_stages
from segflow.errors import SegflowError, UsageError, VolumeError
from segflow.progress import bar
from segflow.volumes.copy import copy_to_file
from segflow.volumes.files import reading

log = logging.getLogger("segflow")

STEPS = {"pool": ("count", "pool"), "apply": ("apply",), None: ("count", "pool", "apply")}


class LabelJob:
    """The stages of ``merge-blocks --labels``.

    Args:
        work: the work folder.
        segments: the blocks.
        matching: how labels are matched.
        output: where the labels go; None: only the step ``pool`` is wanted.
    """

    def __init__(
        self, work: WorkFolder, segments: Segments, matching: Matching, output: Output | None
    ) -> None:
        self.work, self.segments, self.matching, self.output = work, segments, matching, output

    def stages(self) -> list[Stage]:
        """Give the stages of both steps; ``STEPS`` tells which belong to which."""
        matching, blocks = self.matching, self.segments.blocks
        rule = asdict(matching) | {"count_in": matching.where, "neighbours": matching.reach}
        where = {name: rule.pop(name) for name in ("count_in", "neighbours", "margin")}
        where |= {"compared": matching.rule != "none"}
        count = {"files": inputs_of(self.segments), "windows": blocks.windows, **where}
        boxes = list(blocks)
        stages = [
            Stage("count", len(blocks), self._count, key=count, boxes=boxes),
            Stage("pool", 1, self._pool, after=("count",), key=rule),
        ]
        if self.output is None:
            return stages
        made: dict[str, Any] = {
            "output": self.output.path,
            "mip": self.output.mip,
            "dtype": self.output.dtype,
        }
        made["options"] = dict(self.output.options)
        if self.output.is_file:
            return [*stages, Stage("apply", 1, self._write_file, after=("pool",), key=made)]
        return [*stages, Stage("apply", len(blocks), self._apply, after=("pool",), key=made, boxes=boxes)]

    def _count(self, index: int) -> Arrays:
        return count_block(self.segments, index, self.matching)

    def _pool(self, _: int) -> Arrays:
        pool, guards = match(len(self.segments.blocks), lambda i: self.work.load("count", i), self.matching)
        with whole(self.work.file("pool", "pool.npy")) as beside, beside.open("wb") as file:
            np.save(file, pool)
        return {each.name: np.array(getattr(guards, each.name)) for each in fields(guards)}

    def guards(self) -> Guards:
        """Give what the guards told when the pool was made."""
        return Guards(**{name: value.item() for name, value in self.work.load("pool", 0).items()})

    @cached_property
    def pool(self) -> NDArray[np.uint64]:
        """The ID pool, mapped into memory; VolumeError if it is broken."""
        path = self.work.file("pool", "pool.npy")
        with reading(path):
            pool: NDArray[np.uint64] = np.load(path, mmap_mode="r")
        return pool

    @cached_property
    def _target(self) -> tuple[Joined, Output]:
        """The labels, to be read box by box, with a dtype that holds them all; and where they go.

        Raises:
            ChunkError: the labels do not fit into the dtype that is asked for, or is there.
        """
        if self.output is None:
            raise UsageError("name the output with --file-name or --volume-path")
        there = self.output.found()
        dtype = pool_dtype(self.pool, there.dtype if there else self.output.dtype)
        return relabelled(self.segments, self.pool, dtype), self.output

    @cached_property
    def _volume(self) -> Any:
        joined, output = self._target
        return output.ready(joined.info)

    def _apply(self, index: int) -> None:
        joined, output = self._target
        info = self._volume.info(output.mip)
        core, bounds = self.segments.core(index), self.segments.bounds
        box = aligned(core, bounds, info.block_size or (1, 1, 1), info.bounds.start)
        if not box.empty:
            self._volume.write(joined.read(box), output.mip)

    def _write_file(self, _: int) -> None:
        joined, output = self._target
        copy_to_file(joined, output.path, provenance=output.provenance)


def inputs_of(segments: Segments) -> dict[str, Any]:
    """Tell these blocks from others, and from themselves after a change, by their files' sizes and times."""
    marks = [fingerprint(piece.info.path) for piece in segments.pieces.values()]
    text = json.dumps([sorted(segments.pieces), marks], sort_keys=True)
    size = sum(mark.get("bytes", 0) for mark in marks)
    return {"count": len(marks), "bytes": size, "hash": hashlib.sha256(text.encode()).hexdigest()[:16]}


def merge_labels(
    blocks: Blocks,
    pieces: Mapping[int, Source],
    output: Output | None,
    matching: Matching | None = None,
    *,
    work_dir: str | None = None,
    step: str | None = None,
    stale: str = "fail",
) -> Counts:
    """Join blocks of labels that are files, in a work folder; what was done by earlier runs is kept.

    Several processes may do it at once.

    Args:
        blocks: the grid.
        pieces: what each block holds, by its number.
        output: where the labels go; the step ``pool`` can do without.
        matching: how labels are matched; None: as the pool that is there was made, else the default.
        work_dir: the work folder; default: beside the output, ``.work`` added to its name.
        step: ``pool`` or ``apply``; None is both.
        stale: what happens to results of other parameters or files: fail, redo or keep.

    Returns:
        how many blocks were computed, by stage.

    Raises:
        UsageError: results of another job or other parameters are there; blocks do not overlap.
        ChunkError: blocks that differ, or are no labels; labels do not fit the dtype.
        VolumeError: something cannot be read or written; the output disagrees with the blocks.
        SegflowError: a block failed; or the step ``apply`` without a pool.
    """
    if output is None and (step != "pool" or work_dir is None):
        raise UsageError("name the output with --file-name or --volume-path (--stage pool: or --work-dir)")
    work = WorkFolder(work_dir or work_dir_of(output.path if output else ""))
    if matching is None:
        matching = _recorded(work) if step == "apply" else Matching()
    segments = Segments(blocks, pieces)
    segments.check_overlap(matching)
    if output is not None:
        output.check(segments.joined.info)
    job = LabelJob(work, segments, matching, output)
    stages = job.stages()
    work.begin("merge-blocks", {"matching": asdict(matching)}, stages, bounds=segments.bounds, stale=stale)
    if step == "apply" and not work.complete("pool"):
        raise SegflowError(f"there is no ID pool in {work.path}; run --stage pool first, or both")
    if output is not None and step != "pool" and output.gone():
        work.remove("apply")
    wanted = [stage for stage in stages if stage.name in STEPS[step]]
    with bar(sum(stage.count for stage in wanted), "blocks") as tick:
        counts = run_stages(work, wanted, tick=tick)
    log.info("%s", job.guards())
    if output is not None and step != "pool":
        output.note()
    return counts


def _recorded(work: WorkFolder) -> Matching:
    """Give the matching of the pool that is there.

    Raises:
        SegflowError: there is none.
    """
    try:
        told = work.plan()["options"]["matching"]
    except (VolumeError, KeyError):
        raise SegflowError(f"there is no ID pool in {work.path}; run --stage pool first, or both") from None
    return Matching(**told)
