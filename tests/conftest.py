"""What all tests share: the command line in this process and as a process, and the real data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
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
