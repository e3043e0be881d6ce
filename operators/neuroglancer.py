"""neuroglancer: look at chunks in 3-D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segflow.cli.operator import names_in, operator, option, triple
from segflow.cli.plan import Plan
from segflow.cli.viewing import bind_option, check_viewer, picture_options, say, serve, take_picture
from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.chunk import Chunk
    from segflow.state import State

LAYOUTS = ("4panel", "xy", "yz", "xz", "3d", "xy-3d", "yz-3d", "xz-3d")


def plan(plan: Plan, options: dict[str, Any]) -> None:
    """Check the names' options, the port, the browser of a picture."""
    from segflow.view.names import Named, split

    for text in split(options["chunks"] or ""):
        Named.parse(text)
    if not options["chunks"] and not plan.chunks:
        raise UsageError("the steps before write no chunk to show")
    check_viewer(plan, options)


@operator("Viewing", plan=plan, finish=serve,
          example="segflow read-tif -f image.tif neuroglancer -p 33333 -v 30 6 6")  # fmt: skip
@names_in("chunks", "-c", "--chunk-names", "-i", "--inputs", default=None, show_default="chunk, else all",
          help="Chunks to show, separated by commas; or image[color=red opacity=0.5].")  # fmt: skip
@option("-p", "--port", type=click.IntRange(0, 65535), default=0, help="Port to serve at; 0 is any free one.")
@triple("-v", "--voxel-size", type=float, default=None, help="Voxel size, nm; default: that of the chunks.")
@bind_option
@picture_options
@option("--layout", type=click.Choice(LAYOUTS), default=None, show_default="4panel, of a picture xy",
        help="Panels; those with 3d show the largest segments of a picture as meshes.")  # fmt: skip
def neuroglancer(
    chunks: dict[str, Chunk] | None = None,
    *,
    state: State,
    port: int = 0,
    voxel_size: tuple[float, float, float] | None = None,
    bind: str = "127.0.0.1",
    screenshot: str | None = None,
    size: tuple[int, int] = (1200, 900),
    layout: str | None = None,
) -> None:
    """Show chunks in neuroglancer: prints its address, serves until Ctrl+C.

    Images are grey, affinities red (x), green (y) and blue (z), labels coloured segments. Later
    tasks add layers. With --screenshot a headless browser takes a picture, nothing is served and
    the chain goes on.
    """
    from segflow.view.names import shown

    named = shown(chunks, state)
    if screenshot:
        from segflow.view.screenshot import shoot

        take_picture(
            screenshot, state, named,
            lambda: shoot(named, voxel_size=voxel_size, layout=layout or "xy", size=size),
        )  # fmt: skip
        return
    from segflow.view.scene import Neuroglancer
    from segflow.view.server import Serving

    serving = Serving.of(state.run.memory)
    known = "neuroglancer" in serving.viewers
    viewer = serving.viewer("neuroglancer", lambda: Neuroglancer(bind, port))
    viewer.add(named, voxel_size=voxel_size, layout=layout or "4panel")
    if not known:
        say(serving, viewer.url, viewer.port)
