"""Histograms of sections in files, and images stretched by them."""

from __future__ import annotations

import gzip
import json
import threading
import time
from shlex import split as words

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.image.contrast import normalize_contrast, normalize_sections
from segflow.image.levels import read_levels, write_chunk_levels
from segflow.volumes import open_volume
from segflow.volumes.store import S3Store


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")[:, :192, :160]


@pytest.fixture
def em(image, tmp_path, segflow):
    """A real volume that begins at section 40, with two mips."""
    tifffile.imwrite(tmp_path / "em.tif", image, photometric="minisblack")
    segflow("read-tif", "-f", tmp_path / "em.tif", *words("--voxel-size 30 6 6 --voxel-offset 40 0 0 save"),
            "-v", tmp_path / "em", "--mips", 2, "--block-size", 8, 64, 64, "downsample", "-v", tmp_path / "em",
            "--mips", 2)  # fmt: skip
    return f"file://{tmp_path}/em"


def rule(section, counts, lower, upper, minval, maxval):
    """The rule of the format, level by level."""
    counts = [0, *counts[1:]]
    share = np.cumsum(counts) / sum(counts)
    low = max(i for i in range(len(counts)) if share[i] <= lower)
    high = max(i for i in range(len(counts)) if share[i] <= 1 - upper)
    lut = [i if low == high else (i - low) * maxval / (high - low) for i in range(len(counts))]
    return np.round(np.clip(lut, minval, maxval)).astype(np.uint8)[section]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([0, 0.0023, 0.01, 0.3]), st.sampled_from([0, 0.01, 0.4]),
    st.integers(0, 5), st.sampled_from([200, 255]),
)  # fmt: skip
def test_the_rule(seed, lower, upper, minval, maxval):
    random = np.random.default_rng(seed)
    array = random.integers(0, random.integers(2, 257), (2, 3, 4)).astype(np.uint8)
    counts = {7 + z: random.integers(0, 9, 256) * (random.random(256) < 0.2) for z in range(2)}
    for z in counts:
        counts[z][random.integers(1, 256)] += 1
    found = normalize_sections(Chunk(array, (7, 1, 1)), counts, lower, upper, minval, maxval)
    for z in range(2):
        wanted = rule(array[z], counts[7 + z].tolist(), lower, upper, minval, maxval)
        np.testing.assert_array_equal(found.array[z], wanted)


def test_own_histograms_give_what_normalize_contrast_gives(image):
    chunk = Chunk(image, (5, 0, 0))
    counts = {5 + z: np.bincount(section.ravel(), minlength=256) for z, section in enumerate(image)}
    kept = {z: c.copy() for z, c in counts.items()}
    np.testing.assert_array_equal(normalize_sections(chunk, counts).array, normalize_contrast(chunk).array)
    assert all((counts[z] == kept[z]).all() for z in counts)


def test_black_sections_need_no_histogram():
    chunk = Chunk(np.zeros((2, 4, 4), np.uint8), (-1, 0, 0))
    assert not normalize_sections(chunk, {}).array.any()
    with pytest.raises(ChunkError, match="section 3 is not black"):
        normalize_sections(Chunk(np.ones((1, 4, 4), np.uint8), (3, 0, 0)), {})
    with pytest.raises(ChunkError, match="256 levels, not of 65536"):
        normalize_sections(Chunk(np.ones((1, 4, 4), np.uint16)), {0: np.ones(256, int)})


# -- the files ----------------------------------------------------------------------------------


def levels(folder):
    return {int(p.name): json.loads(p.read_text())["levels"] for p in folder.iterdir()}


def test_tasks_of_tiles_and_of_sections_count_the_same(em, image, tmp_path, segflow):
    whole, tiles, ranges, one = (tmp_path / name / "levels" for name in ("a", "b", "c", "d"))
    segflow("section-histogram", "-v", em, "-p", whole)
    assert levels(whole) == {
        40 + z: np.bincount(section.ravel(), minlength=256).tolist() for z, section in enumerate(image)
    }
    assert json.loads((whole / "40").read_text()).keys() == {"levels"}
    tile = f"generate-tasks -v {em} -c 7 100 64 cutout -v {em} -e 1 8 8 section-histogram -p {tiles}"
    segflow(*words(tile))
    before = {p.name: p.read_bytes() for p in tiles.iterdir()}
    segflow(*words(tile + "/"))  # counted once, however often
    assert {p.name: p.read_bytes() for p in tiles.iterdir()} == before
    segflow(*words(f"generate-tasks -v {em} -c 3 999 999 section-histogram -v {em} -p file://{ranges}"))
    segflow("cutout", "-v", em, "section-histogram", "-i", "chunk", "-p", one)
    assert levels(tiles) == levels(ranges) == levels(one) == levels(whole)
    assert (ranges / "41").read_bytes() == (one / "41").read_bytes() == (whole / "41").read_bytes()
    coarse = tmp_path / "mip1"
    segflow(*words(f"generate-tasks -v {em} -c 10 999 999 section-histogram -v {em} -m 1 -p {coarse}"))
    mip1 = open_volume(em).read(mip=1).array
    assert levels(coarse)[59] == np.bincount(mip1[19].ravel(), minlength=256).tolist()


def test_several_workers_count_one_section(image, tmp_path):
    parts = [Chunk(image[:4, y : y + 48], (0, y, 0)) for y in range(0, 192, 48)]
    threads = [threading.Thread(target=write_chunk_levels, args=(str(tmp_path), p)) for p in parts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    assert levels(tmp_path)[2] == np.bincount(image[2].ravel(), minlength=256).tolist()


def test_parts_that_overlap_are_refused(image, tmp_path):
    write_chunk_levels(str(tmp_path), Chunk(image[:1, :64]))
    with pytest.raises(ChunkError, match="overlaps 0-64_0-160"):
        write_chunk_levels(str(tmp_path), Chunk(image[:1, 60:100], (0, 60, 0)))
    write_chunk_levels(str(tmp_path / "w"), Chunk(image[:1]), True)
    with pytest.raises(ChunkError, match="holds a whole section"):
        write_chunk_levels(str(tmp_path / "w"), Chunk(image[:1, :64]))
    with pytest.raises(ChunkError, match="one channel"):
        write_chunk_levels(str(tmp_path), Chunk(np.ones((2, 1, 4, 4), np.float32)))


def test_files_of_other_programs(tmp_path):
    (tmp_path / "4.gz").write_bytes(
        gzip.compress(json.dumps({"levels": [0.0] * 255 + [7.0], "mip": 1}).encode())
    )
    assert read_levels(str(tmp_path), [4, 5])[4][255] == 7
    for text in ("{", "{}", '{"levels": "x"}', '{"levels": [-1]}', "[]"):
        (tmp_path / "5").write_text(text)
        with pytest.raises(VolumeError, match="5 is no histogram"):
            read_levels(str(tmp_path), [5])


# -- the operators ------------------------------------------------------------------------------


def test_tasks_are_stretched_as_the_whole(em, image, tmp_path, segflow):
    segflow("section-histogram", "-v", em, "-p", tmp_path / "levels")
    line = (
        f"generate-tasks -v {em} -c 7 64 80 cutout -v {em} -e 2 0 0 normalize-section-contrast "
        f"-p file://{tmp_path}/levels -l 0.0023 -u 0.02 --minval 3 --maxval 250 crop-margin "
        f"save -v {tmp_path}/out"
    )
    segflow(*words(line))
    wanted = normalize_contrast(Chunk(image), 0.0023, 0.02, 3, 250).array
    np.testing.assert_array_equal(open_volume(str(tmp_path / "out")).read().array, wanted)


def test_one_line_for_a_file_that_lacks(em, tmp_path, segflow):
    segflow("section-histogram", "-v", em, "-p", tmp_path / "levels")
    line = [*words(f"cutout -v {em} normalize-section-contrast -p"), tmp_path / "levels"]
    for name in ("45", "50"):
        (tmp_path / "levels" / name).unlink()
    said = segflow(*line, code=1)
    assert said.last.startswith("segflow normalize-section-contrast: there is no histogram file://")
    assert f"{tmp_path}/levels/45 for section 45, nor for 1 more" in said.last
    (tmp_path / "levels" / "45").write_text("{")
    assert "levels/45 is no histogram" in segflow(*line, code=1).last
    for options, text in (
        (f"-p {tmp_path}/none", f"no folder {tmp_path}/none"),
        (f"-p {tmp_path}/levels -l 0.5 -u 0.5", "leave nothing"),
        (f"-p {tmp_path}/levels --minval 255", "--minval must be less"),
    ):
        assert text in segflow(*words(f"cutout -v {em} normalize-section-contrast {options}"), code=2).last
    for options, text in (
        (f"-v {em} -p {tmp_path}/l -i chunk", "not both"),
        (f"-p {tmp_path}/l", "histograms of what"),
        (f"-v {em} -m 4 -p {tmp_path}/l", "no mip 4"),
    ):
        before = "create-chunk " if "-i" in options else ""
        assert text in segflow(*words(f"{before}section-histogram {options}"), code=2).last


def test_a_bucket_without_credentials_is_told_soon(em, tmp_path, segflow, monkeypatch):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # as on a machine that is not Google's
    began = time.monotonic()
    line = ["cutout", "-v", em, "normalize-section-contrast", "-p", "gs://a-bucket/levels/1"]
    said = segflow(*line, "write-h5", "-f", tmp_path / "x.h5", code=1)
    assert "credentials were not found" in said.last
    assert time.monotonic() - began < 20


def test_in_a_bucket(em, bucket, image, tmp_path, segflow):
    segflow(
        *words(f"generate-tasks -v {em} -c 20 96 160 cutout -v {em} section-histogram -p {bucket}/levels/0")
    )
    found = S3Store(f"{bucket}/levels/0").get_json("47")["levels"]
    assert found == np.bincount(image[7].ravel(), minlength=256).tolist()
    segflow(*words(f"cutout -v {em} normalize-section-contrast -p {bucket}/levels/0 write-npy "
                   f"-f {tmp_path}/n.npy"))  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "n.npy"), normalize_contrast(Chunk(image)).array)
