"""The production scripts of examples/, in order, on a small piece of real data and a local server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segflow.volumes import open_volume

ROOT = Path(__file__).parent.parent
HERE = ROOT / "examples" / "production"
SCRIPTS = ["ingest", "setup", "worker", "segment", "downsample", "mesh", "summary"]


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def run(tmp_path):
    """A function that runs a script, with this Python's segflow before all others."""
    place = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def call(script, **more):
        environment = {**os.environ, "PATH": place, "SEGFLOW_POLL_MAX": "0.05", **more}
        done = subprocess.run(
            ["sh", str(HERE / f"{script}.sh")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
        )  # fmt: skip
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    return call


def test_production(run, bucket, data, tmp_path):
    image = tifffile.imread(data / "ac4_image.tif")[:, :192, :192].copy()
    image[:, :180, :180] = 0  # the first task has no tissue
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack")
    more = {
        "BUCKET": bucket,
        "IMAGE": str(tmp_path / "image.tif"),
        "VOLUME_SIZE": "20 192 192",
        "TASK": "20 192 192",
    }
    told = {}
    for script in SCRIPTS[:4]:
        told[script] = run(script, **more)
    assert "--patch-num 1 2 2" in told["setup"]
    affs = open_volume(f"{bucket}/affs").read(fill_missing=False).array
    assert affs.shape == (3, 20, 192, 192)
    assert not affs[:, :, :160, :160].any()  # a task that was passed over
    assert affs[:, :, 184:].mean() > 20
    run("downsample", **{**more, "TASK": "20 192 192"})
    run("mesh", **{**more, "TASK": "20 24 48"})
    labels = open_volume(f"{bucket}/seg")
    assert labels.read(mip=2, fill_missing=False).shape == (20, 48, 48)
    shown = run("summary", **{**more, "TASK": "20 160 160"})
    assert "inference" in shown
    assert "waiting" in shown
    assert_meshes(bucket, np.unique(labels.read(mip=2).array))


def assert_meshes(bucket, ids):
    """Every manifest names fragments that are there, of objects that are there."""
    import boto3

    client = boto3.client("s3")
    keys = {
        o["Key"]
        for o in client.list_objects_v2(Bucket=bucket.removeprefix("s3://"), Prefix="seg/mesh")["Contents"]
    }
    manifests = [k for k in keys if k.rpartition("/")[2].count(":") == 1]
    assert manifests
    for key in manifests:
        folder, _, name = key.rpartition("/")
        assert int(name.split(":")[0]) in ids
        text = client.get_object(Bucket=bucket.removeprefix("s3://"), Key=key)["Body"].read()
        for fragment in json.loads(text)["fragments"]:
            assert {f"{folder}/{fragment}", f"{folder}/{fragment}.gz"} & keys


def test_the_local_server(port, tmp_path):
    """``. local.sh`` serves buckets to this machine alone, and ends when it is told."""
    script = (
        f"PORT={port} PYTHON={sys.executable}; . examples/production/local.sh; "
        "\"$PYTHON\" -c \"import boto3; print(boto3.client('s3').list_buckets()['Buckets'][0]['Name'])\"; "
        'echo "$AWS_ENDPOINT_URL"; kill "$LOCAL_AWS"; wait "$LOCAL_AWS"; echo "ended $?"'
    )
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:3] == ["segflow-demo", f"http://127.0.0.1:{port}", "ended 0"], done.stderr


def test_scripts_are_shell_and_are_all_run():
    assert {p.stem for p in HERE.glob("*.sh")} == {*SCRIPTS, "local"}
    for path in HERE.glob("*.sh"):
        assert subprocess.run(["sh", "-n", path]).returncode == 0
        assert (path.stem == "local") or os.access(path, os.X_OK)
        if shutil.which("shellcheck"):
            assert subprocess.run(["shellcheck", path]).returncode == 0
