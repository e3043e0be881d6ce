"""The errors that are meant for people: one line that says what, where and what to do."""

from __future__ import annotations


class SegflowError(Exception):
    """A failure whose message a user can act on; ends a run with exit code 1."""

    exit_code = 1

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UsageError(SegflowError, ValueError):
    """A wrong option, name or combination, known before any work; exit code 2."""

    exit_code = 2


class ChunkError(SegflowError, ValueError):
    """An array of the wrong shape, dtype or content."""


class BoxError(SegflowError, ValueError):
    """A bounding box that cannot be parsed, is empty, or lies outside."""


class MissingChunk(SegflowError, KeyError):
    """A chunk name that the state does not hold."""


class VolumeError(SegflowError, OSError):
    """A file or volume that is missing, broken, or cannot be read or written."""


class ModelError(SegflowError):
    """A network or its weights that cannot be loaded or do not fit."""


class QueueError(SegflowError):
    """A queue of tasks that is missing, does not answer, or holds something else."""


class LeaseLost(QueueError):
    """A task's lease ran out, and another worker may have the task."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: a worker gives its tasks back and ends well, all else is interrupted."""


class Interrupted(SegflowError):
    """The run was ended by a signal; exit code 130."""

    exit_code = 130


def did_you_mean(word: str, known: list[str]) -> str:
    """Give `` (did you mean 'x'?)`` for the nearest of ``known``, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
