"""Scores of a segmentation against ground truth."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import h5py
import numpy as np
import pytest
import tifffile
import waterz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segflow.chunk import Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError
from segflow.segmentation import evaluate
from segflow.segmentation.contingency import contingency
from segflow.segmentation.quiet import muted

KEYS = {
    "rand_split", "rand_merge", "voi_split", "voi_merge", "adapted_rand_error", "adapted_rand_precision",
    "adapted_rand_recall", "adjusted_rand_score", "fowlkes_mallows", "edit_splits", "edit_merges",
    "edit_distance",
}  # fmt: skip
PAIRS = st.tuples(*[st.integers(1, 4)] * 3).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint16, shape, elements=st.integers(0, 4))] * 2)
).filter(lambda pair: pair[1].any())  # fmt: skip


@pytest.fixture(scope="module")
def gala(request) -> tuple[np.ndarray, np.ndarray]:
    """Give real fragments and their ground truth."""
    with h5py.File(request.path.parent / "data" / "gala.h5") as file:
        return file["volumes/labels/watershed"][:], file["volumes/labels/neuron_ids"][:]


def by_definition(seg, truth, keep_zero=False, zero_as_singletons=False, size_threshold=1000) -> dict:
    """Compute every score from the list of voxels, and the pair scores from all pairs of them."""
    voxels = [
        (int(t), f"voxel {i}" if zero_as_singletons and s == 0 else int(s))
        for i, (t, s) in enumerate(zip(truth.ravel(), seg.ravel()))
        if keep_zero or t
    ]
    n = len(voxels)
    p, ts, ss = Counter(voxels), Counter(t for t, _ in voxels), Counter(s for _, s in voxels)
    squares = {name: sum(v * v for v in c.values()) for name, c in (("p", p), ("t", ts), ("s", ss))}
    recall, precision = squares["p"] / squares["t"], squares["p"] / squares["s"]
    found = {
        "rand_split": recall,
        "rand_merge": precision,
        "voi_split": -sum(v / n * math.log2(v / ts[t]) for (t, _), v in p.items()),
        "voi_merge": -sum(v / n * math.log2(v / ss[s]) for (_, s), v in p.items()),
        "adapted_rand_error": 1 - 2 * precision * recall / (precision + recall),
        "adapted_rand_precision": precision,
        "adapted_rand_recall": recall,
    }
    both = in_t = in_s = pairs = 0
    for (t, s), (u, v) in itertools.combinations(voxels, 2):
        both, in_t, in_s, pairs = both + (t == u and s == v), in_t + (t == u), in_s + (s == v), pairs + 1
    chance = in_t * in_s / pairs if pairs else 0
    perfect = both == in_t == in_s
    found["adjusted_rand_score"] = 1 if perfect else (both - chance) / ((in_t + in_s) / 2 - chance)
    found["fowlkes_mallows"] = 1 if perfect else both / math.sqrt(in_t * in_s) if in_t * in_s else 0
    large = [(t, s) for (t, s), v in p.items() if v > size_threshold and t != 0 and s != 0]
    large = [(t, s) for t, s in large if not isinstance(s, str)]
    found["edit_merges"] = len(large) - len({t for t, _ in large})
    found["edit_splits"] = len(large) - len({s for _, s in large})
    found["edit_distance"] = found["edit_merges"] + found["edit_splits"]
    return found


# -- known values ---------------------------------------------------------------------------------


def test_numbers_published_with_the_data(gala):
    seg, truth = gala
    all_voxels, labelled = evaluate(seg, truth, keep_zero=True), evaluate(seg, truth)
    assert set(labelled) == KEYS
    assert all_voxels["voi_split"] * math.log(2) == pytest.approx(1.1386, abs=6e-5)
    assert all_voxels["voi_merge"] * math.log(2) == pytest.approx(0.3150, abs=6e-5)
    assert all_voxels["adjusted_rand_score"] == pytest.approx(0.67093, abs=2e-5)
    assert labelled["adapted_rand_error"] == pytest.approx(0.24963, abs=6e-6)


def test_the_same_four_numbers_as_waterz(gala, data):
    labels = tifffile.imread(data / "ac4_labels.tif")
    for seg, truth in (gala, (np.roll(labels, 5, 2), labels)):
        with muted():
            peer = waterz.evaluate(seg.astype(np.uint64), truth.astype(np.uint64))
        ours = evaluate(seg, truth)
        for key, value in peer.items():
            assert ours[key] == pytest.approx(value, rel=1e-9), key


def test_the_metric_of_snemi3d():
    """Objects of which a tenth of the voxels is unlabelled: precision 1 only with singletons."""
    truth = np.repeat(np.arange(1, 21), 100).reshape(1, 40, 50)
    seg = truth.copy()
    seg.reshape(20, 100)[:, :10] = 0
    single = evaluate(seg, truth, zero_as_singletons=True)
    p2 = 20 * (90**2) + 200  # each unlabelled voxel is an object of one voxel
    assert single["adapted_rand_precision"] == pytest.approx(1)
    assert single["adapted_rand_recall"] == pytest.approx(p2 / (20 * 100**2))
    ordinary = evaluate(seg, truth)
    p2 = 20 * (90**2 + 10**2)
    assert ordinary["adapted_rand_precision"] == pytest.approx(p2 / (20 * 90**2 + 200**2))
    assert ordinary["adapted_rand_error"] > single["adapted_rand_error"]


def test_a_split_and_a_merge():
    truth = np.repeat([1, 2, 3, 4], 2000).reshape(1, 80, 100)
    split = np.repeat([1, 1, 2, 2, 3, 4, 5, 5], 1000).reshape(truth.shape)
    scores = evaluate(split, truth, size_threshold=500)
    assert (scores["edit_splits"], scores["edit_merges"], scores["edit_distance"]) == (0, 1, 1)
    assert scores["voi_split"] == pytest.approx(0.25)
    assert (scores["voi_merge"], scores["rand_merge"]) == (0, 1)
    merged = evaluate(truth, split, size_threshold=500)
    assert (merged["edit_splits"], merged["edit_merges"]) == (1, 0)
    assert merged["voi_merge"] == pytest.approx(0.25)
    assert evaluate(split, truth)["edit_distance"] == 0  # overlaps of 1000 are not above 1000


# -- laws -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.booleans(), st.booleans(), st.integers(0, 3))
def test_definition(pair, keep_zero, singletons, size):
    options = {"keep_zero": keep_zero, "zero_as_singletons": singletons, "size_threshold": size}
    found, expected = evaluate(*pair, **options), by_definition(*pair, **options)
    for key in KEYS:
        assert found[key] == pytest.approx(expected[key], abs=1e-9), key


@settings(max_examples=30, deadline=None)
@given(PAIRS, st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_names_of_labels_do_not_matter(pair, first, second):
    tables = [np.array([0, *order]) * factor for order, factor in ((first, 10**17), (second, 7))]
    renamed = evaluate(*(table[labels] for table, labels in zip(tables, pair)))
    for key, value in evaluate(*pair).items():
        assert renamed[key] == pytest.approx(value, abs=1e-12), key


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_identity_is_perfect_and_swapping_swaps(pair):
    _, truth = pair
    scores = evaluate(truth, truth, size_threshold=0)
    assert {scores[k] for k in KEYS if "voi" in k or "edit" in k or "error" in k} == {0}
    assert {scores[k] for k in KEYS if not ("voi" in k or "edit" in k or "error" in k)} == {1}
    one, other = evaluate(*pair, keep_zero=True), evaluate(*pair[::-1], keep_zero=True)
    assert one["voi_split"] == pytest.approx(other["voi_merge"])
    assert one["rand_split"] == pytest.approx(other["rand_merge"])
    assert one["adjusted_rand_score"] == pytest.approx(other["adjusted_rand_score"])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([np.uint8, np.int16, np.uint32, np.int64, np.uint64, np.bool_]),
    st.integers(0, 300), st.integers(1, 40),
)  # fmt: skip
def test_contingency_counts(dtype, seed, labels):
    random = np.random.default_rng(seed)
    first, second = random.integers(0, labels, (2, 3, 11, 13)).astype(dtype)
    a, b, n = contingency(first, second)
    expected = sorted(Counter(zip(first.ravel().tolist(), second.ravel().tolist())).items())
    assert [((int(x), int(y)), int(c)) for x, y, c in zip(a, b, n)] == expected


def test_a_table_that_grows_and_views():
    first = np.arange(60000, dtype=np.uint64).reshape(30, 40, 50) << np.uint64(40)
    second = np.zeros_like(first)
    a, _, n = contingency(first, second)
    np.testing.assert_array_equal(a, first.ravel())
    assert n.tolist() == [1] * 60000
    turned = contingency(first.transpose(2, 1, 0), second.transpose(2, 1, 0))
    np.testing.assert_array_equal(turned[0], a)
    first.flags.writeable = False
    assert contingency(first[::2], second[::2])[2].sum() == 30000


# -- refused --------------------------------------------------------------------------------------


def test_refused():
    labels = np.ones((2, 3, 4), np.uint32)
    with pytest.raises(ChunkError, match=r"\(1, 3, 4\).*\(2, 3, 4\)"):
        evaluate(labels[:1], labels)
    with pytest.raises(ChunkError, match="segmentation is float32"):
        evaluate(labels.astype(np.float32), labels)
    with pytest.raises(ChunkError, match="ground truth is zyx"):
        evaluate(labels, np.stack([labels, labels]))
    with pytest.raises(ChunkError, match="--keep-zero"):
        evaluate(labels, labels * 0)
    assert evaluate(labels, labels * 0, keep_zero=True)["rand_split"] == 1
    assert evaluate(labels[None], Chunk(labels[None], layer_type="segmentation"))["voi_split"] == 0


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, gala):
    """Give the words that read a segmentation and ground truth."""
    for name, array in zip(("seg", "gt"), gala):
        np.save(tmp_path / f"{name}.npy", array)
    return [w for n in ("seg", "gt") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]


def test_the_four_lines_and_the_rest(tmp_path, segflow, files, gala):
    scores = evaluate(*gala)
    line = [*files, "evaluate-segmentation", "-s", "seg", "-g", "gt"]
    rows = [row.partition(":") for row in segflow(*line).out.splitlines()]
    assert [r[0] for r in rows] == ["\tRand split", "\tRand merge", "\tVOI split", "\tVOI merge"]
    for (_, _, value), key in zip(rows, ("rand_split", "rand_merge", "voi_split", "voi_merge")):
        assert float(value) == pytest.approx(scores[key], abs=1e-7)
        assert len(value.strip().replace(".", "")) >= 6
    more = segflow(*line, "--all").out.splitlines()
    assert more[:4] == ["".join(r) for r in rows]
    assert [row.partition(":")[0].strip() for row in more[4:]] == [
        "Adapted Rand error", "Adapted Rand precision", "Adapted Rand recall", "Adjusted Rand score",
        "Edit distance", "Edit distance, splits", "Edit distance, merges", "Fowlkes-Mallows",
    ]  # fmt: skip
    segflow(*line, "--json", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == scores


def test_labels_at_other_places_are_told(segflow, files):
    line = ["evaluate-segmentation", "-s", "seg", "-g", "gt"]
    assert "warning" not in segflow(*files, *line).err
    said = segflow(*files, "--voxel-offset", 0, 0, 8, *line).err  # of the ground truth
    assert "ground truth at 0-50_0-100_8-208; they are compared voxel by voxel" in said


def test_each_option_changes_the_answer(gala):
    seg, truth = np.where(gala[0] % 7, gala[0], 0), gala[1]

    def run(*words):
        line = ["evaluate-segmentation", *words]
        return run_chain(*line, chunk=Chunk(seg), groundtruth=Chunk(truth))["seg_score"]

    usual = run()
    assert usual == evaluate(seg, truth)
    for words, options in (
        (["--keep-zero"], {"keep_zero": True}),
        (["--zero-as-singletons"], {"zero_as_singletons": True}),
        (["--size-threshold", "10"], {"size_threshold": 10}),
    ):
        assert run(*words) == evaluate(seg, truth, **options) != usual
    old = ["--segmentation-chunk-name", "chunk", "--groundtruth-chunk-name", "groundtruth", "--output", "x"]
    state = run_chain("evaluate-segmentation", *old, chunk=Chunk(seg), groundtruth=Chunk(truth))
    assert state["x"] == usual


def test_a_file_for_each_task(tmp_path, segflow):
    line = ["generate-tasks", "-c", 4, 8, 8, "-g", 2, 1, 1, "create-chunk", "-s", 4, 8, 8, "--dtype", "uint32",
            "evaluate-segmentation", "-s", "chunk", "-g", "chunk", "--json"]  # fmt: skip
    result = segflow("--quiet", *line, tmp_path / "one.json", code=None)
    assert result.code in (1, 2)
    assert "one.json" in result.err
    segflow("--quiet", *line, tmp_path / "{bbox}.json")
    names = sorted(p.name for p in tmp_path.glob("*.json") if p.name != "one.json")
    assert names == ["0-4_0-8_0-8.json", "4-8_0-8_0-8.json"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-s", "seg", "-g", "cut"], "same box"),
        (["-s", "seg", "-g", "map"], "float32"),
        (["-s", "seg", "-g", "gtt"], "did you mean 'gt'"),
        (["-s", "seg", "-g", "gt", "--json", "/no/such/folder/x.json"], "/no/such/folder"),
    ],
)
def test_refused_before_the_run(tmp_path, segflow, files, gala, words, text):
    np.save(tmp_path / "cut.npy", gala[1][:-1])
    np.save(tmp_path / "map.npy", gala[1].astype(np.float32))
    more = [w for n in ("cut", "map") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]
    result = segflow("--quiet", *files, *more, "evaluate-segmentation", *words, code=2)
    assert result.err.count("\n") == 1
    assert text in result.err
