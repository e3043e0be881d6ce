"""What may be said of each augmentation: checked, and completed with the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segflow.errors import UsageError, did_you_mean
from segflow.training.schema import AUGMENT

LIMITS: dict[str, tuple[float, float]] = {
    "p": (0, 1), "rate": (0, 1), "rotate_ratio": (0, 1), "slip": (0, 1), "length_ratio": (0, 1),
    "low": (0.1, 10), "high": (0.1, 10), "down_min": (1, 1e6), "down_max": (1, 1e6),
    "scale": (0, 1), "value": (-1, 1), "contrast": (0, 2), "brightness": (0, 2), "gamma": (0, 5),
}  # fmt: skip
MODES = ("mix", "2d", "3d")


def complete(
    settings: Mapping[str, Mapping[str, Any] | None], size: Sequence[int] | None = None
) -> dict[str, dict[str, Any]]:
    """Give all keys of the augmentations that are on, for samples of ``size`` (zyx), if it is told.

    Raises:
        UsageError: an unknown name or key, or a value of a wrong type, out of range, or not for this size.

    >>> complete({"flip": {}, "rotate": {"p": 0}})
    {'flip': {'p': 1.0, 'transpose_z': False}}
    """
    made = {}
    for name, own in settings.items():
        if name not in AUGMENT:
            known = ", ".join(AUGMENT)
            raise UsageError(f"no augmentation '{name}'{did_you_mean(name, list(AUGMENT))}; known: {known}")
        if own is None or own is False:
            continue
        if not isinstance(own, Mapping):
            raise UsageError(f"augment.{name} is {own!r}; give its keys, such as {{p: 0.5}}, or null for off")
        keys = {key: default for key, (default, _) in AUGMENT[name].items()}
        for key, value in own.items():
            if key not in keys:
                raise UsageError(
                    f"augment.{name} has no key '{key}'{did_you_mean(key, list(keys))}; "
                    f"it has {', '.join(keys)}"
                )
            keys[key] = _checked(f"augment.{name}.{key}", key, value, keys[key])
        _check_pairs(name, keys)
        if keys["p"] > 0:
            made[name] = keys
    if size is not None and len(set(size)) > 1 and made.get("flip", {}).get("transpose_z"):
        shape = "x".join(map(str, size))
        raise UsageError(f"augment.flip.transpose_z needs samples that are cubes; these are {shape}")
    return made


def _checked(place: str, key: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{place} is {value!r}; it is true or false")
        return value
    if isinstance(default, str):
        if value not in MODES:
            raise UsageError(f"{place} is {value!r}; it is one of {', '.join(MODES)}")
        return value
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and value != int(value)):
        raise UsageError(f"{place} is {value!r}; it is {'a whole number' if whole else 'a number'}")
    low, high = LIMITS.get(key, (0, 1e6))
    if not low <= value <= high:
        raise UsageError(f"{place} is {value:g}; it lies in {low:g} to {high:g}")
    return int(value) if whole else float(value)


def _check_pairs(name: str, keys: Mapping[str, Any]) -> None:
    """Check values that belong together."""
    for low, high in (("low", "high"), ("down_min", "down_max")):
        if low in keys and keys[low] > keys[high]:
            raise UsageError(f"augment.{name}.{low} is {keys[low]:g}, above {high}, which is {keys[high]:g}")
    if name == "elastic" and keys["amplitude"] > keys["sigma"] / 2:
        raise UsageError(
            f"augment.elastic: a shift of {keys['amplitude']:g} voxels that changes within sigma "
            f"{keys['sigma']:g} folds the tissue; give sigma at least {2 * keys['amplitude']:g}"
        )
    for key in ("sections", "size"):
        if keys.get(key) == 0:
            raise UsageError(f"augment.{name}.{key} is 0; for off give p: 0")
