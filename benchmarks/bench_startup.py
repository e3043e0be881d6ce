"""Start-up: ``segflow --help`` against the bare interpreter and ``import click``."""

from __future__ import annotations

import subprocess
import sys

from table import in_turn, row


def run(*words: str) -> None:
    """Run the interpreter and throw its output away."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


if __name__ == "__main__":
    ours, bare = in_turn(lambda: run("-m", "segflow", "--help"), lambda: run("-c", "import click"), 9)
    row("segflow --help", ours, "import click", bare, "goal < 0.3 s; chunkflow 2.1 s")
    ours, bare = in_turn(lambda: run("-m", "segflow", "agglomerate", "--help"), lambda: run("-c", ""), 9)
    row("segflow agglomerate --help", ours, "python -c ''", bare)
