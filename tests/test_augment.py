"""Augmentation: each operation does what it says, to image and labels alike, by the given chance alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.errors import ChunkError, UsageError
from segflow.training.augment import Augmenter, defects, intensity
from segflow.training.augment.geometry import Sections, elastic_field, misalign, resample, separate
from segflow.training.schema import AUGMENT
from tests.conftest import Result

SIZE = (6, 32, 32)
MOVES = ("rotate", "rescale", "flip", "elastic", "missing_section", "misalignment")
GREYS = [name for name in AUGMENT if name not in MOVES]
ALL = {name: {"p": 1.0} for name in AUGMENT}


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def crop_of(augmenter: Augmenter, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = random(seed)
    size = augmenter.enlarged
    return rng.random(size, dtype=np.float32), rng.integers(0, 9, size), np.ones(size, bool)


def ramps(augmenter: Augmenter) -> list[np.ndarray]:
    """Give images whose greys are z, y and x from the middle of the crop, in hundredths."""
    return [
        np.broadcast_to(axis / 100, augmenter.enlarged).astype(np.float32)
        for axis in np.ogrid[tuple(slice(-(n - 1) / 2, (n - 1) / 2 + 1) for n in augmenter.enlarged)]
    ]


def where_from(augmenter: Augmenter, seed: int) -> list[np.ndarray]:
    """Give z, y and x, from the middle of the crop, from which each voxel of a sample came."""
    none = np.zeros(augmenter.enlarged, np.int64)
    return [augmenter(ramp, none, none == 0, random(seed))[0] * 100 for ramp in ramps(augmenter)]


def test_nothing_configured_gives_the_crop_itself() -> None:
    augmenter = Augmenter({"elastic": None, "flip": {"p": 0}}, SIZE)
    crop = crop_of(augmenter)
    assert augmenter.enlarged == SIZE
    for old, new, kind in zip(
        crop, augmenter(*crop, random()), (np.float32, np.int64, np.bool_), strict=True
    ):
        np.testing.assert_array_equal(old, new)
        assert new.dtype == kind


def test_the_same_seed_gives_the_same_sample_and_no_global_generator_is_used() -> None:
    augmenter = Augmenter(ALL, SIZE)
    crop = crop_of(augmenter)
    kept = [a.copy() for a in crop]
    before = str(np.random.get_state())
    one, two, other = augmenter(*crop, random(5)), augmenter(*crop, random(5)), augmenter(*crop, random(6))
    for a, b, old, new in zip(one, two, kept, crop, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(old, new)
    assert (one[0] != other[0]).any()
    assert before == str(np.random.get_state())


@pytest.mark.parametrize(
    ("own", "enlarged"),
    [
        ({"rotate": {}}, (6, 32, 32)),
        ({"rotate": {"any_angle": True}}, (6, 46, 46)),  # 15.5 * 1.414 = 21.92: 7 more a side
        ({"rescale": {}}, (6, 40, 40)),  # 15.5 / 0.8 = 19.4
        ({"rescale": {"z": True}}, (8, 40, 40)),  # 2.5 / 0.8 = 3.1
        ({"rescale": {"low": 1.0}}, (6, 32, 32)),
        ({"elastic": {"amplitude": 2}}, (6, 44, 44)),  # 3 * 2 a side
        ({"missing_section": {"sections": 3}}, (9, 32, 32)),
        ({"misalignment": {"displacement": 5}}, (6, 38, 38)),  # 3 a side
        ({"misalignment": {"displacement": 5, "p": 0}}, (6, 32, 32)),
        ({name: {} for name in GREYS}, (6, 32, 32)),
    ],
)
def test_only_the_context_that_is_needed_is_asked(own: dict[str, Any], enlarged: tuple[int, ...]) -> None:
    assert Augmenter(own, SIZE).enlarged == enlarged


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_the_context_is_enough_for_whatever_is_drawn(
    seed: int, size: tuple[int, int, int], angle: bool, z: bool, turn: bool
) -> None:
    own: dict[str, Any] = {name: {"p": 1.0} for name in MOVES}
    own["rotate"]["any_angle"], own["rescale"]["z"] = angle, z
    own["misalignment"] |= {"rotate_ratio": float(turn), "displacement": 7, "relabel": False}
    augmenter = Augmenter(own, size)
    image, labels, mask = augmenter(*crop_of(augmenter), random(seed))
    assert image.shape == labels.shape == mask.shape == size
    assert mask.all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([*MOVES, "all"]))
def test_labels_follow_the_image(seed: int, name: str) -> None:
    own: dict[str, Any] = {n: {"p": 1.0} for n in (MOVES if name == "all" else [name])}
    if "misalignment" in own:
        own["misalignment"]["relabel"] = False
    augmenter = Augmenter(own, SIZE)
    z, y, x = np.ogrid[tuple(slice(n) for n in augmenter.enlarged)]
    labels = 1 + (z + y // 9 + x // 7) % 2
    image, out, _ = augmenter((labels - 1).astype(np.float32), labels, labels > 0, random(seed))
    sure = (image < 0.01) | (image > 0.99)
    assert sure.mean() > 0.6
    np.testing.assert_array_equal(out[sure], 1 + (image[sure] > 0.5))
    assert ((image > 0.5) != (out == 2)).mean() < 0.05


def test_the_mask_follows_too_and_what_comes_from_outside_is_unknown() -> None:
    crop = (np.full((1, 3, 4), 0.5, np.float32), np.full((1, 3, 4), 7), np.ones((1, 3, 4), bool))
    crop[2][0, 0, 3] = False
    zero = np.zeros(1, np.int64)
    sections = Sections(zero, zero, np.zeros(1, np.float32), zero, np.array([[1, 0, 0, 2]], np.float32))
    plane = np.stack(np.meshgrid([-1.0, 0, 1], [-1.5, -0.5, 0.5, 1.5], indexing="ij")).astype(np.float32)
    image, labels, mask = resample(crop, plane, sections, (1, 3, 4))
    assert mask.tolist() == [[[True, False, False, False], *[[True, True, False, False]] * 2]]
    assert labels.tolist() == [[[7, 7, 0, 0]] * 3]
    assert image.tolist() == [[[0.5, 0.5, 0, 0]] * 3]


def test_turns_and_flips_are_exact_and_all_sixteen_occur() -> None:
    augmenter = Augmenter({"rotate": {}, "flip": {}}, (3, 5, 5))
    crop = crop_of(augmenter)
    variants = {}
    for back in (1, -1):
        for turn in range(4):
            for mirror in (1, -1):
                variants[back, turn, mirror] = [np.rot90(a[::back, :, ::mirror], turn, (1, 2)) for a in crop]
    seen = set()
    for seed in range(150):
        out = augmenter(*crop, random(seed))
        (found,) = [key for key, all_three in variants.items() if np.array_equal(all_three[0], out[0])]
        np.testing.assert_array_equal(variants[found][1], out[1])
        seen.add(found)
    assert len(seen) == 16


def test_samples_that_are_no_squares_are_not_transposed() -> None:
    augmenter = Augmenter({"rotate": {}, "flip": {}}, (2, 4, 7))
    crop = crop_of(augmenter)
    seen = {augmenter(*crop, random(seed))[1].tobytes() for seed in range(60)}
    assert seen == {
        np.ascontiguousarray(crop[1][::a, ::b, ::c]).tobytes()
        for a in (1, -1)
        for b in (1, -1)
        for c in (1, -1)
    }


def test_z_and_x_are_exchanged_in_cubes_only() -> None:
    with pytest.raises(UsageError, match="cubes; these are 6x32x32"):
        Augmenter({"flip": {"transpose_z": True}}, SIZE)
    augmenter = Augmenter({"flip": {"transpose_z": True}}, (4, 4, 4))
    planes = [where_from(augmenter, seed)[0] for seed in range(20)]
    assert {int(np.abs(np.diff(p, axis=0)).max() > 0.5) for p in planes} == {0, 1}


@pytest.mark.parametrize(("own", "same"), [({}, False), ({"fix_aspect": True}, True), ({"z": True}, False)])
def test_rescale_draws_its_factors_in_their_range(own: dict[str, Any], same: bool) -> None:
    augmenter = Augmenter({"rescale": {"p": 1.0, **own}}, SIZE)
    for seed in range(8):
        steps = [np.diff(w, axis=a) for a, w in enumerate(where_from(augmenter, seed))]
        z, y, x = (1 / float(s.mean()) for s in steps)
        assert all(np.ptp(s) < 1e-3 for s in steps)  # the same step everywhere
        assert 0.8 <= y <= 1.25
        assert 0.8 <= x <= 1.25
        assert (abs(y - x) < 1e-4) == same
        assert 0.8 <= z <= 1.25
        assert (abs(z - 1) > 1e-4) == bool(own.get("z"))


def test_elastic_shifts_have_the_stated_size() -> None:
    fields = np.stack([elastic_field((40, 60), 4.0, 8.0, random(seed)) for seed in range(150)])
    assert fields.std() == pytest.approx(4.0, rel=0.03)
    np.testing.assert_allclose(fields.std(axis=0), 4.0, rtol=0.35)  # at the border as in the middle
    assert np.hypot(fields[:, 0], fields[:, 1]).max() <= 12.0
    near = (fields[:, :, :, 8:] * fields[:, :, :, :-8]).mean() / 16
    assert near == pytest.approx(np.exp(-1 / 4), abs=0.05)  # of noise smoothed by a Gaussian, at one sigma


def test_elastic_samples_move_by_that_field_and_are_not_folded() -> None:
    augmenter = Augmenter({"elastic": {"p": 1.0, "amplitude": 3.0, "sigma": 12.0}}, (2, 48, 48))
    shifts = []
    for seed in range(30):
        _, y, x = where_from(augmenter, seed)
        shifts += [y - (np.arange(48) - 23.5)[:, None], x - (np.arange(48) - 23.5)]
        np.testing.assert_array_equal(y[0], y[1])  # all sections alike
        assert np.diff(y, axis=1).min() > 0
    assert np.std(shifts) == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("slip", [0.0, 1.0])
def test_misalignment_moves_one_section_or_all_from_one_on(slip: float) -> None:
    own = {"p": 1.0, "displacement": 6, "rotate_ratio": 0.0, "slip": slip}
    augmenter = Augmenter({"misalignment": own}, SIZE)
    largest = 0.0
    for seed in range(60):
        _, y, x = where_from(augmenter, seed)
        moved = np.stack([y[:, 0, 0] - y[0, 0, 0], x[:, 0, 0] - x[0, 0, 0]], 1).round(3)
        at = np.flatnonzero(np.abs(moved).any(1))
        largest = max(largest, float(np.abs(moved).max()))
        assert np.ptp(np.diff(y, axis=1)) < 1e-3
        np.testing.assert_array_equal(moved, moved.round())
        if len(at) and slip:
            assert len(at) == 1
            assert 0 < at[0] < 5
        elif len(at):
            assert at.tolist() == list(range(at[0], 6))
            assert len(np.unique(moved[at], axis=0)) == 1
    assert largest == 6


def test_misalignment_turns_no_voxel_farther_than_it_says() -> None:
    own = {"p": 1.0, "displacement": 6, "rotate_ratio": 1.0, "slip": 0.0}
    augmenter = Augmenter({"misalignment": own}, (4, 33, 33))
    farthest = 0.0
    for seed in range(40):
        _, y, x = where_from(augmenter, seed)
        farthest = max(farthest, float(np.hypot(y[-1] - y[0], x[-1] - x[0]).max()))
        assert abs(y[-1, 16, 16]) < 1e-3  # about the middle
    assert 4.5 < farthest <= 6.001


def test_a_fault_needs_two_sections_and_a_slip_three() -> None:
    assert Augmenter({"misalignment": {}, "missing_section": {}}, (1, 8, 8)).enlarged == (1, 8, 8)
    moves = np.tile(np.array([1, 0, 0, 0], np.float32), (2, 1))
    misalign(moves, 4, 0.0, 0.0, 1.0, random(1))
    assert (moves[0] != moves[1]).any()


def test_parts_that_no_longer_touch_become_objects() -> None:
    labels = np.array([[[5, 5, 0, 9]], [[0, 5, 0, 0]], [[5, 0, 0, 9]]])
    assert separate(labels).tolist() == [[[1, 1, 0, 2]], [[0, 1, 0, 0]], [[3, 0, 0, 4]]]
    unknown = separate(labels, np.array([[[1, 1, 1, 1]], [[1, 1, 1, 0]], [[1, 1, 1, 1]]], bool))
    assert unknown[0, 0, 3] == unknown[2, 0, 3]  # what is unknown may join them
    assert unknown[0, 0, 0] != unknown[2, 0, 0]
    own = {"p": 1.0, "displacement": 12, "rotate_ratio": 0.0, "slip": 0.0}
    size = (4, 24, 24)
    for relabel in (True, False):
        augmenter = Augmenter({"misalignment": {**own, "relabel": relabel}}, size)
        wire = np.zeros(augmenter.enlarged, np.int64)
        wire[:, 18, 18] = 7  # one thin neurite along z
        out = augmenter(wire.astype(np.float32), wire, wire == wire, random(3))[1]
        assert len(np.unique(out[out > 0])) == (2 if relabel else 1)


def test_missing_sections_are_inner_ones_taken_from_image_and_labels() -> None:
    augmenter = Augmenter({"missing_section": {"p": 1.0, "sections": 2}}, SIZE)
    z = np.broadcast_to(np.arange(8)[:, None, None], augmenter.enlarged)
    seen = set()
    for seed in range(80):
        image, labels, _ = augmenter((z / 8).astype(np.float32), z, z >= 0, random(seed))
        kept = labels[:, 0, 0]
        np.testing.assert_array_equal(image[:, 0, 0] * 8, kept)
        assert (kept[0], kept[-1], (np.diff(kept) > 0).all(), len(kept)) == (0, 7, True, 6)
        seen |= set(range(8)) - set(kept.tolist())
    assert seen == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("name", GREYS)
def test_labels_and_mask_are_kept_when_greys_change(name: str) -> None:
    augmenter = Augmenter({name: {"p": 1.0}}, SIZE)
    crop = crop_of(augmenter)
    changed = 0
    for seed in range(5):
        image, labels, mask = augmenter(*crop, random(seed))
        np.testing.assert_array_equal(labels, crop[1])
        assert mask.all()
        assert image.min() >= 0
        assert image.max() <= 1
        assert image.dtype == np.float32
        changed += (image != crop[0]).any()
    assert changed >= 4


def gray(image: np.ndarray, seed: int, **own: Any) -> np.ndarray:
    out = image.copy()
    keys: dict[str, Any] = {
        "contrast": 0.3,
        "brightness": 0.3,
        "gamma": 1.0,
        "mode": "2d",
        "invert": False,
        **own,
    }
    intensity.grayscale(out, random(seed), **keys)
    return out


def test_contrast_differs_between_sections_and_follows_the_formula() -> None:
    image = random(9).random((5, 16, 16), dtype=np.float32)
    u = random(4).uniform(-1, 1, (3, 5, 1, 1))
    wanted = np.clip(image * (1 + 0.15 * u[0]) + 0.15 * u[1], 0, 1) ** (2.0 ** u[2])
    np.testing.assert_allclose(gray(image, 4), wanted, atol=0.005)
    flat = np.full((5, 4, 4), 0.5, np.float32)
    assert len(np.unique(gray(flat, 1))) == 5
    assert len(np.unique(gray(flat, 1, mode="3d"))) == 1
    kinds = [len(np.unique(gray(flat, seed, mode="mix"))) for seed in range(40)]
    assert set(kinds) == {1, 5}
    assert 8 < kinds.count(5) < 32


def test_grays_are_inverted_by_a_coin() -> None:
    image = np.linspace(0, 1, 5, dtype=np.float32).reshape(1, 1, 5)
    still: dict[str, Any] = {"contrast": 0.0, "brightness": 0.0, "gamma": 0.0, "invert": True}
    seen = {tuple(np.round(gray(image, seed, **still).ravel(), 5).tolist()) for seed in range(20)}
    assert seen == {(0, 0.25, 0.5, 0.75, 1), (1, 0.75, 0.5, 0.25, 0)}


def test_blank_sections_come_as_often_as_they_should() -> None:
    augmenter = Augmenter({"blank_section": {"p": 0.5, "sections": 3}}, (10, 4, 4))
    crop = crop_of(augmenter)
    counts = np.zeros(4)
    greys = []
    for seed in range(600):
        image = augmenter(*crop, random(seed))[0]
        hit = (image != crop[0]).any((1, 2))
        assert all(np.ptp(section) == 0 for section in image[hit])
        counts[hit.sum()] += 1
        greys += image[hit, 0, 0].tolist()
    np.testing.assert_allclose(counts / 600, [0.5, 1 / 6, 1 / 6, 1 / 6], atol=0.06)
    assert np.mean(np.array(greys) == 0) == pytest.approx(0.5, abs=0.08)
    white = np.zeros((3, 2, 2), np.float32)
    defects.blank_section(white, random(), sections=1, value=0.75)
    assert sorted(white[:, 0, 0].tolist()) == [0, 0, 0.75]


def test_a_section_out_of_focus_is_a_gaussian_of_its_points() -> None:
    image = np.zeros((3, 41, 41), np.float32)
    image[:, 20, 20] = 1
    defects.blur_section(image, random(2), sections=1, sigma=3.0)
    (z,) = np.flatnonzero(image[:, 20, 20] < 1)
    assert image[z].sum() == pytest.approx(1, abs=1e-5)
    y = np.arange(41) - 20
    wide = float(np.sqrt((image[z].sum(1) * y**2).sum())), float(np.sqrt((image[z].sum(0) * y**2).sum()))
    assert wide[0] == pytest.approx(wide[1], rel=1e-3)
    assert 0.55 < wide[0] <= 3.0
    flat = np.full((8, 9), 0.3, np.float32)
    np.testing.assert_allclose(
        intensity.smooth(flat, intensity.gaussian(2), intensity.gaussian(2)), 0.3, rtol=1e-5
    )


def test_motion_blur_averages_along_one_axis() -> None:
    for seed in range(8):
        image = np.zeros((4, 7, 7), np.float32)
        image[:, 3, 3] = 0.9
        defects.motion_blur(image, random(seed), sections=2, size=3)
        hit = [section for section in image if section[3, 3] < 0.8]
        assert len(hit) == 2
        for section in hit:
            line = section[2:5, 3] if section[2, 3] else section[3, 2:5]
            np.testing.assert_allclose(line, 0.3, rtol=1e-6)
            assert section.sum() == pytest.approx(0.9)


def test_cut_blur_gives_means_of_cells() -> None:
    before = random(1).random((5, 20, 20), dtype=np.float32)
    image = before.copy()
    intensity.cut_blur(image, random(0), length_ratio=0.4, down_min=2, down_max=2, downsample_z=False)
    changed = image != before
    z, y, x = (np.flatnonzero(changed.any(axis)) for axis in ((1, 2), (0, 2), (0, 1)))
    assert (len(z), len(y), len(x)) == (2, 8, 8)
    old, new = (a[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1] for a in (before, image))
    means = old.reshape(2, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(new, means.repeat(2, 1).repeat(2, 2), rtol=1e-5)
    thick = before.copy()
    intensity.cut_blur(thick, random(0), length_ratio=1.0, down_min=5, down_max=5, downsample_z=True)
    np.testing.assert_array_equal(thick[0], thick[4])


def test_cut_noise_stays_in_its_cuboid_and_its_range() -> None:
    for sigma in (0.0, 2.0):
        image = np.full((10, 50, 50), 0.5, np.float32)
        intensity.cut_noise(image, random(1), length_ratio=0.4, scale=0.2, sigma=sigma)
        changed = image[image != 0.5] - 0.5
        assert changed.size == pytest.approx(4 * 20 * 20, abs=5)
        assert changed.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.15 if sigma else 0.05)
        part = (image - 0.5)[
            np.ix_(*(np.flatnonzero((image != 0.5).any(a)) for a in ((1, 2), (0, 2), (0, 1))))
        ]
        alike = (part[..., 1:] * part[..., :-1]).mean() / part.var()
        assert abs(alike) < 0.1 if sigma == 0 else alike > 0.8
        assert sigma or np.abs(changed).max() <= 0.2


def test_missing_parts_are_bands_of_the_mean_and_never_in_two_sections_in_a_row() -> None:
    before = random(3).random((400, 24, 24), dtype=np.float32)
    image = before.copy()
    defects.missing_parts(image, random(0), size=3, rate=0.5)
    hit = (image != before).any((1, 2))
    assert not (hit[1:] & hit[:-1]).any()
    assert hit.mean() == pytest.approx(1 / 3, abs=0.07)  # r / (1 + r) with r = 1/2
    widths = []
    for old, new in zip(before[hit], image[hit], strict=True):
        band = old != new
        np.testing.assert_allclose(new[band], old.mean(), rtol=1e-4)
        lines = band.sum(1) if band.any(1).all() else band.sum(0)
        widths.append(float(np.median(lines)))
    assert max(widths) <= 10  # 7 across, up to 1.41 times as much along a side
    assert np.median(widths) >= 6  # less where the border cuts it
    plane = np.zeros((6, 9), np.float32)
    defects._cover(plane, 0.0, 4.0, 5.0, 4.0, 2.0, 0.5)
    assert plane.tolist() == [[0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0]] * 6
    small = np.zeros((1, 8, 8), np.float32)
    small[0, ::2] = 1
    defects.missing_parts(small, random(0), size=64, rate=1.0)
    assert 0.2 < (small == 0.5).mean() < 0.8  # at most a quarter of the section on either side


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"elastik": {}}, "did you mean 'elastic'"),
        ({"elastic": {"sigmar": 1}}, "did you mean 'sigma'"),
        ({"elastic": {"amplitude": 16, "sigma": 4}}, "folds the tissue; give sigma at least 32"),
        ({"flip": {"p": 1.5}}, "augment.flip.p is 1.5; it lies in 0 to 1"),
        ({"flip": 0.5}, "give its keys"),
        ({"flip": {"transpose_z": 1}}, "true or false"),
        ({"grayscale": {"mode": "4d"}}, "one of mix, 2d, 3d"),
        ({"motion_blur": {"size": 2.5}}, "a whole number"),
        ({"motion_blur": {"size": 0}}, "for off give p: 0"),
        ({"rescale": {"low": 2}}, "low is 2, above high"),
        ({"rescale": {"low": 0}}, "lies in 0.1 to 10"),
    ],
)
def test_settings_that_cannot_be_are_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Augmenter(own, SIZE)


def test_a_crop_of_another_size_is_refused() -> None:
    augmenter = Augmenter({"rescale": {}}, SIZE)
    image, labels, mask = crop_of(augmenter)
    with pytest.raises(ChunkError, match="the labels of a crop is"):
        augmenter(image, labels[1:], mask, random())


def test_the_defaults_of_the_configuration_are_taken_as_they_are() -> None:
    from segflow.training.config import defaults

    augmenter = Augmenter(defaults().augment, SIZE)
    assert set(augmenter.settings) == set(AUGMENT)
    assert augmenter(*crop_of(augmenter), random())[0].shape == SIZE


def test_preview_draws_a_sheet(segflow: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    from PIL import Image

    config = tmp_path / "net.yaml"
    config.write_text(
        f"data:\n  images: [{data}/ac4_image.tif]\n  labels: [{data}/ac4_labels.tif]\n"
        "augment:\n  elastic: {amplitude: 2}\n  rotate: {p: 0}\n"
    )
    sheets = []
    for name in ("one.png", "two.png"):
        words = ["preview-augment", "--config-file", config, "--patch-size", 5, 40, 40, "--tile", 64]
        result = segflow(*words, "--seed", 7, "-o", tmp_path / name, "augment.motion_blur.p=0")
        assert "seed 7" in result.err
        sheets.append(np.asarray(Image.open(tmp_path / name)))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert sheets[0].shape[0] > 14 * 64
    files = ["-f", data / "ac4_image.tif", "-l", data / "ac4_labels.tif"]
    few = [f"augment.{name}.p=0" for name in AUGMENT if name != "flip"]
    segflow("preview-augment", *files, "--patch-size", 50, 40, 40, "-o", tmp_path / "few.png", *few)
    assert (tmp_path / "few.png").stat().st_size > 10_000


def test_the_check_of_a_configuration_refuses_such_settings(data: Path) -> None:
    from segflow.training.config import check, load

    words = [f"data.images=[{data}/ac4_image.tif]", f"data.labels=[{data}/ac4_labels.tif]"]
    config, _ = load(None, None, [*words, "augment.elastic.sigma=1"])
    with pytest.raises(UsageError, match="folds the tissue"):
        check(config)


def test_preview_says_what_is_wrong(segflow: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "s.png", data / "ac4_image.tif"
    assert "give both" in segflow("preview-augment", "-f", image, "-o", out, code=2).last
    assert "nothing to train on" in segflow("preview-augment", "-o", out, code=2).last
    words = ["preview-augment", "-f", image, "-l", data / "ac4_labels.tif", "-o", out]
    assert "folds" in segflow(*words, "augment.elastic.sigma=2", code=2).last
    assert not out.exists()
