"""The configuration of ``segflow train``: read from YAML and overrides, checked, and written.

Segflow's keys are lower case (``solver.lr``, see :mod:`segflow.training.schema`); PyTC's upper-case
ones are translated by :mod:`segflow.training.pytc`. What is set later wins: the base file, the file,
then the overrides; a section merges key by key, a list is replaced whole.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from segflow.errors import UsageError
from segflow.training.checks import check
from segflow.training.layers import Setting, from_words, read, unknown
from segflow.training.schema import (
    AUGMENT,
    Config,
    Data,
    Inference,
    Model,
    Monitor,
    Solver,
    System,
    Target,
    augment_defaults,
)  # fmt: skip
from segflow.training.structures import heads, losses
from segflow.training.values import convert, described
from segflow.training.writer import describe, to_yaml

__all__ = [
    "Config", "Data", "Inference", "Model", "Monitor", "Solver", "System", "Target",
    "as_dict", "check", "defaults", "describe", "from_dict", "load", "to_yaml",
]  # fmt: skip

SECTIONS = {"system": System, "data": Data, "target": Target, "model": Model, "solver": Solver,
            "monitor": Monitor, "inference": Inference}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Key:
    """What a dotted key takes."""

    kind: Any
    default: Any
    choices: tuple[str, ...] = ()
    length: int = 0

    @property
    def allowed(self) -> str:
        """What it takes, in words."""
        return f"one of {', '.join(self.choices)}" if self.choices else described(self.kind, self.length)


def _keys() -> dict[str, Key]:
    found = {}
    for prefix, kind in [("", Config), *((f"{name}.", kind) for name, kind in SECTIONS.items())]:
        hints, instance = get_type_hints(kind), kind()
        for field in dataclasses.fields(kind):
            if field.metadata:
                meta = field.metadata
                found[prefix + field.name] = Key(
                    hints[field.name], getattr(instance, field.name), meta["choices"], meta["length"]
                )
    for name, settings in AUGMENT.items():
        found |= {f"augment.{name}.{k}": Key(type(v), v) for k, (v, _) in settings.items()}
    return found


KEYS = _keys()


def defaults() -> Config:
    """Give the configuration with every key at its default."""
    return Config(augment=augment_defaults())


def load(
    base: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """Merge the defaults, ``base``, ``file`` and ``overrides``, in this order.

    Where the first file is PyTC's, PyTC's defaults take the place of segflow's.

    Args:
        base: a YAML file, of segflow or PyTC 1.x.
        file: another.
        overrides: ``KEY=VALUE``, or ``KEY`` and ``VALUE`` one after the other; values are Python
            literals or YAML.

    Returns:
        The configuration, and one warning of what was in PyTC's keys and has no meaning here, or none.

    Raises:
        UsageError: a file that is missing or no YAML, an unknown key, or a value of a wrong type.
    """
    from segflow.training.pytc import Translator

    layers = [read(path, is_section) for path in (base, file) if path]
    layers.append([s for s in from_words(overrides) for s in _spread(s)])
    values: dict[str, Any] = {}
    translator = Translator()
    for layer in layers:
        theirs = [s for s in layer if s.pytc]
        if theirs:
            first = not values and layer is not layers[-1]
            values |= translator.translate(theirs, whole=first and len(theirs) == len(layer))
        for setting in layer:
            if not setting.pytc:
                values |= _assign(setting)
    return _build(values), translator.warnings()


def from_dict(values: dict[str, Any], where: str = "configuration") -> Config:
    """Give the configuration that ``values``, nested as :func:`as_dict` gives them, describes.

    Missing keys have their defaults.

    Raises:
        UsageError: an unknown key or a value of a wrong type.
    """
    from segflow.training.layers import flatten

    found: dict[str, Any] = {}
    for setting in flatten(values, where, is_section):
        found |= _assign(setting)
    return _build(found)


def as_dict(config: Config) -> dict[str, Any]:
    """Give ``config`` as nested dicts, lists, numbers and text, as JSON holds them."""
    return dataclasses.asdict(config)


def is_section(key: str) -> bool:
    """Whether ``key`` holds keys and no value."""
    if key[:1].isupper():
        from segflow.training.pytc_keys import PYTC_SECTIONS

        return key in PYTC_SECTIONS
    return key in (*SECTIONS, "augment", "model.options") or (
        key.startswith("augment.") and key[8:] in AUGMENT
    )


def _spread(setting: Setting) -> list[Setting]:
    """Give the settings that an override of a whole section, ``augment.flip={p: 1}``, stands for."""
    from segflow.training.layers import flatten

    if isinstance(setting.value, dict) and is_section(setting.key):
        prefix = f"{setting.key}."
        return flatten(setting.value, setting.where, is_section, prefix)
    return [setting]


def _assign(setting: Setting) -> dict[str, Any]:
    """Give the values of the one or more keys that ``setting`` sets."""
    name, value, where = setting.key, setting.value, setting.where
    if name.startswith("augment.") and name[8:] in AUGMENT:  # false, or a probability
        if isinstance(value, bool):
            value = KEYS[f"{name}.p"].default if value else 0.0
        name += ".p"
    if name.startswith("model.options.") and name.count(".") == 2:
        return {name: value}
    if name not in KEYS:
        if is_section(name):
            raise UsageError(f"{where}: {name} is a section; give its keys, as {_first_of(name)}")
        raise UsageError(f"{where}: {unknown(name, list(KEYS))}")
    known = KEYS[name]
    if setting.text is not None and known.kind is str:
        value = setting.text
    if name == "target.heads":
        return {name: heads(value, where)}
    if name == "loss":
        return {name: losses(value, where)}
    return {name: convert(value, known.kind, name, where, length=known.length, choices=known.choices)}


def _first_of(section: str) -> str:
    return next((k for k in KEYS if k.startswith(f"{section}.")), f"{section}.NAME")


def _build(values: dict[str, Any]) -> Config:
    """Give the defaults with ``values``, by dotted key, in their places."""
    config = defaults()
    for name, value in sorted(values.items()):  # model.options before model.options.X
        section, _, rest = name.partition(".")
        value = copy.deepcopy(value)
        if section == "augment":
            augmentation, _, parameter = rest.partition(".")
            config.augment[augmentation][parameter] = value
        elif name.startswith("model.options."):
            config.model.options[name[14:]] = value
        elif rest:
            setattr(getattr(config, section), rest, value)
        else:
            setattr(config, name, value)
    return config
