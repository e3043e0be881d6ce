"""Masks: laws of the library, the operator, and tasks that are passed over."""

from __future__ import annotations

import json
import tracemalloc
from shlex import split as words

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box
from segflow.image.mask import Mask, apply_mask, mask_factor, read_mask
from segflow.volumes import info as metadata
from segflow.volumes import open_volume
from segflow.volumes.info import voxel_factor

three = st.tuples(*[st.integers(1, 4)] * 3)


def make(path, array, size=(30, 6, 6), offset=(0, 0, 0), mips=1, mip=0, factor=(1, 2, 2), block=(8, 16, 16)):
    """Make a volume; ``array`` is its content at ``mip``."""
    volume = open_volume(str(path))
    up = [f**mip for f in factor]
    bounds = Chunk(array, offset).bbox.scale(up)
    raw = metadata.make(
        bounds, array.dtype.name, channels=array.shape[0] if array.ndim == 4 else 1, voxel_size=size,
        block_size=block,
    )  # fmt: skip
    volume.create(metadata.with_mips(raw, max(mips, mip + 1), factor))
    volume.write(Chunk(array, offset), mip)
    return volume


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")[:, :128, :160]


@pytest.fixture
def em(tmp_path, image):
    """A real volume with an offset."""
    make(tmp_path / "em", image, offset=(3, 10, 7))
    return f"file://{tmp_path}/em"


# -- the library --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(-9, 9)] * 3), three, three, st.integers(0, 3), st.integers(0, 2**32),
    st.sampled_from(["uint8", "uint64", "float32"]),
)  # fmt: skip
def test_a_voxel_belongs_to_the_mask_voxel_it_lies_in(offset, shape, factor, channels, seed, dtype):
    random = np.random.default_rng(seed)
    array = random.integers(1, 9, (*([channels] * bool(channels)), *shape)).astype(dtype)
    chunk = Chunk(array, offset)
    coarse = Box.of(
        [a // f for a, f in zip(chunk.bbox.start, factor)],
        [-(-b // f) - a // f for a, b, f in zip(chunk.bbox.start, chunk.bbox.stop, factor)],
    )
    keep = random.random(coarse.shape) < 0.5
    found = apply_mask(chunk, Mask(keep, coarse, factor)).array
    for z, y, x in np.ndindex(*shape):
        place = tuple((o + i) // f - c for o, i, f, c in zip(offset, (z, y, x), factor, coarse.start))
        wanted = array[..., z, y, x] if keep[place] else np.zeros_like(array[..., z, y, x])
        np.testing.assert_array_equal(found[..., z, y, x], wanted)
    assert found.dtype == array.dtype


def test_nan_is_masked_and_all_one_is_the_chunk_itself():
    chunk = Chunk(np.full((1, 2, 2), np.nan, np.float32))
    box = Box((0, 0, 0), (1, 1, 1))
    assert not apply_mask(chunk, Mask(np.zeros((1, 1, 1), bool), box, (1, 2, 2))).array.any()
    assert apply_mask(chunk, Mask(np.ones((1, 1, 1), bool), box, (1, 2, 2))) is chunk
    half = apply_mask(chunk, Mask(np.array([[[True], [False]]]), Box((0, 0, 0), (1, 2, 1)), (1, 1, 2)))
    assert np.isnan(half.array[0, 0]).all()
    assert (half.array[0, 1] == 0).all()
    with pytest.raises(ChunkError, match="covers"):
        apply_mask(chunk, Mask(np.ones((1, 1, 1), bool), box, (1, 1, 1)))


def test_memory_is_one_copy_and_a_section():
    chunk = Chunk(np.ones((3, 16, 256, 256), np.float32))
    keep = np.zeros((16, 2, 2), bool)
    keep[:, 0] = True
    mask = Mask(keep, Box((0, 0, 0), (16, 2, 2)), (1, 128, 128))
    tracemalloc.start()
    apply_mask(chunk, mask)
    peak = tracemalloc.get_traced_memory()[1]
    assert peak < chunk.array.nbytes + 3 * 2**20
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert apply_mask(chunk, Mask(np.ones_like(keep), mask.box, mask.factor)) is chunk
    assert tracemalloc.get_traced_memory()[1] - before < 2**16
    tracemalloc.stop()


@pytest.mark.parametrize("coarse", [(30, 15, 12), (30, 3, 6), (10, 6, 6)])
def test_voxels_that_do_not_divide(coarse):
    with pytest.raises(VolumeError, match="no whole multiples"):
        voxel_factor((30, 6, 6), coarse)


def test_factor_without_voxel_sizes(tmp_path):
    volume = make(tmp_path / "m", np.ones((4, 4, 4), np.uint8), mips=4, mip=3)
    assert mask_factor(volume, 3, None, 1) == (1, 4, 4)
    assert mask_factor(volume, 3, (30, 6, 6), 7) == (1, 8, 8)
    with pytest.raises(VolumeError, match="no mip 5"):
        mask_factor(volume, 3, None, 5)
    with pytest.raises(VolumeError, match="finer"):
        mask_factor(volume, 0, None, 2)


def test_outside_and_missing_parts_are_zeros(tmp_path):
    volume = make(tmp_path / "m", np.ones((8, 16, 32), np.uint8))
    (next((tmp_path / "m" / "6_6_30").glob("16-32_*"))).unlink()
    box = Box((0, 0, -4), (8, 16, 36))
    found = read_mask(volume, box, (1, 1, 1), 0).keep[0, 0]
    assert found.astype(int).tolist() == [0] * 4 + [1] * 16 + [0] * 20
    assert (read_mask(volume, box, (1, 1, 1), 0, inverse=True).keep[0, 0] == ~found).all()
    for part in (box, Box((0, 0, 16), (8, 16, 32))):
        with pytest.raises(VolumeError, match="--fill-missing"):
            read_mask(volume, part, (1, 1, 1), 0, fill_missing=False)
    with pytest.raises(VolumeError, match="2 channels"):
        read_mask(make(tmp_path / "n", np.ones((2, 8, 16, 32), np.uint8)), box, (1, 1, 1), 0)


# -- the operator -------------------------------------------------------------------------------


@pytest.fixture
def mask(tmp_path):
    """A mask at mip 5 of its own volume, from voxel 0: half of its columns are something."""
    array = np.zeros((30, 5, 6), np.uint16)
    array[:, :, 2:] = 300
    make(tmp_path / "mask", array, mip=5)
    return f"file://{tmp_path}/mask"


def kept(chunk_offset, shape):
    """Where the mask of these tests keeps a chunk."""
    x = np.arange(chunk_offset[2], chunk_offset[2] + shape[2]) // 32
    return np.broadcast_to(x >= 2, shape)


@pytest.mark.parametrize("inverse", [False, True])
def test_several_chunks(em, mask, image, tmp_path, segflow, inverse):
    segflow(
        "cutout", "-v", em, "-o", "image", "threshold", "-i", "image", "-t", 100, "-o", "bin", "mask",
        "-i", "image,bin", "-o", "a,b", "-v", mask, *(["--inverse"] if inverse else []),
        "write-npy", "-i", "a", "-f", tmp_path / "a.npy", "write-npy", "-i", "b", "-f", tmp_path / "b.npy",
        "write-npy", "-i", "image", "-f", tmp_path / "c.npy",
    )  # fmt: skip
    keep = kept((3, 10, 7), image.shape) != inverse
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), image * keep)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), (image > 100) * keep)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), image)


def test_blocks_give_what_the_whole_gives(em, mask, image, tmp_path, segflow):
    segflow("generate-tasks", "-v", em, *words("-c 7 33 29"), "cutout", "-v", em, "mask", "-v", mask,
            "-m", 5, "save", "-v", tmp_path / "out")  # fmt: skip
    found = open_volume(str(tmp_path / "out")).read()
    np.testing.assert_array_equal(found.array, image * kept((3, 10, 7), image.shape))


def test_errors_are_one_line_before_the_run(em, tmp_path, segflow, mask):
    make(tmp_path / "odd", np.ones((20, 9, 9), np.uint8), size=(30, 45, 45))
    said = segflow("cutout", "-v", em, "mask", "-v", tmp_path / "odd", "-m", 0, code=2)
    assert said.last.startswith("segflow mask: voxels of file://")
    assert "(30 45 45 nm) are no whole multiples of those of chunk (30 6 6 nm)" in said.last
    for line, text in (
        (f"cutout -v {em} mask -v {tmp_path}/odd", "no mip 5"),
        (f"cutout -v {em} mask -v {tmp_path}/none", "no precomputed volume"),
        (f"cutout -v {em} mask -v {mask} -i chunc", "did you mean 'chunk'"),
        (f"cutout -v {em} mask -v {mask} -o a,b", "1 chunks are masked and 2 names"),
        (f"cutout -v {em} mask -v {mask} --check-all-zero", "--skip-to save: no later step"),
        (f"cutout -v {em} save -v {tmp_path}/x mask -v {mask} --check-all-zero", "no later step"),
        (f"mask -v {mask} --check-all-zero save -v {tmp_path}/x", "no chunk named 'chunk'"),
    ):
        result = segflow(*words(line), code=2)
        assert text in result.last
        assert "Traceback" not in result.err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("target", ["save", "write-precomputed", "save-precomputed", "here"])
def test_a_task_in_an_empty_mask_is_written_as_zeros(em, mask, image, tmp_path, segflow, target):
    """The volume's channels and dtype; a margin in the mask does not count; later steps go on."""
    segflow("create-info", "-v", tmp_path / "out", *words("--volume-size 20 128 160 --voxel-offset 3 10 7 "
            "--voxel-size 30 6 6 --block-size 20 64 64 -c 2 -d float32"))  # fmt: skip
    (tmp_path / "two.py").write_text("import numpy as np\n\n\ndef execute(a):\n    return np.stack([a, a])\n")
    line = (
        f"--log-dir {tmp_path}/log generate-tasks -v {em} -c 20 64 57 --respect-stop cutout -v {em} -e 0 8 8 "
        f"mask --name look --check-all-zero -v {mask} --skip-to {target} normalize-intensity "
        f"plugin -f {tmp_path}/two.py -i chunk -o chunk crop-margin save --name here -v {tmp_path}/out "
        "--upload-log"
    )
    segflow(*words(line))
    found = open_volume(str(tmp_path / "out"))
    wanted = image / 127.5 - 1
    wanted[:, :, :57] = 0  # x 7 to 64
    array = found.read(fill_missing=False).array
    np.testing.assert_allclose(array, np.stack([wanted] * 2), atol=1e-6)
    assert array.dtype == np.float32
    log = json.loads((tmp_path / "log" / "3-23_10-74_7-64.json").read_text())
    assert list(log["timer"]) == ["generate-tasks", "read-precomputed", "look", "here"]
    assert "skipped" not in log
    assert json.loads((tmp_path / "out/log/3-23_10-74_7-64.json").read_text())["bbox"] == "3-23_10-74_7-64"


def test_the_look_comes_before_the_reading(em, mask, tmp_path, segflow):
    segflow(*words("create-info --volume-size 20 128 160 --voxel-offset 3 10 7 --voxel-size 30 6 6 "
                   f"--block-size 20 64 64 -v {tmp_path}/out"))  # fmt: skip
    line = (
        f"--log-dir {tmp_path}/log generate-tasks -v {em} -c 20 128 57 --respect-stop mask -v {mask} "
        f"--check-all-zero cutout -v {em} save -v {tmp_path}/out"
    )
    segflow(*words(line))
    log = json.loads((tmp_path / "log" / "3-23_10-138_7-64.json").read_text())
    assert "read-precomputed" not in log["timer"]
    assert "write-precomputed" in log["timer"]
    array = open_volume(str(tmp_path / "out")).read(fill_missing=False).array
    assert not array[..., :57].any()
    assert array[..., 57:].any()
