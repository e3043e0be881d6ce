"""A volume of affinities becomes volumes of segments, block by block, as a job that can be restarted.

The stages are those of ``segflow.blocks.exact``, then for each threshold ``write-T``. With rules of
size, which come last and look at final segments: ``sizes-T`` (a table a block), ``contacts-T`` (of small
segments, a block) and ``rules-T`` (all together).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.blocks import sizes
from segflow.blocks.boxtree import BoxTree
from segflow.blocks.exact import Exact, label
from segflow.blocks.inputs import place_of
from segflow.blocks.ledger import Stage, WorkFolder, fingerprint
from segflow.blocks.mask import Mask
from segflow.blocks.output import Output
from segflow.blocks.segment_inputs import open_affinities, open_fragments
from segflow.chunk import Chunk
from segflow.compiled import keep_memory
from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box, Grid, Vec, vec
from segflow.segmentation.affinities import as_fraction, byte_limits, nearest_bytes
from segflow.volumes.base import VolumeInfo
from segflow.volumes.lazy import open_lazy

log = logging.getLogger("segflow")

JOB = "segment-volume"


@dataclass(frozen=True)
class Options:
    """What a segmentation depends on; kept in the work folder, so that other processes can join.

    Args:
        affs: volume of affinities; dataset, mip, channel_order, voxel_size: see ``open_lazy``.
        out: volume for the segments; ``{threshold}`` in it is replaced, and with several thresholds
            ``-T`` is added where it is missing.
        block_size: voxels, zyx.
        thresholds: as words: merge while 1 - mean affinity is below.
        low, high: limits of the watershed, in [0, 1].
        mask: volume in which 0 is not segmented, at the affinities' mip or coarser.
        fragments: volume of fragments made elsewhere.
        quantile: merge by this percentile of the affinities in place of the mean.
        join_small, dust: segments of fewer voxels join their best neighbour; are removed.
        dtype, encoding, chunk_size: of new output volumes.
    """

    affs: str
    out: str
    block_size: Vec
    thresholds: tuple[str, ...] = ("0.7",)
    low: float = 0.0001
    high: float = 0.9999
    dataset: str | None = None
    mip: int = 0
    channel_order: str | None = None
    voxel_size: tuple[float, float, float] | None = None
    mask: str | None = None
    fragments: str | None = None
    quantile: int | None = None
    join_small: int = 0
    dust: int = 0
    dtype: str | None = None
    encoding: str | None = None
    chunk_size: Vec = (64, 64, 64)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Options:
        """Read what ``asdict`` gave, from JSON."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**known)

    @property
    def folder(self) -> str:
        """The output without the threshold: the work folder lies beside it."""
        return self.out.replace("-{threshold}", "").replace("{threshold}", "").rstrip("/")

    def output(self, threshold: str) -> str:
        """Give the volume of one threshold."""
        if "{threshold}" in self.out:
            return self.out.replace("{threshold}", threshold)
        return f"{self.out.rstrip('/')}-{threshold}" if len(self.thresholds) > 1 else self.out


class SegmentVolume:
    """The job: its inputs, stages and outputs.

    Args:
        work: the work folder.
        options: what is wanted.
        provenance: kept with the outputs.
        until: how far is merged; default: to the largest threshold.

    Raises:
        UsageError, VolumeError, ChunkError: options or inputs that do not go together.
    """

    def __init__(
        self,
        work: WorkFolder,
        options: Options,
        provenance: dict[str, Any] | None = None,
        until: Fraction | None = None,
    ) -> None:
        self.work, self.options, self.provenance = work, options, provenance
        self.affs = open_affinities(
            options.affs, dataset=options.dataset, mip=options.mip, channel_order=options.channel_order,
            voxel_size=options.voxel_size,
        )  # fmt: skip
        self.mask = Mask(open_lazy(options.mask), self.info) if options.mask else None
        self.fragments = open_fragments(options.fragments, self.info) if options.fragments else None
        self.thresholds = {t: threshold_of(t) for t in options.thresholds}
        self.tree = BoxTree(Box((0, 0, 0), self.info.bounds.shape), vec(options.block_size))
        low, high = byte_limits(options.low, options.high)
        self.exact = Exact(
            self.tree,
            self.tree.bounds.shape,
            self.read,
            self.load,
            low,
            high,
            until or max(self.thresholds.values()),
            self.read_fragments if self.fragments else None,
            options.quantile,
            self.info.bounds.start,
        )
        for threshold in self.thresholds:
            self._check_output(self.output(threshold))
        keep_memory()

    @property
    def info(self) -> VolumeInfo:
        """The affinities' header."""
        return self.affs.info

    @cached_property
    def segments_info(self) -> VolumeInfo:
        """The header of the segments."""
        return replace(
            self.info, dtype=self.options.dtype or "uint64", channels=1, layer_type="segmentation",
            offsets=None, mip=0, mips=1, extra={},
        )  # fmt: skip

    @cached_property
    def limit(self) -> int:
        """The largest id that all outputs hold."""
        return min(self._limit(self.output(threshold)) for threshold in self.thresholds)

    def output(self, threshold: str) -> Output:
        """Give where the segments at a threshold go."""
        options = self.options
        more = {"encoding": options.encoding, "block_size": options.chunk_size}
        return Output(options.output(threshold), False, options.dtype, more, self.provenance)

    def _check_output(self, output: Output) -> None:
        options = self.options
        for path in (options.affs, options.mask, options.fragments):
            if path and place_of(path) == place_of(output.path):
                raise UsageError(f"{path} is read, and cannot be where the segments go too")
        output.check(self.segments_info)
        largest, limit = self.info.bounds.voxels, self._limit(output)
        if self.fragments is None and largest > limit:
            raise VolumeError(
                f"segments are numbered by voxels, up to {largest}, and {output.path} holds {limit}; use a "
                "volume of uint64"
            )
        output.check_chunks(self.info.bounds, options.block_size, self.segments_info)

    def _limit(self, output: Output) -> int:
        """Give the largest id that an output holds."""
        info = output.found() or self.segments_info
        return int(np.iinfo(info.dtype).max)

    # -- what is read -----------------------------------------------------------------------

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give the affinities of a box, masked; uint8 (3, z, y, x), channels z, y, x."""
        affs = nearest_bytes(self.affs.read(box.shift(self.info.bounds.start)))
        return affs if self.mask is None else self.mask.cut_off(affs, box.shift(self.info.bounds.start))

    def read_fragments(self, box: Box) -> NDArray[np.int64]:
        """Give the fragments made elsewhere, 0 where the mask is."""
        from segflow.segmentation.agglomerate import exact_fragments

        place = box.shift(self.info.bounds.start)
        ids = exact_fragments(self.fragments.read(place), box.shape)  # type: ignore[union-attr]
        if ids.max() > self.limit:
            raise ChunkError(
                f"the fragments hold the label {ids.max()} and the output no more than {self.limit}"
            )
        return ids if self.mask is None else np.where(self.mask.read(place), ids, 0)

    def load(self, stage: str, block: int, *names: str) -> Mapping[str, NDArray[Any]]:
        """Read a result; labels are stored compressed."""
        found = self.work.load(stage, block, *(*names, *(("shape",) if "labels" in names else ())))
        if "labels" in found:
            from imagecodecs import zstd_decode

            flat = np.frombuffer(zstd_decode(found["labels"].tobytes()), np.uint32)
            found["labels"] = flat.reshape(found["shape"])
        return found

    # -- stages -----------------------------------------------------------------------------

    def stages(self) -> list[Stage]:
        """Give all stages, each after those it needs."""
        return [*self.graph_stages(), *(s for t in self.thresholds for s in self.volume_stages(t))]

    def graph_stages(self) -> Iterator[Stage]:
        """Give the stages up to the merged graph."""
        options = self.options
        key: dict[str, Any] = {"affs": fingerprint(_named(options.affs, options.dataset), options.mip)}
        key |= {name: fingerprint(path) for name in ("mask", "fragments") if (path := getattr(options, name))}
        key |= {"channel_order": options.channel_order}
        for stage in self.exact.stages(key):
            yield replace(stage, run=self._packed) if stage.name == "fragments" else stage

    def _packed(self, block: int) -> Mapping[str, NDArray[Any]]:
        from imagecodecs import zstd_encode

        found = dict(self.exact.fragments(block))
        labels = np.ascontiguousarray(found["labels"])
        found["labels"] = np.frombuffer(zstd_encode(labels.tobytes(), level=1), np.uint8)
        return {**found, "shape": np.array(labels.shape)}

    def volume_stages(self, word: str) -> Iterator[Stage]:
        """Give the stages that write the segments at a threshold."""
        options, threshold = self.options, self.thresholds[word]
        name = label(threshold)
        last = f"segments-{name}-0"
        yield from self.exact.cut(threshold)
        if options.join_small or options.dust:
            rules = sizes.Rules(self.exact, self.load, threshold, options.join_small, options.dust)
            yield from rules.stages()
            last = f"rules-{name}"
        made = {"output": options.output(word), "dtype": options.dtype}
        yield self.exact.stage(f"write-{name}", 0, partial(self.write, word), (last,), made)

    def segmented(self, threshold: Fraction, block: int) -> NDArray[np.uint64]:
        """Give the final segments of a block."""
        found = self.exact.segmented(threshold, block)
        if not (self.options.join_small or self.options.dust):
            return found
        return sizes.apply(found, self.load(f"rules-{label(threshold)}", 0))

    def write(self, word: str, block: int) -> Mapping[str, NDArray[Any]]:
        """Write a block into the volume of a threshold."""
        segments = self.segmented(self.thresholds[word], block)
        output = self.output(word)
        volume = output.ready(self.segments_info)
        start = self.tree.box(0, block).shift(self.info.bounds.start).start
        volume.write(Chunk(segments, start, self.info.voxel_size, "segmentation"))
        return {}

    def finish(self) -> None:
        """Keep with each output how it was made."""
        for threshold in self.thresholds:
            self.output(threshold).note()

    def begin(self, stale: str = "fail") -> list[Stage]:
        """Record the job in its work folder; give its stages."""
        stages = self.stages()
        grid, bounds = Grid.over(self.info.bounds, self.options.block_size), self.info.bounds
        self.work.begin(JOB, self._record(), stages, grid=grid, bounds=bounds, stale=stale)
        for stage in stages:
            written = "output" in stage.key and self.work.done(stage.name)
            if written and Output(stage.key["output"]).gone():
                self.work.remove(stage.name)
        return stages

    def _record(self) -> dict[str, Any]:
        return {"segmentation": asdict(self.options), "provenance": self.provenance}

    @classmethod
    def joined(cls, work: WorkFolder) -> SegmentVolume:
        """Give the job of a work folder.

        Raises:
            VolumeError: there is none, or of another command.
        """
        options, provenance = _recorded(work)
        return cls(work, options, provenance)


class Relabel(SegmentVolume):
    """The job that cuts a merged volume at another threshold.

    Args:
        work: the work folder of the job that merged it.
        threshold: as a word.
        out: volume for the segments.
        provenance: kept with it.

    Raises:
        UsageError: the threshold is above that of the merging.
    """

    def __init__(
        self, work: WorkFolder, threshold: str, out: str, provenance: dict[str, Any] | None = None
    ) -> None:
        self.merged, _ = _recorded(work)
        self.outputs = {self.merged.output(word): threshold_of(word) for word in self.merged.thresholds}
        if self.outputs.get(out, threshold_of(threshold)) != threshold_of(threshold):
            raise UsageError(f"{out} holds the segments at {label(self.outputs[out])}; give another --out")
        until = max(threshold_of(word) for word in self.merged.thresholds)
        if threshold_of(threshold) > until:
            raise UsageError(
                f"{work.path} is merged up to the threshold {label(until)}; for {threshold} run "
                "segment-volume with that threshold"
            )
        super().__init__(work, replace(self.merged, thresholds=(threshold,), out=out), provenance, until)

    def stages(self) -> list[Stage]:
        """Give the stages that cut and write."""
        (word,) = self.thresholds
        *cut, write = self.volume_stages(word)
        if self.options.out not in self.outputs:
            mark = hashlib.sha256(self.options.out.encode()).hexdigest()[:6]
            write = replace(write, name=f"{write.name}-in-{mark}")
        return [*cut, write]

    def _record(self) -> dict[str, Any]:
        return dict(self.work.plan()["options"])


def _recorded(work: WorkFolder) -> tuple[Options, dict[str, Any] | None]:
    plan = work.plan()
    if plan["job"] != JOB:
        raise VolumeError(f"{work.path} is the work folder of {plan['job']}, not of {JOB}")
    return Options.of(plan["options"]["segmentation"]), plan["options"]["provenance"]


def threshold_of(word: str) -> Fraction:
    """Give the threshold that a word means.

    Raises:
        UsageError: it is no decimal number in [0, 1].
    """
    if "/" in word:  # words stand in names of volumes
        raise UsageError(f"the threshold '{word}' is no decimal number; write it as 0.7")
    threshold = as_fraction(word)
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold {word} is not in [0, 1]")
    return threshold


def _named(path: str, dataset: str | None) -> str:
    return f"{path}:{dataset}" if dataset and path.endswith((".h5", ".hdf5", ".hdf", ".he5")) else path
