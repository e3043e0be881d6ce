"""Blocks joined: exact or blended, to files, volumes and along the chain; K_NeuronSeg's files; bad input."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.blocks.cut import Blocks, Held, read_block
from segflow.blocks.folder import open_blocks
from segflow.blocks.join import Joined
from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import read_h5, write_h5
from segflow.volumes.lazy import open_lazy
from segflow.volumes.tif import read_tif, write_tif

SHAPE, OFFSET, VOXEL = (7, 40, 33), (5, -3, 7), (30, 6, 5)
SIZES = ("--block-size", 4, 20, 16, "--overlap", 1, 4, 6)


def chunk_of(lead: tuple[int, ...] = (), dtype: str = "uint8", shape: Any = SHAPE) -> Chunk:
    array = np.random.default_rng(5).random((*lead, *shape))
    array = array.astype(dtype) if dtype[0] == "f" else (array * 255).astype(dtype)
    return Chunk(array, OFFSET, VOXEL, None if lead else "image")


def same(found: Chunk, wanted: Chunk) -> None:
    assert found.bbox == wanted.bbox
    assert found.dtype == wanted.dtype
    assert np.array_equal(found.array, wanted.array)
    assert (found.voxel_size, found.offsets) == (wanted.voxel_size, wanted.offsets)


@pytest.fixture
def cut(segflow, tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a chunk as block files into a folder."""

    def run(chunk: Chunk, *words: Any) -> Path:
        write_h5(str(tmp_path / "whole.h5"), chunk)
        segflow("split", "-f", tmp_path / "whole.h5", *(words or SIZES), "--output-dir", tmp_path / "blocks")
        return tmp_path / "blocks"

    return run


# -- the law ------------------------------------------------------------------------------------

axis = st.tuples(st.integers(1, 14), st.integers(1, 8), st.integers(0, 7)).filter(lambda t: t[2] < t[1])
kinds = st.sampled_from(
    [((), "uint8"), ((3,), "float32"), ((2,), "uint16"), ((1,), "float64"), ((), "int64")]
)


@settings(max_examples=150, deadline=None)
@given(st.tuples(axis, axis, axis), st.sampled_from(["shorter", "shift", "pad"]), kinds, st.data())
def test_split_then_merge_is_the_identity(axes: Any, edge: str, kind: Any, data: st.DataObject) -> None:
    shape, sizes, overlaps = zip(*axes)
    whole = chunk_of(*kind, shape=shape)
    held = Held(whole)
    blocks = Blocks.over(whole.bbox, sizes, overlaps, edge)
    pieces = {i: Held(read_block(held, box)) for i, box in enumerate(blocks)}
    joined = Joined(blocks, pieces)
    same(joined.read(), whole)
    start = [data.draw(st.integers(0, n - 1)) for n in shape]
    size = [data.draw(st.integers(1, n - a)) for a, n in zip(start, shape)]
    box = Box.of([a + o for a, o in zip(start, OFFSET)], size)
    same(joined.read(box), whole.cutout(box))
    blended = Joined(blocks, pieces, blend=True).read()
    assert blended.dtype == whole.dtype
    assert np.allclose(blended.array, whole.array, rtol=1e-6, atol=1e-12)


# -- files and volumes --------------------------------------------------------------------------


@pytest.mark.parametrize(("lead", "dtype"), [((), "uint8"), ((3,), "float32"), ((2,), "uint8")])
@pytest.mark.parametrize("blend", [(), ("--blend",)])
def test_into_files_and_volumes(segflow, tmp_path: Path, cut, lead: Any, dtype: str, blend: Any) -> None:
    whole = chunk_of(lead, dtype)
    line = ("merge-blocks", "--input-dir", cut(whole), *blend)
    check: Any = same
    if blend and dtype[0] == "f":

        def check(found: Chunk, wanted: Chunk) -> None:
            assert np.abs(found.array - wanted.array).max() < 1e-6
            same(found.with_array(wanted.array, layer_type=found.layer_type, offsets=found.offsets), wanted)

    for name in ("a.h5", "a.tif"):
        segflow(*line, "-f", tmp_path / name)
        check(open_lazy(str(tmp_path / name)).read(), whole)
    for address in (tmp_path / "pre", f"zarr://{tmp_path}/b.zarr"):
        segflow(*line, "-v", address, "--dtype", dtype, "--volume-block-size", 3, 16, 16)
        check(open_lazy(str(address)).read(), whole)
    segflow(*line, "-f", tmp_path / "a.zarr", "--dtype", dtype)
    check(open_lazy(str(tmp_path / "a.zarr")).read(), whole)
    segflow(*line, "-o", "j", "write-h5", "-i", "j", "-f", tmp_path / "chain.h5")
    check(read_h5(str(tmp_path / "chain.h5")), whole)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_float_maps_become_uint8_in_volumes(segflow, tmp_path: Path, cut) -> None:
    whole = chunk_of((3,), "float32")
    segflow("merge-blocks", "--input-dir", cut(whole), "-v", tmp_path / "pre")
    found = open_lazy(str(tmp_path / "pre")).read()
    assert np.array_equal(found.array, np.rint(whole.array * np.float32(255)).astype(np.uint8))
    assert found.offsets == whole.offsets


def test_into_a_volume_whose_blocks_fit_nothing(segflow, tmp_path: Path, cut) -> None:
    whole = chunk_of()
    folder = cut(whole)
    large = Chunk(np.full((17, 60, 50), 9, np.uint8), (0, -9, 0), VOXEL, "image")
    volume = open_volume(str(tmp_path / "large"))
    make_volume(volume, large, block_size=(5, 13, 11))
    volume.write(large)
    segflow("merge-blocks", "--input-dir", folder, "-v", tmp_path / "large")
    wanted = large.array.copy()
    wanted[whole.bbox.slices(large.voxel_offset)] = whole.array
    assert np.array_equal(volume.read().array, wanted)
    small = open_volume(str(tmp_path / "small"))
    make_volume(small, whole.cutout(Box((5, -3, 7), (12, 30, 40))))
    ended = segflow("merge-blocks", "--input-dir", folder, "-v", tmp_path / "small", code=1)
    assert "holds 5-12_-3-30_7-40, and 5-12_-3-37_7-40 is to be written" in ended.last
    two = open_volume(str(tmp_path / "two"))
    make_volume(two, chunk_of((2,)))
    ended = segflow("merge-blocks", "--input-dir", folder, "-v", tmp_path / "two", code=1)
    assert "2 channel(s)" in ended.last


@pytest.mark.parametrize("edge", ["shorter", "shift", "pad"])
def test_edges_and_tifs(segflow, tmp_path: Path, cut, edge: str) -> None:
    whole = chunk_of()
    folder = cut(whole, *SIZES, "--edge", edge, "--format", "tif", "--roi", "6-12_0-37_7-40")
    segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.h5")
    same(read_h5(str(tmp_path / "a.h5")), whole.cutout(Box((6, 0, 7), (12, 37, 40))))


def test_rewritten_blocks(segflow, tmp_path: Path, cut) -> None:
    whole = chunk_of()
    folder = cut(whole)
    for path in folder.glob("*.h5"):  # by a network that keeps nothing but the array
        array = read_h5(str(path)).array
        with h5py.File(path, "w") as file:
            file["main"] = np.stack([array / 255, 1 - array / 255]).astype(np.float32)
    segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.h5")
    found = read_h5(str(tmp_path / "a.h5"))
    assert np.array_equal(found.array[0], (whole.array / 255).astype(np.float32))
    assert (found.bbox, found.voxel_size, found.dtype) == (whole.bbox, VOXEL, np.float32)


def test_empty_blocks_are_zeros(segflow, tmp_path: Path, cut) -> None:
    array = chunk_of().array.copy()
    array[:, :20, :16] = 0
    whole = chunk_of().with_array(array)
    folder = cut(whole, *SIZES, "--empty-threshold", 0)
    assert not (folder / "chunk_z00_y00_x00.h5").exists()
    segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.tif")
    same(read_tif(str(tmp_path / "a.tif")), whole)


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    from segflow.volumes.copy import copy_to_file, copy_to_volume

    blocks = Blocks.over(Box.of((0, 0, 0), (64, 512, 512)), (32, 160, 160), (4, 16, 16))

    class Piece:
        def __init__(self, box: Box) -> None:
            self.info = Held(Chunk(np.broadcast_to(np.uint8(0), box.shape), box.start)).info

        def read(self, box: Box) -> Chunk:
            return Chunk(np.full(box.shape, 7, np.uint8), box.start)

    pieces = {i: Piece(box) for i, box in enumerate(blocks)}
    for blend in (False, True):
        joined = Joined(blocks, pieces, blend=blend)
        for write in (
            lambda j: copy_to_file(j, str(tmp_path / "a.h5")),
            lambda j: copy_to_file(j, str(tmp_path / "a.tif")),
            lambda j: copy_to_volume(j, str(tmp_path / "a")),
        ):
            tracemalloc.start()
            write(joined)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < (40 if blend else 12) * 2**20  # the volume is 16 MiB, a block 0.8, float64 6.5
    assert read_h5(str(tmp_path / "a.h5")).array.min() == 7


# -- files of others ----------------------------------------------------------------------------


def write_theirs(folder: Path, whole: np.ndarray, size: int, overlap: int, **attributes: Any) -> None:
    """Write K_NeuronSeg's block files: czyx in vol0, each beginning where the one before ends less the overlap."""
    folder.mkdir()
    begins = []
    for length in whole.shape[1:]:
        found = [0]
        while found[-1] + size < length:
            found.append(found[-1] + size - overlap)
        begins.append(found)
    for z, a in enumerate(begins[0]):
        for y, b in enumerate(begins[1]):
            for x, c in enumerate(begins[2]):
                with h5py.File(folder / f"chunk_z{z:02d}_y{y:02d}_x{x:02d}.h5", "w") as file:
                    file["vol0"] = whole[:, a : a + size, b : b + size, c : c + size]


def test_files_without_manifest(segflow, tmp_path: Path) -> None:
    whole = np.random.default_rng(1).random((3, 20, 30, 41), np.float32)
    whole[:, :2] = 0  # a border of zeros stays
    write_theirs(tmp_path / "theirs", whole, 16, 5)
    line = ("merge-blocks", "--input-dir", tmp_path / "theirs", "-f", tmp_path / "a.h5")
    segflow(*line, "--overlap", 5, 5, 5, "--voxel-size", *VOXEL, "--voxel-offset", *OFFSET)
    found = read_h5(str(tmp_path / "a.h5"))
    assert np.array_equal(found.array, whole[::-1])
    assert (found.bbox.start, found.voxel_size, found.layer_type) == (OFFSET, VOXEL, "affinity_map")
    segflow(*line, "--overlap", 5, 5, 5, "--block-size", 16, 16, 16, "--channel-order", "xyz")
    assert np.array_equal(read_h5(str(tmp_path / "a.h5")).array, whole)
    assert "give --overlap" in segflow(*line, code=2).last
    ended = segflow(*line, "--overlap", 5, 5, 5, "--block-size", 16, 16, 12, code=2)
    assert "are 16 voxels in x, not 12" in ended.last
    (tmp_path / "theirs" / "chunk_z01_y01_x02.h5").unlink()
    ended = segflow(*line, "--overlap", 5, 5, 5, code=2)
    assert "1 of 24 blocks are missing" in ended.last
    assert "z01_y01_x02" in ended.last
    segflow(*line, "--overlap", 5, 5, 5, "--fill-missing")
    assert not read_h5(str(tmp_path / "a.h5")).array[:, 13:, 13:24, 24:35].any()


def test_files_that_tell_their_places_need_no_overlap(segflow, tmp_path: Path, cut) -> None:
    whole = chunk_of()
    folder = cut(whole)
    (folder / "manifest.json").unlink()
    segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.h5")
    same(read_h5(str(tmp_path / "a.h5")), whole)


def test_tif_blocks_of_others(segflow, tmp_path: Path) -> None:
    whole = chunk_of(shape=(12, 30, 30))
    folder = tmp_path / "theirs"
    folder.mkdir()
    blocks = Blocks.over(Box.of((0, 0, 0), whole.shape), (8, 16, 16), (2, 4, 4))
    for index, box in enumerate(blocks):
        block = Chunk(whole.array[box.slices()])
        write_tif(str(folder / f"chunk_{blocks.name(index)}.tif"), block)
    segflow("merge-blocks", "--input-dir", folder, "--overlap", 2, 4, 4, "-f", tmp_path / "a.tif")
    assert np.array_equal(read_tif(str(tmp_path / "a.tif")).array, whole.array)


# -- bad input ----------------------------------------------------------------------------------


def rewrite(path: Path, **changes: Any) -> None:
    chunk = read_h5(str(path))
    array = changes.pop("array", lambda a: a)(chunk.array)
    values = {
        "voxel_offset": chunk.voxel_offset,
        "voxel_size": chunk.voxel_size,
        "layer_type": "image",
        **changes,
    }
    write_h5(str(path), Chunk(array, **values))


def test_blocks_that_do_not_fit(segflow, tmp_path: Path, cut) -> None:
    folder = cut(chunk_of())
    block = folder / "chunk_z01_y00_x02.h5"
    kept = block.read_bytes()

    def fails(*texts: str, line: Any = ()) -> None:
        ended = segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "out.h5", *line, code=2)
        assert ended.last.startswith("segflow merge-blocks: ")
        assert len(ended.err.strip().splitlines()) == 1
        for text in texts:
            assert text in ended.last
        assert not (tmp_path / "out.h5").exists()
        block.write_bytes(kept)

    block.unlink()
    fails("1 of 18 blocks are missing", "z01_y00_x02", "--fill-missing")
    twin = folder / "chunk_z1_y0_x2.tif"
    write_tif(str(twin), read_h5(str(block)))
    fails("chunk_z01_y00_x02.h5", "chunk_z1_y0_x2.tif", "are the same block")
    twin.unlink()
    rewrite(block, array=lambda a: a[:, :-1])
    rewrite(block, voxel_offset=(0, 0, 0))
    fails("chunk_z01_y00_x02.h5 holds", "and its block of the grid is 8-12_-3-17_27-40")
    rewrite(block, voxel_offset=(6, -3, 27))
    fails("chunk_z01_y00_x02.h5 holds 6-10")
    rewrite(block, voxel_size=(30, 6, 6))
    fails("chunk_z01_y00_x02.h5 has voxels of 30 6 6 nm", "says 30 6 5")
    rewrite(block, array=lambda a: a.astype(np.float32))
    fails("differ in dtype", "chunk_z00_y00_x00.h5 has uint8", "chunk_z01_y00_x02.h5 has float32")
    rewrite(block, array=lambda a: np.stack([a, a]), layer_type="probability_map")
    fails("differ in channels", "chunk_z01_y00_x02.h5 has 2")
    block.write_bytes(kept[:700])
    fails("chunk_z01_y00_x02.h5", "broken")
    (folder / "chunk_z02_y00_x00.h5").write_bytes(kept)
    fails("chunk_z02_y00_x00.h5 is outside the grid of 2 3 3 blocks")
    (folder / "chunk_z02_y00_x00.h5").unlink()
    fails("the manifest of", "tells --block-size", line=("--overlap", 1, 1, 1))
    fails("no_such", line=("-d", "no_such"))


def test_manifests_that_do_not_match(segflow, tmp_path: Path, cut) -> None:
    folder = cut(chunk_of())
    path = folder / "manifest.json"
    kept = json.loads(path.read_text())

    def fails(text: str, **changes: Any) -> None:
        path.write_text(json.dumps({**kept, **changes}))
        ended = segflow("merge-blocks", "--input-dir", folder, "-f", tmp_path / "out.h5", code=2)
        assert text in ended.last
        assert len(ended.err.strip().splitlines()) == 1

    fails("lists 17 blocks, and its grid has 18", blocks=kept["blocks"][1:])
    fails("where its grid has", blocks=[kept["blocks"][1], *kept["blocks"][1:]])
    fails("no manifest of segflow's split", format="other")
    fails("contradicts itself", overlap=[1, 40, 6])
    fails("its block of the grid is", **shifted(kept))
    path.write_text('{"format"')
    assert "manifest.json is broken" in segflow("merge-blocks", "--input-dir", folder, code=2).last


def shifted(kept: Any) -> dict[str, Any]:
    """Give a manifest's grid of smaller blocks over the same files."""
    blocks = Blocks.over(Box.of(OFFSET, (7, 40, 33)), (4, 18, 16), (1, 2, 6))
    assert len(blocks) == len(kept["blocks"])
    made = [{**e, "box": str(b)} for e, b in zip(kept["blocks"], blocks)]
    return {"grid": {**kept["grid"], "size": [4, 18, 16]}, "overlap": [1, 2, 6], "blocks": made}


def test_other_bad_input(segflow, tmp_path: Path, cut) -> None:
    folder = cut(chunk_of(dtype="uint32"))
    line = ("merge-blocks", "--input-dir")
    for words, text in (
        ((tmp_path / "gone",), "does not exist"), ((tmp_path,), "holds no block files"),
        ((folder, "-f", "a.h5", "-v", "a"), "not both"), ((folder, "-f", "a.png"), "ends in no known way"),
        ((folder, "-f", "/nowhere/a.h5"), "does not exist"),
    ):  # fmt: skip
        assert text in segflow(*line, *words, code=2).last
    for path in folder.glob("*.h5"):
        chunk = read_h5(str(path))
        write_h5(str(path), chunk.with_array(chunk.array, layer_type="segmentation"))
    assert "whose ids begin anew in each" in segflow(*line, folder, "-f", tmp_path / "a.h5", code=2).last
    segflow(*line, folder, "-f", tmp_path / "a.h5", "--layer-type", "image")
    same(read_h5(str(tmp_path / "a.h5")), chunk_of(dtype="uint32"))


def test_nothing_half_written(segflow, tmp_path: Path, cut) -> None:
    folder = cut(chunk_of((3,), "float32"))
    block = folder / "chunk_z01_y02_x02.h5"
    with h5py.File(block, "r+") as file:
        file["main"][:] = 3.0
    (tmp_path / "a.h5").write_text("old")
    ended = segflow(
        "merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.h5", "--dtype", "uint8", code=1
    )
    assert "not in [0, 1]" in ended.last
    assert (tmp_path / "a.h5").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "blocks", "whole.h5"]


def test_labels_are_not_blended() -> None:
    labels = Chunk(np.ones((4, 4, 4), np.uint32))
    with pytest.raises(ChunkError, match="cannot be blended"):
        Joined(Blocks.over(labels.bbox, (4, 4, 4)), {0: Held(labels)}, blend=True)
    with pytest.raises(ChunkError, match="no block"):
        Joined(Blocks.over(labels.bbox, (4, 4, 4)), {})
    with pytest.raises(VolumeError, match="does not exist"):
        open_blocks("nowhere")


# -- the chain ----------------------------------------------------------------------------------

NETWORK = "inference --model affinity-snemi3d --dtype float32 --patch-size 4 16 16 --patch-overlap 1 4 4 "
NETWORK += "--patch-grid volume -i image -o affs"
PROOF = [  # half the overlap is a patch less one voxel, or the axis is not cut
    ("--block-size", 10, 48, 48, "--overlap", 0, 30, 30),
    ("--block-size", 8, 48, 40, "--overlap", 6, 0, 30),
    ("--block-size", 10, 40, 64, "--overlap", 0, 32, 0),
]


@pytest.fixture(scope="module")
def em(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import DATA

    place = tmp_path_factory.mktemp("em") / "em.tif"
    write_tif(
        str(place), Chunk(read_tif(str(DATA / "ac4_image.tif")).array[:10, :48, :64], OFFSET, (30, 6, 6))
    )
    return place


def test_inference_in_blocks_is_that_of_the_whole(segflow, tmp_path: Path, em: Path) -> None:
    segflow(
        "read-tif",
        "-f",
        em,
        "-o",
        "image",
        *NETWORK.split(),
        "write-h5",
        "-i",
        "affs",
        "-f",
        tmp_path / "one.h5",
    )
    one = read_h5(str(tmp_path / "one.h5"))
    assert one.bbox == Box.of(OFFSET, (10, 48, 64))
    for number, sizes in enumerate(PROOF):
        source = ("read-tif", "-f", em, "-o", "image", "split", "-i", "image") if number == 1 else (
            "split", "-f", em, "-o", "image")  # fmt: skip
        target = (
            ("-f", tmp_path / "blocks.h5")
            if number
            else ("-o", "j", "write-h5", "-i", "j", "-f", tmp_path / "blocks.h5")
        )
        segflow(*source, *sizes, *NETWORK.split(), "merge-blocks", "-i", "affs", *target)
        found = read_h5(str(tmp_path / "blocks.h5"))
        assert (found.bbox, found.offsets, found.voxel_size) == (one.bbox, one.offsets, one.voxel_size)
        assert np.abs(found.array - one.array).max() <= 1e-6
    ended = segflow(
        "split", "-f", em, "-o", "image", "--block-size", 10, 48, 48, "--overlap", 0, 8, 8, *NETWORK.split(),
        "merge-blocks", "-i", "affs", "-f", tmp_path / "small.h5", code=1,
    )  # fmt: skip
    assert "give split a larger --overlap" in ended.last
    assert not (tmp_path / "small.h5").exists()


def test_blocks_of_inference_as_files(segflow, tmp_path: Path, em: Path) -> None:
    identity = (
        "inference -f identity --patch-size 4 8 8 --patch-overlap 1 2 2 --patch-grid volume -i image -o image"
    )
    sizes = ("--block-size", 10, 40, 40, "--overlap", 0, 16, 16, "--output-dir", tmp_path / "blocks")
    segflow("split", "-f", em, "-o", "image", *sizes)
    for path in sorted((tmp_path / "blocks").glob("*.h5")):
        segflow("split", "-f", em, "-o", "image", "--roi", str(read_h5(str(path)).bbox), "--block-size", 10, 40, 40,
                *identity.split(), "write-h5", "-i", "image", "-f", f"{tmp_path}/blocks/t{{bbox}}.h5")  # fmt: skip
        (made,) = (tmp_path / "blocks").glob("t*.h5")
        made.rename(path)
    segflow("merge-blocks", "--input-dir", tmp_path / "blocks", "-f", tmp_path / "a.h5")
    found, whole = read_h5(str(tmp_path / "a.h5")), read_tif(str(em))
    assert found.bbox == whole.bbox
    assert np.allclose(found.array, whole.array / 255, atol=1e-6)


def test_the_whole_line(segflow, tmp_path: Path, em: Path) -> None:
    segflow(
        "read-tif", "-f", em, "-o", "image",
        "split", "-i", "image", "--block-size", 10, 48, 48, "--overlap", 0, 0, 32,
        "inference", "--model", "affinity-snemi3d", "-i", "image", "-o", "affs", "--patch-size", 10, 48, 48,
        "--patch-overlap", 0, 0, 0, "--mask-output-chunk",
        "agglomerate", "-i", "affs", "-o", "seg", "merge-blocks", "-i", "seg", "-o", "seg",
        "write-precomputed", "-i", "seg", "-v", tmp_path / "seg", "downsample", "-v", tmp_path / "seg",
    )  # fmt: skip
    volume = open_volume(str(tmp_path / "seg"))
    labels = volume.read()
    assert labels.bbox == Box.of(OFFSET, (10, 48, 64))
    assert labels.layer_type == "segmentation"
    ids = np.unique(labels.array[labels.array > 0])
    across = np.intersect1d(labels.array[..., :30], labels.array[..., 34:])
    assert len(ids) > 5
    assert len(across[across > 0]) > 1  # objects go through the cut
    assert volume.info(1).mips > 1


def test_what_blocks_do_not_say(segflow, tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 999, (4, 20, 20)).astype(np.uint16)
    np.save(tmp_path / "a.npy", array)
    line = (
        "split",
        "-f",
        tmp_path / "a.npy",
        "--block-size",
        4,
        12,
        12,
        "--overlap",
        0,
        4,
        4,
        "merge-blocks",
    )
    segflow(*line, "-v", tmp_path / "pre", "--layer-type", "image", "--voxel-size", *VOXEL)
    found = open_lazy(str(tmp_path / "pre")).read()
    assert np.array_equal(found.array, array)
    assert (found.voxel_size, found.layer_type) == (VOXEL, "image")
    segflow(*line, "--layer-type", "segmentation", "-f", tmp_path / "a.h5", "--dtype", "uint32")
    found = read_h5(str(tmp_path / "a.h5"))
    assert (found.dtype, found.layer_type) == (np.uint32, "segmentation")


def test_places_of_files_and_a_told_overlap_must_agree(segflow, tmp_path: Path, cut) -> None:
    whole = chunk_of()
    folder = cut(whole)
    (folder / "manifest.json").unlink()
    line = ("merge-blocks", "--input-dir", folder, "-f", tmp_path / "a.h5")
    segflow(*line, "--overlap", 1, 4, 6)
    same(read_h5(str(tmp_path / "a.h5")), whole)
    assert "and its block of the grid is" in segflow(*line, "--overlap", 1, 6, 6, code=2).last
    rewrite(folder / "chunk_z00_y01_x00.h5", voxel_size=(1, 1, 1))
    assert "differ in voxel size" in segflow(*line, code=2).last
