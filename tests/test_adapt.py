"""Whether an image fits a network's training, and --adapt: grey levels mapped, voxels resampled."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_modelfile import OFFSETS, PATCH, write

from segflow.chunk import Chunk
from segflow.errors import ChunkError, ModelError
from segflow.geometry import Box
from segflow.inference import levels as grey
from segflow.inference.adapt import Training, adapt
from segflow.inference.header import read_header
from segflow.inference.resample import Resampling, bring_back, sample


@pytest.fixture(scope="module")
def ac4():
    """Give the bundled image."""
    from conftest import DATA

    return tifffile.imread(DATA / "ac4_image.tif")


@pytest.fixture(scope="module")
def trained(ac4):
    """Give its description, as a training stores it."""
    return grey.of_array(ac4)


@pytest.fixture
def model(tmp_path, trained):
    """Give a model file of a training on it, at 30 x 6 x 6 nm."""
    write(tmp_path / "model.pt", grey_levels=trained)
    return tmp_path / "model.pt"


def affinities(labels, offset):
    """Give 1 where a voxel and that at ``offset`` have one label, also beyond the faces."""
    moved = np.roll(labels, [-o for o in offset], axis=(0, 1, 2))
    return (labels == moved).astype(np.float32)


# ------------------------------------------------------------------ whether it fits


def test_sections_of_ac4_fit_each_other(ac4):
    for left_out in range(len(ac4)):
        training = grey.of_array(np.delete(ac4, left_out, axis=0))
        assert grey.warn(grey.of_array(ac4[left_out : left_out + 1]), training) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: 255 - a, "inverted"),
        (lambda a: a // 2, "do not fit"),
        (lambda a: a.astype(np.uint16) * 16, "do not fit"),
        (lambda a: 96 + a // 4, "do not fit"),
        (lambda a: a.astype(np.float32), "do not fit"),
    ],
    ids=["inverted", "dark", "12 bits in 16", "flat", "floats up to 255"],
)
def test_other_grey_levels_are_told_in_one_line(ac4, trained, change, word, caplog):
    with caplog.at_level(logging.WARNING, "segflow"):
        said = grey.warn(grey.of_array(change(ac4)), trained)
    assert word in str(said)
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()


@settings(max_examples=15, deadline=None)
@given(st.tuples(st.integers(0, 9), st.integers(0, 200), st.integers(0, 200)))
def test_black_borders_change_nothing(margin):
    image = np.random.default_rng(0).integers(2, 255, (12, 128, 128)).astype(np.uint8)
    z, y, x = margin
    padded = np.pad(image, ((z, 9 - z), (y, 200 - y), (x, 200 - x)))
    plain, found = grey.of_array(image), grey.of_array(padded)
    assert grey.distance(found, plain) < 0.02
    assert grey.warn(found, plain) is None
    assert grey.of_array(np.maximum(padded, 1)) == found  # what normalize-contrast makes of black
    assert grey.of_array(np.zeros_like(image)) is None


def test_small_chunks_of_the_training_s_volume_fit_too(ac4):
    training = grey.of_array(ac4)
    chunks = [ac4[:, y : y + 128, x : x + 128] for y in range(0, 385, 32) for x in range(0, 385, 32)]
    told = [grey.of_array(chunk) for chunk in chunks]
    assert max(grey.distance(found, training) for found in told) > grey.LIMIT
    assert [grey.warn(found, training) for found in told] == [None] * len(told)
    assert all(grey.warn(grey.of_array(chunk // 2), training) for chunk in chunks)


def test_a_masked_volume_fits(ac4, trained):
    masked = ac4.copy()
    masked[:, :, :300] = 0
    masked[:5] = 0
    assert grey.warn(grey.of_array(masked), trained) is None


def test_inference_warns_once_for_voxels_and_once_for_grey_levels(segflow, model, ac4, tmp_path):
    tifffile.imwrite(tmp_path / "dark.tif", ac4[:8, :64, :64] // 3)
    read = ["read-tif", "-f", tmp_path / "dark.tif", "--voxel-size", 30, 9, 6]
    said = segflow(*read, "inference", "-m", model, "--mask-output-chunk").err.splitlines()
    assert sum("voxels of 30x9x6 nm" in line for line in said) == 1
    assert sum("grey levels of the image do not fit" in line for line in said) == 1
    tifffile.imwrite(tmp_path / "good.tif", ac4[:8, :64, :64])
    read = ["read-tif", "-f", tmp_path / "good.tif", "--voxel-size", 29, 6, 6]
    assert "nm" not in segflow(*read, "inference", "-m", model, "--mask-output-chunk").err


# ------------------------------------------------------------------ grey levels


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 1), st.floats(0, 0.4), st.floats(0.5, 2))
def test_any_monotone_change_is_undone(scale, shift, power):
    rng = np.random.default_rng(1)
    image = rng.beta(2, 2, (6, 64, 64)).astype(np.float32) * 0.9 + 0.05
    changed = ((image**power) * scale * (1 - shift) + shift).astype(np.float32)
    training = grey.of_array(image)
    mapped = grey.mapping_of(grey.of_array(changed), training)(changed)
    assert grey.distance(grey.of_array(mapped), training) < 0.01
    order = np.argsort(changed, axis=None)
    assert (np.diff(mapped.ravel()[order]) >= 0).all()
    assert np.abs(mapped - image).max() < 0.12
    assert np.abs(mapped - image).mean() < 0.01


def test_zeros_stay_zeros_and_nothing_else_becomes_zero(ac4, trained):
    dark = ac4 // 2
    found, back = adapt(Chunk(dark), Training(None, trained))
    assert ((found.array == 0) == (dark == 0)).all()
    assert found.array.dtype == np.float32
    assert 0 <= found.array.min() <= found.array.max() <= 1
    assert grey.distance(grey.of_array(found.array), trained) < 0.04
    assert back(found) is found


def test_levels_that_are_given_map_all_chunks_alike(ac4, trained):
    training = Training(None, trained)
    whole = adapt(Chunk(ac4), training, (20, 90))[0].array
    part = adapt(Chunk(ac4[3:7, 100:300]), training, (20, 90))[0].array
    assert np.array_equal(whole[3:7, 100:300], part)
    assert not np.allclose(whole[3:7, 100:300], adapt(Chunk(ac4[3:7, 100:300]), training)[0].array)


def test_an_inverted_image_is_told_and_not_turned(ac4, trained, caplog):
    with caplog.at_level(logging.WARNING, "segflow"):
        found = adapt(Chunk(255 - ac4), Training(None, trained))[0]
    assert "inverted" in caplog.text
    assert np.corrcoef(found.array[0].ravel(), ac4[0].ravel())[0, 1] < -0.9


def test_what_cannot_be_adapted_is_refused(trained):
    with pytest.raises(ChunkError, match="one grey level"):
        adapt(Chunk(np.full((4, 64, 64), 7, np.uint8)), Training(None, trained))
    with pytest.raises(ModelError, match="--adapt needs"):
        adapt(Chunk(np.zeros((4, 64, 64), np.uint8)), Training())
    with pytest.raises(ChunkError, match="more than 4 times"):
        Resampling.between((4, 64, 64), (30, 30, 30), (30, 6, 6))
    empty = Chunk(np.zeros((4, 64, 64), np.uint8))
    assert adapt(empty, Training(None, trained))[0] is empty


# ------------------------------------------------------------------ voxels


def test_rounding_needs_no_resampling():
    assert Resampling.between((4, 64, 64), (29, 6, 6.1), (30, 6, 6)) is None
    way = Resampling.between((4, 64, 64), (30, 12, 6.1), (30, 6, 6))
    assert (way.network, way.ratio) == ((4, 128, 64), (1, 2, 1))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.26, 3.9), st.integers(20, 50))
def test_a_ramp_stays_a_ramp_at_its_place(ratio, size):
    way = Resampling.between((4, 6, size), (1, 1, ratio), (1, 1, 1))
    if way is None:
        return
    place = (np.arange(size) + 0.5) / size  # of voxels in the box
    there = way.there(np.broadcast_to(place.astype(np.float32), (4, 6, size)))
    n = there.shape[2]
    inner = slice(n // 4, n - n // 4)
    assert np.allclose(
        there[0, 0, inner], ((np.arange(n) + 0.5) / n)[inner], atol=0.1 / n
    )  # a tenth of a voxel
    again = way.back(there, Box.of((0, 0, 0), there.shape))
    inner = slice(size // 3, size - size // 3)
    assert again.shape == (4, 6, size)
    assert np.allclose(again[0, 0, inner], place[inner], atol=0.1 / n)  # a tenth of a voxel


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_affinities_of_a_coarser_image_are_those_of_its_own_voxels(axis, step, factor):
    """The network's voxels are finer; labels are wide, so each border is one step of the image."""
    coarse = np.zeros((12, 12, 12), np.int64)
    index = [slice(None)] * 3
    for i, start in enumerate((0, 3, 7, 10)):
        index[axis] = slice(start, None)
        coarse[tuple(index)] = i + 1
    way = Resampling((12, 12, 12), tuple(12 * factor if a == axis else 12 for a in range(3)))
    fine = np.repeat(coarse, factor, axis=axis)
    offset = tuple(step if a == axis else 0 for a in range(3))
    found = way.back(affinities(fine, offset), Box.of((0, 0, 0), fine.shape), offset)
    assert way.offset(offset) == offset
    inner = [slice(None)] * 3
    inner[axis] = slice(1, -1)
    assert np.array_equal(found[tuple(inner)], affinities(coarse, offset)[tuple(inner)])


@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_affinities_of_a_finer_image_are_lowest_at_the_same_face(step, factor):
    coarse = np.repeat([1, 2, 3], [4, 5, 3])[None, None] * np.ones((4, 4, 1), np.int64)
    fine = np.repeat(coarse, factor, axis=2)
    way = Resampling(fine.shape, coarse.shape)
    offset = (0, 0, step)
    found = way.back(affinities(coarse, offset), Box.of((0, 0, 0), coarse.shape), offset)
    want = affinities(fine, offset)
    inner = slice(factor, -factor)
    assert np.allclose(found[..., inner][want[..., inner] == 0], 0, atol=1e-6)
    assert found[..., inner][want[..., inner] == 1].min() > 0.2
    assert (found[..., inner][want[..., inner] == 1]).mean() > 0.8


def test_long_offsets_keep_their_length_in_nm():
    way = Resampling((10, 80, 80), (10, 40, 40))
    assert [way.offset(o) for o in OFFSETS] == [(0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, 0, -18), (-3, 0, 0)]
    back = Resampling((10, 20, 20), (10, 40, 40))
    assert back.offset((0, 0, -9)) in [(0, 0, -4), (0, 0, -5)]
    answer = Chunk(np.zeros((2, 10, 40, 40), np.float32), layer_type="affinity_map",
                   offsets=((0, 0, -1), (0, 0, -2)))  # fmt: skip
    with pytest.raises(ChunkError, match="are both"):
        bring_back(answer, back, Chunk(np.zeros((10, 20, 20), np.uint8)))


def test_a_cut_answer_lies_where_the_image_has_it():
    image = Chunk(np.zeros((10, 20, 20), np.uint8), (100, 200, 300), (30, 12, 12))
    way = Resampling((10, 20, 20), (10, 40, 40))
    ramp = np.broadcast_to((np.arange(40, dtype=np.float32) + 0.5) / 40, (10, 40, 40))
    part = Chunk(ramp[2:8, 4:36, 5:35], (2, 4, 5), layer_type="probability_map")
    found = bring_back(part, way, image)
    assert found.bbox == Box((102, 203, 304), (108, 217, 316))
    assert found.voxel_size == (30, 12, 12)
    assert np.allclose(found.array[0, 0], (np.arange(4, 16) + 0.5) / 20, atol=1e-5)


def test_sampling_many_voxels_is_their_mean():
    array = np.arange(12, dtype=np.float32)
    assert sample(array, 0, np.array([5.5]), 3.0) == pytest.approx(5.5)
    assert sample(np.ones(12, np.float32), 0, np.linspace(-3, 15, 40), 2.5) == pytest.approx(1)


# ------------------------------------------------------------------ from the shell


def test_adapt_gives_affinities_on_the_images_grid(segflow, model, ac4, tmp_path):
    coarse = ac4[:8].reshape(8, 256, 2, 256, 2).mean((2, 4)).astype(np.uint8)[:, :64, :64] // 2
    tifffile.imwrite(tmp_path / "coarse.tif", coarse)
    read = ["read-tif", "-f", tmp_path / "coarse.tif", "--voxel-size", 30, 12, 12, "--voxel-offset", 5, 6, 7]
    said = segflow(*read, "inference", "-m", model, "--adapt", "--mask-output-chunk", "-o", "affs",
                   "write-h5", "-i", "affs", "-f", tmp_path / "affs.h5").err  # fmt: skip
    assert "expect a poor" not in said
    with h5py.File(tmp_path / "affs.h5") as file:
        assert file["main"].shape == (3, 8, 64, 64)
        assert file["main"].attrs["offsets"].tolist() == OFFSETS[:3]
        assert file["voxel_offset"][:].tolist() == [5, 6, 7]
        assert file["voxel_size"][:].tolist() == [30, 12, 12]
    cut = segflow(*read, "inference", "-m", model, "--adapt", "-c", 1, "-o", "affs", "write-h5",
                  "-i", "affs", "-f", tmp_path / "cut.h5")  # fmt: skip
    assert cut.code == 0
    with h5py.File(tmp_path / "cut.h5") as file:
        assert file["voxel_offset"][:].tolist() == [6, 11, 12]
        assert file["main"].shape == (6, 54, 54)


def test_options_that_do_not_go_together(segflow, model, data):
    read = ["read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6]
    line = [*read, "inference", "-m", model]
    assert "--adapt-levels" in segflow(*line, "--adapt", "--patch-grid", "volume", code=2).last
    assert "less than HIGH" in segflow(*line, "--adapt-levels", 9, 3, code=2).last
    wrong = segflow(*read, "inference", "-f", "identity", "--adapt", "-s", *PATCH, code=2).last
    assert "identity" in wrong
    read[4:] = [30, 60, 60]
    assert "more than 4 times" in segflow(*read, "inference", "-m", model, "--adapt", code=1).last


# ------------------------------------------------------------------ model files


def test_a_file_without_grey_levels_is_still_read(tmp_path, segflow, data):
    write(tmp_path / "old.pt")
    assert "grey_levels" not in read_header(tmp_path / "old.pt")
    said = segflow("read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "inference", "-m",
                   tmp_path / "old.pt", "--adapt", "-s", 20, 128, 128).err  # fmt: skip
    assert "tells no grey levels" in said


def test_wrong_grey_levels_are_refused(tmp_path):
    with pytest.raises(ModelError, match="header"):
        write(tmp_path / "m.pt", grey_levels={"sections": [[1, 2]], "skew": 0})


def test_a_training_stores_the_grey_levels_of_its_images(segflow, tmp_path, data, trained):
    (tmp_path / "net.yaml").write_text(f"""
data: {{images: [{data}/ac4_image.tif], labels: [{data}/ac4_labels.tif], voxel_size: [30, 6, 6]}}
model: {{patch_size: [4, 16, 16], widths: [2, 4], isotropic: [false, true]}}
solver: {{iterations: 1, batch: 1, validate_every: 0}}
system: {{workers: 0, gpus: 0}}
output_path: {tmp_path}/out
""")
    segflow("train", "--config-file", tmp_path / "net.yaml")
    assert read_header(tmp_path / "out/model.pt")["grey_levels"] == trained
