"""What contradicts itself in a configuration."""

from __future__ import annotations

from segflow.errors import BoxError, UsageError
from segflow.geometry import Box
from segflow.training.augment.settings import complete
from segflow.training.schema import Config, Data, Target


def check(config: Config, *, inference: bool = False) -> None:
    """Raise UsageError, with the keys and what to do, if ``config`` contradicts itself.

    Args:
        config: what ``load`` gave.
        inference: it is to predict, so no labels are needed.
    """
    for name, folder in (("", config.output_path), ("inference.", config.inference.output_path)):
        if "://" in folder:
            raise UsageError(f"{name}output_path is {folder}; give a folder of this machine")
    if inference:
        if not (config.inference.images or config.data.images):
            raise UsageError("inference.images is empty; name the volumes to predict")
    else:
        _data(config.data)
    _model(config)
    _target(config)
    _solver(config)
    _augment(config)


def _data(data: Data) -> None:
    if not data.images:
        raise UsageError("data.images is empty; name the volumes to train on, and their data.labels")
    for word, images in (("", data.images), ("val_", data.val_images)):
        for name in ("labels", "masks", "boxes"):
            values = getattr(data, word + name)
            if len(values) != len(images) and (values or name == "labels"):
                raise UsageError(
                    f"data.{word}{name} has {len(values)} entries and data.{word}images {len(images)}; "
                    "give one for each"
                )
        for box in filter(None, getattr(data, f"{word}boxes")):
            try:
                empty = Box.parse(box).empty
            except BoxError as error:
                raise UsageError(f"data.{word}boxes: {error}") from error
            if empty:
                raise UsageError(f"data.{word}boxes: the box {box} is empty")
    if data.weights and len(data.weights) != len(data.images):
        raise UsageError(
            f"data.weights has {len(data.weights)} entries and data.images {len(data.images)}; "
            "give one for each"
        )
    if any(w < 0 for w in data.weights) or (data.weights and not any(data.weights)):
        raise UsageError(f"data.weights is {data.weights}; none may be negative, nor all 0")
    if data.voxel_size and min(data.voxel_size) <= 0:
        raise UsageError(f"data.voxel_size is {data.voxel_size}; sizes in nm are above 0")
    _least("data.pad", min(data.pad), 0)
    _fraction("data.valid_ratio", data.valid_ratio)
    _fraction("data.reject_p", data.reject_p)
    for name in ("reject_foreground", "reject_objects"):
        _least(f"data.{name}", getattr(data, name), 0)
    _least("data.reject_tries", data.reject_tries, 1)


def _target(config: Config) -> None:
    target, kinds = config.target, [str(h.get("kind")) for h in config.target.heads]
    if not kinds:
        raise UsageError("target.heads is empty; give one, as [{kind: affinity}]")
    if "affinity" in kinds:
        _affinity(target, kinds, config.model.patch_size)
    _least("target.erosion", target.erosion, 0)
    _least("target.dilation", target.dilation, 0)
    if len(config.loss) != len(kinds):
        raise UsageError(
            f"loss has {len(config.loss)} lists and target.heads {len(kinds)} heads; give each head its list"
        )
    for number, terms in enumerate(config.loss):
        if not terms or not any(term["weight"] for term in terms):
            raise UsageError(f"loss[{number}] is empty or has no weight above 0")
        for place, term in enumerate(terms):
            _least(f"loss[{number}][{place}].weight", term["weight"], 0)
            _least(f"loss[{number}][{place}].cap", term["cap"], 1)


def _affinity(target: Target, kinds: list[str], patch: list[int]) -> None:
    if kinds[0] != "affinity":
        raise UsageError(f"target.heads is {', '.join(kinds)}; affinity must be the first, which is exported")
    if "offsets" in target.heads[0]:
        raise UsageError("target.heads[0] has offsets of its own; its offsets are target.offsets")
    if not target.offsets:
        raise UsageError("target.offsets is empty; give the z y x of each affinity, as [0, 0, -1]")
    _offsets("target.offsets", target.offsets, patch)
    for number, head in enumerate(target.heads[1:], 1):
        _offsets(f"target.heads[{number}].offsets", head.get("offsets", []), patch)
    if not 1 <= target.outputs <= len(target.offsets):
        raise UsageError(
            f"target.outputs is {target.outputs} and target.offsets has {len(target.offsets)}; "
            f"set target.outputs from 1 to {len(target.offsets)}"
        )


def _offsets(key: str, offsets: list[list[int]], patch: list[int]) -> None:
    for number, offset in enumerate(offsets):
        if len(offset) != 3 or not any(offset):
            raise UsageError(f"{key}[{number}] is {offset}; it must be z y x, not all 0")
        if offset in offsets[:number]:
            raise UsageError(f"{key} holds {offset} twice")
        if any(abs(o) >= size for o, size in zip(offset, patch)):
            raise UsageError(
                f"{key}[{number}] {offset} leaves the crop, model.patch_size {patch}; make the crop larger"
            )


def _model(config: Config) -> None:
    model = config.model
    _least("model.patch_size", min(model.patch_size), 1)
    if not model.widths or min(model.widths) < 1:
        raise UsageError(f"model.widths is {model.widths}; give the channels of each level")
    if not model.name.startswith("monai:"):
        for name in ("isotropic", "kernels"):
            values = getattr(model, name)
            if values and len(values) != len(model.widths):
                raise UsageError(
                    f"model.{name} has {len(values)} entries and model.widths {len(model.widths)}; "
                    "give one a level"
                )
    for number, kernel in enumerate(model.kernels):
        if len(kernel) != 3 or any(k < 1 or k % 2 == 0 for k in kernel):
            raise UsageError(f"model.kernels[{number}] is {kernel}; it must be three odd sizes, z y x")
    patch = config.inference.patch_size
    if patch:
        _least("inference.patch_size", min(patch), 1)
    overlap = config.inference.overlap
    for o, size in zip(overlap or [], patch or model.patch_size):
        if not 0 <= o < size:
            raise UsageError(
                f"inference.overlap is {overlap}; it must be less than the patch, "
                f"{patch or model.patch_size}, and not below 0"
            )


def _solver(config: Config) -> None:
    solver, system = config.solver, config.system
    if solver.lr <= 0:
        raise UsageError(f"solver.lr is {solver.lr}; it must be above 0")
    for name in ("iterations", "batch", "accumulate", "save_every"):
        _least(f"solver.{name}", getattr(solver, name), 1)
    for name in ("warmup", "weight_decay", "clip", "validate_every", "keep_best", "early_stop"):
        _least(f"solver.{name}", getattr(solver, name), 0)
    for name, value in (
        ("ema", solver.ema),
        ("momentum", solver.momentum),
        *(("betas", b) for b in solver.betas),
    ):
        if not 0 <= value < 1:
            raise UsageError(f"solver.{name} is {value}; it must be from 0 to less than 1")
    if solver.gamma <= 0:
        raise UsageError(f"solver.gamma is {solver.gamma}; it must be above 0")
    if sorted(set(solver.steps)) != solver.steps or (solver.steps and solver.steps[0] < 1):
        raise UsageError(f"solver.steps is {solver.steps}; iterations must grow from 1 on")
    if solver.early_stop and not config.data.val_images:
        raise UsageError("solver.early_stop needs data.val_images, which is empty")
    _least("system.workers", system.workers, 0)
    if system.gpus is not None:
        _least("system.gpus", system.gpus, 0)
    _least("monitor.log_every", config.monitor.log_every, 1)
    _least("monitor.image_every", config.monitor.image_every, 0)


def _augment(config: Config) -> None:
    for name, settings in config.augment.items():
        _fraction(f"augment.{name}.p", settings.get("p", 0.0))
    complete(config.augment, config.model.patch_size)


def _least(key: str, value: float, least: int) -> None:
    if value < least:
        raise UsageError(f"{key} is {value}; it must be at least {least}")


def _fraction(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{key} is {value}; it must be from 0 to 1")
