"""Lightning Fabric for a configuration: devices, processes, precision, stop signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from segflow.compiled import keep_memory
from segflow.errors import ModelError, SegflowError, UsageError
from segflow.training.schema import Config

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger("segflow")

PATIENCE = 5.0  # seconds; launchers and terminals send a signal twice


def launched() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_WORLD_SIZE" in os.environ and "RANK" in os.environ


def make_fabric(config: Config) -> Fabric:
    """Give a Fabric: the processes that torchrun started, else one for each GPU, else the CPU.

    Raises:
        UsageError: more GPUs are wanted than there are, or Lightning is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lightning.fabric import Fabric
    except ImportError as error:
        raise UsageError("train needs Lightning: pip install 'segflow[train]'") from error
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    there = torch.cuda.device_count()
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else None
    wanted = config.system.gpus
    if wanted and wanted > there:
        raise UsageError(
            f"system.gpus is {wanted}, and {there or 'no'} GPUs are visible; system.gpus=0 trains on the CPU"
        )
    cuda = bool(there) if wanted is None else wanted > 0
    if cuda and local is not None and local > there:
        raise UsageError(f"torchrun started {local} processes on a host with {there} visible GPUs")
    devices = local or ((there if wanted is None else wanted) if cuda else 1)
    nodes = int(os.environ["WORLD_SIZE"]) // local if local else 1
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        keep_memory()
    return Fabric(
        accelerator="cuda" if cuda else "cpu", devices=devices, num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto", precision=precision_of(config, cuda),
    )  # fmt: skip


def precision_of(config: Config, cuda: bool) -> Any:
    """Give Fabric's word: bf16-mixed where it is told, or ``auto`` finds a GPU that has it."""
    wanted = config.system.precision
    if wanted == "auto":
        wanted = "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16-mixed" if wanted == "bf16" else "32-true"


class Stop:
    """Whether a signal asked for the end; ``name`` is the signal's."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT instead of ending; one more, PATIENCE later, ends at once."""
    stop, before, first = Stop(), {}, [0.0]

    def note(number: int, _frame: Any) -> None:
        if stop and time.monotonic() - first[0] > PATIENCE:
            raise KeyboardInterrupt
        if not stop:
            stop.name, first[0] = signal.Signals(number).name, time.monotonic()

    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def passes(config: Config) -> Iterator[None]:
    """Say in a line what ends a pass: memory that ran out, or a crop that a network of MONAI cannot take."""
    try:
        yield
    except SegflowError:
        raise
    except (RuntimeError, ValueError) as error:
        from segflow.inference.engine import out_of_memory

        model, crop = config.model, "x".join(map(str, config.model.patch_size))
        if out_of_memory(error):
            raise ModelError(
                f"out of memory with {config.solver.batch} crops of {crop} at once; give a smaller "
                "solver.batch (a larger solver.accumulate makes up for it) or model.patch_size"
            ) from error
        if model.name.startswith("monai:"):
            said = str(error).strip().split("\n")[0]
            raise ModelError(
                f"{model.name} fails on crops of {crop}: {said}; change model.patch_size or model.options"
            ) from error
        raise


def random_state() -> dict[str, Any]:
    """Give the state of torch's generators in this process."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Set torch's generators as they were."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
