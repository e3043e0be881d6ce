"""view: leaf through a chunk in the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from segflow.cli.operator import name_in, operator, option
from segflow.cli.viewing import bind_option, check_viewer, picture_options, say, serve, take_picture

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State


@operator("Viewing", plan=check_viewer, finish=serve, example="segflow create-chunk view")
@name_in("image", "-i", "--image-chunk-name", help="Chunk to show; labels are shown in colours.")
@name_in("segmentation", "--segmentation-chunk-name", default=None, help="Labels to lay over it.")
@option("-p", "--port", type=click.IntRange(0, 65535), default=None, show_default="8080, else any free one",
        help="Port to serve at; 0 is any free one.")  # fmt: skip
@bind_option
@picture_options
def view(
    image: Chunk,
    segmentation: Chunk | None = None,
    *,
    state: State,
    port: int | None = None,
    bind: str = "127.0.0.1",
    screenshot: str | None = None,
    size: tuple[int, int] = (1200, 900),
) -> None:
    """Leaf through the sections of a chunk in the browser: prints the address, serves until Ctrl+C.

    The page needs nothing from outside. A later task takes the place of the one before. With
    --screenshot a headless browser takes a picture, nothing is served and the chain goes on.
    """
    if screenshot:
        from segflow.view.screenshot import shoot_sections

        take_picture(screenshot, state, {"": image}, lambda: shoot_sections(image, segmentation, size))
        return
    from segflow.view.server import Serving
    from segflow.view.slices import PageServer

    serving = Serving.of(state.run.memory)
    known = "view" in serving.viewers
    page = serving.viewer("view", lambda: PageServer(image, segmentation, bind=bind, port=port))
    if known:
        page.show(image, segmentation)
    else:
        say(serving, page.url, page.port)
