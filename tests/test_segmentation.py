"""Watershed, agglomeration, connected components and thresholds."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from functools import partial

import h5py
import numpy as np
import pytest
import waterz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segflow.chunk import DEFAULT_OFFSETS, Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError, UsageError
from segflow.segmentation import agglomerate, binarize, connected_components, evaluate, watershed
from segflow.segmentation.affinities import NEAREST, nearest, nearest_bytes
from segflow.segmentation.agglomerate import MEAN, SCORES, scoring
from segflow.segmentation.quiet import muted


def affinities_of(inside: np.ndarray) -> np.ndarray:
    """Give x, y, z affinities: the smaller of both voxels' probabilities."""
    result = np.zeros((3, *inside.shape), np.float32)
    for channel, offset in enumerate(DEFAULT_OFFSETS):
        axis = offset.index(-1)
        here, before = ((slice(None),) * axis + (s,) for s in (slice(1, None), slice(-1)))
        np.minimum(inside[here], inside[before], out=result[(channel, *here)])
    return result


@pytest.fixture(scope="module")
def affs(request) -> np.ndarray:
    """Give real affinities, x y z float32, 50 x 100 x 200."""
    with h5py.File(request.path.parent / "data" / "gala.h5") as file:
        return affinities_of(1 - file["volumes/boundary_probability"][:])


@pytest.fixture(scope="module")
def small(affs) -> np.ndarray:
    """Give a part of them."""
    return np.ascontiguousarray(affs[:, :20, :60, :80])


@pytest.fixture(scope="module")
def truth(request) -> np.ndarray:
    """Give their ground truth."""
    with h5py.File(request.path.parent / "data" / "gala.h5") as file:
        return file["volumes/labels/neuron_ids"][:]


@pytest.fixture(params=["exact", "waterz"])
def engine(request) -> str:
    """Give each engine in turn; the watershed's methods of these names are theirs."""
    return request.param


def same_partition(a, b) -> bool:
    pairs = len({*zip(np.ravel(a).tolist(), np.ravel(b).tolist())})
    return pairs == len(np.unique(a)) == len(np.unique(b))


# -- what waterz gives --------------------------------------------------------------------------


def test_the_same_as_waterz_alone(affs):
    with muted():
        bare = next(waterz.agglomerate(np.ascontiguousarray(affs[::-1]), [0.4])).copy()
    ours = agglomerate(affs, 0.4, engine="waterz")
    np.testing.assert_array_equal(ours.array, bare)
    again = agglomerate(affs, 0.4, engine="waterz")
    np.testing.assert_array_equal(again.array, ours.array)
    assert (ours.dtype, ours.layer_type, ours.offsets) == (np.uint64, "segmentation", None)


@pytest.mark.parametrize(
    ("threshold", "split", "merge"), [(0.3, 1.047, 0.343), (0.5, 0.780, 0.344), (0.7, 0.469, 0.346)]
)
def test_published_voi_of_eight_bit_affinities(affs, truth, threshold, split, merge):
    eight = np.round(affs * 255).astype(np.uint8)
    scores = evaluate(agglomerate(eight, threshold, engine="waterz"), truth)
    assert scores["voi_split"] * math.log(2) == pytest.approx(split, abs=2e-3)
    assert scores["voi_merge"] * math.log(2) == pytest.approx(merge, abs=2e-3)


# -- what both engines keep ---------------------------------------------------------------------


def test_exact_is_the_default_for_the_mean(small):
    for score, engine in (("mean", "exact"), (MEAN, "exact"), ("hist_quant_75", "waterz")):
        found = agglomerate(small, 0.5, scoring_function=score).array
        wanted = agglomerate(small, 0.5, scoring_function=score, engine=engine).array
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(watershed(small).array, watershed(small, method="exact").array)
    with pytest.raises(UsageError, match="--engine waterz"):
        agglomerate(small, scoring_function="hist_quant_75", engine="exact")


def test_a_larger_threshold_only_merges(small, engine):
    before = agglomerate(small, 0.1, engine=engine).array
    for threshold in (0.3, 0.5, 0.7, 0.9):
        after = agglomerate(small, threshold, engine=engine).array
        pairs = {*zip(before.ravel().tolist(), after.ravel().tolist())}
        assert len(pairs) == len(np.unique(before)), "a segment was cut"
        assert len(np.unique(after)) < len(np.unique(before))
        before = after


def test_channels_are_picked_by_offset(small, engine):
    def run(affinities):
        return agglomerate(affinities, 0.5, engine=engine).array

    wanted = run(small)
    zyx = Chunk(small[::-1], layer_type="affinity_map", offsets=NEAREST)
    np.testing.assert_array_equal(run(zyx), wanted)
    far = np.random.default_rng(0).random(small.shape, np.float32)
    six = Chunk(
        np.concatenate([far[:2], small[1:], far[2:], small[:1]]),
        layer_type="affinity_map",
        offsets=((-2, 0, 0), (0, -9, 0), (0, -1, 0), (-1, 0, 0), (0, 0, -9), (0, 0, -1)),
    )
    np.testing.assert_array_equal(run(six), wanted)
    swapped = Chunk(small[::-1])  # z y x taken for x y z
    assert not np.array_equal(run(swapped), wanted)


def test_no_copy_where_none_is_needed(small):
    zyx = np.ascontiguousarray(small[::-1])
    chunk = Chunk(zyx, layer_type="affinity_map", offsets=NEAREST)
    assert np.shares_memory(nearest(chunk), zyx)
    np.testing.assert_array_equal(nearest(Chunk(small)), zyx)
    eight = np.round(zyx * 255).astype(np.uint8)
    chunk = Chunk(eight, layer_type="affinity_map", offsets=NEAREST)
    assert np.shares_memory(nearest_bytes(chunk), eight)
    np.testing.assert_array_equal(nearest_bytes(Chunk(small)), eight)


def test_eight_bit_is_a_fraction_of_255():
    eight = np.arange(192, dtype=np.uint8).reshape(3, 4, 4, 4)
    values = nearest(Chunk(eight))
    np.testing.assert_array_equal(values, eight[::-1] / np.float32(255))
    assert nearest(Chunk(np.full((3, 1, 1, 1), 255, np.uint8))).max() == 1
    for dtype in (np.float16, np.float32, np.float64):
        floats = Chunk((eight / 255).astype(dtype))
        np.testing.assert_array_equal(nearest_bytes(floats), eight[::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(small, dtype, engine):
    values = (np.round(small * 256) / 256).astype(np.float32)  # what float16 holds exactly
    np.testing.assert_array_equal(
        agglomerate(values.astype(dtype), 0.5, engine=engine).array,
        agglomerate(values, 0.5, engine=engine).array,
    )


def test_place_is_kept(small, engine):
    chunk = Chunk(small, voxel_offset=(5, -6, 7), voxel_size=(30, 6, 6), source={"path": "x"})
    merged, fragments = agglomerate(chunk, engine=engine), watershed(chunk, method=engine)
    for result in (merged, fragments, binarize(Chunk(small[:1], (1, 2, 3), (4, 5, 6)))):
        assert result.layer_type == "segmentation"
        assert result.array.shape == small.shape[1:]
    assert merged.bbox == chunk.bbox
    assert (merged.dtype, fragments.dtype) == (np.uint64, np.uint64)
    assert (fragments.voxel_size, fragments.source) == ((30, 6, 6), {"path": "x"})


# -- fragments ----------------------------------------------------------------------------------


def test_watershed_is_where_agglomeration_starts(small, engine):
    fragments = watershed(small, method=engine)
    before = fragments.array.copy()
    result = agglomerate(small, 0.5, fragments=fragments, engine=engine)
    np.testing.assert_array_equal(fragments.array, before)
    np.testing.assert_array_equal(result.array, agglomerate(small, 0.5, engine=engine).array)
    np.testing.assert_array_equal(agglomerate(small, 0, engine=engine).array, before)


def test_ids_of_fragments(small):
    found = watershed(small, method="waterz").array
    assert np.array_equal(np.unique(found), np.arange(found.max() + 1))
    found = watershed(small, method="exact").array
    ids = np.unique(found)[1:]
    first = found.ravel()[ids.astype(np.int64) - 1]
    np.testing.assert_array_equal(first, ids)  # 1 + the index of a voxel of the fragment


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_fragments_of_any_integer_dtype(small, dtype, engine):
    fragments = watershed(small, method="waterz").array
    assert fragments.max() < 2**15
    result = agglomerate(small, 0.5, fragments=fragments.astype(dtype), engine=engine)
    wanted = agglomerate(small, 0.5, fragments=fragments, engine=engine)
    np.testing.assert_array_equal(result.array, wanted.array)


@pytest.mark.parametrize("zero", [True, False])
def test_large_ids_of_fragments_come_back(small, zero, engine):
    fragments = watershed(small, aff_threshold_low=0.3 if zero else 0, method=engine).array
    if not zero:
        fragments = fragments + (fragments == 0).astype(np.uint64) * (fragments.max() + np.uint64(1))
    factor = np.uint64(10**13)
    result = agglomerate(small, 0.5, fragments=fragments * factor, engine=engine)
    wanted = agglomerate(small, 0.5, fragments=fragments, engine=engine)
    np.testing.assert_array_equal(result.array, wanted.array * factor)
    assert (result.array == 0).any() == zero


def test_low_and_high_change_the_watershed(small, engine):
    usual = watershed(small, method=engine).array
    low = watershed(small, aff_threshold_low=0.6, method=engine).array
    high = watershed(small, aff_threshold_high=0.8, method=engine).array
    assert (low == 0).sum() > (usual == 0).sum()
    best = np.max([*small, *(_after(small[c], DEFAULT_OFFSETS[c]) for c in range(3))], axis=0)
    if engine == "exact":
        best = np.rint(best * 255) / 255
    np.testing.assert_array_equal(low == 0, best <= np.float32(0.6))
    assert len(np.unique(high)) < len(np.unique(usual))


def _after(values, offset):
    """Move the affinity to the voxel before to that voxel: its affinity to the one after."""
    axis = offset.index(-1)
    moved = np.roll(values, -1, axis)
    moved[(slice(None),) * axis + (-1,)] = 0
    return moved


def test_scores(small):
    assert scoring("mean") == scoring(MEAN) == scoring(MEAN.replace(" ", "")) == MEAN
    median = SCORES["hist_quant_50"]
    assert scoring(median.replace(", ", ",")) == median
    mean, other = agglomerate(small, 0.5), agglomerate(small, 0.5, scoring_function="hist_quant_75")
    assert not same_partition(mean.array, other.array)
    for name in ("hist_quant_10", "hist_quant_95_initmax"):
        assert agglomerate(small, 0.5, scoring_function=name).shape == mean.shape
    with pytest.raises(UsageError, match="did you mean 'hist_quant_50'"):
        scoring("hist_quant50")


def test_all_compiled_scores_are_known():
    for spec in pytest.importorskip("waterz._codegen").iter_specs():
        if "Affinity" in spec.scoring_function:
            assert scoring(spec.scoring_function)


def test_extremes(engine):
    shape = (3, 2, 3, 4)
    assert not agglomerate(np.zeros(shape, np.float32), engine=engine).array.any()
    assert np.unique(agglomerate(np.ones(shape, np.float32), engine=engine).array).tolist() == [1]
    assert agglomerate(np.ones((3, 1, 1, 1), np.float32), engine=engine).array.tolist() == [[[0]]]
    values = np.full(shape, 0.5, np.float32)
    values[:, 0] = 1 + 5e-5  # rounding of a blended map
    assert agglomerate(values, engine=engine).shape == shape[1:]


@pytest.mark.parametrize("method", ["exact", "waterz"])
@settings(max_examples=25, deadline=None)
@given(values=arrays(np.uint8, st.tuples(st.just(3), *[st.integers(1, 6)] * 3), elements=st.integers(0, 255)))
def test_fragments_are_connected_and_background_is_low(method, values):
    fragments = watershed(values, method=method).array
    assert connected_components(fragments).array.max() == len(np.unique(fragments[fragments > 0]))
    low = 255 * 0.0001
    for channel, offset in enumerate(DEFAULT_OFFSETS):
        axis = offset.index(-1)
        inner = (slice(None),) * axis + (slice(1, None),)
        joined = values[channel][inner] > low
        assert (fragments[inner][joined] > 0).all()


# -- refused ------------------------------------------------------------------------------------


def broken(values: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    copy = values.copy()
    copy[place] = value
    return copy


@pytest.mark.parametrize(
    "work",
    [
        agglomerate,
        watershed,
        partial(agglomerate, engine="waterz"),
        partial(watershed, method="waterz"),
    ],
)
def test_bad_affinities(small, work):
    for values, text in (
        (broken(small, (2, 3, 4, 5), math.nan), r"channel 2 \(affinity along z\) holds 1 NaN.*\(3, 4, 5\)"),
        (broken(small, (0, 0, 0, 0), math.inf), "inf"),
        (broken(small, (1, 0, 0, 0), 7), r"along y\) ranges from 0 to 7"),
        (broken(small, (1, 0, 0, 0), -0.5), "ranges from -0.5"),
        (small[:2], "has 2"),
        (small[0], "czyx"),
        (small[:, :0], "empty"),
        ((small * 60000).astype(np.uint16), "not uint16"),
        (np.concatenate([small, small]), "lack"),
    ):
        with pytest.raises(ChunkError, match=text):
            work(values)
    with pytest.raises(UsageError, match=r"low.*\(0.5\)"):
        work(small, aff_threshold_low=0.5, aff_threshold_high=0.5)


def test_bad_fragments_and_thresholds(small, engine):
    def run(**options):
        agglomerate(small, engine=engine, **options)

    with pytest.raises(ChunkError, match="shape"):
        run(fragments=np.ones((2, 2, 2), np.uint64))
    with pytest.raises(ChunkError, match="float32"):
        run(fragments=np.ones(small.shape[1:], np.float32))
    with pytest.raises(ChunkError, match="negative"):
        run(fragments=np.full(small.shape[1:], -1))
    for threshold in (math.nan, -0.1):
        with pytest.raises(UsageError, match="threshold"):
            run(threshold=threshold)


def test_ids_of_fragments_have_61_bits(small):
    fragments = np.full(small.shape[1:], 2**61 - 1, np.uint64)
    assert np.unique(agglomerate(small, fragments=fragments).array) == 2**61 - 1
    with pytest.raises(ChunkError, match="2305843009213693952"):
        agglomerate(small, fragments=fragments + np.uint64(1))


# -- silence ------------------------------------------------------------------------------------


def test_nothing_reaches_stdout(tmp_path, small):
    np.save(tmp_path / "affs.npy", small)
    code = (
        "import numpy as np, segflow\n"
        f"affs = np.load({str(tmp_path / 'affs.npy')!r})\n"
        "print('before')\n"
        "segflow.agglomerate(affs, engine='waterz')\nsegflow.watershed(affs, method='waterz')\n"
        "segflow.agglomerate(affs)\nprint('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    closed = subprocess.run(
        f"exec '{sys.executable}' - >&-", shell=True, input=code.replace("print", "len"), text=True,
        capture_output=True,
    )  # fmt: skip
    assert closed.returncode == 0, closed.stderr


def test_descriptor_1_comes_back_after_an_error(capfd):
    def fails():
        with muted():
            os.write(1, b"lost\n")
            print("lost too")
            with muted():
                print("also lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    os.write(1, b"kept\n")
    print("kept too", flush=True)
    assert capfd.readouterr().out == "kept\nkept too\n"


def test_other_threads_go_on_printing(tmp_path):
    code = (
        "import os, threading\nfrom segflow.segmentation.quiet import muted\n"
        "def other():\n    print('heard', flush=True)\n"
        "with muted():\n"
        "    thread = threading.Thread(target=other)\n    thread.start()\n    thread.join()\n"
        "    print('not heard')\n    os.write(1, b'nor this')\n"
        "print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "heard\nend\n"


def test_silence_from_several_threads(capfd, small, engine):
    found = []
    before = sys.stdout

    def work():
        found.append(agglomerate(small, 0.5, engine=engine).array)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sys.stdout is before
    assert capfd.readouterr().out == ""
    assert all(np.array_equal(found[0], f) for f in found[1:])
    assert len(found) == 4


# -- connected components and thresholds --------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 2)),
    st.sampled_from([6, 18, 26]),
)
def test_components_by_brute_force(labels, connectivity):
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    number = {tuple(v): i for i, v in enumerate(np.argwhere(labels), 1)}
    steps = [s for s in np.ndindex(3, 3, 3) if 0 < sum(abs(a - 1) for a in s) <= reach]
    changed = True
    while changed:
        changed = False
        for voxel in number:
            for step in steps:
                near = tuple(a + b - 1 for a, b in zip(voxel, step))
                if near in number and labels[near] == labels[voxel] and number[near] < number[voxel]:
                    number[voxel], changed = number[near], True
    expected = np.zeros(labels.shape, int)
    for voxel, value in number.items():
        expected[voxel] = value
    result = connected_components(labels, connectivity=connectivity)
    assert (result.dtype, result.layer_type) == (np.uint32, "segmentation")
    assert ((result.array == 0) == (labels == 0)).all()
    assert same_partition(result.array, expected)
    assert np.array_equal(np.unique(result.array[result.array > 0]), np.arange(1, result.array.max() + 1))


def test_components_of_real_labels_and_maps(request, data):
    with h5py.File(data / "gala.h5") as file:
        boundary = file["volumes/boundary_probability"][:]
        fragments = file["volumes/labels/watershed"][:]
    with h5py.File(data / "pinky40_mip1.h5") as file:
        pinky = file["mip1"][:]
    assert connected_components(pinky, connectivity=26).array.max() == 499  # data set's own count
    assert connected_components(pinky).array.max() > 499
    assert connected_components(fragments).array.max() >= 203
    parts = connected_components(boundary, 0.5).array
    np.testing.assert_array_equal(parts > 0, boundary > np.float32(0.5))
    np.testing.assert_array_equal(connected_components(boundary[None], 0.5).array, parts)
    np.testing.assert_array_equal(connected_components(binarize(boundary, 0.5)).array, parts)


def test_threshold_is_strict_and_exact():
    values = np.array([[[0, 50, 51, 52, 255]]], np.uint8)
    as_map = Chunk(values, layer_type="probability_map")
    assert binarize(as_map, 0.2).array.tolist() == [[[0, 0, 0, 1, 1]]]  # 51 / 255 is 0.2
    assert binarize(Chunk(values, layer_type="image"), 50.5).array.tolist() == [[[0, 0, 1, 1, 1]]]
    assert binarize(Chunk(values, layer_type="image"), 51).array.tolist() == [[[0, 0, 0, 1, 1]]]
    assert binarize(values, -1).array.all()
    assert not binarize(values, 300).array.any()
    assert binarize(values.astype(np.float32)[None], 51).dtype == np.uint8


def test_refused_maps(small):
    for work in (binarize, lambda c: connected_components(c, 0.5)):
        with pytest.raises(ChunkError, match="one channel"):
            work(small)
    with pytest.raises(ChunkError, match="--threshold"):
        connected_components(small[0])
    with pytest.raises(UsageError, match="18"):
        connected_components(small[0] > 0, connectivity=8)


# -- the commands -------------------------------------------------------------------------------


def test_each_option_of_the_commands(small):
    chunk = Chunk(small, (1, 2, 3))

    def run(*words, **chunks):
        return run_chain(*map(str, words), affs=chunk, **chunks)["seg"].array

    fragments = Chunk(watershed(small, aff_threshold_low=0.4).array)
    for words, expected in (
        ([], agglomerate(small)),
        (["-t", 0.3], agglomerate(small, 0.3)),
        (["--threshold", 0.3, "-l", 0.5], agglomerate(small, 0.3, aff_threshold_low=0.5)),
        (["-t", 0.1, "--aff-threshold-high", 0.8], agglomerate(small, 0.1, aff_threshold_high=0.8)),
        (["-t", 0.3, "--engine", "waterz"], agglomerate(small, 0.3, engine="waterz")),
        (["-t", 0.3, "--engine", "exact"], agglomerate(small, 0.3)),
        (["-t", 0.5, "-s", "hist_quant_75"], agglomerate(small, 0.5, scoring_function="hist_quant_75")),
        (["-t", 0.3, "-f", "frags"], agglomerate(small, 0.3, fragments=fragments)),
    ):
        found = run("agglomerate", "-i", "affs", "-o", "seg", *words, frags=fragments)
        np.testing.assert_array_equal(found, expected.array)
    for method in ("exact", "waterz"):
        words = ["--method", method] * (method != "exact")
        found = run("watershed", "-i", "affs", "-o", "seg", "--aff-threshold-low", 0.5, "-h", 0.8, *words)
        expected = watershed(small, aff_threshold_low=0.5, aff_threshold_high=0.8, method=method)
        np.testing.assert_array_equal(found, expected.array)

    state = run_chain(
        "connected-components", "-i", "x", "-t", "0.6", "-c", "26", "-o", "seg", x=Chunk(small[0])
    )
    expected = connected_components(small[0], 0.6, connectivity=26)
    np.testing.assert_array_equal(state["seg"].array, expected.array)
    state = run_chain("threshold", "-i", "x", "--threshold", "0.6", "-o", "mask", x=Chunk(small[0]))
    np.testing.assert_array_equal(state["mask"].array, small[0] > np.float32(0.6))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["agglomerate", "-i", "two"], "two"),
        (["agglomerate", "-i", "image"], "czyx"),
        (["agglomerate", "-i", "affs", "-f", "image"], "shape"),
        (["agglomerate", "-i", "affs", "-s", "median"], "no scoring function 'median'"),
        (["agglomerate", "-i", "affs", "-t", "1.5"], "1.5"),
        (["agglomerate", "-i", "affs", "-s", "hist_quant_50", "--engine", "exact"], "--engine waterz"),
        (["watershed", "-i", "affs", "-l", "0.9", "-h", "0.3"], "smaller"),
        (["connected-components", "-i", "image"], "--threshold"),
        (["connected-components", "-i", "affs", "-t", "0.5"], "one channel"),
        (["connected-components", "-i", "image", "-t", "0.5", "-c", "8"], "18"),
        (["threshold", "-i", "affs"], "one channel"),
    ],
)
def test_refused_before_the_run(tmp_path, segflow, small, words, text):
    np.save(tmp_path / "affs.npy", small)
    np.save(tmp_path / "two.npy", small[:2])
    np.save(tmp_path / "image.npy", small[0, :4])
    read = [w for n in ("affs", "two", "image") for w in ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n)]
    result = segflow("--quiet", *read, *words, code=2)
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"segflow {words[0]}: ")
    assert text in result.err


def test_dry_run_knows_shapes(tmp_path, segflow, small):
    np.save(tmp_path / "affs.npy", small)
    line = [
        "read-npy",
        "-f",
        tmp_path / "affs.npy",
        "agglomerate",
        "-o",
        "seg",
        "connected-components",
        "-i",
        "seg",
    ]
    result = segflow("--dry-run", *line)
    assert "20x60x80 uint64" in result.out + result.err
    assert "20x60x80 uint32" in result.out + result.err
