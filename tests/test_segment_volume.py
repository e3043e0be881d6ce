"""segment-volume and relabel-volume: the answer of agglomerate --engine exact, whatever the blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import exact_reference as reference
import h5py
import numpy as np
import pytest
import tensorstore
from affinities import crop, gala, sections

from segflow.chunk import Chunk
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import read_h5, write_h5
from segflow.volumes.npy import write_npy

SIZE, START = (20, 40, 60), (10, 20, 30)
BLOCKS = ((20, 40, 60), (10, 20, 30), (7, 13, 41))
JOB = ("--threshold", "0.5", "--processes", 1)


@pytest.fixture(scope="module")
def affs() -> Chunk:
    """Give real affinities, 20 x 40 x 60."""
    return crop(gala(), SIZE, START)


@pytest.fixture
def file(affs, tmp_path) -> Path:
    """Give them as an h5 file."""
    write_h5(str(tmp_path / "affs.h5"), affs)
    return tmp_path / "affs.h5"


@pytest.fixture
def whole(segflow, tmp_path) -> Callable[..., np.ndarray]:
    """Give a function that segments a file at once, as a user does."""

    def run(path: Path, threshold: str = "0.5", *more: object) -> np.ndarray:
        to = tmp_path / "whole.h5"
        words = ["agglomerate", "--engine", "exact", "-t", threshold, *more]
        segflow("read-h5", "-f", path, *words, "write-h5", "-f", to)
        return read_h5(str(to)).array

    return run


@pytest.fixture
def blockwise(segflow, tmp_path) -> Callable[..., np.ndarray]:
    """Give a function that segments a volume in blocks of a size."""
    count = iter(range(1000))

    def run(path: object, block: object, *more: object) -> np.ndarray:
        out = tmp_path / f"seg{next(count)}"
        segflow("segment-volume", "--affs", path, "--out", out, "--block-size", *block, *JOB, *more)
        return open_volume(str(out)).read().array

    return run


# -- any blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(25, 50, 100), (13, 41, 67), (50, 100, 200), (7, 33, 50)])
def test_any_blocks_give_the_answer_of_the_whole(block, whole, blockwise, tmp_path):
    write_h5(str(tmp_path / "affs.h5"), gala())
    wanted = whole(tmp_path / "affs.h5")
    assert len(np.unique(wanted)) > 100
    np.testing.assert_array_equal(blockwise(tmp_path / "affs.h5", block), wanted)


@pytest.mark.parametrize("block", [(10, 96, 120), (4, 33, 50), (1, 96, 60)])
def test_sections(block, whole, blockwise, tmp_path):
    write_h5(str(tmp_path / "affs.h5"), sections())
    limits = ("--aff-threshold-low", 0.2, "--aff-threshold-high", 0.98)
    wanted = whole(tmp_path / "affs.h5", "0.5", *limits)
    np.testing.assert_array_equal(blockwise(tmp_path / "affs.h5", block, *limits), wanted)
    assert not np.array_equal(wanted, whole(tmp_path / "affs.h5"))


def test_blocks_that_meet_at_corners_only(whole, blockwise, tmp_path):
    """A fragment that goes through a corner is one by faces, two where only the corner joins it."""
    affs = np.zeros((3, 4, 4, 4), np.uint8)
    affs[:, 1:, 1:, 1:] = 200
    affs[:, 2, 2, 2] = 0  # the voxel behind the corner: joined by others, not by its own affinities
    write_h5(str(tmp_path / "affs.h5"), Chunk(affs, layer_type="affinity_map"))
    wanted = whole(tmp_path / "affs.h5")
    for block in ((2, 2, 2), (1, 1, 1), (3, 2, 1)):
        np.testing.assert_array_equal(blockwise(tmp_path / "affs.h5", block), wanted)
    affs[:] = 0
    affs[0, :2, :2, 1] = affs[1, :2, 1, :2] = affs[2, 1, :2, :2] = 200
    affs[0, 2:, 2:, 3] = affs[1, 2:, 3, 2:] = affs[2, 3, 2:, 2:] = 200
    write_h5(str(tmp_path / "affs.h5"), Chunk(affs, layer_type="affinity_map"))
    found = blockwise(tmp_path / "affs.h5", (2, 2, 2))
    assert found[1, 1, 1]
    assert found[2, 2, 2]
    assert found[1, 1, 1] != found[2, 2, 2]  # neighbours by a corner alone: never joined


# -- any input ------------------------------------------------------------------------------------


def as_n5(path: Path, chunk: Chunk) -> str:
    spec = {
        "driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/inner/affs"},
        "metadata": {
            "dimensions": [*chunk.shape[:0:-1], 3], "blockSize": [32, 16, 8, 3], "dataType": "uint8",
            "compression": {"type": "gzip"}, "axes": ["x", "y", "z", "c"],
        },
    }  # fmt: skip
    store = tensorstore.open(spec, create=True).result()
    store.write(chunk.array.transpose(3, 2, 1, 0)).result()
    return str(path)


def test_any_format(segflow, affs, file, whole, blockwise, tmp_path):
    wanted = whole(file)
    write = ("write-precomputed", "-v", tmp_path / "pre", "write-zarr", "-f", tmp_path / "a.zarr")
    segflow("read-h5", "-f", file, *write)
    write_npy(str(tmp_path / "affs.npy"), affs)
    with h5py.File(tmp_path / "many.h5", "w") as many:
        many["other"], many["deep/affs"] = np.zeros((4, 5, 6), np.uint8), affs.array
    n5 = as_n5(tmp_path / "a.n5", affs)
    for path, *more in (
        [tmp_path / "pre"], [f"precomputed://file://{tmp_path}/pre"], [tmp_path / "a.zarr"],
        [f"zarr://{tmp_path}/a.zarr"], [tmp_path / "affs.npy"], [f"{tmp_path}/many.h5:deep/affs"],
        [tmp_path / "many.h5", "--dataset-path", "deep/affs"], [f"n5://{n5}/inner/affs"],
        [n5, "--dataset-path", "inner/affs"],
    ):  # fmt: skip
        found = blockwise(path, (13, 23, 60), *more)
        np.testing.assert_array_equal(found, wanted, err_msg=str(path))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_give_what_bytes_give(affs, file, whole, blockwise, tmp_path, dtype):
    write_h5(str(tmp_path / "float.h5"), affs.with_array((affs.array / 255).astype(dtype)))
    np.testing.assert_array_equal(blockwise(tmp_path / "float.h5", BLOCKS[2]), whole(file))


def test_channels_in_another_order(affs, file, whole, blockwise, tmp_path):
    """PyTC's data set vol0 is z, y, x and says nothing of it; offsets of others are read."""
    wanted = whole(file)
    with h5py.File(tmp_path / "pytc.h5", "w") as pytc:
        pytc["vol0"] = affs.array[::-1]
    found = blockwise(tmp_path / "pytc.h5", BLOCKS[1], "--channel-order", "zyx")
    np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(blockwise(tmp_path / "pytc.h5", BLOCKS[1]), wanted)
    array = np.concatenate([np.full((1, *SIZE), 9, np.uint8), affs.array[[1, 0, 2]]])
    offsets = ((-3, 0, 0), (0, -1, 0), (0, 0, -1), (-1, 0, 0))
    write_h5(str(tmp_path / "long.h5"), affs.with_array(array, offsets=offsets))
    np.testing.assert_array_equal(blockwise(tmp_path / "long.h5", BLOCKS[1]), wanted)


def test_ids_are_places_in_the_volume(segflow, affs, file, whole, blockwise, tmp_path):
    """An offset changes no id; a cutout of the affinities, segmented at once, has the ids of the volume."""
    moved = replace(affs, voxel_offset=(5, -7, 100))
    volume = open_volume(str(tmp_path / "moved"))
    make_volume(volume, moved, block_size=(8, 16, 16))
    volume.write(moved)
    found = blockwise(tmp_path / "moved", BLOCKS[2])
    np.testing.assert_array_equal(found, whole(file))
    written = open_volume(str(tmp_path / "seg0"))
    assert written.info(0).bounds == moved.bbox
    assert written.info(0).voxel_size == (10, 10, 10)
    assert written.info(0).layer_type == "segmentation"
    read = ("read-precomputed", "-v", tmp_path / "moved", "--start", 9, -2, 110, "--size", 8, 20, 20)
    segflow(*read, "watershed", "write-h5", "-f", tmp_path / "part.h5")
    ids = read_h5(str(tmp_path / "part.h5")).array
    places = np.stack(np.unravel_index(ids[ids > 0].astype(np.int64) - 1, SIZE))
    low, high = np.array([[4, 5, 10], [12, 25, 30]])[..., None]
    assert ((places >= low) & (places < high)).all()


# -- thresholds -----------------------------------------------------------------------------------


def test_several_thresholds(segflow, file, whole, tmp_path):
    thresholds = ("0.7", "0.2", "0.5")
    words = [w for t in thresholds for w in ("--threshold", t)]
    line = ("segment-volume", "--affs", file, "--block-size", *BLOCKS[1], "--processes", 1, *words)
    segflow(*line, "--out", tmp_path / "seg")
    segflow(*line, "--out", f"{tmp_path}/at-{{threshold}}/seg")
    answers = set()
    for threshold in thresholds:
        wanted = whole(file, threshold)
        answers.add(len(np.unique(wanted)))
        for name in (f"seg-{threshold}", f"at-{threshold}/seg"):
            np.testing.assert_array_equal(open_volume(str(tmp_path / name)).read().array, wanted)
    assert len(answers) == 3
    assert (tmp_path / "seg.work" / "plan.json").exists()


def test_the_same_threshold_twice_is_one(segflow, file, whole, tmp_path):
    line = ("segment-volume", "--affs", file, "--block-size", *BLOCKS[1], "--processes", 1)
    segflow(*line, "--out", tmp_path / "seg", "--threshold", "0.5", "--threshold", ".50")
    np.testing.assert_array_equal(open_volume(str(tmp_path / "seg")).read().array, whole(file))


def test_relabel_volume(segflow, file, whole, blockwise, tmp_path):
    blockwise(file, BLOCKS[2])
    for threshold in ("0.2", "0.333", "0.5", "0"):
        line = ("relabel-volume", "--of", tmp_path / "seg0", "--threshold", threshold, "--processes", 1)
        segflow(*line, "--out", tmp_path / f"at{threshold}")
        found = open_volume(str(tmp_path / f"at{threshold}")).read().array
        np.testing.assert_array_equal(found, whole(file, threshold))
    first = open_volume(str(tmp_path / "seg0")).read().array
    np.testing.assert_array_equal(first, whole(file))
    line = ("relabel-volume", "--of", tmp_path / "seg0.work", "--threshold", "0.51", "--out", tmp_path / "no")
    assert "merged up to the threshold 0.5" in segflow(*line, code=2).last
    assert not (tmp_path / "no").exists()


def test_thresholds_that_differ_by_little_are_two(segflow, tmp_path):
    values = np.full((3, 1, 1, 8), 255, np.uint8)
    values[0, 0, 0, 4] = 51
    write_h5(str(tmp_path / "two.h5"), Chunk(values, layer_type="affinity_map"))
    line = ("--affs", tmp_path / "two.h5", "--out", tmp_path / "seg", "--processes", 1)
    close = ("--threshold", "0.8", "--threshold", "0.800000001")
    segflow("segment-volume", *line, *close, "--block-size", 1, 1, 3)
    line = ("relabel-volume", "--of", tmp_path / "seg", "--processes", 1)
    for threshold in ("0.8", "0.799999999", "0.800000001"):
        segflow(*line, "--threshold", threshold, "--out", tmp_path / f"at-{threshold}")
    for path, parts in (("seg-0.8", 2), ("seg-0.800000001", 1), ("at-0.8", 2), ("at-0.800000001", 1)):
        assert len(np.unique(open_volume(str(tmp_path / path)).read().array)) == parts
