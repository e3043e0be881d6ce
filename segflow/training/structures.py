"""The two keys that hold lists of mappings: ``target.heads`` and ``loss``."""

from __future__ import annotations

from typing import Any

from segflow.errors import UsageError, did_you_mean
from segflow.training.schema import HEAD_KEYS, HEADS, LOSS_DEFAULTS, LOSS_OWN, LOSSES
from segflow.training.values import convert, shown


def heads(value: Any, where: str) -> list[dict[str, Any]]:
    """Give the heads that ``value`` lists: mappings with a ``kind``, or kinds alone.

    Raises:
        UsageError: an unknown kind or key, or a value of a wrong type.
    """
    found = []
    for number, head in enumerate(_listed(value)):
        head, key = ({"kind": head} if isinstance(head, str) else head), f"target.heads[{number}]"
        kind = _named(head, "kind", HEADS, key, where)
        keys = HEAD_KEYS[kind]
        found.append({"kind": kind} | _typed(head, "kind", keys, key, where))
    return found


def losses(value: Any, where: str) -> list[list[dict[str, Any]]]:
    """Give, for each head, the losses that ``value`` lists: mappings with a ``name``, or names alone.

    One list of losses is that of one head.

    Raises:
        UsageError: an unknown name or key, or a value of a wrong type.
    """
    listed = _listed(value)
    if listed and not any(isinstance(v, list | tuple) for v in listed):
        listed = [listed]
    found = []
    for number, terms in enumerate(listed):
        row = []
        for place, term in enumerate(_listed(terms)):
            term, key = ({"name": term} if isinstance(term, str) else term), f"loss[{number}][{place}]"
            name = _named(term, "name", LOSSES, key, where)
            keys = {k: v for k, v in LOSS_DEFAULTS.items() if k != "name"}
            own = _typed(term, "name", keys | LOSS_OWN.get(name, {}), key, where)
            row.append({"name": name, **keys, **own})
        found.append(row)
    return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _named(entry: Any, word: str, known: tuple[str, ...], key: str, where: str) -> str:
    if not isinstance(entry, dict) or word not in entry:
        raise UsageError(f"{where}: {key} is {shown(entry)}; it must be a mapping with '{word}'")
    if entry[word] not in known:
        hint = did_you_mean(str(entry[word]), list(known))
        choices = ", ".join(known)
        raise UsageError(f"{where}: {key}.{word} is {shown(entry[word])}{hint}; it must be one of {choices}")
    return str(entry[word])


def _typed(entry: dict[str, Any], word: str, keys: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """Give the entries of ``entry`` beside ``word``, each as the type of its default in ``keys``."""
    found = {}
    for name, value in entry.items():
        if name == word:
            continue
        if name not in keys:
            hint = did_you_mean(str(name), list(keys))
            have = f"it takes {', '.join(keys)}" if keys else "it takes none"
            raise UsageError(f"{where}: {key} has no key '{name}'{hint}; {have}")
        default = keys[name]
        kind: Any = type(default)
        if kind is list:
            kind = list[list[int]] if isinstance(default[0], list) else list[int]
        found[name] = convert(value, kind, f"{key}.{name}", where)
    return found
