"""One image, one line: segment, and the demo's line."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segflow.cli.main import chain_from_tokens
from segflow.operators.segment import reader
from segflow.volumes import open_volume

ROOT = Path(__file__).parent.parent


def test_segment_prints_its_chain_and_runs_it(segflow, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = tifffile.imread(data / "ac4_image.tif")[:, :160, :144]
    tifffile.imwrite("image.tif", image, photometric="minisblack")
    result = segflow("segment", "image.tif", "--voxel-size", 30, 6, 6, "-o", "out/")
    line = shlex.split(result.out)
    assert line[:2] == ["segflow", "read-tif"]
    seen = open_volume("file://out/image")
    np.testing.assert_array_equal(seen.read().array, image)
    found = open_volume("file://out/seg")
    assert found.info().mips == seen.info().mips > 1
    assert found.info().voxel_size == (30, 6, 6)
    labels = found.read().array
    assert labels.shape == image.shape
    truth = tifffile.imread(data / "ac4_labels.tif")[:, :160, :144]
    import segflow as library

    assert library.evaluate(labels, truth)["adapted_rand_error"] < 0.2
    assert found.read(mip=1).array.any()
    line[line.index("file://" + str(tmp_path / "out" / "seg"))] = "file://other"
    assert len(chain_from_tokens(line[1:]).steps) == 7


def test_segment_dry_run_writes_nothing(segflow, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    segflow("--dry-run", "segment", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "-o", "out")
    assert list(tmp_path.iterdir()) == []


def test_segment_of_a_missing_image(segflow, tmp_path):
    result = segflow("segment", "no.tif", "--voxel-size", 30, 6, 6, "-o", tmp_path, code=2)
    assert "no.tif does not exist" in result.err


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("a.tif", ["read-tif", "-f", "a.tif"]),
        ("a.h5", ["read-h5", "-f", "a.h5"]),
        ("a.h5:/volumes/raw", ["read-h5", "-f", "a.h5:/volumes/raw"]),
        ("zarr://a", ["read-zarr", "-f", "zarr://a"]),
        ("s3://bucket/a", ["read-precomputed", "-v", "s3://bucket/a"]),
    ],
)
def test_the_reader_fits_the_image(image, words):
    assert reader(image) == words


def test_the_demo_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    chain = chain_from_tokens(shlex.split(demo.LINE.format(out=tmp_path)))
    assert [s.name for s in chain.steps][-1] == "overlay"


def test_the_baseline_is_worse_than_the_network(segflow, data):
    plugin = ROOT / "examples" / "gradient_affinities.py"
    result = segflow(
        "read-tif", "-f", data / "ac4_image.tif", "-o", "image", "plugin", "-f", plugin, "-i", "image",
        "-o", "affs", "agglomerate", "--threshold", 0.3, "-i", "affs", "-o", "seg", "read-tif", "-f",
        data / "ac4_labels.tif", "--layer-type", "segmentation", "-o", "groundtruth",
        "evaluate-segmentation", "-s", "seg", "-g", "groundtruth", "--all",
    )  # fmt: skip
    error = next(row for row in result.out.splitlines() if "Adapted Rand error" in row)
    assert 0.5 < float(error.split(":")[1]) < 1
