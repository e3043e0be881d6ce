"""What is known of a chain before it runs: the chunks at each step, the files it will make."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.geometry import Box


@dataclass(frozen=True)
class Spec:
    """What is known of a chunk: its shape, dtype and place; None is unknown."""

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    voxel_offset: tuple[int, int, int] | None = (0, 0, 0)
    voxel_size: tuple[float, ...] | None = None
    layer_type: str | None = None

    def change(self, **fields: Any) -> Spec:
        """Give a copy with other fields."""
        return replace(self, **fields)

    @property
    def bytes(self) -> int | None:
        """Its size in memory."""
        import math

        widths = {"float64": 8, "float32": 4, "float16": 2, "bool": 1}
        if self.shape is None or self.dtype is None:
            return None
        width = widths.get(self.dtype) or int("".join(c for c in self.dtype if c.isdigit()) or 8) // 8
        return math.prod(self.shape) * width

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) if self.shape else "?"
        return f"{shape} {self.dtype or '?'}"


UNKNOWN = Spec(voxel_offset=None)


@dataclass
class Plan:
    """The state of the check while it walks along the chain.

    ``chunks`` maps the names that exist to Specs, ``files`` holds paths that earlier steps will
    have made, ``bbox`` is the task's box if known, ``tasks`` that there may be several states,
    ``groups`` what there was before each split whose blocks are not joined yet, ``jump`` the step to
    which the operator that sets it may skip, ``notes`` lines that ``--dry-run`` prints at last.
    A ``plan(plan, options)`` beside an operator reads ``options`` (as its function gets them,
    with names where the function gets chunks), raises UsageError for what cannot work, calls
    ``makes`` for files it writes, and returns the Spec of its output, a tuple for several
    outputs, () when it writes none, or None where that is unknown.
    """

    chunks: dict[str, Spec] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    bbox: Box | None = None
    mip: int = 0
    tasks: bool = False
    lease: bool = False
    groups: list[tuple[dict[str, Spec], Box | None, bool]] = field(default_factory=list)
    jump: str | None = None
    notes: list[str] = field(default_factory=list)

    def spec(self, name: str | None) -> Spec:
        """Give what is known of the chunk ``name``."""
        return self.chunks.get(name or "", UNKNOWN)

    def makes(self, path: str) -> None:
        """Note that this step writes ``path``; refuse a plain file name for several tasks."""
        self.files.add(file_key(path))

    def made(self, path: str) -> bool:
        """Whether an earlier step will have written ``path`` (or something in that folder)."""
        key = file_key(path)
        return any(key == f or f.startswith(key + "/") or key.startswith(f + "/") for f in self.files)


def file_key(path: str) -> str:
    """Give one spelling for a local path or a volume's address."""
    if path.startswith("file://"):
        path = path[len("file://") :]
    if "://" in path:
        return path.rstrip("/")
    return str(Path(path).expanduser().absolute())


def check_file(plan: Plan, path: str) -> bool:
    """Raise UsageError unless ``path`` exists or will; give whether it can be opened now."""
    if plan.made(path) or "{bbox}" in path:
        return False
    place = Path(path).expanduser()
    if not place.exists():
        from segflow.errors import did_you_mean

        folder = place.parent
        near = did_you_mean(place.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else ""
        what = "" if folder.is_dir() else f", nor does its folder {folder}"
        raise UsageError(f"{path} does not exist{what}{near}; give an existing file to --file-name")
    return True
