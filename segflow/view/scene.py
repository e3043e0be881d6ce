"""A neuroglancer that shows chunks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import neuroglancer
import numpy as np

from segflow.chunk import Chunk
from segflow.errors import SegflowError
from segflow.view.layers import as_labels, bounds_nm, layer, resolution
from segflow.view.names import Named
from segflow.view.server import host_of, port_message

log = logging.getLogger("segflow")

_open: set[str] = set()  # tokens of the viewers that share the process's one server

FLAT = ("xy", "yz", "xz")
BACKGROUND = "#101014"
TILT = [0.35, 0.25, 0.0, 0.9]  # of the 3-D panel, a quaternion
MESHES = 24  # segments drawn in a picture's 3-D panel


class Neuroglancer:
    """A neuroglancer that shows chunks; it listens on ``bind`` and ``port`` (0: any free one).

    One process has one server of neuroglancer, so a second viewer shares the first one's port.

    Raises:
        SegflowError: the port is taken.
    """

    def __init__(self, bind: str = "127.0.0.1", port: int = 0) -> None:
        for name in ("tornado.access", "tornado.application", "tornado.general", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            neuroglancer.set_server_bind_address(bind, bind_port=port)
            self.viewer = neuroglancer.Viewer()
        except (OSError, OverflowError) as error:
            raise SegflowError(port_message(bind, port, error)) from error
        _open.add(self.viewer.token)
        self.port: int = neuroglancer.server.global_server.port
        self.url = f"http://{host_of(bind)}:{self.port}/v/{self.viewer.token}/"

    def add(
        self,
        chunks: Mapping[str, Chunk],
        *,
        voxel_size: Sequence[float] | None = None,
        layout: str = "4panel",
        size: tuple[int, int] = (1400, 900),
    ) -> list[str]:
        """Add a layer for each of ``chunks`` and give the layers' names.

        The first call also moves the view to the centre of the chunks, at a scale that shows all of
        them in a window of ``size`` pixels (width, height). A name that is taken gets the chunk's box
        behind it. Names may carry options, ``image[color=red]``.
        """
        names = []
        with self.viewer.txn() as scene:
            first = not scene.layers
            for text, chunk in chunks.items():
                wanted = Named.parse(text)
                name = free_name(wanted.name, str(chunk.bbox), [item.name for item in scene.layers])
                below = any(item.type == "image" for item in scene.layers)
                scene.layers[name] = layer(chunk, voxel_size, wanted, over=below)
                names.append(name)
                if chunk.layer_type is None and wanted.type is None:
                    log.info("'%s' of %s is shown as an image; for labels write '%s[type=segmentation]'",
                             wanted.name, chunk.dtype, wanted.name)  # fmt: skip
            if first and chunks:
                if voxel_size is None and all(c.voxel_size is None for c in chunks.values()):
                    log.info("the voxel size is unknown and shown as 1 1 1 nm; give --voxel-size")
                look_at(scene, chunks, voxel_size, layout, size)
        return names

    def for_picture(self, chunks: Mapping[str, Chunk]) -> None:
        """Leave out of the view what only helps a hand; a 3-D panel shows the largest segments."""
        with self.viewer.txn() as scene:
            scene.show_axis_lines = scene.show_slices = scene.selected_layer.visible = False
            scene.cross_section_background_color = scene.projection_background_color = BACKGROUND
            scene.projection_orientation = TILT
            if scene.layout.type not in FLAT:
                for item, chunk in zip(scene.layers, chunks.values()):
                    if item.type == "segmentation":
                        item.layer.segments = largest(chunk)
                        item.layer.not_selected_alpha = item.layer.selected_alpha
        with self.viewer.config_state.txn() as config:
            config.show_ui_controls = config.show_panel_borders = False

    def close(self) -> None:
        """Stop showing; the last one stops the server."""
        _open.discard(self.viewer.token)
        if not _open:
            neuroglancer.stop()


def look_at(
    scene: Any,
    chunks: Mapping[str, Chunk],
    voxel_size: Sequence[float] | None,
    layout: str,
    size: tuple[int, int],
) -> None:
    """Move the view of a neuroglancer state to the centre of ``chunks``, all of them in sight."""
    finest = np.min([resolution(c, voxel_size) for c in chunks.values()], axis=0)
    start, stop = bounds_nm(chunks, voxel_size)
    scene.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[*finest[::-1]])
    middle = np.floor((start + stop) / 2 / finest) + 0.5
    scene.position = middle[::-1].tolist()
    _, high, wide = (stop - start) / finest.min()
    columns = 2 if "4panel" in layout or layout.endswith("-3d") else 1
    rows = 2 if "4panel" in layout else 1
    scene.cross_section_scale = float(max(wide * columns / size[0], high * rows / size[1])) * 1.02
    scene.projection_scale = float((stop - start).max() / finest.min()) * 1.5
    scene.layout = layout


def largest(chunk: Chunk, count: int = MESHES) -> list[int]:
    """Give the ids of the ``count`` largest segments; 0 is none.

    >>> largest(Chunk(np.array([[[0, 0, 0, 5, 5, 9]]], np.uint32)), 1)
    [5]
    """
    ids, sizes = np.unique(as_labels(chunk.array), return_counts=True)
    sizes[ids == 0] = 0
    return [int(i) for i in ids[np.argsort(-sizes, kind="stable")][:count] if i]


def free_name(name: str, box: str, taken: Sequence[str]) -> str:
    """Give ``name``, or ``name_box`` where that is taken, or ``name_box#2``, and so on.

    >>> free_name("seg", "0-8_0-8_0-8", ["seg"])
    'seg_0-8_0-8_0-8'
    """
    tries = (name, f"{name}_{box}", *(f"{name}_{box}#{n}" for n in range(2, len(taken) + 3)))
    return next(candidate for candidate in tries if candidate not in taken)
