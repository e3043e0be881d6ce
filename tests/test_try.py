"""try and estimate: a task aside, on real data."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.cli.aside import Sample
from segflow.geometry import Box
from segflow.tasks.queues import Counts, open_queue
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume


@pytest.fixture
def em(data, tmp_path, monkeypatch, tmp_path_factory):
    """Give a real image as a volume of four tasks of 20 x 256 x 256; one of them is all zero."""
    image = tifffile.imread(data / "ac4_image.tif")
    image[:, 256:, 256:] = 0
    volume = open_volume(str(tmp_path / "em"))
    make_volume(volume, Chunk(image, (0, 0, 0), (30, 6, 6), "image"), block_size=(20, 128, 128))
    volume.write(Chunk(image, (0, 0, 0), (30, 6, 6), "image"))
    monkeypatch.chdir(tmp_path)
    aside = str(tmp_path_factory.mktemp("aside"))
    monkeypatch.setenv("TMPDIR", aside)
    monkeypatch.setattr("tempfile.tempdir", aside)
    return tmp_path


def tree(folder):
    """Give all files of a folder with their times."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


GRID = ["generate-tasks", "-v", "em", "-c", 20, 256, 256]
LINE = ["cutout", "-v", "em", "normalize-contrast"]


def test_try_takes_nothing_and_writes_aside(segflow, em, tmp_path_factory):
    side = tmp_path_factory.mktemp("side")
    segflow(*GRID, "-q", "fq://tasks")
    segflow("create-info", "-v", "old", "--volume-size", 20, 512, 512, "--block-size", 10, 64, 64,
            "--data-type", "uint8", "--voxel-size", 30, 6, 6, "--max-mip", 2)  # fmt: skip
    before = tree(em)
    line = [*LINE, "save", "-v", "old", "save", "-v", "new", "write-zarr", "-f", "z.zarr", "write-h5", "-f",
            "h5/", "write-npy", "-f", "{bbox}/a.npy", "mark-complete", "-p", "done/", "delete-task-in-queue"]  # fmt: skip
    said = segflow("try", "--to", side, "--", "fetch-task", "-q", "fq://tasks", *line)
    assert tree(em) == before
    assert open_queue("fq://tasks").counts() == Counts(4, 0, 0)
    box = Box.parse(said.out.splitlines()[0].split()[-1])
    assert open_volume("em").read(box).array.any()
    chunk = open_volume(str(side / "old")).read(box)
    assert chunk.array.any()
    assert open_volume(str(side / "old")).info(2) == replace(open_volume("old").info(2), path=ANY)
    assert np.array_equal(open_volume(str(side / "new")).read(box).array, chunk.array)
    assert np.array_equal(open_volume(f"zarr://{side}/z.zarr").read(box).array, chunk.array)
    assert np.array_equal(np.load(side / str(box) / "a.npy"), chunk.array)
    assert sorted(p.name for p in side.iterdir()) == sorted(["old", "new", "z.zarr", "h5", str(box)])
    assert "one task of 4" in said.out
    assert "peak memory: " in said.out
    assert "instead of old\n" in said.out
    shape = " ".join(map(str, box.shape))
    assert f"--size {shape} neuroglancer" in said.out


def test_try_reads_again_what_it_wrote_aside(segflow, em, tmp_path_factory):
    side = tmp_path_factory.mktemp("side")
    line = ["save", "-v", "new", "delete-var", "-v", "chunk", "cutout", "-v", "new", "write-h5", "-f", "x.h5"]
    said = segflow("try", "--to", side, "--", *GRID, "-b", "0-20_0-256_0-256", *LINE, *line)
    assert sorted(p.name for p in side.iterdir()) == ["new", "x.h5"]
    assert [p.name for p in em.iterdir()] == ["em"]
    assert "one task: 0-20_0-256_0-256" in said.out


def test_try_leaves_out_what_changes_a_volume_itself(segflow, em):
    before = tree(em)
    said = segflow("try", "--", *LINE, "write-h5", "-f", "x.h5", "downsample", "-v", "em")
    assert tree(em) == before
    assert "note: downsample was left out: it changes em itself" in said.out


@pytest.mark.parametrize("only_zero", [False, True])
def test_a_box_that_shows_something_is_taken(segflow, em, only_zero):
    corner = ["--roi-start", 0, 256, 256] if only_zero else ["--roi-start", 0, 256, 128]
    grid = ["generate-tasks", "-v", "em", "-c", 20, 128, 128, *corner, "-f", "tasks.npy"]
    segflow(*grid)
    found = segflow("try", "--", "fetch-task-from-file", "-f", "tasks.npy", *LINE, "write-h5", "-f", "x/")
    assert ("note: all 4 boxes that were looked at are zero" in found.out) is only_zero
    assert ("_128-256" in found.out.splitlines()[0]) is not only_zero


def test_try_shows_the_task_until_it_is_interrupted(start, em):
    process = start("try", "--view", "--", *GRID, *LINE, "save", "-v", "new")
    said: list[str] = []
    while not any("wrote " in line for line in said) or "http://127.0.0.1" not in "".join(said):
        said.append(process.stdout.readline())
        assert said[-1], said
    place = next(line.split()[1] for line in said if line.startswith("wrote "))
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, 130)
    assert open_volume(place).info().dtype == "uint8"
    assert [p.name for p in em.iterdir()] == ["em"]


def test_a_failed_try_says_why_and_leaves_nothing(segflow, em, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(place))
    (em / "bad.py").write_text("def execute():\n    raise ValueError('no cheese')\n")
    said = segflow("try", "--", *GRID, *LINE, "plugin", "-f", "bad.py", code=1)
    assert "no cheese" in said.last
    assert [p for p in place.iterdir() if p.name.startswith("segflow-try")] == []


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["try", "--", *GRID, "-q", "fq://t"], "generate-tasks makes tasks here and runs none", 2),
        (["try", "--", "fetch-task", "-q", "fq://t", *LINE], "there is no queue at fq://", 1),
        (["try", "--", "status", "x"], "status is a job and has no tasks; give a chain", 2),
        (["try", "--to", "em", "--", *GRID], "--to em is not empty; give a new folder", 2),
        (["estimate", "--workers", "2,x", "--", *GRID], "give whole numbers with commas between", 2),
        (["estimate", "--", *GRID, *LINE, "save", "-v", "em/info/x"], "cannot write em/info/x", 2),
    ],
)
def test_what_cannot_be_tried(segflow, em, words, error, code):
    before = tree(em)
    assert error in segflow(*words, code=code).last
    assert tree(em) == before


def test_estimate_extrapolates_from_one_task(segflow, em):
    (em / "slow.py").write_text("import time\ndef execute(chunk):\n    time.sleep(0.4)\n    return chunk\n")
    line = [*GRID, *LINE, "plugin", "-f", "slow.py", "-i", "chunk", "-o", "chunk", "write-npy", "-f", "out/"]
    words = ["estimate", "--workers", "1,3,8", "--cost-per-hour", 3600, "--json", "--", *line]
    found = json.loads(segflow("--prefetch", 0, *words).out)
    assert found["tasks"] == 4
    assert 0.4 < found["seconds_per_task"] < 2
    one, three, eight = (row["seconds"] for row in found["workers"])
    each, begin = found["seconds_per_task"], found["seconds_to_begin"]
    assert one == pytest.approx(begin + 4 * each, abs=0.01)
    assert three == pytest.approx(begin + 2 * each, abs=0.01)
    assert eight == pytest.approx(begin + each, abs=0.01)
    assert [row["cost"] for row in found["workers"]] == pytest.approx([one, 3 * three, 4 * eight], abs=0.02)
    assert found["bytes_per_task"] >= 20 * 256 * 256
    assert found["bytes"] == 4 * found["bytes_per_task"]
    assert found["memory_per_worker"] > 20 * 256 * 256
    assert [p.name for p in em.iterdir() if p.name not in ("em", "slow.py", "__pycache__")] == []
    ahead = json.loads(segflow("--prefetch", 1, *words).out)
    assert ahead["seconds_between_tasks"] <= ahead["seconds_per_task"]
    assert len(ahead["assumptions"]) == len(found["assumptions"]) + 1
    text = segflow("estimate", "--cost-per-hour", 1, "--", *line).out
    assert "assumed:" in text
    assert "workers" in text


def test_the_pace_of_overlapping_parts():
    sample = Sample(
        steps=[("read", 1.0, "io"), ("work", 3.0, "cpu"), ("net", 4.0, "gpu"), ("save", 2.0, "io")]
    )
    assert [sample.pace(n) for n in (0, 1, 2, 9)] == [10.0, 5.0, 4.0, 4.0]
