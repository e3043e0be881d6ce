"""What is written on the command line of viewers: names with options, lists of sections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segflow.errors import ChunkError, MissingChunk, UsageError, did_you_mean

if TYPE_CHECKING:
    from segflow.chunk import Chunk

OPTIONS = ("color", "type", "opacity")
KINDS = ("image", "segmentation")


@dataclass(frozen=True)
class Named:
    """A chunk's name with the options in its brackets: ``image[color=red opacity=0.4]``."""

    name: str
    color: str | None = None
    type: str | None = None
    opacity: float | None = None

    @classmethod
    def parse(cls, text: str) -> Named:
        """Read a name with options.

        Raises:
            UsageError: the brackets or an option in them cannot be understood.

        >>> Named.parse("image[color=red opacity=0.4]")
        Named(name='image', color='red', type=None, opacity=0.4)
        """
        found = re.fullmatch(r"\s*([^\[\]]+?)\s*(?:\[([^\[\]]*)\])?\s*", text)
        if not found:
            raise UsageError(f"'{text}' is no chunk name; write NAME or NAME[color=red opacity=0.4]")
        values: dict[str, Any] = {}
        for word in re.split(r"[\s;]+", (found[2] or "").strip()):
            key, equals, value = word.partition("=")
            if not word:
                continue
            if key not in OPTIONS or not equals or not value:
                near = did_you_mean(key, list(OPTIONS))
                raise UsageError(f"no such layer option '{word}'{near}; there are {', '.join(OPTIONS)}")
            values[key] = value
        if values.get("type", "image") not in KINDS:
            raise UsageError(f"layer type '{values['type']}' is none of {', '.join(KINDS)}")
        try:
            values |= {"opacity": float(values["opacity"])} if "opacity" in values else {}
        except ValueError:
            raise UsageError(f"opacity '{values['opacity']}' is no number from 0 to 1") from None
        return cls(found[1], **values)


def split(text: str) -> list[str]:
    """Give the names in a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def shown(named: Mapping[str, Any] | None, held: Mapping[str, Any]) -> dict[str, Chunk]:
    """Give the chunks to show: those ``named``, else ``chunk`` of those ``held``, else all of them.

    Raises:
        MissingChunk: there is none.
        ChunkError: one of those named is no chunk.
    """
    from segflow.chunk import Chunk

    for name, value in (named or {}).items():
        if not isinstance(value, Chunk):
            raise ChunkError(f"'{name}' is no chunk but a {type(value).__name__}; it cannot be shown")
    chunks = named or {key: value for key, value in held.items() if isinstance(value, Chunk)}
    if not chunks:
        raise MissingChunk("the state holds no chunk to show")
    return {"chunk": chunks["chunk"]} if not named and "chunk" in chunks else dict(chunks)


def parse_sections(text: str | None) -> Sequence[int] | int:
    """Read ``83,90,96`` (z of sections) or ``3x`` (how many); None is three.

    Raises:
        UsageError: it is neither.

    >>> parse_sections("83,90"), parse_sections("5x"), parse_sections(None)
    ([83, 90], 5, 3)
    """
    try:
        if text is None:
            return 3
        if text.endswith("x"):
            return int(text[:-1])
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--sections '{text}' is neither a list as 83,90,96 nor a number as 5x") from None
