"""Blocks: the grid, what split cuts, writes and leaves out, and groups of blocks in a chain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.blocks.cut import Blocks, Held, read_block
from segflow.blocks.manifest import load_manifest
from segflow.blocks.mask import Mask
from segflow.chunk import Chunk
from segflow.cli import registry
from segflow.cli.main import chain_from_tokens
from segflow.cli.operator import name_in, operator, option
from segflow.errors import ChunkError, SegflowError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.state import State
from segflow.tasks.tasks import make_tasks
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import peek_h5, read_h5, write_h5
from segflow.volumes.tif import read_tif, write_tif

SHAPE = (7, 40, 33)
OFFSET = (5, -3, 7)
SIZES = ("--block-size", 4, 20, 16, "--overlap", 1, 4, 6)


@pytest.fixture
def image() -> Chunk:
    array = np.random.default_rng(5).integers(1, 250, SHAPE).astype(np.uint8)
    return Chunk(array, OFFSET, (30, 6, 5), "image")


@pytest.fixture
def stack(tmp_path: Path, image: Chunk) -> Path:
    write_tif(str(tmp_path / "em.tif"), image)
    return tmp_path / "em.tif"


# -- the grid -----------------------------------------------------------------------------------

axis = st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(0, 11), st.integers(-9, 9)).filter(
    lambda t: t[2] < t[1]
)


@settings(max_examples=150, deadline=None)
@given(st.tuples(axis, axis, axis), st.sampled_from(["shorter", "shift", "pad"]))
def test_cores_fill_the_bounds_once_and_lie_in_their_blocks(axes: Any, edge: str) -> None:
    lengths, sizes, overlaps, begins = zip(*axes)
    bounds = Box.of(begins, lengths)
    blocks = Blocks.over(bounds, sizes, overlaps, edge)
    for number, (windows, length, size, overlap) in enumerate(zip(blocks.windows, lengths, sizes, overlaps)):
        cuts = blocks.cuts(number)
        assert cuts[0] == bounds.start[number]
        assert cuts[-1] == bounds.stop[number]
        assert all(a < b for a, b in zip(cuts, cuts[1:]))
        assert all(w[0] <= a and b <= w[1] for w, a, b in zip(windows, cuts, cuts[1:]))
        for one, two in zip(windows, windows[1:]):
            assert min(two[1], bounds.stop[number]) > one[1]  # not inside the one before
            assert one[1] - two[0] >= overlap
        if edge == "pad" or (edge == "shift" and length >= size):
            assert {b - a for a, b in windows} == {size}
        if edge != "pad":
            assert windows[-1][1] == bounds.stop[number]
    for index in range(min(len(blocks), 20)):
        assert blocks.index(blocks.place(index)) == index
        assert blocks.box(index).contains(blocks.core(index))


def test_the_grid_is_that_of_generate_tasks() -> None:
    bounds = Box.of((3, 0, -5), (40, 100, 90))
    tasks = make_tasks(bounds, chunk_size=(16, 30, 40), overlap=(4, 6, 8))
    assert [b for _, b in tasks] == list(Blocks.over(bounds, (16, 30, 40), (4, 6, 8), "pad"))
    clipped = make_tasks(bounds, chunk_size=(16, 30, 40), overlap=(4, 6, 8), respect_chunk_size=False)
    assert [b for _, b in clipped] == list(Blocks.over(bounds, (16, 30, 40), (4, 6, 8)))


@pytest.mark.parametrize(
    ("size", "overlap", "edge", "text"),
    [
        ((4, 4, 4), (0, 4, 0), "shorter", "0 to less than --block-size"),
        ((4, 0, 4), (0, 0, 0), "shorter", "positive"),
        ((4, 4, 4), (0, 0, 0), "round", "--edge 'round' is unknown"),
    ],
)
def test_grids_that_cannot_be(size: Any, overlap: Any, edge: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Blocks.over(Box.of((0, 0, 0), (9, 9, 9)), size, overlap, edge)


def test_names() -> None:
    blocks = Blocks.over(Box.of((0, 0, 0), (1, 2, 120)), (1, 1, 1))
    assert [blocks.name(i) for i in (0, 121, 239)] == ["z00_y00_x00", "z00_y01_x01", "z00_y01_x119"]


def test_blocks_keep_their_source_and_padding_is_zero(image: Chunk) -> None:
    held = Held(image.with_array(image.array, source={"path": "em", "mip": 2, "bounds": image.bbox.grow(9)}))
    assert held.read(Box.of(OFFSET, (1, 1, 1))).source["bounds"] == image.bbox.grow(9)
    bare = Held(image)
    assert bare.read(Box.of(OFFSET, (1, 1, 1))).source["bounds"] == image.bbox
    box = Box.of((OFFSET[0] + 5, OFFSET[1], OFFSET[2]), (4, 4, 4))
    padded = read_block(bare, box)
    assert padded.bbox == box
    assert np.array_equal(padded.array[:2], image.array[5:, :4, :4])
    assert not padded.array[2:].any()


def test_masks(image: Chunk) -> None:
    coarse = Chunk(np.zeros((7, 20, 17), np.uint8), (5, -2, 3), (30, 12, 10), "segmentation")
    array = coarse.array.copy()
    array[2, 5, 6] = 1
    mask = Mask(Held(coarse.with_array(array)), Held(image).info)
    assert mask.factor == (1, 2, 2)
    assert mask.any(Box((7, 6, 18), (8, 7, 19)))
    assert not mask.any(Box((7, 8, 18), (8, 9, 19)))
    assert not mask.any(Box((7, 60, 18), (8, 70, 19)))
    with pytest.raises(VolumeError, match="no whole multiple"):
        Mask(Held(Chunk(array, (5, -2, 3), (30, 9, 10))), Held(image).info)
    with pytest.raises(VolumeError, match="lies wholly outside"):
        Mask(Held(Chunk(array, (50, -2, 3), (30, 12, 10))), Held(image).info)


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["h5", "tif"])
@pytest.mark.parametrize("edge", ["shorter", "shift", "pad"])
def test_files_and_manifest(segflow, tmp_path: Path, stack: Path, image: Chunk, form: str, edge: str) -> None:
    out = tmp_path / "blocks"
    segflow("split", "-f", stack, *SIZES, "--edge", edge, "--output-dir", out, "--format", form)
    value = json.loads((out / "manifest.json").read_text())
    assert value["complete"]
    assert value["grid"] == {
        "start": list(OFFSET),
        "size": [4, 20, 16],
        "stride": [3, 16, 10],
        "counts": [2, 3, 3],
    }
    assert (value["overlap"], value["edge"], value["dtype"], value["channels"]) == (
        [1, 4, 6],
        edge,
        "uint8",
        None,
    )
    assert (value["voxel_size"], value["layer_type"]) == ([30, 6, 5], "image")
    read = read_h5 if form == "h5" else read_tif
    for entry, box in zip(value["blocks"], Blocks.over(image.bbox, (4, 20, 16), (1, 4, 6), edge)):
        assert entry == {"name": entry["name"], "box": str(box), "file": f"chunk_{entry['name']}.{form}"}
        block = read(str(out / entry["file"]))
        assert np.array_equal(block.array, image.pad_to(box).array)
        assert (block.bbox, block.voxel_size) == (box, image.voxel_size)
    assert len(list(out.iterdir())) == 19
    manifest = load_manifest(out)
    assert manifest is not None
    assert manifest.blocks == Blocks.over(image.bbox, (4, 20, 16), (1, 4, 6), edge)


def test_every_source(segflow, tmp_path: Path, stack: Path, image: Chunk) -> None:
    write_h5(str(tmp_path / "em.h5"), image)
    volume = open_volume(str(tmp_path / "em"))
    make_volume(volume, image, block_size=(4, 16, 16))
    volume.write(image)
    segflow("read-tif", "-f", stack, "write-zarr", "-f", tmp_path / "em.zarr")
    np.save(tmp_path / "em.npy", image.array)
    sources = [
        ("read-tif", "-f", stack, "split", "-i", "chunk"), ("split", "-f", f"{tmp_path}/em.h5:main"),
        ("split", "-v", tmp_path / "em"), ("split", "-v", f"zarr://{tmp_path}/em.zarr"),
        ("split", "-v", tmp_path / "em.zarr"),
        ("split", "-f", tmp_path / "em.npy", "--voxel-offset", *OFFSET, "--voxel-size", 30, 6, 5),
    ]  # fmt: skip
    for number, line in enumerate(sources):
        out = tmp_path / str(number)
        segflow(*line, *SIZES, "--output-dir", out)
        block = read_h5(str(out / "chunk_z01_y02_x01.h5"))
        assert str(block.bbox) == "8-12_29-37_17-33"
        assert np.array_equal(block.array, image.cutout(block.bbox).array)
        assert block.voxel_size == (30, 6, 5)


def test_a_file_is_never_read_whole(segflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    with h5py.File(tmp_path / "big.h5", "w") as file:  # 64 GiB if it were there
        file.create_dataset("main", (4096, 4096, 4096), np.uint8, chunks=(16, 64, 64))
    segflow(
        "split", "-f", tmp_path / "big.h5", "--roi", "4000-4016_0-64_0-100", "--block-size", 16, 64, 64,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.h5"))) == 2


def test_regions(segflow, tmp_path: Path, stack: Path) -> None:
    def boxes(*words: Any, code: int = 0) -> Any:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        result = segflow(
            "split", "-f", stack, "--block-size", 3, 20, 20, *words, "--output-dir", out, code=code
        )
        return (
            result.last
            if code
            else [b["box"] for b in json.loads((out / "manifest.json").read_text())["blocks"]]
        )

    wanted = ["6-9_0-20_10-30", "6-9_0-20_30-36", "9-10_0-20_10-30", "9-10_0-20_30-36"]
    assert boxes("--roi", "6-10_0-20_10-36") == wanted
    assert boxes("--roi-start", 6, 0, 10, "--roi-stop", 10, 20, 36) == wanted
    assert boxes("--roi-start", 6, 0, 10, "--roi-size", 4, 20, 26) == wanted
    assert "goes beyond 5-12_-3-37_7-40" in boxes("--roi", "6-10_0-20_10-41", code=2)
    assert "wholly outside" in boxes("--roi", "60-70_0-20_10-41", code=2)
    assert "empty" in boxes("--roi", "6-6_0-20_10-41", code=2)


def test_restart(segflow, tmp_path: Path, stack: Path, image: Chunk) -> None:
    out = tmp_path / "blocks"
    line = ("split", "-f", stack, *SIZES, "--output-dir", out)
    segflow(*line)
    files = sorted(out.glob("*.h5"))
    before = {f: f.read_bytes() for f in files}
    times = {f: f.stat().st_mtime_ns for f in files}
    files[3].unlink()
    files[5].write_bytes(before[files[5]][:900])
    write_h5(str(files[7]), Chunk(np.zeros((2, 2, 2), np.uint8)))
    segflow(*line)
    assert {f: f.read_bytes() for f in files} == before
    new = [i for i, f in enumerate(files) if f.stat().st_mtime_ns != times[f]]
    assert new == [3, 5, 7]
    other = segflow(*line, "--edge", "shift", code=2)
    assert other.last == (
        f"segflow split: {out} holds the blocks of another split (edge shorter, not shift); delete it or name "
        "another folder"
    )
    write_tif(str(stack), image.with_array(image.array // 2))
    assert "blocks of another split (its source is another" in segflow(*line, code=2).last


def test_a_killed_split_goes_on(
    segflow, tmp_path: Path, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segflow.blocks import folder

    out, write = tmp_path / "blocks", folder.hdf5.write_h5

    def dying(path: str, chunk: Chunk, **options: Any) -> None:
        if "z01" in path:
            raise VolumeError("the disk is full")
        write(path, chunk, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder.hdf5, "write_h5", dying)
        segflow("split", "-f", stack, *SIZES, "--output-dir", out, code=1)
    found = load_manifest(out)
    assert found is not None
    assert not found.complete
    segflow("split", "-f", stack, *SIZES, "--output-dir", out)
    found = load_manifest(out)
    assert found is not None
    assert found.complete


def test_empty_blocks(segflow, tmp_path: Path, image: Chunk) -> None:
    array = image.array.copy()
    array[:, :20, :16] = 3
    write_tif(str(tmp_path / "em.tif"), image.with_array(array))
    mask = Chunk(np.zeros(SHAPE, np.uint8), OFFSET, (30, 6, 5), "segmentation")
    half = mask.array.copy()
    half[:3] = 1
    write_h5(str(tmp_path / "mask.h5"), mask.with_array(half))
    out = tmp_path / "blocks"
    line = ("split", "-f", tmp_path / "em.tif", *SIZES, "--output-dir", out)
    segflow(*line)
    segflow(*line, "--mask", tmp_path / "mask.h5", "--empty-threshold", 3)
    made = json.loads((out / "manifest.json").read_text())["blocks"]
    empty = [b["name"] for b in made if b.get("empty")]
    assert empty == ["z00_y00_x00", *(f"z01_y{y:02d}_x{x:02d}" for y in range(3) for x in range(3))]
    left = {f"chunk_{b['name']}.h5" for b in made if not b.get("empty")}
    assert {f.name for f in out.glob("*.h5")} == left


def test_channels_are_handed_on_in_order(segflow, tmp_path: Path) -> None:
    import h5py

    array = np.random.default_rng(0).random((3, 4, 12, 12), np.float32)
    with h5py.File(tmp_path / "affs.h5", "w") as file:
        file["vol0"] = array
    segflow(
        "split", "-f", tmp_path / "affs.h5", "--channel-order", "zyx", "--block-size", 4, 8, 8,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    block = read_h5(str(tmp_path / "out" / "chunk_z00_y00_x01.h5"))
    assert np.array_equal(block.array, array[::-1, :, :8, 8:])
    assert block.offsets == ((0, 0, -1), (0, -1, 0), (-1, 0, 0))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "takes one of --input NAME, --file-name FILE and --volume-path VOLUME"),
        (("-f", "{em}", "-v", "x"), "takes one of"),
        (("-f", "gone.tif"), "gone.tif does not exist"),
        (("-v", "gone"), "does not exist"),
        (("-f", "{em}", "--overlap", 1, 20, 1), "0 to less than --block-size"),
        (("-f", "{em}", "--mask", "gone.h5"), "gone.h5 does not exist"),
        (("-f", "{em}", "--dataset-path", "x", "--channel-order", "zyx"), "3 channels"),
        (("-f", "{em}", "--output-dir", "{em}/out"), "cannot write"),
        (("-i", "chunk"), "no chunk named 'chunk'"),
    ],
)
def test_bad_input(segflow, stack: Path, words: Any, text: str) -> None:
    words = [str(w).replace("{em}", str(stack)) for w in words]
    result = segflow("split", "--block-size", 4, 20, 16, *words, code=2)
    assert text in result.last
    assert result.last.startswith("segflow split: ")


# -- groups in a chain --------------------------------------------------------------------------

seen: list[str] = []


@operator("State")
@name_in(default="chunk")
@option("--fail", default="", help="Label that fails.")
@option("--skip", default="", help="Label that is skipped.")
@option("--drop", default="", help="Label whose chunk is taken away.")
def touch(state: State, chunk: Chunk, *, fail: str = "", skip: str = "", drop: str = "") -> None:
    """Note a state; fail, or skip it."""
    seen.append(state.label)
    if state.label == fail:
        raise ChunkError("it failed")
    if state.label == skip or skip == "all":
        state.skip("for fun")
    if state.label == drop:
        del state["chunk"]


@operator("State", kind="stream")
@option("--lose", type=int, default=-1, help="Block that is lost.")
@option("--twice", type=int, default=-1, help="Block that comes twice.")
def sieve(states: Iterator[State], *, lose: int = -1, twice: int = -1) -> Iterator[State]:
    """Lose a block, or give it twice."""
    for state in states:
        number = state.index if state.ends is None else -2
        if number != lose:
            yield state
        if number == twice:
            yield state


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    found = {f.__name__: SimpleNamespace(load=lambda f=f: f, value=__name__) for f in (touch, sieve)}
    registry.load.cache_clear()
    monkeypatch.setattr(registry, "third_party", lambda: found)
    seen.clear()
    yield seen
    registry.load.cache_clear()


CUT = ["split", "-i", "chunk", "--block-size", "4", "20", "20", "--overlap", "1", "4", "4"]
FIRST = "5-9_-3-17_7-27"


def run(image: Chunk | None, *words: Any, prefetch: int = 0, on_error: str = "stop") -> list[State]:
    chunks = {} if image is None else {"chunk": image}
    tokens = ["--prefetch", prefetch, "--on-error", on_error, *words]
    return list(chain_from_tokens([str(w) for w in tokens], known=tuple(chunks)).states(chunks))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_group_ends_with_its_parent(image: Chunk, ours: list[str], prefetch: int) -> None:
    (state,) = run(image, *CUT, "touch", "merge-blocks", "-o", "joined", "touch", prefetch=prefetch)
    assert ours == [str(b) for b in Blocks.over(image.bbox, (4, 20, 20), (1, 4, 4))] + ["0"]
    assert np.array_equal(state["joined"].array, image.array)
    assert state["chunk"].array is image.array
    assert (state.bbox, state.parent, state.ends) == (None, None, None)
    assert state["joined"].voxel_size == image.voxel_size
    names = [r.operator for r in state.log]
    assert names.count("touch") == 2
    assert {"split", "merge-blocks"} <= set(names)


def test_children_know_their_place(image: Chunk) -> None:
    states = run(image, *CUT, "-o", "block")
    grid = Blocks.over(image.bbox, (4, 20, 20), (1, 4, 4))
    assert [(s.index, s.count, s.bbox) for s in states] == [(i, len(grid), b) for i, b in enumerate(grid)]
    assert len({id(s.parent) for s in states}) == 1
    for state in states:
        assert np.array_equal(state["block"].array, image.cutout(state.bbox).array)  # type: ignore[arg-type]
        assert state["block"].source["bounds"] == image.bbox


def test_groups_nest(image: Chunk, ours: list[str]) -> None:
    inner = ["split", "-i", "chunk", "--block-size", "2", "9", "20", "--overlap", "0", "3", "0"]
    (state,) = run(image, *CUT, *inner, "touch", "merge-blocks", "touch", "merge-blocks", "-o", "joined")
    assert np.array_equal(state["joined"].array, image.array)
    states = run(image, *CUT, *inner, "merge-blocks")
    assert [s.bbox for s in states] == list(Blocks.over(image.bbox, (4, 20, 20), (1, 4, 4)))


def test_skipped_outer_blocks_pass_by_the_inner_groups(image: Chunk, ours: list[str]) -> None:
    inner = ["split", "-i", "chunk", "--block-size", "2", "20", "20"]
    (state,) = run(
        image, *CUT, "touch", "--skip", FIRST, *inner, "merge-blocks", "merge-blocks", "-o", "joined"
    )
    core = Blocks.over(image.bbox, (4, 20, 20), (1, 4, 4)).core(0)
    assert not state["joined"].cutout(core).array.any()
    wanted = image.array.copy()
    wanted[core.slices(OFFSET)] = 0
    assert np.array_equal(state["joined"].array, wanted)


def test_several_parents(ours: list[str], tmp_path: Path) -> None:
    tasks = ["generate-tasks", "-c", "4", "16", "16", "--grid-size", "1", "2", "2", "create-chunk"]
    cut = ["split", "-i", "chunk", "--block-size", "4", "10", "10", "--overlap", "0", "4", "4"]
    states = run(None, *tasks, *cut, "touch", "merge-blocks", "-o", "joined", prefetch=1)
    assert [str(s.bbox) for s in states] == [
        "0-4_0-16_0-16", "0-4_0-16_16-32", "0-4_16-32_0-16", "0-4_16-32_16-32"
    ]  # fmt: skip
    for state in states:
        assert np.array_equal(state["joined"].array, state["chunk"].array)
    assert len(ours) == 16
    run(None, *tasks, *cut, "merge-blocks", "write-h5", "-f", f"{tmp_path}/")
    run(None, *tasks, *cut, "merge-blocks", "-f", f"{tmp_path}/j{{bbox}}.h5")
    for state in states:
        for name in (f"{state.bbox}.h5", f"j{state.bbox}.h5"):
            assert np.array_equal(read_h5(str(tmp_path / name)).array, state["chunk"].array)


def test_tasks_are_split_in_their_boxes(stack: Path, image: Chunk, tmp_path: Path) -> None:
    volume = open_volume(str(tmp_path / "em"))
    make_volume(volume, image, block_size=(4, 16, 16))
    volume.write(image)
    tasks = f"generate-tasks -v {tmp_path}/em -c 4 20 20 --respect-stop".split()
    cut = f"split -v {tmp_path}/em --block-size 4 12 12 --overlap 0 4 4".split()
    states = run(None, *tasks, *cut, "merge-blocks")
    assert [s["chunk"].bbox for s in states] == [s.bbox for s in states]
    for state in states:
        assert np.array_equal(state["chunk"].array, image.cutout(state.bbox).array)  # type: ignore[arg-type]


def test_a_failed_block_fails_its_parent(image: Chunk, ours: list[str]) -> None:
    with pytest.raises(ChunkError, match="it failed"):
        run(image, *CUT, "touch", "--fail", FIRST, "merge-blocks")
    ours.clear()
    (state,) = run(
        image, *CUT, "touch", "--fail", FIRST, "merge-blocks", "-o", "j", "touch", on_error="continue"
    )
    assert str(state.error) == "it failed"
    assert "j" not in state
    assert len(ours) == 12  # the parent is not touched
    two = ["generate-tasks", "-c", "4", "16", "16", "--grid-size", "1", "1", "2", "create-chunk"]
    cut = ["split", "-i", "chunk", "--block-size", "4", "10", "16"]
    good, bad = run(
        None,
        *two,
        *cut,
        "touch",
        "--fail",
        "0-4_10-16_16-32",
        "merge-blocks",
        on_error="continue",
        prefetch=1,
    )
    assert good.error is None
    assert str(bad.error) == "it failed"


def test_a_split_that_fails_does_not_join(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segflow.volumes.lazy import LazyVolume

    read = LazyVolume.read

    def broken(self: Any, box: Any = None) -> Chunk:
        if box is not None and box.start[0] > OFFSET[0]:
            raise VolumeError("the file is gone")
        return read(self, box)

    monkeypatch.setattr(LazyVolume, "read", broken)
    words = f"split -f {stack} --block-size 4 20 20 merge-blocks -o joined".split()
    (state,) = run(None, *words, on_error="continue")
    assert str(state.error) == "the file is gone"
    assert "joined" not in state


def test_skipped_blocks_are_zeros_and_all_skipped_skips(image: Chunk, ours: list[str]) -> None:
    (state,) = run(image, *CUT, "touch", "--skip", FIRST, "merge-blocks", "-o", "joined")
    core = Blocks.over(image.bbox, (4, 20, 20), (1, 4, 4)).core(0)
    assert not state["joined"].cutout(core).array.any()
    assert state["joined"].array.any()
    (state,) = run(image, *CUT, "touch", "--skip", "all", "merge-blocks", "-o", "joined", "touch")
    assert state.skipped == "all 12 blocks were skipped: for fun"
    assert "joined" not in state


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("sieve", "--lose", 3), "1 of 12 blocks never came to merge-blocks: z00_y01_x01"),
        (("sieve", "--twice", 3), "block z00_y01_x01 came twice"),
        (("touch", "--drop", FIRST), "no chunk named 'chunk'"),
        (("crop-margin", "--margin-size", 0, 3, 3, 0, 3, 3), "nothing covers 14-16"),
    ],
)
@pytest.mark.parametrize("target", [(), ("-f", "{out}/o.h5")])
def test_groups_that_do_not_join(
    image: Chunk, ours: list[str], tmp_path: Path, words: Any, text: str, target: Any
) -> None:
    target = [t.replace("{out}", str(tmp_path)) for t in target]
    with pytest.raises(SegflowError, match=text):
        run(image, *CUT, *words, "merge-blocks", *target)
    assert list(tmp_path.iterdir()) == []


def test_what_is_cut_off_all_around_is_left_out(image: Chunk) -> None:
    (state,) = run(
        image, *CUT, "crop-margin", "--margin-size", 0, 2, 1, 0, 2, 1, "merge-blocks", "-o", "joined"
    )
    inner = image.bbox.grow((0, -2, -1))
    assert state["joined"].bbox == inner
    assert np.array_equal(state["joined"].array, image.cutout(inner).array)


def test_the_check_knows_what_stays(segflow, stack: Path) -> None:
    line = ("split", "-f", stack, "-o", "block", *SIZES)
    ended = segflow(*line, "merge-blocks", "-i", "block", "view", "-i", "block", code=2)
    assert "no chunk named 'block'" in ended.last
    assert "no chunk named 'chunk'; name the blocks' chunk" in segflow(*line, "merge-blocks", code=2).last
    assert "there are no blocks to join" in segflow("merge-blocks", code=2).last
    one = segflow(*line, "write-h5", "-i", "block", "-f", stack.parent / "one.h5", code=2)
    assert "one file for several tasks" in one.last
    segflow(*line, "merge-blocks", "-i", "block", "write-h5", "-f", stack.parent / "one.h5")
    assert peek_h5(str(stack.parent / "one.h5")).bounds.shape == SHAPE


def test_one_block(image: Chunk) -> None:
    (state,) = run(
        image, *["split", "-i", "chunk", "--block-size", "90", "90", "90", "merge-blocks", "-o", "joined"]
    )
    assert np.array_equal(state["joined"].array, image.array)
