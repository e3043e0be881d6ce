"""The chain: commands found by file name, checked before they run, streamed one state at a time."""

from __future__ import annotations

from typing import Any


def run_chain(*tokens: str, **chunks: Any) -> Any:
    """Run a chain from Python and give the last state.

    Args:
        tokens: the words of a shell line after ``segflow``.
        chunks: named Chunks that the chain starts with.

    >>> state = run_chain("create-chunk", "--size", "4", "8", "8", "--pattern", "zero", "-o", "image")
    >>> state["image"].shape
    (4, 8, 8)
    """
    from segflow.cli.main import chain_from_tokens

    states = list(chain_from_tokens(list(tokens), known=tuple(chunks)).states(chunks))
    return states[-1] if states else None
