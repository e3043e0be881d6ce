"""A chain as a YAML file: ``{segflow: version, mip: 0, steps: [{operator: {option: value}}]}``.

The file is turned into words and parsed by the same options as a shell line, so there is one
validation. ``${NAME}`` in a value is replaced from ``--set NAME=value`` or the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segflow.errors import UsageError, VolumeError, did_you_mean

if TYPE_CHECKING:
    from segflow.cli.engine import Chain


def save(path: str, chain: Chain) -> None:
    """Write the chain's steps and settings to ``path``."""
    import yaml

    from segflow import __version__

    steps = [{step.name: _options(step.words)} for step in chain.steps]
    document: dict[str, Any] = {"segflow": __version__}
    if chain.run.mip:
        document["mip"] = chain.run.mip
    document["steps"] = steps
    partial = Path(f"{path}.partial")
    try:
        partial.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100))
        partial.replace(path)
    except OSError as error:
        raise VolumeError(f"--save {path}: {error.strerror}") from error


def _options(words: list[str]) -> dict[str, Any]:
    """Group the words of a step, ``[name, --option, value, ...]``, as option -> value."""
    import yaml

    from segflow.cli import registry

    by_word = {w: p for p in registry.load(words[0]).params for w in (*p.opts, *p.secondary_opts)}
    found: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        parameter = by_word[word]
        if getattr(parameter, "is_flag", False):
            found[word[2:]] = True
            continue
        values = [next(rest) for _ in range(_count(parameter, words, word))]
        parsed = [yaml.safe_load(v) if _plain(v) else v for v in values]
        value = parsed if len(parsed) > 1 else parsed[0]
        if getattr(parameter, "multiple", False):
            found.setdefault(word[2:], []).append(value)
        else:
            found[word[2:]] = value
    return found


def _count(parameter: click.Parameter, words: list[str], word: str) -> int:
    """Give how many values follow: nargs, or up to the next option where that is not fixed."""
    if parameter.nargs == 1 and hasattr(parameter, "values_follow"):
        return int(parameter.values_follow(words[words.index(word) + 1 :]))
    return max(parameter.nargs, 1)


def _plain(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", text))


def load(path: str, settings: tuple[str, ...] = ()) -> tuple[list[str], dict[str, Any]]:
    """Give the words of the chain in ``path`` and its group settings.

    Args:
        path: a YAML file.
        settings: ``NAME=value`` for ``${NAME}``; ``step[n].option=value`` or
            ``step.option=value`` for an option of the n-th step of that name.

    Raises:
        UsageError: the file is missing or is no pipeline, or a setting fits nothing.
    """
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    steps = document.get("steps") if isinstance(document, dict) else document
    if not isinstance(steps, list) or not steps:
        raise UsageError(f"{path} holds no pipeline; it needs a list under 'steps:'")
    pairs = [_single(path, step) for step in steps]
    variables = _apply(pairs, settings)
    words = [w for name, options in pairs for w in _tokens(name, options, variables)]
    group = {k: v for k, v in document.items() if k == "mip"} if isinstance(document, dict) else {}
    return words, group


def _single(path: str, step: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(step, str):
        return step, {}
    if isinstance(step, dict) and len(step) == 1:
        name, options = next(iter(step.items()))
        if options is None or isinstance(options, dict):
            return str(name), {str(k): v for k, v in (options or {}).items()}
    raise UsageError(f"{path}: a step is 'operator: {{option: value}}', not {step!r}")


def _apply(pairs: list[tuple[str, dict[str, Any]]], settings: tuple[str, ...]) -> dict[str, str]:
    """Put ``step[n].option=value`` into the steps; give the variables among the settings."""
    import yaml

    variables: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: write NAME=value or step[n].option=value")
        found = re.fullmatch(r"([\w-]+)(?:\[(\d+)\])?\.([\w-]+)", key)
        if not found:
            variables[key] = value
            continue
        name, number, option = found.groups()
        same = [options for step, options in pairs if step.replace("_", "-") == name.replace("_", "-")]
        if not same:
            raise UsageError(f"--set {setting}: no step '{name}'{did_you_mean(name, [n for n, _ in pairs])}")
        if number is None and len(same) > 1:
            count = f"there are {len(same)} steps '{name}'"
            raise UsageError(f"--set {setting}: {count}; write {name}[0].{option}")
        if int(number or 0) >= len(same):
            raise UsageError(f"--set {setting}: there are {len(same)} steps '{name}', counted from 0")
        same[int(number or 0)][option] = yaml.safe_load(value)
    return variables


def _tokens(name: str, options: dict[str, Any], variables: dict[str, str]) -> list[str]:
    words = [_fill(name, variables)]
    for key, value in options.items():
        word = f"--{key}" if len(key) > 1 else f"-{key}"
        if value is True:
            words.append(word)
        elif value is False:
            words.append(f"--no-{key}")
        elif isinstance(value, list) and value and isinstance(value[0], list):
            for item in value:
                words += [word, *(_fill(str(v), variables) for v in item)]
        elif isinstance(value, list):
            words += [word, *(_fill(str(v), variables) for v in value)]
        elif isinstance(value, str) and re.fullmatch(r"[-+\d.\s]+", value) and " " in value:
            words += [word, *value.split()]
        else:
            words += [word, _fill(str(value), variables)]
    return words


def _fill(text: str, variables: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        if name in variables:
            return variables[name]
        if name in os.environ:
            return os.environ[name]
        raise UsageError(f"${{{name}}} has no value; give --set {name}=... or set it in the environment")

    return re.sub(r"\$\{(\w+)\}", value, text)
