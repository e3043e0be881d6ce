"""Operators that the tests of the chain add to it, as another package would."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from segflow.chunk import Chunk
from segflow.cli.operator import name_in, name_out, names_in, operator, option
from segflow.errors import ChunkError
from segflow.state import State

events: list[Any] = []


@operator("Sources", kind="expand", source=True, uses="io", example="segflow numbers -n 3")
@option("-n", "--count", type=int, default=3, help="How many states.")
@name_out(default="value")
def numbers(state: State, *, count: int = 3, output: str = "value") -> Iterator[State]:
    """Give several states, each with a chunk full of its number."""
    for index in range(count):
        events.append(("made", index))
        child = state.child(index=index)
        child[output] = Chunk(np.full((1, 1, 1), index, np.int64))
        yield child


@operator("Image")
@name_in(default="value")
@name_out(default="value")
@option("--by", type=int, default=1, help="What is added.")
def add(chunk: Chunk, *, by: int = 1) -> Chunk:
    """Add a number."""
    return chunk.with_array(chunk.array + by)


@operator("Image")
@name_in(default="value")
@option("--at", type=int, default=1, help="The value that fails.")
def fail_at(chunk: Chunk, *, at: int = 1) -> None:
    """Fail on one value."""
    if chunk.array[0, 0, 0] == at:
        raise ChunkError(f"the value is {at}")


@operator("Image")
@name_in(default="value")
def crash(chunk: Chunk) -> None:
    """Have a mistake."""
    raise KeyError("mistake")


@operator("State")
@name_in(default="value")
@option("--at", type=int, default=1, help="The value that is skipped.")
@option("--to", default=None, help="The step to go on at.")
def skip_at(state: State, chunk: Chunk, *, at: int = 1, to: str | None = None) -> None:
    """Skip one value."""
    if chunk.array[0, 0, 0] == at:
        state.skip("it is the one", to=to)


def _finish(run: Any, **options: Any) -> None:
    events.append(("finished", options["note"]))


@operator("State", uses="gpu", finish=_finish)
@names_in(default="value")
@option("--note", default="", help="Stored with it.")
def record(state: State, chunks: dict[str, Chunk], *, note: str = "") -> None:
    """Remember the values that pass."""
    time.sleep(0.001)
    values = [int(c.array[0, 0, 0]) for c in chunks.values()]
    events.append((note, *values, state.resumed))


@operator("State", always=True)
def close(state: State) -> None:
    """Remember every state that ends, skipped ones too."""
    events.append(("closed", state.index, state.skipped))


@operator("State", kind="stream")
@option("--into", default="total", help="Chunk to write.")
def total(states: Iterator[State], *, into: str = "total") -> Iterator[State]:
    """Add up what all states hold and go on with one."""
    last, value = None, 0
    for state in states:
        value += int(state["value"].array[0, 0, 0])
        last = state
    if last is not None:
        last[into] = Chunk(np.full((1, 1, 1), value, np.int64))
        yield last


ALL = (numbers, add, fail_at, crash, skip_at, record, close, total)
