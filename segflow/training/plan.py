"""What a training would do: its configuration, data, network and memory, before anything is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from segflow.training.config import to_yaml
from segflow.training.data import layout_of
from segflow.training.fabric import passes
from segflow.training.networks import build
from segflow.training.sources import Volume, find_volumes, voxel_size_of

if TYPE_CHECKING:
    from segflow.training.schema import Config

GIB = 1024**3


def activations(net: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Give the bytes of all layers' float32 answers for an input of ``shape``; nothing is computed."""
    sizes: list[int] = []

    def note(_module: Any, _given: Any, answer: Any) -> None:
        if isinstance(answer, torch.Tensor):
            sizes.append(4 * answer.numel())

    for module in net.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(note)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        net(torch.empty(shape))
    return sum(sizes)


def report(config: Config) -> str:
    """Give the merged configuration, the volumes found, and the memory that the training needs.

    Raises:
        UsageError, VolumeError: data or keys with which the training could not begin.
    """
    volumes = find_volumes(config)
    validation = find_volumes(config, validation=True)
    lines = [to_yaml(config, comments=False).rstrip(), ""]
    for word, found in (("train on", volumes), ("validate on", validation)):
        lines += [f"{word} {volume.describe()}" for volume in found]
    if not validation:
        lines.append("validate on nothing: data.val_images is empty, so no checkpoint is called best")
    size = voxel_size_of(config, volumes)
    lines.append(f"voxel size {' '.join(f'{v:g}' for v in size)} nm" if size else "voxel size unknown")
    return "\n".join([*lines, *_memory(config, [*volumes, *validation])])


def _memory(config: Config, volumes: list[Volume]) -> list[str]:
    layout = layout_of(config)
    channels = sum(count for _, count in layout)
    net = build(config.model, channels)
    weights = sum(p.numel() for p in net.parameters())
    copies = 3 + (config.solver.optimizer != "sgd") + bool(config.solver.ema)  # weights, gradients, states
    batch = config.solver.batch
    with passes(config):
        answers = activations(net, (batch, 1, *config.model.patch_size))
    if config.system.precision == "bf16":
        answers //= 2
    data = sum(s.nbytes for volume in volumes for s in volume.sources)
    heads = ", ".join(f"{kind} {count}" for kind, count in layout)
    return [
        f"network {config.model.name}: {weights / 1e6:.3f} M parameters, {channels} channels ({heads})",
        f"memory of the device: about {(4 * weights * copies + answers) / GIB:.2f} GiB, "
        f"for {batch} crops of {'x'.join(map(str, config.model.patch_size))} at once",
        f"memory of the host: {data / GIB:.2f} GiB for the volumes, if they are all held",
    ]
