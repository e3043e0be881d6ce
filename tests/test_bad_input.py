"""Bad input ends with one clear line, the right exit code, and nothing half-written."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).parent.parent
NET = ROOT / "examples" / "affinity-unet"


@pytest.fixture
def place(tmp_path, data, monkeypatch):
    """Give a working folder with good and bad files."""
    monkeypatch.chdir(tmp_path)
    image = tifffile.imread(data / "ac4_image.tif")[:8, :64, :64]
    tifffile.imwrite("good.tif", image, photometric="minisblack")
    whole = Path("good.tif").read_bytes()
    Path("cut.tif").write_bytes(whole[: len(whole) // 2])
    Path("text.tif").write_text("this is no tif\n")
    Path("empty.tif").write_bytes(b"")
    shutil.copy(data / "gala.h5", "good.h5")
    Path("cut.h5").write_bytes(Path("good.h5").read_bytes()[:5000])
    Path("text.h5").write_text("this is no h5\n")
    np.save("good.npy", image)
    Path("cut.npy").write_bytes(Path("good.npy").read_bytes()[:1000])
    Path("text.npy").write_text("this is no npy\n")
    affinities = np.full((3, 8, 64, 64), 0.5, np.float32)
    np.save("affs.npy", affinities)
    np.save("two.npy", affinities[:2])
    affinities[0, 3, 3, 3] = np.nan
    np.save("nan.npy", affinities)
    np.save("wide.npy", affinities * 0 + 7)
    Path("broken").mkdir()
    Path("broken/info").write_text('{"type": "ima')
    Path("syntax.py").write_text("def x(:\n")
    Path("nothing.py").write_text("x = 1\n")
    Path("throws.py").write_text("def execute(chunk):\n    return chunk.array / {}\n")
    return tmp_path


IMAGE = ["read-tif", "-f", "good.tif"]
PATCH = ["--patch-size", 8, 32, 32, "--patch-overlap", 2, 8, 8, "--mask-output-chunk"]
TORCH = [*IMAGE, "inference", "-f", "pytorch", *PATCH]
WEIGHTS = ["--convnet-weight-path", NET / "weights.pt"]

CASES = {
    "no file": (["read-tif", "-f", "god.tif"], 2, ["read-tif", "god.tif", "did you mean 'good.tif'"]),
    "truncated tif": (["read-tif", "-f", "cut.tif"], None, ["cut.tif"]),
    "text as tif": (["read-tif", "-f", "text.tif"], 2, ["text.tif"]),
    "empty tif": (["read-tif", "-f", "empty.tif"], 2, ["empty.tif"]),
    "truncated h5": (["read-h5", "-f", "cut.h5"], 2, ["cut.h5"]),
    "text as h5": (["read-h5", "-f", "text.h5"], 2, ["text.h5"]),
    "h5 data set": (
        ["read-h5", "-f", "good.h5", "--dataset-path", "/volumes/row"], 2, ["/volumes/raw", "labels/watershed"],
    ),
    "truncated npy": (["read-npy", "-f", "cut.npy"], None, ["cut.npy"]),
    "text as npy": (["read-npy", "-f", "text.npy"], 2, ["text.npy"]),
    "broken info": (["cutout", "-v", "file://broken"], 2, ["broken"]),
    "no volume": (["cutout", "-v", "file://nowhere"], 2, ["nowhere"]),
    "no folder": ([*IMAGE, "write-tif", "-f", "no/where.tif"], 2, ["no"]),
    "nan": (["read-npy", "-f", "nan.npy", "agglomerate"], 1, ["agglomerate", "NaN"]),
    "two channels": (["read-npy", "-f", "two.npy", "agglomerate"], 2, ["agglomerate"]),
    "range": (["read-npy", "-f", "wide.npy", "agglomerate"], 1, ["agglomerate", "7"]),
    "large patch": ([*IMAGE, "inference", "-f", "identity", "--patch-size", 20, 256, 256,
                     "--mask-output-chunk"], 2, ["--pad reflect"]),
    "overlap": ([*IMAGE, "inference", "-f", "identity", "--patch-size", 8, 32, 32, "--patch-overlap", 2, 32, 8],
                2, ["overlap"]),
    "no weights": ([*TORCH, "-m", NET / "model.py"], 2, ["--convnet-weight-path"]),
    "weights missing": ([*TORCH, "-m", NET / "model.py", "-w", "no.pt"], 2, ["no.pt"]),
    "syntax error": ([*TORCH, "-m", "syntax.py", *WEIGHTS], 1, ["syntax.py"]),
    "no model in file": ([*TORCH, "-m", "nothing.py", *WEIGHTS], 1, ["InstantiatedModel"]),
    "too many channels": ([*TORCH, "-m", NET / "model.py", *WEIGHTS, "--num-output-channels", 7], 1, ["7", "3"]),
    "unknown model": ([*IMAGE, "inference", "--model", "affinity-snemi3", *PATCH], 2, ["affinity-snemi3d"]),
    "unknown dtype": ([*IMAGE, "inference", "-f", "identity", "--dtype", "int7", *PATCH], 2, ["int7"]),
    "augment": ([*IMAGE, "inference", "-f", "identity", "--augment-mode", "median", *PATCH], 2, ["augment-mode", "median"]),
    "shapes differ": (
        [*IMAGE, "-o", "a", "read-npy", "-f", "affs.npy", "-o", "b", "evaluate-segmentation", "-s", "a", "-g", "b"],
        2, ["evaluate-segmentation"],
    ),
    "plugin throws": ([*IMAGE, "plugin", "-f", "throws.py", "-i", "chunk", "-o", "x"], 1, ["throws.py"]),
    "two tasks, one file": (
        ["generate-tasks", "-c", 4, 8, 8, "-g", 2, 1, 1, "create-chunk", "-s", 4, 8, 8, "write-npy", "-f", "x.npy"],
        None, ["x.npy", "{bbox}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(segflow, place, case):
    words, code, texts = CASES[case]
    before = sorted(p.name for p in place.iterdir())
    result = segflow("--quiet", *words, code=None)
    assert result.code == code or (code is None and result.code in (1, 2)), result.err
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("segflow "), result.err
    assert "Traceback" not in result.err
    assert "mistake of segflow" not in result.err
    for text in texts:
        assert text in result.err
    left = sorted(p.name for p in place.iterdir())
    assert left == before or case == "two tasks, one file"


def test_weights_of_another_network(segflow, place):
    import torch

    torch.save({"other.weight": torch.zeros(3)}, "other.pt")
    result = segflow("--quiet", *TORCH, "-m", NET / "model.py", "-w", "other.pt", code=1)
    assert "other.weight" in result.err
    assert result.err.count("\n") == 1


def test_box_outside(segflow, place):
    segflow(*IMAGE, "save", "-v", "file://vol", "--voxel-size", 30, 6, 6)
    line = ["cutout", "-v", "file://vol", "--start", 100, 0, 0, "--stop", 110, 8, 8]
    result = segflow("--quiet", *line, code=2)
    assert "100-110_0-8_0-8" in result.err
    assert "0-8_0-64_0-64" in result.err


@pytest.fixture
def small_disk(disk):
    return disk("2m")


@pytest.mark.parametrize(
    "writer",
    [
        ["write-tif", "--compression", "none", "-f", "{}/x.tif"],
        ["write-h5", "--compression", "lzf", "-f", "{}/x.h5"],
        ["write-npy", "-f", "{}/x.npy"],
        ["write-precomputed", "--voxel-size", 1, 1, 1, "--layer-type", "image", "-v", "file://{}/vol"],
    ],
)
def test_full_disk(segflow, small_disk, writer):
    words = [str(w).format(small_disk) for w in writer]
    result = segflow("--quiet", "create-chunk", "-s", 32, 512, 512, *words, code=1)
    assert result.err.count("\n") == 1
    assert "space" in result.err
    assert "mistake of segflow" not in result.err
    assert not list(small_disk.glob("x.*")), "nothing half-written"


def test_read_only_place(segflow, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = segflow(
        "--quiet", "create-chunk", "-s", 4, 8, 8, "write-npy", "-f", small_disk / "x.npy", code=None
    )
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert "x.npy" in result.err or "small" in result.err


def test_interrupt_in_the_middle_leaves_nothing(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time, sys\n\n\ndef execute(chunk):\n"
        "    print('here', flush=True)\n    for _ in range(600):\n        time.sleep(0.1)\n    return chunk\n"
    )
    words = ["create-chunk", "-s", "4", "8", "8", "plugin", "-f", slow, "-i", "chunk", "-o", "chunk"]
    words += ["write-npy", "-f", tmp_path / "x.npy"]
    run = subprocess.Popen(
        [sys.executable, "-m", "segflow", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    assert run.stdout.readline() == "here\n"
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 130
    assert err.strip().splitlines()[-1].startswith("segflow: interrupted")
    assert [p.name for p in tmp_path.iterdir()] == ["slow.py"]


def test_sigterm_after_the_end_changes_nothing(tmp_path):
    late = tmp_path / "late.py"
    late.write_text(
        "import os, sys, time\n\n\nclass Late:\n"
        "    def __del__(self, os=os, time=time):\n        os.write(1, b'leaving\\n')\n        time.sleep(0.5)\n\n\n"
        "def execute(chunk):\n    sys.modules['__main__'].late = Late()\n"
    )
    words = ["create-chunk", "-s", "4", "8", "8", "plugin", "-f", late, "-i", "chunk"]
    with subprocess.Popen([sys.executable, "-m", "segflow", *map(str, words)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"leaving\n"
        run.terminate()
        assert run.wait(20) == 0


def test_uint16_is_undecided(segflow, place):
    np.save("sixteen.npy", np.arange(512, dtype=np.uint16).reshape(8, 8, 8))
    result = segflow("--quiet", "read-npy", "-f", "sixteen.npy", "save", "-v", "file://vol", code=2)
    assert "--layer-type" in result.err
    with h5py.File("x.h5", "w") as file:
        file["main"] = np.load("sixteen.npy")
    segflow("read-h5", "-f", "x.h5", "--layer-type", "segmentation", "save", "-v", "file://vol",
            "--voxel-size", 1, 1, 1)  # fmt: skip
