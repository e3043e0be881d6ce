"""Learning rates by iteration. They are computed from the configuration alone: a changed total holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segflow.training.schema import Solver

WARMUP_FACTOR = 0.001
PLATEAU_PATIENCE = 1000  # iterations without a smaller loss
PLATEAU_THRESHOLD = 1e-3  # of the loss, what counts as smaller
PLATEAU_FLOOR = 1e-6  # smallest rate


def warmup(iteration: int, length: int) -> float:
    """Give the factor of a linear warm-up, from a thousandth to 1."""
    share = iteration / length if iteration < length else 1.0
    return WARMUP_FACTOR * (1 - share) + share


def learning_rate(solver: Solver, iteration: int) -> float:
    """Give the rate of one iteration, counted from 0.

    - ``warmup_cosine``: lr * w * (1 + cos(pi t / iterations)) / 2
    - ``warmup_multistep``: lr * w * gamma ** (steps that were passed); ``multistep``: without w
    - ``constant``, and ``plateau`` at its begin: lr

    with w the warm-up's factor.
    """
    factor = 1.0
    if solver.schedule.startswith("warmup"):
        factor = warmup(iteration, solver.warmup)
    if solver.schedule == "warmup_cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / solver.iterations)))
    elif solver.schedule in ("multistep", "warmup_multistep"):
        factor *= solver.gamma ** sum(iteration >= step for step in solver.steps)
    return float(solver.lr * factor)


class Plateau:
    """Lowers the rate by ``gamma`` where the loss stays; ``factor`` is what it came to.

    ``see`` is given the mean loss of some iterations, not that of one batch.
    """

    def __init__(self, gamma: float, lr: float) -> None:
        self.gamma, self.lr = gamma, lr
        self.factor, self.best, self.since = 1.0, math.inf, 0

    def see(self, loss: float, iterations: int) -> None:
        """Take the mean loss of the last ``iterations``."""
        if loss < self.best * (1 - PLATEAU_THRESHOLD):
            self.best, self.since = loss, 0
            return
        self.since += iterations
        if self.since > PLATEAU_PATIENCE:
            self.factor = max(self.factor * self.gamma, min(1.0, PLATEAU_FLOOR / self.lr))
            self.since = 0

    def state(self) -> dict[str, float]:
        """Give what a checkpoint keeps."""
        return {"factor": self.factor, "best": self.best, "since": self.since}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what a checkpoint kept."""
        self.factor, self.best, self.since = state["factor"], state["best"], int(state["since"])
