"""Settings, ``key = value`` with the place where each was written, of a file or a command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.errors import UsageError, did_you_mean
from segflow.training.values import parse

Sections = Callable[[str], bool]

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Setting:
    """A dotted key and its value; ``where`` is for messages, ``text`` what a command line said."""

    key: str
    value: Any
    where: str
    text: str | None = None

    @property
    def pytc(self) -> bool:
        """Whether the key is one of PyTC's, which are upper case."""
        return self.key.partition(".")[0].isupper()


def read(path: str, is_section: Sections) -> list[Setting]:
    """Give the settings in the YAML file ``path``; a key for which ``is_section`` holds keys.

    Raises:
        UsageError: the file is missing, is no YAML, or sets a key twice.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return []
            if not isinstance(node, yaml.MappingNode):
                raise UsageError(f"{path} holds no configuration; it needs lines of 'key: value'")
            return list(_walk(loader, node, "", path, is_section))
        finally:
            loader.dispose()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _walk(loader: Any, node: Any, prefix: str, path: str, is_section: Sections) -> Iterator[Setting]:
    import yaml

    lines: dict[str, int] = {}
    for name, _ in node.value:
        line = name.start_mark.line + 1
        if name.value in lines and name.value != "<<":
            key = f"{prefix}{name.value}"
            raise UsageError(f"{path} line {line}: {key} is already set in line {lines[name.value]}")
        lines[str(name.value)] = line
    loader.flatten_mapping(node)
    for name, value in node.value:
        key, where = f"{prefix}{name.value}", f"{path} line {name.start_mark.line + 1}"
        if is_section(key) and isinstance(value, yaml.MappingNode):
            yield from _walk(loader, value, f"{key}.", path, is_section)
            continue
        found = loader.construct_object(value, deep=True)
        if found is not None or not is_section(key):  # a section without keys says nothing
            yield Setting(key, found, where)


def flatten(values: Mapping[str, Any], where: str, is_section: Sections, prefix: str = "") -> list[Setting]:
    """Give the settings of nested mappings."""
    found = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if is_section(key) and isinstance(value, Mapping):
            found += flatten(value, where, is_section, f"{key}.")
        else:
            found.append(Setting(key, value, where))
    return found


def from_words(words: Sequence[str]) -> list[Setting]:
    """Give the settings of a command line: ``KEY=VALUE``, or ``KEY`` and ``VALUE``.

    Raises:
        UsageError: a key without a value, or a word that is no key.
    """
    found, rest = [], iter(words)
    for word in rest:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not _KEY.fullmatch(key):
            raise UsageError(f"command line: '{word}' is no key; write solver.lr=0.01 or SOLVER.BASE_LR 0.01")
        if not equals:
            following = next(rest, None)
            if following is None:
                raise UsageError(f"command line: {key} has no value; write {key}=VALUE or {key} VALUE")
            text = following
        found.append(Setting(key, parse(text), "command line", text))
    return found


def unknown(key: str, known: Sequence[str]) -> str:
    """Say that ``key`` is unknown, and name the nearest of ``known``: of its section, else of all.

    >>> unknown("solver.eary_stop", ["solver.early_stop", "data.pad"])
    "the key solver.eary_stop is unknown (did you mean 'solver.early_stop'?)"
    """
    section, _, last = key.rpartition(".")
    own = [k for k in known if k.rpartition(".")[0] == section]
    for keys, cutoff in ((own, 0.6), (known, 0.75)):  # the first of a name wins
        names = {k.rpartition(".")[2].lower(): k for k in reversed(keys)}
        near = difflib.get_close_matches(last.lower(), list(names), n=1, cutoff=cutoff)
        if near:
            return f"the key {key} is unknown (did you mean '{names[near[0]]}'?)"
    return f"the key {key} is unknown{'' if own else did_you_mean(key, list(known))}"
