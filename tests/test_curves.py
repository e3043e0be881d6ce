"""Scores over thresholds, rules of challenges, reports, and a threshold without ground truth."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import h5py
import numpy as np
import pytest
from affinities import crop
from affinities import gala as gala_affinities
from PIL import Image

from segflow.chunk import Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError, UsageError
from segflow.segmentation import agglomerate, evaluate
from segflow.segmentation.curves import Merging, best, parse_thresholds, score_curve, size_curve, suggest
from segflow.segmentation.report import report
from segflow.segmentation.rules import RULES, Rules, evaluate_by, without_borders
from segflow.view.plot import Line, Panel, draw, ticks

SOME = [Fraction(n, 10) for n in (0, 2, 5, 7, 9)]


@pytest.fixture(scope="module")
def affinities() -> Chunk:
    return gala_affinities()


@pytest.fixture(scope="module")
def truth(request) -> Chunk:
    with h5py.File(request.path.parent / "data" / "gala.h5") as file:
        return Chunk(file["volumes/labels/neuron_ids"][:], (0, 0, 0), (10, 10, 10), "segmentation")


@pytest.fixture(scope="module")
def merging(affinities) -> Merging:
    return Merging(affinities, Fraction(98, 100))


@pytest.fixture
def small(tmp_path, affinities, truth):
    """Give words that read a small crop of both."""
    size = (12, 60, 80)
    np.save(tmp_path / "affs.npy", crop(affinities, size).array)
    np.save(tmp_path / "gt.npy", truth.array[tuple(slice(n) for n in size)])
    return [w for n in ("affs", "gt") for w in
            ("read-npy", "-f", tmp_path / f"{n}.npy", "--voxel-size", 10, 10, 10, "-o", n)]  # fmt: skip


# -- one merging, all thresholds ------------------------------------------------------------------


def test_each_threshold_is_a_direct_agglomeration(affinities, truth, merging):
    rows = score_curve(merging, truth, SOME)
    for threshold, row in zip(SOME, rows):
        direct = agglomerate(affinities, threshold)
        np.testing.assert_array_equal(merging.segmented(threshold), direct.array)
        scores = evaluate(direct, truth)
        assert row["threshold"] == float(threshold)
        for key, value in scores.items():
            assert row[key] == pytest.approx(value, abs=1e-12), key
    splits = [row["voi_split"] for row in rows]
    assert splits == sorted(splits, reverse=True)


def test_each_threshold_with_fragments_elsewhere_and_a_place(affinities, truth):
    box = tuple(slice(n) for n in (20, 50, 70))
    part = Chunk(affinities.array[(slice(None), *box)], (5, 7, 9), layer_type="affinity_map")
    ids = (np.arange(20 * 50 * 70).reshape(20, 50, 70) // 7 % 900).astype(np.uint32)
    merged = Merging(part, Fraction(9, 10), low=0.2, high=0.95, fragments=ids)
    for threshold in SOME[1:]:
        direct = agglomerate(part, threshold, aff_threshold_low=0.2, aff_threshold_high=0.95, fragments=ids)
        np.testing.assert_array_equal(merged.segmented(threshold), direct.array)
    row = score_curve(merged, Chunk(truth.array[box]), SOME[2:3])[0]
    assert (
        row["voi_split"] == evaluate(agglomerate(part, SOME[2], fragments=ids), truth.array[box])["voi_split"]
    )


def test_sizes_are_those_of_the_segmentations(affinities, merging):
    rows = size_curve(merging, SOME, 500)
    before = None
    for threshold, row in zip(SOME, rows):
        array = agglomerate(affinities, threshold).array
        ids, sizes = np.unique(array[array != 0], return_counts=True)
        assert (row["segments"], row["large"]) == (len(ids), (sizes > 500).sum())
        assert row["largest"] == pytest.approx(sizes.max() / sizes.sum())
        if before is not None:
            scores = evaluate(array[None, None, array != 0], before[None, None, array != 0])
            assert row["voi"] == pytest.approx(scores["voi_split"] + scores["voi_merge"], abs=1e-9)
        before = array


def test_thresholds_are_exact_and_checked():
    assert parse_thresholds("0.1:0.9:0.1") == [Fraction(i, 10) for i in range(1, 10)]
    assert parse_thresholds("0.7, 0.3") == [Fraction(3, 10), Fraction(7, 10)]
    for text in ("0.1:0.9", "a:b:c", "0.9:0.1:0.1", "0:1:0", "0.5,1.5", "0:1:0.0001", "", "0.1:0.9:1/0"):
        with pytest.raises(UsageError, match=r"thresholds"):
            parse_thresholds(text)


# -- rules ----------------------------------------------------------------------------------------


def test_zeros_of_snemi3d_and_cremi():
    """20 objects of which a tenth is 0 in the segmentation: singletons cost recall, never precision."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(1, 21), 1000).reshape(1, 200, 100)
    seg = np.where(random.random(truth.shape) < 0.1, 0, truth)
    rows = {name: evaluate_by(Chunk(seg), Chunk(truth), rules) for name, rules in RULES.items()
            if name != "cremi"}  # fmt: skip
    rows["cremi"] = evaluate_by(Chunk(seg), Chunk(truth), Rules(rand_singletons=True))
    snemi = rows["snemi3d"]
    assert snemi["adapted_rand_precision"] == pytest.approx(1)
    assert snemi["adapted_rand_recall"] == pytest.approx(0.806, abs=0.01)
    assert snemi["adapted_rand_error"] == pytest.approx(0.107, abs=0.006)
    assert rows["plain"]["adapted_rand_error"] > 0.15
    assert rows["cremi"]["adapted_rand_error"] == snemi["adapted_rand_error"]
    assert rows["cremi"]["voi_split"] == rows["plain"]["voi_split"] < snemi["voi_split"]
    assert rows["cremi"]["cremi_score"] == pytest.approx(
        math.sqrt((rows["plain"]["voi_split"] + rows["plain"]["voi_merge"]) * snemi["adapted_rand_error"])
    )


def test_border_of_cremi():
    """25 nm at 4 nm are 6.25 voxels, Euclidean, from the voxels on both sides of a border."""
    labels = np.ones((2, 20, 40), np.uint16)
    labels[0, :, 20:] = 2
    found = without_borders(labels, 25, (40, 4, 4))
    assert np.flatnonzero(found[0, 3] == 0).tolist() == list(range(13, 27))
    assert (found[1] == 1).all()  # borders to other sections are none
    assert labels.all()
    corner = np.ones((1, 30, 30), np.uint16)
    corner[0, 15:, 15:] = 2
    near = without_borders(corner, 12, (40, 4, 4))[0] == 0
    others = [(y, x) for y in range(30) for x in range(30) if any(
        0 <= a < 30 and 0 <= b < 30 and corner[0, a, b] != corner[0, y, x]
        for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)))]  # fmt: skip
    expected = [
        [any((y - a) ** 2 + (x - b) ** 2 <= 9 for a, b in others) for x in range(30)] for y in range(30)
    ]
    np.testing.assert_array_equal(near, expected)
    with pytest.raises(ChunkError, match="voxel size"):
        without_borders(labels, 25, None)
    with pytest.raises(ChunkError, match="every voxel"):
        without_borders(labels[:1, :, 15:25], 2500, (40, 4, 4))


# -- report ---------------------------------------------------------------------------------------


def test_report_of_a_split_and_a_merge():
    truth = np.zeros((1, 4, 30), np.uint32)
    truth[..., :10], truth[..., 10:20], truth[..., 20:] = 1, 2, 3
    seg = np.zeros(truth.shape, np.uint64)
    seg[..., 1:7], seg[..., 7:10] = 11, 12  # object 1 in two, a column outside
    seg[..., 10:] = 13  # merges 2 and 3
    found = report(Chunk(seg, (5, 100, 200)), truth, size_threshold=3)
    assert found["splits"] == [
        {"object": 1, "size": 40, "outside": 4, "pieces": [
            {"segment": 11, "size": 24, "zyx": [5, 101, 203]},
            {"segment": 12, "size": 12, "zyx": [5, 101, 208]},
        ]}
    ]  # fmt: skip
    assert found["merges"] == [
        {"segment": 13, "size": 80, "objects": [
            {"object": 2, "size": 40, "zyx": [5, 101, 214]},
            {"object": 3, "size": 40, "zyx": [5, 101, 224]},
        ]}
    ]  # fmt: skip
    fewer = report(Chunk(seg), truth, size_threshold=12)
    assert fewer["splits"] == []
    assert len(fewer["merges"]) == 1


def test_report_of_real_data_agrees_with_the_edit_distance(affinities, truth):
    seg = agglomerate(affinities, 0.7)
    found, scores = report(seg, truth), evaluate(seg, truth)
    assert sum(len(row["pieces"]) - 1 for row in found["splits"]) == scores["edit_merges"]
    assert sum(len(row["objects"]) - 1 for row in found["merges"]) == scores["edit_splits"]
    for row in found["splits"]:
        sizes = [p["size"] for p in row["pieces"]]
        assert sizes == sorted(sizes, reverse=True)
        for piece in row["pieces"]:
            at = tuple(piece["zyx"])
            assert (truth.array[at], seg.array[at]) == (row["object"], piece["segment"])
    lost = [sum(p["size"] for p in row["pieces"][1:]) for row in found["splits"]]
    assert lost == sorted(lost, reverse=True)


# -- without ground truth -------------------------------------------------------------------------


def test_suggestion_is_near_the_best_threshold(merging, truth):
    """Within 0.15 of the best threshold, and 0.02 of its adapted Rand error."""
    at = parse_thresholds("0.02:0.98:0.02")
    scores = {row["threshold"]: row for row in score_curve(merging, truth, at)}
    found = suggest(size_curve(merging, at))
    least = best(list(scores.values()))
    assert found["stable"]
    assert abs(found["threshold"] - least["threshold"]) <= 0.15
    assert scores[found["threshold"]]["adapted_rand_error"] <= least["adapted_rand_error"] + 0.02
    assert found["stretch"][1] < found["jump"] <= 0.96


def test_suggestion_of_a_made_up_curve():
    """Calm at first (nothing merges), a fall, a calm stretch 0.5 ... 0.7, then all flows together."""
    changes = [0, 0, 0, 0.4, 0.4, 0.3, 0.01, 0.02, 2.0, 0]
    largest = [0.1] * 8 + [0.8, 0.9]
    rows = [{"threshold": (i + 1) / 10, "voi": c, "largest": s}
            for i, (c, s) in enumerate(zip(changes, largest))]  # fmt: skip
    found = suggest(rows, 0.2)
    assert (found["threshold"], found["stretch"], found["jump"]) == (0.7, [0.6, 0.8], 0.9)
    assert found["change"] == pytest.approx(0.03)
    wild = suggest([{**row, "voi": 1.0} for row in rows], 0.2)
    assert not wild["stable"]
    assert suggest(rows[:2])["jump"] is None
    with pytest.raises(UsageError, match="two thresholds"):
        suggest(rows[:1])


# -- the plot -------------------------------------------------------------------------------------


def test_plot_draws_what_it_is_given(tmp_path):
    lines = [Line("falls", [0, 1, 2], [1, 0.5, 0]), Line("gap", [0, 1, 2], [0, math.nan, 1], dots=True)]
    image = np.asarray(draw([Panel("title", "x", "y", lines, [(1, "here")])] * 2, (300, 200)))
    assert image.shape == (200, 600, 3)
    np.testing.assert_array_equal(image[:, :300], image[:, 300:])
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(image.astype(int) - colour).sum(-1) < 30).sum() > 20
    assert draw([Panel("empty", "x", "y", [Line("", [], [])])], (200, 150)).size == (200, 150)
    assert ticks(-1, 1, 4) == [-1.0, -0.5, 0.0, 0.5, 1.0]


# -- the commands ---------------------------------------------------------------------------------


def test_thresholds_on_the_command_line(tmp_path, segflow, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = [*small, "evaluate-segmentation", "-s", "affs", "-g", "gt", "--thresholds", "0.1:0.9:0.1"]
    out = segflow(*line, "--report", "report.json", "--size-threshold", 20).out.splitlines()
    assert out[0].split("\t") == ["threshold", "VOI split", "VOI merge", "VOI", "adapted Rand error"]
    assert [float(row.split("\t")[0]) for row in out[1:10]] == [i / 10 for i in range(1, 10)]
    assert Image.open("thresholds.png").size == (1560, 380)
    found = json.loads((tmp_path / "thresholds.json").read_text())
    assert len(found["thresholds"]) == 9
    direct = run_chain(*small, "agglomerate", "-i", "affs", "-t", found["best"]["threshold"], "-o", "seg",
                       "evaluate-segmentation", "-s", "seg", "-g", "gt", "--size-threshold", 20)  # fmt: skip
    for key, value in direct["seg_score"].items():
        assert found["best"][key] == pytest.approx(value, abs=1e-12)
    listed = json.loads((tmp_path / "report.json").read_text())
    assert sum(len(row["pieces"]) - 1 for row in listed["splits"]) == direct["seg_score"]["edit_merges"]
    segflow(*line, "--plot", "c.png", "--json", "other.json", "--rules", "cremi", "--border", 15)
    other = json.loads((tmp_path / "other.json").read_text())
    assert not (tmp_path / "c.json").exists()
    assert other["rules"]["border"] == 15
    assert other["best"]["voi_split"] < found["best"]["voi_split"]


def test_rules_on_the_command_line(segflow, small, tmp_path):
    line = [
        *small,
        "agglomerate",
        "-i",
        "affs",
        "-o",
        "seg",
        "evaluate-segmentation",
        "-s",
        "seg",
        "-g",
        "gt",
    ]
    usual = segflow(*line).out
    ruled = {name: segflow(*line, "--rules", name).out for name in RULES}
    assert ruled["plain"].startswith(usual)
    assert len(set(ruled.values())) == 3
    assert "CREMI score" in ruled["cremi"]
    segflow(*line, "--rules", "cremi", "--json", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["voi"] > 0


def test_suggest_on_the_command_line(tmp_path, segflow, small):
    place = tmp_path / "curve.png"
    out = segflow(*small, "suggest-threshold", "-i", "affs", "-o", place, "--size-threshold", 100).out
    found = json.loads((tmp_path / "curve.json").read_text())
    assert out.startswith(f"threshold {found['threshold']:g}: stable from ")
    assert len(found["curve"]) == 49
    assert Image.open(place).size == (1560, 380)


def test_a_picture_for_each_task(tmp_path, segflow):
    np.save(tmp_path / "affs.npy", np.ones((3, 4, 8, 8), np.float32))
    np.save(tmp_path / "gt.npy", np.ones((4, 8, 8), np.uint8))
    read = [w for n in ("affs", "gt") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]
    line = ["generate-tasks", "-c", 4, 8, 8, "-g", 2, 1, 1, *read,
            "evaluate-segmentation", "-s", "affs", "-g", "gt", "--thresholds", "0.5"]  # fmt: skip
    assert "thresholds.png" in segflow("--quiet", *line, code=2).err
    segflow("--quiet", *line, "--plot", f"{tmp_path}/curves/")
    names = sorted(p.name for p in (tmp_path / "curves").iterdir())
    assert names == [f"{z}_0-8_0-8.{e}" for z in ("0-4", "4-8") for e in ("json", "png")]


def test_affinities_without_fragments():
    nothing = Chunk(np.zeros((3, 4, 5, 6), np.uint8), layer_type="affinity_map")
    merged = Merging(nothing, Fraction(1, 2))
    row = score_curve(merged, Chunk(np.ones((4, 5, 6), np.uint8)), [Fraction(1, 2)])[0]
    assert (row["voi"], row["adapted_rand_error"]) == (0, 0)  # all is one segment, as the truth is
    with pytest.raises(ChunkError, match="no fragments"):
        size_curve(merged, SOME[:2])
    with pytest.raises(ChunkError, match="same box"):
        score_curve(merged, Chunk(np.ones((4, 5, 5), np.uint8)), SOME[:1])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate-segmentation", "-s", "affs", "-g", "gt", "--thresholds", "0.1:0.9"], "START:STOP:STEP"),
        (
            ["evaluate-segmentation", "-s", "gt", "-g", "gt", "--thresholds", "0.1:0.9:0.1"],
            "affinities, czyx",
        ),
        (["evaluate-segmentation", "-s", "gt", "-g", "gt", "--rules", "snemi"], "did you mean 'snemi3d'"),
        (["evaluate-segmentation", "-s", "gt", "-g", "gt", "--plot", "c.png"], "belong to --thresholds"),
        (["evaluate-segmentation", "-s", "affs", "-g", "gt"], "--thresholds merges affinities"),
        (["evaluate-segmentation", "-s", "gt"], "no chunk named 'groundtruth'"),
        (
            ["evaluate-segmentation", "-s", "affs", "-g", "gt", "--thresholds", "0.5", "--plot", "x.jpg"],
            ".png",
        ),
        (["evaluate-segmentation", "-s", "gt", "-g", "gt", "--report", "/no/such/x.json"], "/no/such"),
        (["suggest-threshold", "-i", "affs", "--thresholds", "0.5"], "two thresholds"),
        (["suggest-threshold", "-i", "gt"], "czyx"),
        (["suggest-threshold", "-i", "affs", "-o", "curve.pdf"], ".png"),
    ],
)
def test_refused_before_the_run(tmp_path, segflow, small, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    result = segflow("--quiet", *small, *words, code=2)
    assert result.err.count("\n") == 1
    assert text in result.err
