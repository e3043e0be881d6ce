"""The training loop, on Lightning Fabric."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segflow.errors import Interrupted, ModelError
from segflow.progress import bar
from segflow.training import checkpoint as files
from segflow.training.config import as_dict
from segflow.training.data import Crops, batches, end
from segflow.training.export import export
from segflow.training.fabric import Stop, make_fabric, passes, random_state, stop_signals
from segflow.training.monitor import Clock
from segflow.training.schedules import learning_rate
from segflow.training.sources import find_volumes
from segflow.training.trainer import Training
from segflow.training.validation import Cut, shared

if TYPE_CHECKING:
    from segflow.training.schema import Config
    from segflow.training.sources import Volume

log = logging.getLogger("segflow")

AGREE_EVERY = 10  # iterations after which GPUs agree on signals and NaN: it makes them wait


def fit(
    config: Config, volumes: tuple[list[Volume], list[Volume]] | None = None, *,
    checkpoint: str | None = None, resume: bool = False, fine_tune: bool = False,
) -> Path:  # fmt: skip
    """Train a network and write checkpoints and ``model.pt`` into ``config.output_path``.

    Args:
        config: all keys.
        volumes: what ``find_volumes`` gave, to train on and for validation; default: it is asked.
        checkpoint: weights to begin with. If the file holds optimiser and iteration, and neither
            ``fine_tune`` nor ``solver.restart`` is set, the training goes on there.
        resume: go on from the newest checkpoint in the output folder, if there is one.
        fine_tune: take from ``checkpoint`` the weights that fit, and begin at iteration 0.

    Returns:
        The path of ``model.pt``.

    Raises:
        UsageError: keys that do not fit each other or the data.
        VolumeError: a volume cannot be read, or a checkpoint not written.
        ModelError: a checkpoint does not fit, or the loss became NaN.
        Interrupted: a signal came; a checkpoint was written.
    """
    fabric = make_fabric(config)
    volumes = volumes or (find_volumes(config), find_volumes(config, validation=True))
    fabric.launch()
    run = Loop(fabric, config, *volumes)
    run.begin(checkpoint, resume, fine_tune)
    with stop_signals() as stop:
        return run.run(stop)


class Loop(Training):
    """The iterations of a training."""

    def run(self, stop: Stop) -> Path:
        """Train to the end; give the path of ``model.pt``."""
        solver, self.clock = self.config.solver, Clock()
        first = self.iteration * solver.accumulate * solver.batch
        last = solver.iterations * solver.accumulate * solver.batch
        self.device = self.fabric.device
        total, self.terms = self.pending
        self.total = torch.tensor(total, device=self.device)
        self.seen: tuple[Tensor, Tensor, Tensor] | None = None  # image, target and logits of a sample
        self.net.train()
        loader = None
        try:
            with bar(max(0, solver.iterations - self.iteration), "iterations") as tick:
                if first < last:
                    crops = Crops(self.config, self.volumes, self.rank)
                    loader = batches(crops, first, last, pin=self.device.type == "cuda")
                while self.iteration < solver.iterations:
                    self.step(loader)
                    tick(1)
                    if self.after(stop):
                        log.info("%d validations without a better %s: it ends early", solver.early_stop,
                                 solver.best_by)  # fmt: skip
                        break
            return self.finish()
        finally:
            end(loader)
            if self.monitor is not None:
                self.monitor.close()

    def step(self, loader: Any) -> None:
        """Do one iteration: the passes that are accumulated, then the optimiser and the average."""
        solver = self.config.solver
        rate = learning_rate(solver, self.iteration) * self.plateau.factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for turn in range(solver.accumulate):
            image, target, known = self.next(loader)
            held = self.world > 1 and turn < solver.accumulate - 1
            sync = self.fabric.no_backward_sync(self.net) if held else nullcontext()
            with passes(self.config), sync:
                logits = self.net(image)
                loss, terms = self.loss(logits.float(), target, known)
                self.fabric.backward(loss / solver.accumulate)
            self.total += torch.stack([loss.detach(), torch.ones_like(loss)])
            for name, value in terms.items():
                self.terms[name] = self.terms.get(name, 0.0) + float(value)
        self.seen = image[0, 0], target[0], logits.detach()[0]
        if solver.clip:
            self.fabric.clip_gradients(
                self.net, self.optimizer, max_norm=solver.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.iteration += 1
        if self.average is not None:
            self.average.update(self.plain, self.iteration)

    def next(self, loader: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Give the next batch on the device, and count the time it was waited for."""
        with self.clock.waiting():
            image, target, known = next(loader)
        if self.config.system.channels_last:
            image = image.to(memory_format=torch.channels_last_3d)
        image, target, known = (t.to(self.device, non_blocking=True) for t in (image, target, known))
        return image, target, known

    def after(self, stop: Stop) -> bool:
        """Log, validate and save where it is due; give whether to end early."""
        solver, monitor, now = self.config.solver, self.config.monitor, self.iteration
        last = now == solver.iterations
        saves = last or (solver.save_every > 0 and now % solver.save_every == 0)
        validates = self.validate is not None and (
            last or (solver.validate_every > 0 and now % solver.validate_every == 0)
        )
        logs = now % monitor.log_every == 0 or last
        if logs or saves or validates or self.device.type == "cpu" or now % AGREE_EVERY == 0:
            self.agree(stop, logs)
        if self.monitor is not None and self.seen and monitor.image_every and now % monitor.image_every == 0:
            image, target, logits = self.seen
            self.monitor.pictures(now, image, target, logits.float().sigmoid())
        if logs:
            self.tell()
        good = validates and self.score(self.validate, stop)
        if saves or good:
            self.save()
        return bool(solver.early_stop and self.stale >= solver.early_stop)

    def agree(self, stop: Stop, logs: bool = False) -> None:
        """End on NaN, or on a signal with a checkpoint and, if ``logs``, a line; ranks do so together.

        Raises:
            ModelError: the loss became NaN or infinite.
            Interrupted: a signal came.
        """
        state = torch.tensor([float(not math.isfinite(float(self.total[0]))), float(bool(stop))])
        if self.world > 1:
            state = self.fabric.all_reduce(state.to(self.device), reduce_op="sum")
        if state[0] > 0:
            raise self.diverged("the loss")
        if state[1] > 0:
            if logs:
                self.tell()
            self.save()
            raise Interrupted(
                f"stopped by {stop.name or 'a signal to another process'} at iteration {self.iteration}; "
                f"{files.path_of(self.folder, self.iteration)} is written, --resume goes on there"
            )

    def diverged(self, what: str) -> ModelError:
        """Give the error for NaN, which names the checkpoint before."""
        found = files.newest(self.folder)
        kept = f"the last good checkpoint is {found}" if found else "no checkpoint was written before"
        return ModelError(
            f"{what} became NaN or infinite by iteration {self.iteration}; {kept}; lower solver.lr, "
            "or look for values in the data that are no grey levels"
        )

    def check_answer(self) -> None:
        """Raise ModelError, on all ranks together, if the weights answer NaN where they were trained."""
        if self.seen is None:
            return
        net = self.plain if self.average is None else self.average.net
        good = True
        for used in {id(n): n for n in (self.plain, net)}.values():
            was = used.training
            used.eval()
            with torch.inference_mode(), self.fabric.autocast():
                good &= bool(used(self.seen[0][None, None]).isfinite().all())
            used.train(was)
        if not all(shared(good, self.world)):
            raise self.diverged("the network's answer")

    def tell(self) -> None:
        """Log the mean losses since the last line, the rate, and the share of time without data."""
        total = self.fabric.all_reduce(self.total, reduce_op="sum") if self.world > 1 else self.total
        loss, count = float(total[0] / total[1]), float(self.total[1])
        seconds, wait = self.clock.lap()
        done = max(1, round(count / self.config.solver.accumulate))
        if self.config.solver.schedule == "plateau":
            self.plateau.see(loss, done)
        values = {"loss": loss, "lr": self.optimizer.param_groups[0]["lr"], "data_wait": wait,
                  "seconds": seconds / done}  # fmt: skip
        values |= {f"loss/{name}": value / count for name, value in self.terms.items()}
        self.total.zero_()
        self.terms.clear()
        if self.monitor is None:
            return
        self.monitor.scalars(self.iteration, values)
        log.info(
            "iteration %d of %d: loss %.4f, lr %.3g, %.3g s each, %.0f %% of it waiting for data",
            self.iteration, self.config.solver.iterations, loss, values["lr"], values["seconds"], 100 * wait,
        )  # fmt: skip

    def score(self, validate: Any, stop: Stop) -> bool:
        """Validate; give whether the score is among the best.

        Raises:
            Interrupted: a signal came meanwhile.
        """
        solver = self.config.solver
        net = self.plain if self.average is None else self.average.net
        try:
            with self.clock.stopped():
                found = validate(net, self.loss, self.device, self.fabric.autocast, stop)
        except Cut:
            log.info("the validation at iteration %d is cut short, and left out", self.iteration)
            self.agree(stop)
            raise
        score = found[solver.best_by]
        better = not self.scores or score < self.scores[0][0]
        self.stale = 0 if better else self.stale + 1
        self.scores = sorted([*self.scores, (score, self.iteration)])[: max(1, solver.keep_best)]
        if self.monitor is not None:
            self.monitor.scalars(self.iteration, {f"validation/{k}": v for k, v in found.items()})
            said = ", ".join(f"{k} {v:.4g}" for k, v in found.items())
            log.info("validation at iteration %d: %s%s", self.iteration, said, "  (best)" if better else "")
        if better and self.main:
            self.export("model_best.pt")
        self.net.train()
        return any(at == self.iteration for _, at in self.scores)

    def save(self) -> None:
        """Write the checkpoint of this iteration; no rank goes on before it is there."""
        self.check_answer()
        states = shared({**random_state(), "losses": (self.total.tolist(), self.terms)}, self.world)
        self.written = self.iteration
        if self.main:
            self.write(states)
        if self.world > 1:
            self.fabric.barrier()

    def write(self, states: list[Any]) -> None:
        """Write the checkpoint; remove those that are neither new nor best."""
        content = {
            "iteration": self.iteration,
            "model": cpu(self.plain.state_dict()),
            "ema": cpu(self.average.net.state_dict()) if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.plateau.state(),
            "random": states,
            "config": as_dict(self.config),
            "scores": [list(s) for s in self.scores],
            "stale": self.stale,
        }
        files.save(files.path_of(self.folder, self.iteration), content)
        self.saved = sorted({*self.saved, self.iteration})
        if self.scores and self.config.solver.keep_best:
            kept = {self.iteration, *(at for _, at in self.scores)}
            for old in [i for i in self.saved if i not in kept]:
                files.path_of(self.folder, old).unlink(missing_ok=True)
                self.saved.remove(old)

    def export(self, name: str) -> Path:
        """Write the averaged network as a model file."""
        path = self.folder / name
        net = self.plain if self.average is None else self.average.net
        scores = [list(s) for s in self.scores]
        export(path, net, self.config, self.iteration, self.grey_levels, scores=scores)
        return path

    def finish(self) -> Path:
        """Write the last checkpoint and ``model.pt``; say how it went."""
        if self.written != self.iteration:
            self.save()
        path = self.folder / "model.pt"
        if self.main:
            self.export(path.name)
            if self.monitor is not None:
                self.monitor.curve()
            log.info("wrote %s after %d iterations; %.1f %% of the time went by waiting for data",
                     path, self.iteration, 100 * self.clock.share)  # fmt: skip
        if self.world > 1:
            self.fabric.barrier()
        return path


def cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a state_dict on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
