"""The state that flows through a chain: named chunks, and what is known of their task."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segflow.errors import MissingChunk, did_you_mean
from segflow.secrets import hide

if TYPE_CHECKING:
    from segflow.geometry import Box


@dataclass
class Record:
    """One step's work on one state."""

    step: int
    name: str
    operator: str
    seconds: float


@dataclass
class Run:
    """What all states of one run share.

    ``chain`` is the line in canonical words; ``facts`` is stored with it in every file written
    (weights' hashes, say). ``written`` maps what was written to the line that views it.
    """

    mip: int = 0
    verbosity: int = 0
    debug: bool = False
    log_dir: str | None = None
    chain: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)
    device: str | None = None
    failed: int = 0
    passed: int = 0  # tasks that came to the end as skipped
    has_lease: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    meter: Any = None  # segflow.tasks.usage.Meter, while the chain runs
    prefetch: int = 0
    stop: threading.Event = field(default_factory=threading.Event)  # set: sources shall give no more
    hung: Any = None  # called when a task takes too long; it ends the process
    keepers: list[Any] = field(default_factory=list)  # of the tasks that this run holds (tasks.lease.Keeper)

    def wrote(self, path: str, voxels: int = 0, view: str = "") -> None:
        """Note for the closing lines that ``path`` was written, and how to look at it."""
        self.written[path] = view
        self.voxels[path] = self.voxels.get(path, 0) + voxels

    def provenance(self) -> dict[str, Any]:
        """Give how this run's files are made: version, chain, facts; no times, no hosts."""
        from segflow import __version__

        return {"segflow": __version__, "chain": [hide(word) for word in self.chain], **self.facts}


@dataclass(eq=False)
class Group:
    """The blocks that one ``split`` made of ``parent``, which goes on when they are joined.

    ``level`` is 1 for a split, 2 for a split of its blocks; ``cut`` is the grid of the blocks
    (segflow.blocks.cut.Blocks); ``records`` is how many of the parent's each block's log begins with.
    """

    parent: State
    cut: Any = None
    level: int = 1
    records: int = 0

    def __post_init__(self) -> None:
        around = self.parent.block
        self.level = 1 if around is None else around.group.level + 1
        self.records = len(self.parent.log)


@dataclass(frozen=True)
class Block:
    """That a state is block ``index`` of a group; its children are so too."""

    group: Group
    index: int


class State(dict[str, Any]):
    """Chunks by name; everything else about the task is an attribute.

    >>> state = State(image=1)
    >>> state.child(bbox=None)["image"]
    1
    """

    def __init__(self, *args: Any, run: Run | None = None, **chunks: Any) -> None:
        super().__init__(*args, **chunks)
        self.run = run or Run()
        self.mip = self.run.mip
        self.bbox: Box | None = None
        self.index = 0
        self.count: int | None = None
        self.parent: State | None = None
        self.log: list[Record] = []
        self.running: Record | None = None  # the step at work; its seconds are when it began
        self.skipped: str | None = None
        self.skip_to: str | None = None
        self.resumed = False
        self.error: BaseException | None = None
        self.lease: Any = None
        self.block: Block | None = None
        # set: no work, but the mark that all blocks of a group, or all states of a task, went by
        self.ends: Any = None

    def __missing__(self, name: str) -> Any:
        held = ", ".join(f"'{k}'" for k in self) or "nothing"
        raise MissingChunk(f"no chunk named '{name}'{did_you_mean(name, list(self))}; the state holds {held}")

    @property
    def label(self) -> str:
        """A name for messages and files: its box, else its number."""
        return str(self.bbox) if self.bbox is not None else str(self.index)

    def skip(self, reason: str, to: str | None = None) -> None:
        """Mark the task as skipped: later steps pass over it (until the step ``to``)."""
        self.skipped = reason
        self.skip_to = to

    def child(self, **attributes: Any) -> State:
        """Give a state that shares these chunks (not the dict) and names this one its parent."""
        state = State(self, run=self.run)
        state.mip, state.bbox, state.parent, state.lease = self.mip, self.bbox, self, self.lease
        state.block = self.block
        state.log = list(self.log)
        for key, value in attributes.items():
            setattr(state, key, value)
        return state
