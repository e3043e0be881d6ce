"""A sheet that shows each augmentation before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segflow.training.augment import Augmenter
from segflow.view.colours import borders, grey, label_colours

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from segflow.training.augment import Sample

PAPER, INK, UNKNOWN = (16, 16, 20), (236, 236, 240), (110, 0, 70)
GAP, EDGE, HEAD, LINE = 10, 20, 76, 26  # pixels: between tiles, around, above all, above each row
THIN = 6  # pixels of a section in a side view, at least
Read = Callable[[tuple[int, int, int]], "Sample"]


def sheet(
    read: Read,
    size: Sequence[int],
    settings: Mapping[str, Mapping[str, Any] | None],
    *,
    seed: int = 0,
    tile: int = 256,
    aspect: float = 1.0,
    together: int = 3,
    title: str = "",
) -> Image:
    """Draw a row for each augmentation, alone and with p 1, then rows of all together as configured.

    A row has one section before and after (the one that changed most), and a cut along z and x
    through the middle; labels are outlined, unknown voxels are purple.

    Args:
        read: gives image, labels and mask of a size (zyx) around one and the same centre: the sample
            lies in it from (that size - ``size``) // 2 on.
        size: zyx of the samples, voxels.
        settings: as of Augmenter.
        seed: of the first rows; the rows of all together have ``seed``, ``seed`` + 1, and so on.
        tile: width of a section in the picture, pixels.
        aspect: thickness of a section in pixels of a section.
        together: number of rows of all together.
        title: written above.

    Returns:
        A Pillow image.

    Raises:
        UsageError: settings that cannot be.
    """
    whole = Augmenter(settings, size)
    rows = [(_words(name, own), Augmenter({name: {**own, "p": 1.0}}, size), seed)
            for name, own in whole.settings.items()]  # fmt: skip
    rows += [("all together, as configured", whole, seed + n) for n in range(together)]
    return _Drawing(tile, size, aspect).draw(
        title,
        [(f"{words}   seed {number}", *_pair(augmenter, read, number)) for words, augmenter, number in rows],
    )


def _words(name: str, settings: Mapping[str, Any]) -> str:
    return f"{name}: " + ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items()
    )


def _pair(augmenter: Augmenter, read: Read, seed: int) -> tuple[Sample, Sample]:
    """Give the middle of a crop as it is, and the crop augmented."""
    crop = read(augmenter.enlarged)
    middle = tuple(
        slice((e - s) // 2, (e - s) // 2 + s) for e, s in zip(augmenter.enlarged, augmenter.size, strict=True)
    )
    before = (crop[0][middle], crop[1][middle], crop[2][middle])
    return before, augmenter(*crop, np.random.default_rng(seed))


def _paint(sample: Sample, place: tuple[Any, ...], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Give a plane of a sample as RGB of ``shape`` (width, height), objects outlined in their colours."""
    image, labels, known = (array[place] for array in sample)
    at = np.ix_(*(np.arange(n) * size // n for n, size in zip(shape[::-1], image.shape, strict=True)))
    image, labels, known = image[at], labels[at], known[at]
    picture = np.repeat(grey(image, 0, 1)[..., None], 3, axis=2)
    edge = borders(labels)
    picture[edge] = np.where((labels[edge] == 0)[:, None], np.uint8(200), label_colours(labels[edge]))
    picture[~known] = UNKNOWN
    return picture


class _Drawing:
    """Sizes of the tiles, and the rows of them."""

    def __init__(self, tile: int, size: Sequence[int], aspect: float) -> None:
        zoom = tile / max(size[1:])
        self.front = (max(1, round(size[2] * zoom)), max(1, round(size[1] * zoom)))
        thick = min(max(aspect * zoom, THIN), max(self.front[1] / size[0], 1))
        self.side = (self.front[0], max(1, round(size[0] * thick)))
        self.high = LINE + max(self.front[1], self.side[1]) + GAP

    def draw(self, title: str, rows: Sequence[tuple[str, Sample, Sample]]) -> Image:
        from PIL import Image, ImageDraw
        from PIL.ImageFont import load_default

        step = self.front[0] + GAP
        picture = Image.new(
            "RGB", (max(2 * EDGE + 4 * step, 640), HEAD + len(rows) * self.high + EDGE), PAPER
        )
        draw = ImageDraw.Draw(picture)
        draw.text((EDGE, EDGE), title, INK, font=load_default(15))
        names = ("before", "after", "before, along z and x", "after, along z and x")
        for column, name in enumerate(names):
            draw.text((EDGE + column * step, HEAD - 26), name, INK, font=load_default(15))
        for number, (words, before, after) in enumerate(rows):
            self._row(picture, draw, HEAD + number * self.high, words, before, after)
        return picture

    def _row(
        self, picture: Image, draw: ImageDraw, top: int, words: str, before: Sample, after: Sample
    ) -> None:
        from PIL import Image
        from PIL.ImageFont import load_default

        draw.text((EDGE, top + 4), words, INK, font=load_default(13))
        z = int(np.abs(after[0] - before[0]).mean(axis=(1, 2)).argmax())
        y = before[0].shape[1] // 2
        parts = [
            (sample, place, shape)
            for place, shape in (((z,), self.front), ((slice(None), y), self.side))
            for sample in (before, after)
        ]
        for column, (sample, place, shape) in enumerate(parts):
            tile = Image.fromarray(_paint(sample, place, shape))
            picture.paste(tile, (EDGE + column * (self.front[0] + GAP), top + LINE))
        draw.text(
            (EDGE + 4, top + LINE + 2),
            f"z {z}",
            INK,
            font=load_default(12),
            stroke_width=2,
            stroke_fill=PAPER,
        )
