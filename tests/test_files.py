"""tif, h5 and npy: what is written comes back, what others wrote is read, what is broken is named."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.cli import run_chain
from segflow.errors import BoxError, ChunkError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.state import Run, State
from segflow.volumes import files, hdf5, npy, tif

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int32", "float16", "float32", "float64"]
KINDS = ["image", "segmentation", "affinity_map", "probability_map"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@st.composite
def chunks(draw):
    """Draw a chunk of any shape, dtype, place and kind."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=4, max_side=6))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    elements = (
        st.integers(0, np.iinfo(dtype).max)
        if dtype.kind in "iu"
        else st.floats(-1e3, 1e3, width=8 * dtype.itemsize)
    )
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    kind = draw(st.sampled_from(KINDS))
    offset = draw(st.tuples(*[st.integers(-1000, 1000)] * 3))
    size = draw(st.none() | st.tuples(*[st.floats(0.5, 100)] * 3))
    channels = shape[0] if len(shape) == 4 else 1
    steps = [(0, 0, -c - 1) for c in range(channels)] if kind == "affinity_map" else None
    return Chunk(array, offset, size, kind, steps)


def assert_same(found: Chunk, chunk: Chunk) -> None:
    """Compare all that a chunk is."""
    assert found.dtype == chunk.dtype
    np.testing.assert_array_equal(found.array, chunk.array)
    assert found.bbox == chunk.bbox
    assert found.voxel_size == chunk.voxel_size
    assert (found.layer_type, found.offsets) == (chunk.layer_type, chunk.offsets)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunk=chunks(), compression=st.sampled_from(["none", "zlib", "lzw", "zstd"]))
def test_tif_round_trip(chunk, compression):
    tif.write_tif("a.tif", chunk, compression=compression)
    assert_same(tif.read_tif("a.tif"), chunk)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunk=chunks(), compression=st.sampled_from(hdf5.COMPRESSIONS))
def test_h5_round_trip(chunk, compression):
    hdf5.write_h5("a.h5", chunk, compression=compression, block_size=(2, 3, 4))
    assert_same(hdf5.read_h5("a.h5"), chunk)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunk=chunks())
def test_npy_round_trip(chunk):
    npy.write_npy("a.npy", chunk)
    found = npy.read_npy(
        "a.npy", voxel_offset=chunk.voxel_offset, voxel_size=chunk.voxel_size, layer_type=chunk.layer_type
    )
    assert found.bbox == chunk.bbox
    np.testing.assert_array_equal(found.array, chunk.array)


# -- tif ------------------------------------------------------------------------------------


def test_tif_keeps_float_cleft_map_for_threshold(segflow):
    cleft = np.linspace(0, 1, 4 * 8 * 8, dtype=np.float32).reshape(4, 8, 8)
    run_chain("write-tif", "-i", "cleft", "-f", "cleft.tif", cleft=Chunk(cleft, layer_type="probability_map"))
    assert tifffile.imread("cleft.tif").dtype == np.float32
    found = run_chain("read-tif", "-f", "cleft.tif", "-o", "cleft")["cleft"]
    np.testing.assert_array_equal(found.array > 0.1, cleft > 0.1)
    assert found.layer_type == "probability_map"


def test_tif_of_other_programs():
    array = np.arange(6 * 8 * 9, dtype=np.uint8).reshape(6, 8, 9)
    tifffile.imwrite("plain.tif", array, metadata=None, photometric="minisblack")
    tifffile.imwrite("big.tif", array, bigtiff=True, byteorder=">")
    about = {"axes": "ZYX", **{f"PhysicalSize{a}": v for a, v in zip("ZYX", (0.03, 0.006, 0.006))}}
    tifffile.imwrite("ome.ome.tif", array, metadata=about)
    tifffile.imwrite(
        "fiji.tif", array, imagej=True, metadata={"axes": "ZYX", "spacing": 30, "unit": "nm"},
        resolution=(1 / 6, 1 / 6),
    )  # fmt: skip
    for name, size in (("plain", None), ("big", None), ("ome.ome", (30, 6, 6)), ("fiji", (30, 6, 6))):
        found = tif.read_tif(f"{name}.tif")
        np.testing.assert_array_equal(found.array, array)
        assert found.voxel_size == (pytest.approx(size) if size else None)
    tifffile.imwrite("one.tif", array[0])
    assert tif.read_tif("one.tif").shape == (1, 8, 9)
    tifffile.imwrite("rgb.tif", np.stack([array] * 3, -1), photometric="rgb")
    colour = tif.read_tif("rgb.tif")
    assert (colour.shape, colour.layer_type) == ((3, 6, 8, 9), "image")
    with tifffile.TiffWriter("pages.tif") as writer:
        for section in array:
            writer.write(section, contiguous=False)
    np.testing.assert_array_equal(tif.read_tif("pages.tif").array, array)


def test_tif_folder_in_natural_order(segflow, data):
    sections = tifffile.imread(data / "ac4_image.tif")[:12, :64, :48]
    Path("stack").mkdir()
    for z, section in enumerate(sections):
        tifffile.imwrite(f"stack/s{z}.tif", section)
    found = run_chain("read-tif", "-f", "stack", "--voxel-size", "30", "6", "6")["chunk"]
    np.testing.assert_array_equal(found.array, sections)
    assert found.voxel_size == (30, 6, 6)
    assert "12x64x48 uint8" in segflow("--dry-run", "read-tif", "-f", "stack").out
    tifffile.imwrite("stack/s5.tif", sections[0, :32])
    assert "s5.tif" in segflow("read-tif", "-f", "stack", code=1).last
    for place in Path("stack").iterdir():
        place.unlink()
    assert "no .tif" in segflow("read-tif", "-f", "stack", code=2).last


def test_tif_is_big_when_large(monkeypatch):
    chunk = Chunk(np.zeros((2, 8, 8), np.uint8))
    tif.write_tif("small.tif", chunk)
    monkeypatch.setattr(tif, "BIG", 10)
    tif.write_tif("big.tif", chunk)
    with tifffile.TiffFile("small.tif") as small, tifffile.TiffFile("big.tif") as big:
        assert (small.is_bigtiff, big.is_bigtiff) == (False, True)


def test_tif_options(segflow, data):
    segflow("read-tif", "-f", data / "ac4_labels.tif", "--offset", 1, 2, 3, "--voxel-size", 30, 6, 6,
            "--layer-type", "segmentation", "--dtype", "uint64", "write-tif", "-f", "labels.tif")  # fmt: skip
    found = tif.read_tif("labels.tif")
    assert (found.dtype, found.voxel_offset, found.voxel_size) == (np.uint64, (1, 2, 3), (30, 6, 6))
    assert found.layer_type == "segmentation"
    np.testing.assert_array_equal(found.array, tifffile.imread(data / "ac4_labels.tif"))
    segflow("read-tif", "-f", "labels.tif", "write-tif", "-f", "raw.tif", "--compression", "none",
            "--dtype", "uint16")  # fmt: skip
    segflow("read-tif", "-f", "labels.tif", "write-tif", "-f", "zstd.tif", "--compression", "zstd")
    assert (
        os.path.getsize("zstd.tif")
        < os.path.getsize("raw.tif")
        == pytest.approx(2 * 20 * 512 * 512, rel=0.01)
    )
    assert "jpeg" in segflow("read-tif", "-f", "raw.tif", "write-tif", "-f", "j.tif", "--compression", "jpeg",
                             code=2).last  # fmt: skip
    assert "do not fit" in segflow("read-tif", "-f", "labels.tif", "--dtype", "uint8", code=1).last


@pytest.mark.parametrize("kind", ["shaped", "plain", "raw"])
@pytest.mark.parametrize("part", [0, 3, 200, 0.5, 0.95])
def test_truncated_tif(segflow, data, kind, part):
    image = tifffile.imread(data / "ac4_image.tif")[:6, :64, :64]
    about = {"compression": "zlib"} if kind == "shaped" else {"metadata": None} if kind == "plain" else {}
    tifffile.imwrite("whole.tif", image, **about)
    whole = Path("whole.tif").read_bytes()
    Path("cut.tif").write_bytes(whole[: int(part * len(whole)) if part < 1 else part])
    result = segflow("read-tif", "-f", "cut.tif", "write-h5", "-f", "out.h5", code=None)
    assert result.code in (1, 2)
    assert result.last.startswith("segflow read-tif: cut.tif")
    assert len(result.err.strip().splitlines()) == 1
    assert not Path("out.h5").exists()


# -- h5 -------------------------------------------------------------------------------------


def test_h5_is_in_the_layout_of_chunkflow():
    affinities = Chunk(np.random.default_rng(0).random((3, 4, 5, 6), np.float32), (1, 2, 3), (30, 6, 6))
    state = run_chain("write-h5", "-f", "affs.h5", chunk=affinities)
    with h5py.File("affs.h5") as file:
        assert set(file) == {"main", "voxel_offset", "voxel_size"}
        assert (file["main"].dtype, file["main"].compression) == (np.float32, "gzip")
        assert list(file["voxel_offset"]) == [1, 2, 3]
        assert list(file["voxel_size"]) == [30, 6, 6]
        np.testing.assert_array_equal(file["main"].attrs["offsets"], DEFAULT_OFFSETS)
        assert json.loads(file.attrs["provenance"]) == state.run.provenance()
    np.testing.assert_array_equal(run_chain("read-h5", "-f", "affs.h5")["chunk"].array, affinities.array)
    first = Path("affs.h5").read_bytes()
    run_chain("write-h5", "-f", "affs.h5", chunk=affinities)
    assert Path("affs.h5").read_bytes() == first


def test_h5_writing_options():
    chunk = Chunk(np.arange(4 * 40 * 40, dtype=np.uint32).reshape(4, 40, 40), (1, 2, 3))
    run_chain("write-h5", "-f", "a.h5", "--without-offset", "--voxel-size", "8", "8", "9", "--dtype", "uint64",
              "--compression", "lzf", "--chunk-size", "2", "10", "20", "--touch", chunk=chunk)  # fmt: skip
    with h5py.File("a.h5") as file:
        assert set(file) == {"main", "voxel_size"}
        main = file["main"]
        assert (main.dtype, main.compression, main.chunks) == (np.uint64, "lzf", (2, 10, 20))
        assert list(file["voxel_size"]) == [8, 8, 9]
    assert hdf5.read_h5("a.h5").voxel_offset == (0, 0, 0)


def test_h5_chooses_a_data_set(segflow, data):
    gala = data / "gala.h5"
    for words in (["-f", gala, "-d", "/volumes/raw"], ["-f", f"{gala}:/volumes/raw"]):
        chunk = run_chain("read-h5", *map(str, words))["chunk"]
        assert (chunk.shape, chunk.dtype, chunk.voxel_size) == ((50, 100, 200), np.uint8, (10, 10, 10))
    for words, part in (
        ([], "choose one with --dataset-path"),
        (["-d", "volumes/rav"], "did you mean '/volumes/raw'"),
        (["-d", "volumes"], "is a group"),
    ):
        result = segflow("read-h5", "-f", gala, *words, code=2)
        assert part in result.last
        assert "/volumes/labels/neuron_ids (50x100x200 uint32)" in result.last
    only = run_chain("read-h5", "-f", str(data / "pinky40_mip1.h5"))["chunk"]
    assert (str(only.bbox), only.voxel_size) == ("256-352_64-320_0-288", (40, 16, 16))
    assert only.is_segmentation


def test_h5_cremi_attributes(caplog):
    with h5py.File("cremi.hdf", "w") as file:
        raw = file.create_dataset("volumes/raw", data=np.zeros((4, 5, 6), np.uint8))
        raw.attrs["resolution"] = (40.0, 4.0, 4.0)
        clefts = file.create_dataset("volumes/clefts", data=np.zeros((4, 5, 6), np.uint64))
        clefts.attrs["resolution"] = (40.0, 4.0, 4.0)
        clefts.attrs["offset"] = (1520.0, 3644.0, 3644.0)
        odd = file.create_dataset("odd", data=np.zeros((4, 5, 6), np.uint8))
        odd.attrs["resolution"], odd.attrs["offset"] = (40.0, 4.0, 4.0), (20.0, 0.0, 0.0)
        file["voxel_offset"] = (7, 7, 7)
    assert hdf5.read_h5("cremi.hdf", "volumes/clefts").voxel_offset == (38, 911, 911)
    assert hdf5.read_h5("cremi.hdf", "volumes/raw").voxel_offset == (7, 7, 7)
    logging.getLogger("segflow").propagate = True
    hdf5.read_h5("cremi.hdf", "odd")
    assert "no whole number of voxels" in caplog.text


def test_h5_of_older_chunkflow():
    with h5py.File("old.h5", "w") as file:
        file["main"], file["global_offset"] = np.zeros((2, 3, 4), np.uint8), np.array([5, 6, 7])
        file["unique_nonzeros"] = np.zeros((2, 3), np.uint64)
    assert hdf5.read_h5("old.h5").voxel_offset == (5, 6, 7)


def test_h5_cutouts_are_in_voxels_of_the_volume(segflow, data):
    path = str(data / "pinky40_mip1.h5")
    whole = run_chain("read-h5", "-f", path)["chunk"]
    words = ("read-h5", "-f", path, "--cutout-start", "260", "70", "10", "--cutout-size", "5", "6", "7")
    part = run_chain(*words)["chunk"]
    np.testing.assert_array_equal(part.array, whole.cutout(Box.of((260, 70, 10), (5, 6, 7))).array)
    assert part.voxel_offset == (260, 70, 10)
    assert part.source["bounds"] == whole.bbox
    stop = run_chain("read-h5", "-f", path, "--cutout-stop", "258", "70", "10")["chunk"]
    assert str(stop.bbox) == "256-258_64-70_0-10"
    moved = run_chain(*words[:3], "--voxel-offset", "0", "0", "0", "--cutout-start", "90", "0", "0")["chunk"]
    assert moved.shape[0] == 6
    assert (
        "not inside" in segflow(*words[:3], "--cutout-start", 0, 0, 0, "--cutout-size", 4, 4, 4, code=2).last
    )
    both = ("--cutout-stop", 258, 70, 10, "--cutout-size", 1, 1, 1)
    assert "not both" in segflow(*words[:3], *both, code=2).last
    assert run_chain(*words, "--set-bbox").bbox == part.bbox
    assert run_chain(*words).bbox is None


def test_h5_channels_and_their_order(segflow):
    array = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    with h5py.File("pytc.h5", "w") as file:
        file["vol0"] = array
    found = run_chain("read-h5", "-f", "pytc.h5", "--channel-order", "zyx")["chunk"]
    np.testing.assert_array_equal(found.array, array[::-1])
    assert found.offsets == DEFAULT_OFFSETS
    one = run_chain("read-h5", "-f", "pytc.h5", "--channels", "1")["chunk"]
    np.testing.assert_array_equal(one.array, array[1])
    two = run_chain("read-h5", "-f", "pytc.h5", "--channels", "2,0")["chunk"]
    np.testing.assert_array_equal(two.array, array[[2, 0]])
    assert two.offsets == (DEFAULT_OFFSETS[2], DEFAULT_OFFSETS[0])
    assert run_chain("read-h5", "-f", "pytc.h5", "--channels", "0:2")["chunk"].channels == 2
    assert "counted from 0" in segflow("read-h5", "-f", "pytc.h5", "--channels", "3", code=2).last
    two_z = ("--channels", "0:2", "--channel-order", "zyx")
    assert "3 channels" in segflow("read-h5", "-f", "pytc.h5", *two_z, code=2).last


def test_h5_empty_file_can_be_removed(segflow):
    Path("a.h5").touch()
    assert "empty" in segflow("read-h5", "-f", "a.h5", code=2).last
    assert run_chain("read-h5", "-f", "a.h5", "--remove-empty", "write-h5", "-f", "b.h5").skipped
    assert not Path("a.h5").exists()
    assert not Path("b.h5").exists()


# -- what every format does -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tif", "h5", "npy"])
@pytest.mark.parametrize("content", ["text", "empty", "cut", "missing", "folder"])
def test_bad_files(segflow, kind, content):
    path = Path(f"a.{kind}")
    run_chain("write-" + kind, "-f", str(path), chunk=Chunk(np.ones((4, 30, 30), np.float64)))
    whole = path.read_bytes()
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        path.write_bytes({"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}[content])
    result = segflow(f"read-{kind}", "-f", path, "write-npy", "-f", "b.npy", code=None)
    assert result.code in ((1, 2) if content == "cut" else (2,))
    assert len(result.err.strip().splitlines()) == 1
    assert result.last.startswith(f"segflow read-{kind}: ")
    assert f"a.{kind}" in result.last
    assert not Path("b.npy").exists()


@pytest.mark.parametrize("kind", ["tif", "h5", "npy"])
def test_places_that_cannot_be_written(segflow, kind):
    words = ("create-chunk", "--size", 4, 8, 8, f"write-{kind}", "-f")
    assert "does not exist" in segflow(*words, f"no/such/a.{kind}", code=2).last
    Path("file").touch()
    assert "is not a folder" in segflow(*words, f"file/a.{kind}", code=2).last
    assert "cannot write" in segflow(*words, f"/proc/a.{kind}", code=None).last
    assert "no plain file" in segflow(*words, "/dev/null", code=1).last


@pytest.fixture
def small_disk(disk):
    return disk("1m")


@pytest.mark.parametrize("kind", ["tif", "h5", "npy", "zarr"])
def test_full_disk(process, small_disk, kind):
    words = ["--compression", "none"] if kind != "npy" else []
    target = small_disk / f"a.{kind}"
    done = process("create-chunk", "--size", 40, 256, 256, f"write-{kind}", "-f", target, *words, code=1)
    assert "no space left on device" in done.last
    assert "free some space" in done.last
    if kind != "zarr":
        assert not list(small_disk.iterdir())


@pytest.mark.parametrize("kind", ["tif", "h5", "npy"])
def test_a_failed_write_leaves_the_old_file(kind, monkeypatch):
    path = f"a.{kind}"
    run_chain("write-" + kind, "-f", path, chunk=Chunk(np.ones((2, 3, 4), np.uint8)))
    before = Path(path).read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(VolumeError, match="free some space"):
        run_chain("write-" + kind, "-f", path, chunk=Chunk(np.zeros((2, 3, 4), np.uint8)))
    assert Path(path).read_bytes() == before
    assert [p for p in Path().iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["tif", "h5", "npy"])
def test_a_file_for_each_task(kind):
    from segflow.operators import read_h5, read_npy, read_tif, write_h5, write_npy, write_tif

    write = {"tif": write_tif.write_tif, "h5": write_h5.write_h5, "npy": write_npy.write_npy}[kind]
    read = {"tif": read_tif.read_tif, "h5": read_h5.read_h5, "npy": read_npy.read_npy}[kind]
    run, boxes = Run(), [Box.of((0, 0, 4 * n), (2, 3, 4)) for n in range(2)]
    for name in ("out/", f"named_{{bbox}}.{kind}"):
        for number, box in enumerate(boxes):
            state = State(run=run)
            state.bbox = box
            chunk = Chunk(np.full(box.shape, number + 1, np.uint8), box.start)
            write(chunk, path=name, state=state)
            found = read(path=name, state=state)
            assert found.bbox == box
            np.testing.assert_array_equal(found.array, chunk.array)
    assert sorted(p.name for p in Path("out").iterdir() if p.suffix == f".{kind}") == [
        f"0-2_0-3_0-4.{kind}", f"0-2_0-3_4-8.{kind}",
    ]  # fmt: skip
    first, second = State(run=run), State(run=run)
    write(Chunk(np.ones((1, 1, 1), np.uint8)), path=f"plain.{kind}", state=first)
    with pytest.raises(VolumeError, match="already written in this run"):
        write(Chunk(np.zeros((1, 1, 1), np.uint8)), path=f"plain.{kind}", state=second)
    assert read(path=f"plain.{kind}").array.all()


def test_zeros_where_a_skip_led_to_the_writer():
    from segflow.operators.write_h5 import write_h5

    state = State()
    state.bbox, state.resumed = Box.of((4, 0, 0), (2, 3, 4)), True
    write_h5(Chunk(np.ones((3, 9, 9, 9), np.float32)), path="a.h5", state=state)
    found = hdf5.read_h5("a.h5")
    assert (found.bbox, found.shape, found.array.any()) == (state.bbox, (3, 2, 3, 4), False)


def test_two_steps_do_not_write_one_file(segflow):
    words = ("create-chunk", "--size", 4, 8, 8, "write-h5", "-f", "{0}", "write-h5", "-f", "{0}")
    for name in ("a.h5", "out/", "{bbox}.h5"):
        assert "two steps" in segflow(*(str(w).replace("{0}", name) for w in words), code=2).last


def test_a_chain_reads_what_it_wrote():
    image = Chunk(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), (1, 1, 1))
    state = run_chain("write-h5", "-f", "a.h5", "read-h5", "-f", "a.h5", "-o", "again", chunk=image)
    np.testing.assert_array_equal(state["again"].array, image.array)


def test_dark_uint16_images_are_warned_about(segflow, data):
    image = tifffile.imread(data / "ac4_image.tif")
    tifffile.imwrite("dark.tif", image.astype(np.uint16) * 16)
    tifffile.imwrite("bright.tif", image.astype(np.uint16) * 256)
    assert "under a tenth of its range" in segflow("read-tif", "-f", "dark.tif").err
    assert "tenth" not in segflow("read-tif", "-f", "bright.tif").err
    assert "tenth" not in segflow("read-tif", "-f", data / "ac4_labels.tif").err


def test_layer_types():
    for dtype, wanted in (
        ("uint8", "image"), ("float32", "image"), ("uint16", None),
        ("uint32", "segmentation"), ("uint64", "segmentation"), ("int32", "segmentation"),
    ):  # fmt: skip
        np.save("a.npy", np.zeros((2, 3, 4), dtype))
        assert npy.read_npy("a.npy").layer_type == wanted
    assert npy.read_npy("a.npy", layer_type="image").layer_type == "image"
    np.save("a.npy", np.zeros((2, 3), complex))
    with pytest.raises(VolumeError, match="complex"):
        npy.read_npy("a.npy")
    np.save("a.npy", np.zeros((1, 2, 3, 4, 5)))
    with pytest.raises(VolumeError, match="zyx or czyx"):
        npy.read_npy("a.npy")


def test_dtype_of_maps_follows_the_rule_of_255():
    truth = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5, 1)
    tif.write_tif("a.tif", Chunk(truth), dtype="uint8")
    np.testing.assert_array_equal(tifffile.imread("a.tif").ravel(), np.rint(truth.ravel() * 255))
    back = tif.read_tif("a.tif", dtype="float32")
    assert back.layer_type == "affinity_map"
    np.testing.assert_allclose(back.array, truth, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ChunkError, match=r"\[0, 1\]"):
        tif.write_tif("a.tif", Chunk(truth * 2), dtype="uint8")
    labels = Chunk(np.array([[[0.0, 7.0, 300.0]]], np.float32))
    npy.write_npy("a.npy", labels, dtype="uint32")
    assert np.load("a.npy").tolist() == [[[0, 7, 300]]]


def test_provenance_of_files(segflow):
    for kind in ("tif", "h5", "npy"):
        line = f"segflow create-chunk --size 4 8 8 write-{kind} --file-name a.{kind}"
        segflow(*line.split()[1:])
        assert segflow("provenance", f"a.{kind}").out.startswith(line)


def test_small_helpers():
    assert hdf5.split_dataset("a.hdf:/x/y") == ("a.hdf", "/x/y")
    with pytest.raises(UsageError):
        files.box_from(Box((0, 0, 0), (4, 4, 4)), stop=(1, 1, 1), size=(1, 1, 1))
    assert files.box_in_name("a/0-2_0-3_0-4.h5", (2, 3, 4)) == Box((0, 0, 0), (2, 3, 4))
    assert files.box_in_name("a/0-2_0-3_0-4.h5", (2, 3, 5)) is None
    with pytest.raises(BoxError):
        hdf5.select(files.describe("a", "h5", (2, 3, 4), "u1"), box=Box((0, 0, 0), (3, 3, 4)))


# -- inspect --------------------------------------------------------------------------------


def test_inspect_files(segflow, data):
    out = segflow("inspect", data / "pinky40_mip1.h5").out
    for words in ("96 256 288", "uint32", "segmentation", "40 16 16 nm", "256 64 0", "0 to 93907482", "none"):
        assert words in out
    out = segflow("inspect", data / "gala.h5").out
    assert "4 data sets" in out
    assert "/volumes/labels/watershed" in out
    out = segflow("inspect", f"{data / 'gala.h5'}:/volumes/labels/watershed").out
    assert "1 to 203" in out
    image = np.ones((9, 4, 5), np.float32)
    image[[1, 2, 3, 7]] = 0
    image[5, 0, 0] = np.nan
    np.save("a.npy", image)
    out = segflow("inspect", "a.npy").out
    assert "1-3, 7" in out
    assert "1 voxels" in out
    assert "unknown" in out
    assert "does not exist" in segflow("inspect", "nope.tif", code=None).last


def test_inspect_png(segflow, data):
    from PIL import Image

    segflow("inspect", data / "pinky40_mip1.h5", "--png", "labels.png")
    labels = run_chain("read-h5", "-f", str(data / "pinky40_mip1.h5"))["chunk"].array[48]
    picture = np.asarray(Image.open("labels.png"))
    assert picture.shape == (*labels.shape, 3)
    assert not picture[labels == 0].any()
    one = labels == labels[128, 144]
    assert len(np.unique(picture[one], axis=0)) == 1
    segflow("inspect", data / "ac4_image.tif", "--png", "image.png")
    picture = np.asarray(Image.open("image.png"))
    np.testing.assert_array_equal(picture[..., 0], tifffile.imread(data / "ac4_image.tif")[10])
