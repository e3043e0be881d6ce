"""Values of configuration keys: read from text, and brought to the type a key has."""

from __future__ import annotations

import ast
import math
import types
from typing import Any, Union, get_args, get_origin

from segflow.errors import UsageError

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Unfit(Exception):
    """The value is not of the type; the message says what is allowed."""


def parse(text: str) -> Any:
    """Read ``text`` as a Python literal, else as YAML, else as itself.

    >>> parse("1e-3"), parse("(1, 2)"), parse("[a, b]"), parse("true"), parse("None"), parse("a b")
    (0.001, (1, 2), ['a', 'b'], True, None, 'a b')
    """
    import yaml

    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    return value if isinstance(value, list | dict | bool | int | float) or text in ("", "null", "~") else text


def convert(value: Any, kind: Any, key: str, where: str, *, length: int = 0, choices: Any = ()) -> Any:
    """Give ``value`` as ``kind``: bool, int, float, str, dict, a list of one of these, or ``| None``.

    An int stands for a float, a number's text for the number, one value for a list of it (three of
    it where the list has the fixed ``length`` three).

    Raises:
        UsageError: it does not fit; the message names ``where``, ``key``, the value and what fits.
    """
    try:
        return _convert(value, kind, length, choices)
    except Unfit as unfit:
        raise UsageError(f"{where}: {key} is {shown(value)}; it must be {unfit}") from None


def shown(value: Any) -> str:
    """Give ``value`` as short text."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def described(kind: Any, length: int = 0) -> str:
    """Say in words what ``kind`` allows."""
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        inner = next(k for k in get_args(kind) if k is not type(None))
        return f"{described(inner, length)}, or null"
    if get_origin(kind) is list:
        inner = get_args(kind)[0]
        if get_origin(inner) is list:
            return "a list of lists"
        words = {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"}
        return f"a list of {f'{length} ' if length else ''}{words.get(inner, 'mappings')}"
    return WORDS.get(kind, "a mapping of keys to values")


def _convert(value: Any, kind: Any, length: int = 0, choices: Any = ()) -> Any:
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
        try:
            return _convert(value, kind, length, choices)
        except Unfit:
            raise Unfit(described(kind | None, length)) from None
    if kind is Any:
        return value
    if get_origin(kind) is list:
        return _list(value, kind, length)
    if get_origin(kind) is dict or kind is dict:
        if not isinstance(value, dict):
            raise Unfit(described(dict))
        return {str(k): v for k, v in value.items()}
    found = _scalar(value, kind)
    if choices and found not in choices:
        raise Unfit(f"one of {', '.join(choices)}")
    return found


def _list(value: Any, kind: Any, length: int) -> list[Any]:
    inner = get_args(kind)[0]
    nested = get_origin(inner) is list
    if value is None:
        raise Unfit(described(kind, length))
    if not isinstance(value, list | tuple):
        value = [value] * (length if length == 3 else 1)
    elif nested and value and not any(isinstance(v, list | tuple) for v in value):
        value = [value]
    try:
        found = [_convert(v, inner) for v in value]
    except Unfit:
        raise Unfit(described(kind, length)) from None
    if length and len(found) != length:
        raise Unfit(described(kind, length))
    return found


def _scalar(value: Any, kind: Any) -> Any:
    if isinstance(value, str) and kind in (int, float, bool):
        value = _number(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Unfit(WORDS[kind])
    if kind is float and not math.isfinite(value):
        raise Unfit("a finite number")
    return value


def _number(text: str) -> Any:
    """Read what YAML leaves as text (1e-3), True and False of Python; other text stays."""
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
