"""The tutorial's lines T15 to T17: a queue of tasks, and the worker that makes a pyramid of them."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import tifffile

from segflow.geometry import Box
from segflow.tasks.queues import Counts, open_queue
from segflow.volumes import open_volume


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let workers end soon after their queue is empty."""
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.05")


def words(line):
    return shlex.split(line)[1:]


@pytest.mark.parametrize("kind", ["fq", "sqs"])
def test_T15(kind, request, segflow, tmp_path, monkeypatch):
    queue = "my-queue"
    if kind == "sqs":
        request.getfixturevalue("bucket")
    else:
        queue = f"fq://{tmp_path}/my-queue"
    line = (
        "chunkflow generate-tasks --chunk-size 128 1024 1024 --grid-size 2 2 2 --stride 128 1024 1024 "
        f"--queue-name {queue}"
    )
    segflow(*words(line))
    found = open_queue(queue)
    boxes = {found.lease(600).message["bbox"] for _ in range(8)}
    assert boxes == {
        f"{z}-{z + 128}_{y}-{y + 1024}_{x}-{x + 1024}" for z in (0, 128) for y in (0, 1024) for x in (0, 1024)
    }
    assert found.lease(600) is None


@pytest.mark.parametrize("kind", ["fq", "sqs"])
def test_T16_and_T17(kind, request, segflow, tmp_path, data):
    """The tasks of a volume, and the worker that makes its pyramid from them."""
    path, queue = f"file://{tmp_path}/dataset/path", "my-queue"
    if kind == "sqs":
        request.getfixturevalue("bucket")
    else:
        queue = f"fq://{tmp_path}/my-queue"
    segflow("read-tif", "-f", data / "ac4_image.tif", "save", "-v", path)
    segflow(*words(f"chunkflow generate-tasks -l {path} -m 0 -o 0 0 0 -c 112 2048 2048 -q {queue}"))
    found = open_queue(queue)
    assert found.counts() == Counts(1, 0, 0)
    line = (
        f"chunkflow --mip 0 fetch-task -q {queue} cutout -v {path} -m 0 --fill-missing downsample-upload -v {path} "
        "--start-mip 1 --stop-mip 5 delete-task-in-queue"
    )
    segflow(*words(line))
    assert found.counts() == Counts(0, 0, 0)
    image = tifffile.imread(data / "ac4_image.tif")
    for mip in range(1, 5):
        small = open_volume(path).read(Box.of((0, 0, 0), (20, 512 >> mip, 512 >> mip)), mip=mip).array
        step = 2**mip
        mean = image.reshape(20, 512 // step, step, 512 // step, step).mean(axis=(2, 4))
        assert np.abs(small - mean).max() <= mip
