"""What a training tells: lines, log.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from segflow.volumes.files import replacing

log = logging.getLogger("segflow")

LOG = "log.jsonl"  # a line for every log or validation: iteration, loss, lr, ...
CURVE = "curve.png"


class Monitor:
    """Writes into ``folder``; what an interrupted run logged after iteration ``start`` is dropped."""

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / LOG
        self._cut(start)
        self.board: Any = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
        except ImportError:
            log.info("no TensorBoard log: it is not installed; pip install 'segflow[train]'")

    def _cut(self, start: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["iteration"] <= start:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # a torn last line
        with replacing(self.path) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept))

    def scalars(self, iteration: int, values: dict[str, float]) -> None:
        """Write numbers by name."""
        with open(self.path, "a", encoding="utf-8") as file:
            plain = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
            file.write(json.dumps({"iteration": iteration, **plain}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, iteration)

    def pictures(self, iteration: int, image: Tensor, target: Tensor, prediction: Tensor) -> None:
        """Write the middle section of a sample: image (z, y, x), target and prediction (c, z, y, x)."""
        if self.board is None:
            return
        middle = image.shape[0] // 2
        for name, volume in (("image", image[None]), ("target", target), ("prediction", prediction)):
            shown = volume[:3, middle].detach().float().cpu().clamp(0, 1).numpy()
            if len(shown) == 2:
                shown = np.concatenate([shown, np.zeros_like(shown[:1])])
            self.board.add_image(name, shown, iteration)

    def curve(self) -> None:
        """Draw what was logged into ``curve.png``."""
        from segflow.view.curve_plots import save_training

        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines()]
            save_training(rows, self.path.with_name(CURVE))

    def close(self) -> None:
        """Write what is buffered."""
        if self.board is not None:
            self.board.close()


class Clock:
    """How long a training took, and how much of it went by without data."""

    def __init__(self) -> None:
        self.seconds = self.waited = 0.0
        self._lap = [0.0, 0.0]
        self._since = time.monotonic()

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    def lap(self) -> tuple[float, float]:
        """Give the seconds since the last lap, and the share of them without data."""
        self._count()
        seconds, waited = self.seconds - self._lap[0], self.waited - self._lap[1]
        self._lap = [self.seconds, self.waited]
        return seconds, waited / max(seconds, 1e-9)

    @property
    def share(self) -> float:
        """The share of all the time without data."""
        self._count()
        return self.waited / max(self.seconds, 1e-9)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting for data."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count what happens inside."""
        self._count()
        try:
            yield
        finally:
            self._since = time.monotonic()
