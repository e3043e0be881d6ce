"""Downsampling: windows against plain numpy and tinybrain, chunks, pyramids, tasks."""

from __future__ import annotations

from collections import Counter

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, UsageError
from segflow.geometry import Box, Grid
from segflow.image.downsample import downsample, downsample_chunk
from segflow.volumes import info as metadata
from segflow.volumes import open_volume
from segflow.volumes.info import isotropic_factor
from segflow.volumes.pyramid import build_pyramid, write_pyramid

factors = st.tuples(*[st.integers(1, 3)] * 3)
sizes = st.tuples(*[st.integers(1, 7)] * 3)


@pytest.fixture(scope="module")
def labels():
    from conftest import DATA

    with h5py.File(DATA / "pinky40_mip1.h5") as file:
        return file["mip1"][:]


def windows(array, factor, phase=(0, 0, 0)):
    """Give (index, window) for every window of a zyx array, cut at its faces."""
    size = [-(-(n + p) // f) for n, p, f in zip(array.shape, phase, factor)]
    for index in np.ndindex(*size):
        yield (
            index,
            array[tuple(slice(max(i * f - p, 0), (i + 1) * f - p) for i, f, p in zip(index, factor, phase))],
        )


@settings(max_examples=60, deadline=None)
@given(sizes, factors, st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32"]), st.data())
def test_mean_is_that_of_each_window(size, factor, dtype, data):
    phase = tuple(data.draw(st.integers(0, f - 1)) for f in factor)
    array = np.random.default_rng(sum(size)).integers(0, 100, size).astype(dtype)
    made = downsample(array, factor, phase=phase)
    assert made.dtype == array.dtype
    for index, window in windows(array, factor, phase):
        mean = window.mean(dtype=np.float64)
        assert made[index] == (np.float32(mean) if dtype == "float32" else np.floor(mean + 0.5))


@settings(max_examples=60, deadline=None)
@given(sizes, factors, st.sampled_from(["uint8", "uint16", "uint32", "uint64", "int64", "bool"]), st.data())
def test_mode_is_a_most_frequent_label(size, factor, dtype, data):
    phase = tuple(data.draw(st.integers(0, f - 1)) for f in factor)
    array = np.random.default_rng(sum(size)).integers(0, 3, size).astype(dtype)
    made = downsample(array, factor, labels=True, phase=phase)
    for index, window in windows(array, factor, phase):
        counts = Counter(window.ravel().tolist()).most_common()
        best = [value for value, count in counts if count == counts[0][1]]
        wanted = next(v for v in window.ravel().tolist() if v in best and (v or len(best) == 1))
        assert made[index] == wanted


def test_channels_are_separate():
    array = np.random.default_rng(0).integers(0, 255, (3, 4, 6, 5), np.uint8)
    made = downsample(array, (1, 2, 2))
    assert made.shape == (3, 4, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(made[channel], downsample(array[channel], (1, 2, 2)))


def test_other_dtypes():
    half = np.full((2, 2, 2), 0.5, np.float16)
    assert downsample(half).dtype == np.float16
    assert downsample(half)[0, 0, 0] == 0.5
    assert np.isnan(downsample(np.full((2, 2, 2), np.nan, np.float32)))
    large = np.full((2, 2, 2), 2**40, np.int64)
    assert downsample(large)[0, 0, 0] == 2**40


@pytest.mark.parametrize("factor", [(1, 2, 2), (2, 2, 2)])
def test_against_tinybrain(data, labels, factor):
    tinybrain = pytest.importorskip("tinybrain")
    image = tifffile.imread(data / "ac4_image.tif")
    theirs = tinybrain.downsample_with_averaging(image.T, factor[::-1])[0].T
    ours = downsample(image, factor)
    difference = ours.astype(int) - theirs
    assert set(np.unique(difference)) <= {0, 1}  # tinybrain cuts the fraction off, we round
    theirs = tinybrain.downsample_segmentation(labels.T, factor[::-1])[0].T
    ours = downsample(labels, factor, labels=True)
    unequal = np.argwhere(ours != theirs)
    assert len(unequal) < 0.06 * ours.size  # ties
    for index in unequal[:: max(1, len(unequal) // 200)]:
        window = labels[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor))].ravel().tolist()
        assert window.count(ours[tuple(index)]) == window.count(theirs[tuple(index)])


def test_chunk_keeps_its_place():
    chunk = Chunk(np.arange(60, dtype=np.uint32).reshape(3, 4, 5), (1, 3, 4), (30, 6, 6))
    small = downsample_chunk(chunk, (2, 2, 2))
    assert small.voxel_offset == (0, 1, 2)
    assert small.voxel_size == (60, 12, 12)
    assert small.shape == (2, 3, 3)
    assert small.is_segmentation
    assert small.array[0, 0, 0] == 0 or small.array[0, 0, 0] in chunk.array[:1, :1, :2]


def test_a_part_is_the_part_of_the_whole(labels):
    whole = Chunk(labels, (256, 64, 0))
    box = Box((259, 71, 5), (300, 140, 99))
    part = downsample_chunk(whole.cutout(box), (2, 2, 2))
    all_of_it = downsample_chunk(whole, (2, 2, 2))
    inner = Box((130, 36, 3), (150, 70, 49))
    np.testing.assert_array_equal(part.cutout(inner).array, all_of_it.cutout(inner).array)


def test_uint16_has_to_be_told(segflow, tmp_path, data):
    chunk = Chunk(np.zeros((2, 2, 2), np.uint16))
    with pytest.raises(ChunkError, match="--layer-type"):
        downsample_chunk(chunk)
    line = ["read-tif", "-f", data / "ac4_labels.tif", "downsample", "--factor", 1, 2, 2]
    assert "--layer-type" in segflow(*line, code=2).last
    segflow(*line, "--layer-type", "segmentation", "write-npy", "-f", tmp_path / "a.npy")
    wanted = downsample(tifffile.imread(data / "ac4_labels.tif"), (1, 2, 2), labels=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), wanted)


def test_bad_input():
    with pytest.raises(ChunkError, match="not positive"):
        downsample(np.zeros((2, 2, 2), np.uint8), (0, 2, 2))
    with pytest.raises(ChunkError, match="not empty"):
        downsample(np.zeros((0, 2, 2), np.uint8))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ([], (20, 256, 256)),  # 30 6 6 nm: towards cubes
        (["--factor", 2, 2, 2], (10, 256, 256)),
        (["--levels", 2], (20, 128, 128)),
        (["--factor", 2, 4, 1, "--levels", 2], (5, 32, 512)),
    ],
)
def test_command_on_a_chunk(segflow, data, tmp_path, options, shape):
    segflow("read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "downsample", *options,
            "write-npy", "-f", tmp_path / "a.npy")  # fmt: skip
    assert np.load(tmp_path / "a.npy").shape == shape


def test_factor_towards_cubes():
    assert isotropic_factor((40, 4, 4)) == (1, 2, 2)
    assert isotropic_factor((40, 32, 32)) == (2, 2, 2)
    assert isotropic_factor((10, 10, 10)) == isotropic_factor(None) == (2, 2, 2)


# -- pyramids -------------------------------------------------------------------------------------


def make(path, chunk, mips=1, block=(32, 32, 32), factor=None, encoding="raw"):
    volume = open_volume(str(path))
    kind = chunk.layer_type
    raw = metadata.make(
        chunk.bbox, chunk.dtype.name, channels=chunk.channels, layer_type=kind,
        voxel_size=chunk.voxel_size, block_size=block, encoding=encoding,
    )  # fmt: skip
    volume.create(metadata.with_mips(raw, mips, factor))
    volume.write(chunk)
    return volume


def levels(chunk, volume, count):
    """Give the chunk downsampled at once by the volume's factors, mips 1 to count - 1."""
    found = []
    for mip in range(1, count):
        chunk = downsample_chunk(chunk, volume.ratio(mip - 1, mip)[1])
        found.append(chunk)
    return found


@pytest.mark.parametrize("memory", [1, 1 << 19, 1 << 30])
def test_pyramid_is_that_of_the_whole(tmp_path, labels, memory):
    chunk = Chunk(labels[:40, :101, :90], (257, 63, 3), (40, 16, 16))
    volume = make(tmp_path / "v", chunk, mips=4, encoding="compressed_segmentation")
    assert build_pyramid(volume, memory=memory) == [1, 2, 3]
    for mip, whole in enumerate(levels(chunk, volume, 4), 1):
        assert volume.info(mip).bounds == whole.bbox
        assert volume.info(mip).encoding == "compressed_segmentation"
        np.testing.assert_array_equal(volume.read(mip=mip, fill_missing=False).array, whole.array)


def test_pyramid_holds_blocks_not_the_volume(tmp_path, labels, monkeypatch):
    volume = make(tmp_path / "v", Chunk(labels, (0, 0, 0), (40, 16, 16)), mips=2)
    boxes = []
    read = type(volume).read

    def watched(self, box, mip, **options):
        boxes.append(box)
        return read(self, box, mip, **options)

    monkeypatch.setattr(type(volume), "read", watched)
    build_pyramid(volume, memory=1 << 19)
    assert max(b.voxels for b in boxes) * 4 <= 1 << 19
    assert sum(b.voxels for b in boxes) == labels.size


def test_pyramid_of_channels_and_bytes(tmp_path):
    array = np.random.default_rng(1).integers(0, 255, (3, 9, 21, 33), np.uint8)
    chunk = Chunk(array, (1, 1, 1), (30, 6, 6), "affinity_map")
    volume = make(tmp_path / "v", chunk)
    assert build_pyramid(volume, stop_mip=3, factor=(1, 2, 2)) == [1, 2]
    for mip, whole in enumerate(levels(chunk, volume, 3), 1):
        np.testing.assert_array_equal(volume.read(mip=mip).array, whole.array)
        assert volume.info(mip).layer_type == "affinity_map"


def test_command_on_a_volume_runs_once_at_the_end(segflow, tmp_path, data):
    volume = tmp_path / "v"
    done = segflow(
        "read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "-o", "image",
        "downsample", "-v", volume, "--mips", 3, "write-precomputed", "-i", "image", "-v", volume, code=2,
    )  # fmt: skip
    assert "no precomputed volume" in done.last  # the write comes later in the line
    segflow(
        "read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "-o", "image",
        "write-precomputed", "-i", "image", "-v", volume, "downsample", "-v", volume, "--mips", 3,
    )  # fmt: skip
    found = open_volume(str(volume))
    assert found.info().mips == 3
    whole = Chunk(tifffile.imread(data / "ac4_image.tif"), voxel_size=(30, 6, 6))
    for mip, wanted in enumerate(levels(whole, found, 3), 1):
        np.testing.assert_array_equal(found.read(mip=mip).array, wanted.array)
    segflow("downsample", "-v", volume, "--start-mip", 2, "--stop-mip", 5, "--factor", 2, 2, 2)
    found = open_volume(str(volume))
    assert found.info(4).bounds.shape == (5, 32, 32)
    assert found.info(4).voxel_size == (120, 96, 96)


def test_default_fills_what_the_volume_names(segflow, tmp_path, data):
    volume = tmp_path / "v"
    line = [
        "read-tif",
        "-f",
        data / "ac4_image.tif",
        "--voxel-size",
        30,
        6,
        6,
        "write-precomputed",
        "-v",
        volume,
    ]
    segflow(*line, "--mips", 2, "--factor", 1, 4, 4, "downsample", "-v", volume)
    found = open_volume(str(volume))
    assert found.info().mips == 2
    assert found.read(mip=1).shape == (20, 128, 128)
    assert found.read(mip=1).array.any()


def test_zarr_pyramid(segflow, tmp_path, data):
    volume = f"zarr://{tmp_path / 'v.zarr'}"
    segflow("read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "write-precomputed", "-v", volume,
            "downsample", "-v", volume, "--mips", 3)  # fmt: skip
    found = open_volume(volume)
    whole = Chunk(tifffile.imread(data / "ac4_image.tif"), voxel_size=(30, 6, 6))
    for mip, wanted in enumerate(levels(whole, found, 3), 1):
        np.testing.assert_array_equal(found.read(mip=mip).array, wanted.array)


def test_refused_in_a_worker(tmp_path, labels):
    from segflow.cli.plan import Plan
    from segflow.operators.downsample import plan_downsample

    make(tmp_path / "v", Chunk(labels[:8, :8, :8]))
    options = {"volume": str(tmp_path / "v"), "chunk": None, "output": "chunk"}
    with pytest.raises(UsageError, match="downsample-upload"):
        plan_downsample(Plan(lease=True), options)


def test_missing_names(segflow):
    assert "-v" in segflow("downsample", code=2).last
    assert "no precomputed volume" in segflow("downsample", "-v", "nowhere", code=2).last


# -- a task's part --------------------------------------------------------------------------------


def test_tasks_make_the_same_pyramid(tmp_path, labels):
    chunk = Chunk(labels[:32, :128, :112], (0, 64, 0), (40, 16, 16))
    whole = make(tmp_path / "whole", chunk, mips=4, factor=(1, 2, 2))
    build_pyramid(whole)
    tasks = make(tmp_path / "tasks", chunk)
    for box in (Box((0, 64, 0), (32, 128, 64)), Box((0, 128, 0), (32, 192, 64)),
                Box((0, 64, 64), (32, 128, 112)), Box((0, 128, 64), (32, 192, 112))):  # fmt: skip
        assert write_pyramid(tasks, chunk.cutout(box), stop_mip=4) == [1, 2, 3]
    for mip in (1, 2, 3):
        np.testing.assert_array_equal(tasks.read(mip=mip).array, whole.read(mip=mip).array)


def test_task_that_does_not_divide(tmp_path, labels):
    chunk = Chunk(labels[:32, :64, :64])
    volume = make(tmp_path / "v", chunk)
    box = Box((0, 0, 0), (32, 30, 64))
    other = Chunk(labels[1:33, :64, :64]).cutout(box)
    with pytest.raises(BoxError, match="does not divide by 1 8 8, and mip 0 of .* does not hold the chunk"):
        write_pyramid(volume, other, stop_mip=4)
    assert volume.info().mips == 1  # refused before the info was changed
    with pytest.raises(UsageError, match="nothing to write"):
        write_pyramid(volume, chunk, mip=2, stop_mip=2)


@pytest.mark.parametrize("start_mip", [0, 1])
def test_tasks_that_do_not_divide_make_the_same_pyramid(tmp_path, labels, start_mip):
    chunk = Chunk(labels[:31, :128, :112], (0, 64, 0), (40, 16, 16))
    whole = make(tmp_path / "whole", chunk, mips=4, factor=(1, 2, 2))
    build_pyramid(whole)
    tasks = make(tmp_path / "tasks", chunk)
    if start_mip == 0:  # the tasks write their own voxels too
        tasks.write(Chunk(np.zeros_like(chunk.array), (0, 64, 0), (40, 16, 16), chunk.layer_type))
    for box in Grid.over(chunk.bbox, (13, 37, 41), (13, 37, 41)):
        part = chunk.cutout(box.intersect(chunk.bbox))
        write_pyramid(tasks, part, start_mip=start_mip, stop_mip=4, factor=(1, 2, 2))
    for mip in (0, 1, 2, 3):
        np.testing.assert_array_equal(tasks.read(mip=mip).array, whole.read(mip=mip).array)


def test_downsample_upload(segflow, tmp_path, data):
    volume = tmp_path / "v"
    read = ["read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6]
    segflow(*read, "write-precomputed", "-v", volume)
    segflow(
        "read-precomputed", "-v", volume, "downsample-upload", "-v", volume, "--stop-mip", 4, "--fill-missing"
    )
    found = open_volume(str(volume))
    assert [found.info(m).bounds.shape for m in range(4)] == [(20, 512 >> m, 512 >> m) for m in range(4)]
    whole = Chunk(tifffile.imread(data / "ac4_image.tif"), voxel_size=(30, 6, 6))
    for mip, wanted in enumerate(levels(whole, found, 4), 1):
        np.testing.assert_array_equal(found.read(mip=mip).array, wanted.array)
    other = tmp_path / "w"
    segflow(*read, "write-precomputed", "-v", other)
    segflow("--mip", 0, "read-precomputed", "-v", volume, "-m", 1, "downsample-upload", "-v", volume,
            "--chunk-mip", 1, "--start-mip", 2, "--stop-mip", 3)  # fmt: skip
    segflow(
        "read-precomputed",
        "-v",
        other,
        "downsample-upload",
        "-v",
        other,
        "--factor",
        2,
        2,
        2,
        "-s",
        2,
        "-p",
        3,
    )
    found = open_volume(str(other))
    assert found.info(2).bounds.shape == (5, 128, 128)
    assert not found.read(mip=1).array.any()
    assert found.read(mip=2).array.any()
    assert (
        "nothing to write" in segflow(*read, "downsample-upload", "-v", other, "-s", 3, "-p", 3, code=2).last
    )


@pytest.mark.parametrize(
    ("words", "option"), [(["downsample-upload", "-s", 2, "-p", 4], "--chunk-mip 1"), (["save"], "--mip 1")]
)
def test_a_chunk_of_another_mip_is_refused(words, option, tmp_path, labels, segflow):
    """It would be written as if it were of the task's mip, over what is there."""
    volume = make(tmp_path / "v", Chunk(labels[:32, :64, :64], voxel_size=(40, 16, 16)), mips=4)
    build_pyramid(volume)
    before = [volume.read(mip=mip).array for mip in range(4)]
    line = ["read-precomputed", "-v", volume.path, "-m", 1, *words, "-v", volume.path]
    assert option in segflow(*line, code=1).last
    for mip in range(4):
        np.testing.assert_array_equal(volume.read(mip=mip).array, before[mip])
    segflow(*line, *option.split())
