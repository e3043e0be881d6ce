"""skip-none: pass over tasks that lack a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segflow.cli.operator import operator, option

if TYPE_CHECKING:
    from segflow.state import State


@operator("State", example="segflow fetch-task -q tasks plugin -f find.py skip-none -i found write-h5 "
          "-i found -f found/ delete-task-in-queue")  # fmt: skip
@option("-i", "--input-name", "name", metavar="NAME", default="chunk",
        aliases=("--input", "--input-chunk-name"), help="Chunk that has to be there.")  # fmt: skip
@option("--touch/--no-touch", default=True,
        help="With --prefix, leave an empty file for a task that is passed over.")  # fmt: skip
@option("--prefix", aliases=("-p",), default=None, metavar="PREFIX", show_default=False,
        help="That file is PREFIX<box>SUFFIX: a path, file://, s3:// or gs://.")  # fmt: skip
@option("--suffix", aliases=("-s",), default="", help="End of that file's name.")
def skip_none(
    state: State, *, name: str = "chunk", touch: bool = True, prefix: str | None = None, suffix: str = ""
) -> None:
    """Pass over the task, up to the end of the chain, when a step before gave no chunk of this name.

    A plugin gives none by returning [None].
    """
    if state.get(name) is not None:
        return
    if touch and prefix is not None:
        from segflow.tasks import marks

        marks.touch(marks.mark(prefix, state.bbox, suffix))
    state.skip(f"no chunk '{name}'")
