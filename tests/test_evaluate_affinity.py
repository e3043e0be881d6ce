"""Affinities against ground truth labels."""

from __future__ import annotations

import json
import math

import h5py
import numpy as np
import pytest
import tifffile
from affinities import gala, sections
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.segmentation.affinity_scores import CLIP, affinity_scores

OFFSETS = ((0, 0, -1), (0, -2, 0), (1, 0, 1), (-9, 0, 0))


def by_definition(values, offset, labels, mask, zero, threshold):
    """Score one channel from the list of its edges."""
    pairs = []
    for at in np.ndindex(labels.shape):
        to = tuple(a + o for a, o in zip(at, offset))
        if any(not 0 <= t < n for t, n in zip(to, labels.shape)):
            continue
        a, b = int(labels[at]), int(labels[to])
        if (zero or (a and b)) and mask[at] and mask[to]:
            pairs.append((float(values[at]), bool(a and a == b)))
    if not pairs:
        return {"known": 0}
    hits = sum(v >= threshold - 1e-9 and t for v, t in pairs)
    taken, true = sum(v >= threshold - 1e-9 for v, _ in pairs), sum(t for _, t in pairs)
    average, before = 0.0, 0.0
    for cut in sorted({v for v, _ in pairs}, reverse=True):
        h, n = sum(v >= cut and t for v, t in pairs), sum(v >= cut for v, _ in pairs)
        if true:
            average += h / n * (h / true - before)
            before = h / true
    safe = [(min(max(v, CLIP), 1 - CLIP), t) for v, t in pairs]
    return {
        "known": len(pairs), "true": true / len(pairs), "average_precision": average if true else None,
        "precision": hits / taken if taken else None, "recall": hits / true if true else None,
        "f1": 2 * hits / (taken + true) if taken + true else None,
        "brier": sum((v - t) ** 2 for v, t in pairs) / len(pairs),
        "bce": -sum(math.log(v if t else 1 - v) for v, t in safe) / len(pairs),
    }  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 3), st.randoms(use_true_random=False), st.booleans(), st.booleans()
)  # fmt: skip
def test_definition(shape, random, zero, as_float):
    seeded = np.random.default_rng(random.randrange(10**6))
    labels = seeded.integers(0, 3, shape).astype(np.uint16)
    labels.flat[0] = 1
    mask = seeded.integers(0, 4, shape) > 0
    raw = seeded.choice([0, 51, 102, 128, 255], (4, *shape)).astype(np.uint8)
    array = (raw / 255).astype(np.float32) if as_float else raw
    chunk = Chunk(array, layer_type="affinity_map", offsets=OFFSETS)
    options = {"mask": mask.astype(np.uint8), "zero_is_background": zero}
    known = [by_definition(v / 255, o, labels, mask, zero, 0.5)["known"] for v, o in zip(raw, OFFSETS)]
    if not any(known):
        with pytest.raises(ChunkError, match="no edge"):
            affinity_scores(chunk, labels, [0.4, 0.5], **options)
        return
    found = affinity_scores(chunk, labels, [0.4, 0.5], **options)
    for channel, offset, values in zip(found, OFFSETS, raw / 255):
        assert tuple(channel["offset"]) == offset
        for row in channel["thresholds"]:
            expected = by_definition(values, offset, labels, mask, zero, row["threshold"])
            assert channel["known"] == expected.pop("known")
            for key, value in expected.items():
                got = row[key] if key in row else channel[key]
                assert got == (None if value is None else pytest.approx(value, abs=1e-6)), key


def test_by_hand():
    """Four edges along x: 1-1 at 0.9, 1-2 at 0.6, 2-0 unknown, 0-3 unknown, 3-3 at 0.2."""
    labels = np.array([[[1, 1, 2, 0, 3, 3]]], np.uint8)
    values = np.array([0, 0.9, 0.6, 1, 1, 0.2], np.float32).reshape(1, 1, 1, 6)
    chunk = Chunk(values, layer_type="affinity_map", offsets=[(0, 0, -1)])
    (found,) = affinity_scores(chunk, labels, [0.5])
    assert (found["known"], found["true"]) == (3, pytest.approx(2 / 3))
    assert found["thresholds"] == [{"threshold": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}]
    assert found["average_precision"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.64) / 3, abs=1e-4)
    assert found["bce"] == pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.2)) / 3, abs=1e-4)
    assert found["best"]["f1"] == pytest.approx(0.8)
    (other,) = affinity_scores(chunk, labels, [0.5], zero_is_background=True)
    assert (other["known"], other["thresholds"][0]["precision"]) == (5, 0.25)


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, (3, 5, 6), elements=st.integers(0, 2)).filter(lambda a: (a[0] > 0).all()))
def test_perfect_affinities(labels):
    offsets = ((0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, 0, 2))
    array = np.zeros((4, *labels.shape), np.uint8)
    for at in np.ndindex(labels.shape):
        for c, offset in enumerate(offsets):
            to = tuple(a + o for a, o in zip(at, offset))
            if all(0 <= t < n for t, n in zip(to, labels.shape)):
                array[(c, *at)] = 255 * (labels[at] == labels[to] != 0)
    for row in affinity_scores(Chunk(array, layer_type="affinity_map", offsets=offsets), labels, [0.5]):
        assert row["brier"] in (0, None)
        assert row["average_precision"] in (None, 1)
        assert row["thresholds"][0]["f1"] in (None, 1)


def test_real_affinities(data):
    with h5py.File(data / "gala.h5") as file:
        truth = file["volumes/labels/neuron_ids"][:]
    good = affinity_scores(gala(), truth, zero_is_background=True)  # 0 lies between all neurons
    labels = tifffile.imread(data / "ac4_labels.tif")[:10, :96, :120]
    poor = affinity_scores(sections(), labels)
    for row in (*good, *poor):
        assert row["best"]["f1"] >= max(r["f1"] for r in row["thresholds"]) - 1e-12
        recalls = [r["recall"] for r in row["thresholds"]]
        assert recalls == sorted(recalls, reverse=True)
        assert row["average_precision"] > row["true"]  # better than chance
    assert min(row["average_precision"] for row in good) > 0.95


def test_refused():
    labels = np.ones((2, 3, 4), np.uint8)
    array = np.full((3, 2, 3, 4), 0.5, np.float32)
    with pytest.raises(ChunkError, match=r"ground truth \(2, 3, 3\)"):
        affinity_scores(Chunk(array), labels[..., :3])
    with pytest.raises(ChunkError, match="offset"):
        affinity_scores(Chunk(array[:2], layer_type="affinity_map"), labels)
    with pytest.raises(ChunkError, match="outside"):
        affinity_scores(Chunk(array * np.nan), labels)
    with pytest.raises(ChunkError, match="no edge"):
        affinity_scores(Chunk(array), labels * 0)
    with pytest.raises(ChunkError, match="int32"):
        affinity_scores(Chunk(array.astype(np.int32), layer_type="affinity_map"), labels)


def test_command(tmp_path, segflow, data):
    with h5py.File(data / "gala.h5") as file:
        truth = file["volumes/labels/neuron_ids"][:12]
    affinities = gala()
    np.save(tmp_path / "gt.npy", truth)
    np.save(tmp_path / "affs.npy", affinities.array[:, :12])
    np.save(tmp_path / "mask.npy", (np.arange(200) < 100) & np.ones(truth.shape, bool))
    line = [w for n in ("affs", "gt", "mask") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]
    line += ["evaluate-affinity", "-i", "affs", "-g", "gt"]
    out = segflow(*line, "--json", tmp_path / "s.json", "--plot", tmp_path / "pr.png").out
    assert "offset 0 0 -1 (zyx): " in out
    assert out.count("average precision") == 3
    found = json.loads((tmp_path / "s.json").read_text())
    assert found == affinity_scores(Chunk(affinities.array[:, :12]), truth)
    assert Image.open(tmp_path / "pr.png").size == (1040, 380)
    segflow(*line, "-m", "mask", "--thresholds", "0.5", "--zero-as-background", "--json", tmp_path / "m.json")
    fewer = json.loads((tmp_path / "m.json").read_text())
    assert fewer[0]["known"] == 12 * 100 * 99
    for words, text in ((["-g", "affs"], "'affs' is not zyx labels"), (["--thresholds", "x"], "no numbers"),
                        (["--plot", tmp_path / "no" / "x.png"], "does not exist")):  # fmt: skip
        assert text in segflow("--quiet", *line, *words, code=None).err
