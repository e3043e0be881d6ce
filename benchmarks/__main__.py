"""Run every ``bench_*.py`` beside this file (or those whose names are given) and print its table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Run the benchmarks one after the other, each as a process of its own."""
    failed = 0
    for file in sorted(Path(__file__).parent.glob("bench_*.py")):
        if names and file.stem.removeprefix("bench_") not in names:
            continue
        print(f"\n== {file.stem.removeprefix('bench_')}", flush=True)
        failed += subprocess.run([sys.executable, str(file)]).returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
