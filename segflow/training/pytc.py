"""PyTC 1.x configurations (PyTorch Connectomics' YAML, upper case) as segflow's keys.

Offsets keep PyTC's order of channels (z, y, x), so that its checkpoints fit. Its augmentations are
those that it names and no others, its learning rate is not averaged (EMA) unless SWA is on, and
every checkpoint is kept.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any, get_args, get_origin

from segflow.errors import UsageError
from segflow.training.layers import Setting, unknown
from segflow.training.pytc_keys import ALWAYS, LENGTHS, NO_MEANING, PYTC_KEYS, PYTC_SECTIONS, READ
from segflow.training.pytc_rules import RULES, Made, Reader
from segflow.training.values import convert, parse, shown


class Translator:
    """Gathers PyTC's settings, layer by layer, and gives segflow's keys for them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self._errors: dict[int, UsageError] = {}
        self._notes: dict[int, list[str]] = {}

    def translate(self, settings: Iterable[Setting], *, whole: bool) -> Made:
        """Add ``settings`` and give the values, by segflow's dotted keys, that follow from them.

        Args:
            settings: of one layer.
            whole: give also what follows from PyTC's defaults.

        Raises:
            UsageError: an unknown key or a value of a wrong type.
        """
        changed = {self._add(setting) for setting in settings}
        made: Made = {}
        for number, rule in enumerate(RULES):
            reader = Reader(self._values)
            self._errors.pop(number, None)
            try:
                found = rule(reader)
            except UsageError as error:
                found = {}
                self._errors[number] = self._placed(error, reader)
            if whole or reader.asked & changed:
                made |= found
                self._notes[number] = reader.notes
            elif number not in self._notes:
                self._errors.pop(number, None)
        return made

    def warnings(self) -> list[str]:
        """Give the one warning of what could not be taken over, or none.

        Raises:
            UsageError: what the last layer leaves cannot be translated.
        """
        for error in self._errors.values():
            raise error
        parts = []
        idle = [key for key in self._values if key in NO_MEANING and self._means_more(key)]
        if idle:
            parts.append(f"have no meaning here: {', '.join(sorted(idle))}")
        notes = list(dict.fromkeys(note for number in sorted(self._notes) for note in self._notes[number]))
        if notes:
            parts.append(f"are done otherwise: {', '.join(notes)}")
        return [f"of PyTC's keys, these {'; these '.join(parts)}"] if parts else []

    def _means_more(self, key: str) -> bool:
        value, idle = self._values[key], NO_MEANING[key]
        return bool(idle is ALWAYS or value not in (idle, None))

    def _add(self, setting: Setting) -> str:
        key, value = setting.key, setting.value
        if key in READ:
            value = _typed(setting)
        elif key not in NO_MEANING:
            if key in PYTC_SECTIONS:
                raise UsageError(f"{setting.where}: {key} is a section of keys, not {shown(value)}")
            raise UsageError(f"{setting.where}: {unknown(key, PYTC_KEYS)}")
        elif isinstance(value, str):
            value = parse(value)
        self._values[key] = list(value) if isinstance(value, tuple) else value
        self._where[key] = setting.where
        return key

    def _placed(self, error: UsageError, reader: Reader) -> UsageError:
        """Say where the keys were set that ``error`` is about."""
        text = str(error)
        named = [key for key in self._where if key in reader.asked and key in text]
        return UsageError(f"{self._where[min(named, key=text.index)]}: {text}") if named else error


def _typed(setting: Setting) -> Any:
    """Give the value of a setting as its key wants it; texts are read as Python's, as YACS does."""
    key, value = setting.key, setting.value
    kind = READ[key][0]
    inner = (
        next(k for k in get_args(kind) if k is not types.NoneType) if type(kind) is types.UnionType else kind
    )
    texts = inner is str or (get_origin(inner) is list and get_args(inner)[0] is str)
    if texts and setting.text is not None and not isinstance(value, list | tuple | types.NoneType):
        value = setting.text
    if isinstance(value, str) and (not texts or value == "None" or value[:1] in "[("):
        value = parse(value)
    if get_origin(inner) is list and "str" in str(inner):
        value = _as_text(value)
    return convert(value, kind, key, setting.where, length=LENGTHS.get(key, 0))


def _as_text(value: Any) -> Any:
    """Give ``[2, [1]]`` as ``["2", ["1"]]``."""
    if isinstance(value, list | tuple):
        return [_as_text(v) for v in value]
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
