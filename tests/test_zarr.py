"""Zarr and n5 volumes: the contract of every volume, other readers, levels, places, several writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr as reference

from segflow.chunk import Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.testing.volumes import VolumeContract
from segflow.volumes import open_volume
from segflow.volumes.zarr import COMPRESSIONS, ZarrVolume

BOX = Box((2, 0, 5), (9, 20, 38))


class TestZarr3(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype, block_size=(4, 8, 16)
        )


class TestZarr2(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            f"zarr://file://{place}/a.zarr", Box.of(voxel_offset, shape), dtype,
            version=2, block_size=(4, 8, 16),
        )  # fmt: skip


class TestSharded(VolumeContract):
    dtype = "uint64"
    layer_type = "segmentation"

    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype,
            block_size=(2, 8, 8), shard_size=(4, 16, 16), layer_type="segmentation",
        )  # fmt: skip


class TestPlainReversed(VolumeContract):
    def create(self, place, shape, dtype, voxel_offset):
        return ZarrVolume.create(
            str(place / "a.zarr"), Box.of(voxel_offset, shape), dtype, ome=False, order="xyz", version=2
        )


@pytest.fixture
def image(data):
    """Give a real image with a place."""
    array = tifffile.imread(data / "ac4_image.tif")[:, :100, :90]
    return Chunk(array, (4, 10, 20), (30, 6, 6))


def random_map(shape=(3, 7, 20, 33)):
    """Give affinities at a place."""
    array = np.random.default_rng(0).random(shape, np.float32)
    return Chunk(array, BOX.start, (30, 6, 6), "affinity_map")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_zarr_python_reads_what_is_written(tmp_path, image, version, compression):
    path = str(tmp_path / "a.zarr")
    words = ("--zarr-version", str(version), "--compression", compression, "--block-size", "8", "32", "32")
    run_chain("write-zarr", "-f", path, *words, chunk=image)
    group = reference.open_group(path, mode="r")
    np.testing.assert_array_equal(group["0"][:], image.array)
    assert group["0"].chunks == (8, 32, 32)
    assert group.metadata.zarr_format == version
    found = run_chain("read-zarr", "-f", path)["chunk"]
    assert (found.bbox, found.voxel_size, found.layer_type) == (image.bbox, (30, 6, 6), "image")
    np.testing.assert_array_equal(found.array, image.array)


def test_ome_metadata(tmp_path, image):
    for version, key in ((2, "0.4"), (3, "0.5")):
        path = str(tmp_path / f"{version}.zarr")
        run_chain("write-zarr", "-f", path, "--zarr-version", str(version), chunk=image)
        volume = ZarrVolume(path)
        volume.add_mips(3, (1, 2, 2))
        about = reference.open_group(path, mode="r").attrs.asdict()
        scales = (about["ome"] if version == 3 else about)["multiscales"][0]
        assert (about["ome"] if version == 3 else scales)["version"] == key
        assert [a["name"] for a in scales["axes"]] == ["z", "y", "x"]
        assert {a["unit"] for a in scales["axes"]} == {"nanometer"}
        places = [[t[t["type"]] for t in d["coordinateTransformations"]] for d in scales["datasets"]]
        # OME counts from voxel centres: a level coarser by 2 begins half a fine voxel further on
        assert places == [
            [[30, 6, 6], [120, 60, 120]], [[30, 12, 12], [120, 63, 123]], [[30, 24, 24], [120, 57, 129]],
        ]  # fmt: skip
        assert [volume.info(m).bounds.start for m in range(3)] == [(4, 10, 20), (4, 5, 10), (4, 2, 5)]
        assert volume.ratio(0, 2) == ((1, 1, 1), (1, 4, 4))
        assert volume.info(2).voxel_size == (30, 24, 24)
        with pytest.raises(VolumeError, match="no mip 3"):
            volume.info(3)


def test_ome_of_other_programs(tmp_path):
    """Micrometres, five axes, two transformations, no attributes of ours."""
    group = reference.create_group(tmp_path / "a.zarr", zarr_format=2)
    array = np.arange(2 * 4 * 6 * 8, dtype=">u2").reshape(1, 2, 4, 6, 8)
    made = group.create_array("s0", shape=array.shape, dtype="<u2", chunks=(1, 1, 4, 6, 8))
    made[:] = array
    group.attrs["multiscales"] = [{
        "version": "0.4",
        "axes": [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"},
                 *({"name": a, "type": "space", "unit": "micrometer"} for a in "zyx")],
        "datasets": [{"path": "s0", "coordinateTransformations": [
            {"type": "scale", "scale": [1, 1, 3, 0.6, 0.6]},
            {"type": "translation", "translation": [0, 0, 3, 0, 1.2]}]}],
        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 0.01, 0.01, 0.01]}],
    }]  # fmt: skip
    chunk = ZarrVolume(str(tmp_path / "a.zarr")).read()
    np.testing.assert_array_equal(chunk.array, array[0])
    assert chunk.voxel_offset == (1, 0, 2)
    assert chunk.voxel_size == pytest.approx((30, 6, 6))


def test_plain_arrays_of_other_programs(tmp_path):
    array = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.uint64)
    made = reference.create_array(tmp_path / "funlib.zarr", data=array, zarr_format=2)
    made.attrs["resolution"], made.attrs["offset"] = [40, 4, 4], [400, 8, 0]
    chunk = ZarrVolume(str(tmp_path / "funlib.zarr")).read()
    np.testing.assert_array_equal(chunk.array, array)
    assert (chunk.voxel_size, chunk.voxel_offset) == ((40, 4, 4), (10, 2, 0))
    assert chunk.is_segmentation
    reference.create_array(tmp_path / "xyz.zarr", data=array.T, dimension_names=["x", "y", "z"])
    np.testing.assert_array_equal(ZarrVolume(str(tmp_path / "xyz.zarr")).read().array, array)
    group = reference.create_group(tmp_path / "group.zarr")
    group.create_array("raw", data=array)
    path = str(tmp_path / "group.zarr")
    np.testing.assert_array_equal(run_chain("read-zarr", "-f", path, "--path", "raw")["chunk"].array, array)
    with pytest.raises(UsageError, match="of raw to the path"):
        run_chain("read-zarr", "-f", path)


def test_sharded_is_read_by_others(tmp_path, image):
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "-f", path, "--block-size", "4", "16", "16", "--shard-size", "8", "64", "64",
              chunk=image)  # fmt: skip
    array = reference.open_group(path, mode="r")["0"]
    assert (array.shards, array.chunks) == ((8, 64, 64), (4, 16, 16))
    np.testing.assert_array_equal(array[:], image.array)
    assert len([p for p in (Path(path) / "0" / "c").rglob("*") if p.is_file()]) == 3 * 2 * 2
    with pytest.raises(UsageError, match="multiples"):
        ZarrVolume.create(path + "2", BOX, "uint8", block_size=(4, 4, 4), shard_size=(6, 4, 4))
    with pytest.raises(UsageError, match="version 3"):
        ZarrVolume.create(path + "2", BOX, "uint8", block_size=(4, 4, 4), shard_size=(8, 4, 4), version=2)


def test_affinities_are_stored_as_bytes(tmp_path):
    affinities = random_map()
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "-f", path, chunk=affinities)
    found = ZarrVolume(path).read()
    np.testing.assert_array_equal(found.array, np.rint(affinities.array * 255))
    assert (found.layer_type, found.offsets) == ("affinity_map", affinities.offsets)
    run_chain("write-zarr", "-f", path + "2", "--infer-dtype", chunk=affinities)
    np.testing.assert_array_equal(ZarrVolume(path + "2").read().array, affinities.array)
    run_chain("write-zarr", "-f", path + "3", "--dtype", "float16", chunk=affinities)
    assert ZarrVolume(path + "3").info().dtype == "float16"


def test_options_of_a_new_volume(tmp_path, image):
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "--store", path, "--plain", "--order", "xyz", "--shape", "30", "200", "150",
              "--volume-offset", "0", "10", "20", "--resolution", "8", "8", "9", "--layer-type",
              "segmentation", "--chunk-size", "16", "16", "8", chunk=image)  # fmt: skip
    array = reference.open_array(path, mode="r")
    assert (array.shape, array.chunks) == ((150, 200, 30), (8, 16, 16))
    assert array.metadata.dimension_names == ("x", "y", "z")
    info = ZarrVolume(path).info()
    assert (info.bounds, info.voxel_size) == (Box.of((0, 10, 20), (30, 200, 150)), (8, 8, 9))
    assert info.layer_type == "segmentation"
    np.testing.assert_array_equal(ZarrVolume(path).read(image.bbox).array, image.array)
    with pytest.raises(VolumeError, match="plain array"):
        ZarrVolume(path).add_mips(2)
    with pytest.raises(UsageError, match="--plain"):
        ZarrVolume.create(path + "2", BOX, "uint8", order="xyz")


def test_unknown_voxel_size_stays_unknown(tmp_path):
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "-f", path, chunk=Chunk(np.ones((3, 4, 5), np.uint8), (1, 2, 3)))
    found = ZarrVolume(path).read()
    assert (found.voxel_size, found.voxel_offset) == (None, (1, 2, 3))
    ZarrVolume(path).add_mips(2)
    assert ZarrVolume(path).info(1).voxel_size is None
    assert ZarrVolume(path).ratio(0, 1) == ((1, 1, 1), (2, 2, 2))


def test_read_options(tmp_path, image, segflow):
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "-f", path, chunk=image)
    part = run_chain("read-zarr", "-v", f"zarr://{path}", "--start", "5", "11", "21", "--size", "2", "3", "4",
                     "--voxel-size", "1", "2", "3", "--dtype", "uint16")["chunk"]  # fmt: skip
    np.testing.assert_array_equal(part.array, image.cutout(Box.of((5, 11, 21), (2, 3, 4))).array)
    assert (part.dtype, part.voxel_size) == (np.uint16, (1, 2, 3))
    assert "2x3x4" in segflow("--dry-run", "read-zarr", "-f", path, "--chunk-start", 5, 11, 21,
                              "--chunk-size", 2, 3, 4).out  # fmt: skip
    assert "outside" in segflow("read-zarr", "-f", path, "--start", 99, 0, 0, "--size", 1, 1, 1, code=2).last
    assert "no mip 1" in segflow("read-zarr", "-f", path, "--mip", 1, code=2).last
    result = segflow("read-zarr", "-f", str(tmp_path / "b.zarr"), code=2)
    assert "did you mean 'a.zarr'" in result.last
    (tmp_path / "empty").mkdir()
    assert "no zarr volume" in segflow("read-zarr", "-f", tmp_path / "empty", code=2).last
    (Path(path) / "0" / "c" / "0" / "0" / "0").unlink()
    assert not run_chain("read-zarr", "-f", path)["chunk"].array[0, 0, 0]
    assert "is missing" in segflow("read-zarr", "-f", path, "--no-fill-missing", code=1).last
    (Path(path) / "0" / "zarr.json").write_text("{")
    assert "not JSON" in segflow("read-zarr", "-f", path, code=2).last


def test_another_volume_is_not_overwritten(tmp_path):
    path = str(tmp_path / "a.zarr")
    make = {"voxel_size": (30, 6, 6), "block_size": (4, 8, 8)}
    first = ZarrVolume.create(path, BOX, "uint8", **make)
    assert ZarrVolume.create(path, BOX, "uint8", **make).info() == first.info()
    with pytest.raises(VolumeError, match="data_type"):
        ZarrVolume.create(path, BOX, "uint16", **make)
    with pytest.raises(VolumeError, match="already"):
        ZarrVolume.create(path, BOX.shift((1, 0, 0)), "uint8", **make)
    with pytest.raises(ChunkError, match="channel"):
        first.write(random_map())


def test_tasks_need_the_size_of_the_volume(tmp_path):
    from segflow.operators.write_zarr import write_zarr
    from segflow.state import State

    state, chunk = State(), Chunk(np.ones((2, 3, 4), np.uint8))
    state.bbox, state.count = chunk.bbox, 2
    with pytest.raises(UsageError, match="--shape"):
        write_zarr(chunk, path=str(tmp_path / "a.zarr"), state=state)
    write_zarr(chunk, path=str(tmp_path / "a.zarr"), shape=(4, 3, 4), state=state)
    assert ZarrVolume(str(tmp_path / "a.zarr")).info().bounds.shape == (4, 3, 4)
    state.bbox, state.resumed = Box.of((0, 0, 0), (1, 3, 4)), True
    write_zarr(None, path=str(tmp_path / "a.zarr"), state=state)
    assert ZarrVolume(str(tmp_path / "a.zarr")).read().array[:, 0, 0].tolist() == [0, 1, 0, 0]


WRITER = """
import sys
import numpy as np
from segflow.chunk import Chunk
from segflow.geometry import Box
from segflow.volumes.zarr import ZarrVolume
path, part, version = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
shards = (8, 32, 32) if version == 3 else None
volume = ZarrVolume.create(path, Box.of((0, 0, 0), (8, 32, 32)), "uint32", block_size=(8, 16, 16),
                           shard_size=shards, version=version, layer_type="segmentation")
for y in range(part, 32, 4):
    volume.write(Chunk(np.full((8, 1, 32), y + 1, np.uint32), (0, y, 0)))
"""


@pytest.mark.parametrize("version", [2, 3])
def test_several_writers_of_one_block(tmp_path, version):
    path = str(tmp_path / "a.zarr")
    words = [[sys.executable, "-c", WRITER, path, str(part), str(version)] for part in range(4)]
    for worker in [subprocess.Popen(w, env={**os.environ}) for w in words]:
        assert worker.wait(timeout=120) == 0
    array = ZarrVolume(path).read().array
    np.testing.assert_array_equal(array, np.broadcast_to(np.arange(1, 33)[None, :, None], (8, 32, 32)))


def test_provenance_of_zarr(tmp_path, segflow):
    line = f"segflow create-chunk --size 4 8 8 write-zarr --file-name {tmp_path}/a.zarr"
    segflow(*line.split()[1:])
    assert segflow("provenance", tmp_path / "a.zarr").out.startswith(line)


def test_inspect_zarr(tmp_path, image, segflow):
    path = str(tmp_path / "a.zarr")
    run_chain("write-zarr", "-f", path, chunk=image)
    out = segflow("inspect", path).out
    for words in ("zarr", "20 100 90", "30 6 6 nm", "4 10 20", "uint8"):
        assert words in out
    assert out.splitlines()[1:] == segflow("inspect", f"zarr://{path}").out.splitlines()[1:]


# -- n5 -------------------------------------------------------------------------------------


def write_n5(place: Path, array: np.ndarray, **attributes: object) -> None:
    """Write zyx or czyx as n5 does: dimensions from x."""
    store = ts.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": str(place)},
         "metadata": {"compression": {"type": "gzip"}, "dataType": array.dtype.name,
                      "dimensions": array.shape[::-1],
                      "blockSize": [min(8, n) for n in array.shape[::-1]]}},
        create=True,
    ).result()  # fmt: skip
    store.write(array.T).result()
    about = place / "attributes.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **attributes}))


def test_n5_is_read_as_zyx(tmp_path, data, segflow):
    array = tifffile.imread(data / "ac4_image.tif")[:10, :40, :30]
    write_n5(tmp_path / "a.n5", array, resolution=[6, 6, 30], offset=[12, 0, 60])
    chunk = run_chain("read-n5", "-f", str(tmp_path / "a.n5"))["chunk"]
    np.testing.assert_array_equal(chunk.array, array)
    assert (chunk.voxel_size, chunk.voxel_offset) == ((30, 6, 6), (2, 0, 2))
    assert chunk.array.flags.c_contiguous
    part = run_chain(
        "read-n5", "-f", f"n5://{tmp_path}/a.n5", "--start", "3", "1", "2", "--size", "2", "3", "4"
    )
    np.testing.assert_array_equal(part["chunk"].array, array[1:3, 1:4, 0:4])
    assert "n5" in segflow("inspect", tmp_path / "a.n5").out
    with pytest.raises(VolumeError, match="only read"):
        open_volume(f"n5://{tmp_path}/a.n5").write(chunk)
    assert "no n5 volume" in segflow("read-n5", "-f", tmp_path, code=2).last


def test_n5_channels_and_pyramids(tmp_path):
    array = np.random.default_rng(0).random((2, 4, 6, 8), np.float32)
    write_n5(tmp_path / "c.n5", array)
    np.testing.assert_array_equal(open_volume(f"n5://{tmp_path}/c.n5").read().array, array)
    for level in range(3):
        write_n5(tmp_path / "p.n5" / f"s{level}", array[0, :, :: 2**level, :: 2**level],
                 downsamplingFactors=[2**level, 2**level, 1],
                 pixelResolution={"unit": "um", "dimensions": [0.006, 0.006, 0.03]})  # fmt: skip
    (tmp_path / "p.n5" / "attributes.json").write_text(json.dumps({"n5": "2.5.0"}))
    volume = open_volume(f"n5://{tmp_path}/p.n5")
    assert volume.info().mips == 3
    assert volume.info(2).voxel_size == pytest.approx((30, 24, 24))
    np.testing.assert_array_equal(volume.read(mip=1).array, array[0, :, ::2, ::2])
    chunk = run_chain("read-n5", "-f", str(tmp_path / "p.n5"), "-m", "1")["chunk"]
    assert chunk.voxel_size == pytest.approx((30, 12, 12))
    for level, step in ((0, 4.0), (1, 8.0)):
        about = {"axes": ["z", "y", "x"], "scale": [step] * 3, "translate": [step / 2 - 2, 0, 80.0],
                 "units": ["nm"] * 3}  # fmt: skip
        write_n5(tmp_path / "cosem.n5" / f"s{level}", array[0], transform=about)
    cosem = open_volume(f"n5://{tmp_path}/cosem.n5")
    assert (cosem.info(1).voxel_size, cosem.info(1).bounds.start) == ((8, 8, 8), (0, 0, 10))


# -- buckets --------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """Give a bucket of a local S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", ""), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="em-data")
    yield "s3://em-data"
    server.stop()


def test_a_bucket(bucket, image, segflow):
    path = f"zarr://{bucket}/image.zarr"
    run_chain("write-zarr", "-f", path, "--block-size", "8", "32", "32", chunk=image)
    part = Chunk(np.full((2, 5, 6), 9, np.uint8), (6, 20, 30))
    run_chain("write-zarr", "-f", path, chunk=part)  # not aligned to blocks
    truth = image.array.copy()
    truth[part.bbox.slices(image.voxel_offset)] = 9
    found = run_chain("read-zarr", "-f", path)["chunk"]
    np.testing.assert_array_equal(found.array, truth)
    assert (found.bbox, found.voxel_size) == (image.bbox, image.voxel_size)
    assert "write-zarr" in segflow("provenance", path).out
    assert "20 100 90" in segflow("inspect", path).out
    assert "no zarr volume" in segflow("read-zarr", "-f", f"zarr://{bucket}/nothing", code=1).last
