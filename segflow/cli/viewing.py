"""What the commands that show chunks share: options, their check, the lines they print."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from segflow.cli.files import WRITES, before_the_run, writes
from segflow.cli.operator import option
from segflow.cli.plan import Plan

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import Run, State
    from segflow.view.server import Serving

F = TypeVar("F", bound=Callable[..., Any])


def bind_option(function: F) -> F:
    """Declare ``--bind``."""
    return option(
        "--bind", metavar="ADDRESS", default="127.0.0.1",
        help="Address to listen on; 0.0.0.0 lets other machines in.",
    )(function)  # fmt: skip


def picture_options(function: F) -> F:
    """Declare ``--screenshot`` and its ``--size``."""
    for mark in (
        option("--size", type=click.IntRange(64, 8192), nargs=2, metavar="W H", default=(1200, 900),
               help="Size of the picture, pixels."),
        option("--screenshot", metavar="FILE", default=None,
               help=f"Write a picture (PNG) by a headless browser, serve nothing; {WRITES}"),
    ):  # fmt: skip
        function = mark(function)
    return function


def check_viewer(plan: Plan, options: dict[str, Any]) -> None:
    """Check that the port is free, or that the picture can be made and written.

    Raises:
        UsageError: it cannot work.
    """
    if options["screenshot"]:
        from segflow.view.screenshot import find_browser

        with before_the_run():
            find_browser()
        writes(".png")(plan, {"path": options["screenshot"]})
    elif options["port"] is not None:
        from segflow.view.server import check_port

        check_port(options["bind"], options["port"])


def say(serving: Serving, url: str, port: int) -> None:
    """Print where to look; from here on Ctrl+C ends the viewing."""
    from segflow.view.server import announce

    serving.stop.watch()
    click.echo("\n".join(announce(url, port)))


def serve(run: Run, **_options: Any) -> None:
    """Hold what this run serves until Ctrl+C."""
    from segflow.view.server import Serving

    Serving.of(run.memory).hold()


def take_picture(path: str, state: State, chunks: Mapping[str, Chunk], take: Callable[[], bytes]) -> None:
    """Write the PNG that ``take()`` gives to this task's file."""
    from segflow.volumes.files import output_path, replacing

    target = output_path(path, state, ".png", next(iter(chunks.values())).bbox)
    picture = take()
    with replacing(target) as beside:
        beside.write_bytes(picture)
    state.run.wrote(target)
