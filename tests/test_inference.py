"""Patch grids, blending and the identity law; the operator on the command line."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ChunkError, ModelError, UsageError
from segflow.geometry import Box
from segflow.inference import Identity, Patch, best_patch, infer, layout
from segflow.inference.blend import axis_weights, bump
from segflow.inference.patches import fitting
from segflow.inference.precision import probe


@pytest.fixture
def said(caplog):
    """Give what is logged, also once a command line has set the log up."""
    log = logging.getLogger("segflow")
    log.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "segflow"):
        yield caplog
    log.removeHandler(caplog.handler)


class Affine:
    """A network that is not the identity: it answers by the voxel's place in the patch."""

    device = "cpu"
    offsets = None

    def __init__(self, output, channels=2):
        self.output, self.channels = output, channels
        self.files = {}

    def __call__(self, batch):
        rim = [(i - o) // 2 for i, o in zip(batch.shape[2:], self.output)]
        inner = batch[(slice(None), slice(0, 1), *(slice(r, r + o) for r, o in zip(rim, self.output)))]
        ramp = np.arange(np.prod(self.output), dtype=np.float32).reshape(self.output)
        ramp /= ramp.size
        return np.concatenate([(inner + ramp * c) / (1 + c) for c in range(self.channels)], axis=1)


def reference(image, patch, network, kind, box):
    """Blend in float64 by the definition: sum(w * patch) / sum(w)."""
    image = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
    axes = [
        sorted({min(s, n - p) for s in range(0, max(n - p, 0) + stride, stride)})
        for n, p, stride in zip(image.shape, patch.size, patch.stride)
    ]
    wz, wy, wx = (bump(kind, n) for n in patch.output)
    w = wz[:, None, None] * wy[:, None] * wx
    total, weight = np.zeros((network.channels, *image.shape)), np.zeros(image.shape)
    for start in itertools.product(*axes):
        part = image[Box.of(start, patch.size).slices()]
        place = Box.of([s + r for s, r in zip(start, patch.rim)], patch.output).slices()
        weight[place] += w
        if part.any():
            total[(slice(None), *place)] += w * network(part[None, None])[0]
    return (total / np.maximum(weight, 1e-300))[(slice(None), *box.slices())]


@st.composite
def cases(draw):
    """Draw a chunk size, a patch and a place."""
    sizes, outputs, overlaps, shape = [], [], [], []
    for _ in range(3):
        output = draw(st.integers(2, 9))
        rim = draw(st.integers(0, 2))
        outputs.append(output)
        sizes.append(output + 2 * rim)
        overlaps.append(draw(st.integers(0, output - 1)))
        shape.append(sizes[-1] + draw(st.integers(0, 14)))
    offset = tuple(draw(st.integers(-50, 50)) for _ in range(3))
    return tuple(shape), Patch.of(sizes, outputs, overlaps), offset


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 4), st.sampled_from(["wu", "gaussian", "flat"]))
def test_identity_gives_its_input_back(case, batch_size, kind):
    shape, patch, offset = case
    image = np.random.default_rng(0).random(shape, np.float32)
    out = infer(
        Chunk(image, offset),
        Identity(),
        patch=patch,
        mask_output_chunk=True,
        bump=kind,
        batch_size=batch_size,
    )
    inner = Box.of(offset, shape).grow([-r for r in patch.rim])
    assert out.bbox == inner
    np.testing.assert_allclose(out.array, image[inner.slices(offset)], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(cases(), st.sampled_from(["wu", "gaussian", "flat"]), st.booleans())
def test_blending_equals_its_definition(case, kind, holes):
    shape, patch, offset = case
    image = np.random.default_rng(1).integers(1, 255, shape, dtype=np.uint8)
    if holes:
        image[: patch.size[0]] = 0
    network = Affine(patch.output)
    out = infer(Chunk(image, offset), network, patch=patch, mask_output_chunk=True, bump=kind, batch_size=3)
    wanted = reference(image, patch, network, kind, out.bbox.shift([-o for o in offset]))
    np.testing.assert_allclose(out.array, wanted, atol=2e-6)


@settings(deadline=None, max_examples=40)
@given(cases(), st.data())
def test_blocks_equal_the_whole_volume(case, data):
    shape, patch, offset = case
    bounds = Box.of(offset, shape)
    image = np.random.default_rng(2).random(shape, np.float32)
    network = Affine(patch.output)
    keep = {"patch": patch, "patch_grid": "volume", "mask_output_chunk": True}
    source = {"bounds": bounds}
    whole = infer(Chunk(image, offset, source=source), network, **keep)
    assert whole.bbox == bounds  # a rim outside the volume counts as zeros
    low = [data.draw(st.integers(a, b - 1)) for a, b in zip(bounds.start, bounds.stop)]
    high = [data.draw(st.integers(a + 1, b)) for a, b in zip(low, bounds.stop)]
    core = Box(tuple(low), tuple(high))
    need = [s + p for s, p in zip(patch.size, patch.stride)]
    read = core.grow(need).intersect(bounds)
    block = infer(Chunk(image, offset, source=source).cutout(read), network, **keep)
    assert block.bbox.contains(core)
    np.testing.assert_array_equal(block.cutout(core).array, whole.cutout(core).array)


def test_weights_sum_to_one():
    placed = layout(Box.of((5, 6, 7), (70, 500, 500)), Patch.of((20, 256, 256)), mask_output_chunk=True)
    for axis, weights in enumerate(axis_weights(placed)):
        total = np.zeros(placed.output.shape[axis])
        for (begin, end), w in zip(placed.windows(axis), weights):
            total[begin - placed.output.start[axis] : end - placed.output.start[axis]] += w
        np.testing.assert_allclose(total, 1, atol=2e-7)


def test_the_tutorial_s_geometry():
    small = Patch.of((20, 256, 256), (16, 192, 192), (2, 32, 32))
    twenty = layout(Box.of((0, 0, 0), (40, 384, 384)), Patch.of((20, 256, 256), overlap=(10, 128, 128)))
    assert str(twenty.output) == "10-30_128-256_128-256"
    options = {"crop_margin": (8, 96, 96), "patch_num": (14, 9, 9)}
    box = Box.of((90, 1000, 2000), (202, 1536, 1536))
    assert layout(box, small, **options).output == box.grow((-10, -128, -128))
    assert layout(box, small, **options).output.shape == (182, 1280, 1280)
    assert layout(box, small, mask_output_chunk=True).output.shape == (198, 1472, 1472)
    with pytest.raises(UsageError, match="14x9x9"):
        layout(box, small, crop_margin=(8, 96, 96), patch_num=(14, 9, 8))


def test_t21_in_small_for_real():
    patch = Patch.of((10, 32, 32), (8, 24, 24), (1, 4, 4))
    image = np.random.default_rng(0).integers(1, 255, (31, 132, 132), dtype=np.uint8)
    out = infer(Chunk(image), Identity(), patch=patch, crop_margin=(4, 12, 12), patch_num=(4, 6, 6))
    assert out.voxel_offset == (5, 16, 16)
    assert out.shape == (21, 100, 100)
    np.testing.assert_allclose(out.array, image[5:26, 16:116, 16:116] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "output", "overlap", "text"),
    [
        ((4, 4, 4), None, (0, 4, 0), "overlap 4 in y"),
        ((4, 4, 4), (5, 4, 4), (0, 0, 0), "between 1 and"),
        ((4, 4, 4), (3, 4, 4), (0, 0, 0), "even"),
        ((4, 4, 4), None, (0, 0, -1), "overlap -1 in x"),
    ],
)
def test_patches_that_cannot_be(size, output, overlap, text):
    with pytest.raises(UsageError, match=text):
        Patch.of(size, output, overlap)


def test_chunks_that_are_too_small():
    patch = Patch.of((4, 16, 16), overlap=(1, 4, 4))
    with pytest.raises(ChunkError, match="--pad reflect"):
        layout(Box.of((0, 0, 0), (3, 20, 20)), patch)
    with pytest.raises(ChunkError, match="nothing is left"):
        layout(Box.of((0, 0, 0), (4, 16, 16)), patch, crop_margin=(2, 0, 0))
    with pytest.raises(UsageError, match="negative"):
        layout(Box.of((0, 0, 0), (4, 16, 16)), patch, crop_margin=(-1, 0, 0))
    with pytest.raises(ChunkError, match="no whole patch"):
        layout(Box.of((1, 1, 1), (4, 16, 16)), patch, patch_grid="volume")
    image = np.random.default_rng(0).random((3, 9, 20), np.float32)
    out = infer(Chunk(image, (7, 8, 9)), Identity(), patch=patch, pad="reflect", mask_output_chunk=True)
    assert out.bbox == Box.of((7, 8, 9), (3, 9, 20))
    np.testing.assert_allclose(out.array, image, atol=1e-6)


def test_a_margin_that_is_not_exact_is_refused():
    patch = Patch.of((4, 16, 16), overlap=(2, 8, 8))
    bounds = Box.of((0, 0, 0), (40, 160, 160))
    block = Box.of((8, 32, 32), (16, 64, 64))
    kept = layout(block, patch, patch_grid="volume", bounds=bounds, crop_margin=(2, 8, 8)).output
    assert kept == block.grow((-2, -8, -8))
    with pytest.raises(ChunkError, match="larger margin"):
        layout(block, patch, patch_grid="volume", bounds=bounds, crop_margin=(1, 8, 8))


def test_zeros_are_not_computed():
    calls = []

    def network(batch):
        calls.append(len(batch))
        return np.ones_like(batch)

    patch = Patch.of((4, 8, 8), overlap=(0, 0, 0))
    image = np.zeros((8, 16, 16), np.uint8)
    image[5, 9, 3] = 1
    out = infer(Chunk(image), network, patch=patch, batch_size=8)
    assert calls == [1]
    assert out.array.sum() == 4 * 8 * 8
    assert out.array[4:, 8:, :8].min() == 1
    nothing = infer(Chunk(np.zeros((8, 16, 16), np.uint8)), Identity(3), patch=patch)
    assert nothing.shape == (3, 8, 16, 16)
    assert not nothing.array.any()


def test_what_an_output_is():
    image = Chunk(np.full((4, 8, 8), 0.5, np.float32), (1, 2, 3), (30, 6, 6), source={"path": "x"})
    patch = Patch.of((4, 8, 8), overlap=(0, 0, 0))
    three = infer(image, Identity(3), patch=patch)
    assert (three.layer_type, three.offsets) == ("affinity_map", ((0, 0, -1), (0, -1, 0), (-1, 0, 0)))
    assert (three.voxel_offset, three.voxel_size, three.source) == ((1, 2, 3), (30, 6, 6), {"path": "x"})
    assert infer(image, Identity(), patch=patch).layer_type == "image"
    assert infer(image, Affine((4, 8, 8), 1), patch=patch).layer_type == "probability_map"
    assert infer(image, Affine((4, 8, 8), 2), patch=patch).layer_type == "probability_map"
    assert infer(image, Affine((4, 8, 8), 4), patch=patch, channels=3).layer_type == "affinity_map"
    with pytest.raises(ModelError, match="gives 2 channels"):
        infer(image, Affine((4, 8, 8), 2), patch=patch, channels=3)


def test_bytes_come_out_slab_by_slab():
    image = np.random.default_rng(3).random((30, 20, 20), np.float32)
    patch = Patch.of((6, 8, 8), overlap=(2, 4, 4))
    network = Affine((6, 8, 8), 3)
    options = {"patch": patch, "mask_output_chunk": True}
    exact = infer(Chunk(image), network, **options).array
    quantised = infer(Chunk(image), network, output_dtype="uint8", **options).array
    assert quantised.dtype == np.uint8
    assert np.abs(quantised - exact * 255).max() <= 0.5001
    with pytest.raises(ModelError, match="uint8"):
        infer(Chunk(image * 3), network, output_dtype="uint8", **options)


@pytest.mark.parametrize("options", [{}, {"output_dtype": "uint8"}, {"myelin_threshold": 0.3}])
@pytest.mark.parametrize("device", ["here", "device"])
def test_slabs_of_zeros_come_first(options, device):
    import torch

    image = np.random.default_rng(6).random((40, 20, 20), np.float32)
    image[:20] = 0
    image[28:33] = 0
    network = Affine((6, 8, 8), 4)
    answer = network if device == "here" else lambda batch: torch.from_numpy(network(batch))
    patch = Patch.of((6, 8, 8), overlap=(2, 4, 4))
    wanted = reference(image, patch, network, "wu", Box.of((0, 0, 0), image.shape))
    assert not wanted[:, :16].any()
    if "myelin_threshold" in options:
        wanted = wanted[:3] * (wanted[3] >= 0.3)
    out = infer(Chunk(image), answer, patch=patch, mask_output_chunk=True, **options).array
    scale = 255 if out.dtype == np.uint8 else 1
    np.testing.assert_allclose(out, wanted * scale, atol=0.5001 if scale == 255 else 2e-6)
    nothing = infer(Chunk(image * 0), answer, patch=patch, mask_output_chunk=True, **options).array
    assert nothing.shape == out.shape
    assert not nothing.any()


def test_myelin():
    image = np.random.default_rng(4).random((10, 20, 20), np.float32)
    options = {"patch": Patch.of((6, 8, 8), overlap=(2, 4, 4)), "mask_output_chunk": True}
    network = Affine((6, 8, 8), 4)
    four = infer(Chunk(image), network, **options).array
    three = infer(Chunk(image), network, myelin_threshold=0.45, **options)
    assert three.layer_type == "affinity_map"
    np.testing.assert_array_equal(three.array, four[:3] * (four[3] >= 0.45))
    assert 0 < (four[3] < 0.45).sum() < four[3].size
    with pytest.raises(ModelError, match="four channels"):
        infer(Chunk(image), Affine((6, 8, 8), 3), myelin_threshold=0.45, **options)


def test_what_a_network_must_not_give(said):
    image = Chunk(np.full((4, 8, 8), 0.5, np.float32))
    patch = Patch.of((4, 8, 8), overlap=(0, 0, 0))
    with pytest.raises(ModelError, match="NaN"):
        infer(image, lambda batch: batch * np.nan, patch=patch)
    with pytest.raises(ModelError, match="is needed"):
        infer(image, lambda batch: batch[:, :, 1:], patch=patch)
    with pytest.raises(ModelError, match="failed on a patch of 4x8x8: ZeroDivisionError"):
        infer(image, lambda batch: batch / (1 // 0), patch=patch)
    wide = infer(image, lambda batch: np.repeat(batch * 9, 3, 1), patch=patch)
    assert wide.layer_type == "image"
    assert wide.offsets is None
    assert "sigmoid" in said.text


def test_memory_that_runs_out(said):
    import torch

    sizes = []

    def network(batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return batch

    network.device = "cuda:0"
    image = np.random.default_rng(0).random((4, 32, 32), np.float32)
    patch = Patch.of((4, 8, 8), overlap=(0, 0, 0))
    out = infer(Chunk(image), network, patch=patch, batch_size="auto")
    np.testing.assert_allclose(out.array, image, atol=1e-6)
    assert sizes[:4] == [8, 4, 2, 1]
    assert "going on with 1" in said.text
    with pytest.raises(ModelError, match="--batch-size"):
        infer(Chunk(image), network, patch=patch, batch_size=4)

    def hopeless(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError, match="--patch-size"):
        infer(Chunk(image), hopeless, patch=patch, batch_size="auto")


def test_the_slab_on_a_device_equals_the_one_here():
    import torch

    image = np.random.default_rng(5).random((30, 20, 22), np.float32)
    patch = Patch.of((8, 10, 10), (6, 8, 8), (2, 4, 4))
    network = Affine((6, 8, 8), 4)
    for options in ({}, {"myelin_threshold": 0.4}, {"output_dtype": "uint8"}):
        options |= {"patch": patch, "mask_output_chunk": True, "batch_size": 3}
        here = infer(Chunk(image), network, **options).array
        there = infer(Chunk(image), lambda b: torch.from_numpy(network(b)), **options).array
        assert there.dtype == here.dtype
        np.testing.assert_allclose(
            there.astype(float), here.astype(float), atol=1e-6 if here.dtype != np.uint8 else 1
        )


def test_auto_takes_the_patch_that_is_sooner_done():
    import time

    image = Chunk(np.ones((64, 960, 960), np.uint8))
    assert [p.size for p in fitting(image.shape)] == [(20, 256, 256), (32, 512, 512)]

    def steady(batch):
        time.sleep(batch.size * 2e-9)
        return batch

    def slow_when_large(batch):
        time.sleep(0.001 if batch.size < 2e6 else 0.5)
        return batch

    assert best_patch(image, steady, mask_output_chunk=True).size == (32, 512, 512)
    assert best_patch(image, slow_when_large, mask_output_chunk=True).size == (20, 256, 256)


def test_memory_is_bounded():
    code = (
        "import numpy as np; from segflow import Chunk, infer\n"
        "from segflow.inference import Identity, Patch\n"
        "chunk = Chunk(np.random.default_rng(0).integers(1, 255, (128, 512, 512), dtype=np.uint8))\n"
        "infer(chunk, Identity(), patch=Patch.of((20, 256, 256)), mask_output_chunk=True)\n"
        "print(*[w.split()[1] for w in open('/proc/self/status') if 'VmHWM' in w])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak = int(done.stdout) / 1024
    assert peak <= 32 + 128 + 20 + 2 * 5 + 300


def test_the_probe_is_real():
    patch = probe((20, 200, 100), 2)
    assert patch.shape == (1, 2, 20, 200, 100)
    assert 0.3 < patch.mean() < 0.7
    assert patch.std() > 0.1
