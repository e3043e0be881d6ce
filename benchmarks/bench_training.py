"""An iteration of ``segflow train`` against the bare forward, backward and optimiser step of its network.

The configuration is the shipped network's, on the bundled volume; without a GPU in bfloat16 too. Both
take turns in one process, a block of iterations each. The bare one has one crop, which it keeps, and
plain cross-entropy. While one runs the workers fill the other's queue, or idle: as many iterations as
they load ahead, and one more, are left out of each block of either. ``--blocks N`` sets how often.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from table import row

from segflow.training import config as configuration
from segflow.training.data import Crops, batches
from segflow.training.fabric import Stop, make_fabric
from segflow.training.loop import Loop
from segflow.training.sources import find_volumes
from segflow.training.trainer import make_optimizer

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
AHEAD = 3  # batches that each worker loads ahead
MIB = 2**20


def settings(folder: str, cuda: bool) -> Any:
    """Give the shipped network's configuration for the bundled volume, without validation."""
    image, labels = DATA / "ac4_image.tif", DATA / "ac4_labels.tif"
    workers = max(1, min(16, (os.cpu_count() or 2) - 2)) if cuda else 1
    told = [
        f"data.images=['{image}']", f"data.labels=['{labels}']", "data.boxes=[]", "data.val_images=[]",
        "data.val_labels=[]", "data.val_boxes=[]", f"output_path={folder}", f"system.workers={workers}",
        "solver.save_every=1000000",
    ]  # fmt: skip
    found, _ = configuration.load(None, str(ROOT / "examples" / "affinity-unet" / "snemi3d.yaml"), told)
    configuration.check(found)
    return found


def memory(device: torch.device, peak: bool = False) -> float:
    """Give the bytes that this process (on a GPU: its tensors) holds, or held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    word = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(word))


def bare(loop: Loop) -> Callable[[], None]:
    """Give the step of a copy of the network: forward, backward, optimiser."""
    net = copy.deepcopy(loop.plain).train()
    optimizer = make_optimizer(net, loop.config)
    queue = batches(Crops(alone(loop.config), loop.volumes), 0, loop.config.solver.batch)
    image, target, known = (t.to(loop.device).float() for t in next(queue))
    if loop.config.system.channels_last:
        image = image.to(memory_format=torch.channels_last_3d)

    def step() -> None:
        with loop.fabric.autocast():
            logits = net(image)
        F.binary_cross_entropy_with_logits(logits.float(), target, known).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def alone(config: Any) -> Any:
    """Give a configuration without workers."""
    own = copy.deepcopy(config)
    own.system.workers = 0
    return own


class Turns(Loop):
    """The loop, which after each block of its iterations lets the bare step run one, and then ends."""

    blocks, length = 4, 6

    def after(self, stop: Stop) -> bool:
        """Do what the loop does; then note the time, and give the bare step its turn."""
        ended = super().after(stop)
        skipped = AHEAD * self.config.system.workers + 1
        turn, place = divmod(self.iteration - 1, skipped + self.length)
        if place == skipped - 1:
            self.began = self.now(), self.clock.waited
        if place < skipped + self.length - 1:
            return ended
        seconds, waited = self.now() - self.began[0], self.clock.waited - self.began[1]
        if turn == 0:
            self.peak, self.ours, self.theirs, self.waits = memory(self.device, peak=True), [], [], []
            self.bare = bare(self)
        with self.clock.stopped():
            other = self.other(skipped)
        if turn:  # the first of each warms up
            self.ours.append(seconds / self.length)
            self.theirs.append(other)
            self.waits.append(waited / seconds)
        return turn == self.blocks

    def other(self, skipped: int) -> float:
        """Give the mean seconds of a bare step."""
        for _ in range(skipped):
            self.bare()
        began = self.now()
        for _ in range(self.length):
            self.bare()
        return (self.now() - began) / self.length

    def now(self) -> float:
        """Give the time when the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def main(blocks: int) -> None:
    """Measure, and print two lines."""
    cuda = torch.cuda.is_available()
    Turns.blocks, Turns.length = blocks, 60 if cuda else 6
    with tempfile.TemporaryDirectory() as folder:
        config = settings(folder, cuda)
        fabric = make_fabric(config)
        fabric.launch()
        loop = Turns(fabric, config, find_volumes(config), [])
        before = memory(fabric.device)
        loop.begin(None, resume=False, fine_tune=False)
        loop.run(Stop())
    crop, batch = config.model.patch_size, config.solver.batch
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    spread = f"{name}; blocks {min(loop.ours):.3g} to {max(loop.ours):.3g} s; goal 1.10"
    ours, theirs = statistics.median(loop.ours), statistics.median(loop.theirs)
    shape = "x".join(map(str, crop))
    row(f"iteration, {batch} x {shape}, {config.system.precision}", ours, "bare step", theirs, spread)
    print(
        f"{'waiting for data':44s} {100 * statistics.mean(loop.waits):9.1f} %   "
        f"{config.system.workers} workers; goal below 5 % on a GPU\n"
        f"{'peak memory':44s} {loop.peak / MIB:9.0f} MiB of this process, workers apart; "
        f"{(loop.peak - before) / (batch * math.prod(crop)):.0f} bytes a voxel of the crop above the start"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=4)
    main(parser.parse_args().blocks)
