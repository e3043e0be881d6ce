"""Targets of training: hand-computed rows, laws, and what is known of them."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segflow.errors import ChunkError, UsageError
from segflow.training.label_kernels import number
from segflow.training.shape_descriptors import shape_descriptors
from segflow.training.targets import affinities, dilate, erode, head_layout, make_targets, relabel

NEAREST = [[0, 0, -1], [0, -1, 0], [-1, 0, 0]]
ROW = [1, 1, 1, 0, 2, 2, 2, 3, 3, 3]

volumes = arrays(np.int64, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3))


def row(*ids, dtype=np.int64):
    return np.array([[ids]], dtype)


def target(*heads, **changes):
    keys = {"offsets": NEAREST, "erosion": 0, "dilation": 0, "mask_first_planes": True}
    keys |= {"relabel": False} | changes
    return SimpleNamespace(heads=list(heads) or [{"kind": "affinity"}], **keys)


@pytest.mark.parametrize(
    ("width", "expected"),
    [(0, ROW), (1, [1, 1, 1, 0, 2, 2, 0, 0, 3, 3]), (2, [1, 1, 0, 0, 0, 0, 0, 0, 0, 3])],
)
def test_erosion_widens_borders_between_objects_only(width, expected):
    assert erode(row(*ROW), width)[0, 0].tolist() == expected
    assert erode(row(*ROW).swapaxes(1, 2), width)[0, :, 0].tolist() == expected
    along_z = row(*ROW).swapaxes(0, 2)
    assert (erode(along_z, width) == along_z).all(), "nothing is done in z"


@settings(max_examples=60, deadline=None)
@given(volumes, st.integers(0, 3))
def test_erosion_and_dilation_are_as_their_windows_say(labels, width):
    eroded, grown = erode(labels, width), dilate(labels, width)
    for z, y, x in np.ndindex(labels.shape):
        window = labels[z, max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        here = labels[z, y, x]
        assert eroded[z, y, x] == (here if len(set(window[window > 0])) == 1 else 0)
        assert grown[z, y, x] == (here or window.max())


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [("uint8", [3, 255]), ("int16", [-4, 300]), ("uint64", [2**63 + 1, 2**64 - 1]), ("int64", [-1, 2**40])],
)
def test_ids_may_be_any_integers(dtype, ids):
    a, b = ids
    labels = row(a, a, 0, b, b, a, a, dtype=dtype)
    made = erode(labels, 1)
    assert made.dtype == labels.dtype
    assert made[0, 0].tolist() == [a, a, 0, b, 0, 0, a]
    assert affinities(labels, [(0, 0, -1)])[0][0, 0, 0].tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert relabel(labels)[0, 0].tolist() == [1, 1, 0, 2, 2, 3, 3]


def test_affinity_joins_a_voxel_to_the_one_before_it():
    """Channel 0 is x: 1 where s(p) = s(p - 1) and is not 0; the first plane is unknown."""
    labels = np.array([[[1, 1, 2], [0, 1, 2]], [[1, 0, 2], [0, 0, 2]]], np.uint16)
    values, known = affinities(labels, NEAREST)
    assert values.dtype == np.float32
    assert values[0].tolist() == [[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert values[1].tolist() == [[[0, 0, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 1]]]
    assert values[2].tolist() == [[[0, 0, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 1]]]
    assert not known[0, :, :, 0].any()
    assert known[0, :, :, 1:].all()
    assert not known[1, :, 0].any()
    assert known[1, :, 1:].all()
    assert not known[2, 0].any()
    assert known[2, 1:].all()


def test_long_and_positive_offsets():
    labels = row(1, 1, 0, 1, 2, 2)
    values, known = affinities(labels, [(0, 0, -3), (0, 0, 3), (0, 0, 9), (0, 1, 0)])
    assert values[0, 0, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert known[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert values[1, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert known[1, 0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert not known[2:].any()


def test_padding_as_in_pytc_makes_the_first_plane_foreground():
    values, known = affinities(row(1, 1, 0, 3), [(0, 0, -1), (-1, 0, 0), (0, 0, -3)], padded=True)
    assert values[:, 0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 0, 0]]
    assert known.all()


offset = st.tuples(*[st.integers(-3, 3)] * 3).filter(any)


@settings(max_examples=80, deadline=None)
@given(volumes, st.lists(offset, min_size=1, max_size=4), st.booleans(), st.randoms(use_true_random=False))
def test_an_edge_is_known_if_both_its_voxels_are(labels, offsets, padded, random):
    mask = np.array([random.random() < 0.7 for _ in range(labels.size)]).reshape(labels.shape)
    values, known = affinities(labels, offsets, mask, padded=padded)
    size = np.array(labels.shape)
    for channel, jump in enumerate(offsets):
        for v in np.ndindex(labels.shape):
            there = np.add(v, jump)
            inside = (there >= 0).all() and (there < size).all()
            u = tuple(np.clip(there, 0, size - 1))
            sure = (inside or padded) and mask[v] and mask[u]
            assert known[(channel, *v)] == sure
            assert values[(channel, *v)] == (sure and labels[v] == labels[u] != 0)


@settings(max_examples=30, deadline=None)
@given(volumes, offset)
def test_an_edge_is_the_same_from_both_ends(labels, jump):
    there_and_back = affinities(labels, [jump, tuple(-o for o in jump)])
    for values in there_and_back:
        moved = np.roll(values[1], [-o for o in jump], axis=(0, 1, 2))
        kept = there_and_back[1][0]
        assert (values[0][kept] == moved[kept]).all()


def test_unknown_is_not_background():
    """The label of an unknown voxel is not read: not by erosion, contour, or affinities."""
    labels = row(1, 1, 1, 1, 9, 9)
    mask = row(1, 1, 1, 0, 0, 0).astype(bool)
    heads = {"kind": "affinity"}, {"kind": "contour"}, {"kind": "foreground"}
    settings = target(*heads, erosion=1, offsets=[[0, 0, -1]])
    values, known, layout = make_targets(labels, mask, settings)
    assert layout == [("affinity", 1), ("contour", 1), ("foreground", 1)]
    assert (values.dtype, known.dtype) == (np.uint8, bool)
    assert known[:, 0, 0].tolist() == [
        [0, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],  # whether there is a contour at the third voxel depends on the unknown one
        [1, 1, 1, 0, 0, 0],
    ]  # fmt: skip
    assert values[:, 0, 0].tolist() == [[0, 1, 1, 0, 0, 0], [0] * 6, [1, 1, 1, 0, 0, 0]]
    other = make_targets(np.where(mask, labels, 77), mask, settings)
    assert (other[0] == values).all()
    assert (other[1] == known).all()


def test_contour_with_and_without_background():
    labels = row(1, 1, 1, 0, 0, 0, 2, 2, 3, 3)
    heads = [{"kind": "contour", "width": w, "background": b} for w, b in product((1, 2), (True, False))]
    values, known, _ = make_targets(labels, None, target(*heads))
    assert known.all()
    assert values[:, 0, 0].astype(int).tolist() == [
        [0, 0, 1, 1, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 0, 1, 1, 1, 1],
    ]


def test_a_contour_between_known_objects_is_known_beside_unknown_voxels():
    mask = row(1, 1, 1, 1, 0).astype(bool)
    values, known, _ = make_targets(row(1, 1, 2, 2, 5), mask, target({"kind": "contour"}))
    assert values[0, 0, 0].tolist() == [0, 1, 1, 0, 0]
    assert known[0, 0, 0].tolist() == [1, 1, 1, 0, 0]


def test_foreground_of_some_ids():
    heads = {"kind": "foreground"}, {"kind": "foreground", "ids": [2, 5]}
    values, _, _ = make_targets(row(0, 1, 2, 5), None, target(*heads, relabel=True))
    assert values[:, 0, 0].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]


def test_distance_in_the_section_and_in_space():
    labels = np.repeat(row(1, 1, 1, 1, 1, 0, 2), 3, axis=0)
    labels[0] = 0
    heads = {"kind": "distance"}, {"kind": "distance", "scale": 10.0}, {"kind": "distance", "mode": "3d"}
    values, known, _ = make_targets(labels, None, target(*heads), voxel_size=(30, 6, 6))
    assert known.all()
    assert values[0, 2, 0].tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0, 1])
    assert values[1, 2, 0].tolist() == pytest.approx(np.tanh([3, 2.4, 1.8, 1.2, 0.6, 0, 0.6]))
    assert values[2, 2, 0].tolist() == pytest.approx([1, 24 / 30, 18 / 30, 12 / 30, 6 / 30, 0, 1])
    assert values[2, 1, 0].tolist() == pytest.approx([1, 24 / 30, 18 / 30, 12 / 30, 6 / 30, 0, 1])


def test_a_distance_is_known_where_the_border_is_nearer_than_the_unknown():
    mask = np.ones((1, 1, 8), bool)
    mask[..., 0] = False
    labels = row(1, 1, 1, 1, 1, 1, 0, 0)
    values, known, _ = make_targets(labels, mask, target({"kind": "distance", "scale": 6.0}), (30, 6, 6))
    assert known[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert values[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, np.tanh(2), np.tanh(1), 0, 0])


def test_an_object_without_border_is_far_from_it():
    labels = np.ones((2, 3, 4), np.int64)
    for head in ({"kind": "distance"}, {"kind": "distance", "mode": "3d", "scale": 50}):
        values, _, _ = make_targets(labels, None, target(head), (30, 6, 6))
        assert (values == 1).all()


def described(labels, sigma, size):
    """The definition of local shape descriptors, voxel by voxel in float64."""
    grid = np.stack(np.indices(labels.shape), -1) * np.array(size)
    weights = []
    for s in np.array(sigma) / size:
        radius = int(3 * s + 0.5)
        d = np.arange(-radius, radius + 1)
        g = np.exp(-0.5 * (d / s) ** 2)
        weights.append(dict(zip(d.tolist(), g / g.sum(), strict=True)))
    result = np.zeros((10, *labels.shape))
    for p in np.ndindex(labels.shape):
        if not labels[p]:
            continue
        near = [v for v in np.ndindex(labels.shape) if labels[v] == labels[p]]
        w = np.array([np.prod([g.get(b - a, 0) for g, a, b in zip(weights, p, v)]) for v in near])
        at = np.array([grid[v] for v in near], float)
        mean = w @ at / w.sum()
        moved = at - mean
        covariance = (w[:, None, None] * moved[:, :, None] * moved[:, None]).sum(0) / w.sum()
        variance = np.maximum(np.diag(covariance), 1e-3)
        result[(slice(0, 3), *p)] = (mean - grid[p]) / sigma * 0.5 + 0.5
        result[(slice(3, 6), *p)] = variance / np.array(sigma) ** 2
        pearson = [covariance[a, b] / np.sqrt(variance[a] * variance[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        result[(slice(6, 9), *p)] = np.array(pearson) * 0.5 + 0.5
        result[(9, *p)] = w.sum()
    return np.clip(result, 0, 1)


@pytest.mark.parametrize("sigma", [(20, 20, 20), (40, 9, 14)])
def test_shape_descriptors_follow_their_definition(sigma):
    rng = np.random.default_rng(3)
    labels = np.repeat(np.repeat(rng.integers(0, 3, (3, 3, 3)), 3, 1), 3, 2)[:, :8, :9].astype(np.uint32)
    found = shape_descriptors(labels, sigma, (30, 6, 7))
    assert found.shape == (10, *labels.shape)
    assert np.abs(found - described(labels, sigma, (30, 6, 7))).max() < 1e-4


def test_shape_descriptors_are_known_in_objects_only():
    labels, mask = row(4, 4, 0, 0, 5), row(1, 0, 1, 1, 1).astype(bool)
    values, known, layout = make_targets(labels, mask, target({"kind": "lsd", "sigma": 12}), (30, 6, 6))
    assert layout == [("lsd", 10)]
    assert (known[:, 0, 0] == [1, 0, 0, 0, 1]).all()
    assert (values[:, 0, 0, 1:4] == 0).all()
    alone = shape_descriptors(row(4, 0, 0, 0, 5).astype(np.uint32), 12, (30, 6, 6))
    assert (values == alone).all()


def test_heads_follow_in_order_with_widths_of_their_own():
    labels = row(*ROW)
    heads = {"kind": "foreground"}, {"kind": "affinity", "offsets": [[0, 0, 1]], "erosion": 2}
    nearest = {"kind": "affinity", "offsets": [[0, 0, -1], [0, 0, -2]]}
    values, known, layout = make_targets(labels, None, target(*heads, nearest, erosion=1))
    assert layout == [("foreground", 1), ("affinity", 1), ("affinity", 2)]
    assert values.shape == known.shape == (4, 1, 1, 10)
    assert values[:3, 0, 0].astype(int).tolist() == [
        [1, 1, 1, 0, 1, 1, 0, 0, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 1, 0, 0, 0, 1],
    ]


def test_pieces_of_a_torn_object_are_objects_of_their_own():
    labels = row(7, 7, 0, 7, 7)
    whole = target(offsets=[[0, 0, -3]])
    assert make_targets(labels, None, whole)[0][0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    pieces = target(offsets=[[0, 0, -3]], relabel=True)
    assert make_targets(labels, None, pieces)[0][0, 0, 0].tolist() == [0, 0, 0, 0, 0]


def test_pieces_that_the_unknown_may_join_stay_one_object():
    labels = row(7, 7, 0, 7, 7, 0, 8, 0, 0, 8)
    mask = row(1, 1, 0, 1, 1, 1, 1, 1, 1, 1).astype(bool)
    pieces = target(offsets=[[0, 0, -3]], relabel=True)
    values, known, _ = make_targets(labels, mask, pieces)
    assert values[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert known[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 1, 1]
    for unknown in ((0, 1, 1), (2, 1, 1)):  # a section before and after counts as touching
        labels, mask = np.zeros((3, 3, 3), int), np.ones((3, 3, 3), bool)
        labels[1, 0, 0] = labels[1, 2, 2] = 5
        mask[unknown] = False
        settings = target(offsets=[[0, 2, 2]], relabel=True)
        assert make_targets(labels, mask, settings)[0][0, 1, 0, 0] == 1
        assert make_targets(labels, None, settings)[0][0, 1, 0, 0] == 0


def test_many_ids_are_numbered_as_they_appear():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63, 6000, np.uint64)[rng.integers(0, 6000, (4, 50, 50))]
    ids[0, 0, :3] = 0
    dense = np.empty(ids.shape, np.int32)
    count = number(ids, dense)
    assert count == len(np.unique(ids)) - 1 == dense.max()
    assert len(np.unique(np.stack([ids.ravel(), dense.ravel().astype(np.uint64)]), axis=1).T) == count + 1
    firsts = dense.ravel()[np.sort(np.unique(dense, return_index=True)[1])]
    assert firsts.tolist() == list(range(count + 1))


def test_first_planes_may_be_guessed():
    labels = np.repeat(np.repeat(row(1, 1, 2), 2, axis=0), 2, axis=1)
    values, known, _ = make_targets(labels, None, target(mask_first_planes=False))
    assert values[:, 0, 0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert known.all()


def test_the_input_is_not_changed():
    labels = row(*ROW, dtype=np.uint32)
    labels.flags.writeable = False
    make_targets(labels, row(*[1] * 9, 0).astype(bool), target(erosion=1, dilation=1, offsets=[[0, 0, -1]]))
    assert labels[0, 0].tolist() == ROW


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ([], "target.heads is empty"),
        ([{"kind": "afinity"}], "did you mean 'affinity'"),
        ([{"kind": "contour", "widht": 2}], "did you mean 'width'"),
        ([{"kind": "affinity", "offsets": []}], "target.offsets is empty"),
        ([{"kind": "affinity", "offsets": [[0, 0, 0]]}], "no offset"),
        ([{"kind": "affinity", "offsets": [[0, 1]]}], "no offset"),
    ],
)
def test_heads_that_are_none(heads, words):
    settings = target()
    settings.heads = heads
    with pytest.raises(UsageError, match=words):
        head_layout(settings)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"kind": "affinity", "offsets": [[0, 0, -27]]}, "leaves a crop"),
        ({"kind": "lsd"}, "data.voxel_size"),
        ({"kind": "distance", "mode": "3d"}, "data.voxel_size"),
        ({"kind": "distance", "mode": "4d"}, "2d or 3d"),
        ({"kind": "contour", "width": -1}, "from 0 on"),
        ({"kind": "foreground", "erosion": 0.5}, "from 0 on"),
    ],
)
def test_heads_that_cannot_be_made(head, words):
    with pytest.raises(UsageError, match=words):
        make_targets(np.ones((2, 5, 5), np.int64), None, target(head))


def test_arrays_that_do_not_fit():
    with pytest.raises(ChunkError, match="zyx"):
        erode(np.ones((3, 3), int), 1)
    with pytest.raises(ChunkError, match="integers"):
        affinities(np.ones((1, 3, 3)), NEAREST)
    with pytest.raises(ChunkError, match="mask has the shape"):
        make_targets(np.ones((2, 3, 3), int), np.ones((1, 3, 3), bool), target())


def test_shares_of_ones_on_real_labels(data):
    """On AC4, eroded by one voxel, joined pairs are fewer in z than in the section (as in PyTC's crop)."""
    import tifffile

    labels = tifffile.imread(data / "ac4_labels.tif")[:17, :257, :257]
    values, known, _ = make_targets(labels, None, target(erosion=1))
    x, y, z = (values[c][known[c] > 0].mean() for c in range(3))
    assert 0.7 < z < y
    assert 0.8 < y < 0.95
    assert abs(x - y) < 0.02
