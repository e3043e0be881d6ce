"""Configurations as YAML, every key with its comment."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from segflow.training.schema import AUGMENT, Config

_PLAIN = re.compile(r"[A-Za-z_/.][\w/.-]*")


def to_yaml(config: Config, *, comments: bool = True) -> str:
    """Give ``config`` as YAML with all its keys, which ``load`` reads back to the same; ``comments`` say
    what each means.
    """
    lines = ["# Configuration of segflow train; sizes and offsets are in voxels, z y x."] if comments else []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            doc = (type(value).__doc__ or "").partition("\n")[0]
            lines += ["", f"{field.name}:{_comment(doc, comments)}"]
            lines += [_line(f, getattr(value, f.name), comments, "  ") for f in dataclasses.fields(value)]
        elif field.name == "augment":
            said = _comment("Changes of crops before they are learned; p: probability, 0: off.", comments)
            lines += ["", f"augment:{said}"]
            lines += _augment(value, comments)
        else:
            lines += [_line(field, value, comments, "")]
    return "\n".join(lines).lstrip("\n") + "\n"


def describe(config: Config) -> str:
    """Give the merged configuration for ``--dry-run``: YAML without comments; an augmentation that is
    off is one line.
    """
    text = to_yaml(config, comments=False)
    for name, settings in config.augment.items():
        if not settings.get("p"):
            text = re.sub(rf"(?m)^  {name}:\n(?:    .*\n?)+", f"  {name}: off\n", text)
    return text.rstrip("\n")


def flow(value: Any) -> str:
    """Give ``value`` as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text  # 1e-05 is a text in YAML


def _text(value: str) -> str:
    import yaml

    if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    dumped = yaml.dump(value, default_style='"', width=math.inf, allow_unicode=True)
    return str(dumped).rstrip("\n")


def _comment(text: str, comments: bool) -> str:
    return f"  # {text}" if comments and text else ""


def _line(field: dataclasses.Field[Any], value: Any, comments: bool, indent: str) -> str:
    return f"{indent}{field.name}: {flow(value)}{_comment(field.metadata['doc'], comments)}"


def _augment(settings: dict[str, dict[str, Any]], comments: bool) -> list[str]:
    lines = []
    for name, values in settings.items():
        lines.append(f"  {name}:")
        for key, value in values.items():
            doc = AUGMENT.get(name, {}).get(key, (None, ""))[1]
            lines.append(f"    {key}: {flow(value)}{_comment(doc, comments)}")
    return lines
