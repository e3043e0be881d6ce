"""segment-volume: where the segments go, and what is refused before anything is computed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affinities import crop, gala

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import write_h5

SIZE = (20, 40, 60)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def affs() -> Chunk:
    """Give real affinities, 20 x 40 x 60."""
    return crop(gala(), SIZE, (10, 20, 30))


@pytest.fixture
def run(affs, segflow) -> Callable[..., str]:
    """Give a function that runs the job on them; options come before the usual ones."""
    write_h5("affs.h5", affs)
    usual = {
        "--affs": ["affs.h5"], "--out": ["seg"], "--block-size": [7, 20, 30], "--threshold": ["0.5"],
        "--processes": [1],
    }  # fmt: skip

    def go(*words: object, code: int = 0) -> str:
        line = [w for name, values in usual.items() if name not in words for w in (name, *values)]
        result = segflow("segment-volume", *line, *words, code=code)
        assert result.err.count("mistake of segflow") == 0
        return result.last

    return go


def labels(array: np.ndarray | None = None) -> Chunk:
    return Chunk(
        np.zeros(SIZE, np.uint64) if array is None else array, (0, 0, 0), (10, 10, 10), "segmentation"
    )


def made(name: str, chunk: Chunk, **options: object) -> str:
    """Make an empty volume."""
    make_volume(open_volume(os.path.abspath(name)), chunk, **options)
    return name


def read(name: str) -> np.ndarray:
    return open_volume(name).read(fill_missing=False).array


# -- where segments go ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [(64, 64, 64), (5, 11, 13)])
def test_chunks_that_fit_no_block(run, process, chunk):
    """Two processes change one chunk at the same time: no voxel is lost."""
    run()
    run("--out", "two", "--chunk-size", *chunk, "--processes", 2)
    assert open_volume("two").info(0).block_size == chunk
    np.testing.assert_array_equal(read("two"), read("seg"))


def test_kinds_of_new_volumes(run):
    run()
    assert open_volume("seg").info(0).dtype == "uint64"
    assert open_volume("seg").info(0).encoding == "compressed_segmentation"
    for words, dtype in (
        (["--out", "raw", "--encoding", "raw"], "uint64"),
        (["--out", "small", "--dtype", "uint32", "--encoding", "compresso"], "uint32"),
        (["--out", "zarr://a.zarr"], "uint64"),
        (["--out", "b.zarr", "--dtype", "uint32"], "uint32"),
    ):
        run(*words, "--block-size", 20, 25, 60)
        name = f"zarr://{words[1]}" if words[1] == "b.zarr" else words[1]
        info = open_volume(name).info(0)
        assert (info.dtype, info.layer_type, info.voxel_size) == (dtype, "segmentation", (10, 10, 10))
        assert "--encoding" not in words or info.encoding == words[-1]
        np.testing.assert_array_equal(read(name), read("seg"))
    assert Path("b.zarr/zarr.json").exists()


def test_a_volume_that_is_there_is_used(run, affs):
    """Also a larger one, with other chunks and another dtype."""
    run()
    made("there", labels(np.zeros((30, 50, 70), np.uint32)), block_size=(6, 9, 10), encoding="raw")
    run("--out", "there")
    found = read_all("there")
    np.testing.assert_array_equal(found[:20, :40, :60], read("seg"))
    assert open_volume("there").info(0).dtype == "uint32"
    assert not found[20:].any()
    run("--out", made("sixteen", labels(np.zeros(SIZE, np.uint16))))  # 48000 voxels: it holds them
    np.testing.assert_array_equal(read("sixteen"), read("seg"))


def read_all(name: str) -> np.ndarray:
    return open_volume(name).read().array


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (labels(np.zeros((10, 40, 60), np.uint64)), "fills 0-10_0-40_0-60 and the blocks 0-20_0-40_0-60"),
        (labels(np.zeros(SIZE, np.uint8)), "up to 48000, and .* holds 255; use a volume of uint64"),
        (replace(labels(np.zeros(SIZE, np.uint32)), layer_type="image"), "an image of uint32, no labels"),
        (Chunk(np.zeros((3, *SIZE), np.uint8), offsets=DEFAULT_OFFSETS), r"3 channel\(s\) of uint8, no labels"),
        (replace(labels(), voxel_size=(20, 10, 10)), "has voxels of 20 10 10 nm, the blocks of 10 10 10"),
    ],
)  # fmt: skip
def test_volumes_that_do_not_hold_the_segments(run, there, said):
    made("there", there)
    assert_match(said, run("--out", "there", code=2))
    assert not Path("there.work").exists()


def assert_match(pattern: str, text: str) -> None:
    import re

    assert re.search(pattern, text), text


def test_labels_are_counted_before_they_are_written(run, affs):
    """Fragments made elsewhere may have any ids: too large ones are told, never wrapped."""
    array = np.ones(SIZE, np.uint64)
    array[15:] += 1 << 32
    write_h5("frag.h5", labels(array))
    said = run("--fragments", "frag.h5", "--dtype", "uint32", code=1)
    assert "the fragments hold the label 4294967297 and the output no more than 4294967295" in said
    assert not Path("seg").exists()
    run("--fragments", "frag.h5", "--threshold", 0, "--stale", "redo")
    assert read("seg").max() == (1 << 32) + 1
    write_h5("frag.h5", labels(array.astype(np.int64) * -1))
    assert "negative labels" in run("--fragments", "frag.h5", "--stale", "redo", code=1)


def test_provenance(run, segflow, tmp_path):
    run()
    kept = {p.name: p.read_bytes() for p in Path("seg/segflow_provenance").iterdir()}
    told = segflow("provenance", "seg").out
    assert told.startswith(
        "segflow segment-volume --affs affs.h5 --out seg --block-size 7 20 30 --threshold 0.5"
    )
    assert "--processes" not in told
    subprocess.run(["rm", "-r", "seg", "seg.work"], check=True)
    run("--processes", 2, "--work-dir", "elsewhere")
    assert {p.name: p.read_bytes() for p in Path("seg/segflow_provenance").iterdir()} == kept
    relabel = ("relabel-volume", "--work-dir", "elsewhere", "--threshold", 0.3, "--out", "less")
    segflow(*relabel, "--processes", 1)
    assert "relabel-volume" in segflow("provenance", "less").out


def test_the_voxel_size_can_be_told(run, affs, segflow):
    write_h5("bare.h5", replace(affs, voxel_size=None))
    run("--affs", "bare.h5", "--voxel-size", 30, 6, 6.5)
    assert open_volume("seg").info(0).voxel_size == (30, 6, 6.5)
    segflow("relabel-volume", "--of", "seg", "--threshold", 0.2, "--out", "less", "--processes", 1)
    assert open_volume("less").info(0).voxel_size == (30, 6, 6.5)


def test_buckets_take_whole_chunks(run, bucket, segflow):
    run("--block-size", 10, 20, 30)
    usual = ("--out", f"{bucket}/seg", "--work-dir", "work", "--chunk-size", 5, 20, 10)
    run(*usual, "--block-size", 10, 20, 30, "--processes", 2)
    np.testing.assert_array_equal(read(f"{bucket}/seg"), read("seg"))
    assert "segment-volume" in segflow("provenance", f"{bucket}/seg").out
    usual = ("--out", f"{bucket}/not", "--work-dir", "none", "--chunk-size", 8, 16, 16)
    said = run(*usual, "--block-size", 9, 40, 60, code=2)
    assert "not whole chunks (8 16 16)" in said
    assert said.endswith("give --block-size 8 32 64")
    assert not Path("none").exists()
    run(*usual, "--block-size", 8, 32, 64)
    run(*usual, "--out", f"{bucket}/one", "--block-size", 21, 41, 61, "--stale", "redo")  # one block
    for name in ("not", "one"):
        np.testing.assert_array_equal(read(f"{bucket}/{name}"), read("seg"))
    volume = open_volume(f"{bucket}/large")
    make_volume(volume, labels(np.zeros((40, 64, 64), np.uint64)), block_size=(8, 8, 8))
    said = run("--out", f"{bucket}/large", "--work-dir", "none", "--block-size", 8, 16, 16, code=2)
    assert "0-20_0-40_0-60 begins or ends inside chunks (8 8 8)" in said
    assert "name a local folder for the work with --work-dir" in run("--out", f"{bucket}/seg", code=2)


# -- bad input ------------------------------------------------------------------------------------


BAD = {
    "two": (lambda a: Chunk(a.array[:2]), "has 2 channel"),
    "four": (
        lambda a: Chunk(np.concatenate([a.array, a.array[:1]])),
        "4 channels and does not say their off",
    ),
    "one": (lambda a: Chunk(a.array[0]), "has 1 channel"),
    "ints": (lambda a: Chunk(a.array.astype(np.int16)), "is int16; affinities are float in"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_affinities(run, affs, name):
    change, said = BAD[name]
    write_h5(f"{name}.h5", change(affs))
    assert said in run("--affs", f"{name}.h5", code=2)
    assert not Path("seg.work").exists()


@pytest.mark.parametrize(("value", "said"), [(np.nan, "holds 1 NaN, the first at zyx (17, 30, 50)"),
                                             (7, "ranges from 0 to 7; affinities lie in [0, 1]")])  # fmt: skip
def test_values_that_are_no_affinities(run, affs, value, said):
    """The error names the block and the voxel; with better affinities the rest is kept."""
    array = (affs.array / 255).astype(np.float32)
    array[1, 17, 30, 50] = value
    write_h5("bad.h5", affs.with_array(array))
    told = run("--affs", "bad.h5", code=1)
    assert said in told
    assert "1 of 12 blocks of stage fragments failed; the first, 14-20_20-40_30-60: channel 1" in told
    assert not Path("seg").exists()
    assert len(list(Path("seg.work/fragments").glob("*.npz"))) == 11
    array[1, 17, 30, 50] = 0.5
    write_h5("bad.h5", affs.with_array(array))
    assert "affs.mtime_ns" in run("--affs", "bad.h5", code=2)
    run("--affs", "bad.h5", "--stale", "redo")
    run("--affs", "affs.h5", "--out", "right")
    assert (read("seg") != read("right")).mean() < 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--affs", "none.h5"], "none.h5 does not exist"),
        (["--affs", "affs.h5:none"], "the data set none is not there"),
        (["--dataset-path", "none"], "the data set none is not there"),
        (["--affs", "zarr:///none"], "there is no zarr volume at"),
        (["--affs", "junk.h5"], "broken, truncated or of another format"),
        (["--mip", 2], "has no mip 2"),
        (["--mask", "none"], "none does not exist"),
        (["--mask", "affs.h5"], "has 3 channels; a mask has one"),
        (["--mask", "odd.h5"], "is no whole multiple of the volume"),
        (["--mask", "far.h5"], "lies wholly outside the volume"),
        (["--fragments", "affs.h5"], "holds 3 x uint8, no labels"),
        (["--fragments", "part.h5"], "fill 0-10_0-40_0-60 and the affinities 0-20_0-40_0-60"),
        (["-l", 0.5, "-h", 0.4], "the low affinity threshold (0.5) must be smaller"),
        (["--threshold", "1.5"], "the threshold 1.5 is not in [0, 1]"),
        (["--threshold", "-0.1"], "the threshold -0.1 is not in [0, 1]"),
        (["--threshold", "x"], "'x' is no number; write it as 0.7"),
        (["--threshold", "nan"], "'nan' is no number"),
        (["--threshold", "1/2"], "'1/2' is no decimal number"),
        (["--block-size", 0, 8, 8], "0 is not in the range x>=1"),
        (["--chunk-size", 8, 8, 0], "0 is not in the range x>=1"),
        (["--voxel-size", 8, 8, 0], "0.0 is not in the range x>0"),
        (["--encoding", "jpeg"], "jpeg takes uint8"),
        (["--quantile", 30], "--quantile belongs to --merge-function quantile"),
        (["--join"], "--join needs the work folder: --work-dir DIR"),
        (["--join", "--work-dir", "none"], "none is no work folder: it has no plan.json"),
        (["--out", "seg.tif"], "segments go into a volume, not a file: seg.tif"),
        (["--out", "n5://seg"], "can only be read"),
        (["--out", "plain/seg"], "plain is not a folder"),
        (["--out", "aff", "--affs", "aff"], "aff is read, and cannot be where the segments go too"),
        (["--out", "frag", "--fragments", "frag"], "frag is read, and cannot be where the segments go too"),
    ],
)  # fmt: skip
def test_refused_before_the_run(run, affs, words, said):
    Path("junk.h5").write_bytes(b"junk" * 100)
    Path("plain").write_text("")
    mask = Chunk(np.ones((20, 27, 40), np.uint8), (0, 0, 0), (10, 15, 15), "image")
    write_h5("odd.h5", mask)
    write_h5("far.h5", replace(mask, voxel_offset=(100, 0, 0), voxel_size=(10, 10, 10)))
    write_h5("part.h5", labels(np.ones((10, 40, 60), np.uint32)))
    made("frag", labels())
    made("aff", affs)
    before = set(Path().iterdir())
    assert said in run(*words, code=2)
    assert set(Path().iterdir()) == before


def test_what_is_needed(segflow, run):
    assert "--affs VOLUME --out VOLUME" in segflow("segment-volume", "--affs", "affs.h5", code=2).last
    assert "--of VOLUME" in segflow("relabel-volume", "--threshold", 0.3, "--out", "x", code=2).last
    line = ("relabel-volume", "--of", "affs.h5", "--threshold", 0.3, "--out", "x")
    assert "is no work folder" in segflow(*line, code=2).last


def test_relabelled_volumes_do_not_replace_others(run, segflow):
    run("--threshold", 0.5, "--threshold", 0.3)
    first = read("seg-0.5")
    line = ("relabel-volume", "--of", "seg", "--processes", 1, "--threshold", 0.4)
    assert "holds the segments at 0.5" in segflow(*line, "--out", "seg-0.5", code=2).last
    write_h5("affs.h5", crop(gala(), SIZE, (10, 20, 30)))  # nothing but the last step is computed anew
    segflow(*line, "--out", "a b (c)")
    Path("deep").mkdir()
    segflow(*line, "--out", "deep/a b (c)")
    np.testing.assert_array_equal(read("a b (c)"), read("deep/a b (c)"))
    np.testing.assert_array_equal(read("seg-0.5"), first)


@pytest.fixture
def small_disk(disk):
    return disk("300k")


@pytest.mark.parametrize("processes", [1, 2])
def test_full_disk(run, segflow, small_disk, processes):
    """What is done stays; with more room the same line goes on."""
    run()
    said = run("--out", "other", "--work-dir", small_disk / "work", "--processes", processes, code=1)
    assert "no space left on device" in said
    assert not [p for p in small_disk.rglob(".*") if p.name != "."]
    done = len(list(small_disk.rglob("*.npz")))
    assert done > 5
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    run("--out", "other", "--work-dir", small_disk / "work", "--processes", processes)
    np.testing.assert_array_equal(read("other"), read("seg"))
