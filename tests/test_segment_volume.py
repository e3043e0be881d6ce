"""segment-volume and relabel-volume: the answer of agglomerate --engine exact, whatever the blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
HUGE = 1 << 60  # ids that no float holds
BLOCKS = ((20, 40, 60), (10, 20, 30), (7, 13, 41))


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

    def run(path: object, block: object, *more: object, at: str = "0.5") -> np.ndarray:
        out = tmp_path / f"seg{next(count)}"
        line = ("segment-volume", "--affs", path, "--out", out, "--processes", 1, "--threshold", at)
        segflow(*line, "--block-size", *block, *more)
        return open_volume(str(out)).read().array

    return run


# -- any blocks -----------------------------------------------------------------------------------


def test_one_answer_from_one_stored_volume_and_its_quality(segflow, whole, blockwise, tmp_path, data):
    write_h5(str(tmp_path / "affs.h5"), gala())
    segflow("read-h5", "-f", tmp_path / "affs.h5", "write-precomputed", "-v", tmp_path / "affs")
    wanted = whole(tmp_path / "affs.h5")
    assert len(np.unique(wanted)) > 100
    truth = ("read-h5", "-f", data / "gala.h5", "--dataset-path", "volumes/labels/neuron_ids", "-o", "gt")
    for number, block in enumerate(((25, 50, 100), (13, 41, 67), (7, 33, 50))):
        np.testing.assert_array_equal(blockwise(tmp_path / "affs", block), wanted)
        scores = tmp_path / f"scores{number}.json"
        segflow("read-precomputed", "-v", tmp_path / f"seg{number}", "-o", "seg", *truth,
                "evaluate-segmentation", "-s", "seg", "-g", "gt", "--all", "--json", scores)  # fmt: skip
        told = json.loads(scores.read_text())
        assert told["voi_split"] + told["voi_merge"] < 1.6
        assert told["adapted_rand_error"] < 0.25
        assert scores.read_text() == (tmp_path / "scores0.json").read_text()


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
    for block in ((2, 2, 2), (3, 2, 1)):
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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
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


# -- masks ----------------------------------------------------------------------------------------


def cut_off(affs: Chunk, keep: np.ndarray) -> Chunk:
    """Set the affinities of masked voxels to 0 by hand, in both directions."""
    array = affs.array * keep
    array[0, :, :, 1:] *= keep[:, :, :-1]
    array[1, :, 1:] *= keep[:, :-1]
    array[2, 1:] *= keep[:-1]
    return affs.with_array(array)


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2), (2, 4, 4)])
def test_mask(affs, file, whole, blockwise, tmp_path, factor):
    """Of the same voxels or of larger ones; blocks need not be whole voxels of the mask."""
    coarse = np.random.default_rng(3).random([n // f for n, f in zip(SIZE, factor)]) > 0.1
    size = tuple(10.0 * f for f in factor)
    mask = Chunk(coarse.astype(np.uint8) * 255, (0, 0, 0), size, "image")
    volume = open_volume(str(tmp_path / "mask"))
    make_volume(volume, mask, block_size=(8, 8, 8))
    volume.write(mask)
    keep = coarse
    for axis, n in enumerate(factor):
        keep = keep.repeat(n, axis)
    write_h5(str(tmp_path / "cut.h5"), cut_off(affs, keep))
    wanted = whole(tmp_path / "cut.h5")
    assert not wanted[~keep].any()
    assert len(np.unique(wanted)) != len(np.unique(whole(file)))
    for block in BLOCKS[1:]:
        found = blockwise(file, block, "--mask", tmp_path / "mask")
        np.testing.assert_array_equal(found, wanted)


def test_mask_of_a_part_and_of_nothing(affs, file, whole, blockwise, tmp_path):
    """Where there is no mask, nothing is segmented."""
    keep = np.zeros(SIZE, bool)
    keep[4:15, 10:31, 7:52] = True
    write_h5(str(tmp_path / "cut.h5"), cut_off(affs, keep))
    part = Chunk(np.ones((11, 21, 45), np.uint8), (4, 10, 7), (10, 10, 10), "image")
    write_h5(str(tmp_path / "part.h5"), part)
    found = blockwise(file, BLOCKS[2], "--mask", tmp_path / "part.h5")
    np.testing.assert_array_equal(found, whole(tmp_path / "cut.h5"))
    write_h5(str(tmp_path / "none.h5"), part.with_array(part.array * 0))
    rules = ("--join-small", 10, "--dust", 10)
    assert not blockwise(file, BLOCKS[2], "--mask", tmp_path / "none.h5").any()
    assert not blockwise(file, BLOCKS[2], "--mask", tmp_path / "none.h5", *rules).any()


# -- fragments made elsewhere ---------------------------------------------------------------------


@pytest.fixture
def of_fragments(segflow, tmp_path) -> Callable[..., np.ndarray]:
    """Give a function that merges the fragments of a file at once, as a user does."""

    def run(path: Path, fragments: object, threshold: str = "0.5") -> np.ndarray:
        to = tmp_path / "merged.h5"
        segflow("read-h5", "-f", path, "read-h5", "-f", fragments, "-o", "frag", "agglomerate", "-f", "frag",
                "--engine", "exact", "-t", threshold, "write-h5", "-f", to)  # fmt: skip
        return read_h5(str(to)).array

    return run


@pytest.mark.parametrize(
    "method",
    [(), ("--method", "distance"), ("--method", "distance", "--per-section"),
     ("--method", "distance", "--seeds", "grid", "--surface", "boundary")],
)  # fmt: skip
def test_fragments_of_the_watershed(segflow, file, of_fragments, blockwise, tmp_path, method):
    to = ("write-h5", "-f", tmp_path / "frag.h5", "write-precomputed", "-v", tmp_path / "frag")
    segflow("read-h5", "-f", file, "watershed", *method, *to)
    wanted = of_fragments(file, tmp_path / "frag.h5")
    assert 3 < len(np.unique(wanted)) < len(np.unique(read_h5(str(tmp_path / "frag.h5")).array))
    for block in (BLOCKS[2], (1, 40, 60)):
        found = blockwise(file, block, "--fragments", tmp_path / "frag")
        np.testing.assert_array_equal(found, wanted)


def scattered(seed: int, ids: int = 2000) -> np.ndarray:
    """Give boxes of voxels of random ids, so that most ids lie in several places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, ids, [n // 2 for n in SIZE])
    for axis in range(3):
        labels = labels.repeat(2, axis)
    return np.where(labels > 0, labels + HUGE, 0).astype(np.uint64)


@pytest.mark.parametrize("block", [*BLOCKS, (3, 7, 60), (20, 8, 8)])
def test_fragments_in_several_places(segflow, affs, file, of_fragments, blockwise, tmp_path, block):
    """No face tells a block that a fragment has other pieces: it must wait for them all the same."""
    labels = affs.with_array(scattered(1), layer_type="segmentation", offsets=None)
    write_h5(str(tmp_path / "frag.h5"), labels)
    found = blockwise(file, block, "--fragments", tmp_path / "frag.h5", at="0.2")
    wanted = of_fragments(file, tmp_path / "frag.h5", "0.2")
    assert 3 < len(np.unique(wanted)) < 1000
    np.testing.assert_array_equal(found, wanted)
    line = ("relabel-volume", "--of", tmp_path / "seg0", "--threshold", "0.1", "--processes", 1)
    segflow(*line, "--out", tmp_path / "lower")
    wanted = of_fragments(file, tmp_path / "frag.h5", "0.1")
    np.testing.assert_array_equal(open_volume(str(tmp_path / "lower")).read().array, wanted)


def test_fragments_and_a_mask(affs, file, of_fragments, blockwise, tmp_path):
    keep = np.random.default_rng(5).random(SIZE) > 0.05
    labels = affs.with_array(scattered(2), layer_type="segmentation", offsets=None)
    write_h5(str(tmp_path / "frag.h5"), labels)
    write_h5(str(tmp_path / "mask.h5"), labels.with_array(keep.astype(np.uint8), layer_type="image"))
    write_h5(str(tmp_path / "cut.h5"), cut_off(affs, keep))
    write_h5(str(tmp_path / "kept.h5"), labels.with_array(np.where(keep, labels.array, 0)))
    wanted = of_fragments(tmp_path / "cut.h5", tmp_path / "kept.h5")
    given = ("--fragments", tmp_path / "frag.h5", "--mask", tmp_path / "mask.h5")
    np.testing.assert_array_equal(blockwise(file, BLOCKS[2], *given), wanted)
