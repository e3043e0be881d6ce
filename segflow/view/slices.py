"""Sections of chunks as pictures, and the page that leafs through them."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError, SegflowError
from segflow.view.colours import borders, label_colours, value_range
from segflow.view.section import png, section_picture
from segflow.view.server import host_of, port_message

PNG = "image/png"


class Pages:
    """The answers of the page: its text, its sections as PNG, the values under the pointer.

    Raises:
        ChunkError: the two chunks do not have the same size, or labels are no integers.
    """

    def __init__(self, image: Chunk, segmentation: Chunk | None = None) -> None:
        if image.is_segmentation and segmentation is None:
            segmentation = image
        if segmentation is not None and segmentation.dtype.kind not in "bui":
            raise ChunkError(f"the segmentation is of {segmentation.dtype}; labels are integers")
        if segmentation is not None and segmentation.shape[-3:] != image.shape[-3:]:
            raise ChunkError(
                f"the image of {image.shape[-3:]} voxels and the segmentation of "
                f"{segmentation.shape[-3:]} voxels do not have the same size"
            )
        if image.bbox.empty:
            raise ChunkError(f"a chunk of shape {image.shape} holds no voxel to show")
        self.image, self.segmentation = image, segmentation
        self.limits = value_range(image.array)
        self._section = lru_cache(64)(self._encode)

    def info(self) -> dict[str, Any]:
        """Give what the page needs to know."""
        return {
            "shape": self.image.shape[-3:],
            "offset": self.image.voxel_offset,
            "voxel_size": self.image.voxel_size,
            "dtype": str(self.image.dtype),
            "labels": self.segmentation is not None,
            "both": self.segmentation is not self.image,
        }

    def _encode(self, kind: str, z: int) -> bytes:
        if kind == "image":
            if self.image is self.segmentation:
                return png(np.zeros(self.image.shape[-2:], np.uint8))
            return png(section_picture(self.image, z, self.limits))
        labels = self._labels(z)
        alpha = np.where(borders(labels), 255, 200) * (labels != 0)
        return png(np.dstack([label_colours(labels), alpha.astype(np.uint8)]))

    def _labels(self, z: int) -> NDArray[Any]:
        if self.segmentation is None:
            raise KeyError("labels")
        array = self.segmentation.array
        return array[0, z] if array.ndim == 4 else array[z]

    def value(self, z: int, y: int, x: int) -> dict[str, Any]:
        """Give the values at a voxel, an index into the chunk."""
        found: dict[str, Any] = {"value": np.atleast_1d(self.image.array[..., z, y, x]).tolist()}
        if self.segmentation is not None:
            found["label"] = str(self._labels(z)[y, x])
        return found

    def answer(self, path: str) -> tuple[bytes, str]:
        """Give body and type for an address; raise KeyError, IndexError or ValueError for an unknown one."""
        address = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(address.query).items()}
        if address.path == "/":
            page = files("segflow.view").joinpath("page.html").read_text()
            return page.replace("/*INFO*/null", json.dumps(self.info())).encode(), "text/html; charset=utf-8"
        depth, height, width = self.image.shape[-3:]
        z = _index(query["z"], depth)
        if address.path == "/at":
            found = self.value(z, _index(query["y"], height), _index(query["x"], width))
            return json.dumps(found).encode(), "application/json"
        kind = {"/image.png": "image", "/labels.png": "labels"}[address.path]
        return self._section(kind, z), PNG


def _index(text: str, length: int) -> int:
    value = int(text)
    if not 0 <= value < length:
        raise IndexError(value)
    return value


class PageServer:
    """A page that leafs through the sections of an image with a segmentation over it.

    ``port`` None is 8080, or any free one where that is taken. A later chunk takes the place of
    the one before.

    Raises:
        SegflowError: the port is taken.
        ChunkError: image and segmentation do not have the same size.
    """

    DEFAULT = 8080

    def __init__(
        self,
        image: Chunk,
        segmentation: Chunk | None = None,
        *,
        bind: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self.pages = Pages(image, segmentation)
        try:
            self.server = self._listen(bind, self.DEFAULT if port is None else port)
        except (OSError, OverflowError) as error:
            if port is not None:
                raise SegflowError(port_message(bind, port, error)) from error
            self.server = self._listen(bind, 0)
        self.port: int = self.server.server_address[1]
        self.url = f"http://{host_of(bind)}:{self.port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def show(self, image: Chunk, segmentation: Chunk | None = None) -> None:
        """Show other chunks from now on."""
        self.pages = Pages(image, segmentation)

    def _listen(self, bind: str, port: int) -> http.server.ThreadingHTTPServer:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    body, kind = owner.pages.answer(self.path)
                except (KeyError, IndexError, ValueError):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                """Say nothing."""

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in bind else socket.AF_INET
            daemon_threads = True

            def handle_error(self, *words: Any) -> None:
                """Say nothing of a browser that went away."""

        return Server((bind, port), Handler)

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
