"""The blocks of split as merge-blocks meets them: gathered until their parent goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from segflow.errors import SegflowError
from segflow.state import Group, Record, State

if TYPE_CHECKING:
    from segflow.chunk import Chunk

Turn = Callable[[State], AbstractContextManager[bool]]


class Gatherer(Protocol):
    """What takes the blocks of a group."""

    def add(self, index: int, chunk: Chunk) -> None:
        """Take a block."""
        ...

    def skip(self, index: int) -> None:
        """Note that a block was passed over."""
        ...


class Open:
    """A group whose blocks are coming."""

    def __init__(self, group: Group, gatherer: Gatherer) -> None:
        self.group, self.gatherer = group, gatherer
        self.error: BaseException | None = None
        self.came = self.skipped = 0
        self.reason = ""
        self.seconds: dict[tuple[int, str, str], float] = {}

    def take(self, state: State, name: str | None, turn: Turn) -> None:
        """Take a block's chunk ``name`` (None: that it came is enough), or note that it has none."""
        index = state.block.index if state.block is not None else 0
        self.came += 1
        if state.skipped is not None and state.error is None:
            self.skipped, self.reason = self.skipped + 1, state.skipped
            self.gatherer.skip(index)
        with turn(state) as mine:
            if mine and name is not None:
                self.gatherer.add(index, state[name])
        self.error = self.error or state.error
        for record in state.log[self.group.records :]:
            key = (record.step, record.name, record.operator)
            self.seconds[key] = self.seconds.get(key, 0.0) + record.seconds

    def close(self, parent: State) -> None:
        """Leave to the parent the time that its blocks took, their error, or that all were skipped."""
        parent.log += [Record(*key, seconds) for key, seconds in self.seconds.items()]
        if parent.error is None and self.error is not None:
            parent.error = self.error
        elif self.came and self.skipped == self.came:
            parent.skip(f"all {self.came} blocks were skipped: {self.reason}")


def joined_groups(
    states: Iterator[State],
    level: int,
    turn: Turn,
    gather: Callable[[Group], Gatherer],
    join: Callable[[State, Any], None],
    name: str | None = "chunk",
) -> Iterator[State]:
    """Gather the blocks of each group of ``level``; give their parents, joined, and all other states.

    Args:
        states: the stream.
        level: how deep in splits the groups are.
        turn: the engine's watch over what is done with a state.
        gather: gives what takes the blocks of a group.
        join: puts what was gathered into the parent, or on the disk.
        name: the chunk of a block.
    """
    now: Open | None = None
    for state in states:
        block = state.block
        if (state.ends is not None and state.ends.level == level) or (now and state is now.group.parent):
            group, state.ends = state.ends or (now.group if now else None), None
            if now is None and group is not None:
                now = Open(group, gather(group))
            if now is not None:
                now.close(state)
                with turn(state) as mine:
                    if mine:
                        join(state, now.gatherer)
            now = None
            yield state
        elif state.ends is None and block is not None and block.group.level == level:
            if now is None or now.group is not block.group:
                now = Open(block.group, gather(block.group))
            now.take(state, name, turn)
        else:
            yield state
        del state


def no_group() -> SegflowError:
    """Give the error of a merge-blocks that has no blocks."""
    from segflow.errors import UsageError

    return UsageError("there are no blocks to join: put split before it, or name a folder with --input-dir")
