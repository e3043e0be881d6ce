"""Test patterns, contrast, intensities, quantisation, margins."""

from __future__ import annotations

from shlex import split as words

import cc3d
import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segflow.chunk import Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError
from segflow.geometry import Box
from segflow.image import create_chunk, normalize_contrast, normalize_intensity, quantize
from segflow.operators.create_chunk import create_chunk as create_chunk_operator
from segflow.operators.crop_margin import crop_margin
from segflow.state import State


@pytest.fixture(scope="module")
def image():
    from conftest import DATA

    return Chunk(tifffile.imread(DATA / "ac4_image.tif")[:6, 100:300, 50:300], voxel_offset=(5, 100, 50))


# -- test patterns ------------------------------------------------------------------------------


def test_random_is_textured_with_a_black_centre():
    chunk = create_chunk((30, 60, 90), voxel_offset=(1, 2, 3), voxel_size=(30, 6, 6))
    inner = chunk.array[10:20, 20:40, 30:60]
    assert not inner.any()
    outer = np.delete(chunk.array, np.s_[10:20], axis=0)
    assert outer.min() >= 1
    assert outer.std() > 20
    assert (chunk.voxel_offset, chunk.voxel_size, chunk.layer_type) == ((1, 2, 3), (30, 6, 6), "image")
    step = np.abs(np.diff(outer.astype(int), axis=2)).mean()
    assert step < outer.std()  # smooth, not white noise


def test_random_is_decided_by_seed_and_offset():
    first = create_chunk((8, 16, 16)).array
    np.testing.assert_array_equal(first, create_chunk((8, 16, 16)).array)
    assert (first != create_chunk((8, 16, 16), seed=1).array).any()
    assert (first != create_chunk((8, 16, 16), voxel_offset=(-8, 0, 0)).array).any()


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "int64"])
@pytest.mark.parametrize("pattern", ["random", "sin"])
def test_other_integers_hold_objects(dtype, pattern):
    chunk = create_chunk((40, 64, 64), dtype, pattern)
    assert (chunk.dtype, chunk.layer_type) == (np.dtype(dtype), "segmentation")
    labels = np.unique(chunk.array)
    assert len(labels) > 5
    np.testing.assert_array_equal(labels, np.arange(len(labels)))
    again = cc3d.connected_components((chunk.array > 0).astype(np.uint8), connectivity=6)
    assert again.max() == chunk.array.max()
    pairs = np.unique(np.stack([again.ravel(), chunk.array.ravel()]), axis=1)
    assert pairs.shape[1] == len(labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pattern", ["random", "sin"])
def test_floats_are_fractions(dtype, pattern):
    array = create_chunk((9, 33, 20), dtype, pattern).array
    assert array.dtype == dtype
    assert array.min() >= 0
    assert array.max() <= 1
    assert array.std() > 0.05


def test_waves_of_neighbours_fit():
    whole = create_chunk((40, 20, 20), pattern="sin").array
    part = create_chunk((10, 20, 12), pattern="sin", voxel_offset=(30, 0, 8)).array
    np.testing.assert_array_equal(whole[30:, :, 8:], part)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.sampled_from(["random", "sin", "zero"]))
def test_any_size(size, pattern):
    for dtype in ("uint8", "uint32", "float32"):
        chunk = create_chunk(size, dtype, pattern)
        assert chunk.shape == size
        assert pattern != "zero" or not chunk.array.any()


@pytest.mark.parametrize(
    ("words", "text"), [({"size": (0, 4, 4)}, "at least 1"), ({"pattern": "stripes"}, "random, sin, zero")]
)
def test_what_cannot_be_made(words, text):
    with pytest.raises(ChunkError, match=text):
        create_chunk(**{"size": (4, 4, 4), **words})


def test_more_objects_than_numbers(monkeypatch):
    monkeypatch.setattr(cc3d, "connected_components", lambda mask, **_: (mask.astype(np.uint32), 70000))
    with pytest.raises(ChunkError, match="uint16 cannot number 70000 objects"):
        create_chunk((4, 4, 4), "uint16")


def test_create_chunk_options(segflow, tmp_path):
    line = [
        "create-chunk",
        "-s",
        4,
        8,
        12,
        "--dtype",
        "float32",
        "--pattern",
        "sin",
        "--voxel-offset",
        1,
        2,
        3,
    ]
    made = run_chain(*map(str, [*line, "--voxel-size", 30, 6, 6, "-o", "image"]))["image"]
    assert (made.shape, made.dtype, str(made.bbox)) == ((4, 8, 12), np.float32, "1-5_2-10_3-15")
    assert made.voxel_size == (30, 6, 6)
    assert run_chain("create-chunk")["chunk"].shape == (64, 64, 64)
    assert not run_chain("create-chunk", "--all-zero")["chunk"].array.any()
    assert not run_chain("create-chunk", "-p", "zero")["chunk"].array.any()
    one, two = (run_chain("create-chunk", "--seed", seed)["chunk"].array for seed in "12")
    assert (one != two).any()
    boxed = run_chain("create-bbox", "-s", "4", "5", "6", "-z", "2", "3", "4", "create-chunk")["chunk"]
    assert str(boxed.bbox) == "4-6_5-8_6-10"
    assert "4x8x12 float32" in segflow("--dry-run", *line).out
    for bad in (["--size", 0, 4, 4], ["--dtype", "int7"], ["--pattern", "stripes"], ["--seed", -1]):
        assert segflow("create-chunk", *bad, code=2).err.startswith("segflow create-chunk: ")


def test_create_chunk_from_python():
    assert create_chunk_operator(size=(2, 3, 4)).shape == (2, 3, 4)


# -- contrast -----------------------------------------------------------------------------------


def stretched(section, lower, upper, minval, maxval):
    """Do the same level by level."""
    counts = [0, *(int((section == i).sum()) for i in range(1, 256))]
    total = sum(counts)
    if total == 0:
        return np.zeros_like(section)
    share = [sum(counts[: i + 1]) / total for i in range(256)]
    low = max(i for i in range(256) if share[i] <= lower)
    high = max(i for i in range(256) if share[i] <= 1 - upper)
    table = [i if low == high else (i - low) * maxval / (high - low) for i in range(256)]
    return np.array([round(min(max(v, minval), maxval)) for v in table], np.uint8)[section]


@pytest.mark.parametrize("options", [(0.01, 0.01, 1, 255), (0.0, 0.2, 0, 200), (0.3, 0.0, 10, 255)])
def test_contrast_of_real_sections(image, options):
    made = normalize_contrast(image, *options)
    for before, after in zip(image.array, made.array):
        np.testing.assert_array_equal(after, stretched(before, *options))
    assert (made.bbox, made.dtype, made.layer_type) == (image.bbox, np.uint8, "image")
    whole = normalize_contrast(image, *options, per_section=False)
    np.testing.assert_array_equal(whole.array, stretched(image.array, *options))
    assert (whole.array != made.array).any()


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (1, 3, 4)), st.floats(0, 0.4), st.floats(0, 0.4))
@example(np.array([[[255, 13, 133, 0], [0] * 4, [0] * 4]], np.uint8), 0.0, 0.25)  # 127.5 exactly
def test_contrast_of_any_section(array, lower, upper):
    made = normalize_contrast(Chunk(array), lower, upper)
    np.testing.assert_array_equal(made.array[0], stretched(array[0], lower, upper, 1, 255))


def test_contrast_of_flat_and_black_sections():
    array = np.zeros((2, 4, 4), np.uint8)
    array[1] = 77
    made = normalize_contrast(Chunk(array)).array
    assert not made[0].any()
    assert (made[1] == 77).all()


def test_contrast_of_channels_and_wide_images(image):
    two = Chunk(np.stack([image.array, 255 - image.array]), layer_type="image")
    made = normalize_contrast(two)
    np.testing.assert_array_equal(made.array[1], normalize_contrast(Chunk(255 - image.array)).array)
    assert made.layer_type == "image"
    wide = Chunk(image.array.astype(np.uint16) * 16, layer_type="image")
    assert normalize_contrast(wide).dtype == np.uint8
    assert np.abs(normalize_contrast(wide).array - normalize_contrast(image).array.astype(int)).max() <= 4
    assert normalize_contrast(wide, maxval=60000).array.max() == 60000


@pytest.mark.parametrize(
    ("dtype", "options", "text"),
    [
        ("float32", {}, "float32"),
        ("uint8", {"lower_clip_fraction": 0.5, "upper_clip_fraction": 0.5}, "less than 1"),
        ("uint8", {"minval": 9, "maxval": 9}, "9 to 9"),
        ("uint8", {"maxval": 300}, "1 to 300"),
        ("uint8", {"lower_clip_fraction": float("nan")}, "less than 1"),
    ],
)
def test_contrast_refuses(dtype, options, text):
    with pytest.raises(ChunkError, match=text):
        normalize_contrast(Chunk(np.ones((2, 3, 3), dtype)), **options)


def test_contrast_options(segflow, data, image):
    read = [
        "read-tif",
        "-f",
        str(data / "ac4_image.tif"),
        "crop-margin",
        "-m",
        *words("0 100 50 14 212 212"),
    ]
    line = [
        *read,
        "normalize-contrast",
        "-l",
        "0.1",
        "-u",
        "0.2",
        "--minval",
        "0",
        "--maxval",
        "99",
        "--whole",
    ]
    made = run_chain(*line)["chunk"]
    np.testing.assert_array_equal(made.array, normalize_contrast(image, 0.1, 0.2, 0, 99, False).array)
    default = run_chain(*read, "normalize-contrast")["chunk"]
    np.testing.assert_array_equal(default.array, normalize_contrast(image).array)
    for bad in (["-l", 0.6, "-u", 0.6], ["-l", -1], ["--minval", 255]):
        assert segflow("create-chunk", "normalize-contrast", *bad, code=2).err.count("\n") == 1
    line = ["create-chunk", "--dtype", "float32", "normalize-contrast"]
    assert "'chunk' is float32" in segflow(*line, code=2).err


def test_intensity(segflow, image):
    made = normalize_intensity(image)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made.array, image.array / 127.5 - 1, atol=1e-6)
    assert made.array.min() >= -1
    wide = Chunk(np.array([[[0, 65535]]], np.uint16), layer_type="image")
    assert normalize_intensity(wide).array.tolist() == [[[-1, 1]]]
    assert run_chain("create-chunk", "normalize-intensity")["chunk"].array.min() == -1
    with pytest.raises(ChunkError, match="uint32"):
        normalize_intensity(Chunk(np.ones((1, 1, 1), np.uint32)))
    assert "uint32" in segflow("create-chunk", "-d", "uint32", "normalize-intensity", code=2).err


# -- quantisation -------------------------------------------------------------------------------


def test_quantize_a_real_probability_map(data):
    with h5py.File(data / "gala.h5") as file:
        chunk = Chunk(file["volumes/boundary_probability"][:10], layer_type="probability_map")
    made = quantize(chunk)
    assert (made.dtype, made.shape, made.layer_type) == (np.uint8, chunk.shape, "probability_map")
    np.testing.assert_array_equal(made.array, np.rint(chunk.array * 255))
    assert np.abs(made.array / 255 - chunk.array).max() <= 0.5 / 255 + 1e-6
    assert quantize(made).array.tobytes() == made.array.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_quantize_picks_channels_by_offset(dtype):
    random = np.random.default_rng(0).random((4, 3, 5, 7))
    array = (random * 255).astype(dtype) if dtype == "uint8" else random.astype(dtype)
    offsets = ((-1, 0, 0), (0, -9, 0), (0, -1, 0), (0, 0, -1))
    chunk = Chunk(array, (1, 2, 3), (30, 6, 6), "affinity_map", offsets)
    values = array / 255 if dtype == "uint8" else array
    for mode, wanted in (("xy", (values[2] + values[3]) / 2), ("z", values[0])):
        made = quantize(chunk, mode)
        assert np.abs(made.array - wanted * 255).max() <= 0.5001
        assert (made.bbox, made.layer_type, made.voxel_size) == (chunk.bbox, "image", (30, 6, 6))


@pytest.mark.parametrize(
    ("array", "mode", "text"),
    [
        (np.full((3, 1, 1, 1), 1.5, np.float32), "xy", "1.5"),
        (np.full((3, 1, 1, 1), np.nan, np.float32), "xy", "nan"),
        (np.full((1, 1, 1), -0.1, np.float32), "xy", "-0.1"),
        (np.ones((1, 1, 1), np.uint32), "xy", "uint32"),
        (np.ones((3, 1, 1, 1), np.float32), "yz", "xy, z"),
    ],
)
def test_quantize_refuses(array, mode, text):
    with pytest.raises(ChunkError, match=text):
        quantize(Chunk(array), mode)


def test_quantize_needs_the_channels():
    chunk = Chunk(
        np.ones((2, 1, 1, 1), np.float32), layer_type="affinity_map", offsets=((-1, 0, 0), (0, -1, 0))
    )
    assert quantize(chunk, "z").array.tolist() == [[[255]]]
    with pytest.raises(ChunkError, match="lack"):
        quantize(chunk, "xy")


def test_quantize_options(segflow, tmp_path):
    affinities = np.stack([np.full((2, 4, 4), v, np.float32) for v in (0.2, 0.4, 1.0)])
    np.save(tmp_path / "affs.npy", affinities)
    read = ["read-npy", "-f", str(tmp_path / "affs.npy"), "quantize"]
    assert np.unique(run_chain(*read)["chunk"].array) == [round(0.3 * 255)]
    assert np.unique(run_chain(*read, "--mode", "z")["chunk"].array) == [255]
    assert "2x4x4 uint8" in segflow("--dry-run", *read).out
    assert "uint32" in segflow("create-chunk", "-d", "uint32", "quantize", code=2).err


# -- margins ------------------------------------------------------------------------------------


def test_crop_by_six_margins(image):
    made = crop_margin(image, margin_size=(1, 10, 20, 2, 30, 40))
    np.testing.assert_array_equal(made.array, image.array[1:-2, 10:-30, 20:-40])
    assert made.voxel_offset == (6, 110, 70)
    assert np.shares_memory(made.array, image.array)
    channels = Chunk(np.stack([image.array] * 3).astype(np.float32) / 255)
    assert crop_margin(channels, margin_size=(0, 0, 0, 5, 0, 0)).shape == (3, 1, 200, 250)


def test_crop_to_the_task(image):
    state = State()
    state.bbox = Box((6, 110, 60), (8, 120, 100))
    assert crop_margin(image, state=state).bbox == state.bbox
    crop_margin(image, margin_size=(1, 1, 1, 1, 1, 1), crop_bbox=True, state=state)
    assert str(state.bbox) == "7-7_111-119_61-99"


def test_crop_margin_options(segflow):
    task = words("create-bbox -s 2 2 2 -z 4 4 4 create-chunk -s 8 8 8 -t 0 0 0 crop-margin")
    assert str(run_chain(*task)["chunk"].bbox) == "2-6_2-6_2-6"
    cut = run_chain(*task, *words("-m 0 1 2 3 0 1 --crop-bbox"))
    assert str(cut["chunk"].bbox) == "0-5_1-8_2-7"
    assert str(cut.bbox) == "2-3_3-6_4-5"
    assert str(run_chain(*task, *words("-m 0 1 2 3 0 1")).bbox) == "2-6_2-6_2-6"
    assert "chunk 4x4x4 uint8" in segflow("--dry-run", *task).out
    bad = {
        "create-chunk crop-margin": "give --margin-size",
        "create-chunk crop-margin -m 32 0 0 32 0 0": "leave nothing of the chunk's 0-64_0-64_0-64",
        "create-bbox -s 0 0 0 -z 99 9 9 create-chunk -s 8 8 8 -t 0 0 0 crop-margin": "0-99_0-9_0-9",
    }
    for line, text in bad.items():
        result = segflow(*words(line), code=2)
        assert text in result.err
        assert result.err.count("\n") == 1
