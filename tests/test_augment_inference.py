"""Test-time augmentation: a network that turns with its input answers the same with it as without."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ModelError, UsageError
from segflow.inference import Identity, Patch, augment, infer
from segflow.inference.augment import MODES, Augmented, Variant, reach, sources, variants

NEAREST = ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
AHEAD = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
LONG = (*NEAREST, (0, 0, -3), (0, -3, 0), (-2, 0, 0), (0, 0, -5), (0, -5, 0))
MIXED = ((0, 0, -1), (0, 1, 0), (2, 0, 0), (0, 0, 3), (0, -3, 0), (0, 0, 1), (0, -1, 0))
DIAGONAL = ((0, 2, 1), (0, 1, 2), (0, -2, 1), (0, 1, -2), (-1, 0, 0))
LISTS = {"nearest": NEAREST, "ahead": AHEAD, "long": LONG, "mixed": MIXED, "diagonal": DIAGONAL}
UNKNOWN = 0.375  # what the network says of edges that leave its patch


class Exact:
    """Affinity exp(-4 |I(p) - I(p + o)|): it turns with its input in each pose."""

    device = "cpu"

    def __init__(self, offsets, rim=(0, 0, 0), extra=0, says=True):
        self.list, self.rim, self.extra, self.files = offsets, rim, extra, {}
        self.offsets = offsets if says else None
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        image = batch[:, 0]
        out = np.full((len(image), len(self.list) + self.extra, *image.shape[1:]), UNKNOWN, np.float32)
        for channel, offset in enumerate(self.list):
            here, there = reach(offset, image.shape[1:])
            edge = np.abs(image[(slice(None), *here)] - image[(slice(None), *there)])
            out[(slice(None), channel, *here)] = np.exp(-4 * edge)
        out[:, len(self.list) :] = image[:, None] ** 2
        batch[:] = -7  # a network may write into its input
        return out[(..., *(slice(r, n - r) for r, n in zip(self.rim, image.shape[1:])))]


class Tensors(Exact):
    """The same with the answer as a tensor, as from a GPU."""

    def __call__(self, batch):
        import torch

        with torch.inference_mode():
            return torch.from_numpy(np.ascontiguousarray(super().__call__(batch))) * 1


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def both(network, batch, mode="mean", **options):
    """Give the answer as it is and the augmented one."""
    found = Augmented(network, mode, offsets=network.offsets, **options)(batch)
    return np.asarray(network(batch.copy())), np.asarray(found)


def test_the_poses():
    assert len(set(variants())) == 16
    assert len(set(variants(square=False))) == 8
    assert variants()[0] == Variant()
    cube = random(3, 4, 4)
    assert len({variant.turn(cube).tobytes() for variant in variants()}) == 16
    for variant in variants():
        np.testing.assert_array_equal(variant.turn_back(variant.turn(cube)), cube)


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_offsets_turn_back_with_the_voxels(variant):
    offset = (1, -2, 3)
    cube = np.zeros((9, 9, 9), int)
    cube[4, 4, 4], cube[5, 2, 7] = 1, 2  # in the pose they lie at `offset` from each other
    back = variant.turn_back(cube)
    first, second = (np.argwhere(back == n)[0] for n in (1, 2))
    assert tuple(second - first) == variant.back(offset)


def test_the_rule_for_nearest_neighbours():
    assert sources(Variant(), NEAREST) == [(0, False), (1, False), (2, False)]
    assert sources(Variant((0, 2)), NEAREST) == [(0, True), (1, False), (2, True)]
    assert sources(Variant(swap=True), NEAREST) == [(1, False), (0, False), (2, False)]
    assert sources(Variant((1,), swap=True), NEAREST) == [(1, False), (0, True), (2, False)]
    assert sources(Variant((2,)), [(0, 0, -1), (0, 0, 1)]) == [(1, False), (0, False)]
    assert sources(Variant((2,)), [(0, 1, -1)]) is None


def test_by_hand():
    """Two poses of a row: the first voxel's edge has one vote, each other edge two."""
    answers = iter([[0.5, 0.2, 0.4, 0.8], [0.5, 0.6, 0.1, 0.3]])

    def network(batch):
        return np.array(next(answers), np.float32).reshape(1, 1, 1, 1, 4)

    poses = [Variant(), Variant((2,))]
    found = Augmented(network, offsets=[(0, 0, -1)], poses=poses)(np.zeros((1, 1, 1, 1, 4)))
    # turned back: 0.3 0.1 0.6 (0.5); shifted by one: - 0.3 0.1 0.6
    np.testing.assert_allclose(found.ravel(), [0.5, 0.25, 0.25, 0.7], atol=1e-7)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("variant", variants()[1:], ids=lambda v: f"{v.flips}{v.swap}")
def test_each_pose_answers_as_the_plain_one(name, variant):
    if sources(variant, LISTS[name]) is None:
        assert name == "diagonal"
        return
    batch = random(2, 1, 5, 8, 8)
    for mode in MODES:
        plain, found = both(Exact(LISTS[name], extra=1), batch, mode, poses=[Variant(), variant])
        np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Exact, Tensors])
@pytest.mark.parametrize("name", LISTS)
def test_all_poses_answer_as_the_plain_one(name, kind, mode):
    plain, found = both(kind(LISTS[name], extra=1), random(2, 1, 5, 8, 8), mode)
    np.testing.assert_allclose(found, plain, atol=1e-6)


offset = st.tuples(st.integers(-3, 3), st.integers(-4, 4), st.integers(-4, 4))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(offset, min_size=1, max_size=4, unique=True),
    st.booleans(), st.sampled_from(MODES), st.integers(3, 7), st.integers(3, 7), st.booleans(),
)  # fmt: skip
def test_any_offsets_and_sizes(offsets, closed, mode, width, height, equal):
    """The law for any list; ``closed`` adds what each pose asks for, so that none is left out."""
    if closed:
        more = {v.back(o) for o in offsets for v in variants()}
        offsets = sorted({max(o, tuple(-n for n in o)) for o in more})
    batch = random(1, 1, 4, width if equal else height, width)
    network = Exact(offsets)
    plain, found = both(network, batch, mode)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    if closed:
        assert network.calls == (16 if batch.shape[-1] == batch.shape[-2] else 8) + 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["nearest", "ahead", "long"])
def test_without_the_shift_it_is_wrong(name, mode, monkeypatch):
    def still(variant, offsets, right=sources):
        found = right(variant, offsets)
        return found and [(channel, False) for channel, _ in found]

    monkeypatch.setattr(augment, "sources", still)
    plain, found = both(Exact(LISTS[name]), random(1, 1, 5, 8, 8), mode)
    assert np.abs(found - plain).max() > 0.2


@pytest.mark.parametrize("name", ["nearest", "long"])
def test_without_the_exchange_of_channels_it_is_wrong(name, monkeypatch):
    def unmapped(variant, offsets, right=sources):
        found = right(variant, offsets)
        return found and [(c, shifted) for c, (_, shifted) in enumerate(found)]

    monkeypatch.setattr(augment, "sources", unmapped)
    plain, found = both(Exact(LISTS[name]), random(1, 1, 5, 8, 8))
    assert np.abs(found - plain).max() > 0.2


@pytest.mark.parametrize("mode", MODES)
def test_edges_that_leave_the_patch_are_guessed_by_poses_that_do_not_shift(mode):
    """The plane x = 0 of channel x: the poses without a flip in x vote there, and only they."""
    seen = []

    def network(batch):
        answer = np.full((1, 3, *batch.shape[2:]), len(seen), np.float32)
        seen.append(len(seen))
        return answer

    found = Augmented(network, mode)(random(1, 1, 3, 4, 4))
    still = [n for n, v in enumerate(variants()) if not sources(v, NEAREST)[0][1]]
    assert len(seen) == 16
    assert len(still) == 8
    rule = {"mean": np.mean, "min": np.min, "max": np.max}[mode]
    np.testing.assert_allclose(found[0, 0, :, :, 0], rule(still), rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, :, :, 1:], rule(seen), rtol=1e-6)


def test_unequal_sizes_have_eight_poses(caplog):
    augment._say.cache_clear()
    network = Exact(NEAREST)
    with caplog.at_level(logging.INFO, "segflow"):
        plain, found = both(network, random(1, 1, 4, 6, 8))
        both(network, random(1, 1, 4, 6, 8))
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert network.calls == 18
    (line,) = [r.getMessage() for r in caplog.records if "--augment" in r.getMessage()]
    assert "8 times" in line
    rimmed = Exact(NEAREST, rim=(0, 1, 0))  # the input is square, its answer is not
    plain, found = both(rimmed, random(1, 1, 4, 8, 8))
    np.testing.assert_allclose(found, plain, atol=1e-6)
    assert rimmed.calls == 9


def test_offsets_that_allow_fewer_poses_are_said_once(caplog):
    augment._say.cache_clear()
    network = Exact(((0, 0, -1), (0, -1, 0), (0, -4, 0)))
    with caplog.at_level(logging.WARNING, "segflow"):
        for _ in range(3):
            plain, found = both(network, random(1, 1, 4, 8, 8))
            np.testing.assert_allclose(found, plain, atol=1e-6)
    assert network.calls == 3 * 9
    assert [r.getMessage() for r in caplog.records] == [
        "inference: --augment uses 8 of 16 poses; the others turn the network's offsets "
        "(0,0,-1) (0,-1,0) (0,-4,0) to where it has no channel"
    ]


def test_channels_without_direction_stay_where_they_are():
    # the last is as with a file's OFFSETS = (): three channels that are no affinities
    for network in (Exact((), extra=2), Exact((), extra=4, says=False), Exact((), extra=3)):
        plain, found = both(network, random(1, 1, 4, 6, 6))
        np.testing.assert_allclose(found, plain, atol=1e-6)


def test_kept_channels_may_come_from_others():
    plain, found = both(Exact(NEAREST), random(1, 1, 4, 6, 6), channels=1)
    assert found.shape[1] == 1
    np.testing.assert_allclose(found, plain[:, :1], atol=1e-6)


@st.composite
def geometries(draw):
    """Draw a chunk, a patch with a rim, and whether y and x are equal."""
    sizes, outputs, overlaps = [], [], []
    for _ in range(3):
        output, rim = draw(st.integers(2, 6)), draw(st.integers(0, 2))
        outputs.append(output)
        sizes.append(output + 2 * rim)
        overlaps.append(draw(st.integers(0, output - 1)))
    if draw(st.booleans()):
        for numbers in (sizes, outputs, overlaps):
            numbers[2] = numbers[1]
    shape = [size + draw(st.integers(0, 7)) for size in sizes]
    return shape, Patch.of(sizes, outputs, overlaps), draw(st.booleans())


@settings(deadline=None, max_examples=40)
@given(geometries(), st.sampled_from(MODES), st.sampled_from([Exact, Tensors]), st.integers(1, 3))
def test_a_whole_chunk(case, mode, kind, batch_size):
    """With rims cut by the network or by the engine, the chunk is what it is without augmentation."""
    shape, patch, cuts = case
    chunk = Chunk(random(*shape), (3, -4, 5))
    network = kind(LONG, rim=patch.rim if cuts else (0, 0, 0))
    options = {"patch": patch, "mask_output_chunk": True, "batch_size": batch_size}
    plain, found = infer(chunk, network, **options), infer(chunk, network, augment=mode, **options)
    assert found.bbox == plain.bbox
    assert found.offsets == plain.offsets
    np.testing.assert_allclose(found.array, plain.array, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_identity(mode):
    chunk = Chunk(random(9, 20, 23))
    options = {"patch": Patch.of((4, 8, 8), overlap=(1, 2, 2)), "mask_output_chunk": True}
    for channels in (None, 3):
        plain = infer(chunk, Identity(channels), **options)
        out = infer(chunk, Identity(channels), augment=mode, **options)
        assert out.layer_type == plain.layer_type
        np.testing.assert_allclose(out.array, plain.array, atol=1e-6)


def test_a_myelin_channel_beside_affinities():
    chunk = Chunk(random(6, 12, 12))
    network = Exact(NEAREST, extra=1, says=False)
    patch = Patch.of((4, 8, 8), overlap=(1, 2, 2))
    options = {"patch": patch, "mask_output_chunk": True, "myelin_threshold": 0.1}
    plain, found = infer(chunk, network, **options), infer(chunk, network, augment="mean", **options)
    np.testing.assert_allclose(found.array, plain.array, atol=1e-6)


def test_blocks_equal_the_whole():
    image = random(12, 30, 30)
    source = {"bounds": Chunk(image).bbox}
    network, patch = Exact(NEAREST), Patch.of((4, 8, 8), overlap=(2, 4, 4))
    options = {"patch": patch, "patch_grid": "volume", "augment": "min", "mask_output_chunk": True}
    whole = infer(Chunk(image, source=source), network, **options)
    block = infer(Chunk(image[2:, 4:, :22].copy(), (2, 4, 0), source=source), network, **options)
    np.testing.assert_array_equal(block.array, whole.cutout(block.bbox).array)


def test_nothing_but_zeros_costs_one_patch():
    network, patch = Exact(NEAREST), Patch.of((4, 8, 8), overlap=(0, 0, 0))
    infer(Chunk(np.zeros((4, 8, 8), np.float32)), network, patch=patch, augment="mean")
    assert network.calls == 1


def test_memory_does_not_grow_with_the_poses():
    batch = random(1, 1, 8, 96, 96)
    peaks = []
    for poses in (variants()[:2], variants()[:8], variants()):
        model = Augmented(Exact(LONG), offsets=LONG, poses=poses)
        model(batch)
        tracemalloc.start()
        model(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 1.05 * min(peaks)


def test_what_cannot_be_used():
    with pytest.raises(UsageError, match="median"):
        infer(
            Chunk(random(4, 8, 8)), Identity(), patch=Patch.of((4, 8, 8), overlap=(0, 0, 0)), augment="median"
        )

    def uneven(batch):
        return batch[..., :3] if batch[0, 0, 0, 0, 0] > 0.5 else batch

    batch = np.zeros((1, 1, 2, 4, 4), np.float32)
    batch[..., -1] = 1
    with pytest.raises(ModelError, match="leave --augment out"):
        Augmented(uneven)(batch)


@pytest.fixture
def one_thread():
    """Let torch compute with one thread: small patches gain nothing from more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_trained_file_s_offsets(segflow, tmp_path):
    """A network from a model file: with all poses its answer turns with its input, edge by edge."""
    import torch

    from segflow.inference import load_backend
    from segflow.training.config import Model
    from segflow.training.modelfile import save_model
    from segflow.training.networks import build, describe

    torch.manual_seed(0)
    patch, offsets = Patch.of((4, 16, 16), overlap=(0, 8, 8)), LONG[:5]
    levels = {"widths": [4, 8], "kernels": [[1, 3, 3], [3, 3, 3]], "isotropic": [False, True]}
    model = Model(name="rsunet", **levels, patch_size=list(patch.size))
    file = tmp_path / "model.pt"
    save_model(
        file, build(model, 5), model=describe(model, 5), offsets=offsets, voxel_size=None,
        patch_size=patch.size, record={}, licence="none", outputs=5,
    )  # fmt: skip
    backend = load_backend("pytorch", str(file), patch=patch)
    assert backend.offsets == offsets
    network = Augmented(backend, offsets=backend.offsets)
    batch = random(1, 1, *patch.size)
    found = network(batch)
    assert np.abs(found - backend(batch)).max() > 1e-3
    for variant in variants():
        turned = network(np.ascontiguousarray(variant.turn(batch)))
        for channel, (source, shifted) in enumerate(sources(variant, offsets)):
            here, there = reach(offsets[channel], patch.size)
            part = variant.turn_back(turned[0, source])[there if shifted else here]
            np.testing.assert_allclose(part, found[0, channel][here], atol=2e-6)
    np.save(tmp_path / "image.npy", batch[0, 0])
    segflow("read-npy", "-f", tmp_path / "image.npy", "inference", "-m", file, "--augment", "-d", "float32",
            "--mask-output-chunk", "write-npy", "-f", tmp_path / "affs.npy")  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "affs.npy"), found[0], atol=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_the_command(segflow, tmp_path, data):
    """The shipped network on a real crop answers differently with it, and min is below the mean."""
    np.save(tmp_path / "image.npy", tifffile.imread(data / "ac4_image.tif")[:4, :32, :48])
    line = ["read-npy", "-f", tmp_path / "image.npy", "inference", "--model", "affinity-snemi3d"]
    line += ["--patch-size", 4, 32, 32, "--patch-overlap", 0, 16, 16, "--mask-output-chunk", "-d", "float32"]
    runs = {"plain": [], "no": ["--no-augment", "--augment-mode", "max"], "mean": ["--augment"]}
    runs["min"] = ["--augment", "--augment-mode", "min"]
    maps = {}
    for name, words in runs.items():
        segflow(*line, *words, "write-npy", "-f", tmp_path / f"{name}.npy")
        maps[name] = np.load(tmp_path / f"{name}.npy")
    np.testing.assert_array_equal(maps["no"], maps["plain"])
    assert np.abs(maps["mean"] - maps["plain"]).max() > 0.05
    assert np.corrcoef(maps["mean"].ravel(), maps["plain"].ravel())[0, 1] > 0.9
    assert (maps["min"] <= maps["mean"] + 1e-6).all()
    assert "3x4x32x48 float32" in segflow("--dry-run", *line, "--augment").out
