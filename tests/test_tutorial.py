"""The lines of chunkflow's tutorial, T01 to T13 and T22, word for word on real data.

The lines of a viewer are run as processes: they print a URL, serve until Ctrl+C and end with 0.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from segflow.cli.main import chain_from_tokens
from segflow.volumes import open_volume

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "affinity-unet"
CLEFT_MODEL = '''
import torch


class Cleft(torch.nn.Module):
    """Dark voxels as a probability: a stand-in with the interface of the tutorial's model files."""

    def forward(self, x):
        return [torch.sigmoid((0.3 - x) * 20)]


InstantiatedModel = Cleft()


def pre_process(patch):
    return torch.from_numpy(patch)


def post_process(output):
    return output[0]


def load_model(path):
    return InstantiatedModel
'''


@pytest.fixture
def place(tmp_path, data, monkeypatch):
    """Give a folder with the files the tutorial names, and make it the working folder."""
    monkeypatch.chdir(tmp_path)
    image = tifffile.imread(data / "ac4_image.tif")[:, :288, :272]
    labels = tifffile.imread(data / "ac4_labels.tif")[:, :288, :272]
    tifffile.imwrite("image.tif", image, photometric="minisblack")
    tifffile.imwrite("groundtruth.tif", labels, photometric="minisblack")
    tifffile.imwrite("segmentation.tif", (labels // 2).astype(np.uint16), photometric="minisblack")
    (tmp_path / "path" / "of").mkdir(parents=True)
    for name in ("image.tif",):
        shutil.copy(name, tmp_path / "path" / "of" / name)
    shutil.copy(MODEL / "model.py", "path/of/model.py")
    shutil.copy(MODEL / "weights.pt", "path/of/weight.pt")
    Path("model.py").write_text(CLEFT_MODEL)
    Path("weight.chkpt").write_bytes(b"")
    with h5py.File("sample_A_20160501.hdf", "w") as file:  # the layout of a CREMI file
        raw = file.create_dataset("volumes/raw", data=image)
        raw.attrs["resolution"] = (40.0, 4.0, 4.0)
    return tmp_path


def words(line: str) -> list[str]:
    """Give the words after ``chunkflow``."""
    return shlex.split(line)[1:]


def serve(line: str) -> str:
    """Run a line that ends in a viewer: wait for its URL, press Ctrl+C, give stdout."""
    view = subprocess.Popen(
        [sys.executable, "-m", "segflow", *words(line)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    assert view.stdout is not None
    found = ""
    for text in view.stdout:
        found += text
        if "http" in text:
            break
    view.send_signal(signal.SIGINT)
    out, err = view.communicate(timeout=120)
    assert view.returncode == 0, found + out + err
    return found + out


def test_t01_t02_help(process):
    assert "create-chunk" in process(*words("chunkflow")).out
    assert "--size" in process(*words("chunkflow create-chunk --help")).out


@pytest.mark.parametrize("line", ["chunkflow create-chunk view", "chunkflow create-chunk neuroglancer"])
def test_t03_t04_view(line):
    assert "http://127.0.0.1" in serve(line) or "http://localhost" in serve(line)


def test_t05_read_h5_neuroglancer(place):
    line = (
        "chunkflow read-h5 --file-name sample_A_20160501.hdf --dataset-path /volumes/raw "
        "neuroglancer --voxel-size 40 4 4"
    )
    assert "http" in serve(line)


def test_t06_t07_ingest_and_cut_out(place, segflow):
    line = (
        "chunkflow read-h5 --file-name sample_A_20160501.hdf --dataset-path /volumes/raw "
        f"save --volume-path file://{place}/your/key/path"
    )
    segflow(*words(line))
    info = open_volume(f"file://{place}/your/key/path").info()
    assert info.bounds.shape == (20, 288, 272)
    assert info.voxel_size == (40, 4, 4)
    line = (
        f"chunkflow cutout --volume-path file://{place}/your/key/path --start 0 0 0 --stop 128 512 512 "
        "write-h5 --file-name cutout_chunk.h5"
    )
    segflow(*words(line))
    with h5py.File("cutout_chunk.h5") as file:
        array = file["main"][:]
    assert array.shape == (128, 512, 512)
    np.testing.assert_array_equal(array[:20, :288, :272], tifffile.imread("image.tif"))
    assert not array[20:].any()


def test_t08_evaluate(place, segflow):
    line = (
        "chunkflow read-tif --file-name groundtruth.tif -o gt read-tif --file-name segmentation.tif "
        "-o seg evaluate-segmentation -g gt -s seg"
    )
    out = segflow(*words(line)).out
    scores = {k.strip(): float(v) for k, v in (row.split(":") for row in out.strip().splitlines())}
    assert list(scores) == ["Rand split", "Rand merge", "VOI split", "VOI merge"]
    assert scores["Rand split"] == pytest.approx(1)
    assert scores["VOI split"] == pytest.approx(0, abs=1e-9)
    assert 0 < scores["Rand merge"] < 1
    assert scores["VOI merge"] > 0


def test_t09_t10_cleft(place, segflow):
    line = (
        "chunkflow read-tif -f path/of/image.tif -o image inference --convnet-model model.py "
        "--convnet-weight-path weight.chkpt --patch-size 18 192 192 --patch-overlap 4 64 64 "
        "--framework pytorch --batch-size 6 --bump wu --num-output-channels 1 --mask-output-chunk "
        "-i image -o cleft write-tif -i cleft -f cleft.tif neuroglancer -c image,cleft -p 33333 -v 30 6 6"
    )
    assert "33333" in serve(line)
    cleft = tifffile.imread("cleft.tif")
    image = tifffile.imread("image.tif").astype(np.float32) / 255
    np.testing.assert_allclose(cleft, 1 / (1 + np.exp(-(0.3 - image) * 20)), atol=0.02)
    line = (
        "chunkflow read-tif -f path/of/image.tif -o image read-tif -f cleft.tif -o cleft "
        "connected-components -i cleft -o seg -t 0.1 neuroglancer -p 33333 -c image,seg -v 30 6 6"
    )
    assert "33333" in serve(line)
    segflow(*words(line.partition(" neuroglancer")[0]), "write-npy", "-i", "seg", "-f", "seg.npy")
    assert ((np.load("seg.npy") > 0) == (cleft > 0.1)).all()


AFFS = (
    "chunkflow read-tif --file-name path/of/image.tif -o image inference --convnet-model path/of/model.py "
    "--convnet-weight-path path/of/weight.pt --patch-size 20 256 256 --patch-overlap 4 64 64 "
    "--num-output-channels 3 -f pytorch --batch-size 12 --mask-output-chunk -i image -o affs "
    "write-h5 -i affs --file-name affs.h5 "
)
SEGMENT = (
    "agglomerate --threshold 0.7 --aff-threshold-low 0.001 --aff-threshold-high 0.9999 -i affs -o seg "
    "write-tif -i seg -f seg.tif "
)


def test_t11_t12_t13_affinities_and_segmentation(place):
    assert "33333" in serve(AFFS + "neuroglancer -c image,affs -p 33333 -v 30 6 6")
    with h5py.File("affs.h5") as file:
        affs = file["main"][:]
    assert affs.shape == (3, 20, 288, 272)
    line = "chunkflow read-h5 --file-name affs.h5 -o affs " + SEGMENT
    line += "read-tif --file-name image.tif -o image neuroglancer -c image,affs,seg -p 33333 -v 30 6 6"
    assert "33333" in serve(line)
    twelve = tifffile.imread("seg.tif")
    assert twelve.shape == (20, 288, 272)
    assert len(np.unique(twelve)) > 10
    Path("seg.tif").unlink()
    assert "33333" in serve(AFFS + SEGMENT + "neuroglancer -c image,affs,seg -p 33333 -v 30 6 6")
    np.testing.assert_array_equal(tifffile.imread("seg.tif"), twelve)


def test_t22_log_summary(tmp_path, segflow):
    (tmp_path / "log").mkdir()
    for seconds, box in ((2.0, "0-156_0-1280_0-1280"), (4.0, "156-312_0-1280_0-1280")):
        log = {"timer": {"inference": seconds, "save": 1.0}, "bbox": box, "compute_device": "cpu"}
        (tmp_path / "log" / f"{box}.json").write_text(json.dumps(log))
    out = segflow(*words(f"chunkflow log-summary --log-dir {tmp_path}/log --output-size 156 1280 1280")).out
    assert "inference" in out
    assert "cpu" in out


def test_the_mission_line_is_understood(place):
    line = (
        "chunkflow read-tif -f image.tif -o image inference --convnet-model path/of/model.py "
        "--convnet-weight-path path/of/weight.pt --patch-size 20 256 256 --patch-overlap 4 64 64 "
        "--num-output-channels 3 -f pytorch --batch-size 12 --mask-output-chunk -i image -o affs "
        "agglomerate --threshold 0.7 --aff-threshold-low 0.001 --aff-threshold-high 0.9999 -i affs -o seg "
        f"write-precomputed -i seg -v file://{place}/seg downsample -v file://{place}/seg "
        "neuroglancer -c image,affs,seg -p 33333 -v 30 6 6"
    )
    assert len(chain_from_tokens(words(line)).steps) == 6
