"""What a training consists of, made anew or restored from a checkpoint."""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from segflow.errors import ModelError, UsageError
from segflow.training import checkpoint as files
from segflow.training.data import layout_of
from segflow.training.fabric import restore_random
from segflow.training.levels import training_levels
from segflow.training.losses import make_loss
from segflow.training.monitor import Monitor
from segflow.training.networks import build
from segflow.training.schedules import Plateau
from segflow.training.sources import Volume, load_volumes, memory_free, voxel_size_of
from segflow.training.validation import Validation
from segflow.volumes.files import reason

if TYPE_CHECKING:
    from segflow.training.schema import Config

log = logging.getLogger("segflow")


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Give weights with decay, and biases and parameters of norms without."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in net.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim <= 1].append(parameter)
    return [{"params": g, "weight_decay": d} for g, d in zip(groups, (weight_decay, 0.0)) if g]


def make_optimizer(net: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Give the optimiser that solver.optimizer names."""
    solver = config.solver
    groups = parameter_groups(net, solver.weight_decay)
    if solver.optimizer == "sgd":
        return torch.optim.SGD(groups, solver.lr, momentum=solver.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.optimizer]
    b1, b2 = solver.betas
    return kind(groups, lr=solver.lr, betas=(b1, b2))


class Average:
    """Averaged weights (EMA), also of the norms' statistics; the first steps count more."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = copy.deepcopy(net).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, net: nn.Module, iteration: int) -> None:
        """Take in the weights after ``iteration`` steps."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values()))
        mine, new = ([p[i] for p in pairs if p[0].is_floating_point()] for i in (0, 1))
        torch._foreach_lerp_(mine, new, 1 - decay)
        for own, other in pairs:
            if not own.is_floating_point():
                own.copy_(other)


class Training:
    """One run: ``begin`` makes or restores everything, ``run`` trains to the end."""

    def __init__(self, fabric: Any, config: Config, volumes: list[Volume], validation: list[Volume]) -> None:
        self.fabric, self.config = fabric, config
        self.rank, self.world, self.main = fabric.global_rank, fabric.world_size, fabric.is_global_zero
        self.folder = Path(config.output_path).expanduser()
        self.volumes, self.validation = volumes, validation
        self.voxel_size = voxel_size_of(config, volumes)
        config.data.voxel_size = list(self.voxel_size) if self.voxel_size else None  # targets need it
        self.layout = layout_of(config)
        self.loss = make_loss(config.loss, self.layout)
        self.iteration = 0
        self.scores: list[tuple[float, int]] = []  # the best, with the iterations of their checkpoints
        self.stale = 0  # validations since the best
        self.saved: list[int] = []
        self.written = -1  # the iteration of the last checkpoint
        self.plateau = Plateau(config.solver.gamma, config.solver.lr)
        self.validate: Validation | None = None
        # losses since the last line of the log, with their count, and those of each term
        self.pending: tuple[list[float], dict[str, float]] = [0.0, 0.0], {}

    def begin(self, checkpoint: str | None, resume: bool, fine_tune: bool) -> None:
        """Read what to begin with, make network and optimiser, and load the data."""
        config = self.config
        start, source, goes_on = self._start(checkpoint, resume, fine_tune or config.solver.restart)
        if config.solver.best_by and self.validation:
            self.validate = Validation(config, self.validation, self.layout, self.rank, self.world)
        torch.manual_seed(config.system.seed)
        net = build(config.model, sum(count for _, count in self.layout))
        if self.world > 1 and self.fabric.device.type == "cuda":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        if config.system.channels_last:
            net = net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if source and goes_on:
            files.load_exactly(net, start["model"], source)
        elif source:
            fitted = files.load_fitting(net, files.weights_of(start, source), source)
            if self.main:
                fitted.tell(source)
        self.plain = net.to(self.fabric.device)
        optimizer = make_optimizer(self.plain, config)
        self.average = Average(self.plain, config.solver.ema) if config.solver.ema else None
        if goes_on:
            self._restore(start, optimizer, str(source))
        used = torch.compile(self.plain) if config.system.compile else self.plain
        self.net, self.optimizer = self.fabric.setup(used, optimizer)
        self._load()
        self.grey_levels = training_levels(self.volumes) if self.main else None
        self.folder_ready(goes_on)
        seeds = np.random.SeedSequence((config.system.seed, self.rank)).generate_state(1)
        torch.manual_seed(int(seeds[0]))
        states = start.get("random", []) if goes_on else []
        if self.rank < len(states):
            restore_random(states[self.rank])
            self.pending = states[self.rank].get("losses", self.pending)

    def _start(
        self, checkpoint: str | None, resume: bool, weights_only: bool
    ) -> tuple[dict[str, Any], str | None, bool]:
        """Give the content to begin with, its file, and whether the training goes on there."""
        newest = files.newest(self.folder)
        if resume and newest is not None:
            content = files.load(newest)
            if not files.can_go_on(content):
                raise ModelError(f"{newest} holds no optimiser and iteration, so nothing can go on there")
            return content, str(newest), True
        if resume and self.main:
            log.info("no checkpoint in %s yet: iterations begin at 0", self.folder)
        content = files.load(checkpoint) if checkpoint else {}
        goes_on = checkpoint is not None and files.can_go_on(content) and not weights_only
        here = goes_on and Path(str(checkpoint)).resolve().parent == self.folder.resolve()
        if newest is not None and not here:
            raise UsageError(
                f"{newest} is there from another training, which this one would overwrite; "
                "--resume goes on there, or give another output_path"
            )
        return content, checkpoint, goes_on

    def _restore(self, start: dict[str, Any], optimizer: torch.optim.Optimizer, source: str) -> None:
        """Set everything but the weights as the checkpoint has it."""
        self.iteration = int(start["iteration"])
        self.saved = files.iterations_in(self.folder)
        self.scores = [(float(s), int(i)) for s, i in start.get("scores", [])]
        self.stale = int(start.get("stale", 0))
        if start.get("schedule"):
            self.plateau.restore(start["schedule"])
        try:
            hyper = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
            optimizer.load_state_dict(start["optimizer"])
        except (ValueError, KeyError) as error:
            raise ModelError(
                f"the optimiser in {source} is not that of solver.optimizer {self.config.solver.optimizer}; "
                "--fine-tune takes the weights alone"
            ) from error
        for group, told in zip(optimizer.param_groups, hyper):  # the configuration's, not the file's
            group.update({k: v for k, v in told.items() if k in ("weight_decay", "momentum", "betas")})
        if self.average is not None:
            files.load_exactly(self.average.net, start.get("ema") or start["model"], source)
        total = self.config.solver.iterations
        if self.main:
            log.info("going on at iteration %d of %d, from %s", self.iteration, total, source)
            if self.iteration >= total:
                log.info("solver.iterations %d are done; a larger one trains on", total)

    def _load(self) -> None:
        """Read the volumes that fit into half of the free memory, shared by the ranks of the host."""
        heads = {kind for kind, _ in self.layout}
        budget = memory_free() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        load_volumes([*self.volumes, *self.validation], budget, bool(heads & {"affinity", "lsd", "contour"}))
        if self.main:
            for word, volumes in (("training on", self.volumes), ("validating on", self.validation)):
                for volume in volumes:
                    log.info("%s %s", word, volume.describe())

    def folder_ready(self, goes_on: bool) -> None:
        """Make the output folder and its logs."""
        self.monitor: Monitor | None = None
        if not self.main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make output_path {self.folder}: {reason(error)}") from error
        for later in [i for i in self.saved if i > self.iteration]:  # of a way that is left
            path = files.path_of(self.folder, later)
            path.replace(f"{path}.old")
            self.saved.remove(later)
            log.info("%s is of a later iteration and is kept as %s.old", path, path.name)
        self.monitor = Monitor(self.folder, self.iteration if goes_on else 0)
