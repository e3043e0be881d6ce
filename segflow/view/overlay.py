"""One picture of an image, its affinities and its segmentation, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError
from segflow.geometry import Box
from segflow.view.colours import value_range
from segflow.view.section import blend, section_picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

PAPER, INK, FAINT = (16, 16, 20), (236, 236, 240), (150, 150, 162)
GAP, EDGE, HEAD = 10, 20, 46  # pixels: between tiles, around them, above them
TILE = 512  # pixels: the longer side of a tile
SCALE_BARS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)  # nm


def sections_of(box: Box, wanted: Sequence[int] | int = 3) -> list[int]:
    """Give the z of the sections to show: the ones named, or so many, evenly spread.

    Raises:
        BoxError: a section is not in the box.

    >>> sections_of(Box((80, 0, 0), (100, 8, 8)))
    [83, 90, 96]
    """
    if isinstance(wanted, int):
        depth = box.shape[0]
        count = min(max(wanted, 1), depth)
        return [box.start[0] + int((2 * i + 1) * depth / (2 * count)) for i in range(count)]
    outside = [z for z in wanted if not box.start[0] <= z < box.stop[0]]
    if outside:
        raise BoxError(f"section {outside[0]} is outside; there are {box.start[0]} to {box.stop[0] - 1}")
    return list(wanted)


def shared_box(chunks: Sequence[Chunk]) -> Box:
    """Give the box that all ``chunks`` fill.

    Raises:
        ChunkError: there is none.
    """
    box = chunks[0].bbox
    for chunk in chunks[1:]:
        box = box.intersect(chunk.bbox)
    if box.empty:
        places = ", ".join(str(chunk.bbox) for chunk in chunks)
        raise ChunkError(f"the chunks have no voxel in common: {places}")
    return box


def overlay(
    image: Chunk,
    affinities: Chunk | None = None,
    segmentation: Chunk | None = None,
    groundtruth: Chunk | None = None,
    *,
    sections: Sequence[int] | int = 3,
    tile: int = TILE,
    dust_threshold: int = 0,
) -> Image:
    """Draw a sheet: a row for each section; image, affinities, segments over the image, ground truth.

    Args:
        image: zyx, any dtype.
        affinities: czyx; x, y, z become red, green, blue.
        segmentation: zyx labels; 0 stays clear, lines between segments.
        groundtruth: zyx labels, drawn like the segmentation.
        sections: z of the sections, or how many, evenly spread.
        tile: longer side of one section in the picture, pixels.
        dust_threshold: labels with fewer voxels stay clear.

    Returns:
        A Pillow image; ``.save("sheet.png")`` writes it.

    Raises:
        ChunkError: the chunks have no voxel in common, or labels are not integers.
        BoxError: a section is outside.
    """
    from PIL import Image, ImageDraw

    given = [c for c in (image, affinities, segmentation, groundtruth) if c is not None]
    box = shared_box(given)
    rows = sections_of(box, sections)
    segmentation = segmentation and without_dust(segmentation, dust_threshold)
    groundtruth = groundtruth and without_dust(groundtruth, dust_threshold)
    columns = _columns(image, affinities, segmentation, groundtruth, box)
    _, high, wide = box.shape
    zoom = tile / max(high, wide)
    width, height = max(1, round(wide * zoom)), max(1, round(high * zoom))
    sheet = Image.new(
        "RGB",
        (2 * EDGE + len(columns) * (width + GAP) - GAP, HEAD + EDGE + len(rows) * (height + GAP) - GAP),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    sharp = Image.Resampling.LANCZOS if zoom < 1 else Image.Resampling.NEAREST
    for column, (title, paint) in enumerate(columns):
        left = EDGE + column * (width + GAP)
        draw.text((left, HEAD / 2), title, INK, font=_font(20), anchor="lm")
        for row, z in enumerate(rows):
            top = HEAD + row * (height + GAP)
            picture = Image.fromarray(paint(z - box.start[0]))
            sheet.paste(picture.resize((width, height), sharp), (left, top))
            if column == 0:
                _label(draw, (left, top), f"z {z}")
    if image.voxel_size:
        _scale_bar(draw, EDGE, HEAD + len(rows) * (height + GAP) - GAP, image.voxel_size[2] / zoom, width)
    return sheet


def without_dust(labels: Chunk, threshold: int) -> Chunk:
    """Set labels with fewer than ``threshold`` voxels to 0.

    >>> without_dust(Chunk(np.array([[[1, 2, 2]]])), 2).array.tolist()
    [[[0, 2, 2]]]
    """
    if threshold < 2:
        return labels
    _, places, counts = np.unique(labels.array, return_inverse=True, return_counts=True)
    small = (counts < threshold)[places].reshape(labels.shape)
    return labels.with_array(np.where(small, labels.dtype.type(0), labels.array))


def _columns(
    image: Chunk, affinities: Chunk | None, segmentation: Chunk | None, groundtruth: Chunk | None, box: Box
) -> list[tuple[str, _Paint]]:
    grey = _Paint(image.cutout(box), value_range(image.array))
    columns = [("image", grey)]
    if affinities is not None:
        columns.append(("affinities", _Paint(affinities.cutout(box), value_range(affinities.array))))
    for title, chunk in (("segmentation", segmentation), ("ground truth", groundtruth)):
        if chunk is not None:
            if chunk.dtype.kind not in "bui":
                raise ChunkError(f"the {title} is of {chunk.dtype}; labels are integers")
            columns.append((title, _Paint(grey.chunk, grey.limits, chunk.cutout(box))))
    return columns


class _Paint:
    """Sections of a chunk as RGB, with labels over them if there are some."""

    def __init__(self, chunk: Chunk, limits: tuple[float, float], labels: Chunk | None = None) -> None:
        self.chunk, self.limits, self.labels = chunk, limits, labels

    def __call__(self, z: int) -> NDArray[np.uint8]:
        picture = section_picture(self.chunk, z, self.limits)
        if self.labels is None:
            return picture
        array = self.labels.array
        return blend(picture, array[0, z] if array.ndim == 4 else array[z])


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL.ImageFont import load_default

    return load_default(size)


def _label(draw: ImageDraw, corner: tuple[int, int], text: str) -> None:
    """Write on a dark plate in a tile's upper left corner."""
    font = _font(15)
    place = (corner[0] + 9, corner[1] + 7)
    left, top, right, bottom = draw.textbbox(place, text, font=font)
    draw.rounded_rectangle((left - 5, top - 4, right + 5, bottom + 4), 4, fill=PAPER)
    draw.text(place, text, INK, font=font)


def _scale_bar(draw: ImageDraw, left: int, bottom: int, nm_per_pixel: float, width: int) -> None:
    """Draw a bar of a round length, about a fifth of a tile, in the lower left corner."""
    length = max((s for s in SCALE_BARS if s / nm_per_pixel <= width * 0.3), default=0)
    if not length:
        return
    pixels = round(length / nm_per_pixel)
    text = f"{length / 1000:g} µm" if length >= 1000 else f"{length} nm"
    draw.rounded_rectangle((left + 8, bottom - 40, left + pixels + 24, bottom - 8), 4, fill=PAPER)
    draw.rectangle((left + 16, bottom - 17, left + 16 + pixels, bottom - 13), fill=INK)
    draw.text((left + 16 + pixels / 2, bottom - 29), text, INK, font=_font(14), anchor="mm")
