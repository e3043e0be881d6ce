"""Training: the loop, checkpoints, random streams, data and bad input; tiny networks on real crops."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segflow.chunk import Chunk
from segflow.errors import Interrupted, ModelError, UsageError, VolumeError
from segflow.training import checkpoint as files
from segflow.training import config as configuration
from segflow.training import fabric, loop, validation
from segflow.training.data import Crops, accepted, batches, stream
from segflow.training.loop import fit
from segflow.training.plan import report
from segflow.training.schedules import Plateau, learning_rate
from segflow.training.schema import Config, Solver
from segflow.training.sources import Source, find_volumes, load_volumes
from segflow.volumes.hdf5 import write_h5

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    torch.set_num_threads(1)  # the networks are too small for more
    caplog.set_level(logging.INFO, "segflow")
    logging.getLogger("segflow").propagate = True


@pytest.fixture(scope="module")
def crop(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Give a crop of the real data: image and labels, 20 x 64 x 64."""
    folder = tmp_path_factory.mktemp("ac4")
    for name in ("image", "labels"):
        array = tifffile.imread(DATA / f"ac4_{name}.tif")[:, 128:192, 128:192]
        tifffile.imwrite(folder / f"{name}.tif", array)
    return str(folder / "image.tif"), str(folder / "labels.tif")


@pytest.fixture
def config(crop: tuple[str, str], tmp_path: Path) -> Config:
    """Give the smallest configuration: no augmentation, no validation, 6 iterations, float32."""
    found = configuration.defaults()
    found.output_path = str(tmp_path / "out")
    found.system.gpus, found.system.workers, found.system.precision = 0, 0, "float32"
    found.data.images, found.data.labels = [crop[0]], [crop[1]]
    found.model.widths, found.model.isotropic, found.model.patch_size = [4, 6], [False, False], [8, 32, 32]
    found.augment = {"flip": {"p": 1.0}}
    found.solver.iterations, found.solver.batch, found.solver.warmup = 6, 1, 1
    found.solver.save_every, found.monitor.log_every, found.monitor.image_every = 3, 1, 0
    return found


def losses(folder: str) -> list[float]:
    """Give the losses in the log, by iteration."""
    rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    found = {r["iteration"]: r["loss"] for r in rows if "loss" in r}
    assert len(found) == sum("loss" in r for r in rows)
    return [found[i] for i in sorted(found)]


def same(a: Any, b: Any) -> bool:
    """Whether two nested values are equal, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_resumed_training_is_the_uninterrupted_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit(config)
    cut = copy.deepcopy(config)
    cut.output_path = str(tmp_path / "cut")
    plain = loop.Loop.step

    def step(self: Any, loader: Any) -> None:
        plain(self, loader)
        if self.iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "step", step)
    with pytest.raises(Interrupted, match=r"SIGTERM at iteration 4; .*checkpoint_00004\.pt is written"):
        fit(cut)
    assert files.iterations_in(Path(cut.output_path)) == [3, 4]
    monkeypatch.setattr(loop.Loop, "step", plain)
    path = fit(cut, resume=True)
    assert "going on at iteration 4 of 6" in caplog.text
    one, two = (files.load(Path(f) / "checkpoint_00006.pt") for f in (config.output_path, cut.output_path))
    for key in ("iteration", "model", "ema", "optimizer", "schedule", "random"):
        assert same(one[key], two[key]), key
    assert losses(config.output_path) == losses(cut.output_path)
    assert len(losses(cut.output_path)) == 6
    assert path.name == "model.pt"
    assert path.is_file()
    assert Image.open(path.with_name("curve.png")).size[1] > 100


def test_a_changed_total_holds(config: Config) -> None:
    config.solver.iterations = 3
    fit(config)
    config.solver.iterations = 5
    fit(config, resume=True)
    rows = [json.loads(r) for r in (Path(config.output_path) / "log.jsonl").read_text().splitlines()]
    assert [r["lr"] for r in rows if r["iteration"] > 3] == [learning_rate(config.solver, i) for i in (3, 4)]
    assert files.newest(Path(config.output_path)).name == "checkpoint_00005.pt"  # type: ignore[union-attr]


def test_checkpoint_goes_on_unless_told_otherwise(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.solver.iterations = 2
    fit(config)
    first = str(Path(config.output_path) / "checkpoint_00002.pt")
    config.solver.iterations, config.output_path = 3, str(tmp_path / "on")
    fit(config, checkpoint=first)
    assert "going on at iteration 2 of 3" in caplog.text
    caplog.clear()
    config.solver.restart, config.output_path = True, str(tmp_path / "again")
    fit(config, checkpoint=first)
    assert "0 skipped, 0 of the network" in caplog.text
    assert len(losses(config.output_path)) == 3
    with pytest.raises(UsageError, match="is there from another training"):
        fit(config, checkpoint=first)
    config.solver.restart = False
    with pytest.raises(UsageError, match="is there from another training"):
        fit(config, checkpoint=first)  # which goes on, but not in the folder of this one


def test_going_back_leaves_no_later_checkpoint_to_resume(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    fit(config)
    folder = Path(config.output_path)
    config.solver.iterations = 4
    fit(config, checkpoint=str(folder / "checkpoint_00003.pt"))
    assert files.iterations_in(folder) == [3, 4]
    assert (folder / "checkpoint_00006.pt.old").is_file()
    assert "checkpoint_00006.pt is of a later iteration" in caplog.text
    config.solver.iterations = 5
    fit(config, resume=True)
    assert "going on at iteration 4 of 5" in caplog.text


def test_fine_tuning_says_what_fits(config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config.solver.iterations = 1
    path = fit(config)
    config.output_path = str(tmp_path / "more")
    config.target.offsets = [*config.target.offsets, [-2, 0, 0]]
    fit(config, checkpoint=str(path), fine_tune=True)
    assert "skipped: " in caplog.text
    assert "the network's is 4" in caplog.text
    assert "anew: " in caplog.text
    config.output_path = str(tmp_path / "none")
    bias = {k: v for k, v in files.load(path)["weights"].items() if v.ndim == 1}
    for weights in ({"other.weight": torch.zeros(3)}, bias):
        torch.save({"state_dict": weights}, tmp_path / "other.pth.tar")
        with pytest.raises(ModelError, match=r"no weight of .*other\.pth\.tar fits"):
            fit(config, checkpoint=str(tmp_path / "other.pth.tar"), fine_tune=True)
    config.output_path = str(tmp_path / "strict")
    with pytest.raises(ModelError, match="weights of another network"):
        fit(config, checkpoint=str(tmp_path / "out" / "checkpoint_00001.pt"))


def test_pytc_checkpoints_are_weights(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.solver.iterations = 1
    fit(config)
    weights = files.load(Path(config.output_path) / "checkpoint_00001.pt")["model"]
    theirs = {
        "iteration": 70000,
        "state_dict": {f"module.{k}": v for k, v in weights.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"base_lrs": [0.02], "last_epoch": 7, "_last_lr": [np.float64(0.01)]},
    }
    torch.save(theirs, tmp_path / "checkpoint_70000.pth.tar")
    config.output_path = str(tmp_path / "tuned")
    fit(config, checkpoint=str(tmp_path / "checkpoint_70000.pth.tar"))
    assert "0 skipped, 0 of the network" in caplog.text


def test_what_holds_code_is_not_run(config: Config, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hook": os.system}, tmp_path / "code.pth.tar")
    with pytest.raises(ModelError, match="holds more than tensors"):
        fit(config, checkpoint=str(tmp_path / "code.pth.tar"))
    with pytest.raises(UsageError, match="is not a file"):
        fit(config, checkpoint=str(tmp_path / "missing.pt"))


def test_overfits_one_crop(config: Config) -> None:
    config.data.boxes, config.augment = ["0-8_0-32_0-32"], {}
    config.loss = [[{"name": "bce", "weight": 1.0, "balance": False, "cap": 19.0}]]
    config.solver.iterations, config.solver.lr, config.solver.warmup = 25, 0.05, 0
    fit(config)
    found = losses(config.output_path)
    assert np.mean(found[-2:]) < 0.7 * found[0]


def test_accumulated_batches_are_one_batch(config: Config, tmp_path: Path) -> None:
    config.solver.iterations, config.model.norm, config.solver.optimizer = 1, "none", "sgd"
    config.loss = [[{"name": "bce", "weight": 1.0, "balance": False, "cap": 19.0}]]
    config.solver.schedule, config.solver.lr = "constant", 0.1
    found = []
    for batch, accumulate in ((2, 1), (1, 2)):
        config.solver.batch, config.solver.accumulate = batch, accumulate
        config.output_path = str(tmp_path / f"batch{batch}")
        fit(config)
        found.append(files.load(Path(config.output_path) / "checkpoint_00001.pt")["model"])
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-6)


def test_clipping_is_of_the_global_norm(config: Config) -> None:
    config.solver.iterations, config.solver.optimizer, config.solver.clip = 1, "sgd", 1e-3
    config.solver.schedule, config.solver.lr, config.solver.weight_decay = "constant", 1.0, 0.0
    torch.manual_seed(config.system.seed)
    before = loop.Training.__init__.__globals__["build"](config.model, 3).state_dict()
    fit(config)
    after = files.load(Path(config.output_path) / "checkpoint_00001.pt")["model"]
    moved = [
        (after[k] - v).flatten() for k, v in before.items() if v.is_floating_point() and "running" not in k
    ]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_nan_ends_with_the_last_good_checkpoint(config: Config) -> None:
    config.solver.optimizer, config.solver.lr, config.solver.clip = "sgd", 1e-3, 0
    config.solver.schedule, config.solver.steps, config.solver.save_every = "multistep", [3], 2
    config.solver.gamma = 1e30
    with pytest.raises(ModelError, match=r"became NaN or infinite by iteration [45]") as error:
        fit(config)
    folder = Path(config.output_path)
    assert files.iterations_in(folder) == [2]  # the weights of iteration 4 were no good
    assert f"the last good checkpoint is {folder / 'checkpoint_00002.pt'}" in str(error.value)
    assert not (folder / "model.pt").exists()


def test_weights_that_answer_nan_are_not_written(config: Config) -> None:
    config.solver.optimizer, config.solver.lr, config.solver.clip = "sgd", 1e30, 0
    config.solver.schedule, config.solver.steps, config.solver.iterations = "multistep", [], 1
    with pytest.raises(
        ModelError, match="answer became NaN .* iteration 1; no checkpoint was written before"
    ):
        fit(config)
    assert list(Path(config.output_path).glob("*.pt")) == []


def test_a_full_disk_leaves_older_checkpoints(config: Config, disk: Callable[[str], Path]) -> None:
    folder = disk("256k") / "out"
    config.output_path, config.solver.save_every, config.solver.iterations = str(folder), 1, 30
    with pytest.raises(VolumeError, match=r"cannot write .*checkpoint_\d+\.pt: no space left on device"):
        fit(config)
    kept = files.iterations_in(folder)
    assert kept == list(range(1, len(kept) + 1))
    assert {p.name for p in folder.iterdir()} <= {
        *(f"checkpoint_{i:05d}.pt" for i in kept), "log.jsonl", "tensorboard"}  # fmt: skip
    assert files.load(files.path_of(folder, kept[-1]))["iteration"] == kept[-1]


def test_sigterm_writes_a_checkpoint_and_the_curve_goes_on(config: Config, tmp_path: Path) -> None:
    config.solver.iterations, config.solver.schedule = 200, "plateau"
    config.solver.save_every, config.monitor.log_every = 1000, 3
    off = configuration.defaults().augment
    config.augment = {name: {**off[name], "p": float(name == "flip")} for name in off}
    file = tmp_path / "net.yaml"
    file.write_text(configuration.to_yaml(config))
    line = [sys.executable, "-m", "segflow", "train", "--config-file", str(file)]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=one)
    log_file = Path(config.output_path) / "log.jsonl"
    while not log_file.exists() or not losses(config.output_path):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    (at,) = files.iterations_in(Path(config.output_path))
    assert f"stopped by SIGTERM at iteration {at}; " in said
    assert "--resume goes on there" in said
    config.solver.iterations = at + 7
    fit(config, resume=True)
    curve, end = losses(config.output_path), files.load(files.path_of(Path(config.output_path), at + 7))
    config.output_path = str(tmp_path / "whole")
    fit(config)
    assert curve == losses(config.output_path)
    whole = files.load(files.path_of(Path(config.output_path), at + 7))
    assert same(end, {**whole, "config": end["config"]})


@pytest.mark.parametrize("while_at", ["losses", "segmentation"])
def test_a_signal_cuts_a_validation_short(
    config: Config, crop: tuple[str, str], monkeypatch: pytest.MonkeyPatch, while_at: str
) -> None:
    config.data.val_images, config.data.val_labels = [crop[0]], [crop[1]]
    config.data.val_boxes, config.solver.validate_every = ["0-8_0-40_0-40"], 2
    config.solver.save_every = 1000
    where = validation.Validation if while_at == "losses" else validation.Answers
    name = "_losses" if while_at == "losses" else "__call__"
    plain = getattr(where, name)

    def stopped(self: Any, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *arguments)

    monkeypatch.setattr(where, name, stopped)
    with pytest.raises(Interrupted, match="SIGTERM at iteration 2"):
        fit(config)
    assert files.iterations_in(Path(config.output_path)) == [2]
    assert files.load(files.path_of(Path(config.output_path), 2))["scores"] == []
    monkeypatch.setattr(where, name, plain)
    assert fit(config, resume=True).exists()


def test_the_best_are_kept_and_training_ends_early(
    config: Config, crop: tuple[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config.data.val_images, config.data.val_labels = [crop[0]], [crop[1]]
    config.data.val_boxes = ["0-8_0-40_0-40"]
    config.solver.validate_every, config.solver.keep_best, config.solver.early_stop = 1, 1, 2
    scores = iter([0.5, 0.4, 0.6, 0.7])
    real: dict[str, float] = {}

    def score(self: Any, *arguments: Any) -> dict[str, float]:
        if not real:
            real.update(plain(self, *arguments))
        return {**real, "voi": next(scores)}

    plain = loop.Training.__init__.__globals__["Validation"].__call__
    monkeypatch.setattr(loop.Training.__init__.__globals__["Validation"], "__call__", score)
    fit(config)
    assert set(real) == {"loss", "voi", "are", "threshold"}
    assert real["voi"] > 0
    assert 0 <= real["are"] <= 1
    assert files.iterations_in(Path(config.output_path)) == [2, 4]
    assert "2 validations without a better voi: it ends early" in caplog.text
    assert (Path(config.output_path) / "model_best.pt").is_file()


def test_two_processes_train_together(config: Config, tmp_path: Path) -> None:
    config.solver.iterations, config.system.seed = 2, 3
    file = tmp_path / "net.yaml"
    file.write_text(configuration.to_yaml(config))
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29631",
            "-m", "segflow", "train", "--distributed", "--config-file", str(file)]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    content = files.load(Path(config.output_path) / "checkpoint_00002.pt")
    assert len(content["random"]) == 2
    assert not torch.equal(content["random"][0]["cpu"], content["random"][1]["cpu"])
    assert len(losses(config.output_path)) == 2


# Random streams and data


def test_workers_draw_distinct_reproducible_samples(config: Config) -> None:
    volumes = find_volumes(config)
    load_volumes(volumes, 1 << 30)
    config.augment = {"grayscale": {"p": 1.0}, "flip": {"p": 1.0}}
    config.system.workers = 2
    workers = [b[0] for b in batches(Crops(config, volumes), 0, 8)]
    config.system.workers = 0
    alone = [b[0] for b in batches(Crops(config, volumes), 0, 8)]
    assert all(map(torch.equal, workers, alone))
    other = [b[0] for b in batches(Crops(config, volumes, rank=1), 0, 8)]
    assert len({t.numpy().tobytes() for t in workers + other}) == 16


def test_streams_differ_by_seed_rank_and_sample() -> None:
    draws = {stream(s, r, n).random() for s in range(3) for r in range(3) for n in range(20)}
    assert len(draws) == 180


def test_lazy_volumes_give_what_memory_gives(config: Config) -> None:
    volumes = find_volumes(config)
    load_volumes(volumes, 0)
    assert volumes[0].image.array() is None
    lazy = Crops(config, volumes)[5]
    load_volumes(volumes, 1 << 30)
    assert volumes[0].image.array() is not None
    assert all(map(torch.equal, lazy, Crops(config, volumes)[5]))


@given(
    mode=st.sampled_from(["reflect", "symmetric", "edge", "constant"]),
    pads=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=3),
)
def test_what_lies_beyond_a_volume_is_numpys_padding(mode: Any, pads: Any) -> None:
    array = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    source = Source.__new__(Source)
    source._memory = torch.from_numpy(array.copy()).flatten()
    source.dtype = array.dtype
    source.box = type(source).__init__.__globals__["Box"]((0, 0, 0), array.shape)
    size = [n + a + b for n, (a, b) in zip(array.shape, pads)]
    read = source.read([-a for a, _ in pads], size, mode)
    np.testing.assert_array_equal(read, np.pad(array, pads, mode=mode))


def test_labels_stored_at_another_place_are_told(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_volumes(config)
    assert "of one place" not in caplog.text
    write_h5(tmp_path / "moved.h5", Chunk(tifffile.imread(config.data.labels[0]), (2, 8, 8), None))
    config.data.labels = [str(tmp_path / "moved.h5")]
    assert find_volumes(config)[0].labels.box.start == (2, 8, 8)
    assert "moved.h5 at 2-22_8-72_8-72; as their shapes agree they are taken" in caplog.text


def test_formats_datasets_boxes_and_masks(config: Config, crop: tuple[str, str], tmp_path: Path) -> None:
    image, labels = (tifffile.imread(path) for path in crop)
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["raw"], file["ids"] = image, labels.astype(np.uint64) + (np.uint64(1) << np.uint64(63))
    mask = np.zeros(image.shape, np.uint8)
    mask[:, :, 32:] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    both = str(tmp_path / "both.h5")
    config.data.images, config.data.labels = [both], [both]
    config.data.dataset_image, config.data.dataset_label = "raw", "ids"
    config.data.masks, config.data.boxes = [str(tmp_path / "mask.tif")], ["2-20_0-64_0-64"]
    config.data.valid_ratio, config.data.reject_tries, config.augment = 0.9, 200, {}
    volumes = find_volumes(config)
    load_volumes(volumes, 1 << 30)
    for number in range(4):
        _, target, known = Crops(config, volumes)[number]
        assert known.float().mean() > 0.7  # faces and the rim of the mask are unknown
        assert target.shape == known.shape == (3, 8, 32, 32)


def test_zarr_and_precomputed_are_read_by_crop(
    config: Config, crop: tuple[str, str], segflow: Callable[..., Any], tmp_path: Path
) -> None:
    whole = Crops(config, find_volumes(config))[3]
    place = ("--voxel-offset", 4, 8, 16, "--voxel-size", 30, 6, 6)
    segflow("read-tif", "-f", crop[0], *place, "write-zarr", "-v", tmp_path / "image.zarr")
    segflow("read-tif", "-f", crop[1], *place, "--layer-type", "segmentation",
            "write-precomputed", "-v", tmp_path / "labels")  # fmt: skip
    config.data.images, config.data.labels = [str(tmp_path / "image.zarr")], [str(tmp_path / "labels")]
    volumes = find_volumes(config)
    assert volumes[0].image.info.voxel_size == (30, 6, 6)
    assert volumes[0].image.box.start == (4, 8, 16)
    load_volumes(volumes, 0)
    crops = Crops(config, volumes)
    assert all(map(torch.equal, whole, crops[3]))
    config.system.workers = 1
    (batch,) = batches(crops, 3, 4)
    assert torch.equal(batch[0][0], whole[0])


def test_crops_are_rejected_before_they_are_augmented(
    config: Config, crop: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tifffile.imread(crop[1])
    labels[:, :, 20:] = 0
    tifffile.imwrite(tmp_path / "few.tif", labels)
    config.data.labels, config.data.reject_foreground = [str(tmp_path / "few.tif")], 3000
    config.data.reject_p, config.augment = 1.0, {}
    volumes = find_volumes(config)
    load_volumes(volumes, 1 << 30)
    crops, calls = Crops(config, volumes), []
    augment = crops.augmenter
    monkeypatch.setattr(type(augment), "__call__", lambda self, i, l, m, r: (calls.append(1), (i, l, m))[1])
    for number in range(5):
        crops[number]
        _, found, _ = crops.draw(stream(0, 0, number))
        assert (found > 0).sum() >= 3000
    assert len(calls) == 5


def test_labels_that_are_unknown_are_no_objects(config: Config) -> None:
    labels = np.repeat(np.arange(1, 5), 16)[None, None, :] * np.ones((4, 4, 1), np.int64)
    mask = np.broadcast_to(np.arange(64) < 40, labels.shape)
    for number, good in ((3, True), (4, False)):
        config.data.reject_objects, config.data.reject_p = number, 1.0
        assert accepted(config, labels, mask, stream(0, 0, 0))[0] == good


def test_chosen_ids_are_found_in_misaligned_sections(config: Config, crop: tuple[str, str]) -> None:
    ids, counts = np.unique(tifffile.imread(crop[1]), return_counts=True)
    config.target.heads = [{"kind": "foreground", "ids": [int(ids[counts.argmax()])]}]
    shares = []
    for p in (0.0, 1.0):
        config.augment = {"misalignment": {"p": p}}
        crops = Crops(config, find_volumes(config))
        shares.append(np.mean([float(crops[n][1].float().mean()) for n in range(8)]))
    assert shares[1] == pytest.approx(shares[0], rel=0.2)


def test_workers_hear_no_signal_even_when_they_begin(config: Config) -> None:
    config.system.workers = 1
    before = set(multiprocessing.active_children())
    loader = batches(Crops(config, find_volumes(config)), 0, 2)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)  # as to all of a terminal, or of a SLURM step
    assert len(list(loader)) == 2


def test_volumes_are_drawn_by_their_weights(config: Config, crop: tuple[str, str]) -> None:
    config.data.images, config.data.labels = [crop[0]] * 3, [crop[1]] * 3
    config.data.weights = [3.0, 0.0, 1.0]
    crops = Crops(config, find_volumes(config))
    assert crops.shares.tolist() == [0.75, 0, 0.25]
    config.data.weights, config.data.boxes = [], ["", "0-8_0-32_0-33", "0-8_0-32_0-32"]
    assert [v.weight for v in find_volumes(config)] == [13 * 33 * 33, 2, 1]


# Schedules


def test_warmup_cosine_has_the_measured_values() -> None:
    solver = Solver(lr=0.02, iterations=150000, warmup=1000, schedule="warmup_cosine")
    found = [learning_rate(solver, t) for t in (0, 500, 1000, 75000, 150000)]
    assert found == pytest.approx([2e-5, 0.01001, 0.0199978, 0.01, 0], rel=1e-3, abs=1e-12)


def test_steps_and_plateaus() -> None:
    solver = Solver(lr=1.0, iterations=100, warmup=10, schedule="multistep", steps=[20, 40], gamma=0.1)
    assert [learning_rate(solver, t) for t in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])
    solver.schedule = "warmup_multistep"
    assert learning_rate(solver, 5) == pytest.approx(0.5005)
    plateau = Plateau(gamma=0.5, lr=1.0)
    plateau.see(1.0, 20)
    for _ in range(51):
        plateau.see(0.9999, 20)
    assert plateau.factor == 0.5
    other = Plateau(gamma=0.5, lr=1.0)
    other.restore(plateau.state())
    assert other.state() == plateau.state()


# Bad input


def written(folder: Path, array: np.ndarray) -> list[str]:
    """Write a tif; give its path as a list."""
    path = folder / f"{len(list(folder.glob('*.tif')))}.tif"
    tifffile.imwrite(path, array)
    return [str(path)]


def test_bad_volumes_are_refused(config: Config, crop: tuple[str, str], tmp_path: Path) -> None:
    labels = tifffile.imread(crop[1])

    def replaced(config: Config, **data: Any) -> Config:
        other = copy.deepcopy(config)
        for key, value in data.items():
            setattr(other.data, key, value)
        return other

    def refused(match: str, **data: Any) -> None:
        bad = replaced(config, **data)
        with pytest.raises((UsageError, VolumeError), match=match) as error:
            fit(bad)
        assert "\n" not in str(error.value)
        assert not Path(bad.output_path).exists()

    refused("has the shape 20x64x64 and .* 20x64x60", labels=written(tmp_path, labels[:, :, :60]))
    refused("are all 0", labels=written(tmp_path, labels * 0))
    refused("hold one object only", labels=written(tmp_path, labels * 0 + 7))
    refused("are all 0 in .*, where the mask .* is not 0", masks=written(tmp_path, labels * 0))
    refused("labels are integer ids", labels=written(tmp_path, labels.astype(np.float32)))
    refused("patch_size 8x32x32 is larger than", boxes=["0-4_0-64_0-64"])
    refused("is not inside", boxes=["0-40_0-64_0-64"])
    refused("holds no box", boxes=["all"])
    refused("data.labels has 2 entries and data.images 1", labels=[crop[1]] * 2)
    refused("nothing to train on", images=[], labels=[])
    refused("does not exist", images=[str(tmp_path / "none.tif")])
    greys = tifffile.imread(crop[0]).astype(np.float32)
    refused("holds greys from .* float32 images lie in 0 to 1", images=written(tmp_path, greys))
    load_volumes(find_volumes(replaced(config, images=written(tmp_path, greys / 255))), 1 << 30)
    config.target.heads, config.loss = [{"kind": "lsd"}], [[{"name": "mse"}]]
    refused("the head lsd needs the voxel size: give data.voxel_size")


def test_few_labels_of_a_volume_on_disk_are_no_error(
    config: Config, crop: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels, image = np.zeros((20, 400, 400), np.uint16), tmp_path / "large.tif"
    labels[:2, :2, :2] = 1
    labels[:2, :2, 2:4] = 2
    tifffile.imwrite(image, labels.astype(np.uint8))
    config.data.images, config.data.labels = [str(image)], written(tmp_path, labels)
    load_volumes(find_volumes(config), 0)  # nothing fits into memory
    assert "no two objects were found in 64 places" in caplog.text
    assert "data.boxes" in caplog.text
    load_volumes(find_volumes(config), 1 << 30)  # they are found where all is looked at


def test_another_voxel_size_is_refused(config: Config, crop: tuple[str, str], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["main"] = tifffile.imread(crop[0])
        file["main"].attrs["voxel_size"] = (30.0, 6.0, 6.0)
    config.data.images, config.data.voxel_size = [str(tmp_path / "image.h5")], [40.0, 4.0, 4.0]
    with pytest.raises(UsageError, match=r"has voxels of 30 6 6 nm, and data\.voxel_size says 40 4 4 nm"):
        fit(config)


def test_missing_gpus_are_named(config: Config) -> None:
    config.system.gpus = 64
    with pytest.raises(UsageError, match=r"system\.gpus is 64.* system\.gpus=0 trains on the CPU"):
        fit(config)


# The command


@pytest.fixture
def yaml(config: Config, tmp_path: Path) -> Path:
    """Give the configuration as a file."""
    path = tmp_path / "net.yaml"
    path.write_text(configuration.to_yaml(config))
    return path


def test_command_trains_and_inference_runs_the_model(
    segflow: Callable[..., Any], yaml: Path, config: Config, crop: tuple[str, str], tmp_path: Path
) -> None:
    moved = tmp_path / "moved.h5"
    write_h5(moved, Chunk(tifffile.imread(crop[1]), (2, 8, 8), None))
    result = segflow("train", "--config-base", yaml, "--config-file", yaml, "solver.iterations=1",
                     "system.precision", "bf16", f"data.labels=[{moved}]")  # fmt: skip
    assert "waiting for data" in result.err
    assert result.err.count("taken to be of one place") == 1  # the volumes are looked at once
    model = Path(config.output_path) / "model.pt"
    segflow("read-tif", "-f", crop[0], "inference", "-f", "pytorch", "--convnet-model", model, "--patch-size",
            8, 32, 32, "--patch-overlap", 2, 8, 8, "--mask-output-chunk", "write-h5", "-f", tmp_path / "a.h5")  # fmt: skip
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["main"].shape == (3, 20, 64, 64)


def test_command_shows_plans_and_refuses(segflow: Callable[..., Any], yaml: Path, config: Config) -> None:
    shown = segflow("train", "--config-file", yaml, "--dry-run", "solver.batch=3").out
    assert "batch: 3" in shown
    assert "20x64x64 voxels" in shown
    words = ("DATASET.REJECT_SAMPLING.SIZE_THRES", "-1", "augment.blank_section.value", "-0.5")
    assert "value: -0.5" in segflow("train", "--config-file", yaml, *words, "--print-config").out
    assert "memory of the device: about" in shown
    assert "solver:" in segflow("train", "--print-config").out
    assert not Path(config.output_path).exists()
    assert "torch.distributed.run" in segflow("train", "--config-file", yaml, "--distributed", code=2).last
    assert "--checkpoint FILE" in segflow("train", "--config-file", yaml, "--fine-tune", code=2).last
    assert "segflow train: data.images is empty" in segflow("train", code=2).last
    missing = segflow("train", "--config-file", yaml, "data.images=[nothing.tif]", code=2)
    assert "nothing.tif does not exist" in missing.last


def test_inference_flag_writes_affinities_as_pytc(
    segflow: Callable[..., Any], yaml: Path, config: Config, crop: tuple[str, str], tmp_path: Path
) -> None:
    assert "inference.images" in segflow("train", "--inference", "--config-file", yaml, code=2).last
    words = ["train", "--config-file", yaml, f"inference.images=['{crop[0]}']", "solver.iterations=1"]
    assert "--checkpoint FILE" in segflow(*words, "--inference", code=2).last
    segflow(*words)
    shown = segflow(*words, "--inference", "--dry-run", "inference.augment=true").out
    assert f"predict {crop[0]}: 20x64x64 voxels, uint8" in shown
    assert "3 channels, to " in shown
    assert "train on" not in shown
    assert not (Path(config.output_path) / "result.h5").exists()
    segflow(*words, "--inference")
    with h5py.File(Path(config.output_path) / "result.h5") as file:
        from_model = file["vol0"][:]
        assert file["vol0"].attrs["offsets"].tolist() == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    saved = Path(config.output_path) / "checkpoint_00001.pt"
    segflow(*words, "--inference", "--checkpoint", saved, "inference.output_name=again.h5")
    with h5py.File(Path(config.output_path) / "again.h5") as file:
        np.testing.assert_array_equal(from_model, file["vol0"][:])
    assert from_model.shape == (3, 20, 64, 64)
    given = ["-m", saved, "-s", 8, 32, 32, "-v", 2, 8, 8, "--mask-output-chunk"]
    said = segflow("read-tif", "-f", crop[0], "inference", *given, code=1).last
    assert "it is a checkpoint: give the model.pt" in said
    model = Path(config.output_path) / "model.pt"
    segflow("read-tif", "-f", crop[0], "inference", "-f", "pytorch", "--convnet-model", model, "--patch-size",
            8, 32, 32, "--patch-overlap", 4, 16, 16, "--mask-output-chunk", "--output-dtype", "uint8",
            "write-h5", "-f", tmp_path / "a.h5")  # fmt: skip
    with h5py.File(tmp_path / "a.h5") as file:
        difference = from_model.astype(int) - file["main"][:][::-1].astype(int)
        assert abs(difference).max() <= 1  # x, y, z there
    segflow(*words, "--inference", "inference.augment=true", "inference.output_name=turned.h5")
    with h5py.File(Path(config.output_path) / "turned.h5") as file:
        assert abs(file["vol0"][:].astype(int) - from_model).max() > 0


def test_memory_that_runs_out_and_crops_that_do_not_fit_a_network_are_said_in_a_line(config: Config) -> None:
    said = "out of memory with 1 crops of 8x32x32 at once; give a smaller"
    with pytest.raises(ModelError, match=said), fabric.passes(config):
        torch.empty(1 << 45)
    config.model.name, config.model.options = "monai:SwinUNETR", {"feature_size": 12}
    config.model.patch_size = [16, 32, 32]
    for job in (report, fit):
        with pytest.raises(ModelError, match="SwinUNETR fails on crops of 16x32x32: .*model.patch_size"):
            job(config)


def test_an_error_in_a_worker_ends_the_run(config: Config) -> None:
    config.system.workers = 1
    config.augment = {"flip": {"p": "x"}}  # the command checks it before the run
    with pytest.raises(UsageError, match="flip"):
        fit(config)
    assert multiprocessing.active_children() == []  # one that is left would hold up the exit
