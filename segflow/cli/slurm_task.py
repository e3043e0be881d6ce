"""What a task of a SLURM array runs: ``python -m segflow.cli.slurm_task FOLDER WORD ...``.

It runs the line in this same process, so that SLURM's signals reach it, and writes into FOLDER when and
where it began and with which exit code it ended. A task that was killed has no end there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from segflow.blocks.disk import whole


def place() -> str:
    """Name this task: SLURM's job and the index in its array; by hand, the process."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID") or f"pid{os.getpid()}"
    return f"{job}_{os.environ.get('SLURM_ARRAY_TASK_ID') or 0}"


def main(folder: str, words: Sequence[str]) -> NoReturn:
    """Run the line, write down how it went, and exit as it does."""
    from segflow.cli.main import main as segflow

    path = Path(folder) / f"{place()}.json"
    told: dict[str, Any] = {
        "host": socket.gethostname(), "pid": os.getpid(), "began": time.time(),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
    }  # fmt: skip
    write(path, told)
    code = 1
    try:
        segflow(list(words))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        raise
    finally:
        write(path, {**told, "ended": time.time(), "code": code})


def write(path: Path, told: dict[str, Any]) -> None:
    """Write the file whole."""
    with whole(path) as beside:
        beside.write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
