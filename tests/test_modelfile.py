"""Model files: written, read, refused, run by inference from the shell; the list of shipped networks."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile

import h5py
import numpy as np
import pytest
import tifffile
import torch

from segflow.chunk import DEFAULT_OFFSETS
from segflow.errors import ModelError, UsageError
from segflow.inference.catalogue import about
from segflow.inference.header import default_patch, offsets_of, read_header, warn_of_voxel_size
from segflow.training import modelfile
from segflow.training.modelfile import export_onnx, load_model, save_model
from segflow.training.networks import build_from

OFFSETS = [[0, 0, -1], [0, -1, 0], [-1, 0, 0], [0, 0, -9], [-3, 0, 0]]
PATCH = (8, 32, 32)
ARCHITECTURE = {
    "name": "rsunet", "channels_in": 1, "channels_out": 5, "widths": [4, 8], "isotropic": [False, True],
    "kernels": [], "norm": "bn", "act": "relu", "options": {},
}  # fmt: skip


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def network(architecture=ARCHITECTURE):
    torch.manual_seed(3)
    net = build_from(architecture)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def write(path, net=None, **changes):
    given = {
        "model": ARCHITECTURE, "offsets": OFFSETS, "voxel_size": (30, 6, 6), "patch_size": PATCH,
        "record": {"iterations": 7, "trained_on": "AC4"}, "licence": "CC-BY-4.0", "outputs": 3,
    }  # fmt: skip
    net = net or network(changes.get("model", ARCHITECTURE))
    save_model(path, net, **given | changes)
    return net


@pytest.fixture
def model(tmp_path):
    """Give a model file and its network."""
    return tmp_path / "model.pt", write(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["rsunet", "unet_3d"])
def test_what_is_read_is_bit_for_bit_what_was_written(tmp_path, name):
    architecture = {k: v for k, v in ARCHITECTURE.items() if k != "kernels"} | {"name": name, "norm": "gn"}
    net = write(tmp_path / "m.pt", model=architecture)
    read, header = load_model(tmp_path / "m.pt")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), read.net.state_dict().values()))
    image = torch.rand(1, 1, *PATCH)
    with torch.inference_mode():
        assert torch.equal(read(image), torch.sigmoid(net(image)[:, :3]))
    assert header["architecture"] == architecture
    assert (header["outputs"], header["patch_size"], header["voxel_size"]) == (3, [8, 32, 32], [30, 6, 6])
    assert (header["record"]["iterations"], header["licence"]) == (7, "CC-BY-4.0")
    assert header["parameters"] == sum(p.numel() for p in net.parameters())
    assert header["offsets"] == OFFSETS


def test_the_same_network_gives_the_same_bytes(tmp_path):
    net = write(tmp_path / "a.pt")
    write(tmp_path / "other.name", net)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "other.name").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "other.name"]


def test_scores_of_numpy_and_nan_are_kept_as_numbers_and_null(tmp_path):
    scores = [np.float32(0.5), np.float64("nan"), float("inf"), np.int64(3), torch.tensor(2)]
    write(tmp_path / "m.pt", record={"scores": scores})
    assert load_model(tmp_path / "m.pt")[1]["record"] == {"scores": [0.5, None, None, 3, 2]}
    assert read_header(tmp_path / "m.pt")["record"] == {"scores": [0.5, None, None, 3, 2]}


def test_half_precision_is_half_as_large_and_close(tmp_path):
    architecture = ARCHITECTURE | {"widths": [16, 32]}
    net = write(tmp_path / "a.pt", model=architecture)
    write(tmp_path / "h.pt", net, model=architecture, half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("a.pt", "h.pt")]
    assert sizes[1] < 0.65 * sizes[0]
    read = load_model(tmp_path / "h.pt")[0]
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    image = torch.rand(1, 1, *PATCH)
    with torch.inference_mode():
        torch.testing.assert_close(read.net(image), net(image), rtol=0.01, atol=0.01)


def test_the_header_is_read_without_torch_and_survives_another_torch_save(model, tmp_path, process):
    header = read_header(model[0])
    assert header["offsets"] == OFFSETS
    again = torch.load(model[0], weights_only=True)
    torch.save(again, tmp_path / "again.pt")
    assert read_header(tmp_path / "again.pt") == header
    code = "import sys; from segflow.inference.header import read_header; read_header(sys.argv[1]); " \
           "sys.exit('torch' in sys.modules)"  # fmt: skip
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(model[0])]) == 0


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
def test_a_file_with_code_is_refused_and_not_run(tmp_path, segflow, data, kind):
    bad, mark = tmp_path / "bad.pt", tmp_path / "ran"
    value = {"segflow_model": 1, "header": Evil(mark), "weights": {}}
    if kind == "pickle":
        bad.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, bad, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ModelError, match="could run code") as raised:
        load_model(bad)
    assert "\n" not in str(raised.value)
    result = segflow("read-tif", "-f", data / "ac4_image.tif", "inference", "--convnet-model", bad, code=1)
    assert "could run code" in result.last
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_is_said_in_one_line(model, tmp_path, segflow, data, share):
    whole = model[0].read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"cut\.pt is broken or truncated"):
        load_model(tmp_path / "cut.pt")
    result = segflow("read-tif", "-f", data / "ac4_image.tif", "inference", "-m", tmp_path / "cut.pt", code=1)
    assert "broken or truncated" in result.last
    assert "Traceback" not in result.err


def test_other_files_of_torch_are_told_apart(tmp_path):
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="--convnet-weight-path"):
        load_model(tmp_path / "weights.pt")
    torch.save({"segflow_model": 2, "header": {}, "weights": {}}, tmp_path / "new.pt")
    with pytest.raises(ModelError, match="version 2"):
        load_model(tmp_path / "new.pt")
    torch.save({"segflow_model": 1, "header": {"outputs": 3}, "weights": {}}, tmp_path / "half.pt")
    with pytest.raises(ModelError, match="incomplete"):
        load_model(tmp_path / "half.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"outputs": 6}, "header"),
        ({"offsets": OFFSETS[:2]}, "header"),
        ({"patch_size": (8, 32)}, "header"),
        ({"voxel_size": (30, 6, 0)}, "header"),
        ({"record": {"a": np.zeros(2)}}, "plain values"),
        ({"record": {"a": Evil}}, "plain values"),
        ({"model": ARCHITECTURE | {"widths": [4, 4]}}, "do not fit the architecture"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, changes, text):
    with pytest.raises(ModelError, match=text):
        write(tmp_path / "m.pt", network(), **changes)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_architecture_are_refused(model, tmp_path):
    found = torch.load(model[0], weights_only=True)
    found["header"]["architecture"]["widths"] = [4, 4]
    torch.save(found, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="do not fit its architecture") as raised:
        load_model(tmp_path / "m.pt")
    assert "\n" not in str(raised.value)
    found["header"]["architecture"]["name"] = "vnet"
    torch.save(found, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="'vnet' is unknown"):
        load_model(tmp_path / "m.pt")


def image_file(path, data, voxel_size=(30, 6, 6)):
    image = tifffile.imread(data / "ac4_image.tif")[:8, :32, :32]
    with h5py.File(path, "w") as file:
        file["main"] = image
        file["main"].attrs["voxel_size"] = voxel_size
    return image


def test_inference_from_the_shell_is_the_networks_own_forward(model, tmp_path, data, process):
    image = image_file(tmp_path / "i.h5", data)
    (tmp_path / "elsewhere").mkdir()
    os.rename(model[0], tmp_path / "elsewhere" / "m.pt")  # nothing beside it
    result = process(
        "read-h5", "-f", tmp_path / "i.h5", "inference", "-f", "pytorch", "--convnet-model",
        tmp_path / "elsewhere" / "m.pt", "--mask-output-chunk", "--dtype", "float32",
        "write-h5", "-f", tmp_path / "o.h5",
    )  # fmt: skip
    assert "nm" not in result.err
    with torch.inference_mode():
        wanted = torch.sigmoid(model[1](torch.from_numpy(image / np.float32(255))[None, None])[0, :3])
    with h5py.File(tmp_path / "o.h5") as file:
        found = next(v for v in file.values() if v.ndim == 4)
        np.testing.assert_allclose(found[()], wanted.numpy(), atol=1e-5)
        attributes = dict(found.attrs) | dict(file.attrs)
    np.testing.assert_array_equal(np.asarray(attributes["offsets"]).reshape(3, 3), OFFSETS[:3])


def test_many_patches_of_the_default_size_and_the_plan(model, tmp_path, segflow, data):
    line = ["read-tif", "-f", data / "ac4_image.tif", "inference", "-m", model[0], "--output-dtype", "uint8"]
    plan = segflow("--dry-run", *line, "--mask-output-chunk").out
    assert "3x20x512x512 uint8" in plan
    assert "3x18x496x496 uint8" in segflow("--dry-run", *line).out  # overlap 1 8 8 is cut


def test_outputs_that_are_no_affinities_are_probabilities(tmp_path, data, segflow):
    write(tmp_path / "m.pt", offsets=None)
    image_file(tmp_path / "i.h5", data)
    line = ["read-h5", "-f", tmp_path / "i.h5", "inference", "-m", tmp_path / "m.pt", "--mask-output-chunk"]
    segflow(*line, "write-h5", "-f", tmp_path / "o.h5")
    with h5py.File(tmp_path / "o.h5") as file:
        found = next(v for v in file.values() if v.ndim == 4)
        assert "offsets" not in {**found.attrs, **file.attrs}


def test_other_voxels_give_one_line_of_warning(model, tmp_path, data, segflow):
    image_file(tmp_path / "i.h5", data, (40, 16, 16))
    line = ["read-h5", "-f", tmp_path / "i.h5", "inference", "-m", model[0], "--mask-output-chunk"]
    result = segflow(*line)
    said = [text for text in result.err.splitlines() if "trained on" in text]
    assert len(said) == 1
    assert "40x16x16 nm" in said[0]
    assert "30x6x6" in said[0]


def test_which_voxel_sizes_fit():
    assert not warn_of_voxel_size((33, 6.5, 5), (30, 6, 6))
    assert not warn_of_voxel_size(None, (30, 6, 6))
    assert not warn_of_voxel_size((30, 6, 6), None)
    assert warn_of_voxel_size((30, 6, 8), (30, 6, 6))
    assert default_patch({"patch_size": [16, 128, 160]}) == ((16, 128, 160), (3, 32, 40))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["-w", "model.pt"], 2, "leave out --convnet-weight-path"),
        (["-c", 4], 1, "4"),
        (["--patch-size", 8, 16, 16, "--patch-overlap", 8, 8, 8], 2, "overlap"),
    ],
)
def test_lines_that_cannot_work(model, data, segflow, words, code, text, monkeypatch):
    monkeypatch.chdir(model[0].parent)
    line = ["read-tif", "-f", data / "ac4_image.tif", "inference", "-m", "model.pt", "--mask-output-chunk"]
    assert text in segflow(*line, *words, code=code).last


def test_models_lists_what_is_shipped(segflow):
    lines = segflow("models").out.splitlines()
    assert any(
        line.startswith("affinity-snemi3d") and "30x6x6 nm" in line and "licence" in line for line in lines
    )
    told = json.loads(segflow("models", "affinity-snemi3d", "--json").out)
    assert told["offsets"] == OFFSETS[:3]
    from segflow.inference import load_backend
    from segflow.inference.models import shipped
    from segflow.inference.patches import Patch

    net = load_backend(
        "pytorch", shipped("affinity-snemi3d"), None, patch=Patch.of((4, 32, 32), overlap=(0, 0, 0))
    ).net
    folded = sum(p.numel() for p in net.parameters())
    assert abs(folded - told["parameters"]) < 0.01 * folded


def test_models_tells_of_a_file(model, tmp_path, segflow, data):
    told = segflow("models", model[0]).out
    for text in ("iterations: 7", "licence: CC-BY-4.0", "patch_size: [8, 32, 32]", "--convnet-model"):
        assert text in told
    assert "did you mean" in segflow("models", "affinity-snemi", code=2).last
    assert "model file" in segflow("models", data / "ac4_image.tif", code=1).last
    assert "NAME or FILE" in segflow("models", "--onnx", tmp_path / "m.onnx", code=2).last


def test_a_program_of_torch_export_answers_the_same(model, tmp_path, segflow):
    segflow("models", model[0], "--torch-export", tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    image = torch.rand(1, 1, *PATCH)
    with torch.inference_mode():
        torch.testing.assert_close(program(image), load_model(model[0])[0](image), rtol=1e-5, atol=1e-5)


def test_onnx_answers_the_same(model, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    export_onnx(model[0], tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "model.pt"]
    image = torch.rand(1, 1, *PATCH)
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(None, {"image": image.numpy()})[0]
    with torch.inference_mode():
        np.testing.assert_allclose(answer, load_model(model[0])[0](image).numpy(), atol=1e-5)


def test_onnx_needs_its_packages(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"segflow\[train\]"):
        export_onnx(model[0], tmp_path / "m.onnx")


def test_a_full_disk_leaves_the_old_file(model, monkeypatch):
    before = model[0].read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write(model[0], outputs=1)
    monkeypatch.undo()
    assert model[0].read_bytes() == before
    assert zipfile.is_zipfile(model[0])
    assert [p.name for p in model[0].parent.iterdir()] == ["model.pt"]


def test_the_shipped_name_is_no_file(tmp_path):
    with pytest.raises(UsageError, match="no network"):
        about(str(tmp_path / "none.pt"))
    assert modelfile.Exported(network(), [0, 1])(torch.rand(1, 1, *PATCH)).shape == (1, 2, *PATCH)


def test_a_network_with_channels_z_y_x_answers_x_y_z(tmp_path):
    offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (-3, 0, 0)]
    net = write(tmp_path / "model.pt", offsets=offsets, outputs=4)
    found, header = load_model(tmp_path / "model.pt")
    image = torch.rand(1, 1, *PATCH)
    with torch.inference_mode():
        assert torch.equal(found(image), torch.sigmoid(net(image)[:, [2, 1, 0, 3]]))
    assert offsets_of(header) == (*DEFAULT_OFFSETS, (-3, 0, 0))


def test_inference_with_onnx_is_inference_with_pytorch(model, tmp_path, data, segflow):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    segflow("models", model[0], "--onnx", tmp_path / "m.onnx")
    with h5py.File(tmp_path / "i.h5", "w") as file:
        file["main"] = tifffile.imread(data / "ac4_image.tif")[:10, :48, :48]
    outputs = {}
    for kind, file in (("onnx", "m.onnx"), ("pytorch", "model.pt")):
        line = ["read-h5", "-f", tmp_path / "i.h5", "inference", "-f", kind, "-m", tmp_path / file]
        patch = ["-s", *PATCH, "-v", 2, 8, 8, "--dtype", "float32", "-b", 2, "--mask-output-chunk"]
        segflow(*line, *patch, "write-h5", "-f", tmp_path / f"{kind}.h5")
        with h5py.File(tmp_path / f"{kind}.h5") as written:
            found = next(v for v in written.values() if v.ndim == 4)
            outputs[kind] = found[()]
            offsets = np.asarray({**written.attrs, **found.attrs}["offsets"]).reshape(3, 3)
            np.testing.assert_array_equal(offsets, OFFSETS[:3])
    np.testing.assert_allclose(outputs["onnx"], outputs["pytorch"], atol=1e-5)
    line = ["read-h5", "-f", tmp_path / "i.h5", "inference", "-f", "onnx"]
    small = ["-s", 4, 32, 32, "-v", 0, 0, 0]
    said = segflow(*line, "-m", tmp_path / "m.onnx", *small, code=1).last
    assert "takes patches of 1x8x32x32" in said
    assert "give --patch-size 8 32 32" in said
    assert "no ONNX file" in segflow(*line, "-m", model[0], *small, code=1).last


def test_onnx_is_run_with_the_patch_that_it_names(model, tmp_path, segflow):
    told = segflow("models", model[0], "--onnx", tmp_path / "m.onnx")
    assert told.out == ""
    assert told.err.splitlines() == [f"wrote {tmp_path / 'm.onnx'}"]
    np.save(tmp_path / "i.npy", np.random.default_rng(0).random((10, 48, 48), np.float32))
    for kind, file in (("onnx", "m.onnx"), ("pytorch", "model.pt")):
        line = ["read-npy", "-f", tmp_path / "i.npy", "inference", "-f", kind, "-m", tmp_path / file]
        tail = ["-d", "float32", "--mask-output-chunk", "write-npy", "-f", tmp_path / f"{kind}.npy"]
        assert "3x10x48x48" in segflow("--dry-run", *line, *tail).out
        segflow(*line, *tail)
    onnx, plain = (np.load(tmp_path / f"{kind}.npy") for kind in ("onnx", "pytorch"))
    np.testing.assert_allclose(onnx, plain, atol=1e-5)
    assert "8x32x32" in segflow("check-model", "-m", tmp_path / "m.onnx").out


def test_what_the_framework_cannot_run_is_told(model, tmp_path, data, segflow):
    segflow("models", model[0], "--torch-export", tmp_path / "m.pt2")
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    line = ["read-tif", "-f", data / "ac4_image.tif", "inference"]
    said = segflow(*line, "-m", tmp_path / "m.pt2", code=1).last
    assert "a program of torch.export" in said
    assert "model.pt" in said
    assert "an ONNX file -f onnx" in segflow(*line, "-m", tmp_path / "m.onnx", code=2).last
    line = ["--dry-run", *line, "--model", "affinity-snemi3d", "--augment-mode", "min"]
    assert "--augment-mode min does nothing without --augment" in segflow(*line).err
    assert segflow(*line, "--augment").err == ""
