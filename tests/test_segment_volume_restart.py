"""segment-volume in several processes, killed, joined, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from affinities import crop, gala

from segflow.blocks.ledger import Stage, WorkFolder
from segflow.segmentation import agglomerate
from segflow.volumes import open_volume
from segflow.volumes.hdf5 import write_h5

MANY = ("--block-size", 5, 10, 12)  # 80 blocks


@pytest.fixture
def file(tmp_path) -> Path:
    """Give real affinities, 20 x 40 x 60, as an h5 file."""
    write_h5(str(tmp_path / "affs.h5"), crop(gala(), (20, 40, 60), (10, 20, 30)))
    return tmp_path / "affs.h5"


def words(file: Path, *more: object) -> list[str]:
    line = ("segment-volume", "--affs", file, "--out", file.with_name("seg"), "--threshold", "0.5")
    return list(map(str, (*line, "--block-size", 10, 20, 30, *more)))


def start(line: list[str]) -> subprocess.Popen[str]:
    """Start a line as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "segflow", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finished(folder: WorkFolder) -> dict[str, int]:
    """Count the finished blocks of each stage."""
    if not (folder.path / "plan.json").exists():
        return {}
    return {name: len(folder.done(name)) for name in folder.plan()["stages"]}


def wait_until(folder: WorkFolder, count: int, *processes: subprocess.Popen[str]) -> None:
    """Wait until so many blocks are done, or a process ended."""
    until = time.monotonic() + 60
    while sum(finished(folder).values()) < count and all(p.poll() is None for p in processes):
        assert time.monotonic() < until
        time.sleep(0.01)


def answer(folder: Path, name: str = "seg") -> np.ndarray:
    return open_volume(str(folder / name)).read(fill_missing=False).array


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    """Give what an undisturbed run gives, in whatever blocks."""
    return agglomerate(crop(gala(), (20, 40, 60), (10, 20, 30)), 0.5).array


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def test_killed_at_random_moments(file, wanted, tmp_path):
    """The whole group, with kill -9; the same line goes on, and in the end nothing shows of it."""
    rng, folder = random.Random(7), WorkFolder(tmp_path / "seg.work")
    done = [0]
    for _ in range(4):
        run = start(words(file, *MANY, "--processes", 2))
        wait_until(folder, done[-1] + rng.randrange(40, 110), run)
        time.sleep(rng.uniform(0, 0.05))
        assert run.poll() is None, run.communicate()
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        done.append(sum(finished(folder).values()))
    assert done == sorted(done)  # nothing that was done is lost
    total = sum(stage["count"] for stage in folder.plan()["stages"].values())
    assert done[-1] < total
    assert total > 5 * 60
    run = start(words(file, *MANY, "--processes", 2))
    assert "wrote" in run.communicate(timeout=60)[1]
    assert sum(finished(folder).values()) == total
    np.testing.assert_array_equal(answer(tmp_path), wanted)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") or p.name.endswith("lock")]


def test_a_second_run_computes_nothing(file, segflow, tmp_path):
    line = words(file, "--threshold", "0.3", "--processes", 1)
    segflow(*line)
    before = stamps(tmp_path)
    assert "wrote" in segflow(*line).err
    assert "wrote" in segflow(*line, "--processes", 2).err  # no process is even started
    assert {k: v for k, v in stamps(tmp_path).items() if k in before} == before
    relabel = ("relabel-volume", "--of", tmp_path / "seg.work", "--threshold", 0.3, "--processes", 1)
    segflow(*relabel, "--out", tmp_path / "seg-0.3")
    assert stamps(tmp_path / "seg-0.5") == {k: v for k, v in before.items() if "/seg-0.5/" in k}
    counts = finished(WorkFolder(tmp_path / "seg.work"))
    segflow(*relabel, "--out", tmp_path / "again")
    more = finished(WorkFolder(tmp_path / "seg.work"))
    assert sum(more.values()) - sum(counts.values()) == 8  # written, not computed
    before = stamps(tmp_path)
    segflow(*relabel, "--out", tmp_path / "again")
    segflow(*line)
    assert stamps(tmp_path) == before


def test_joined_from_another_folder(file, wanted, tmp_path):
    """A second process helps, from wherever it is started."""
    work = tmp_path / "elsewhere"
    one = start(words(file, *MANY, "--work-dir", work, "--processes", 1))
    folder = WorkFolder(work)
    wait_until(folder, 20, one)
    two = subprocess.Popen(
        [sys.executable, "-m", "segflow", "segment-volume", "--join", "--work-dir", work], cwd="/",
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    hosts = set()
    while one.poll() is None:
        running = [
            c for stage in ("fragments", "merge-0", "write-0.5") for c in folder.running(stage).values()
        ]
        hosts |= {c.worker for c in running if c.worker}
        time.sleep(0.01)
    assert "wrote" in one.communicate()[1]
    assert two.communicate(timeout=30)[1] == ""
    assert two.returncode == one.returncode == 0
    assert len(hosts) == 2
    np.testing.assert_array_equal(answer(tmp_path), wanted)


def test_relabel_volume_is_joined_too(file, segflow, process, tmp_path):
    segflow(*words(file, "--processes", 1))
    line = ("relabel-volume", "--work-dir", tmp_path / "seg.work", "--threshold", 0.2)
    process(*line, "--out", tmp_path / "two", "--processes", 2)
    segflow(*line, "--out", tmp_path / "one", "--processes", 1)
    one, two = (open_volume(str(tmp_path / n)).read(fill_missing=False).array for n in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    line = ("relabel-volume", "--work-dir", tmp_path / "none", "--threshold", 0.2, "--out", tmp_path / "x")
    assert "no work folder" in segflow(*line, "--join", code=2).last
    line = ("relabel-volume", "--of", tmp_path / "seg", "--threshold", 0.1, "--out", tmp_path / "x")
    said = segflow(*line, "--join", code=2).last
    assert "is another one (not begun); begin it with this segflow, without --join" in said


def test_joining_with_other_stages_is_refused(file, segflow, tmp_path):
    """As when another version of segflow, or another file, is there than where the job was begun."""
    segflow(*words(file, "--processes", 1))
    subprocess.run(["rm", "-r", tmp_path / "seg.work" / "write-0.5"], check=True)
    os.utime(file)
    said = segflow("segment-volume", "--join", "--work-dir", tmp_path / "seg.work", code=2).last
    assert "stage fragments in" in said
    assert "affs.mtime_ns" in said
    assert not (tmp_path / "seg.work" / "write-0.5").exists()


def test_what_is_lost_is_made_again(file, segflow, tmp_path):
    """An output that was deleted is written; a result too, and nothing else."""
    line = words(file, "--threshold", "0.3", "--processes", 1)
    segflow(*line)
    first = [answer(tmp_path, name) for name in ("seg-0.5", "seg-0.3")]
    subprocess.run(["rm", "-r", tmp_path / "seg-0.5"], check=True)
    before = stamps(tmp_path / "seg.work" / "merge-0")
    segflow(*line)
    (tmp_path / "seg.work" / "write-0.3" / "00000007.npz").unlink()
    segflow(*line)
    for name, wanted in zip(("seg-0.5", "seg-0.3"), first):
        np.testing.assert_array_equal(answer(tmp_path, name), wanted)
    assert stamps(tmp_path / "seg.work" / "merge-0") == before


def test_other_parameters_in_the_work_folder(file, segflow, tmp_path):
    """They are refused, done again, or kept; only what they concern."""
    line = words(file, "--processes", 1)
    segflow(*line)
    folder = WorkFolder(tmp_path / "seg.work")
    before, first = stamps(folder.path), answer(tmp_path)
    said = segflow(*line, "-l", 0.3, code=2).last
    assert "holds results of other parameters (low 0 → 76)" in said
    assert "--stale redo" in said
    assert stamps(folder.path) == before
    segflow(*line, "--dust", 50, "--stale", "redo")
    changed = {Path(p).parent.name for p, s in stamps(folder.path).items() if before.get(p) != s}
    assert {"fragments", "merge-0", "segments-0.5-0"}.isdisjoint(changed)
    assert {"rules-0.5", "write-0.5"} <= changed
    assert len(np.unique(answer(tmp_path))) < len(np.unique(first))
    segflow(*line, "--stale", "keep")
    said = segflow(*line, "--block-size", 20, 20, 30, code=2).last
    assert "is the work folder of another job: grid of blocks 10 20 30" in said
    segflow(*line, "--block-size", 20, 20, 30, "--stale", "redo")
    np.testing.assert_array_equal(answer(tmp_path), first)


def test_another_input_in_the_work_folder(file, segflow, tmp_path):
    line = words(file, "--processes", 1)
    segflow(*line)
    os.utime(file)
    assert "affs.mtime_ns" in segflow(*line, code=2).last
    segflow(*line, "--stale", "keep")
    write_h5(str(tmp_path / "small.h5"), crop(gala(), (20, 40, 50)))
    said = segflow(*line, "--affs", tmp_path / "small.h5", code=2).last
    assert "another job: bounds 0-20_0-40_0-60 → 0-20_0-40_0-50" in said
    other = WorkFolder(tmp_path / "other.work")
    other.begin("merge-blocks", {}, [Stage("count", 1, lambda i: {})])
    other.publish("count", 0)
    said = segflow(*line, "--work-dir", other.path, code=2).last
    assert "is the work folder of another job: job merge-blocks → segment-volume" in said
    said = segflow("segment-volume", "--join", "--work-dir", other.path, code=2).last
    assert "is the work folder of merge-blocks, not of segment-volume" in said
    assert other.done("count") == {0}
