"""Work folders: what is done survives everything, and nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import blocks_job
import numpy as np
import pytest
from blocks_job import Job, expected

from segflow.blocks import claims, inputs, ledger
from segflow.blocks.ledger import Stage, WorkFolder, fingerprint, whole, work_dir_of
from segflow.blocks.runner import run_stages
from segflow.errors import SegflowError, UsageError, VolumeError
from segflow.geometry import Box, Grid

ELSEWHERE = "deadbeef1-77-88"  # a worker of another machine


@pytest.fixture(scope="session")
def truth(request) -> np.ndarray:
    import tifffile

    return expected(tifffile.imread(Path(__file__).parent / "data" / "ac4_image.tif"))


@pytest.fixture
def make(data, tmp_path):
    """Make the job on the real image; larger blocks where their number does not matter."""

    def job(**options) -> Job:
        return Job(data / "ac4_image.tif", tmp_path / "out.npy", **{"size": (20, 128, 256), **options})

    return job


@pytest.fixture
def installed(tmp_path, data) -> dict[str, str]:
    """Give the environment in which the test's job is a command, as another package's would be."""
    place = tmp_path / "site" / "blocks_job-0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: blocks-job\nVersion: 0\n")
    (place / "entry_points.txt").write_text("[segflow.operators]\nequalise = blocks_job:equalise\n")
    paths = [str(Path(blocks_job.__file__).parent), str(place.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def line(data, tmp_path, *more: object) -> list[str]:
    words = ["equalise", "--image", data / "ac4_image.tif", "--out", tmp_path / "out.npy", *more]
    return [sys.executable, "-m", "segflow", *map(str, words)]


def start(words, environment) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(words, environment, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def workers_of(folder: WorkFolder) -> set[int]:
    if not (folder.path / "plan.json").exists():
        return set()
    found = [c for stage in folder.plan()["stages"] for c in folder.running(stage).values()]
    return {int(c.worker.split("-")[1]) for c in found if c.worker}


def wait_for(what, seconds: float = 30.0):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
    return found


# -- results ------------------------------------------------------------------------------------


def test_blocks_give_the_answer_and_a_second_run_computes_none(make, truth):
    job = make().begin()
    counts = job.run()
    assert counts == {"smooth": 8, "histogram": 1, "write": 8}
    assert counts.total == len(job.calls) == 17
    assert np.array_equal(np.load(job.output), truth)
    again = make().begin()
    assert again.run().total == 0
    assert again.calls == []


def test_plan_tells_the_job(make):
    job = make().begin()
    plan = job.folder.plan()
    assert plan["job"] == "equalise"
    assert plan["options"]["size"] == [20, 128, 256]
    assert plan["bounds"] == "0-20_0-512_0-512"
    assert plan["grid"]["counts"] == [1, 4, 2]
    assert list(plan["stages"]) == ["smooth", "histogram", "write"]
    assert plan["stages"]["write"]["after"] == ["histogram"]


def test_begin_again_does_not_touch_the_plan(make):
    job = make().begin()
    before = (job.folder.path / "plan.json").stat()
    make().begin()
    after = (job.folder.path / "plan.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [p.name for p in job.folder.path.iterdir()] == ["plan.json"]


def test_results_come_back_as_they_went(tmp_path):
    folder = WorkFolder(tmp_path / "work")
    arrays = {"a": np.arange(6, dtype=np.uint64).reshape(2, 3), "b": np.zeros(0, np.float32)}
    folder.publish("stage", 1234567, arrays)
    assert folder.done("stage") == {1234567}
    held = folder.load("stage", 1234567)
    assert list(held) == ["a", "b"]
    for name, array in arrays.items():
        assert held[name].dtype == array.dtype
        assert np.array_equal(held[name], array)
    folder.publish("stage", 2)
    assert folder.load("stage", 2) == {}


def test_missing_and_broken_results_are_told(tmp_path):
    folder = WorkFolder(tmp_path / "work")
    with pytest.raises(VolumeError, match="block 3 of stage s is not done"):
        folder.load("s", 3)
    folder.publish("s", 3, {"a": np.arange(100)})
    folder.result("s", 3).write_bytes(folder.result("s", 3).read_bytes()[:200])
    with pytest.raises(VolumeError, match="is broken.*delete this file and run"):
        folder.load("s", 3)
    with pytest.raises(ValueError, match="Object arrays"):
        folder.publish("s", 4, {"a": np.array([{}], dtype=object)})
    assert folder.done("s") == {3}


def test_only_some_stages(make):
    job = make().begin()
    assert job.run(only=["smooth"]) == {"smooth": 8}
    with pytest.raises(SegflowError, match="stage write is not complete.*needs stage histogram"):
        job.run(only=["write"])
    assert job.run(only=["histogram", "write"]) == {"histogram": 1, "write": 8}


def test_ticks_add_up(make):
    job, ticks = make().begin(), []
    job.run(only=["smooth"])
    job.run(tick=ticks.append)
    assert sum(ticks) == 17


def test_names_and_order_of_stages(tmp_path):
    folder = WorkFolder(tmp_path / "work")
    with pytest.raises(ValueError, match="cannot name"):
        folder.begin("job", {}, [Stage("a/b", 1, lambda i: None)])
    with pytest.raises(ValueError, match="comes after 'b'"):
        folder.begin("job", {}, [Stage("a", 1, lambda i: None, after=("b",))])


# -- what is stale ------------------------------------------------------------------------------


def test_changed_parameter_is_refused_by_name(make):
    make().begin().run()
    with pytest.raises(
        UsageError, match=r"width 1 → 2.*--stale redo.*smooth, histogram, write.*--stale keep"
    ):
        make(width=2).begin()
    assert make().begin().run().total == 0


def test_redo_computes_what_is_stale_and_nothing_else(make, tmp_path):
    job = make()
    extra = Stage("apart", 2, lambda i: {"i": np.array(i)}, key={"x": 1})

    def run(width: int, x: int = 1, stale: str = "fail"):
        now = make(width=width)
        stages = [*now.stages, Stage("apart", 2, extra.run, key={"x": x})]
        now.folder.begin("equalise", {}, stages, grid=now.grid, bounds=now.bounds, stale=stale)
        counts = run_stages(now.folder, stages)
        return dict(counts), np.load(now.output)

    job.begin()
    assert run(1)[0] == {"smooth": 8, "histogram": 1, "write": 8, "apart": 2}
    assert run(1, x=2, stale="redo")[0] == {"apart": 2}
    counts, array = run(2, x=2, stale="redo")
    assert counts == {"smooth": 8, "histogram": 1, "write": 8}
    assert np.array_equal(array, expected(job.image, 2))
    assert run(2, x=2)[0] == {}


def test_keep_goes_on_with_old_results_and_says_so(make):
    make().begin().run(only=["smooth"])
    kept = make(width=2).begin(stale="keep")
    assert kept.run() == {"histogram": 1, "write": 8}
    assert kept.folder.plan()["stages"]["smooth"]["kept"] == ["width 1 → 2"]
    again = make(width=2).begin()
    assert again.run().total == 0
    assert again.folder.plan()["stages"]["smooth"]["kept"] == ["width 1 → 2"]


def test_changed_input_is_stale(make, data, tmp_path):
    image = tmp_path / "image.tif"
    image.write_bytes((data / "ac4_image.tif").read_bytes())
    Job(image, tmp_path / "out.npy", size=(20, 256, 256)).begin().run()
    os.utime(image)
    with pytest.raises(UsageError, match="image.mtime_ns"):
        Job(image, tmp_path / "out.npy", size=(20, 256, 256)).begin()
    image.rename(tmp_path / "other.tif")
    with pytest.raises(UsageError, match="work folder of another job .*image.path"):
        Job(tmp_path / "other.tif", tmp_path / "out.npy", size=(20, 256, 256)).begin()


def test_stages_without_results_may_change(make):
    make().begin()
    job = make(width=2).begin()
    assert job.folder.plan()["stages"]["smooth"]["key"]["width"] == 2


def test_new_stages_are_added_and_old_ones_left_alone(make):
    job = make().begin()
    job.run()
    later = Stage("later", 3, lambda i: {"i": np.array(i)}, after=("smooth",))
    stages = [job.stages[0], later]
    job.folder.begin("equalise", job.options, stages, grid=job.grid, bounds=job.bounds)
    assert run_stages(job.folder, stages) == {"later": 3}
    assert set(job.folder.plan()["stages"]) == {"smooth", "histogram", "write", "later"}
    assert make().begin().run().total == 0


def test_new_stages_may_come_after_recorded_ones(make):
    job = make().begin()
    job.run()
    later = [Stage("later", 3, lambda i: None, after=("histogram",), key={"t": 1})]
    job.folder.begin("equalise", job.options, later, grid=job.grid, bounds=job.bounds)
    assert run_stages(job.folder, later) == {"later": 3}
    assert list(job.folder.plan()["stages"]) == ["smooth", "histogram", "write", "later"]
    make(width=2).begin(stale="redo")
    with pytest.raises(UsageError, match="holds results of other parameters"):
        job.folder.begin("equalise", job.options, later, grid=job.grid, bounds=job.bounds)


def test_another_job_or_grid_is_refused(make):
    job = make().begin()
    job.run()
    with pytest.raises(UsageError, match="of another job: job equalise → other"):
        job.folder.begin("other", {}, job.stages, grid=job.grid, bounds=job.bounds)
    with pytest.raises(UsageError, match="of another job: job equalise → other"):
        job.folder.begin("other", {}, job.stages, grid=job.grid, bounds=job.bounds, stale="redo")
    for stale in ("fail", "keep"):
        with pytest.raises(UsageError, match="grid of blocks 20 128 256 every .* → of blocks 20 256 256"):
            make(size=(20, 256, 256)).begin(stale=stale)
    assert job.folder.done("smooth") == set(range(8))
    assert make(size=(20, 256, 256)).begin(stale="redo").run() == {"smooth": 4, "histogram": 1, "write": 4}


def test_other_bounds_are_another_job(make):
    job = make().begin()
    job.run(only=["smooth"])
    with pytest.raises(UsageError, match="bounds 0-20_0-512_0-512 → 0-20_0-512_0-500"):
        job.folder.begin("equalise", {}, job.stages, grid=job.grid, bounds=Box((0, 0, 0), (20, 512, 500)))


def test_folders_with_other_things_are_refused(make, tmp_path):
    job = make()
    job.folder.path.mkdir()
    (job.folder.path / "thesis.tex").write_text("years")
    with pytest.raises(VolumeError, match="holds thesis.tex but no plan.json"):
        job.begin()
    assert (job.folder.path / "thesis.tex").read_text() == "years"


def test_broken_and_newer_plans(make):
    job = make().begin()
    place = job.folder.path / "plan.json"
    whole_text = place.read_text()
    place.write_text(whole_text[:50])
    with pytest.raises(VolumeError, match=r"plan.json is broken"):
        make().begin()
    place.write_text(json.dumps({**json.loads(whole_text), "format": 99}))
    with pytest.raises(VolumeError, match="newer segflow"):
        job.folder.plan()


def test_older_format_is_stale(make, monkeypatch):
    make().begin().run()
    for module in ("plan", "ledger"):
        monkeypatch.setattr(f"segflow.blocks.{module}.FORMAT", 2)
    with pytest.raises(UsageError, match="an older format.*--stale redo"):
        make().begin()
    assert make().begin(stale="redo").run().total == 17


def test_redo_killed_half_way_goes_on(make, monkeypatch, truth):
    make(width=2).begin().run()
    removed = []

    def remove_some(self, stage):
        for path in list(self.files(stage))[:3]:
            path.unlink()
        removed.append(stage)
        raise KeyboardInterrupt  # as if killed here

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "remove", remove_some)
        with pytest.raises(KeyboardInterrupt):
            make().begin(stale="redo")
    assert removed == ["smooth"]
    job = make().begin()  # asks for nothing: the decision was made
    assert job.run().total == 17
    assert np.array_equal(np.load(job.output), truth)


def test_redo_is_refused_while_the_old_is_computed(make):
    job = make().begin()
    assert job.folder.claim("smooth", 1)
    for stale in ("fail", "redo"):
        with pytest.raises(UsageError, match="computed right now|other parameters"):
            make(width=2).begin(stale=stale)
    job.folder.release("smooth", 1)
    make(width=2).begin()


def test_a_worker_of_the_old_parameters_stops(make):
    old = make().begin()
    new = make(width=2).begin()  # nothing was done yet
    with pytest.raises(SegflowError, match="another run changed the parameters of stage smooth"):
        old.run()
    assert old.calls == []
    assert new.run().total == 17


# -- failures -----------------------------------------------------------------------------------


def test_failure_is_recorded_and_tried_again_by_the_next_run(make, truth):
    job = make(fail=[2, 5]).begin()
    with pytest.raises(
        SegflowError,
        match=r"^2 of 8 blocks of stage smooth failed; the first, 0-20_128-256_0-256: the voxels of smooth block 2",
    ):
        job.run()
    assert job.calls.count(("smooth", 2)) == 1
    assert job.folder.done("smooth") == set(range(8)) - {2, 5}
    record = job.folder.failure("smooth", 2)
    assert record["attempt"] == 1
    assert record["error"] == "the voxels of smooth block 2 are bad"
    assert record["box"] == "0-20_128-256_0-256"
    with pytest.raises(SegflowError, match="2 of 8"):
        make(fail=[2, 5]).begin().run()
    assert job.folder.failure("smooth", 2)["attempt"] == 2
    mended = make().begin()
    assert mended.run() == {"smooth": 2, "histogram": 1, "write": 8}
    assert mended.folder.failures("smooth") == {}
    assert np.array_equal(np.load(mended.output), truth)


def test_blocks_that_do_not_depend_on_a_failure_go_on(make):
    job = make(fail=[0])
    other = Stage("other", 3, lambda i: None)
    after = Stage("after", 1, lambda i: None, after=("smooth",))
    stages = [job.stages[0], after, other]
    job.folder.begin("equalise", {}, stages, grid=job.grid, bounds=job.bounds)
    with pytest.raises(SegflowError, match="1 of 8 blocks of stage smooth"):
        run_stages(job.folder, stages)
    assert job.folder.complete("other")
    assert job.folder.done("after") == set()


def test_unforeseen_errors_keep_their_traceback(tmp_path):
    folder = WorkFolder(tmp_path / "work")
    stages = [Stage("s", 1, lambda i: {}[i])]
    folder.begin("job", {}, stages)
    with pytest.raises(
        SegflowError, match="1 of 1 blocks of stage s failed; the first, block 0: KeyError: 0"
    ):
        run_stages(folder, stages)
    assert "KeyError" in "".join(folder.failure("s", 0)["traceback"])


def test_want_of_memory_is_told(tmp_path):
    def run(block):
        raise MemoryError

    folder = WorkFolder(tmp_path / "work")
    folder.begin("job", {}, [Stage("s", 1, run)])
    with pytest.raises(SegflowError, match="block 0: out of memory; use smaller blocks or fewer processes"):
        run_stages(folder, [Stage("s", 1, run)])


def test_interrupt_gives_claims_back(make):
    job = make().begin()

    def interrupt(block):
        if block == 3:
            assert list(job.folder.running("smooth")) == [3]
            raise KeyboardInterrupt

    stages = [Stage("smooth", 8, interrupt, key=job.stages[0].key), *job.stages[1:]]
    with pytest.raises(KeyboardInterrupt):
        run_stages(job.folder, stages)
    assert job.folder.running("smooth") == {}
    assert job.folder.failures("smooth") == {}
    assert job.folder.done("smooth") == {0, 1, 2}


# -- claims -------------------------------------------------------------------------------------


def claim_of(folder: WorkFolder, block: int, worker: str, age: float = 0.0) -> Path:
    path = folder.path / "smooth" / "running" / f"{block:08d}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"worker": worker, "host": "other", "since": time.time() - age}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_worker() -> str:
    """Give the name of a process of this machine that lived."""
    code = "from segflow.blocks.claims import worker_name; print(worker_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


def test_names_of_workers_tell_who_lives():
    mine = claims.worker_name()
    machine, pid, born = mine.split("-")
    assert claims.lives(mine) is True
    assert claims.lives(f"{machine}-{pid}-{int(born) + 1}") is False  # the process id was given again
    assert claims.lives(dead_worker()) is False
    assert claims.lives(ELSEWHERE) is None
    assert claims.lives("") is None


def test_claims_exclude_each_other(make):
    job = make().begin()
    assert job.folder.claim("smooth", 0)
    assert not WorkFolder(job.folder.path).claim("smooth", 0)
    job.folder.release("smooth", 0)
    other = WorkFolder(job.folder.path)
    assert other.claim("smooth", 0)
    other.publish("smooth", 0)
    other.release("smooth", 0)
    assert not job.folder.claim("smooth", 0)
    assert list((job.folder.path / "smooth" / "running").iterdir()) == []


def test_claims_of_the_dead_are_taken_over(make):
    job = make().begin()
    claim_of(job.folder, 0, dead_worker())
    claim_of(job.folder, 1, ELSEWHERE, age=claims.DEAD + 1)
    claim_of(job.folder, 2, "", age=claims.DEAD + 1)
    claim_of(job.folder, 3, ELSEWHERE, age=claims.DEAD / 2)
    assert [job.folder.claim("smooth", block) for block in range(4)] == [True, True, True, False]


def test_a_run_waits_for_the_living_and_takes_over_when_they_die(make, monkeypatch):
    monkeypatch.setattr(claims, "DEAD", 1.0)
    job = make().begin()
    claim_of(job.folder, 4, ELSEWHERE)
    began = time.monotonic()
    assert job.run(only=["smooth"]) == {"smooth": 8}
    assert job.calls[-1] == ("smooth", 4)
    assert time.monotonic() - began > 0.9


def test_a_run_waits_for_what_others_compute(make):
    job = make().begin()
    other = WorkFolder(job.folder.path)
    assert other.claim("smooth", 4)

    def publish() -> None:
        time.sleep(0.4)
        other.publish("smooth", 4, make().smooth(4))
        other.release("smooth", 4)

    thread = threading.Thread(target=publish)
    thread.start()
    assert job.run() == {"smooth": 7, "histogram": 1, "write": 8}
    thread.join()


def test_heartbeat_touches_claims_and_gives_them_back(make, monkeypatch):
    job = make().begin()
    with job.folder._claims.heartbeat(every=0.05):
        assert job.folder.claim("smooth", 0)
        path = job.folder.path / "smooth" / "running" / "00000000"
        os.utime(path, (1, 1))
        wait_for(lambda: job.folder.running("smooth")[0].age < 10)
    assert not path.exists()


def test_two_processes_share_the_work(make, truth):
    jobs = [make(size=(20, 64, 64), slow=0.002).begin() for _ in range(2)]
    counts = []
    threads = [threading.Thread(target=lambda job=job: counts.append(job.run())) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(c["smooth"] > 5 for c in counts)
    assert sum(c.total for c in counts) == 129
    assert np.array_equal(np.load(jobs[0].output), truth)


# -- what crashes leave -------------------------------------------------------------------------


def test_half_written_files_are_ignored_and_removed(make):
    job = make().begin()
    place = job.folder.path / "smooth"
    (place / "files").mkdir(parents=True)
    left = [place / f".{dead_worker()}.00000003.npz", place / "files" / f".{dead_worker()}.table.npy"]
    theirs = place / f".{ELSEWHERE}.00000004.npz"
    old = place / f".{ELSEWHERE}.00000005.npz"
    mine = place / f".{claims.worker_name()}.00000006.npz"
    for path in (*left, theirs, old, mine):
        path.write_bytes(b"PK half of a resul")
    os.utime(old, (1, 1))
    assert job.folder.done("smooth") == set()
    assert job.run(only=["smooth"]) == {"smooth": 8}
    assert [path.exists() for path in (*left, theirs, old, mine)] == [False, False, True, False, False]


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "table.npy"
    target.write_text("old")
    with suppress(RuntimeError), whole(target) as beside:
        beside.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(VolumeError, match=r"cannot write .*table.npy.*no space"), whole(target) as beside:
        raise OSError(28, "full")


def test_work_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match="cannot write the work folder"):
        WorkFolder(tmp_path / "file" / "work").begin("job", {}, [])


# -- several processes --------------------------------------------------------------------------


def test_drive_with_processes(data, tmp_path, installed, truth):
    words = line(data, tmp_path, "--processes", 3)
    done = finish(words, installed)
    assert done.stdout == "computed 129 blocks\n"
    assert np.array_equal(np.load(tmp_path / "out.npy"), truth)
    assert finish(words, installed).stdout == "computed 0 blocks\n"


def test_kill_of_the_whole_group_at_any_moment(data, tmp_path, installed, truth):
    words = line(data, tmp_path, "--processes", 3, "--slow", 0.03)
    folder = WorkFolder(work_dir_of(str(tmp_path / "out.npy")))
    chance, done = random.Random(5), [0]
    for _ in range(4):
        process = start(words, installed)
        wait_for(lambda p=process: p.poll() is not None or workers_of(folder))
        time.sleep(chance.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done.append(sum(len(folder.done(stage)) for stage in ("smooth", "histogram", "write")))
    assert done == sorted(done)  # nothing was lost
    assert 0 < done[1] < 129
    assert finish(words, installed).stdout == f"computed {129 - done[-1]} blocks\n"
    assert np.array_equal(np.load(tmp_path / "out.npy"), truth)
    for stage, count in (("smooth", 64), ("histogram", 1), ("write", 64)):
        assert len(folder.done(stage)) == count
        left = [p.name for p in (folder.path / stage).rglob(".*")]
        assert left == [], stage
        assert folder.running(stage) == {}


def test_workers_end_when_their_driver_is_killed(data, tmp_path, installed):
    process = start(line(data, tmp_path, "--processes", 2, "--slow", 0.3), installed)
    folder = WorkFolder(work_dir_of(str(tmp_path / "out.npy")))
    wait_for(lambda: len(workers_of(folder)) == 2)
    pids = workers_of(folder)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 5)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_driver_ends_its_workers(data, tmp_path, installed, signum):
    process = start(line(data, tmp_path, "--processes", 2, "--slow", 0.1), installed)
    folder = WorkFolder(work_dir_of(str(tmp_path / "out.npy")))
    wait_for(lambda: len(workers_of(folder)) == 2)
    os.kill(process.pid, signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "segflow: interrupted; nothing half-written was left"
    assert workers_of(folder) == set()


def test_a_killed_worker_is_told_in_one_line(data, tmp_path, installed, truth):
    words = line(data, tmp_path, "--processes", 2)
    done = finish(words, {**installed, "TEST_DIE_AT": "smooth:30"}, code=1)
    assert "a worker process was killed by SIGKILL, probably for want of memory" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    folder = WorkFolder(work_dir_of(str(tmp_path / "out.npy")))
    kept = len(folder.done("smooth"))
    assert kept >= 30
    assert finish(words, installed).stdout == f"computed {129 - kept} blocks\n"
    assert np.array_equal(np.load(tmp_path / "out.npy"), truth)


def test_failures_in_workers_are_told_once(data, tmp_path, installed, make):
    job = make(size=(20, 64, 64)).begin()
    job.run(only=["smooth"])
    bad = job.folder.result("smooth", 7)
    bad.write_bytes(b"broken")
    done = finish(line(data, tmp_path, "--processes", 2), installed, code=1)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("segflow equalise: 1 of 1 blocks of stage histogram failed; the first, block 0: ")
    assert "00000007.npz is broken" in last
    assert len(done.stderr.splitlines()) == 2  # when it happened, and at the end
    bad.unlink()
    assert finish(line(data, tmp_path, "--processes", 2), installed).stdout == "computed 66 blocks\n"


def test_a_worker_that_cannot_start_is_told(make, installed, monkeypatch):
    from segflow.blocks.runner import drive

    job = make().begin()
    with pytest.raises(SegflowError, match="a worker process ended: no such command 'no-such-thing'"):
        drive(job.folder, job.stages, ["no-such-thing"], 2)


# -- inputs and outputs -------------------------------------------------------------------------


def test_work_dir_lies_beside_the_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert work_dir_of("seg/") == tmp_path / "seg.work"
    assert work_dir_of(f"file://{tmp_path}/seg") == tmp_path / "seg.work"
    assert work_dir_of("zarr://a.zarr") == tmp_path / "a.zarr.work"
    assert work_dir_of("a/out.h5:main") == tmp_path / "a/out.h5.work"
    with pytest.raises(UsageError, match="--work-dir"):
        work_dir_of("s3://bucket/seg")


def test_find_work_dir(make):
    job = make().begin()
    assert inputs.find_work_dir(str(job.folder.path)) == job.folder.path
    assert inputs.find_work_dir(str(job.output)) == job.folder.path
    with pytest.raises(VolumeError, match="is no work folder .*nope.work"):
        inputs.find_work_dir(str(job.output.parent / "nope"))
    with pytest.raises(VolumeError, match="in a bucket"):
        inputs.find_work_dir("gs://bucket/seg")


def test_fingerprint_of_files(tmp_path, data):
    path = tmp_path / "a.h5"
    path.write_bytes((data / "gala.h5").read_bytes())
    first = fingerprint(str(path))
    assert first == fingerprint(f"file://{path}")
    assert fingerprint(f"{path}:/volumes/raw") != fingerprint(f"{path}:/volumes/labels/watershed")
    os.utime(path, ns=(1, 1))
    assert fingerprint(str(path)) == {**first, "mtime_ns": 1}
    with pytest.raises(VolumeError, match="no volume at"):
        fingerprint(str(tmp_path / "none"))
    folder = tmp_path / "tifs"
    folder.mkdir()
    (folder / "0.tif").write_bytes(b"x")
    one = fingerprint(str(folder))
    (folder / "1.tif").write_bytes(b"x")
    assert one["files"] == 1
    assert fingerprint(str(folder))["chunks"] != one["chunks"]


@pytest.mark.parametrize("form", ["precomputed", "zarr"])
def test_fingerprint_of_volumes(tmp_path, form):
    from segflow.chunk import Chunk
    from segflow.volumes import info, open_volume
    from segflow.volumes.zarr import ZarrVolume

    place, box = tmp_path / "volume", Box((0, 0, 0), (8, 64, 64))
    options = {"voxel_size": (30, 6, 6), "layer_type": "image", "block_size": (8, 32, 32)}
    if form == "zarr":
        volume = ZarrVolume.create(f"zarr://{place}", box, "uint8", **options)
    else:
        volume = open_volume(f"file://{place}")
        volume.create(info.make(box, "uint8", **options))
    volume.write(Chunk(np.full(box.shape, 7, np.uint8)))
    first = fingerprint(str(place))
    assert first["files"] >= 4
    assert first == fingerprint(f"{form}://{place}")
    volume.add_mips(2, (1, 2, 2))
    assert fingerprint(str(place)) == first  # another mip does not change this one
    assert fingerprint(str(place), 1)["mip"] == 1
    volume.write(Chunk(np.full(box.shape, 8, np.uint8)))
    assert fingerprint(str(place))["chunks"] != first["chunks"]


def test_fingerprint_of_a_bucket(tmp_path, monkeypatch):
    held = {"zarr.json": b"{}"}
    store = type("Store", (), {"get": lambda self, name: held.get(name)})()
    monkeypatch.setattr(inputs, "bucket_files", lambda address: store)
    first = fingerprint("zarr://gs://bucket/volume")
    assert first == {"path": "gs://bucket/volume", "mip": 0, "metadata": first["metadata"]}
    held["zarr.json"] = b"{ }"
    assert fingerprint("zarr://gs://bucket/volume") != first
    held.clear()
    with pytest.raises(VolumeError, match="no volume"):
        fingerprint("zarr://gs://bucket/volume")


def test_grids_of_any_length_are_lazy():
    grid = Grid.over(Box((0, 0, 0), (10**6, 10**6, 10**6)), (64, 64, 64))
    stage = Stage("s", len(grid), lambda i: None, boxes=grid)
    assert stage.label(1) == "0-64_0-64_64-128"
    assert ledger.Stage("s", 1, lambda i: None).label(0) == "block 0"
