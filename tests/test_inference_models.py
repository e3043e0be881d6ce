"""Model files, weights, folded norms and precision, with real networks on a real image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from segflow.chunk import Chunk
from segflow.errors import ModelError, UsageError
from segflow.inference import Patch, PyTorch, infer, load_backend
from segflow.inference import precision as precision_module
from segflow.inference.models import fold_norms, load_weights, run_file, shipped
from segflow.inference.precision import decide, difference
from segflow.training.modelfile import load_model

SHIPPED = shipped("affinity-snemi3d")
EXAMPLE = Path(__file__).parent.parent / "examples" / "affinity-unet" / "model.py"
PATCH = Patch.of((8, 64, 64), overlap=(2, 16, 16))

TUTORIAL = """
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from layers_of_this_test import Widen

assert Path(__file__).name.startswith("net")


class Model(nn.Module):
    def __init__(self, in_dim, output_spec, depth):
        super().__init__()
        self.output_spec = output_spec
        self.body = nn.Sequential(Widen(in_dim, depth), nn.BatchNorm3d(depth), nn.ReLU())
        self.head = nn.Conv3d(depth, sum(output_spec.values()), 1)

    def forward(self, x):
        return [self.head(self.body(x))]


def pre_process(input_patch):
    # we do not need to do anything,
    # just transfer input patch to net
    net_input = input_patch
    return net_input


def post_process(net_output):
    # the net output is a list of 5D tensor,
    # and there is only one element.
    output_patch = net_output[0]
    # there is only one channel, so we drop it.
    output_patch = output_patch.narrow(1, 0, 1)
    output_patch = torch.sigmoid(output_patch)
    return output_patch


in_dim = 1
output_spec = OrderedDict(psd_label=1)
depth = 3
InstantiatedModel = Model(in_dim, output_spec, depth)
"""
LAYERS = "from torch import nn\n\n\ndef Widen(a, b):\n    return nn.Conv3d(a, b, 3, padding=1)\n"


@pytest.fixture
def image(data):
    return Chunk(tifffile.imread(data / "ac4_image.tif")[:10, 100:196, 200:290], (5, 6, 7), (30, 6, 6))


@pytest.fixture
def tutorial(tmp_path):
    """Give a model file as in the tutorial, without a .py ending, and weights of it."""
    (tmp_path / "layers_of_this_test.py").write_text(LAYERS)
    model, weights = tmp_path / "net-model", tmp_path / "weight.chkpt"
    model.write_text(TUTORIAL)
    torch.manual_seed(0)
    net = run_file(str(model)).InstantiatedModel
    state = {
        f"module.{k}": torch.rand_like(v) if v.is_floating_point() else v for k, v in net.state_dict().items()
    }
    torch.save({"state_dict": state}, weights)
    return model, weights


def direct(model, weights, image):
    """Compute one patch by PyTorch alone: the corner of the image."""
    module = run_file(str(model))
    net = module.InstantiatedModel.eval()
    state = torch.load(weights, weights_only=True)["state_dict"]
    net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    patch = torch.from_numpy(image.array[:8, :64, :64].astype(np.float32) / 255)[None, None]
    with torch.inference_mode():
        return torch.sigmoid(net(patch)[0])[0, 0].numpy()


def test_the_tutorial_s_model_file(image, tutorial):
    model, weights = tutorial
    backend = load_backend("pytorch", str(model), str(weights), patch=PATCH)
    assert backend.files.keys() == {"weight.chkpt"}
    assert len(backend.files["weight.chkpt"]) == 64
    out = infer(image, backend, patch=PATCH, mask_output_chunk=True, batch_size=3)
    assert out.layer_type == "probability_map"
    assert (out.bbox, out.voxel_size) == (image.bbox, image.voxel_size)
    wanted = direct(model, weights, image)
    np.testing.assert_allclose(out.array[:2, :32, :26], wanted[:2, :32, :26], atol=1e-5)


@pytest.mark.parametrize("answer", ["x", "[x]", "(x, x * 2)", "{'a': x}"])
@pytest.mark.parametrize("given", ["patch", "torch.from_numpy(patch)"])
def test_what_pre_and_post_process_may_do(tmp_path, image, answer, given):
    model = tmp_path / "model.py"
    text = (
        "import torch\n"
        f"def pre_process(patch):\n    return {given}\n"
        "class Net(torch.nn.Module):\n"
        f"    def forward(self, x):\n        return {answer}\n"
        "def load_model(path):\n    return Net()\n"
    )
    weights = tmp_path / "none.pt"
    weights.write_bytes(b"")
    for post in ("", "def post_process(net_output):\n    return net_output[0].narrow(1, 0, 1)\n"):
        if post and "{" in answer:
            continue
        model.write_text(text + post)
        backend = load_backend("pytorch", str(model), str(weights), patch=PATCH)
        out = infer(image, backend, patch=PATCH, mask_output_chunk=True, batch_size=2)
        np.testing.assert_allclose(out.array, image.array / 255, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(image, tmp_path):
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.Sigmoid()).eval()
    path = str(tmp_path / "net.pt")
    torch.jit.save(torch.jit.script(net), path)
    out = infer(image, load_backend("pytorch", path, patch=PATCH), patch=PATCH, mask_output_chunk=True)
    by_hand = infer(image, PyTorch(net), patch=PATCH, mask_output_chunk=True)
    assert out.shape == (2, *image.shape)
    np.testing.assert_allclose(out.array, by_hand.array, atol=1e-5)


def test_universal(image, tmp_path):
    model = tmp_path / "inferencer"
    model.write_text(
        "class PatchInferencer:\n"
        "    def __init__(self, weight_path, output_patch_mask):\n"
        "        self.mask = output_patch_mask\n"
        "    compute_device = 'abacus'\n"
        "    def __call__(self, patch):\n"
        "        return (1 - patch)[:, :, 1:-1, 4:-4, 4:-4] * self.mask\n"
    )
    patch = Patch.of((8, 64, 64), (6, 56, 56), (2, 16, 16))
    for framework in ("universal", "general"):
        backend = load_backend(framework, str(model), patch=patch)
        assert backend.device == "abacus"
        out = infer(image, backend, patch=patch, mask_output_chunk=True)
        np.testing.assert_allclose(out.array, 1 - image.array[1:-1, 4:-4, 4:-4] / np.float32(255), atol=1e-6)


class Net(nn.Module):
    """A network in whose sequences norms can and cannot be folded."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU())
        self.shared = nn.Conv3d(4, 4, 1)
        self.twice = nn.Sequential(self.shared, nn.BatchNorm3d(4))
        self.alone = nn.Sequential(nn.ReLU(), nn.BatchNorm3d(4))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)

    def forward(self, x):
        return self.alone(self.twice(self.plain(x)) + self.shared(self.plain(x)))


def test_norms_fold_where_they_may():
    torch.manual_seed(0)
    net = Net().eval()
    example = torch.rand(1, 1, 4, 8, 8)
    folded = fold_norms(net, example)
    norms = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms == ["twice.1", "alone.1"]
    assert isinstance(net.plain[1], nn.BatchNorm3d)
    with torch.inference_mode():
        torch.testing.assert_close(folded(example), net(example), rtol=1e-4, atol=1e-5)


def test_a_fold_that_changes_the_answer_is_undone():
    class Peeking(Net):
        def forward(self, x):
            return self.plain[0](x)  # without its norm

    torch.manual_seed(0)
    net = Peeking().eval()
    assert fold_norms(net, torch.rand(1, 1, 4, 8, 8)) is net


def test_the_shipped_network_folds_wholly():
    net, _ = load_model(SHIPPED)
    folded = fold_norms(net, torch.rand(1, 1, 4, 32, 32))
    assert not any(isinstance(m, nn.BatchNorm3d) for m in folded.modules())


def test_weights_without_the_counter(tmp_path):
    net = Net()
    path = tmp_path / "w.pt"
    torch.save({k: v for k, v in net.state_dict().items() if "num_batches" not in k}, path)
    other = Net()
    load_weights(other, str(path))
    torch.testing.assert_close(other.plain[0].weight, net.plain[0].weight)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("plain.0.weight"), r"1 missing \(plain.0.weight\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
        (lambda s: s.update({"shared.bias": torch.zeros(7)}), r"shared.bias is \(7,\) instead of \(4,\)"),
        (lambda s: [s.pop(k) for k in list(s) if "weight" in k], r", \.\.\.\)"),
    ],
)
def test_weights_of_another_network(tmp_path, change, text):
    state = dict(Net().state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=text):
        load_weights(Net(), str(tmp_path / "w.pt"))


def test_what_is_no_weights(tmp_path):
    path = tmp_path / "w.pt"
    for content, text in ((b"text", "not a file of weights"), (b"", "not a file of weights")):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=text):
            load_weights(Net(), str(path))
    for content, text in ((Net(), "not a file of weights"), ([1, 2], "state_dict"), ({"a": 1}, "state_dict")):
        torch.save(content, path)
        with pytest.raises(ModelError, match=text):
            load_weights(Net(), str(path))
    whole = path.read_bytes()
    torch.save(Net().state_dict(), path)
    path.write_bytes(path.read_bytes()[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"w\.pt"):
        load_weights(Net(), str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", r"not valid Python: .* \(line 1\)"),
        ("import a_module_that_is_not\n", "ModuleNotFoundError"),
        ("InstantiatedModle = 1\n", "does not define InstantiatedModel.*InstantiatedModle"),
        ("from torch.nn import Conv3d as InstantiatedModel\n", "no torch.nn.Module but type"),
        ("def load_model(path):\n    return 1 / 0\n", "load_model of .* ZeroDivisionError"),
        ("\0", "not a Python file"),
    ],
)
def test_what_is_no_model(tmp_path, text, said):
    model, weights = tmp_path / "model.py", tmp_path / "w.pt"
    model.write_text(text)
    torch.save({}, weights)
    with pytest.raises(ModelError, match=said):
        load_backend("pytorch", str(model), str(weights), patch=PATCH)


def test_what_is_not_given(tmp_path):
    for arguments, text in (
        (("pytorch", None, None), "--convnet-model"),
        (("pytorch", str(EXAMPLE), None), "--convnet-weight-path"),
        (("pytorch", str(tmp_path / "no.py"), "w.pt"), "no.py"),
        (("onyx", None, None), "no framework 'onyx'"),
    ):
        with pytest.raises(UsageError, match=text):
            load_backend(*arguments, patch=PATCH)
    with pytest.raises(UsageError, match="did you mean"):
        shipped("affinity-snemi")
    with pytest.raises(UsageError, match="GPUs|unknown"):
        PyTorch(Net(), device="cuda:7")


# -- precision ------------------------------------------------------------------------------------


@pytest.fixture
def able(monkeypatch):
    monkeypatch.setattr(precision_module, "has_bfloat16", lambda device: True)


def answers(error):
    """Give a network whose bfloat16 is off by ``error``, and the list of what it was asked."""
    asked = []

    def answer(patch, dtype):
        asked.append((patch.shape, dtype))
        return patch + (error if dtype == "bfloat16" else 0)

    return answer, asked


@pytest.mark.parametrize(("error", "chosen"), [(0.01, "bfloat16"), (0.03, "float32"), (np.nan, "float32")])
def test_bfloat16_where_the_answer_stays(able, home, error, chosen):
    answer, asked = answers(error)
    cpu = torch.device("cpu")
    assert decide(answer, (20, 256, 256), 1, cpu, "a") == chosen
    assert asked == [((1, 1, 20, 128, 128), "float32"), ((1, 1, 20, 128, 128), "bfloat16")]
    assert decide(answer, (20, 256, 256), 1, cpu, "a") == chosen
    assert len(asked) == 2  # kept
    (kept,) = (home / ".cache" / "segflow" / "precision").iterdir()
    assert json.loads(kept.read_text())["difference"] == pytest.approx(error, abs=1e-6) or error != error
    assert decide(answer, (20, 256, 256), 1, cpu, "another network") == chosen
    assert len(asked) == 4


def test_precision_without_a_place_to_keep_it(able, home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    answer, asked = answers(0)
    assert decide(answer, (4, 16, 16), 1, torch.device("cpu"), "a") == "bfloat16"
    assert len(asked) == 2


def test_the_layout_is_chosen_by_time(image):
    torch.manual_seed(0)
    backend = PyTorch(Net(), patch=PATCH.size)
    before = backend(np.ones((1, 1, 8, 16, 16), np.float32))
    layout = backend._faster_layout(PATCH.size, 1)
    assert layout in (torch.contiguous_format, torch.channels_last_3d)
    assert backend.net.plain[0].weight.is_contiguous(memory_format=layout)
    np.testing.assert_allclose(backend(np.ones((1, 1, 8, 16, 16), np.float32)), before, atol=1e-5)


def test_float32_where_there_is_no_bfloat16(monkeypatch):
    monkeypatch.setattr(precision_module, "has_bfloat16", lambda device: False)
    answer, asked = answers(0)
    assert decide(answer, (4, 16, 16), 1, torch.device("cpu"), "a") == "float32"
    assert not asked


def test_a_network_that_refuses_the_small_patch():
    def answer(patch, dtype):
        if patch.shape[-1] < 256:
            raise RuntimeError("too small")
        return patch

    assert difference(answer, (4, 256, 256), 1) == 0
    assert difference(answer, (4, 100, 100), 1) == float("inf")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_precisions_agree(image, dtype, tutorial):
    model, weights = (str(p) for p in tutorial)
    exact = infer(image, load_backend("pytorch", model, weights, patch=PATCH), patch=PATCH).array
    backend = load_backend("pytorch", model, weights, patch=PATCH, dtype=dtype)
    near = infer(image, backend, patch=PATCH).array
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, exact, atol=0.02)
    assert (near != exact).any() or backend.dtype == "float32"


def test_float32_is_the_same_twice(image, tutorial):
    model, weights = (str(p) for p in tutorial)
    runs = [
        infer(image, load_backend("pytorch", model, weights, patch=PATCH), patch=PATCH, batch_size=b).array
        for b in (1, 1)
    ]
    np.testing.assert_array_equal(*runs)


def test_a_network_s_blocks_equal_the_whole(image, tutorial):
    model, weights = (str(p) for p in tutorial)
    backend = load_backend("pytorch", model, weights, patch=PATCH)
    volume = Chunk(image.array, image.voxel_offset, source={"bounds": image.bbox})
    options = {"patch": PATCH, "patch_grid": "volume"}
    whole = infer(volume, backend, **options)
    assert whole.bbox == image.bbox
    block = volume.cutout(type(image.bbox)((5, 6, 7), (15, 102, 87)))
    part = infer(block, backend, **options)
    np.testing.assert_array_equal(part.array, whole.cutout(part.bbox).array)
    assert part.shape == (10, 96, 26)  # what the second patch in x does not touch


# -- the command line -----------------------------------------------------------------------------


def test_the_model_is_checked_before_the_first_voxel_is_read(segflow, tmp_path, tutorial):
    (tmp_path / "bad.py").write_text("InstantiatedModel = None\n")
    read = tmp_path / "read.py"
    read.write_text("def execute():\n    raise ValueError('it was read')\n")
    result = segflow("--quiet", "plugin", "-f", read, "-o", "chunk", "inference", "-m", tmp_path / "bad.py",
                     "-w", tutorial[1], code=1)  # fmt: skip
    assert "does not define InstantiatedModel" in result.last
