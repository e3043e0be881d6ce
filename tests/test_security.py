"""Secrets stay secret, messages and weights are data, boxes are checked, servers listen to this machine only."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import tifffile

import segflow as package
from segflow.errors import SegflowError, UsageError
from segflow.geometry import Box
from segflow.secrets import hide
from segflow.tasks.queues import Counts, message, open_queue
from segflow.volumes import open_volume

KEY, SECRET, TOKEN = "AKIASENTINELKEY00001", "sentinel/Secret+Key/0002", "sentinel-session-token-0003"
SENTINELS = (KEY, SECRET, TOKEN)


@pytest.fixture
def account(bucket, monkeypatch, tmp_path):
    """Give a bucket whose credentials are easily recognised; crash logs go below tmp_path."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.1")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return bucket


def check_clean(text, where):
    for sentinel in SENTINELS:
        assert sentinel not in text, f"{where}: {text[:400]}"


def check_everything(tmp_path, *results):
    """Look for the credentials in all output, files, objects and messages."""
    import boto3

    for result in results:
        check_clean(result.out + result.err, "output")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            check_clean(path.read_bytes().decode("latin1"), path)
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    for found in s3.list_objects_v2(Bucket="bkt").get("Contents", []):
        body = s3.get_object(Bucket="bkt", Key=found["Key"])["Body"].read()
        check_clean(body.decode("latin1"), found["Key"])
    for url in sqs.list_queues().get("QueueUrls", []):
        told = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0, MessageAttributeNames=["All"]
        )
        check_clean(json.dumps(told.get("Messages", [])), url)


# -- credentials -----------------------------------------------------------------------------------------


def test_credentials_appear_nowhere(account, tmp_path, process, segflow, data):
    """A whole worker's life, at the loudest: all that is printed, logged and stored is searched."""
    image = tifffile.imread(data / "ac4_image.tif")[:8, :64, :64]
    np.save(tmp_path / "em.npy", image)
    loud, block = ["--debug", "--log-level", "debug"], ["--block-size", 4, 64, 64]
    one = process(
        *loud, "read-npy", "-f", tmp_path / "em.npy", "write-precomputed", "-v", f"{account}/em", *block
    )
    queue = open_queue(f"q{uuid4().hex[:8]}", create=True)
    queue.send(message(Box((z, 0, 0), (z + 4, 64, 64)), 0) for z in (0, 4, 90))  # the last one lies outside
    two = process(
        *loud, "fetch-task", "-q", queue.address, "-r", 1, "--tries", 1, "read-precomputed", "-v", f"{account}/em",
        "threshold", "-t", 100, "write-precomputed", "-v", f"{account}/out", *block, "--upload-log",
        "delete-task-in-queue", code=1,
    )  # fmt: skip
    three = segflow("verify", f"{account}/out", "--json", tmp_path / "v.json")
    four = segflow("queue", queue.address, "--json")
    assert "wholly outside" in four.out
    five = segflow("provenance", f"{account}/out")
    assert "threshold" in five.out
    gone = process(
        *loud, "read-precomputed", "-v", f"{account}/no", "write-npy", "-f", tmp_path / "x.npy", code=None
    )
    assert gone.code in (1, 2)
    check_everything(tmp_path, one, two, three, four, five, gone)


def test_errors_and_words_that_hold_a_secret_are_told_without_it(account, tmp_path, process, segflow):
    """A library, or a user's own step, may put a secret into an error; a user may write one on the line."""
    (tmp_path / "leak.py").write_text(
        "import os\n"
        "def execute(token=None, **rest):\n"
        "    raise ValueError('cannot log in with ' + os.environ['AWS_SECRET_ACCESS_KEY'])\n"
    )
    (tmp_path / "fine.py").write_text("def execute(token=None):\n    pass\n")
    queue = open_queue(f"q{uuid4().hex[:8]}", create=True)
    queue.send([message(Box((0, 0, 0), (4, 8, 8)), 0)])
    fetch = ["fetch-task", "-q", queue.address, "-r", 0, "--tries", 1, "plugin", "-f", tmp_path / "leak.py"]
    one = process(*fetch, "delete-task-in-queue", code=1)
    assert "cannot log in with ***" in one.err
    assert "cannot log in with ***" in queue.dead()[0].error
    two = process("--debug", "plugin", "-f", tmp_path / "leak.py", code=1)
    assert "***" in two.err
    three = process(
        "create-chunk", "--size", 4, 8, 8, "--voxel-size", 1, 1, 1, "plugin", "-f", tmp_path / "fine.py", "-a",
        json.dumps({"token": TOKEN}), "write-precomputed", "-v", f"{account}/v", "--block-size", 4, 8, 8,
    )  # fmt: skip
    assert "***" in segflow("provenance", f"{account}/v").out
    check_everything(tmp_path, one, two, three)


def test_a_crash_log_is_private_and_has_no_secret(account, monkeypatch, tmp_path):
    import tempfile

    from segflow.cli.report import explain

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    told = explain(RuntimeError(f"refused: {SECRET}"))
    check_clean(told, "error")
    (path,) = (tmp_path / "tmp").glob("segflow-crash-*")
    assert str(path) in told
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    check_clean(text, path)
    assert "refused: ***" in text


@pytest.mark.parametrize(
    "address", ["https://me:hunter22@h/v", "s3://AKID:hunter22@bkt/v", "zarr://https://a:hunter22@h"]
)
def test_addresses_hold_no_passwords(address, segflow, tmp_path):
    said = segflow("read-precomputed", "-v", address, "write-npy", "-f", tmp_path / "a.npy", code=2)
    assert "must not hold a password" in said.last
    assert "hunter22" not in said.err
    with pytest.raises(UsageError):
        open_volume(address)


def test_signed_addresses_are_cut():
    text = hide("GET https://h/v?X-Amz-Credential=AB%2F1&X-Amz-Signature=0123456789abcdef failed")
    assert text == "GET https://h/v?X-Amz-Credential=***&X-Amz-Signature=*** failed"


# -- messages are data ------------------------------------------------------------------------------------


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path(self.path).touch, ())


def hostile(mark):
    """Give messages that would make the file ``mark`` if anything in them were run."""
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    return [
        json.dumps({"payload": [["os", "system"], [f"touch {mark}"], {}, -1], "id": "x"}),
        json.dumps({"payload": [["builtins", "exec"], [code], {}, -1]}),
        json.dumps({"bbox": f"$(touch {mark})", "mip": 0}),
        json.dumps({"bbox": code}),
        json.dumps({"bbox": "0-4_0-8_0-8", "mip": code}),
        json.dumps({"bbox": "../../0-4_0-8_0-8"}),
        json.dumps({"bbox": ["0-4_0-8_0-8"]}),
        f"!!python/object/apply:os.system ['touch {mark}']",
        pickle.dumps(Bomb(mark), protocol=0).decode("latin1"),
        "[" * 100_000,
        "0-4_0-8_0-8; rm -rf /",
        "0-99999999999999999999_0-8_0-8",
    ]


@pytest.mark.parametrize("kind", ["fq", "sqs"])
def test_hostile_messages_are_dead_letters(kind, request, tmp_path, process, monkeypatch):
    mark, address = tmp_path / "pwned", f"fq://{tmp_path}/q"
    if kind == "sqs":
        request.getfixturevalue("bucket")
        address = f"q{uuid4().hex[:8]}"
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.1")
    queue = open_queue(address, create=True)
    texts = hostile(mark)
    for number, text in enumerate(texts):
        if kind == "fq":
            (tmp_path / "q" / "queue" / f"0--{number}.json").write_bytes(text.encode("latin1"))
        else:
            queue.client.send_message(QueueUrl=queue.url, MessageBody=text)
    queue.send([message(Box((0, 0, 0), (4, 8, 8)), 0)])
    done = process(
        "fetch-task", "-q", address, "-r", 1, "create-chunk", "--size", 4, 8, 8, "write-h5", "-f",
        f"{tmp_path}/out/", "delete-task-in-queue",
    )  # fmt: skip
    assert not mark.exists()
    assert "Traceback" not in done.err
    assert len(queue.dead()) == len(texts)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0-4_0-8_0-8.h5"]


@pytest.mark.parametrize("box", ["0-4_0-8_900000-900008", "0-900000000_0-900000000_0-900000000"])
def test_a_box_that_does_not_fit_its_volume_fails_alone(box, tmp_path, process, monkeypatch):
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.1")
    np.save(tmp_path / "em.npy", np.ones((8, 16, 16), np.uint8))
    process("read-npy", "-f", tmp_path / "em.npy", "write-precomputed", "-v", tmp_path / "em")
    queue = open_queue(f"fq://{tmp_path}/q", create=True)
    queue.send([{"bbox": box, "mip": 0}, {"bbox": "0-4_0-8_0-8", "mip": 0}])
    began = time.monotonic()
    said = process(
        "fetch-task", "-q", queue.address, "-r", 0, "--tries", 1, "read-precomputed", "-v", tmp_path / "em",
        "write-h5", "-f", f"{tmp_path}/out/", "delete-task-in-queue", code=1,
    )  # fmt: skip
    assert time.monotonic() - began < 30
    assert "Traceback" not in said.err
    assert queue.counts() == Counts(0, 0, 1)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["0-4_0-8_0-8.h5"]


# -- weights and files are data ----------------------------------------------------------------------------


def test_no_file_runs_code_when_it_is_read(tmp_path, segflow):
    mark = tmp_path / "pwned"
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(Bomb(mark)))
    np.save(tmp_path / "evil.npy", np.array([Bomb(mark)], object), allow_pickle=True)
    (tmp_path / "evil.yaml").write_text(f"- !!python/object/apply:os.system ['touch {mark}']\n")
    (tmp_path / "net.py").write_text(
        "import torch\n\nclass InstantiatedModel:\n    pass\n\ninstantiated_model = InstantiatedModel = torch.nn.Identity()\n"
    )
    chunk = ["create-chunk", "--size", 4, 8, 8, "--dtype", "float32"]
    patch = ["--input-patch-size", 4, 8, 8, "--framework", "pytorch"]
    lines = [
        [*chunk, "inference", "-m", tmp_path / "net.py", "-w", evil, *patch],
        [*chunk, "inference", "-m", evil, *patch],
        ["read-npy", "-f", tmp_path / "evil.npy", "inspect"],
        ["run", tmp_path / "evil.yaml"],
        ["train", "--config-file", tmp_path / "evil.yaml", "--dry-run"],
        ["check-model", evil],
        ["fetch-task-from-file", "-f", tmp_path / "evil.npy", "create-chunk"],
    ]
    for line in lines:
        said = segflow(*line, code=None)
        assert said.code in (1, 2), line
        assert not mark.exists(), line
        assert "Traceback" not in said.err, said.err


def test_checkpoints_run_no_code(tmp_path):
    from segflow.inference.models import read_weights

    mark = tmp_path / "pwned"
    import torch

    torch.save({"state_dict": {"w": torch.zeros(2)}, "more": Bomb(mark)}, tmp_path / "c.pt")
    with pytest.raises(SegflowError, match="weights alone"):
        read_weights(str(tmp_path / "c.pt"))
    assert not mark.exists()


SOURCES = [
    p for folder in ("segflow", "operators") for p in (Path(package.__file__).parents[1] / folder).rglob("*.py")
    if "segflow/operators" not in str(p)
]  # fmt: skip
RUNS_CODE = {"inference/models.py": {"exec"}}  # a network's own Python file, which the user names with -m


def dangers(path):
    """Give what a source file calls that could run what it reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name == "torch.load" and words.get("weights_only") != "True":
            yield "torch.load"
        if name in (
            "pickle.load",
            "pickle.loads",
            "dill.load",
            "joblib.load",
            "marshal.loads",
            "yaml.unsafe_load",
        ):
            yield name
        if name == "yaml.load" and not any(s in words.get("Loader", "") for s in ("Safe", "Base")):
            yield name
        if words.get("allow_pickle") == "True" or words.get("shell") == "True":
            yield name
        if name in ("eval", "exec", "os.system", "os.popen") or name.endswith(".extractall"):
            yield name


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 150
    for path in SOURCES:
        allowed = next((v for k, v in RUNS_CODE.items() if str(path).endswith(k)), set())
        assert set(dangers(path)) <= allowed, path


def test_the_search_for_dangers_finds_them(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "torch.load(f)\npickle.loads(b)\nyaml.load(f)\nnp.load(f, allow_pickle=True)\neval(x)\n"
        "subprocess.run(s, shell=True)\nzip.extractall(p)\nyaml.load(f, Loader=yaml.SafeLoader)\n"
    )
    assert len(list(dangers(bad))) == 7


# -- servers ------------------------------------------------------------------------------------------------


def listening(pid):
    """Give the IPv4 and IPv6 addresses at which a process listens, as hex."""
    nodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            nodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            continue
    rows = [
        r.split() for f in ("tcp", "tcp6") for r in Path(f"/proc/{pid}/net/{f}").read_text().splitlines()[1:]
    ]
    return {r[1].partition(":")[0] for r in rows if r[3] == "0A" and f"socket:[{r[9]}]" in nodes}


@pytest.mark.parametrize("command", ["view", "neuroglancer"])
def test_servers_listen_to_this_machine_only(command, tmp_path):
    line = [
        sys.executable,
        "-m",
        "segflow",
        "create-chunk",
        "--size",
        "4",
        "8",
        "8",
        "--voxel-size",
        "1",
        "1",
        "1",
    ]
    page = subprocess.Popen([*line, command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends, found = time.monotonic() + 40, set()
        while not found:
            assert time.monotonic() < ends
            assert page.poll() is None
            time.sleep(0.1)
            found = listening(page.pid)
        time.sleep(0.5)
        assert listening(page.pid) == {"0100007F"}  # 127.0.0.1
    finally:
        page.kill()
        page.wait()
