"""The inference operator on the command line."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.errors import SegflowError

IDENTITY = ["--framework", "identity", "--patch-overlap", 2, 8, 8, "--mask-output-chunk"]


@pytest.mark.parametrize("words", [["20", "64", "64"], ["auto"]])
@pytest.mark.parametrize("option", ["--patch-size", "--input-patch-size", "-s"])
def test_the_patch_size_as_numbers_or_a_word(segflow, tmp_path, data, option, words):
    out = tmp_path / "x.npy"
    segflow("read-tif", "-f", data / "ac4_image.tif", "inference", option, *words, *IDENTITY,
            "write-npy", "-f", out)  # fmt: skip
    np.testing.assert_allclose(np.load(out), tifffile.imread(data / "ac4_image.tif") / 255, atol=1e-6)


@pytest.mark.parametrize("words", [["20", "32", "32"], ["auto"]])
def test_the_patch_size_in_a_pipeline_file(segflow, tmp_path, words):
    line = ["create-chunk", "-s", 20, 40, 40, "inference", "--patch-size", *words, *IDENTITY]
    segflow("--save", tmp_path / "p.yaml", *line, "write-npy", "-f", tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    segflow("run", tmp_path / "p.yaml")
    assert np.load(tmp_path / "a.npy").shape == (20, 40, 40)


def test_the_patch_size_with_an_equals_sign(segflow, tmp_path):
    start = ["create-chunk", "-s", 20, 40, 40]
    for value in ("--patch-size=auto", "--patch-size=20,32,32"):
        segflow(*start, "inference", value, *IDENTITY, "write-npy", "-f", tmp_path / "x.npy")
    for words in (["--patch-size", "20", "32"], ["--patch-size=0,1,1"], ["--patch-size", "autos"]):
        result = segflow(*start, "inference", *words, *IDENTITY, code=2)
        assert "three positive whole numbers" in result.last


def test_without_a_mask_the_overlap_is_cut(segflow, tmp_path, data):
    image = tifffile.imread(data / "ac4_image.tif")[:, :96, :96]
    np.save(tmp_path / "image.npy", np.concatenate([image, image]))
    line = ["read-npy", "-f", tmp_path / "image.npy", "inference", "-f", "identity",
            "--patch-size", 20, 64, 64, "--patch-overlap", 10, 32, 32]  # fmt: skip
    segflow(*line, "write-npy", "-f", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (20, 32, 32)
    plan = segflow("--dry-run", *line, "--num-output-channels", 3).out
    assert "3x20x32x32 float32" in plan
    crop = ["--mask-output-chunk", "--output-crop-margin", 1, 2, 3]
    assert "3x38x92x90 float32" in segflow("--dry-run", *line, *crop, "-c", 3).out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--patch-size", 30, 64, 64], "--pad reflect"),
        (["--patch-size", 8, 32, 32, "--patch-overlap", 8, 0, 0], "overlap 8 in z"),
        (["--patch-size", 8, 32, 32, "--patch-num", 1, 2, 3], "1x2x3"),
        (["--patch-size", 8, 32, 32, "--num-input-channels", 2], "--num-input-channels"),
        (["--augment", "--augment-mode", "median"], "--augment-mode"),
        (["--bump", "zung"], "'wu', 'gaussian', 'flat'"),
        (["--dtype", "float8"], "float8"),
        (["--patch-size", "auto", "--patch-num", 1, 1, 1], "--patch-num"),
        (["--convnet-model", "x.py", "--model", "affinity-snemi3d", "-f", "pytorch"], "not both"),
    ],
)
def test_options_that_cannot_work_end_before_the_run(segflow, words, text):
    result = segflow("create-chunk", "-s", 20, 64, 64, "inference", *IDENTITY, *words, code=2)
    assert text in result.last


def test_the_operator_is_a_plain_function():
    from segflow.operators.inference import inference

    chunk = Chunk(np.random.default_rng(0).random((8, 20, 20), np.float32))
    out = inference(
        chunk, framework="identity", patch_size=(4, 8, 8), patch_overlap=(1, 2, 2), mask_output_chunk=True
    )
    np.testing.assert_allclose(out.array, chunk.array, atol=1e-6)
    with pytest.raises(SegflowError, match="--convnet-model"):
        inference(chunk)


def test_the_shipped_network(segflow, tmp_path, data):
    np.save(tmp_path / "image.npy", tifffile.imread(data / "ac4_image.tif")[:12, :160, :144])
    line = ["read-npy", "-f", tmp_path / "image.npy", "inference", "--model", "affinity-snemi3d",
            "--patch-size", 12, 96, 96, "--patch-overlap", 2, 32, 32, "--mask-output-chunk"]  # fmt: skip
    result = segflow(*line, "--dtype", "float32", "write-h5", "-f", tmp_path / "affs.h5")
    assert "on cpu" in result.err
    with h5py.File(tmp_path / "affs.h5") as file:
        affinities = file["main"][:]
    assert affinities.shape == (3, 12, 160, 144)
    assert affinities.min() >= 0
    assert 0.5 < affinities.mean() < affinities.max() <= 1
    weights = json.loads(segflow("provenance", "--json", tmp_path / "affs.h5").out)["weights"]
    assert weights.keys() == {"model.pt"}
    segflow(*line, "--output-dtype", "uint8", "write-npy", "-f", tmp_path / "bytes.npy")
    quantised = np.load(tmp_path / "bytes.npy")
    assert quantised.dtype == np.uint8
    assert np.abs(quantised / 255 - affinities).max() < 0.03
