"""What each of segflow's keys is, given PyTC's: small rules, each with the keys that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segflow.errors import UsageError, did_you_mean
from segflow.training import pytc_targets as targets
from segflow.training.pytc_keys import AUGMENTATIONS, ONLY_HERE, READ
from segflow.training.values import shown

Made = dict[str, Any]


class Reader:
    """PyTC's values, set or default; it remembers which were asked for, and what rules note."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.asked: set[str] = set()
        self.notes: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.values.get(key, READ[key][1])

    def given(self, key: str) -> bool:
        """Whether ``key`` is set."""
        self.asked.add(key)
        return key in self.values


Rule = Callable[[Reader], Made]


def _same(key: str, name: str) -> Rule:
    return lambda r: {name: r[key]}


def _at_least_0(key: str, name: str) -> Rule:
    return lambda r: {name: max(0, r[key])}


def _word(key: str, name: str, words: dict[str, str]) -> Rule:
    def rule(r: Reader) -> Made:
        if r[key] not in words:
            hint = did_you_mean(r[key], list(words))
            raise UsageError(f"{key} is {shown(r[key])}{hint}; it must be one of {', '.join(words)}")
        return {name: words[r[key]]}

    return rule


def _gpus(r: Reader) -> Made:
    return {"system.gpus": None if r["SYSTEM.NUM_GPUS"] else 0}


def _workers(r: Reader) -> Made:
    gpus = r["SYSTEM.NUM_GPUS"] if r.given("SYSTEM.NUM_GPUS") else 1
    cpus = r["SYSTEM.NUM_CPUS"]
    return {"system.workers": max(1, cpus // max(1, gpus)) if cpus > 0 else 0}


def _precision(r: Reader) -> Made:
    mixed = r["MODEL.MIXED_PRECESION"] or not r.given("MODEL.MIXED_PRECESION")
    return {"system.precision": "auto" if mixed else "float32"}


def _network(r: Reader) -> Made:
    name, block = r["MODEL.ARCHITECTURE"], r["MODEL.BLOCK_TYPE"]
    monai = {"unetr": "monai:UNETR", "swinunetr": "monai:SwinUNETR"}
    if name in monai:
        return {"model.name": monai[name], "model.options": _transformer(r, name)}
    if name not in ("unet_3d", "unet_plus_3d", "fpn_3d"):
        hint = did_you_mean(name, ["unet_3d", "unet_plus_3d", "fpn_3d", *monai])
        raise UsageError(
            f"MODEL.ARCHITECTURE is '{name}'{hint}; segflow reads unet_3d, unet_plus_3d, fpn_3d, "
            "unetr and swinunetr"
        )
    if name != "unet_3d":
        r.notes.append(f"MODEL.ARCHITECTURE {name} (unet_3d is built)")
    if block not in ("residual", "residual_pa", "residual_se", "residual_se_pa"):
        r.notes.append(f"MODEL.BLOCK_TYPE {block} (residual is built)")
        block = "residual"
    options = {
        "block": block,
        "pad_mode": r["MODEL.PAD_MODE"],
        "pooling": r["MODEL.POOLING_LAYER"],
        "all_isotropic": r["DATASET.IS_ISOTROPIC"],
        "mean": r["DATASET.MEAN"],
        "std": r["DATASET.STD"],
    }
    return {"model.name": "unet_3d", "model.options": options}


def _transformer(r: Reader, name: str) -> Made:
    if name == "swinunetr":
        keys = {"feature_size": "SWIN_UNETR_FEATURE_SIZE", "use_checkpoint": "USE_CHECKPOINT"}
    else:
        keys = {"feature_size": "UNETR_FEATURE_SIZE", "hidden_size": "HIDDEN_SIZE", "mlp_dim": "MLP_DIM",
                "num_heads": "UNETR_NUM_HEADS", "img_size": "INPUT_SIZE"}  # fmt: skip
    options = {ours: r[f"MODEL.{key}"] for ours, key in keys.items()}
    if name == "unetr":
        options["multiple"] = r["MODEL.INPUT_SIZE"]  # it takes this size only
    return options | {"mean": r["DATASET.MEAN"], "std": r["DATASET.STD"]}


def _levels(r: Reader) -> Made:
    widths = r["MODEL.FILTERS"]
    return {
        "model.widths": widths,
        "model.isotropic": r["MODEL.ISOTROPY"][: len(widths)],
        "model.kernels": [],
    }


def _sizes(r: Reader) -> Made:
    for section in ("MODEL", "INFERENCE"):
        size, out = r[f"{section}.INPUT_SIZE"], r[f"{section}.OUTPUT_SIZE"]
        if out and out != size:
            r.notes.append(f"{section}.OUTPUT_SIZE (it is {section}.INPUT_SIZE)")
    if r["MODEL.IN_PLANES"] != 1:
        raise UsageError(f"MODEL.IN_PLANES is {r['MODEL.IN_PLANES']}; images here have one channel")
    if r["DATASET.DO_2D"]:
        raise UsageError("DATASET.DO_2D is true; networks here are 3-D")
    return {"model.patch_size": r["MODEL.INPUT_SIZE"]}


def _targets(r: Reader) -> Made:
    """Make a head for each target, the first affinity before the others, each with its losses."""
    options = r["MODEL.TARGET_OPT"]
    try:
        heads = [targets.head(option) for option in options]
    except UsageError as error:
        raise UsageError(f"MODEL.TARGET_OPT: {error}") from None
    if r.given("MODEL.OUT_PLANES") and targets.channels(heads) != r["MODEL.OUT_PLANES"]:
        raise UsageError(
            f"MODEL.OUT_PLANES is {r['MODEL.OUT_PLANES']}, but MODEL.TARGET_OPT {options} makes "
            f"{targets.channels(heads)} channels"
        )
    r["MODEL.OUTPUT_ACT"]  # each loss here knows its own activation
    rows = [r[f"MODEL.{name}"] for name in ("LOSS_OPTION", "LOSS_WEIGHT", "WEIGHT_OPT")]
    widths = [r[f"MODEL.LABEL_{name}"] or [0] for name in ("EROSION", "DILATION")]
    widths = [w * len(heads) if len(w) == 1 else w for w in widths]
    names = (
        "MODEL.LOSS_OPTION",
        "MODEL.LOSS_WEIGHT",
        "MODEL.WEIGHT_OPT",
        "MODEL.LABEL_EROSION",
        "MODEL.LABEL_DILATION",
    )
    for name, row in zip(names, (*rows, *widths)):
        if len(row) != len(heads):
            raise UsageError(
                f"{name} has {len(row)} entries and MODEL.TARGET_OPT {len(heads)}; give one for each"
            )
    try:
        terms = [targets.losses(n, w, b, r.notes.append) for n, w, b in zip(*rows)]
    except UsageError as error:
        raise UsageError(f"MODEL.LOSS_OPTION: {error}") from None
    kinds = [head["kind"] for head in heads]
    first = kinds.index("affinity") if "affinity" in kinds else 0
    order = [first, *(i for i in range(len(heads)) if i != first)]
    return _arranged([heads[i] for i in order], [[w[i] for i in order] for w in widths]) | {
        "loss": [terms[i] for i in order]
    }


def _arranged(heads: list[Made], widths: list[list[int]]) -> Made:
    """Give the section ``target``: what the first head has holds for all, unless they say otherwise."""
    offsets = heads[0].get("offsets", [])
    for head, *own in zip(heads, *widths):
        if head.get("offsets") == offsets:
            del head["offsets"]
        for name, width, common in zip(("erosion", "dilation"), own, (w[0] for w in widths)):
            if width != common:
                head[name] = width
    return {"target.heads": heads, "target.offsets": offsets, "target.outputs": max(1, len(offsets)),
            "target.erosion": widths[0][0], "target.dilation": widths[1][0]}  # fmt: skip


def _paths(names: list[str] | None, folder: str | None, absolute: bool | None) -> list[str]:
    """Give the files that PyTC finds: names joined by @, lists, and the lines of a .txt."""
    found = []
    for name in (part.strip() for entry in names or [] for part in entry.split("@")):
        if not name:
            continue
        path = name if absolute or not folder else str(Path(folder) / name)
        if path.endswith(".txt") and Path(path).is_file():
            lines = [line.strip() for line in Path(path).read_text().splitlines()]
            found += _paths([line for line in lines if line], folder, absolute)
        else:
            found.append(path)
    return found


def _volumes(key: str, name: str) -> Rule:
    return lambda r: {name: _paths(r[key], r["DATASET.INPUT_PATH"], r["DATASET.IS_ABSOLUTE_PATH"])}


def _output(r: Reader) -> Made:
    return {"output_path": r["DATASET.OUTPUT_PATH"]} if r["DATASET.OUTPUT_PATH"] else {}


def _predicted(r: Reader) -> Made:
    names = r["INFERENCE.IMAGE_NAME"] or r["DATASET.IMAGE_NAME"]
    folder = r["INFERENCE.INPUT_PATH"] or r["DATASET.INPUT_PATH"]
    absolute = r["INFERENCE.IS_ABSOLUTE_PATH"]
    return {
        "inference.images": _paths(
            names, folder, r["DATASET.IS_ABSOLUTE_PATH"] if absolute is None else absolute
        )
    }


def _patches(r: Reader) -> Made:
    size, stride = r["INFERENCE.INPUT_SIZE"], r["INFERENCE.STRIDE"]
    overlap = stride and [max(0, a - b) for a, b in zip(size or r["MODEL.INPUT_SIZE"], stride)]
    return {"inference.patch_size": size, "inference.overlap": overlap}


def _result(r: Reader) -> Made:
    name = r["INFERENCE.OUTPUT_NAME"]
    return {
        "inference.output_path": r["INFERENCE.OUTPUT_PATH"] or "",
        "inference.output_name": name if name.endswith((".h5", ".hdf5")) else f"{name}.h5",
    }


def _variants(r: Reader) -> Made:
    number = r["INFERENCE.AUG_NUM"]
    if number not in (None, 0, 1, 16):
        r.notes.append(f"INFERENCE.AUG_NUM {number} (all 16 variants)")
    return {"inference.augment": number not in (None, 0, 1)}


def _clip(r: Reader) -> Made:
    on, value = r["SOLVER.CLIP_GRADIENTS.ENABLED"], r["SOLVER.CLIP_GRADIENTS.CLIP_VALUE"]
    if on:
        r.notes.append("SOLVER.CLIP_GRADIENTS (by the global norm)")
    return {"solver.clip": value if on else 0.0}


def _average(r: Reader) -> Made:
    if r["SOLVER.SWA.ENABLED"]:
        r.notes.append("SOLVER.SWA (exponential averages, solver.ema 0.999)")
    return {"solver.ema": 0.999 if r["SOLVER.SWA.ENABLED"] else 0.0}


def _periods(r: Reader) -> Made:
    log, image = r["MONITOR.ITERATION_NUM"]
    return {"monitor.log_every": log, "monitor.image_every": image}


def _augmentation(theirs: str) -> Rule:
    name, _, own = AUGMENTATIONS[theirs]

    def rule(r: Reader) -> Made:
        section = f"AUGMENTOR.{theirs}"
        on = r["AUGMENTOR.ENABLED"] and r[f"{section}.ENABLED"]
        made = {"p": r[f"{section}.P"] if on else 0.0}
        made |= {ours: r[f"{section}.{key}"] for key, (ours, _, _) in own.items() if ours}
        if theirs == "ROTATE":
            made["any_angle"] = not r[f"{section}.ROT90"]
        elif theirs == "FLIP":
            made["transpose_z"] = bool(r[f"{section}.DO_ZTRANS"])
        elif theirs == "MISSINGPARTS":
            made["rate"] = r[f"{section}.P"]
        elif theirs == "ELASTIC":
            made["amplitude"] = _amplitude(r[f"{section}.ALPHA"], made["sigma"])
        return {f"augment.{name}.{key}": value for key, value in made.items()}

    return rule


def _amplitude(alpha: float, sigma: float) -> float:
    """Give the standard deviation, voxels, of alpha times uniform(-1, 1) blurred by sigma in a plane."""
    return round(alpha / math.sqrt(3) / (2 * math.sqrt(math.pi) * sigma), 6) if sigma > 0 else alpha


def _not_theirs(r: Reader) -> Made:
    return {f"augment.{name}.p": 0.0 for name in ONLY_HERE} | {"solver.keep_best": 0}


NORM_WORDS = {"bn": "bn", "sync_bn": "bn", "gn": "gn", "in": "in", "none": "none"}
ACT_WORDS = {"relu": "relu", "leaky": "leaky_relu", "leaky_relu": "leaky_relu", "elu": "elu",
             "gelu": "gelu", "silu": "silu", "swish": "silu", "none": "none"}  # fmt: skip
SCHEDULE_WORDS = {
    "WarmupCosineLR": "warmup_cosine", "WarmupMultiStepLR": "warmup_multistep",
    "MultiStepLR": "multistep", "ReduceLROnPlateau": "plateau",
}  # fmt: skip
PAD_WORDS = {
    "reflect": "reflect",
    "constant": "constant",
    "symmetric": "symmetric",
    "replicate": "edge",
    "edge": "edge",
}

RULES: list[Rule] = [
    _gpus, _workers, _precision, _network, _levels, _sizes, _targets, _output,
    _predicted, _patches, _result, _variants, _clip, _average, _periods, _not_theirs,
    _volumes("DATASET.IMAGE_NAME", "data.images"),
    _volumes("DATASET.LABEL_NAME", "data.labels"),
    _volumes("DATASET.VALID_MASK_NAME", "data.masks"),
    _volumes("DATASET.VAL_IMAGE_NAME", "data.val_images"),
    _volumes("DATASET.VAL_LABEL_NAME", "data.val_labels"),
    _volumes("DATASET.VAL_VALID_MASK_NAME", "data.val_masks"),
    _word("DATASET.PAD_MODE", "data.pad_mode", PAD_WORDS),
    _word("MODEL.NORM_MODE", "model.norm", NORM_WORDS),
    _word("MODEL.ACT_MODE", "model.act", ACT_WORDS),
    _word("SOLVER.NAME", "solver.optimizer", {"SGD": "sgd", "Adam": "adam", "AdamW": "adamw"}),
    _word("SOLVER.LR_SCHEDULER_NAME", "solver.schedule", SCHEDULE_WORDS),
    _word("INFERENCE.AUG_MODE", "inference.augment_mode", {"mean": "mean", "min": "min", "max": "max"}),
    _at_least_0("DATASET.REJECT_SAMPLING.SIZE_THRES", "data.reject_foreground"),
    _at_least_0("DATASET.REJECT_SAMPLING.DIVERSITY", "data.reject_objects"),
    *(_same(key, name) for key, name in {
        "DATASET.PAD_SIZE": "data.pad",
        "DATASET.VALID_RATIO": "data.valid_ratio",
        "DATASET.REJECT_SAMPLING.P": "data.reject_p",
        "DATASET.REJECT_SAMPLING.NUM_TRIAL": "data.reject_tries",
        "SOLVER.ITERATION_STEP": "solver.accumulate",
        "SOLVER.ITERATION_SAVE": "solver.save_every",
        "SOLVER.ITERATION_TOTAL": "solver.iterations",
        "SOLVER.ITERATION_VAL": "solver.validate_every",
        "SOLVER.ITERATION_RESTART": "solver.restart",
        "SOLVER.BASE_LR": "solver.lr",
        "SOLVER.MOMENTUM": "solver.momentum",
        "SOLVER.BETAS": "solver.betas",
        "SOLVER.WEIGHT_DECAY": "solver.weight_decay",
        "SOLVER.GAMMA": "solver.gamma",
        "SOLVER.STEPS": "solver.steps",
        "SOLVER.WARMUP_ITERS": "solver.warmup",
        "SOLVER.SAMPLES_PER_BATCH": "solver.batch",
    }.items()),
    *(_augmentation(name) for name in AUGMENTATIONS),
]  # fmt: skip
