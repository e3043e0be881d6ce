"""Which commands there are: files of segflow.operators, then entry points of other packages."""

from __future__ import annotations

import importlib
import keyword
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from segflow.errors import SegflowError

if TYPE_CHECKING:
    from segflow.cli.operator import ChainCommand

GROUP = "segflow.operators"

# Older spelling -> (command, changed defaults).
ALIASES: dict[str, tuple[str, dict[str, object]]] = {
    **{f"load-{kind}": (f"read-{kind}", {}) for kind in ("tif", "h5", "npy", "zarr", "n5", "precomputed")},
    **{f"save-{kind}": (f"write-{kind}", {}) for kind in ("tif", "h5", "npy", "zarr", "precomputed")},
    "cutout": ("read-precomputed", {}),
    "save": ("write-precomputed", {}),
    "custom-operator": ("plugin", {}),
    "delete-chunk": ("delete-var", {}),
    "fetch-task-from-sqs": ("fetch-task", {}),
    "skip-task": ("skip-task-by-file", {}),
}


@cache
def builtin() -> tuple[str, ...]:
    """Give the names of the commands that come with segflow; ``try_`` is try, a word of Python's own."""
    import segflow.operators

    files = pkgutil.iter_modules(segflow.operators.__path__)
    return tuple(sorted(f.name.rstrip("_").replace("_", "-") for f in files if not f.name.startswith("_")))


@cache
def third_party() -> dict[str, EntryPoint]:
    """Give the entry points of other packages; they cannot take a built-in name."""
    return {
        e.name.replace("_", "-"): e
        for e in entry_points(group=GROUP)
        if e.name.replace("_", "-") not in builtin()
    }


def names() -> list[str]:
    """Give the names of all commands, without old spellings."""
    return [*builtin(), *third_party()]


def spellings() -> list[str]:
    """Give every word that names a command, old ones too."""
    known = names()
    return [*known, *(old for old, (name, _) in ALIASES.items() if name in known)]


@cache
def load(name: str) -> ChainCommand:
    """Import one command.

    Raises:
        SegflowError: another package's command cannot be imported or is not marked as one.
        KeyError: there is no such command.
    """
    from segflow.cli.operator import command_of

    if name in builtin():
        word = name.replace("-", "_")
        word += "_" * keyword.iskeyword(word)
        module = importlib.import_module(f"segflow.operators.{word}")
        return command_of(getattr(module, word), name)
    entry = third_party()[name]
    try:
        return command_of(entry.load(), name)
    except Exception as error:
        raise SegflowError(f"'{name}' of {entry.value} cannot be loaded: {error!r}") from error


def resolve(name: str) -> tuple[str, dict[str, object]]:
    """Give the command an old or new spelling stands for, and its changed defaults."""
    word = name.replace("_", "-")
    if word in builtin():
        return word, {}
    return ALIASES.get(word, (word, {}))
