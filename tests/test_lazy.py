"""Volumes opened without being read: every format, boxes against what the readers give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, VolumeError
from segflow.geometry import Box
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume
from segflow.volumes.hdf5 import read_h5, write_h5
from segflow.volumes.lazy import open_lazy
from segflow.volumes.npy import write_npy
from segflow.volumes.tif import read_tif, write_tif
from segflow.volumes.zarr import ZarrVolume

SHAPE = (6, 40, 33)
OFFSET = (5, -3, 7)
BOX = Box((6, 4, 8), (10, 30, 21))


def chunk_of(lead: tuple[int, ...] = (), dtype: str = "uint8") -> Chunk:
    array = np.random.default_rng(3).integers(0, 250, (*lead, *SHAPE)).astype(dtype)
    return Chunk(array, OFFSET, (30, 6, 5), None if lead else "image")


def same(chunk: Chunk, whole: Chunk, box: Box) -> None:
    wanted = whole.cutout(box)
    assert chunk.bbox == box
    assert chunk.dtype == wanted.dtype
    assert np.array_equal(chunk.array, wanted.array)
    assert chunk.source["bounds"] == whole.bbox
    assert chunk.source["mip"] == 0


@pytest.mark.parametrize("lead", [(), (3,), (1,)])
@pytest.mark.parametrize("compression", ["none", "zlib", "packbits"])
def test_tif(tmp_path: Path, lead: tuple[int, ...], compression: str) -> None:
    whole, path = chunk_of(lead, "uint16"), str(tmp_path / "a.tif")
    write_tif(path, whole, compression=compression)
    whole = read_tif(path)
    lazy = open_lazy(path)
    assert (lazy.info.bounds, lazy.info.voxel_size) == (whole.bbox, whole.voxel_size)
    chunk = lazy.read(BOX)
    same(chunk, whole, BOX)
    assert chunk.source["path"] == path
    same(lazy.read(), whole, whole.bbox)


@pytest.mark.parametrize(
    "how",
    [
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"compression": "zlib", "rowsperstrip": 1000},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib"},
        {"imagej": True},
        {"ome": True, "compression": "zlib", "rowsperstrip": 16},
    ],
)
def test_tifs_of_others(tmp_path: Path, how: dict[str, Any]) -> None:
    path = str(tmp_path / "a.tif")
    tifffile.imwrite(path, chunk_of(dtype="uint16").array, **how)
    whole, box = read_tif(path), Box((1, 6, 2), (5, 36, 30))
    same(open_lazy(path).read(box), whole, box)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}])
def test_colour_and_hyperstacks(tmp_path: Path, how: dict[str, Any]) -> None:
    path = str(tmp_path / "rgb.tif")
    stack = np.random.default_rng(1).integers(0, 255, (4, 20, 18, 3), np.uint8)
    stack = stack.transpose(0, 3, 1, 2).copy() if "planarconfig" in how else stack
    tifffile.imwrite(path, stack, photometric="rgb", **how)
    whole, box = read_tif(path), Box((1, 3, 2), (4, 17, 9))
    same(open_lazy(path).read(box), whole, box)
    path = str(tmp_path / "hyper.tif")
    tifffile.imwrite(path, chunk_of((2,)).array.swapaxes(0, 1).copy(), imagej=True)
    whole = read_tif(path)
    same(open_lazy(path).read(box), whole, box)


def test_only_what_the_box_touches_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.tif")
    tifffile.imwrite(path, chunk_of().array, compression="zlib", rowsperstrip=8)
    read: list[int] = []
    inner = tifffile.FileHandle.read_segments

    def spy(self: Any, offsets: Any, *args: Any, **options: Any) -> Any:
        read.append(len(offsets))
        return inner(self, offsets, *args, **options)

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", spy)
    open_lazy(path).read(Box((2, 9, 0), (4, 15, 33)))
    assert read == [1, 1]


def test_folder_of_tifs(tmp_path: Path) -> None:
    whole = chunk_of()
    for z, section in enumerate(whole.array):
        tifffile.imwrite(tmp_path / f"s{z + 7}.tif", section, compression="zlib" if z % 2 else None)
    wanted, box = read_tif(str(tmp_path)), Box((2, 4, 1), (6, 20, 30))
    same(open_lazy(str(tmp_path)).read(box), wanted, box)
    tifffile.imwrite(tmp_path / "s10.tif", whole.array[0, :-1])
    lazy = open_lazy(str(tmp_path))
    lazy.read(Box((0, 0, 0), (3, 4, 4)))
    with pytest.raises(VolumeError, match=r"s10\.tif is 1x39x33 uint8 and does not fit"):
        lazy.read(box)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_h5(tmp_path: Path, lead: tuple[int, ...]) -> None:
    whole, path = chunk_of(lead), str(tmp_path / "a.h5")
    write_h5(path, whole)
    same(open_lazy(path).read(BOX), whole, BOX)
    assert open_lazy(path + ":main").read(BOX).source["dataset"] == "/main"
    with pytest.raises(VolumeError, match="the data set mian is not there"):
        open_lazy(path, dataset="mian")


def test_h5_of_pytc(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    array = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    with h5py.File(path, "w") as file:
        file["vol0"] = array
        file["other"] = array[0]
    lazy = open_lazy(f"{path}:vol0", channel_order="zyx", voxel_size=(40, 4, 4), voxel_offset=OFFSET)
    wanted = read_h5(f"{path}:vol0", channel_order="zyx", voxel_size=(40, 4, 4), voxel_offset=OFFSET)
    chunk = lazy.read(BOX)
    same(chunk, wanted, BOX)
    assert (chunk.voxel_size, chunk.offsets) == (wanted.voxel_size, wanted.offsets)
    with pytest.raises(ChunkError, match="3 channels"):
        open_lazy(f"{path}:other", channel_order="zyx")


def test_npy(tmp_path: Path) -> None:
    whole = chunk_of((2,), "float32")
    write_npy(str(tmp_path / "a.npy"), whole)
    chunk = open_lazy(f"file://{tmp_path}/a.npy", voxel_offset=OFFSET).read(BOX)
    same(chunk, whole, BOX)
    np.save(tmp_path / "b.npy", whole.array[0].astype(">f4"))
    box = Box((0, 1, 2), (2, 30, 30))
    assert np.array_equal(open_lazy(str(tmp_path / "b.npy")).read(box).array, whole.array[0][box.slices()])


@pytest.mark.parametrize("lead", [(), (3,)])
def test_volumes(tmp_path: Path, lead: tuple[int, ...]) -> None:
    whole = chunk_of(lead)
    volume = open_volume(str(tmp_path / "pre"))
    make_volume(volume, whole, block_size=(4, 16, 16))
    volume.write(whole)
    zarr = ZarrVolume.create(
        str(tmp_path / "z" / "vol"), whole.bbox, "uint8", channels=whole.channels, voxel_size=(30, 6, 5),
        block_size=(4, 16, 16),
    )  # fmt: skip
    zarr.write(whole)
    for lazy in (
        open_lazy(str(tmp_path / "pre")),
        open_lazy(f"file://{tmp_path}/pre"),
        open_lazy(str(tmp_path / "z" / "vol")),
        open_lazy(str(tmp_path / "z"), dataset="vol"),
        open_lazy(f"zarr://{tmp_path}/z", dataset="vol"),
    ):
        same(lazy.read(BOX), whole, BOX)
    with pytest.raises(VolumeError, match="mip"):
        open_lazy(str(tmp_path / "pre"), mip=3)


def test_n5(tmp_path: Path) -> None:
    import tensorstore as ts

    array = chunk_of().array
    store = ts.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path}/a.n5/"},
         "metadata": {"dataType": "uint8", "dimensions": list(SHAPE[::-1]), "blockSize": [16, 16, 4],
                      "compression": {"type": "gzip"}}}, create=True,
    ).result()  # fmt: skip
    store[...] = array.T
    box = Box((1, 2, 3), (5, 30, 20))
    assert np.array_equal(open_lazy(str(tmp_path / "a.n5")).read(box).array, array[box.slices()])


def test_what_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tif").write_bytes(b"II*\0garbage")
    (tmp_path / "bad.h5").write_bytes(b"garbage")
    for name, text in (
        ("a.txt", "ends in no known way"), ("gone.tif", "does not exist"), ("empty", "holds no .tif"),
        ("bad.tif", "broken"), ("bad.h5", "broken"),
    ):  # fmt: skip
        with pytest.raises(VolumeError, match=text):
            open_lazy(str(tmp_path / name))
    write_h5(str(tmp_path / "a.h5"), chunk_of())
    with pytest.raises(VolumeError, match="has no mip 1"):
        open_lazy(str(tmp_path / "a.h5"), mip=1)
    for box in (Box((0, 0, 0), (1, 1, 1)), Box(OFFSET, OFFSET)):
        with pytest.raises(BoxError, match="is not inside"):
            open_lazy(str(tmp_path / "a.h5")).read(box)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Chunk]:
    path = str(tmp_path_factory.mktemp("lazy") / "a.tif")
    whole = chunk_of((2,), "float32")
    array = np.ascontiguousarray(whole.array)
    tifffile.imwrite(path, array, tile=(16, 16), compression="zlib", metadata={"axes": "CZYX"})
    return open_lazy(path), read_tif(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_box(stack: tuple[Any, Chunk], data: st.DataObject) -> None:
    lazy, whole = stack
    start = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, SHAPE)]
    box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
    same(lazy.read(box), whole, box)
