"""What all tests share: the command line in this process and as a process, and the real data."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr: the error, if there is one."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a home of its own; cloud libraries read secrets from it."""
    place = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(place))
    return place


@pytest.fixture
def segflow(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Give a function that runs a command line in this process."""
    from segflow.cli.main import main

    def run(*words: object, code: int | None = 0) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        out, err = capfd.readouterr()
        result = Result(int(ended.value.code or 0), out, err)
        assert code is None or result.code == code, result.err
        return result

    return run


@pytest.fixture
def process() -> Callable[..., Result]:
    """Give a function that runs a command line as a process of its own."""

    def run(*words: object, code: int | None = 0, timeout: float = 120, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "segflow", *map(str, words)],
            capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment},
        )  # fmt: skip
        result = Result(done.returncode, done.stdout, done.stderr)
        assert code is None or result.code == code, result.err
        return result

    return run


@pytest.fixture
def data() -> Path:
    """Give the folder of the bundled real volumes."""
    return DATA


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run moto's S3 in a process; give its address. One for all tests: cloud libraries keep connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Empty the server; give the address of a bucket."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": "SKTEST",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"))
    boto3.client("s3").create_bucket(Bucket="bkt")
    yield "s3://bkt"
    os.environ.pop("AWS_SESSION_TOKEN", None)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that makes a folder on a disk of its own, of a size as mount writes it."""
    made: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk-{size}"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts a line as a process; all are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "segflow", *map(str, words)]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
