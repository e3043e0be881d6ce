"""What the commands that score share: their files, JSON and pictures, a file a task where wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segflow.cli.files import writes
from segflow.cli.operator import option
from segflow.cli.plan import Plan
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


def beside(path: str) -> str:
    """Give the JSON file that goes with a picture.

    >>> beside("curve.png"), beside("curves/"), beside("a-{bbox}.png")
    ('curve.json', 'curves/', 'a-{bbox}.json')
    """
    return path if path.endswith("/") or Path(path).is_dir() else str(Path(path).with_suffix(".json"))


def plan_files(plan: Plan, **paths: str | None) -> None:
    """Check where files go: ``picture`` is a PNG, all others are JSON; None is not written.

    Raises:
        UsageError: a picture whose name ends in something else, a folder that is not there.
    """
    for kind, path in paths.items():
        if path is None:
            continue
        folder = path.endswith("/") or Path(path).is_dir()
        if kind == "picture" and not folder and Path(path).suffix.lower() != ".png":
            raise UsageError(f"the picture {path} is a PNG file; give a name that ends in .png")
        writes(".png" if kind == "picture" else ".json")(plan, {"path": path})


def write_json(content: Any, path: str, chunk: Chunk, state: State | None) -> None:
    """Write scores to the JSON file of this task."""
    import json

    from segflow.volumes.files import output_path, replacing

    target = output_path(path, state, ".json", chunk.bbox)
    with replacing(target) as place:
        place.write_text(json.dumps(content, indent=2) + "\n")
    if state is not None:
        state.run.wrote(target)


def write_picture(save: Callable[[str], None], path: str, chunk: Chunk, state: State | None) -> None:
    """Write the picture of this task; ``save`` gets its name."""
    from segflow.volumes.files import output_path

    target = output_path(path, state, ".png", chunk.bbox)
    save(target)
    if state is not None:
        state.run.wrote(target)


def limit_options(function: Any) -> Any:
    """Declare the limits of the watershed."""
    low = option("-l", "--aff-threshold-low", type=click.FloatRange(0, 1), default=0.0001,
                 help="Voxels whose best affinity is not above this become 0.")  # fmt: skip
    high = option("-h", "--aff-threshold-high", type=click.FloatRange(0, 1), default=0.9999,
                  help="Affinities at or above this always join.")  # fmt: skip
    return low(high(function))
