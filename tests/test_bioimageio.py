"""bioimage.io packages: written from the shell, read and run by bioimageio.core."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

from segflow.errors import ModelError
from segflow.inference.header import header_of, offsets_of
from segflow.training import package
from segflow.training.modelfile import load_model, save_model
from segflow.training.networks import build_from

OFFSETS = [[0, 0, -1], [0, -1, 0], [-1, 0, 0], [0, 0, -9]]
PATCH = (4, 16, 16)
ARCHITECTURE = {
    "name": "rsunet", "channels_in": 1, "channels_out": 4, "widths": [4, 6], "isotropic": [False, True],
    "kernels": [], "norm": "bn", "act": "relu", "options": {},
}  # fmt: skip


def write(path, **changes):
    torch.manual_seed(3)
    given = {
        "model": ARCHITECTURE, "offsets": OFFSETS, "voxel_size": (30, 6, 6), "patch_size": PATCH,
        "record": {"iterations": 7, "trained_on": "AC4"}, "licence": "CC-BY-4.0", "outputs": 3,
    }  # fmt: skip
    given |= changes
    save_model(path, build_from(given["model"]), **given)
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Give a model file and its package, with a test image of real data, and what the command said."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("packed")
    model = write(place / "model.pt")
    sample = Path(__file__).parent / "data" / "ac4_image.tif"
    done = subprocess.run(
        [sys.executable, "-m", "segflow", "models", str(model), "--bioimageio", str(place / "m.zip"),
         "--sample", str(sample), "--author", "Ada Lovelace"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(place)}, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return model, place / "m.zip", done


def inside(path):
    with zipfile.ZipFile(path) as archive:
        return yaml.safe_load(archive.read("rdf.yaml")), set(archive.namelist())


def test_the_description_says_sizes_voxels_channels_and_offsets(packed):
    told, names = inside(packed[1])
    assert {"weights.torchscript.pt", "weights.onnx", "test_input.npy", "test_output.npy"} <= names
    image, out = told["inputs"][0], told["outputs"][0]
    space = [a for a in image["axes"] if a["type"] == "space"]
    assert [a["id"] for a in space] == ["z", "y", "x"]
    assert [a["scale"] for a in space] == [30, 6, 6]
    assert {a["unit"] for a in space} == {"nanometer"}
    assert [a["size"] for a in space] == [
        {"min": 4, "step": 2}, {"min": 16, "step": 2}, {"min": 16, "step": 2}
    ]  # fmt: skip
    assert image["data"]["type"] == "uint8"
    assert out["axes"][1]["channel_names"] == ["affinity_xm1", "affinity_ym1", "affinity_zm1"]
    assert told["config"]["segflow"]["offsets"] == OFFSETS[:3]
    assert told["name"] == f"segflow {packed[0].parent.name}"[:64]
    assert told["license"] == "CC-BY-4.0"
    assert told["authors"][0]["name"] == "Ada Lovelace"
    assert told["cite"][0]["doi"] == "10.48550/arXiv.1706.00120"


def test_the_command_says_what_it_wrote_and_leaves_nothing_else(packed):
    assert "torchscript, onnx; it passes the test of bioimageio.core" in packed[2].stderr
    assert "Warning" not in packed[2].stderr
    assert {p.name for p in packed[1].parent.iterdir() if p.suffix} == {"model.pt", "m.zip"}


def test_the_test_tensors_are_real_data_and_the_answer_of_the_model_file(packed, data, tmp_path):
    with zipfile.ZipFile(packed[1]) as archive:
        archive.extractall(tmp_path)
    given, answer = np.load(tmp_path / "test_input.npy"), np.load(tmp_path / "test_output.npy")
    image = tifffile.imread(data / "ac4_image.tif")
    start = [(n - s) // 2 for n, s in zip(image.shape, PATCH)]
    assert np.array_equal(given[0, 0], image[tuple(slice(a, a + s) for a, s in zip(start, PATCH))])
    with torch.inference_mode():
        expected = load_model(packed[0])[0](torch.from_numpy(given / np.float32(255)))
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-6)


def test_bioimageio_runs_a_larger_image_as_segflow_does(packed, data, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    from bioimageio.core import create_prediction_pipeline, load_model_description
    from bioimageio.core.digest_spec import create_sample_for_model

    image = tifffile.imread(data / "ac4_image.tif")[:6, :20, :24][None, None]
    model = load_model_description(packed[1])
    sample = create_sample_for_model(model, inputs={"image": image})
    with create_prediction_pipeline(model, weight_format="torchscript") as pipeline:
        found = pipeline.predict_sample_without_blocking(sample)
    with torch.inference_mode():
        expected = load_model(packed[0])[0](torch.from_numpy(image / np.float32(255)))
    np.testing.assert_allclose(np.asarray(found.members["map"].data), expected.numpy(), atol=1e-4)


def test_its_own_program_passes_the_package(packed, tmp_path):
    program = Path(sys.executable).with_name("bioimageio")
    done = subprocess.run(
        [str(program), "test", str(packed[1])], capture_output=True, text=True, timeout=120,
        env={**os.environ, "HOME": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def test_the_onnx_file_of_the_package_runs_in_inference(packed, data, segflow, tmp_path):
    with zipfile.ZipFile(packed[1]) as archive:
        archive.extract("weights.onnx", tmp_path)
    tifffile.imwrite(tmp_path / "i.tif", tifffile.imread(data / "ac4_image.tif")[:4, :16, :16])
    header = header_of(tmp_path / "weights.onnx", "onnx")
    assert header is not None
    assert [list(o) for o in offsets_of(header)] == OFFSETS[:3]
    for name, words in (("a", ["-f", "onnx", "-m", tmp_path / "weights.onnx"]), ("b", ["-m", packed[0]])):
        segflow("read-tif", "-f", tmp_path / "i.tif", "inference", *words, "-s", 4, 16, 16, "-v", 0, 0, 0,
                "-d", "float32", "--mask-output-chunk", "write-npy", "-f", tmp_path / f"{name}.npy")  # fmt: skip
    a, b = (np.load(tmp_path / f"{name}.npy") for name in "ab")
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_without_a_sample_the_image_is_noise_that_is_said_and_the_same_each_time():
    header = {"patch_size": [4, 16, 20], "architecture": {"channels_in": 2}}
    first, said = package.test_image(header, None)
    assert first.shape == (1, 2, 4, 16, 20)
    assert first.dtype == np.uint8
    assert np.ptp(first) > 100
    assert np.array_equal(first, package.test_image(header, None)[0])
    assert "no electron microscopy" in said


@pytest.mark.parametrize("name", ["rsunet", "unet_3d"])
def test_programs_follow_larger_sizes_or_are_of_one_size(tmp_path, name):
    architecture = ARCHITECTURE | {"name": name}
    if name == "unet_3d":
        architecture.pop("kernels")
    write(tmp_path / "m.pt", model=architecture)
    module, header = load_model(tmp_path / "m.pt")
    step = package.steps_of(header, module)
    example = package.scaled(package.test_image(header, None)[0])
    traced = torch.jit.trace(module, example, check_trace=False)
    larger = package._larger(example, step)
    with torch.inference_mode():
        torch.testing.assert_close(traced(larger), module(larger), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bioimageio", "m.tar"], "ends in .zip"),
        (["--sample", "i.tif"], "belong to --bioimageio"),
        (["--bioimageio", "m.zip", "--sample", "none.tif"], "none.tif"),
    ],
)
def test_bad_lines_are_one_line(packed, segflow, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    result = segflow("models", packed[0], *words, code=None)
    assert result.code in (1, 2)
    assert said in result.last
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_a_package_that_fails_its_test_is_not_written(packed, tmp_path, monkeypatch, caplog):
    plain = np.save

    def fail(*_args):
        raise RuntimeError("no operator")

    monkeypatch.setattr(package, "write_onnx", fail)
    monkeypatch.setattr(package.np, "save", lambda f, a: plain(f, 1 - a if a.dtype == np.float32 else a))
    with pytest.raises(ModelError, match=r"does not pass the test of bioimageio\.core"):
        package.export_bioimageio(packed[0], tmp_path / "m.zip")
    assert not list(tmp_path.iterdir())
    assert "no ONNX in the package: no operator" in caplog.text
