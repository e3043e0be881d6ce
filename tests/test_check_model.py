"""check-model: what it tells of a network, and of a broken one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
from test_modelfile import network, write

from segflow.inference.levels import of_array
from segflow.training.modelfile import export_onnx


@pytest.fixture
def model(tmp_path, data):
    """Give a model file that knows the grey levels of AC4."""
    write(tmp_path / "model.pt", grey_levels=of_array(tifffile.imread(data / "ac4_image.tif")))
    return tmp_path / "model.pt"


def read(data, voxel_size=(30, 6, 6)):
    return ["read-tif", "-f", data / "ac4_image.tif", "--voxel-size", *voxel_size, "-o", "image"]


def test_all_is_told_of_a_network_and_an_image(segflow, model, data):
    found = json.loads(segflow(*read(data), "check-model", "-m", model, "-i", "image", "--json").out)
    assert found["device"].startswith("cpu")
    assert found["machine"]
    assert found["patch_size"] == [8, 32, 32]
    assert found["mvoxel_per_s"] == pytest.approx(8 * 32 * 32 / found["seconds"] / 1e6)
    assert 2**25 < found["memory"] < 2**36
    assert found["voxel_size"] == {"fit": True, "image": [30, 6, 6], "training": [30, 6, 6]}
    assert found["grey_levels"]["fit"]
    assert found["grey_levels"]["distance"] == 0
    assert found["constant"] == []
    with torch.inference_mode():
        image = tifffile.imread(data / "ac4_image.tif")[6:14, 240:272, 240:272].astype(np.float32) / 255
        answer = torch.sigmoid(network()(torch.from_numpy(image)[None, None])[0, :3])
    assert len(found["channels"]) == 3
    for channel, told in zip(answer, found["channels"]):
        want = [float(channel.min()), float(channel.max()), float(channel.mean())]
        assert [told["min"], told["max"], told["mean"]] == pytest.approx(want, abs=1e-5)
    assert 0 < found["bfloat16"]["mean"] < found["bfloat16"]["max"] < 0.02


def test_what_does_not_fit_is_told(segflow, model, data):
    said = segflow(*read(data, (30, 12, 12)), "check-model", "-m", model, "-i", "image").out
    assert "does not fit: image 30x12x12, training 30x6x6 nm" in said
    image = 255 - tifffile.imread(data / "ac4_image.tif")
    tifffile.imwrite(model.parent / "inverted.tif", image)
    said = segflow("read-tif", "-f", model.parent / "inverted.tif", "check-model", "-m", model,
                   "-i", "chunk").out  # fmt: skip
    assert "do not fit" in said
    assert "inverted" in said
    assert "cannot be compared: image unknown" in said


def test_it_runs_without_an_image_and_on_onnx(segflow, model):
    assert "fits: image 30x6x6" in segflow("check-model", "-m", model).out
    export_onnx(model, model.with_suffix(".onnx"))
    said = segflow("check-model", "-m", model.with_suffix(".onnx"), "-s", 8, 32, 32).out
    assert "not computed by this backend" in said
    assert "grey levels  fit" in said


def test_a_shipped_network_is_checked_by_its_name(segflow):
    found = json.loads(segflow("check-model", "-m", "affinity-snemi3d", "-s", 8, 64, 64, "--json").out)
    assert found["voxel_size"]["fit"]
    assert found["channels"][0]["max"] > 0.5


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_broken_network_ends_with_one_line(segflow, tmp_path, value):
    net = network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    write(tmp_path / "broken.pt", net)
    result = segflow("check-model", "-m", tmp_path / "broken.pt", code=1)
    assert "broken" in result.last
    assert ("0.5 at every voxel" if value == 0 else "NaN") in result.last
    assert result.out == ""


def test_bad_input_is_one_line(segflow, model, tmp_path):
    chunk = ["create-chunk", "--size", 8, 32, 32, "--pattern", "zero"]
    assert "tells nothing" in segflow(*chunk, "check-model", "-m", model, "-i", "chunk", code=1).last
    chunk = ["create-chunk", "--size", 4, 32, 32]
    assert "smaller than a patch" in segflow(*chunk, "check-model", "-m", model, "-i", "chunk", code=1).last
    assert "affinity-snemi3d" in segflow("check-model", "-m", "affinity-snemi", code=2).last
    (tmp_path / "broken.pt").write_bytes(model.read_bytes()[:2000])
    assert "broken" in segflow("check-model", "-m", tmp_path / "broken.pt", code=1).last
