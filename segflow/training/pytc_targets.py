"""PyTC's targets and losses as segflow's heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from segflow.errors import UsageError, did_you_mean

LOSS_NAMES = {
    "WeightedBCEWithLogitsLoss": "bce",
    "WeightedBCE": "bce",
    "DiceLoss": "dice",
    "WeightedBCEFocalLoss": "focal",
    "WeightedMSE": "mse",
}
LARGEST_WEIGHT = 19.0  # PyTC clips the fraction of ones to [0.05, 0.95]
KNOWN = "0 (foreground), 2 (affinity), 4 (contour), 5 (distance)"


def head(option: str) -> dict[str, Any]:
    """Give segflow's head for one string of TARGET_OPT; an affinity has its offsets, zyx, in PyTC's order.

    >>> head("2-1-3-9-v1")["offsets"]
    [[-1, 0, 0], [0, -3, 0], [0, 0, -9]]

    Raises:
        UsageError: a target that segflow has not.
    """
    name, *rest = option.split("-")
    try:
        if name == "0":
            return {"kind": "foreground"} | ({"ids": [int(v) for v in rest]} if rest else {})
        if name == "2":
            return {"kind": "affinity", "offsets": _offsets(rest)}
        if name == "4":
            width, background = int(rest[0]) if rest else 1, rest[1] != "0" if rest[1:] else True
            return {"kind": "contour", "width": width, "background": background}
        if name == "5" and rest[2:3] != ["1"]:
            mode = rest[0] if rest else "2d"
            if mode in ("2d", "3d"):
                return {"kind": "distance", "mode": mode}
    except (ValueError, IndexError):
        pass
    raise UsageError(f"the target '{option}' is not made here; segflow makes {KNOWN}")


def _offsets(rest: list[str]) -> list[list[int]]:
    if rest and not rest[-1].isdigit() and rest.pop() != "v1":
        raise ValueError
    z, y, x = (int(v) for v in rest) if rest else (1, 1, 1)
    return [[-z, 0, 0], [0, -y, 0], [0, 0, -x]]


def channels(heads: Sequence[dict[str, Any]]) -> int:
    """Give the number of output channels of ``heads``."""
    return sum(len(h.get("offsets", [0])) for h in heads)


def losses(
    names: list[str], weights: list[float], balances: list[str], note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Give segflow's losses of a head for its LOSS_OPTION, LOSS_WEIGHT and WEIGHT_OPT.

    Raises:
        UsageError: a loss that segflow has not, or lists of different lengths.
    """
    if not len(names) == len(weights) == len(balances):
        raise UsageError(
            f"a target has {len(names)} in LOSS_OPTION, {len(weights)} in LOSS_WEIGHT and {len(balances)} "
            "in WEIGHT_OPT; give one weight each for every loss"
        )
    found = []
    for name, weight, balance in zip(names, weights, balances):
        if name not in LOSS_NAMES:
            hint = did_you_mean(name, list(LOSS_NAMES))
            raise UsageError(f"the loss {name} is not made here{hint}; segflow has {', '.join(LOSS_NAMES)}")
        short = LOSS_NAMES[name]
        if balance not in ("0", "1"):
            note(f"MODEL.WEIGHT_OPT '{balance}' (done as '{'1' if balance == '1-1' else '0'}')")
        balanced = balance in ("1", "1-1") and short != "dice"
        found.append({"name": short, "weight": weight, "balance": balanced, "cap": LARGEST_WEIGHT})
        if short == "focal":
            found[-1]["alpha"] = 0.75  # PyTC's alpha 0.25 is that of zeros
    return found
