"""The keys of PyTC 1.x (PyTorch Connectomics, YACS): what each takes, and its default.

They are those of its ``defaults.py`` of 2025; segflow reads the first table and knows what the second
means, which has no counterpart here.
"""

from __future__ import annotations

from typing import Any

from segflow.training.schema import AUGMENT

Names = list[str] | None

READ: dict[str, tuple[Any, Any]] = {
    "SYSTEM.NUM_GPUS": (int, 4),
    "SYSTEM.NUM_CPUS": (int, 4),
    "MODEL.ARCHITECTURE": (str, "unet_3d"),
    "MODEL.BLOCK_TYPE": (str, "residual"),
    "MODEL.FILTERS": (list[int], [28, 36, 48, 64, 80]),
    "MODEL.ISOTROPY": (list[bool], [False, False, False, True, True]),
    "MODEL.TARGET_OPT": (list[str], ["0"]),
    "MODEL.LABEL_EROSION": (list[int] | None, None),
    "MODEL.LABEL_DILATION": (list[int] | None, None),
    "MODEL.WEIGHT_OPT": (list[list[str]], [["1"]]),
    "MODEL.LOSS_OPTION": (list[list[str]], [["WeightedBCE"]]),
    "MODEL.LOSS_WEIGHT": (list[list[float]], [[1.0]]),
    "MODEL.IN_PLANES": (int, 1),
    "MODEL.OUT_PLANES": (int, 1),
    "MODEL.PAD_MODE": (str, "replicate"),
    "MODEL.NORM_MODE": (str, "bn"),
    "MODEL.ACT_MODE": (str, "elu"),
    "MODEL.POOLING_LAYER": (bool, False),
    "MODEL.MIXED_PRECESION": (bool, False),
    "MODEL.INPUT_SIZE": (list[int], [8, 256, 256]),
    "MODEL.SWIN_UNETR_FEATURE_SIZE": (int, 48),
    "MODEL.USE_CHECKPOINT": (bool, False),
    "MODEL.UNETR_FEATURE_SIZE": (int, 16),
    "MODEL.HIDDEN_SIZE": (int, 768),
    "MODEL.MLP_DIM": (int, 3072),
    "MODEL.UNETR_NUM_HEADS": (int, 12),
    "MODEL.OUTPUT_SIZE": (list[int] | None, None),
    "MODEL.OUTPUT_ACT": (list[list[str]], [["none"]]),
    "DATASET.IMAGE_NAME": (Names, None),
    "DATASET.LABEL_NAME": (Names, None),
    "DATASET.VALID_MASK_NAME": (Names, None),
    "DATASET.VAL_IMAGE_NAME": (Names, None),
    "DATASET.VAL_LABEL_NAME": (Names, None),
    "DATASET.VAL_VALID_MASK_NAME": (Names, None),
    "DATASET.INPUT_PATH": (str | None, ""),
    "DATASET.OUTPUT_PATH": (str | None, None),
    "DATASET.IS_ABSOLUTE_PATH": (bool, False),
    "DATASET.IS_ISOTROPIC": (bool, False),
    "DATASET.DO_2D": (bool, False),
    "DATASET.PAD_SIZE": (list[int], [2, 64, 64]),
    "DATASET.PAD_MODE": (str, "reflect"),
    "DATASET.VALID_RATIO": (float, 0.5),
    "DATASET.REJECT_SAMPLING.SIZE_THRES": (int, -1),
    "DATASET.REJECT_SAMPLING.DIVERSITY": (int, -1),
    "DATASET.REJECT_SAMPLING.P": (float, 0.95),
    "DATASET.REJECT_SAMPLING.NUM_TRIAL": (int, 50),
    "DATASET.MEAN": (float, 0.5),
    "DATASET.STD": (float, 0.5),
    "SOLVER.NAME": (str, "SGD"),
    "SOLVER.LR_SCHEDULER_NAME": (str, "MultiStepLR"),
    "SOLVER.ITERATION_STEP": (int, 1),
    "SOLVER.ITERATION_SAVE": (int, 5000),
    "SOLVER.ITERATION_TOTAL": (int, 40000),
    "SOLVER.ITERATION_VAL": (int, 5000),
    "SOLVER.ITERATION_RESTART": (bool, False),
    "SOLVER.BASE_LR": (float, 0.001),
    "SOLVER.MOMENTUM": (float, 0.9),
    "SOLVER.BETAS": (list[float], [0.9, 0.999]),
    "SOLVER.WEIGHT_DECAY": (float, 0.0001),
    "SOLVER.GAMMA": (float, 0.1),
    "SOLVER.STEPS": (list[int], [30000, 35000]),
    "SOLVER.WARMUP_ITERS": (int, 1000),
    "SOLVER.SAMPLES_PER_BATCH": (int, 2),
    "SOLVER.CLIP_GRADIENTS.ENABLED": (bool, False),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (float, 1.0),
    "SOLVER.SWA.ENABLED": (bool, False),
    "MONITOR.ITERATION_NUM": (list[int], [20, 200]),
    "INFERENCE.INPUT_SIZE": (list[int] | None, None),
    "INFERENCE.OUTPUT_SIZE": (list[int] | None, None),
    "INFERENCE.INPUT_PATH": (str | None, None),
    "INFERENCE.IMAGE_NAME": (Names, None),
    "INFERENCE.OUTPUT_PATH": (str | None, ""),
    "INFERENCE.OUTPUT_NAME": (str, "result.h5"),
    "INFERENCE.IS_ABSOLUTE_PATH": (bool | None, None),
    "INFERENCE.STRIDE": (list[int] | None, None),
    "INFERENCE.AUG_MODE": (str, "mean"),
    "INFERENCE.AUG_NUM": (int | None, None),
    "AUGMENTOR.ENABLED": (bool, True),
}

LENGTHS = dict.fromkeys(
    ("MODEL.INPUT_SIZE", "DATASET.PAD_SIZE", "INFERENCE.INPUT_SIZE", "INFERENCE.STRIDE"), 3
) | {"SOLVER.BETAS": 2, "MONITOR.ITERATION_NUM": 2}

# Segflow's name and parameter of each augmentation's own keys; where it is None the key is read apart.
AUGMENTATIONS: dict[str, tuple[str, float, dict[str, tuple[str | None, Any, Any]]]] = {
    "ROTATE": ("rotate", 1.0, {"ROT90": (None, bool, True)}),
    "RESCALE": ("rescale", 0.5, {"FIX_ASPECT": ("fix_aspect", bool, False)}),
    "FLIP": ("flip", 1.0, {"DO_ZTRANS": (None, int, 0)}),
    "ELASTIC": ("elastic", 0.75, {"ALPHA": (None, float, 16.0), "SIGMA": ("sigma", float, 4.0)}),
    "GRAYSCALE": ("grayscale", 0.75, {}),
    "MISSINGPARTS": ("missing_parts", 0.9, {"ITER": ("size", int, 64)}),
    "MISSINGSECTION": ("missing_section", 0.5, {"NUM_SECTION": ("sections", int, 2)}),
    "MISALIGNMENT": ("misalignment", 0.5, {
        "DISPLACEMENT": ("displacement", int, 16), "ROTATE_RATIO": ("rotate_ratio", float, 0.5)}),
    "MOTIONBLUR": ("motion_blur", 0.5, {
        "SECTIONS": ("sections", int, 2), "KERNEL_SIZE": ("size", int, 11)}),
    "CUTBLUR": ("cut_blur", 0.5, {
        "LENGTH_RATIO": ("length_ratio", float, 0.4), "DOWN_RATIO_MIN": ("down_min", float, 2.0),
        "DOWN_RATIO_MAX": ("down_max", float, 8.0), "DOWNSAMPLE_Z": ("downsample_z", bool, False)}),
    "CUTNOISE": ("cut_noise", 0.75, {
        "LENGTH_RATIO": ("length_ratio", float, 0.4), "SCALE": ("scale", float, 0.3)}),
}  # fmt: skip
for _name, (_, _p, _own) in AUGMENTATIONS.items():
    READ |= {f"AUGMENTOR.{_name}.ENABLED": (bool, True), f"AUGMENTOR.{_name}.P": (float, _p)}
    READ |= {f"AUGMENTOR.{_name}.{_key}": (_kind, _value) for _key, (_, _kind, _value) in _own.items()}
ONLY_HERE = [name for name in AUGMENT if name not in {a[0] for a in AUGMENTATIONS.values()}]

ALWAYS = object()  # it is named whatever its value is

_NEVER = """
    SYSTEM.DISTRIBUTED SYSTEM.PARALLEL SYSTEM.DISTRIBUTED_BACKEND SYSTEM.DEBUG MODEL.BACKBONE
    MODEL.BLOCKS MODEL.KERNEL_SIZES MODEL.ATTENTION MODEL.EMBEDDING MODEL.HEAD_DEPTH MODEL.FINETUNE
    MODEL.EXACT MODEL.SIZE_MATCH MODEL.PRE_MODEL MODEL.PRE_MODEL_LAYER MODEL.PRE_MODEL_ITER
    MODEL.DEPTHS MODEL.SWIN_UNETR_NUM_HEADS MODEL.NORM_NAME
    MODEL.SWIN_UNETR_DROPOUT_RATE MODEL.ATTN_DROP_RATE MODEL.DROPOUT_PATH_RATE MODEL.NORMALIZE
    MODEL.SPATIAL_DIMS MODEL.DOWNSAMPLE MODEL.USE_V2
    MODEL.POS_EMBED MODEL.CONV_BLOCK
    MODEL.RES_BLOCK MODEL.UNETR_DROPOUT_RATE DATASET.SCALE_FACTOR DATASET.DATA_CHUNK_NUM
    DATASET.DATA_CHUNK_IND DATASET.CHUNK_IND_SPLIT DATASET.DATA_COORD_RANGE
    DATASET.DATA_CHUNK_STRIDE DATASET.DATA_CHUNK_ITER DATASET.DISTRIBUTED
    AUGMENTOR.ADDITIONAL_TARGETS_NAME AUGMENTOR.ADDITIONAL_TARGETS_TYPE
    AUGMENTOR.COPYPASTE.AUG_THRES AUGMENTOR.COPYPASTE.P SOLVER.CLIP_GRADIENTS.NORM_TYPE
    SOLVER.CLIP_GRADIENTS.CLIP_TYPE SOLVER.SWA.LR_FACTOR SOLVER.SWA.START_ITER SOLVER.SWA.MERGE_ITER
    SOLVER.SWA.BN_UPDATE_ITER MONITOR.LOG_OPT MONITOR.VIS_OPT INFERENCE.PAD_SIZE INFERENCE.BLENDING
    INFERENCE.DO_SINGLY_START_INDEX INFERENCE.DO_SINGLY_STEP INFERENCE.TEST_NUM INFERENCE.TEST_ID
    INFERENCE.SAMPLES_PER_BATCH
"""

# Keys that have no meaning here, and the value at which segflow does as PyTC does.
NO_MEANING: dict[str, Any] = dict.fromkeys(_NEVER.split(), ALWAYS) | {
    "MODEL.DEPLOY_MODE": False,
    "MODEL.TARGET_OPT_MULTISEG_SPLIT": None,
    "MODEL.LOSS_KWARGS_KEY": None,
    "MODEL.LOSS_KWARGS_VAL": None,
    "MODEL.REGU_OPT": None,
    "MODEL.REGU_TARGET": None,
    "MODEL.REGU_WEIGHT": None,
    "MODEL.RETURN_FEATS": None,
    "MODEL.AUX_OUT": False,
    "DATASET.DATA_SCALE": [1, 1, 1],
    "DATASET.IMAGE_SCALE": None,
    "DATASET.LABEL_SCALE": None,
    "DATASET.VALID_MASK_SCALE": None,
    "DATASET.VAL_PAD_SIZE": [0, 0, 0],
    "DATASET.LABEL_VAST": False,
    "DATASET.LABEL_BINARY": False,
    "DATASET.LABEL_MAG": 0,
    "DATASET.LOAD_2D": False,
    "DATASET.DROP_CHANNEL": False,
    "DATASET.REDUCE_LABEL": True,
    "DATASET.ENSURE_MIN_SIZE": False,
    "DATASET.NORMALIZE_RANGE": True,
    "DATASET.DO_CHUNK_TITLE": 0,
    "DATASET.MATCH_ACT": "none",
    "AUGMENTOR.SMOOTH": False,
    "AUGMENTOR.COPYPASTE.ENABLED": False,
    "SOLVER.BIAS_LR_FACTOR": 1,
    "SOLVER.WEIGHT_DECAY_BIAS": 0,
    "SOLVER.WEIGHT_DECAY_NORM": 0,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_METHOD": "linear",
    "INFERENCE.TENSORSTORE_PATH": None,
    "INFERENCE.DO_CHUNK_TITLE": 0,
    "INFERENCE.DO_SINGLY": False,
    "INFERENCE.UNPAD": True,
    "INFERENCE.OUTPUT_ACT": ["sigmoid"],
    "INFERENCE.DATA_SCALE": None,
    "INFERENCE.OUTPUT_SCALE": [1, 1, 1],
    "INFERENCE.DO_EVAL": True,
    "INFERENCE.MODEL_RETURN_FEATS": None,
}
NO_MEANING |= {f"AUGMENTOR.{name}.SKIP": [] for name in (*AUGMENTATIONS, "COPYPASTE")}

PYTC_KEYS = [*READ, *NO_MEANING]
PYTC_SECTIONS = {key.rpartition(".")[0] for key in PYTC_KEYS} | {"SOLVER", "AUGMENTOR"}
