"""Losses of training: weighted binary cross-entropy, Dice, focal and squared error.

All of them read what is known: an unknown voxel adds nothing, neither to a sum nor to a count. The
network answers logits; probabilities are their sigmoid, and targets lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segflow.errors import ChunkError, UsageError, did_you_mean

AXES = (1, 2, 3, 4)  # all of a sample
DEFAULTS: dict[str, Any] = {"weight": 1.0, "balance": False, "cap": 19.0}
OWN: dict[str, dict[str, Any]] = {
    "bce": {},
    "dice": {"smooth": 100.0},
    "focal": {"gamma": 2.0, "alpha": 0.25},
    "mse": {},
}

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Mapping[str, float]]]


class Parts(Mapping[str, float]):
    """The parts of a loss by name; a number is fetched from the device when it is asked for.

    So a step of training does not wait for the GPU unless something is logged.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = {name: value.detach() for name, value in tensors.items()}

    def __getitem__(self, name: str) -> float:
        return float(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def make_loss(terms: Sequence[Sequence[dict[str, Any]]], layout: Sequence[tuple[str, int]]) -> Loss:
    """Give the loss that a configuration describes.

    Args:
        terms: for each head a list of losses: ``name`` (bce, dice, focal or mse), ``weight``,
            ``balance`` (see ``class_weights``), ``cap`` of the balance; focal has ``gamma`` and
            ``alpha`` too, dice ``smooth``.
        layout: (kind, channels) of each head, as ``make_targets`` gives it.

    Returns:
        A function of logits, target and known, all (b, c, z, y, x), that gives the weighted sum and
        each part before its weight, named ``affinity/bce``; a second head of a kind is
        ``affinity_2``. It raises ChunkError if the shapes differ or do not fit the heads.

    Raises:
        UsageError: more or fewer lists than heads, an unknown name or key, a number out of range.

    >>> loss = make_loss([[{"name": "bce"}]], [("affinity", 1)])
    >>> one = torch.ones(1, 1, 1, 1, 2)
    >>> total, parts = loss(0 * one, one, one)
    >>> round(float(total), 4), [*parts]
    (0.6931, ['affinity/bce'])
    """
    if len(terms) != len(layout):
        kinds = ", ".join(kind for kind, _ in layout)
        raise UsageError(
            f"loss has {len(terms)} lists, but target.heads has {len(layout)} ({kinds}); give one list a head"
        )
    checked = [
        [_checked(term, f"loss[{i}][{j}]") for j, term in enumerate(row)] for i, row in enumerate(terms)
    ]
    if not any(checked):
        raise UsageError("loss is empty; give one, as [[{name: bce}]]")
    heads = _named(layout)
    channels = [count for _, count in layout]

    def loss(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        _check_shapes(logits, target, known, sum(channels))
        parts: dict[str, Tensor] = {}
        total = logits.new_zeros((), dtype=torch.float32)
        pieces = zip(*(t.float().split(channels, 1) for t in (logits, target, known)), strict=True)
        for head, row, (answer, truth, valid) in zip(heads, checked, pieces, strict=True):
            for term in row:
                value = _LOSSES[term["name"]](answer, truth, valid, term)
                name = f"{head}/{term['name']}"
                parts[name] = parts[name] + value if name in parts else value
                total = total + term["weight"] * value
        return total, Parts(parts)

    return loss


def class_weights(target: Tensor, known: Tensor, cap: float = 19.0) -> Tensor:
    """Give a weight for each voxel: the rarer class of a sample weighs more, what is unknown nothing.

    With f the share of ones among the known voxels of a sample, over all channels together, clipped to
    [1 / (cap + 1), cap / (cap + 1)], the rarer class weighs max(f, 1 - f) / min(f, 1 - f), at most
    ``cap``, the other 1. A sample of one class weighs 1.

    Args:
        target: (b, c, z, y, x); ones are what is above 0.5.
        known: the same shape, 1 or 0.
        cap: largest weight, at least 1; 19 clips f to [0.05, 0.95].
    """
    ones = known * (target > 0.5)
    count, found = (voxels.sum(AXES, keepdim=True) for voxels in (known, ones))
    mixed = (found > 0) & (found < count)
    share = (found / count.clamp(min=1)).clamp(1 / (cap + 1), cap / (cap + 1))
    of_ones = torch.where(mixed, ((1 - share) / share).clamp(min=1), 1.0)
    of_zeros = torch.where(mixed, (share / (1 - share)).clamp(min=1), 1.0)
    return torch.addcmul(known * of_zeros, ones, of_ones - of_zeros)


def bce(logits: Tensor, target: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """Give the sum of weight x binary cross-entropy, divided by the count of known voxels."""
    total = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total / known.sum().clamp(min=1)


def dice(logits: Tensor, target: Tensor, weight: Tensor, smooth: float = 100.0) -> Tensor:
    """Give the mean over samples of 1 - (2 sum(w p t) + s) / (sum(w p) + sum(w t) + s).

    ``weight`` is 1 where the target is known, else 0, or the class weights.
    """
    answer, truth = logits.sigmoid() * weight, target * weight
    both = (answer * target).sum(AXES)
    return (1 - (2 * both + smooth) / (answer.sum(AXES) + truth.sum(AXES) + smooth)).mean()


def focal(
    logits: Tensor, target: Tensor, weight: Tensor, known: Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """Give the focal loss (Lin et al., ICCV 2017): a_t (1 - p_t)^gamma BCE, by the count of known voxels.

    Ones weigh ``alpha``, zeros 1 - alpha, as in the paper.
    """
    answer = logits.sigmoid()
    missed = answer + target - 2 * answer * target  # 1 - p_t
    factor = (1 - alpha + (2 * alpha - 1) * target) * missed**gamma
    total = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * factor * weight
    return total.sum() / known.sum().clamp(min=1)


def mse(logits: Tensor, target: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """Give the sum of weight x (sigmoid - target)^2, divided by the count of known voxels, all channels."""
    return ((logits.sigmoid() - target) ** 2 * weight).sum() / known.sum().clamp(min=1)


def _weights(target: Tensor, known: Tensor, term: dict[str, Any]) -> Tensor:
    return class_weights(target, known, term["cap"]) if term["balance"] else known


_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]] = {
    "bce": lambda a, t, k, term: bce(a, t, _weights(t, k, term), k),
    "dice": lambda a, t, k, term: dice(a, t, _weights(t, k, term), term["smooth"]),
    "focal": lambda a, t, k, term: focal(a, t, _weights(t, k, term), k, term["gamma"], term["alpha"]),
    "mse": lambda a, t, k, term: mse(a, t, _weights(t, k, term), k),
}


def _checked(term: dict[str, Any], where: str) -> dict[str, Any]:
    """Fill in the defaults of one loss, and check its keys and numbers."""
    name = str(term.get("name", ""))
    if name not in OWN:
        near = did_you_mean(name, [*OWN])
        raise UsageError(f"{where}: no loss '{name}'{near}; give {', '.join(OWN)}")
    full = {"name": name, **DEFAULTS, **OWN[name]}
    for word in term:
        if word not in full:
            raise UsageError(f"{where} ({name}): no key '{word}'{did_you_mean(str(word), [*full])}")
    full |= term
    limits = {"weight": (0, None), "cap": (1, None), "smooth": (0, None), "gamma": (0, None), "alpha": (0, 1)}
    for word, (low, high) in limits.items():
        value = full.get(word, low)
        if not isinstance(value, int | float) or not value >= low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UsageError(f"{where} ({name}): {word} is a number, {bounds}, not {value}")
    return full


def _named(layout: Sequence[tuple[str, int]]) -> list[str]:
    """Give each head a name of its own: affinity, affinity_2 ..."""
    kinds = [kind for kind, _ in layout]
    counts = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
    return [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True)]


def _check_shapes(logits: Tensor, target: Tensor, known: Tensor, channels: int) -> None:
    if logits.ndim != 5 or logits.shape[1] != channels:
        raise ChunkError(
            f"the network answered the shape {tuple(logits.shape)}, but the heads have {channels} channels "
            "(b, c, z, y, x)"
        )
    if not logits.shape == target.shape == known.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (logits, target, known))
        raise ChunkError(f"logits, target and known differ in shape: {shapes}")
