"""select-checkpoint: tiny networks of a real training, scored on a crop of real data."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segflow.chunk import Chunk
from segflow.errors import ModelError, UsageError
from segflow.inference.header import read_header
from segflow.segmentation import agglomerate, evaluate
from segflow.training import checkpoint as files
from segflow.training import config as configuration
from segflow.training.loop import fit
from segflow.training.selection import find_candidates, load_candidate, score, select, write_best

DATA = Path(__file__).parent / "data"
AT = [Fraction(n, 10) for n in (3, 5, 7)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a tiny network; give its folder, with three checkpoints and model.pt, and its volumes."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("select")
    for name in ("image", "labels"):
        array = tifffile.imread(DATA / f"ac4_{name}.tif")[:10, 128:192, 128:192]
        tifffile.imwrite(place / f"{name}.tif", array)
    config = configuration.defaults()
    config.output_path = str(place / "out")
    config.system.gpus, config.system.workers, config.system.precision = 0, 0, "float32"
    config.data.images = config.data.val_images = [str(place / "image.tif")]
    config.data.labels = config.data.val_labels = [str(place / "labels.tif")]
    config.data.voxel_size = [30, 6, 6]
    config.model.widths, config.model.isotropic = [4, 6], [False, False]
    config.model.patch_size = [8, 32, 32]
    config.augment = {"flip": {"p": 1.0}}
    solver = config.solver
    solver.iterations, solver.batch, solver.warmup, solver.lr = 60, 1, 1, 0.01
    solver.save_every, solver.validate_every, solver.keep_best = 20, 0, 0
    config.monitor.image_every = 0
    fit(config)
    return place


@pytest.fixture
def pair(trained):
    image = tifffile.imread(trained / "image.tif").astype(np.float32) / 255
    return Chunk(image), tifffile.imread(trained / "labels.tif").astype(np.int64)


def line(trained):
    return ["read-tif", "-f", trained / "image.tif", "-o", "image",
            "read-tif", "-f", trained / "labels.tif", "-o", "labels", "select-checkpoint"]  # fmt: skip


def test_a_folder_a_pattern_and_files_name_the_same_once(trained):
    out = trained / "out"
    names = [Path(p).name for p in find_candidates([str(out)])]
    assert names[:3] == ["checkpoint_00020.pt", "checkpoint_00040.pt", "checkpoint_00060.pt"]
    assert "model.pt" in names
    assert find_candidates([f"{out}/checkpoint_*.pt", f"{out}/checkpoint_00020.pt"]) == [
        f"{out}/checkpoint_000{n}.pt" for n in (20, 40, 60)
    ]
    with pytest.raises(UsageError, match="holds no checkpoint"):
        find_candidates([str(DATA)])
    with pytest.raises(UsageError, match=r"none\.pt is no file"):
        find_candidates(["none.pt"])


def test_the_averaged_weights_are_scored_as_agglomerate_and_evaluate_do(trained, pair):
    path = str(trained / "out" / "checkpoint_00060.pt")
    candidate = load_candidate(path)
    content = files.load(path)
    own = candidate.net.state_dict()
    floats = [n for n, t in own.items() if t.is_floating_point()]
    assert all(torch.equal(own[n], content["ema"][n]) for n in floats)
    assert not all(torch.equal(own[n], content["model"][n]) for n in floats)

    from segflow.inference import infer, load_backend
    from segflow.inference.patches import Patch

    patch = Patch.of([8, 32, 32], overlap=[2, 8, 8])
    backend = load_backend(model=str(trained / "out" / "model.pt"), weights=None, framework="pytorch", patch=patch,
                           channels=1, output_channels=None, device="cpu", dtype="float32")  # fmt: skip
    affinities = infer(pair[0], backend, patch=patch, mask_output_chunk=True, pad="reflect")
    rows = score(candidate, [pair], AT, torch.device("cpu"))
    for row, threshold in zip(rows, AT):
        expected = evaluate(agglomerate(affinities, threshold, engine="exact"), pair[1])
        assert row["threshold"] == float(threshold)
        for key in ("voi_split", "voi_merge", "adapted_rand_error"):
            assert row[key] == pytest.approx(expected[key], abs=0.02)  # norms are folded there


@pytest.mark.parametrize("by", ["voi", "are"])
def test_the_table_the_files_and_the_best_model(trained, segflow, tmp_path, by):
    out = tmp_path / "best.pt"
    found = segflow(*line(trained), "--checkpoints", trained / "out" / "checkpoint_*.pt", "-i", "image", "-g", "labels",
                    "--by", by, "--thresholds", "0.3:0.7:0.2", "--json", tmp_path / "s.json",
                    "--plot", tmp_path / "s.png", "--output", out)  # fmt: skip
    key = {"voi": "voi", "are": "adapted_rand_error"}[by]
    told = json.loads((tmp_path / "s.json").read_text())
    scores = [row[key] for row in told["networks"]]
    assert len(scores) == 3
    assert scores == sorted(scores)
    assert all(row[key] == min(r[key] for r in row["thresholds"]) for row in told["networks"])
    table = [row.split("\t") for row in found.out.splitlines()]
    assert table[0][:3] == ["file", "iteration", "threshold"]
    assert [row[0] for row in table[1:4]] == [row["file"] for row in told["networks"]]
    assert Image.open(tmp_path / "s.png").width > 600
    header = read_header(out)
    assert header["record"]["iterations"] == told["networks"][0]["iteration"]
    assert header["voxel_size"] == [30, 6, 6]
    again = select([str(out)], None, AT, by=by, device="cpu")
    assert again[0][key] == pytest.approx(scores[0], abs=1e-6)


def test_alone_it_reads_the_volumes_of_the_configuration(trained, segflow):
    alone = segflow("select-checkpoint", "--checkpoints", trained / "out" / "checkpoint_00040.pt")
    given = segflow(*line(trained), "--checkpoints", trained / "out" / "checkpoint_00040.pt",
                    "-i", "image", "-g", "labels")  # fmt: skip
    assert alone.out == given.out


def test_bad_files_are_named_and_left_out_unless_all_are(trained, segflow, tmp_path):
    out = trained / "out"
    (tmp_path / "checkpoint_1.pt").write_bytes((out / "checkpoint_00020.pt").read_bytes()[:2000])
    torch.save({"state_dict": {"w": torch.zeros(2)}}, tmp_path / "checkpoint_2.pt")
    other = files.load(out / "checkpoint_00020.pt")
    other["config"]["model"]["widths"] = [4, 8]
    torch.save(other, tmp_path / "checkpoint_3.pt")
    result = segflow(
        "select-checkpoint", "--checkpoints", tmp_path, "--checkpoints", out / "checkpoint_00020.pt"
    )
    assert len(result.out.splitlines()) == 2
    for number in (1, 2, 3):
        assert result.err.count(f"left out: {tmp_path}/checkpoint_{number}.pt") == 1
    bad = segflow("select-checkpoint", "--checkpoints", tmp_path, code=1)
    assert "none of 3 files can be scored" in bad.last
    assert "Traceback" not in bad.err


def test_a_network_with_nan_is_left_out(trained, pair, tmp_path):
    content = files.load(trained / "out" / "checkpoint_00020.pt")
    content["ema"] = {n: t * float("nan") if t.is_floating_point() else t for n, t in content["ema"].items()}
    torch.save(content, tmp_path / "checkpoint_5.pt")
    with pytest.raises(ModelError, match=r"checkpoint_5\.pt"):
        select([str(tmp_path / "checkpoint_5.pt")], [pair], AT, device="cpu")


def test_a_model_file_that_is_best_is_copied(trained, tmp_path):
    shutil.copy(trained / "out" / "model.pt", tmp_path / "model.pt")
    write_best({"file": str(tmp_path / "model.pt")}, tmp_path / "best.pt")
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "model.pt").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--checkpoints", "x.pt", "-i", "image"], "image and labels go together"),
        (["-i", "image", "-g", "labels"], "--checkpoints is missing"),
        (["--checkpoints", "nothing_*.pt", "-i", "image", "-g", "labels"], "is no file"),
        (["--checkpoints", "x.pt", "-i", "image", "-g", "labels", "--thresholds", "2"], "not all in"),
    ],
)
def test_bad_lines_end_with_usage(trained, segflow, words, said):
    assert said in segflow(*line(trained), *words, code=2).last


def test_a_model_file_without_a_configuration_needs_chunks(trained, segflow, tmp_path):
    content = torch.load(trained / "out" / "model.pt", weights_only=True)
    content["header"]["record"] = {}
    torch.save(content, tmp_path / "model.pt")
    bad = segflow("select-checkpoint", "--checkpoints", tmp_path / "model.pt", code=2)
    assert "names no validation volumes" in bad.last
