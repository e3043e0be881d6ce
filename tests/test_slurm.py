"""SLURM: arrays of workers on a real cluster of one node; what happens when things die."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from affinities import crop, gala
from slurm_cluster import Cluster, find, missing, until

from segflow.errors import UsageError
from segflow.geometry import Box
from segflow.tasks import slurm, slurm_script, slurm_state
from segflow.tasks.queues import message, open_queue
from segflow.tasks.slurm_profile import read_profile
from segflow.volumes import open_volume
from segflow.volumes.hdf5 import write_h5

BOXES = [Box.of((5 * i, 0, 0), (5, 32, 32)) for i in range(4)]
TASK = ["fetch-task", "-q", "fq://tasks", "-r", "2"]
SLOWLY = ["create-chunk", "plugin", "-f", "slow.py", "-i", "chunk", "-o", "chunk"]
SLOW = """
import time
from pathlib import Path

def execute(chunk):
    seen = Path("began")
    with seen.open("a") as file:
        file.write("x")
    if len(seen.read_text()) == 1:
        time.sleep(60)
    return chunk
"""


@pytest.fixture(scope="module")
def daemons(tmp_path_factory) -> Iterator[Cluster]:
    """Start a SLURM for the tests of this file."""
    why = missing()
    if why:
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Work in a folder whose name needs quotes."""
    place = tmp_path / "it's 100% a #folder"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.2")
    return place


@pytest.fixture
def cluster(daemons, monkeypatch) -> Cluster:
    """Point SLURM's commands to the cluster."""
    monkeypatch.setenv("SLURM_CONF", str(daemons.config))
    return daemons


@pytest.fixture
def look(segflow) -> Callable[[str], dict]:
    """Give a function that tells how a submission stands."""
    return lambda ident: json.loads(segflow("jobs", ident, "--json").out)[0]


def fill() -> None:
    open_queue("fq://tasks", create=True).send(message(box) for box in BOXES)


def over(found: dict) -> bool:
    return bool(found["tasks"]) and not found["waiting"] and not found["running"]


# -- before anything is submitted -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give the line to run after --"),
        (["--", "fetch-task", "-q", "fq://tasks", "threshhold"], "did you mean 'threshold'"),
        (["--", "read-tif", "-f", "none.tif"], "none.tif does not exist"),
        (["--array", 2, "--", "create-chunk"], "begin the chain with fetch-task"),
        (["--array", 2, "--", "train", "x.yaml"], "train is one piece of work"),
        (["--", "segment-volume", "--treshold", "0.5"], "segment-volume: No such option '--treshold'"),
        (["--", "segment-volume", "--affs", "none.h5", "--out", "seg"], "none.h5"),
        (["--", "segment-volume", "--join"], "--join needs the work folder"),
        (["--", "worker", "--", "fetch-task", "-q", "fq://tasks", "threshhold"], "did you mean 'threshold'"),
        (["--time", "2h", "--", "create-chunk"], "time '2h' is not minutes"),
        (["--mem", "much", "--", "create-chunk"], "mem 'much' is no size"),
        (["--after", "12345678", "--", "create-chunk"], "there is no submission '12345678'"),
        (["--workers", 2, "--", "create-chunk"], "--workers 2 needs a chain with fetch-task"),
    ],
)
def test_what_cannot_work_is_refused(segflow, words, told):
    assert told in segflow("submit", *words, code=2).last
    assert slurm.submissions() == []


def test_the_script_holds_the_line_exactly(segflow, monkeypatch, here):
    """The script, run by bash, gives the words to the interpreter as they were; no secret is in it."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2secret")
    stub = here / "stub.py"
    stub.write_text(
        f"#!{sys.executable}\nimport os, sys, json\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n"
    )
    stub.chmod(0o755)
    Path("profile.yaml").write_text(json.dumps({"python_bin": str(stub), "cpus": "3"}))
    nasty = "a b'c\"$HOME`id`\\;#&*\n!"
    chain = ["create-chunk", "--name", nasty, "threshold", "-t", "0.5"]
    found = segflow(
        "--mip", 1, "submit", "--array", 1, "--profile", "profile.yaml", "--dry-run", "--", *chain
    )
    assert "hunter2" not in found.out + found.err
    assert "#SBATCH --array=0-0\n#SBATCH --cpus-per-task=3\n#SBATCH --requeue\n" in found.out
    ran = subprocess.run(["bash"], input=found.out, capture_output=True, text=True, check=True)
    cwd, *words = json.loads(ran.stdout)
    assert cwd == str(here)
    assert words[4:] == ["--mip", "1", *chain]
    assert slurm.submissions() == []


def test_names_that_sbatch_cannot_read():
    with pytest.raises(UsageError, match="backslash"):
        slurm_script.make_script("n", ["x"], 1, slurm.Resources(), Path("/a\\b"), Path("/"))


# -- profiles -------------------------------------------------------------------------------------

THEIRS = """
hpc:
  enable: true
  scheduler: slurm
  job_dir: jobs/affinity
  python_bin: python
  time: 12:00:00
  gpus: a100:1
  cpus: 12
  mem-per-gpu: 64G
  partition: gpu
  extra_modules: [StdEnv, cuda/12.2]
  conda: /opt/conda/bin/activate
  env: pytc
  work_path: .
  mutil_jobs: true
  mutil_jobs_configs:
    configs_save_path: configs/mutil
    input_floder: blocks
    batch_num: 4
affinity:
  model: x.pt
"""


def test_a_profile_of_k_neuronseg(segflow, here):
    Path("hpc.yaml").write_text(THEIRS)
    line = [
        "--array",
        8,
        "--partition",
        "big",
        "--dry-run",
        "--",
        *TASK,
        "create-chunk",
        "delete-task-in-queue",
    ]
    script = segflow("submit", "--profile", "hpc.yaml", *line).out.splitlines()
    for ask in (
        "array=0-7%4",
        "time=12:00:00",
        "gpus=a100:1",
        "cpus-per-task=12",
        "mem-per-gpu=64G",
        "partition=big",
    ):
        assert f"#SBATCH --{ask}" in script
    body = script[script.index("") + 1 :]
    assert body[:3] == [
        f"cd {shlex.quote(str(here))} || exit 1",
        "module load StdEnv",
        "module load cuda/12.2",
    ]
    assert "source /opt/conda/bin/activate" in body[3]
    assert body[4] == "conda activate pytc || exit 1"
    assert body[-1].startswith("exec python -P -m segflow.cli.slurm_task ")
    assert str(here / "jobs/affinity") in body[-1].replace("'\"'\"'", "'")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpu: a40:1\n", "unknown key 'gpu' (did you mean 'gpus'?)"),
        ("mutil_job: true\n", "did you mean 'mutil_jobs'"),
        ("mutil_jobs_configs: {input_foder: x}\n", "mutil_jobs_configs.unknown key 'input_foder'"),
        ("mutil_jobs: true\nmulti_jobs: true\n", "there twice"),
        ("enable: false\n", "enable is false"),
        ("scheduler: pbs\n", "there is only slurm"),
        ("cpus: many\n", "cpus 'many' is no whole number"),
        ("time: soon\n", "time 'soon'"),
        ("hpc: [1]\n", "holds no profile"),
        ("a: [\n", "is no YAML"),
    ],
)
def test_profiles_that_say_something_wrong(text, told):
    Path("p.yaml").write_text(text)
    with pytest.raises(UsageError) as refused:
        read_profile("p.yaml")
    assert told in str(refused.value)


def test_memory_and_tasks_at_once():
    """``mem`` is a core's; --mem, of the whole task, goes before it. hpc_num holds where there are no blocks."""
    Path("p.yaml").write_text("mem: 4G\nhpc_num: 3\nmulti_jobs: false\nmulti_jobs_configs: {batch_num: 9}\n")
    found = read_profile("p.yaml")
    assert (found.mem_per_cpu, found.mem, found.max_running) == ("4G", None, 3)
    told = found.over({"mem": "0.5", "cpus": None}).checked()
    assert (told.mem_per_cpu, told.mem, told.max_running) == (None, "512M", 3)


# -- without SLURM --------------------------------------------------------------------------------


def test_without_sbatch(segflow, monkeypatch):
    """The failure has the line to run by hand; the submission is listed with it."""
    monkeypatch.setenv("PATH", os.path.dirname(find("env")) if not find("sbatch") else "/nowhere")
    last = segflow("submit", "--", "create-chunk", code=1).last
    assert "there is no sbatch on this machine" in last
    (made,) = slurm.submissions()
    assert last.endswith(f"run by hand: sbatch --array=0-0 {made.script}")
    assert made.script.read_text() == made.text()
    assert "there is no squeue" in segflow("jobs", code=1).last


def test_nothing_was_submitted(segflow):
    assert "nothing was submitted" in segflow("jobs").out
    assert json.loads(segflow("jobs", "--json").out) == []


# -- on the cluster -------------------------------------------------------------------------------


def test_an_array_empties_a_queue(cluster, segflow, look, data):
    """Five workers, more than an array of this cluster takes; the log folder has a hard name too."""
    fill()
    image = tifffile.imread(data / "ac4_image.tif")
    segflow(
        "read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "write-precomputed", "-v", "image"
    )
    chain = ["read-precomputed", "-v", "image"]
    write = ["write-npy", "-f", "out/", "delete-task-in-queue"]
    ident = segflow("submit", "--array", 5, "--job-dir", "jo%bs", "--", *TASK, *chain, *write).out.strip()
    until(lambda: over(look(ident)))
    found = look(ident)
    assert (found["ended"], found["failed"], len(found["jobs"])) == (5, 0, 2)
    assert sum(open_queue("fq://tasks").counts()) == 0
    for box in BOXES:
        np.testing.assert_array_equal(np.load(f"out/{box}.npy"), image[box.slices()])
    logs = sorted(Path(found["logs"]).glob("*.log"))
    assert len(logs) == 5
    assert "done in" in logs[0].read_text()


def test_the_limit_of_running_tasks_holds_for_several_arrays(cluster, segflow, look):
    Path("busy.py").write_text(
        "import os, pathlib, time\n\n"
        "def execute():\n"
        "    here = pathlib.Path(f'running-{os.getpid()}')\n"
        "    here.touch()\n"
        "    time.sleep(0.5)\n"
        "    with open('seen', 'a') as file:\n"
        "        file.write(f'{len(list(pathlib.Path().glob(\"running-*\")))}\\n')\n"
        "    here.unlink()\n"
    )
    open_queue("fq://tasks", create=True).send([message(box) for box in BOXES])
    line = [*TASK, "-n", 1, "plugin", "-f", "busy.py", "delete-task-in-queue"]
    ident = segflow("submit", "--array", 5, "--max-running", 1, "--", *line).out.strip()
    until(lambda: over(look(ident)))
    assert (look(ident)["ended"], len(look(ident)["jobs"])) == (5, 2)
    assert set(Path("seen").read_text().split()) == {"1"}


def test_a_requeued_task_gives_its_piece_back(cluster, segflow, look):
    open_queue("fq://tasks", create=True).send([message(BOXES[0])])
    Path("slow.py").write_text(SLOW)
    chain = [*SLOWLY, "write-npy", "-f", "out/", "delete-task-in-queue"]
    ident = segflow("submit", "--", *TASK, *chain).out.strip()
    until(Path("began").exists)
    (job,) = look(ident)["jobs"]
    cluster.run("scontrol", "requeue", f"{job}_0")
    until(lambda: look(ident)["waiting"] == 1)
    assert open_queue("fq://tasks").counts()[:2] == (1, 0)
    cluster.run("scontrol", "update", f"JobId={job}_0", "StartTime=now")
    until(lambda: over(look(ident)))
    found = look(ident)
    assert found["ended"] == 1
    assert Path("began").read_text() == "xx"
    assert [p.stem for p in Path("out").glob("*.npy")] == [str(BOXES[0])]
    (log,) = Path(found["logs"]).iterdir()
    assert "ended by SIGTERM" in log.read_text()  # the first run's words are still there
    assert json.loads((Path(found["logs"]).parent / "tasks" / f"{job}_0.json").read_text())["restarts"] == 1


def test_a_driver_killed_after_sbatch_leaves_nothing_unknown(cluster, segflow, look, monkeypatch, here):
    """sbatch took the job, the driver died before it heard of that: jobs finds it and ends all, dependents too."""
    tools = here / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/bash\n{find("sbatch")} "$@" >/dev/null\nkill -9 $PPID\n')
    (tools / "sbatch").chmod(0o755)
    Path("slow.py").write_text(SLOW)
    done = subprocess.run(
        [sys.executable, "-m", "segflow", "submit", "--", *SLOWLY],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9
    (killed,) = slurm.submissions()
    assert killed.jobs == []
    waits = segflow("submit", "--after", killed.id, "--", "read-tif", "-f", "later.tif")
    assert "later.tif does not exist" in waits.err
    until(Path("began").exists)
    assert (look(killed.id)["running"], look(waits.out.strip())["waiting"]) == (1, 1)
    until(lambda: "Dependency" in segflow("jobs").out)  # SLURM gives the reason a moment later
    began = time.monotonic()
    assert segflow("jobs", "--cancel", killed.id).out.split()[1::2] == [waits.out.strip(), killed.id]
    until(lambda: look(killed.id)["cancelled"] == look(waits.out.strip())["cancelled"] == 1)
    assert time.monotonic() - began < 15
    assert cluster.run("squeue", "-h").strip() == ""
    assert "would never start" in segflow("submit", "--after", killed.id, "--", "create-chunk", code=2).last


def test_what_depends_runs_after_success_only(cluster, segflow, look, data):
    Path("good.py").write_text("import time\n\ndef execute(chunk):\n    time.sleep(1)\n    return chunk\n")
    Path("bad.py").write_text("def execute(chunk):\n    raise ValueError('no such luck')\n")

    def submit(*words: object) -> str:
        return segflow("submit", *words).out.strip()

    first = submit(
        "--",
        "create-chunk",
        "plugin",
        "-f",
        "good.py",
        "-i",
        "chunk",
        "-o",
        "chunk",
        "write-npy",
        "-f",
        "a.npy",
    )
    second = submit("--after", first, "--", "read-npy", "-f", "a.npy", "write-npy", "-f", "b.npy")
    bad = submit("--", "create-chunk", "plugin", "-f", "bad.py", "-i", "chunk", "-o", "chunk")
    never = submit("--after", bad, "--", "create-chunk", "write-npy", "-f", "c.npy")
    until(lambda: all(over(look(ident)) for ident in (first, second, bad, never)))
    assert (look(first)["ended"], look(second)["ended"]) == (1, 1)
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
    failed = look(bad)
    assert (failed["failed"], look(never)["cancelled"]) == (1, 1)
    assert "no such luck" in failed["tasks"][0]["error"]
    assert failed["tasks"][0]["why"] == "exit code 1"
    table = segflow("jobs", bad).out
    assert "no such luck" in table
    assert not Path("c.npy").exists()
    assert "would never start" in segflow("submit", "--after", bad, "--", "create-chunk", code=2).last
    done = submit("--after", second, "--dry-run", "--", "create-chunk")
    assert "dependency" not in done  # it has ended well already


# -- segment-volume by many -----------------------------------------------------------------------


@pytest.fixture
def block_job(segflow) -> list[str]:
    """Write real affinities and the answer, in the volume ``seg``; give the options of the job."""
    write_h5("affs.h5", crop(gala(), (12, 64, 80), (10, 20, 30)))
    line = ["--affs", "affs.h5", "--block-size", "6", "32", "20", "--threshold", "0.5"]
    segflow("segment-volume", *line, "--out", "seg", "--processes", 1)
    return line


def same(name: str) -> bool:
    found, expected = (open_volume(n).read(fill_missing=False).array for n in (name, "seg"))
    return np.array_equal(found, expected)


def test_segment_volume_by_an_array(cluster, segflow, look, block_job):
    """Two tasks run the same whole line at once."""
    line = ["segment-volume", *block_job, "--out", "two", "--processes", "1"]
    ident = segflow("submit", "--array", 2, "--", *line).out.strip()
    until(lambda: over(look(ident)))
    assert look(ident)["ended"] == 2
    assert same("two")


def test_segment_volume_by_a_queue(segflow, block_job):
    """A message for each block; workers take them, one is ended by SIGTERM, and none is left."""
    line = ["segment-volume", *block_job, "--out", "many", "--queue", "fq://blocks"]
    worker = shlex.split(segflow(*line).out)
    segflow(*line)  # again: nothing is added
    queue = open_queue("fq://blocks")
    waiting = queue.counts().waiting
    plan = json.loads(Path("many.work/plan.json").read_text())
    assert waiting == sum(stage["count"] for stage in plan["stages"].values())
    for _ in range(2):
        before = queue.counts().waiting
        ended = subprocess.Popen([sys.executable, "-m", *worker], stderr=subprocess.PIPE, text=True)
        until(lambda before=before: queue.counts().waiting < before - 1)
        ended.terminate()
        assert (ended.wait(20), "SIGTERM" in ended.stderr.read()) == (0, True)
        assert queue.counts().running == 0
    segflow(*worker[1:])
    assert sum(queue.counts()) == 0
    assert same("many")


def test_a_block_that_fails_lets_the_others_go_on(segflow, block_job):
    """Its message comes back with the error, and is dead at last; after the cause is mended it is done."""
    worker = shlex.split(segflow("segment-volume", *block_job, "--out", "many", "--queue", "fq://blocks").out)
    kept = Path("affs.h5").rename("gone.h5")
    assert "affs.h5" in segflow(*worker[1:], code=2).last
    kept.rename("affs.h5")
    (Path("many.work") / "fragments").write_text("in the way")
    assert "failed" in segflow(*worker[1:], code=1).last
    (Path("many.work") / "fragments").unlink()
    segflow("queue", "fq://blocks", "--retry-dead")
    segflow(*worker[1:])
    assert sum(open_queue("fq://blocks").counts()) == 0
    assert same("many")


def test_a_killed_task_is_told_as_failed(cluster, segflow, look):
    """kill -9 of the task itself: SLURM says failed; without SLURM's word, the missing end says it."""
    Path("slow.py").write_text(SLOW)
    ident = segflow("submit", "--", *SLOWLY).out.strip()
    until(Path("began").exists)
    (told,) = Path(slurm.load(ident).folder, "tasks").iterdir()
    os.kill(json.loads(told.read_text())["pid"], signal.SIGKILL)
    until(lambda: over(look(ident)))
    assert look(ident)["failed"] == 1
    alone = slurm_state.standing(slurm.load(ident), {})
    assert [(task.state, task.why) for task in alone.tasks] == [
        ("failed", "SLURM does not know it any more; it was killed")
    ]
