"""The keys of ``segflow train``: their types, defaults and meaning.

Sizes, offsets and boxes are in voxels, z y x. Each field's ``doc`` becomes its comment in the YAML
that ``--print-config`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NEAREST = [[0, 0, -1], [0, -1, 0], [-1, 0, 0]]

PRECISIONS = ("auto", "float32", "bf16")
PAD_MODES = ("reflect", "constant", "edge", "symmetric")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("warmup_cosine", "warmup_multistep", "multistep", "plateau", "constant")
NORMS = ("bn", "gn", "in", "none")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "none")
SCORES = ("voi", "are", "loss")
AUGMENT_MODES = ("mean", "min", "max")
LOSSES = ("bce", "dice", "focal", "mse")
LOSS_DEFAULTS: dict[str, Any] = {"name": "bce", "weight": 1.0, "balance": False, "cap": 19.0}
LOSS_OWN: dict[str, dict[str, Any]] = {"dice": {"smooth": 100.0}, "focal": {"gamma": 2.0, "alpha": 0.25}}
HEAD_KEYS: dict[str, dict[str, Any]] = {  # with a value of the type that each takes
    "affinity": {"offsets": [[0, 0, -1]]},
    "foreground": {"ids": [1]},
    "contour": {"width": 1, "background": True},
    "distance": {"mode": "2d", "scale": 1.0},
    "lsd": {"sigma": 80.0},
}
HEAD_KEYS = {kind: {"erosion": 1, "dilation": 0, **keys} for kind, keys in HEAD_KEYS.items()}
HEADS = tuple(HEAD_KEYS)


def key(default: Any, doc: str, choices: tuple[str, ...] = (), length: int = 0) -> Any:
    """Give a dataclass field with its default, its comment, the words allowed, and a list's length."""
    metadata = {"doc": doc, "choices": choices, "length": length}
    if isinstance(default, list | dict):
        import copy

        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class System:
    """The machine."""

    gpus: int | None = key(None, "GPUs of this host; null: all visible, or the CPU; 0: the CPU")
    workers: int = key(4, "processes that load and augment, for each GPU; 0: none")
    seed: int = key(0, "of every random stream; each rank and worker has its own from it")
    precision: str = key(
        "auto", "auto: bf16 on a GPU that has it; float32, bf16: with float32 weights", PRECISIONS
    )
    compile: bool = key(False, "torch.compile the network")
    channels_last: bool = key(False, "keep tensors as channels_last_3d")


@dataclass
class Data:
    """The volumes."""

    images: list[str] = key([], "tif, h5 (FILE.h5:/dataset), zarr or precomputed")
    labels: list[str] = key([], "one for each image; 0 belongs to no object")
    masks: list[str] = key([], "where labels are known (not 0); one for each image, '' for none")
    weights: list[float] = key([], "how often a volume is drawn; default: by its number of crop positions")
    boxes: list[str] = key([], "part of each volume, z0-z1_y0-y1_x0-x1 in voxels; '' for all")
    dataset_image: str | None = key(None, "dataset in h5 or zarr images; null: the only one")
    dataset_label: str | None = key(None, "dataset in h5 or zarr labels; null: the only one")
    val_images: list[str] = key([], "volumes that are never trained on and choose the best checkpoint")
    val_labels: list[str] = key([], "one for each of val_images")
    val_masks: list[str] = key([], "as masks")
    val_boxes: list[str] = key([], "as boxes")
    voxel_size: list[float] | None = key(None, "nm, z y x; null: what the images say", length=3)
    pad: list[int] = key([0, 0, 0], "voxels added on both sides of images and labels, z y x", length=3)
    pad_mode: str = key("reflect", "what is added", PAD_MODES)
    valid_ratio: float = key(0.5, "least fraction of a crop where labels are known")
    reject_foreground: int = key(0, "least voxels of a crop that are in objects; 0: any")
    reject_objects: int = key(0, "least objects in a crop; 0: any")
    reject_p: float = key(0.95, "probability to draw again when a crop has too little")
    reject_tries: int = key(50, "draws before a crop is used as it is")


@dataclass
class Target:
    """What is learned."""

    offsets: list[list[int]] = key(
        NEAREST,
        "of affinities: channel c joins voxel v to v + offsets[c], z y x; long ones after the nearest",
    )
    outputs: int = key(3, "how many of the first offsets the exported network answers")
    relabel: bool = key(True, "pieces of an object that do not touch in the crop are objects of their own")
    erosion: int = key(1, "voxels by which borders between objects are widened, in the section")
    dilation: int = key(0, "voxels by which objects grow into background, in the section")
    heads: list[dict[str, Any]] = key(
        [{"kind": "affinity"}],
        "channels follow in this order; kinds: affinity (offsets), foreground (ids), "
        "contour (width, background), distance (mode, scale), lsd (sigma); "
        "each may have its own erosion and dilation",
    )
    mask_first_planes: bool = key(True, "edges that leave the crop are unknown, not guessed")


@dataclass
class Model:
    """The network."""

    name: str = key("rsunet", "rsunet: residual symmetric U-Net; unet_3d: as PyTC's; monai:NAME: of MONAI")
    widths: list[int] = key([28, 36, 48, 64, 80], "channels of each level")
    kernels: list[list[int]] = key([], "size z y x of each level; []: 1 3 3, and 3 3 3 where isotropic")
    isotropic: list[bool] = key(
        [False, False, False, True, True], "levels with kernels 3 3 3 that are reached by halving z too"
    )
    norm: str = key("bn", "bn, gn, in or none", NORMS)
    act: str = key("relu", "relu, leaky_relu, elu, gelu, silu or none", ACTIVATIONS)
    patch_size: list[int] = key([16, 128, 128], "training crop, voxels, z y x", length=3)
    options: dict[str, Any] = key({}, "further arguments of the network")


@dataclass
class Solver:
    """The optimisation."""

    optimizer: str = key("adamw", "sgd, adam or adamw", OPTIMIZERS)
    lr: float = key(0.001, "learning rate")
    weight_decay: float = key(0.0001, "of weights; none of biases and norms")
    momentum: float = key(0.9, "of sgd")
    betas: list[float] = key([0.9, 0.999], "of adam and adamw", length=2)
    schedule: str = key("warmup_cosine", "of the learning rate", SCHEDULES)
    warmup: int = key(1000, "iterations of linear warm-up, from a thousandth of lr")
    gamma: float = key(0.1, "factor at each of steps (multistep) or at a plateau")
    steps: list[int] = key([30000, 35000], "iterations at which multistep schedules lower lr")
    iterations: int = key(40000, "optimiser steps in all")
    batch: int = key(2, "samples of each GPU for each forward pass")
    accumulate: int = key(1, "forward passes for each optimiser step")
    clip: float = key(1.0, "largest global norm of the gradient; 0: any")
    ema: float = key(0.999, "decay of the averaged weights, which are validated and exported; 0: none")
    save_every: int = key(5000, "iterations from checkpoint to checkpoint")
    validate_every: int = key(5000, "iterations from validation to validation; 0: at the end only")
    keep_best: int = key(3, "best checkpoints that are kept beside the newest; 0: all are kept")
    best_by: str = key("voi", "score of validation: voi, are (adapted Rand error) or loss", SCORES)
    early_stop: int = key(0, "validations without a better score before the end; 0: never")
    restart: bool = key(False, "--checkpoint gives weights only and iterations begin at 0")


@dataclass
class Monitor:
    """Logs."""

    log_every: int = key(20, "iterations from scalar to scalar")
    image_every: int = key(200, "iterations from picture to picture; 0: none")


@dataclass
class Inference:
    """``segflow train --inference``."""

    images: list[str] = key([], "volumes to predict")
    output_path: str = key("", "folder; '': output_path of the training")
    output_name: str = key("result.h5", "h5 file in it")
    patch_size: list[int] | None = key(None, "voxels, z y x; null: the training crop", length=3)
    overlap: list[int] | None = key(None, "voxels that patches share, z y x; null: half a patch", length=3)
    augment: bool = key(False, "average over flips and transposes")
    augment_mode: str = key("mean", "how variants are joined", AUGMENT_MODES)


@dataclass
class Config:
    """All keys; ``augment`` maps an augmentation's name to its settings, ``p`` its probability."""

    output_path: str = key("outputs/train", "folder of checkpoints, logs and model.pt")
    licence: str = key(
        "that of the training data and of its owner; see record",
        "what may be done with model.pt, in a line",
    )
    system: System = field(default_factory=System)
    data: Data = field(default_factory=Data)
    target: Target = field(default_factory=Target)
    augment: dict[str, dict[str, Any]] = field(default_factory=lambda: augment_defaults())
    model: Model = field(default_factory=Model)
    loss: list[list[dict[str, Any]]] = key(
        [[{**LOSS_DEFAULTS, "balance": True}, {**LOSS_DEFAULTS, "name": "dice", "weight": 0.5}]],
        f"a list for each of target.heads; names: {', '.join(LOSSES)}; "
        "balance: the rarer class weighs more, at most cap times; dice takes smooth, focal gamma and alpha",
    )
    solver: Solver = field(default_factory=Solver)
    monitor: Monitor = field(default_factory=Monitor)
    inference: Inference = field(default_factory=Inference)


AUGMENT: dict[str, dict[str, tuple[Any, str]]] = {
    "rotate": {"p": (1.0, "probability"), "any_angle": (False, "false: quarter turns in the section")},
    "rescale": {
        "p": (0.5, "probability"),
        "low": (0.8, "smallest factor in y and x"),
        "high": (1.25, "largest"),
        "fix_aspect": (False, "the same factor for y and x"),
        "z": (False, "in z too, by a factor of its own"),
    },
    "flip": {"p": (1.0, "probability"), "transpose_z": (False, "exchange z with x too; isotropic data only")},
    "elastic": {
        "p": (0.75, "probability"),
        "amplitude": (4.0, "standard deviation of the shift, voxels"),
        "sigma": (16.0, "smoothness of the field, voxels"),
    },
    "grayscale": {
        "p": (0.75, "probability"),
        "contrast": (0.3, "range of the factor"),
        "brightness": (0.3, "range of what is added, of 1"),
        "gamma": (1.0, "exponent between 2^-gamma and 2^gamma"),
        "mode": ("mix", "2d: each section its own; 3d: all alike; mix: by a coin"),
        "invert": (False, "by a coin, black becomes white"),
    },
    "missing_parts": {
        "p": (0.5, "probability"),
        "size": (64, "half width of the band, voxels; at most a quarter of the section"),
        "rate": (0.5, "probability for a section, unless the one before was hit"),
    },
    "missing_section": {"p": (0.5, "probability"), "sections": (2, "taken out, image and labels")},
    "blank_section": {
        "p": (0.1, "probability"),
        "sections": (2, "most that are hit"),
        "value": (-1.0, "their grey, 0 to 1; -1: black or any grey"),
    },
    "blur_section": {
        "p": (0.1, "probability"),
        "sections": (2, "most that are hit"),
        "sigma": (2.5, "largest, voxels"),
    },
    "misalignment": {
        "p": (0.5, "probability"),
        "displacement": (16, "largest shift in y and x, voxels"),
        "rotate_ratio": (0.5, "how many are rotations"),
        "slip": (0.5, "how many move one section only, not all from one on"),
        "relabel": (True, "parts of an object that no longer touch become objects"),
    },
    "motion_blur": {
        "p": (0.5, "probability"),
        "sections": (2, "blurred"),
        "size": (11, "of the kernel, voxels"),
    },
    "cut_blur": {
        "p": (0.5, "probability"),
        "length_ratio": (0.4, "side of the cuboid, of the crop's"),
        "down_min": (2.0, "least factor"),
        "down_max": (8.0, "largest factor"),
        "downsample_z": (False, "in z too"),
    },
    "cut_noise": {
        "p": (0.75, "probability"),
        "length_ratio": (0.4, "side of the cuboid, of the crop's"),
        "scale": (0.3, "of the noise, of 1"),
        "sigma": (0.0, "grain of the noise, voxels; 0: white"),
    },
}  # fmt: skip


def augment_defaults() -> dict[str, dict[str, Any]]:
    """Give every augmentation's settings."""
    return {name: {k: default for k, (default, _) in keys.items()} for name, keys in AUGMENT.items()}
