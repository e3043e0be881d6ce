"""The configuration of training: segflow's keys and PyTC's, merged, refused, and written back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.errors import UsageError
from segflow.training import config as conf
from segflow.training.config import as_dict, check, defaults, describe, from_dict, load, to_yaml
from segflow.training.schema import AUGMENT, HEAD_KEYS, LOSS_OWN, LOSSES
from segflow.training.values import parse

BASE = """\
SYSTEM:
  NUM_GPUS: 1
  NUM_CPUS: 4
AUGMENTOR:
  SMOOTH: False
MODEL:
  INPUT_SIZE: [17, 257, 257]
  OUTPUT_SIZE: [17, 257, 257]
  IN_PLANES: 1
  OUT_PLANES: 3
  TARGET_OPT: ["2"]
  LABEL_EROSION: 1
  LOSS_OPTION: [["WeightedBCEWithLogitsLoss", "DiceLoss"]]
  LOSS_WEIGHT: [[1.0, 0.5]]
  WEIGHT_OPT: [["1", "0"]]
  OUTPUT_ACT: [["none", "sigmoid"]]
  FILTERS: [32, 64, 96, 128, 160]
  NORM_MODE: gn
DATASET:
  IMAGE_NAME: train-input.tif
  LABEL_NAME: train-label.tif
  INPUT_PATH: data/snemi
  PAD_SIZE: [4, 64, 64]
SOLVER:
  LR_SCHEDULER_NAME: WarmupCosineLR
  BASE_LR: 0.02
  ITERATION_STEP: 1
  ITERATION_SAVE: 10000
  ITERATION_TOTAL: 150000
  SAMPLES_PER_BATCH: 2
MONITOR:
  ITERATION_NUM: [200, 1000]
INFERENCE:
  INPUT_SIZE: [17, 513, 513]
  OUTPUT_SIZE: [17, 513, 513]
  OUTPUT_ACT: [sigmoid]
  PAD_SIZE: [4, 32, 32]
  AUG_MODE: min
  AUG_NUM: None
  STRIDE: [8, 256, 256]
  SAMPLES_PER_BATCH: 4
  OUTPUT_NAME: result.h5
"""
NET = """\
MODEL:
  ARCHITECTURE: unet_3d
  BLOCK_TYPE: residual_se
DATASET:
  OUTPUT_PATH: outputs/unet
INFERENCE:
  OUTPUT_PATH: outputs/unet/test
"""


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a YAML file and gives its path."""

    def make(text: str, name: str = "net.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return make


@pytest.fixture
def pytc(write):
    """Give a function that loads the two PyTC files, a third's text in the second, and overrides."""
    base = write(BASE, "base.yaml")

    def make(*overrides: str, net: str = NET, whole: str = ""):
        return load(write(whole, "base.yaml") if whole else base, write(net), overrides)

    return make


def refused(function, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is written is read back


def test_the_defaults_are_read_back_and_every_key_has_its_comment(write):
    text = to_yaml(defaults())
    assert load(None, write(text)) == (defaults(), [])
    assert load(None, write(to_yaml(defaults(), comments=False)))[0] == defaults()
    values = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    assert len(values) > 100
    assert [line for line in values if "  # " not in line] == []
    assert list(yaml.safe_load(text)) == list(as_dict(defaults()))


def test_a_file_of_nothing_is_the_defaults(write):
    assert load() == (defaults(), [])
    assert load(write("# none\n"), write("solver:\n", "b.yaml")) == (defaults(), [])


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
BY_TYPE = {bool: st.booleans(), int: st.integers(), float: numbers, str: texts}


def values_of(kind, length=0, choices=()):
    if choices:
        return st.sampled_from(choices)
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    inner = kind.__args__
    if type(None) in inner:
        return st.none() | values_of(inner[0], length)
    if kind.__origin__ is dict:
        return st.dictionaries(
            st.from_regex(r"[a-z]\w{0,5}", fullmatch=True),
            numbers | texts | st.lists(st.integers()),
            max_size=2,
        )
    return st.lists(values_of(inner[0]), min_size=length, max_size=length or 3)


def entries(word, name, keys):
    drawn = {k: st.lists(st.integers(), max_size=2) if isinstance(v, list) and not isinstance(v[0], list)
             else st.lists(st.lists(st.integers(), max_size=3), max_size=2) if isinstance(v, list)
             else BY_TYPE[type(v)] for k, v in keys.items()}  # fmt: skip
    return st.fixed_dictionaries({word: st.just(name)}, optional=drawn)


@st.composite
def configurations(draw):
    config = defaults()
    for name in draw(st.lists(st.sampled_from(sorted(conf.KEYS)), unique=True, max_size=12)):
        known = conf.KEYS[name]
        if name == "loss":
            term = st.sampled_from(LOSSES).flatmap(
                lambda n: entries("name", n, {"weight": 1.0, "balance": True, "cap": 1.0} | LOSS_OWN.get(n, {})))  # fmt: skip
            config = from_dict(
                as_dict(config) | {"loss": draw(st.lists(st.lists(term, min_size=1, max_size=2), max_size=2))}
            )
        elif name == "target.heads":
            head = st.sampled_from(sorted(HEAD_KEYS)).flatmap(lambda k: entries("kind", k, HEAD_KEYS[k]))
            config.target.heads = draw(st.lists(head, max_size=3))
        elif name.startswith("augment."):
            _, augmentation, parameter = name.split(".")
            config.augment[augmentation][parameter] = draw(values_of(known.kind))
        else:
            section, _, rest = name.rpartition(".")
            value = draw(values_of(known.kind, known.length, known.choices))
            setattr(getattr(config, section) if section else config, rest, value)
    return config


@given(configurations())
@settings(max_examples=50, deadline=None)
def test_what_to_yaml_writes_load_reads(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("yaml") / "c.yaml"
    for comments in (True, False):
        path.write_text(to_yaml(config, comments=comments), encoding="utf-8")
        assert load(None, str(path))[0] == config
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config


# Merging


def test_the_file_wins_over_the_base_and_overrides_over_both(write):
    base = write("solver: {lr: 0.1, batch: 4, steps: [1, 2]}\naugment: {flip: {p: 0.5}}", "base.yaml")
    file = write("solver:\n  lr: 0.2\n  steps: [7]\naugment:\n  elastic: {sigma: 8}\n")
    config, warnings = load(
        base, file, ["solver.gamma=0.5", "SOLVER.BASE_LR", "0.3", "model.options.block=light"]
    )
    assert (config.solver.lr, config.solver.batch, config.solver.steps, config.solver.gamma) == (
        0.3,
        4,
        [7],
        0.5,
    )
    assert (config.augment["flip"]["p"], config.augment["elastic"]["sigma"]) == (0.5, 8.0)
    assert (config.augment["elastic"]["p"], config.model.options) == (0.75, {"block": "light"})
    assert warnings == []


def test_values_of_the_command_line_are_yaml_or_python():
    found, _ = load(None, None, [
        "data.images=[a.tif, 'b c.h5']", "data.labels", "lab=els.tif", "model.patch_size", "(8, 32, 32)", "solver.lr=1e-4",
        "solver.ema=0", "system.gpus", "None", "solver.restart", "True", "data.pad=2", "output_path=2024",
        "inference.overlap=[2,8,8]", "augment.flip=false", "augment.rotate=0.25", "augment.cut_noise={p: 1, scale: 0.1}",
        "loss=[bce, dice]", "target.heads=affinity", "target.offsets=[0, 0, -3]", "model.options={a: [1, 2]}",
    ])  # fmt: skip
    assert (found.data.images, found.data.labels) == (["a.tif", "b c.h5"], ["lab=els.tif"])
    assert (found.model.patch_size, found.data.pad, found.output_path) == ([8, 32, 32], [2, 2, 2], "2024")
    assert (found.solver.lr, found.solver.ema, found.system.gpus, found.solver.restart) == (
        1e-4,
        0.0,
        None,
        True,
    )
    assert isinstance(found.solver.ema, float)
    assert (found.augment["flip"]["p"], found.augment["rotate"]["p"]) == (0.0, 0.25)
    assert (found.augment["cut_noise"]["p"], found.augment["cut_noise"]["scale"]) == (1.0, 0.1)
    assert [[t["name"] for t in row] for row in found.loss] == [["bce", "dice"]]
    assert found.loss[0][0] == {"name": "bce", "weight": 1.0, "balance": False, "cap": 19.0}
    assert (found.target.heads, found.target.offsets) == ([{"kind": "affinity"}], [[0, 0, -3]])
    assert found.model.options == {"a": [1, 2]}


def test_parse():
    assert [parse(t) for t in ("3", "1e-3", "true", "False", "null", "(1, 2)", "[a, 1]", "a: b: c", "x", "")] == [
        3, 0.001, True, False, None, (1, 2), ["a", 1], "a: b: c", "x", None,
    ]  # fmt: skip


def test_segflow_keys_over_pytc_keys_hold_beside_them(pytc):
    config, _ = pytc("SOLVER.STEPS", "(5, 9)", "target.erosion=2", net=NET + "solver:\n  lr: 0.5\n")
    assert (config.solver.lr, config.solver.steps, config.target.erosion) == (0.5, [5, 9], 2)
    assert config.solver.optimizer == "sgd"


def test_pytc_overrides_of_a_segflow_file_change_only_what_they_name(write):
    config, _ = load(None, write("solver: {momentum: 0.5}"), ["SOLVER.BASE_LR=0.02"])
    wanted = defaults()
    wanted.solver.momentum, wanted.solver.lr = 0.5, 0.02
    assert config == wanted
    assert load(None, None, ["SOLVER.BASE_LR=0.02"])[0].solver.optimizer == "adamw"


# What is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("solver:\n  ler: 1", ["line 2", "solver.ler", "did you mean 'solver.lr'?"]),
        ("data:\n  images: a\nlr: 1", ["line 3", "the key lr is unknown", "'solver.lr'"]),
        ("slover:\n  lr: 1", ["line 1", "slover"]),
        ("solver:\n  lr: fast", ["line 2", "solver.lr", "'fast'", "a number"]),
        ("solver:\n  lr: true", ["line 2", "solver.lr is true", "a number"]),
        ("solver:\n  lr: .nan", ["line 2", "solver.lr", "finite"]),
        ("solver:\n  batch: 2.5", ["line 2", "solver.batch", "2.5", "a whole number"]),
        ("solver:\n  restart: 3", ["line 2", "solver.restart is 3", "true or false"]),
        ("solver:\n  schedule: cosine", ["line 2", "warmup_cosine, warmup_multistep"]),
        ("solver:\n  lr:", ["line 2", "solver.lr is null", "a number"]),
        ("solver: 3", ["line 1", "solver is a section", "solver.optimizer"]),
        ("solver:\n  lr: 1\n  lr: 2", ["line 3", "solver.lr is already set in line 2"]),
        ("model:\n  patch_size: [8, 32]", ["line 2", "model.patch_size is [8, 32]", "a list of 3 whole numbers"]),
        ("model:\n  widths: [8, b]", ["line 2", "a list of whole numbers"]),
        ("data:\n  images: [1]", ["line 2", "data.images", "a list of texts"]),
        ("target:\n  offsets: [[0, 0, x]]", ["line 2", "target.offsets", "a list of lists"]),
        ("target:\n  heads: [{kind: afinity}]", ["line 2", "target.heads[0].kind", "did you mean 'affinity'"]),
        ("target:\n  heads: [{kind: lsd, sigmas: 3}]", ["line 2", "target.heads[0]", "did you mean 'sigma'"]),
        ("target:\n  heads: [{width: 3}]", ["line 2", "target.heads[0]", "'kind'"]),
        ("loss: [[{name: bec}]]", ["line 1", "loss[0][0].name", "did you mean 'bce'"]),
        ("loss: [[{name: bce, smooth: 1}]]", ["line 1", "loss[0][0]", "'smooth'", "balance"]),
        ("loss: [[{name: bce, weight: much}]]", ["line 1", "loss[0][0].weight", "a number"]),
        ("augment:\n  elastics: {p: 1}", ["line 2", "augment.elastics"]),
        ("augment:\n  elastic:\n    alpha: 1", ["line 3", "augment.elastic.alpha"]),
        ("augment:\n  blank_section:\n    value: dark", ["line 3", "augment.blank_section.value is 'dark'", "a number"]),
        ("- a\n- b", ["holds no configuration"]),
        ("a: [1", ["no YAML"]),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_named_with_line_key_and_what_is_allowed(write, text, parts):
    path = write(text)
    message = refused(load, None, path)
    for part in [path, *parts]:
        assert part in message


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in refused(load, str(tmp_path / "none.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "no YAML" in refused(load, str(tmp_path / "b.yaml"))
    assert "directory" in refused(load, str(tmp_path))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["solver.lr"], "solver.lr has no value; write solver.lr=VALUE"),
        (["--lr"], "'--lr' is no key"),
        (["solver.ler=1"], "command line: the key solver.ler is unknown (did you mean 'solver.lr'?)"),
        (["solver.lr=fast"], "command line: solver.lr is 'fast'; it must be a number"),
        (["SOLVER.BASE_LR", "fast"], "command line: SOLVER.BASE_LR is 'fast'; it must be a number"),
        (["SOLVER.BASE_RL=1"], "the key SOLVER.BASE_RL is unknown (did you mean 'SOLVER.BASE_LR'?)"),
        (["BASE_LR=1"], "the key BASE_LR is unknown (did you mean 'SOLVER.BASE_LR'?)"),
        (["solver.batch_size=1"], "the key solver.batch_size is unknown (did you mean 'solver.batch'?)"),
        (["data.image=1"], "the key data.image is unknown (did you mean 'data.images'?)"),
        (["system.num_workers=1"], "(did you mean 'system.workers'?)"),
        (["SOLVER=1"], "SOLVER is a section"),
        (["solver.lr=1", "2"], "'2' is no key"),
    ],
)  # fmt: skip
def test_overrides_that_are_wrong(words, part):
    assert part in refused(load, None, None, words)


def test_a_stored_configuration_that_is_wrong_says_where_it_came_from():
    assert refused(from_dict, {"solver": {"lr": "x"}}, "old.pt").startswith("old.pt: solver.lr is 'x'")
    assert from_dict({"solver": {"lr": 1}}).solver.lr == 1.0


# PyTC


def test_snemi_base_with_the_affinity_unet(pytc):
    config, warnings = pytc()
    check(config)
    assert config.target.offsets == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    assert (config.target.outputs, config.target.erosion, config.target.dilation) == (3, 1, 0)
    assert config.target.heads == [{"kind": "affinity"}]
    assert config.loss == [[
        {"name": "bce", "weight": 1.0, "balance": True, "cap": 19.0},
        {"name": "dice", "weight": 0.5, "balance": False, "cap": 19.0},
    ]]  # fmt: skip
    model, solver, data = config.model, config.solver, config.data
    assert (model.name, model.widths, model.norm, model.act) == (
        "unet_3d",
        [32, 64, 96, 128, 160],
        "gn",
        "elu",
    )
    assert (model.isotropic, model.patch_size) == ([False, False, False, True, True], [17, 257, 257])
    assert model.options["block"] == "residual_se"
    assert (solver.optimizer, solver.lr, solver.schedule, solver.batch) == ("sgd", 0.02, "warmup_cosine", 2)
    assert (solver.iterations, solver.save_every, solver.validate_every) == (150000, 10000, 5000)
    assert (solver.clip, solver.ema, solver.accumulate, solver.keep_best, solver.restart) == (
        0.0,
        0.0,
        1,
        0,
        False,
    )
    assert (data.images, data.labels) == (["data/snemi/train-input.tif"], ["data/snemi/train-label.tif"])
    assert (data.pad, data.reject_foreground, data.val_images) == ([4, 64, 64], 0, [])
    assert (config.system.gpus, config.system.workers) == (None, 4)
    assert (config.monitor.log_every, config.monitor.image_every) == (200, 1000)
    assert config.output_path == "outputs/unet"
    infer = config.inference
    assert (infer.images, infer.output_path, infer.output_name) == (
        data.images,
        "outputs/unet/test",
        "result.h5",
    )
    assert (infer.patch_size, infer.overlap) == ([17, 513, 513], [9, 257, 257])
    assert (infer.augment, infer.augment_mode) == (False, "min")
    assert warnings == [
        "of PyTC's keys, these have no meaning here: INFERENCE.PAD_SIZE, INFERENCE.SAMPLES_PER_BATCH"
    ]


def test_augmentations_of_pytc_have_its_defaults_and_no_others_are_on(pytc):
    found = pytc()[0].augment
    assert {name: s["p"] for name, s in found.items()} == {
        "rotate": 1.0, "rescale": 0.5, "flip": 1.0, "elastic": 0.75, "grayscale": 0.75, "missing_parts": 0.9,
        "missing_section": 0.5, "misalignment": 0.5, "motion_blur": 0.5, "cut_blur": 0.5, "cut_noise": 0.75,
        "blank_section": 0.0, "blur_section": 0.0,
    }  # fmt: skip
    # 16 * (1 / sqrt 3) / (2 sqrt(pi) 4): PyTC's field has a standard deviation of 0.65 pixels
    assert found["elastic"]["amplitude"] == pytest.approx(0.6515, abs=1e-4)
    changed = pytc(
        "AUGMENTOR.FLIP.ENABLED", "False", "AUGMENTOR.ROTATE.ROT90=False", "AUGMENTOR.CUTNOISE.P", "0.1",
        "AUGMENTOR.MISALIGNMENT.DISPLACEMENT=5", "AUGMENTOR.MISSINGPARTS.ITER", "3", "AUGMENTOR.MOTIONBLUR.KERNEL_SIZE=7",
    )[0].augment  # fmt: skip
    assert (changed["flip"]["p"], changed["rotate"]["any_angle"], changed["cut_noise"]["p"]) == (
        0.0,
        True,
        0.1,
    )
    assert (changed["misalignment"]["displacement"], changed["missing_parts"]["size"]) == (5, 3)
    assert changed["motion_blur"]["size"] == 7
    assert {s["p"] for s in pytc("AUGMENTOR.ENABLED=False")[0].augment.values()} == {0.0}
    assert set(found) == set(AUGMENT)


LONG = """\
MODEL:
  OUT_PLANES: 12
  TARGET_OPT: ["2-1-1-1-v1", "2-2-3-3-v1", "2-3-9-9-v1", "2-4-27-27-v1"]
  LOSS_OPTION: [[WeightedBCEWithLogitsLoss], [WeightedBCEWithLogitsLoss], [WeightedBCEWithLogitsLoss], [WeightedBCEWithLogitsLoss]]
  LOSS_WEIGHT: [[1.0], [0.5], [0.5], [0.5]]
  WEIGHT_OPT: [["1"], ["1"], ["1"], ["0"]]
"""


def test_long_range_affinities_are_heads_of_their_own(pytc):
    config, _ = pytc(net=LONG)
    check(config)
    assert config.target.offsets == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    assert config.target.outputs == 3
    assert config.target.heads == [
        {"kind": "affinity"},
        {"kind": "affinity", "offsets": [[-2, 0, 0], [0, -3, 0], [0, 0, -3]]},
        {"kind": "affinity", "offsets": [[-3, 0, 0], [0, -9, 0], [0, 0, -9]]},
        {"kind": "affinity", "offsets": [[-4, 0, 0], [0, -27, 0], [0, 0, -27]]},
    ]
    assert [[(t["weight"], t["balance"]) for t in row] for row in config.loss] == [
        [(1.0, True)], [(0.5, True)], [(0.5, True)], [(0.5, False)],
    ]  # fmt: skip


def test_several_erosions_and_a_contour(pytc):
    three = "[[WeightedBCE], [WeightedBCE], [WeightedBCE]]"
    rows = f"LOSS_OPTION: {three}\n  LOSS_WEIGHT: [[1], [1], [1]]\n  WEIGHT_OPT: [[1], [1], [1]]\n"
    config, _ = pytc(
        net=f"MODEL:\n  OUT_PLANES: 9\n  TARGET_OPT: ['2', 2, '2']\n  LABEL_EROSION: [1, 2, 4]\n  {rows}"
    )
    check(config)
    assert config.target.erosion == 1
    assert config.target.heads == [
        {"kind": "affinity"}, {"kind": "affinity", "erosion": 2}, {"kind": "affinity", "erosion": 4},
    ]  # fmt: skip
    config, _ = pytc(net=f"MODEL:\n  OUT_PLANES: 5\n  TARGET_OPT: ['4-2-0', '2', '5-3d']\n  {rows}")
    check(config)
    assert config.target.heads == [
        {"kind": "affinity"}, {"kind": "contour", "width": 2, "background": False}, {"kind": "distance", "mode": "3d"},
    ]  # fmt: skip


def test_siblings_are_read_and_say_what_is_done_otherwise(pytc):
    config, (warning,) = pytc(
        net="MODEL: {ARCHITECTURE: fpn_3d, BACKBONE: resnet}\nDATASET: {DATA_SCALE: [1, 2, 2]}"
    )
    assert config.model.name == "unet_3d"
    assert (
        "no meaning here: DATASET.DATA_SCALE, INFERENCE.PAD_SIZE, INFERENCE.SAMPLES_PER_BATCH, MODEL.BACKBONE;"
        in warning
    )
    assert "done otherwise: MODEL.ARCHITECTURE fpn_3d (unet_3d is built)" in warning
    config, _ = pytc(
        net="MODEL: {ARCHITECTURE: swinunetr, INPUT_SIZE: [64, 128, 128]}\nSOLVER: {NAME: AdamW, BASE_LR: 1e-3}"
    )
    assert (config.model.name, config.model.options["feature_size"]) == ("monai:SwinUNETR", 48)
    assert (config.solver.optimizer, config.solver.lr) == ("adamw", 0.001)
    config, _ = pytc(net="MODEL: {ARCHITECTURE: unetr}")
    assert (config.model.name, config.model.options["img_size"]) == ("monai:UNETR", [17, 257, 257])
    assert "all_isotropic" not in config.model.options


def test_the_files_of_k_neuronseg(pytc):
    net = """\
MODEL: {LABEL_EROSION: 0, ARCHITECTURE: unet_3d, BLOCK_TYPE: residual_se}
SOLVER:
  BASE_LR: 1e-4
  LR_SCHEDULER_NAME: ReduceLROnPlateau
  GAMMA: 0.5
  ITERATION_TOTAL: 30000
  ITERATION_SAVE: 500
  SAMPLES_PER_BATCH: 8
  ITERATION_RESTART: true
INFERENCE: {STRIDE: [8, 128, 128], OUTPUT_NAME: block, AUG_NUM: 16, IMAGE_NAME: test.tif, INPUT_PATH: blocks}
"""
    config, _ = pytc(net=net)
    solver = config.solver
    assert (solver.lr, solver.schedule, solver.gamma, solver.restart) == (1e-4, "plateau", 0.5, True)
    assert (solver.iterations, solver.save_every, solver.batch, config.target.erosion) == (30000, 500, 8, 0)
    infer = config.inference
    assert (infer.overlap, infer.output_name, infer.augment) == ([9, 385, 385], "block.h5", True)
    assert infer.images == ["blocks/test.tif"]


def test_names_of_volumes(pytc, tmp_path):
    (tmp_path / "list.txt").write_text("x.h5\ny.h5\n")
    config, _ = pytc(
        "DATASET.IMAGE_NAME=a.tif@b.tif", "DATASET.LABEL_NAME", "[c.tif, /abs/d.tif]", "DATASET.VAL_IMAGE_NAME=list.txt",
        f"DATASET.INPUT_PATH={tmp_path}", "DATASET.VALID_MASK_NAME=None",
    )  # fmt: skip
    data = config.data
    assert data.images == [f"{tmp_path}/a.tif", f"{tmp_path}/b.tif"]
    assert data.labels == [f"{tmp_path}/c.tif", "/abs/d.tif"]
    assert (data.val_images, data.masks) == ([f"{tmp_path}/x.h5", f"{tmp_path}/y.h5"], [])
    assert pytc("DATASET.IS_ABSOLUTE_PATH=True")[0].data.images == ["train-input.tif"]


def test_the_focal_loss_of_pytc_weighs_ones_by_three_quarters(pytc):
    config, _ = pytc(net="MODEL: {LOSS_OPTION: [[WeightedBCEFocalLoss, DiceLoss]]}")
    assert [term.get("alpha") for term in config.loss[0]] == [0.75, None]


def test_more_of_pytc(pytc):
    config, (warning,) = pytc(
        "SYSTEM.NUM_GPUS=0", "SYSTEM.NUM_CPUS=0", "MODEL.NORM_MODE=sync_bn", "MODEL.ACT_MODE", "leaky", "DATASET.PAD_MODE=replicate",
        "SOLVER.CLIP_GRADIENTS.ENABLED=True", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5", "SOLVER.SWA.ENABLED=True",
        "DATASET.REJECT_SAMPLING.SIZE_THRES=1000", "DATASET.REJECT_SAMPLING.DIVERSITY", "10", "MODEL.MIXED_PRECESION=False",
        "SOLVER.STEPS=(3, 4)", "DATASET.PAD_SIZE=8", "DATASET.IS_ISOTROPIC=True", "INFERENCE.AUG_NUM=4",
        "MODEL.WEIGHT_OPT=[[1-1, 0]]",
    )  # fmt: skip
    assert (config.system.gpus, config.system.workers, config.system.precision) == (0, 0, "float32")
    assert (config.model.norm, config.model.act, config.data.pad_mode) == ("bn", "leaky_relu", "edge")
    assert (config.solver.clip, config.solver.ema, config.solver.steps) == (0.5, 0.999, [3, 4])
    assert (config.data.reject_foreground, config.data.reject_objects, config.data.pad) == (
        1000,
        10,
        [8, 8, 8],
    )
    assert (config.model.options["all_isotropic"], config.inference.augment) == (True, True)
    for part in ("SOLVER.CLIP_GRADIENTS", "SOLVER.SWA", "AUG_NUM 4", "MODEL.WEIGHT_OPT '1-1' (done as '1')"):
        assert part in warning


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["MODEL.TARGET_OPT=['7']"], "command line: MODEL.TARGET_OPT: the target '7' is not made here"),
        (["MODEL.TARGET_OPT=['2-1-1-1-v2']"], "the target '2-1-1-1-v2' is not made here"),
        (["MODEL.OUT_PLANES=12"], "command line: MODEL.OUT_PLANES is 12, but MODEL.TARGET_OPT ['2'] makes 3 channels"),
        (["MODEL.LOSS_OPTION=[[DicLoss, DiceLoss]]"], "did you mean 'DiceLoss'?"),
        (["MODEL.LOSS_WEIGHT=[[1.0]]"], "1 in LOSS_WEIGHT"),
        (["MODEL.LOSS_OPTION=[[DiceLoss], [DiceLoss]]"], "MODEL.LOSS_OPTION has 2 entries and MODEL.TARGET_OPT 1"),
        (["MODEL.IN_PLANES=3"], "images here have one channel"),
        (["DATASET.DO_2D=True"], "networks here are 3-D"),
        (["MODEL.ARCHITECTURE=unet_2d"], "MODEL.ARCHITECTURE is 'unet_2d' (did you mean 'unet_3d'?)"),
        (["SOLVER.LR_SCHEDULER_NAME=OneCycle"], "it must be one of WarmupCosineLR"),
        (["SOLVER.NAME=SDG"], "SOLVER.NAME is 'SDG' (did you mean 'SGD'?)"),
        (["MODEL.INPUT_SIZE=[1, 2]"], "MODEL.INPUT_SIZE is [1, 2]; it must be a list of 3 whole numbers"),
        (["SOLVER.ITERATION_TOTAL=1.5"], "SOLVER.ITERATION_TOTAL is 1.5; it must be a whole number"),
    ],
)  # fmt: skip
def test_what_pytc_allows_and_segflow_has_not_is_refused(pytc, words, part):
    assert part in refused(pytc, *words)


def test_an_unknown_pytc_key_of_a_file_is_refused_with_its_line(pytc, tmp_path):
    message = refused(lambda: pytc(net="SOLVER:\n  BASE_LR: 1\n  BOGUS_LR: 1\n"))
    assert (
        f"{tmp_path}/net.yaml line 3: the key SOLVER.BOGUS_LR is unknown (did you mean 'SOLVER.BASE_LR'?)"
        == message
    )


def test_an_error_names_the_line_of_the_key_that_it_is_about(pytc, tmp_path):
    message = refused(lambda: pytc(net="MODEL: {TARGET_OPT: ['2', '4'], OUT_PLANES: 4}"))
    assert message.startswith(
        f"{tmp_path}/base.yaml line 13: MODEL.LOSS_OPTION has 1 entries and MODEL.TARGET_OPT 2"
    )
    message = refused(lambda: pytc(net="MODEL:\n  OUT_PLANES: 4"))
    assert message.startswith(f"{tmp_path}/net.yaml line 2: MODEL.OUT_PLANES is 4")


def test_an_error_that_a_later_layer_corrects_is_none(pytc):
    config, _ = pytc("MODEL.OUT_PLANES=3", net="MODEL: {OUT_PLANES: 12}")
    assert config.target.outputs == 3


def test_a_pytc_file_after_an_empty_base_has_pytc_defaults(write):
    config, _ = load(write("", "base.yaml"), write(BASE))
    assert config.solver.optimizer == "sgd"


def test_what_is_translated_are_keys_of_segflow(write):
    from segflow.training.layers import read
    from segflow.training.pytc import Translator

    made = Translator().translate(read(write(BASE), conf.is_section), whole=True)
    assert {key for key in made if key not in conf.KEYS} == set()
    for key, value in made.items():
        if key not in ("loss", "target.heads"):
            known = conf.KEYS[key]
            assert (
                conf.convert(value, known.kind, key, "", length=known.length, choices=known.choices) == value
            )


def test_the_parts_of_training_know_the_same_heads_losses_and_augmentations(pytc):
    from segflow.training.augment.settings import complete
    from segflow.training.losses import OWN
    from segflow.training.targets import COMMON_KEYS, head_layout
    from segflow.training.targets import HEAD_KEYS as MADE

    assert {kind: {"kind", *keys} for kind, keys in HEAD_KEYS.items()} == {
        kind: {*COMMON_KEYS, *keys} for kind, keys in MADE.items()
    }
    assert {name: keys for name, keys in OWN.items() if keys} == LOSS_OWN
    assert set(OWN) == set(LOSSES)
    assert complete(defaults().augment) == defaults().augment
    complete(pytc()[0].augment)
    assert head_layout(pytc(net=LONG)[0].target) == [("affinity", 3)] * 4


# Contradictions


def right():
    config = defaults()
    config.data.images, config.data.labels = ["a.tif"], ["b.tif"]
    return config


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["data.images=[]"], "data.images is empty"),
        (["data.labels=[]"], "data.labels has 0 entries and data.images 1"),
        (["data.masks=[a, b]"], "data.masks has 2 entries and data.images 1"),
        (["data.val_images=v.tif"], "data.val_labels has 0 entries and data.val_images 1"),
        (["data.weights=[1, 2]"], "data.weights has 2 entries"),
        (["data.weights=[0]"], "nor all 0"),
        (["data.boxes=everything"], "data.boxes"),
        (["data.boxes=0-0_0-1_0-1"], "is empty"),
        (["data.voxel_size=[30, 0, 6]"], "data.voxel_size"),
        (["data.valid_ratio=2"], "data.valid_ratio is 2.0; it must be from 0 to 1"),
        (["target.offsets=[]"], "target.offsets is empty"),
        (["target.offsets=[[0, 0, 0]]"], "not all 0"),
        (["target.offsets=[[0, -1]]"], "target.offsets[0] is [0, -1]"),
        (["target.offsets=[[0, 0, -1], [0, 0, -1]]"], "twice"),
        (["target.offsets=[[0, 0, -500]]"], "leaves the crop"),
        (["target.outputs=4"], "target.outputs is 4 and target.offsets has 3"),
        (["target.outputs=0"], "from 1 to 3"),
        (["target.heads=[foreground, affinity]"], "affinity must be the first"),
        (["target.heads=[]"], "target.heads is empty"),
        (["target.heads=[affinity, lsd]"], "loss has 1 lists and target.heads 2 heads"),
        (["target.heads=[{kind: affinity, offsets: [[0, 0, -1]]}]"], "target.heads[0] has offsets of its own"),
        (["target.erosion=-1"], "target.erosion is -1"),
        (["loss=[[]]"], "loss[0] is empty"),
        (["model.widths=[8, 16]"], "model.isotropic has 5 entries and model.widths 2"),
        (["model.kernels=[[3, 3, 3]]"], "model.kernels has 1 entries"),
        (["model.patch_size=0"], "model.patch_size is 0"),
        (["model.widths=[]"], "model.widths is []"),
        (["inference.patch_size=8", "inference.overlap=8"], "inference.overlap is [8, 8, 8]"),
        (["solver.lr=0"], "solver.lr is 0.0"),
        (["solver.iterations=0"], "solver.iterations is 0"),
        (["solver.ema=1"], "solver.ema is 1.0"),
        (["solver.steps=[5, 3]"], "solver.steps is [5, 3]"),
        (["solver.early_stop=3"], "solver.early_stop needs data.val_images"),
        (["system.workers=-1"], "system.workers is -1"),
        (["augment.flip.p=1.5"], "augment.flip.p is 1.5"),
        (["output_path=s3://bucket/out"], "output_path is s3://bucket/out; give a folder of this machine"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(words, part):
    config, _ = load(None, None, ["data.images=a.tif", "data.labels=b.tif", *words])
    assert part in refused(check, config)


def test_what_is_right_passes():
    check(right())
    config = right()
    config.target.heads, config.target.offsets = [{"kind": "foreground"}], []  # PyTC's default
    check(config)
    assert "inference.images" in refused(lambda: check(defaults(), inference=True))
    config = defaults()
    config.inference.images = ["a.tif"]
    check(config, inference=True)


def test_describe_is_the_merged_configuration_with_what_is_off_on_one_line():
    config, _ = load(None, None, ["augment.flip=false", "solver.lr=0.5"])
    text = describe(config)
    assert "  flip: off\n  elastic:\n    p: 0.75" in text
    assert "  lr: 0.5\n" in text
    assert "#" not in text


def test_no_heavy_library_is_imported():
    code = "import sys, segflow.training.config as c, segflow.training.pytc; print([m for m in ('numpy', 'torch', 'click') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "[]"
