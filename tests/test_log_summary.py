"""What tasks took of their machine, and what log-summary makes of the logs: JSON, bars, metrics."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from segflow.cli import run_chain
from segflow.errors import VolumeError
from segflow.tasks.log import read_logs
from segflow.tasks.summary import as_json, prometheus, save_bars, summary


@pytest.fixture
def logs(tmp_path):
    """Make logs with differing operators: two tasks on cpu, one elsewhere, one skipped, one failed."""
    folder = tmp_path / "log"
    folder.mkdir()
    kinds = [
        {"timer": {"inference": 996.0, "save": 4.0}, "compute_device": "cpu", "peak_memory": 2 * 10**9},
        {"timer": {"inference": 498.0, 'mask "a"\\': 2.0}, "compute_device": "cpu", "peak_memory": 10**9},
        {
            "timer": {"inference": 3.0},
            "compute_device": "H200",
            "device_use": 0.75,
            "device_peak_memory": 7e9,
        },
        {"timer": {"read": 9.0}, "skipped": "all zero", "compute_device": "cpu"},
        {"timer": {"read": 9.0}, "error": "broken", "compute_device": "cpu"},
    ]
    for index, kind in enumerate(kinds):
        (folder / f"{index}.json").write_text(json.dumps(kind | {"bbox": f"{index}-{index + 1}_0-8_0-8"}))
    return folder


def test_t22_word_for_word(logs, tmp_path, segflow):
    line = f"log-summary --log-dir {logs} --output-size 156 1280 1280"
    rows = [row.split() for row in segflow(*shlex.split(line)).out.splitlines()]
    assert ["inference", "2", "747.000", "996.000", "498.000", "0.4150", "99.6", "0.342"] in rows
    assert ["complete_task", "1", "3.000", "3.000", "3.000", "0.0008", "100.0", "85.197"] in rows


def test_speed_is_in_megavoxels(logs):
    # chunkflow prints 257 for this, with the unit "mv/s"
    found = as_json(read_logs(str(logs))[:1], (156, 1280, 1280))["cpu"]["steps"]["inference"]
    assert found["mvoxel_per_s"] == pytest.approx(0.2566, abs=1e-4)


def test_json(logs, segflow):
    found = json.loads(segflow("log-summary", "-l", logs, "--json", "-s", 10, 100, 100).out)
    assert found["cpu"]["tasks"] == {"done": 2, "skipped": 1, "failed": 1}
    assert found["cpu"]["usage"] == {"peak_memory": 2e9}
    steps = found["cpu"]["steps"]
    assert steps["save"] == {
        "n": 1, "mean": 4, "min": 4, "max": 4, "sum": 4, "share": 4 / 1500, "mvoxel_per_s": 0.025,
    }  # fmt: skip
    assert steps["complete_task"]["mean"] == 750
    assert "read" not in steps
    assert sum(s["share"] for name, s in steps.items() if name != "complete_task") == pytest.approx(1)
    text = summary(read_logs(str(logs)))
    assert "\npeak memory 2 GB\n" in text
    assert "\npeak device memory 7 GB, share of time on the device 0.75\n" in text


def test_bars(logs, tmp_path, segflow):
    segflow("log-summary", "-l", logs, "--plot", tmp_path / "bars.png")
    picture = np.asarray(Image.open(tmp_path / "bars.png"))
    blue = (picture == (0x00, 0x72, 0xB2)).all(axis=-1)
    lengths = [int(row.sum()) for row in blue]
    assert max(lengths) == pytest.approx(420 * 750 / 1000, abs=3)  # complete_task: mean 750, longest 1000
    bars = sum(a == 0 < b for a, b in zip([0, *lengths], lengths))
    assert bars == 6  # 4 on cpu, 2 on H200
    save_bars([{"timer": {"a": 1.0}, "error": "x"}], tmp_path / "none.png")
    assert Image.open(tmp_path / "none.png").size[1] > 0
    with pytest.raises(VolumeError, match="cannot write"):
        save_bars([], tmp_path / "no" / "x.png")
    assert "folder does not exist" in segflow("log-summary", "-l", logs, "--plot", "/no/x.png", code=2).err


def test_prometheus_text(logs, tmp_path, segflow):
    segflow("log-summary", "-l", logs, "--metrics", tmp_path / "segflow.prom")
    text = (tmp_path / "segflow.prom").read_text()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert families["segflow_step_seconds"].type == "summary"
    samples = {(s.name, *sorted(s.labels.values())): s.value for f in families.values() for s in f.samples}
    assert samples["segflow_step_seconds_sum", "cpu", "inference"] == 1494
    assert samples["segflow_step_seconds_count", "cpu", "inference"] == 2
    assert samples["segflow_step_seconds_max", "cpu", 'mask "a"\\'] == 2
    assert samples["segflow_tasks", "cpu", "failed"] == 1
    assert samples["segflow_task_peak_memory_bytes", "cpu"] == 2e9
    assert samples["segflow_task_device_use", "H200"] == 0.75
    assert all(re.fullmatch(r"# (HELP|TYPE) .+|[a-z_]+\{.*\} \S+", line) for line in text.splitlines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "segflow.prom"]
    assert prometheus([]) == "\n"


# -- what a task takes --------------------------------------------------------------------------


PEAKS = """
import numpy as np
from segflow.tasks.usage import forget, peak_memory
big = np.ones(2**24)
high = peak_memory()
del big
forget()
low = peak_memory()
small = np.ones(2**23)
print(high - low, peak_memory() - low)
"""


def test_peak_memory_begins_anew():
    # in a process of its own: numba's and torch's tests let malloc keep what is freed
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    big, small = map(int, done.stdout.split())
    assert big == pytest.approx(2**27, rel=0.1)
    assert small == pytest.approx(2**26, rel=0.1)


def test_logs_tell_memory_and_use_of_each_task(tmp_path, process):
    # the first task is large, the second small, so the second must not have the first one's peak
    line = (
        "--log-dir {0}/log generate-tasks -c 4 8 8 -g 2 1 1 create-chunk --size {1} -o big delete-var -v big "
        "create-chunk -o x inference --framework identity -i x -o x --patch-size 2 4 4 --patch-overlap 1 2 2"
    )
    process(*line.format(tmp_path, "200 400 400").split())
    found = [json.loads(p.read_text()) for p in sorted((tmp_path / "log").iterdir())]
    assert len(found) == 2
    for entry in found:
        assert entry["peak_memory"] > 32e6
        assert 0 < entry["cpu_use"] < 64
        assert 0 < entry["device_use"] < 1
        assert "device_peak_memory" not in entry


def test_no_meter_outside_of_logs(monkeypatch):
    # without a log the peaks are left alone, for whoever else asks
    monkeypatch.setattr("segflow.tasks.usage.forget", lambda: pytest.fail("forgotten"))
    assert "chunk" in run_chain("create-chunk")


def test_an_uploaded_log_tells_its_own_writing(tmp_path, segflow):
    words = f"create-chunk --size 4 8 8 save --name put -v {tmp_path}/out --voxel-size 9 9 9 --upload-log"
    segflow("--log-dir", tmp_path / "log", *shlex.split(words))
    (sent,), (kept,) = (read_logs(str(tmp_path / p)) for p in ("out/log", "log"))
    assert list(sent["timer"]) == list(kept["timer"]) == ["create-chunk", "put"]
    assert 0 < sent["timer"]["put"] <= kept["timer"]["put"]
