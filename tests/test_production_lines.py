"""The tutorial's production lines, T20 and T21, on real data with a local SQS, S3 and CloudWatch."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.geometry import Box
from segflow.image.contrast import normalize_contrast
from segflow.image.downsample import downsample
from segflow.volumes import info as metadata
from segflow.volumes import open_volume

MODEL = '''
import torch


class Net(torch.nn.Module):
    """Channels that are each a known function of the voxel."""

    def forward(self, x):
        return torch.cat([x, 1 - x, x / 2, torch.full_like(x, 0.25)][:CHANNELS], 1)


InstantiatedModel = Net()
'''
T20 = (
    "chunkflow --verbose --mip 2 fetch-task --queue-name=my-queue --visibility-timeout=3600 "
    'cutout --volume-path="s3://my/image/volume/path" --expand-margin-size 10 128 128 --fill-missing '
    'inference --convnet-model=my-model-name --convnet-weight-path="/nets/weight.pt" '
    "--patch-size 20 256 256 --patch-overlap 10 128 128 --framework='pytorch' --batch-size=8 "
    'save --volume-path="file://my/output/volume/path" --upload-log --nproc 0 --create-thumbnail '
    "cloud-watch delete-task-in-queue"
)
T21 = (
    'chunkflow --verbose --mip 1 fetch-task -r 20 --queue-name="$QUEUE_NAME" --visibility-timeout=1800 '
    'cutout --volume-path="$IMAGE_LAYER_PATH" --expand-margin-size 10 128 128 --fill-missing '
    "mask --name='check-all-zero-and-skip-to-save' --check-all-zero "
    "--volume-path=\"$IMAGE_MASK_LAYER_PATH\" --mip 8 --skip-to='save' --fill-missing --inverse "
    'normalize-section-contrast -p "gs://bucket/my/histogram/path/levels/1" -l 0.0023 -u 0.01 '
    'inference --convnet-model="$CONVNET_MODEL_FILE" --convnet-weight-path="${CONVNET_WEIGHT_FILE}" '
    "--input-patch-size 20 256 256 --output-patch-size 16 192 192 --output-patch-overlap 2 32 32 "
    "--output-crop-margin 8 96 96 --num-output-channels 4 --framework='pytorch' --batch-size 6 "
    "--patch-num 14 9 9 "
    "mask --name='mask-aff' --volume-path=\"$OUTPUT_MASK_LAYER_PATH\" --mip 8 --fill-missing --inverse "
    'save --volume-path="$OUTPUT_LAYER_PATH" --upload-log --nproc 0 --create-thumbnail '
    "cloud-watch delete-task-in-queue"
)


@pytest.fixture
def place(tmp_path, bucket, monkeypatch):
    """A working folder, and waits that are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.05")
    return tmp_path


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")


def network(path, weights, channels):
    import torch

    weights.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MODEL.replace("CHANNELS", str(channels)))
    torch.save({}, weights)


def ingest(segflow, data, path, mips):
    segflow("read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "save", "-v", path,
            "--block-size", 20, 64, 64, "downsample", "-v", path, "--mips", mips, "--factor", 1, 2, 2)  # fmt: skip


def test_t20(place, data, image, segflow):
    source = "s3://bkt/my/image/volume/path"  # a bucket's name has three letters or more
    ingest(segflow, data, source, 3)
    network(place / "my-model-name", place / "nets/weight.pt", 3)
    segflow("generate-tasks", "-v", source, "-m", 2, "-c", 10, 128, 128, "-q", "my-queue")
    segflow(*shlex.split(T20.replace("/nets", f"{place}/nets").replace("s3://", "s3://bkt/"))[1:])
    grey = downsample(downsample(image, (1, 2, 2)), (1, 2, 2)) / np.float32(255)
    wanted = np.rint(255 * np.stack([grey, 1 - grey, grey / 2]))
    volume = open_volume(f"file://{place}/my/output/volume/path")
    found = volume.read(mip=2, fill_missing=False)
    assert found.dtype == np.uint8
    assert np.abs(found.array - wanted).max() <= 1
    log = json.loads((place / "my/output/volume/path/log/0-10_0-128_0-128.json").read_text())
    assert {"read-precomputed", "inference"} <= set(log["timer"])
    thumbnail = open_volume(f"{volume.path}/thumbnail").read(mip=6, fill_missing=False).array
    assert np.abs(thumbnail - downsample(found.array[2], (1, 16, 16)).astype(int)).max() == 0
    from segflow.tasks.queues import open_queue

    counts = open_queue("my-queue").counts()
    assert (counts.waiting, counts.running, counts.dead) == (0, 0, 0)


def settings(place, **more):
    """The exports of T21, with files in place of a bucket."""
    return {
        "$QUEUE_NAME": "chunkflow", "$IMAGE_LAYER_PATH": f"file://{place}/em",
        "$IMAGE_MASK_LAYER_PATH": f"file://{place}/mask", "$OUTPUT_MASK_LAYER_PATH": f"file://{place}/mask2",
        "$OUTPUT_LAYER_PATH": f"file://{place}/out", "$CONVNET_MODEL_FILE": f"{place}/net.py",
        "${CONVNET_WEIGHT_FILE}": f"{place}/net.pt", "gs://bucket/my/histogram": f"file://{place}", **more,
    }  # fmt: skip


def line(values):
    text = T21
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return shlex.split(text)[1:]


def mask_at_8(path, voxels, bounds):
    """A mask volume of nine mips, of which only the last is there; xyz factors 1 2 2."""
    volume = open_volume(path)
    raw = metadata.make(bounds, "uint8", voxel_size=(30, 6, 6), block_size=(16, 16, 16))
    volume.create(metadata.with_mips(raw, 9, (1, 2, 2)))
    volume.write(Chunk(voxels), 8)


def test_t21(place, data, image, segflow):
    """The same line at sizes that this test can afford: 27 tasks, some of them in the mask."""
    ingest(segflow, data, f"file://{place}/em", 2)
    network(place / "net.py", place / "net.pt", 4)
    segflow("section-histogram", "-v", place / "em", "-m", 1, "-p", place / "path/levels/1")
    inside, outside = np.zeros((20, 2, 2), np.uint8), np.zeros((20, 2, 2), np.uint8)
    inside[:, 0, 0] = 255  # nothing to see in a quarter: its first task is passed over
    outside[5:, 1, 1] = 1
    bounds = Box.of((0, 0, 0), image.shape)
    mask_at_8(f"file://{place}/mask", inside, bounds)
    mask_at_8(f"file://{place}/mask2", outside, bounds)
    segflow("create-info", "-v", place / "out", "--volume-size", *image.shape, "--voxel-size", 30, 6, 6,
            "--block-size", 8, 56, 56, "-c", 4, "-d", "uint8", "-m", 1, "-f", 1, 2, 2)  # fmt: skip
    segflow("generate-tasks", "-v", place / "em", "-m", 1, "-c", 8, 112, 112, "-q", "chunkflow")
    sizes = {
        "10 128 128": "3 24 24", "20 256 256": "6 64 64", "16 192 192": "4 48 48", "2 32 32": "2 16 16",
        "8 96 96": "2 16 16", "14 9 9": "5 4 4",
    }  # fmt: skip
    result = segflow(*line(settings(place, **sizes)))
    grey = normalize_contrast(Chunk(downsample(image, (1, 2, 2))), 0.0023, 0.01).array / np.float32(255)
    wanted = np.rint(255 * np.stack([grey, 1 - grey, grey / 2, np.full_like(grey, 0.25)]))
    wanted[:, 5:, 128:, 128:] = 0
    wanted[:, :, :112, :112] = 0
    volume = open_volume(f"file://{place}/out")
    found = volume.read(mip=1, fill_missing=False).array
    assert np.abs(found - wanted).max() <= 1
    np.testing.assert_array_equal(found[3] == 0, wanted[3] == 0)
    logs = {p.stem: json.loads(p.read_text())["timer"] for p in (place / "out/log").iterdir()}
    assert len(logs) == 3 * 3 * 3
    skipped = {"fetch-task", "read-precomputed", "check-all-zero-and-skip-to-save", "write-precomputed"}
    assert set(logs["0-8_0-112_0-112"]) == set(logs["16-24_0-112_0-112"]) == skipped
    assert "mask-aff" in logs["0-8_112-224_0-112"]
    thumbnail = open_volume(f"file://{place}/out/thumbnail")
    assert thumbnail.read(mip=6, fill_missing=False).shape == (20, 8, 8)
    assert "Traceback" not in result.err
    from segflow.tasks.queues import open_queue

    counts = open_queue("chunkflow").counts()
    assert (counts.waiting, counts.running, counts.dead) == (0, 0, 0)


def test_t21_at_its_own_sizes_is_checked(place, segflow):
    """Geometry, masks and paths of the line as it stands, for a task of 182 x 1280 x 1280 at mip 1."""
    network(place / "net.py", place / "net.pt", 4)
    (place / "path/levels/1").mkdir(parents=True)
    size = ["--volume-size", 364, 5120, 5120, "--voxel-size", 45, 5, 5, "--block-size", 91, 160, 160]
    for name, channels in (("em", 1), ("mask", 1), ("mask2", 1), ("out", 4)):
        segflow("create-info", "-v", place / name, *size, "-c", channels, "-m", 8, "-f", 1, 2, 2)
    shown = segflow("--dry-run", *line(settings(place)))
    assert "normalize-section-contrast" in shown.out
    words = line(settings(place))
    box = ["create-bbox", "-s", "0", "1280", "1280", "-z", "182", "1280", "1280"]
    words[words.index("fetch-task") : words.index("cutout")] = box
    shown = segflow("--dry-run", *words).out
    assert "4x182x1280x1280" in shown
    words[words.index("--patch-num") + 1] = "13"
    assert "takes 14x9x9 patches" in segflow("--dry-run", *words, code=2).last
