"""Precomputed volumes in folders: what other programs read and wrote, any box, several writers, bad input."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, UsageError, VolumeError
from segflow.geometry import Box
from segflow.volumes import info as metadata
from segflow.volumes import open_volume, peek
from segflow.volumes.convert import disk_dtype, to_dtype
from segflow.volumes.store import FileStore, change_json


@pytest.fixture(scope="module")
def image():
    from conftest import DATA

    return tifffile.imread(DATA / "ac4_image.tif")


@pytest.fixture(scope="module")
def labels():
    from conftest import DATA

    with h5py.File(DATA / "pinky40_mip1.h5") as file:
        return file["mip1"][:40, :100, :90]


def create(path, box, dtype="uint8", block=(16, 32, 32), **options):
    options.setdefault("voxel_size", (30, 6, 6))
    volume = open_volume(str(path))
    volume.create(metadata.make(box, dtype, block_size=block, **options))
    return volume


def by_tensorstore(path, mip=0):
    """Read a volume with an independent reader: czyx."""
    import tensorstore as ts

    store = ts.open(
        {"driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "scale_index": mip}
    ).result()
    return store.read().result().T


def by_cloudvolume(path, **options):
    from cloudvolume import CloudVolume

    return CloudVolume(f"file://{path}", progress=False, **options)


def write_with_cloudvolume(path, array, encoding, compress="gzip", block=(32, 32, 16), offset=(0, 0, 0)):
    from cloudvolume import CloudVolume

    info = CloudVolume.create_new_info(
        1, "segmentation" if array.dtype.itemsize > 2 else "image", array.dtype.name, encoding,
        [6, 6, 30], list(offset)[::-1], list(array.shape)[::-1], chunk_size=block,
    )  # fmt: skip
    volume = CloudVolume(f"file://{path}", info=info, compress=compress, progress=False)
    volume.commit_info()
    volume[:, :, :] = array.T
    return volume


# -- what others read and wrote ---------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso"])
def test_labels_are_read_by_others(tmp_path, labels, encoding):
    chunk = Chunk(labels, (3, 5, 7))
    volume = create(tmp_path / "v", chunk.bbox, "uint32", layer_type="segmentation", encoding=encoding)
    volume.write(chunk)
    np.testing.assert_array_equal(open_volume(str(tmp_path / "v")).read().array, labels)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "v")[:, :, :][..., 0].T, labels)
    if encoding in ("raw", "compressed_segmentation"):
        np.testing.assert_array_equal(by_tensorstore(tmp_path / "v")[0], labels)
    names = [p.name for p in (tmp_path / "v" / "6_6_30").iterdir()]
    assert "7-39_5-37_3-19" in names
    assert not [n for n in names if "." in n]


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "png"])
def test_images_are_read_by_others(tmp_path, image, encoding):
    part = image[:20, :100, :90]
    volume = create(tmp_path / "v", Box.of((0, 0, 0), part.shape), encoding=encoding)
    volume.write(Chunk(part))
    theirs = by_tensorstore(tmp_path / "v")[0].astype(int)
    assert np.abs(theirs - part).mean() < (6 if encoding == "jpeg" else 1e-9)
    if encoding != "png":  # a codec that cloud-volume leaves out
        np.testing.assert_array_equal(by_cloudvolume(tmp_path / "v")[:, :, :][..., 0].T, theirs)


def test_channels_are_read_by_others(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (3, 20, 40, 50), np.uint8)
    chunk = Chunk(array, (1, 2, 3), (30, 6, 6), "affinity_map", ((-1, 0, 0), (0, -1, 0), (0, 0, -9)))
    volume = create(tmp_path / "v", chunk.bbox, channels=3, layer_type="affinity_map", offsets=chunk.offsets)
    volume.write(chunk)
    np.testing.assert_array_equal(by_tensorstore(tmp_path / "v"), array)
    cloud = by_cloudvolume(tmp_path / "v")
    np.testing.assert_array_equal(cloud[:, :, :].T, array)
    cloud.commit_info()  # another program writes the info back
    found = open_volume(str(tmp_path / "v")).read()
    assert found.offsets == chunk.offsets
    assert found.layer_type == "affinity_map"
    with pytest.raises(ChunkError, match="offsets"):
        volume.write(Chunk(array, (1, 2, 3), (30, 6, 6), "affinity_map"))


@pytest.mark.parametrize("compress", ["gzip", "br", False])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso"])
def test_what_cloudvolume_wrote_is_read(tmp_path, labels, encoding, compress):
    write_with_cloudvolume(tmp_path / "v", labels, encoding, compress, offset=(2, 3, 4))
    chunk = open_volume(str(tmp_path / "v")).read()
    np.testing.assert_array_equal(chunk.array, labels)
    assert chunk.voxel_offset == (2, 3, 4)
    assert chunk.voxel_size == (30, 6, 6)
    assert chunk.layer_type == "segmentation"


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_sharded_volumes_are_read_and_written(tmp_path, labels, encoding):
    import tensorstore as ts

    scale = {
        "resolution": [6, 6, 30], "encoding": encoding, "chunk_size": [32, 32, 16],
        "size": list(labels.shape[::-1]),
        "sharding": {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "preshift_bits": 1,
                     "minishard_bits": 1, "shard_bits": 1, "data_encoding": "gzip",
                     "minishard_index_encoding": "gzip"},
    }  # fmt: skip
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    store = ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{tmp_path}/v/",
            "multiscale_metadata": {"type": "segmentation", "data_type": "uint32", "num_channels": 1},
            "scale_metadata": scale,
            "create": True,
        }
    ).result()
    store.write(labels.T[..., None]).result()
    volume = open_volume(str(tmp_path / "v"))
    assert volume.info().extra["sharded"]
    np.testing.assert_array_equal(volume.read().array, labels)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "v")[:, :, :][..., 0].T, labels)
    box = Box((3, 5, 7), (20, 60, 50))
    volume.write(Chunk(np.full(box.shape, 9, np.uint32), box.start))
    wanted = labels.copy()
    wanted[box.slices()] = 9
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "v")[:, :, :][..., 0].T, wanted)


@pytest.mark.parametrize("encoding", ["raw", "compresso"])
def test_compressed_blocks_are_replaced(tmp_path, labels, encoding):
    write_with_cloudvolume(tmp_path / "v", labels, encoding)
    folder = tmp_path / "v" / "6_6_30"
    assert all(p.suffix == ".gz" for p in folder.iterdir())
    volume = open_volume(str(tmp_path / "v"))
    box = Box((0, 0, 0), (16, 40, 33))  # one block wholly, three in part
    volume.write(Chunk(np.full(box.shape, 5, np.uint32), box.start))
    wanted = labels.copy()
    wanted[box.slices()] = 5
    for name in ("0-32_0-32_0-16", "0-32_32-64_0-16", "32-64_0-32_0-16", "32-64_32-64_0-16"):
        assert (folder / name).exists()
        assert not (folder / f"{name}.gz").exists()
    assert (folder / "64-90_0-32_0-16.gz").exists()
    np.testing.assert_array_equal(volume.read().array, wanted)
    np.testing.assert_array_equal(by_cloudvolume(tmp_path / "v")[:, :, :][..., 0].T, wanted)


def test_an_info_without_our_key(tmp_path):
    write_with_cloudvolume(tmp_path / "v", np.zeros((4, 4, 4), np.uint8), "raw")
    info = open_volume(str(tmp_path / "v")).info()
    assert (info.layer_type, info.offsets, info.mips, info.channels) == ("image", None, 1, 1)


# -- boxes ------------------------------------------------------------------------------------------

SHAPE = (20, 30, 40)
corners = st.tuples(*[st.integers(-3, n + 3) for n in SHAPE])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(corners, corners), min_size=1, max_size=4))
def test_any_boxes_are_what_an_array_would_hold(tmp_path_factory, boxes):
    offset = (5, -2, 3)
    bounds = Box.of(offset, SHAPE)
    volume = create(tmp_path_factory.mktemp("v"), bounds, "uint16", block=(8, 16, 16))
    wanted = np.zeros(SHAPE, np.uint16)
    for number, corner in enumerate(boxes, 1):
        low, high = (np.sort(np.array(corner), 0) + offset).tolist()
        box = Box(tuple(low), tuple(high))
        chunk = Chunk(np.full([max(n, 0) for n in box.shape], number, np.uint16), box.start)
        inside = box.intersect(bounds)
        if inside.empty:
            with pytest.raises(BoxError):
                volume.write(chunk)
            with pytest.raises(BoxError):
                volume.read(box)
            continue
        volume.write(chunk)
        wanted[inside.slices(offset)] = number
        found = volume.read(box)
        assert found.bbox == box
        np.testing.assert_array_equal(found.array, Chunk(wanted, offset).pad_to(box).array)
    np.testing.assert_array_equal(volume.read().array, wanted)


def test_partly_and_wholly_outside(tmp_path, image, caplog):
    volume = create(tmp_path / "v", Box.of((0, 0, 0), (20, 512, 512)))
    volume.write(Chunk(image))
    chunk = volume.read(Box((-2, 500, 500), (5, 520, 520)))
    assert "partly outside" in caplog.text
    assert chunk.shape == (7, 20, 20)
    assert not chunk.array[:2].any()
    assert not chunk.array[:, 12:].any()
    np.testing.assert_array_equal(chunk.array[2:, :12, :12], image[:5, 500:, 500:])
    with pytest.raises(BoxError, match="wholly outside 0-20_0-512_0-512"):
        volume.read(Box((20, 0, 0), (30, 10, 10)))
    with pytest.raises(BoxError, match="empty"):
        volume.read(Box((5, 5, 5), (5, 10, 10)))
    caplog.clear()
    volume.write(Chunk(np.full((4, 4, 4), 7, np.uint8), (18, 510, 510)))
    assert "only 18-20_510-512_510-512 is written" in caplog.text
    assert (volume.read(Box((18, 510, 510), (20, 512, 512))).array == 7).all()


@pytest.mark.parametrize("encoding", ["raw", "compresso"])
def test_missing_blocks(tmp_path, labels, encoding):
    kind = {"dtype": "uint32", "layer_type": "segmentation", "encoding": encoding}
    volume = create(tmp_path / "v", Box.of((0, 0, 0), labels.shape), **kind)
    volume.write(Chunk(labels[:16, :32, :32]))
    chunk = volume.read()
    assert not chunk.array[16:].any()
    with pytest.raises(VolumeError, match="--fill-missing"):
        volume.read(fill_missing=False)
    zeros = Chunk(np.zeros_like(labels))
    volume.write(zeros)  # zeros that were written are not missing
    assert not volume.read(fill_missing=False).array.any()


def test_source_is_told(tmp_path, image):
    volume = create(tmp_path / "v", Box.of((0, 0, 0), image.shape))
    volume.write(Chunk(image))
    source = volume.read(Box((1, 1, 1), (4, 4, 4))).source
    assert source == {"path": f"file://{tmp_path / 'v'}", "mip": 0, "bounds": Box.of((0, 0, 0), image.shape)}


# -- several writers --------------------------------------------------------------------------------

WRITER = """
import sys, numpy as np
from segflow.chunk import Chunk
from segflow.volumes import open_volume
volume = open_volume(sys.argv[1])
mine, many = int(sys.argv[2]), int(sys.argv[3])
for row in range(mine, 48, many):  # rows of the same blocks, in turn
    volume.write(Chunk(np.full((8, 1, 40), row + 1, np.uint8), (0, row, 0)))
"""


@pytest.mark.parametrize("encoding", ["raw", "png", "npz"])
def test_processes_write_parts_of_the_same_blocks(tmp_path, encoding):
    volume = create(tmp_path / "v", Box.of((0, 0, 0), (8, 48, 40)), block=(8, 32, 32), encoding=encoding)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "v"), str(i), "3"]) for i in range(3)
    ]
    assert [w.wait(timeout=120) for w in writers] == [0, 0, 0]
    wanted = np.broadcast_to(np.arange(1, 49, dtype=np.uint8)[None, :, None], (8, 48, 40))
    np.testing.assert_array_equal(volume.read().array, wanted)
    assert not [p for p in (tmp_path / "v").rglob("*") if "lock" in p.name or p.name.startswith(".")]


def add(found, key):
    return {**(found or {}), key: 1}


def test_threads_change_the_info_together(tmp_path):
    store = FileStore(f"file://{tmp_path}")
    failures = []

    def work(number):
        try:
            for step in range(10):
                change_json(store, "info", partial(add, key=f"{number}.{step}"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(json.loads((tmp_path / "info").read_text())) == 60
    assert [p.name for p in tmp_path.iterdir()] == ["info"]


def test_a_killed_writer_leaves_its_lock_free(tmp_path):
    store = FileStore(f"file://{tmp_path}")
    (tmp_path / "info.lock").write_text("")
    change_json(store, "info", lambda found: {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["info"]


def test_the_same_bytes_twice(tmp_path, labels):
    chunk = Chunk(labels)
    for encoding in ("raw", "compressed_segmentation", "compresso"):
        folders = []
        for name in "ab":
            volume = create(
                tmp_path / encoding / name, chunk.bbox, "uint32", layer_type="segmentation", encoding=encoding
            )
            volume.write(chunk)
            volume.write(chunk.cutout(Box((3, 3, 3), (9, 70, 80))))
            folders.append({p.name: p.read_bytes() for p in Path(volume.path[7:]).rglob("*") if p.is_file()})
        assert folders[0] == folders[1]


# -- values -----------------------------------------------------------------------------------------


def test_dtype_of_new_volumes():
    def kind(dtype, layer=None, channels=1):
        shape = (2, 2, 2) if channels == 1 else (channels, 2, 2, 2)
        return disk_dtype(Chunk(np.zeros(shape, dtype), layer_type=layer))

    assert kind("float32", "affinity_map", 3) == "uint8"
    assert kind("float32", "image") == "float32"
    assert kind("float64", "image") == "float32"
    assert kind("int64") == "uint64"
    assert kind("uint8") == "uint8"


def test_values_become_the_volumes(tmp_path):
    affinities = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    chunk = Chunk(affinities, layer_type="affinity_map")
    as_bytes = to_dtype(chunk, "uint8")
    np.testing.assert_array_equal(as_bytes, np.rint(affinities * 255).astype(np.uint8))
    back = to_dtype(Chunk(as_bytes, layer_type="affinity_map"), "float32")
    np.testing.assert_allclose(back, affinities, atol=0.5 / 255 + 1e-6)
    volume = create(tmp_path / "v", chunk.bbox, "float32", channels=3, layer_type="affinity_map")
    volume.write(chunk)  # a volume keeps its dtype
    np.testing.assert_array_equal(volume.read().array, affinities)
    small = Chunk(np.array([[[7, 300]]], np.int64))
    assert to_dtype(small, "uint16").dtype == np.uint16
    for dtype, value in (("uint8", 300), ("uint64", -1)):
        with pytest.raises(ChunkError, match="do not fit"):
            to_dtype(Chunk(np.array([[[value]]], np.int64)), dtype)
    for bad in (1.5, np.nan, -0.2):
        with pytest.raises(ChunkError, match=r"\[0, 1\]"):
            to_dtype(Chunk(np.full((2, 2, 2), bad, np.float32)), "uint8")
    with pytest.raises(ChunkError, match="float32 and the volume uint32"):
        to_dtype(chunk, "uint32")


# -- the info ---------------------------------------------------------------------------------------


def test_info_is_zyx_and_counts_mips(tmp_path):
    box = Box((3, 7, 11), (23, 107, 211))
    volume = open_volume(str(tmp_path / "v"))
    raw = metadata.make(
        box, "uint64", layer_type="segmentation", voxel_size=(30, 6, 7.5), block_size=(8, 16, 32)
    )
    volume.create(metadata.with_mips(raw, 3, (1, 2, 2)))
    one = peek(str(tmp_path / "v"), 1)
    assert one == volume.info(1)
    assert one.bounds == Box((3, 3, 5), (23, 54, 106))
    assert one.voxel_size == (30, 12, 15)
    assert one.block_size == (8, 16, 32)
    assert one.mips == 3
    assert by_tensorstore(tmp_path / "v", 2).shape == (1, *volume.info(2).bounds.shape)
    assert by_cloudvolume(tmp_path / "v", mip=2).shape == (*volume.info(2).bounds.shape[::-1], 1)
    with pytest.raises(VolumeError, match="no mip 3; it has 3 mips, 0 to 2"):
        volume.info(3)


def test_peek_imports_nothing_heavy(tmp_path):
    create(tmp_path / "v", Box.of((0, 0, 0), (8, 8, 8)))
    code = (
        "import sys; from segflow.volumes import peek; assert peek(sys.argv[1]).dtype == 'uint8'; "
        "print([m for m in ('numpy', 'torch', 'tensorstore', 'cloudvolume', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "v")], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_info_is_added_to_not_changed(tmp_path):
    box = Box.of((0, 0, 0), (8, 64, 64))
    volume = create(tmp_path / "v", box)
    (tmp_path / "v" / "info").write_text(json.dumps({**volume.raw, "mesh": "mesh_err_40"}))
    again = open_volume(str(tmp_path / "v"))
    again.create(metadata.with_mips(metadata.make(box, "uint8", voxel_size=(30, 6, 6)), 2, (1, 2, 2)))
    assert again.info().block_size == (16, 32, 32)
    assert again.info().mips == 2
    assert again.raw["mesh"] == "mesh_err_40"
    for other in (
        metadata.make(Box.of((0, 0, 0), (8, 64, 65)), "uint8", voxel_size=(30, 6, 6)),
        metadata.make(box, "uint16", layer_type="image", voxel_size=(30, 6, 6)),
        metadata.make(box, "uint8", voxel_size=(30, 6, 8)),
    ):
        with pytest.raises(VolumeError, match="is there already"):
            again.create(other)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("", "not JSON"), ("[]", "no description"), ('{"scales": [{}]}', "no description"),
     ('{"scales": [], "num_channels": 1, "data_type": "uint8", "type": "image"}', "no mip 0")],
)  # fmt: skip
def test_broken_info(tmp_path, segflow, text, said):
    (tmp_path / "info").write_text(text)
    with pytest.raises(VolumeError, match=said):
        peek(str(tmp_path))
    assert said in segflow("read-precomputed", "-v", tmp_path, code=2).last


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create("v", Box.of((0, 0, 0), (8, 8, 8)))
    for path in (
        "v",
        "v/",
        "file://v",
        f"file://{tmp_path}/v",
        f"precomputed://file://{tmp_path}/v",
        "precomputed://v",
    ):
        assert open_volume(path).info().path == f"file://{tmp_path}/v"
    with pytest.raises(UsageError, match=r"did you mean 'gs'|no scheme 'gss"):
        open_volume("gss://bucket/v")
    assert "no scheme" in str(pytest.raises(UsageError, open_volume, "ftp://x/v").value)


def test_a_path_with_spaces_and_signs(tmp_path, image):
    volume = create(tmp_path / "a b%20#c", Box.of((0, 0, 0), image.shape))
    volume.write(Chunk(image))
    np.testing.assert_array_equal(open_volume(volume.path).read().array, image)


# -- commands ---------------------------------------------------------------------------------------

READ = ["read-tif", "-f", "{data}/ac4_image.tif", "--voxel-size", 30, 6, 6]


@pytest.fixture
def read(data):
    return [str(w).format(data=data) for w in READ]


def test_write_makes_the_volume(segflow, read, tmp_path, image):
    volume = tmp_path / "v"
    segflow(*read, "write-precomputed", "-v", f"file://{volume}", "--block-size", 16, 128, 128, "--mips", 3,
            "--encoding", "png")  # fmt: skip
    info = open_volume(str(volume)).info()
    assert (info.block_size, info.mips, info.encoding, info.voxel_size) == (
        (16, 128, 128),
        3,
        "png",
        (30, 6, 6),
    )
    assert open_volume(str(volume)).info(2).bounds.shape == (20, 128, 128)
    np.testing.assert_array_equal(by_tensorstore(volume)[0], image)
    record = json.loads(next((volume / "segflow_provenance").iterdir()).read_text())
    assert record["chain"][0] == "read-tif"


def test_write_options_of_a_new_volume(segflow, read, data, tmp_path):
    segflow("read-tif", "-f", data / "ac4_image.tif", "write-precomputed", "-v", tmp_path / "a",
            "--voxel-size", 40, 4, 4, "--factor", 2, 2, 2, "--mips", 2)  # fmt: skip
    assert open_volume(str(tmp_path / "a")).info(1).voxel_size == (80, 8, 8)
    labels = ["read-tif", "-f", data / "ac4_labels.tif", "--voxel-size", 30, 6, 6]
    assert "--layer-type" in segflow(*labels, "write-precomputed", "-v", tmp_path / "b", code=2).last
    assert not (tmp_path / "b").exists()
    segflow(
        *labels,
        "write-precomputed",
        "-v",
        tmp_path / "b",
        "--layer-type",
        "segmentation",
        "--dtype",
        "uint64",
    )
    info = open_volume(str(tmp_path / "b")).info()
    assert (info.dtype, info.layer_type, info.encoding) == (
        "uint64",
        "segmentation",
        "compressed_segmentation",
    )


def test_unknown_voxel_size(segflow, data, tmp_path):
    done = segflow("read-tif", "-f", data / "ac4_image.tif", "write-precomputed", "-v", tmp_path / "v")
    assert "--voxel-size" in done.err
    assert json.loads((tmp_path / "v" / "info").read_text())["scales"][0]["resolution"] == [1, 1, 1]
    assert open_volume(str(tmp_path / "v")).read().voxel_size is None  # unknown stays unknown


def test_float_affinities_become_bytes(segflow, tmp_path):
    affinities = np.random.default_rng(0).random((3, 8, 20, 20), np.float32)
    np.save(tmp_path / "a.npy", affinities)
    line = ["read-npy", "-f", tmp_path / "a.npy", "--voxel-size", 30, 6, 6, "write-precomputed"]
    segflow(*line, "-v", tmp_path / "a")
    np.testing.assert_array_equal(by_tensorstore(tmp_path / "a"), np.rint(affinities * 255))
    assert open_volume(str(tmp_path / "a")).info().offsets == ((0, 0, -1), (0, -1, 0), (-1, 0, 0))
    segflow(*line, "-v", tmp_path / "b", "--dtype", "float32")
    np.testing.assert_array_equal(by_tensorstore(tmp_path / "b"), affinities)


def test_cut_out(segflow, read, tmp_path, image):
    volume, cut = tmp_path / "v", tmp_path / "c.npy"
    segflow(*read, "write-precomputed", "-v", volume)

    def cutout(*options):
        segflow("cutout", "--volume-path", volume, *options, "write-npy", "-f", cut)
        return np.load(cut)

    wanted = image[2:10, 30:60, 40:90]
    for options in (
        ["--start", 2, 30, 40, "--stop", 10, 60, 90],
        ["--start", 2, 30, 40, "--size", 8, 30, 50],
        ["--chunk-start", 2, 30, 40, "--chunk-size", 8, 30, 50],
        ["--start", 3, 32, 45, "--stop", 9, 58, 85, "--expand-margin-size", 1, 2, 5],
    ):
        np.testing.assert_array_equal(cutout(*options), wanted)
    np.testing.assert_array_equal(cutout(), image)
    np.testing.assert_array_equal(cutout("--stop", 5, 6, 7), image[:5, :6, :7])
    assert "not both" in segflow("cutout", "-v", volume, "--stop", 1, 1, 1, "--size", 1, 1, 1, code=2).last
    outside = segflow("cutout", "-v", volume, "--start", 99, 0, 0, "--size", 1, 1, 1, code=2)
    assert "wholly outside 0-20_0-512_0-512" in outside.last


def test_box_of_the_task_at_another_mip(segflow, read, tmp_path):
    volume, out = tmp_path / "v", tmp_path / "c.npy"
    segflow(
        *read, "write-precomputed", "-v", volume, "--mips", 2, "--factor", 1, 2, 2, "downsample", "-v", volume
    )
    box = ["create-bbox", "--start", 2, 32, 64, "--size", 4, 16, 32]
    segflow(*box, "read-precomputed", "-v", volume, "-m", 1, "write-npy", "-f", out)
    coarse = open_volume(str(volume)).read(mip=1).array
    np.testing.assert_array_equal(np.load(out), coarse[2:6, 16:24, 32:48])
    box = ["--mip", 1, "create-bbox", "--start", 2, 16, 32, "--size", 4, 8, 16]
    segflow(*box, "read-precomputed", "-v", volume, "write-npy", "-f", out)
    np.testing.assert_array_equal(np.load(out), coarse[2:6, 16:24, 32:48])
    segflow(*box, "read-precomputed", "-v", volume, "-m", 0, "write-npy", "-f", out)
    assert np.load(out).shape == (4, 16, 32)
    odd = ["create-bbox", "--start", 2, 33, 64, "--size", 4, 16, 32]
    assert "divide" in segflow(*odd, "read-precomputed", "-v", volume, "-m", 1, code=2).last
    assert "2 mips, 0 to 1" in segflow("read-precomputed", "-v", volume, "-m", 2, code=2).last


def test_fill_missing_blackout_validate(segflow, read, tmp_path, image):
    volume, out = tmp_path / "v", tmp_path / "c.npy"
    segflow(*read, "write-precomputed", "-v", volume, "downsample", "-v", volume, "--mips", 3)
    line = ["read-precomputed", "-v", volume]
    assert "blackout_section_ids" in segflow(*line, "--blackout-sections", code=1).last
    (volume / "blackout_section_ids.json").write_text('{"section_ids": [3, 99]}')
    segflow(*line, "--start", 2, 0, 0, "--blackout-sections", "write-npy", "-f", out)
    assert not np.load(out)[1].any()
    np.testing.assert_array_equal(np.load(out)[2:], image[4:])
    segflow(*line, "--validate-mip", 2)
    assert "coarser mip" in segflow(*line, "--validate-mip", 0, code=2).last
    block = volume / "6_6_30" / "64-128_64-128_0-20"
    block.write_bytes(bytes(block.stat().st_size))
    assert "do not match mip 2" in segflow(*line, "--validate-mip", 2, code=1).last
    block.unlink()
    segflow(*line, "--fill-missing", "write-npy", "-f", out)
    assert not np.load(out)[:, 64:128, 64:128].any()
    said = segflow(*line, "--no-fill-missing", code=1).last
    assert "64-128_64-128_0-20" in said
    assert "--fill-missing" in said
    block.write_bytes(b"short")
    assert "64-128_64-128_0-20" in segflow(*line, code=1).last


def test_intensity_log_thumbnail(segflow, read, tmp_path, image):
    volume = tmp_path / "v"
    line = [*read, "write-precomputed", "-v", volume, "--nproc", 0]
    segflow(*line, "--intensity-threshold", 255)
    assert not (volume / "6_6_30").exists()
    segflow(*line, "--intensity-threshold", 100, "--upload-log", "--create-thumbnail")
    np.testing.assert_array_equal(by_tensorstore(volume)[0], image)
    log = json.loads((volume / "log" / "0-20_0-512_0-512.json").read_text())
    assert log["bbox"] == "0-20_0-512_0-512"
    assert set(log["timer"]) == {"read-tif", "write-precomputed"}
    thumbnail = open_volume(str(volume / "thumbnail"))
    assert thumbnail.info().mips == 7
    small = thumbnail.read(mip=6)
    assert small.dtype == np.uint8
    wanted = image.reshape(20, 8, 64, 8, 64).mean((2, 4))
    np.testing.assert_allclose(small.array, wanted, atol=0.5)
    said = segflow(*read, "connected-components", "-t", 100, "write-precomputed", "-v", tmp_path / "s",
                   "--create-thumbnail", code=2).last  # fmt: skip
    assert "thumbnail" in said
    tifffile.imwrite(tmp_path / "wide.tif", image.astype(np.uint16) * 257)
    said = segflow("read-tif", "-f", tmp_path / "wide.tif", "--layer-type", "image", "save", "-v", tmp_path / "w",
                   "--create-thumbnail", code=1).last  # fmt: skip
    assert "leave --create-thumbnail out" in said


def test_several_tasks_fill_one_volume(segflow, read, tmp_path, image):
    source, copy = tmp_path / "v", tmp_path / "w"
    segflow(*read, "write-precomputed", "-v", source)
    tasks = ["generate-tasks", "-v", source, "--chunk-size", 20, 200, 300]
    segflow(*tasks, "read-precomputed", "-v", source, "write-precomputed", "-v", copy)
    np.testing.assert_array_equal(by_tensorstore(copy)[0], image)
    said = segflow(*tasks, "read-precomputed", "-v", source, "write-precomputed", "-v", copy).err
    assert f"({image.size / 1e6:.2f} Mvoxel," in said  # not what lies beyond the volume


def test_skip_to_writes_zeros_of_the_volume(tmp_path):
    from segflow.operators.write_precomputed import write_precomputed
    from segflow.state import State

    affinities = Chunk(np.full((3, 8, 40, 40), 200, np.uint8), voxel_size=(30, 6, 6))
    write_precomputed(affinities, volume=str(tmp_path / "v"))
    state = State(chunk=Chunk(np.full((8, 40, 40), 9, np.uint8)))
    state.bbox, state.resumed = Box((0, 0, 0), (8, 20, 40)), True
    for chunk in (state["chunk"], None):
        write_precomputed(chunk, volume=str(tmp_path / "v"), state=state)
        found = open_volume(str(tmp_path / "v")).read().array
        assert not found[:, :, :20].any()
        assert (found[:, :, 20:] == 200).all()
    with pytest.raises(VolumeError, match="create-info"):
        write_precomputed(state["chunk"], volume=str(tmp_path / "w"), state=state)


def test_skip_to_in_a_chain(segflow, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from operators_for_tests import skip_at

    from segflow.cli import registry

    entry = SimpleNamespace(load=lambda: skip_at, value="tests")
    monkeypatch.setattr(registry, "third_party", lambda: {"skip-at": entry})
    volume = tmp_path / "v"
    segflow("create-info", "-v", volume, "--volume-size", 8, 40, 40, "--block-size", 8, 32, 32)
    segflow("create-bbox", "--start", 0, 0, 0, "--size", 8, 32, 32, "create-chunk", "--pattern", "zero", "--size",
            8, 32, 32, "skip-at", "-i", "chunk", "--at", 0, "--to", "save", "copy-var", "-f", "chunk", "-t", "affs",
            "write-precomputed", "-i", "affs", "-v", volume)  # fmt: skip
    assert [p.name for p in (volume / "1_1_1").iterdir()] == ["0-32_0-32_0-8"]


def test_create_info(segflow, tmp_path, read):
    volume = tmp_path / "v"
    line = ["create-info", "-v", volume, "--block-size", 16, 32, 64, "--volume-size", 100, 200, 300]
    segflow(*line, "--voxel-offset", 1, 2, 3, "--voxel-size", 30, 6, 6, "--channel-num", 3, "--data-type", "float32",
            "--layer-type", "image", "--encoding", "raw", "--factor", 1, 2, 2, "--max-mip", 2)  # fmt: skip
    info = json.loads((volume / "info").read_text())
    assert (info["num_channels"], info["data_type"], info["type"], len(info["scales"])) == (
        3,
        "float32",
        "image",
        3,
    )
    assert info["scales"][0]["voxel_offset"] == [3, 2, 1]
    assert info["scales"][0]["size"] == [300, 200, 100]
    assert info["scales"][0]["chunk_sizes"] == [[64, 32, 16]]
    assert info["scales"][2]["resolution"] == [24, 24, 30]
    segflow(*line, "-v", tmp_path / "d", "--data-type", "uint64")
    found = open_volume(str(tmp_path / "d")).info()
    assert (found.layer_type, found.voxel_size, found.mips) == ("segmentation", None, 1)
    segflow(*read, "create-info", "-v", tmp_path / "c", "--block-size", 20, 64, 64, "--max-mip", 1)
    found = open_volume(str(tmp_path / "c")).info(1)
    assert (found.bounds.shape, found.voxel_size) == ((10, 256, 256), (60, 12, 12))
    assert (
        "--volume-size" in segflow("create-info", "-v", tmp_path / "e", "--block-size", 1, 1, 1, code=2).last
    )
    assert "is there already" in segflow(*line, "--data-type", "uint64", code=1).last
    assert "jpeg takes uint8" in segflow(*line, "-v", tmp_path / "j", "--encoding", "jpeg", "--data-type", "float32",
                                         code=1).last  # fmt: skip


def test_create_and_write_in_one_line(segflow, read, tmp_path, image):
    segflow("create-info", "-v", tmp_path / "v", "--block-size", 20, 64, 64, "--volume-size", 20, 600, 600,
            *read, "write-precomputed", "-v", tmp_path / "v")  # fmt: skip
    np.testing.assert_array_equal(by_tensorstore(tmp_path / "v")[0, :, :512, :512], image)


# -- bad input --------------------------------------------------------------------------------------


def test_chunks_that_do_not_fit(segflow, read, tmp_path):
    volume = tmp_path / "v"
    segflow(
        "create-info",
        "-v",
        volume,
        "--block-size",
        16,
        64,
        64,
        "--volume-size",
        20,
        512,
        512,
        "--channel-num",
        3,
    )
    assert "3" in segflow(*read, "write-precomputed", "-v", volume, code=2).last
    moved = ["create-chunk", "--size", 8, 8, 8, "--voxel-offset", 90, 0, 0]
    segflow("create-info", "-v", tmp_path / "w", "--block-size", 16, 64, 64, "--volume-size", 20, 512, 512)
    assert "wholly outside" in segflow(*moved, "write-precomputed", "-v", tmp_path / "w", code=2).last
    floats = ["create-chunk", "--size", 8, 8, 8, "--dtype", "float32", "write-precomputed", "-v"]
    segflow("create-info", "-v", tmp_path / "x", "--block-size", 16, 64, 64, "--volume-size", 20, 512, 512,
            "--data-type", "uint32")  # fmt: skip
    assert "float32" in segflow(*floats, tmp_path / "x", code=1).last


@pytest.fixture
def small_disk(disk):
    return disk("1m")


@pytest.mark.parametrize("encoding", ["raw", "npz"])
def test_full_disk(segflow, small_disk, encoding):
    line = ["create-chunk", "--size", 64, 256, 256, "--pattern", "random", "--voxel-size", 1, 1, 1]
    done = segflow(*line, "write-precomputed", "-v", small_disk / "v", "--encoding", encoding, code=1)
    assert "no space left" in done.last.lower()
    assert "free some space" in done.last
    for path in small_disk.rglob("*"):
        if path.is_file() and path.parent == small_disk / "v" / "1_1_1":
            assert "lock" not in path.name
            assert encoding == "npz" or path.stat().st_size == 64**3  # whole or absent


def test_read_only_place(segflow, read, small_disk):
    volume = small_disk / "v"
    segflow("create-info", "-v", volume, "--block-size", 16, 64, 64, "--volume-size", 20, 512, 512)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = segflow(*read, "write-precomputed", "-v", volume, code=None)
    assert said.code in (1, 2)
    assert "read-only" in said.last.lower() or "not writable" in said.last
    said = segflow(*read, "write-precomputed", "-v", small_disk / "new", code=None)
    assert said.code in (1, 2)


def test_places_that_are_no_folders(segflow, read, tmp_path):
    (tmp_path / "file").write_text("")
    assert "not a folder" in segflow(*read, "write-precomputed", "-v", tmp_path / "file" / "v", code=2).last
    assert "no info file" in segflow("read-precomputed", "-v", tmp_path, code=2).last
    assert "only be read" in segflow(*read, "write-precomputed", "-v", "https://example.org/v", code=2).last


def test_read_over_http(tmp_path, image, segflow):
    import http.server
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    volume = create(tmp_path / "v", Box.of((0, 0, 0), (20, 100, 90)))
    volume.write(Chunk(image[:20, :70, :90]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"precomputed://http://127.0.0.1:{server.server_address[1]}/v"
        segflow("read-precomputed", "-v", address, "write-npy", "-f", tmp_path / "c.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "c.npy")[:, :70], image[:, :70, :90])
        with pytest.raises(VolumeError, match="only be read"):
            open_volume(address).note({"chain": []})
    finally:
        server.shutdown()
        server.server_close()


def test_codec_that_is_not_installed(segflow, read, tmp_path):
    pytest.importorskip("cloudvolume")
    from cloudvolume.chunks import NEEDS_INSTALL

    if "fpzip" not in NEEDS_INSTALL:
        pytest.skip("fpzip is installed")
    line = [
        "create-chunk",
        "--size",
        8,
        8,
        8,
        "--dtype",
        "float32",
        "write-precomputed",
        "-v",
        tmp_path / "v",
    ]
    assert "pip install fpzip" in segflow(*line, "--encoding", "fpzip", code=1).last


def test_broken_gzip_block(tmp_path, labels, segflow):
    write_with_cloudvolume(tmp_path / "v", labels, "raw")
    block = tmp_path / "v" / "6_6_30" / "0-32_0-32_0-16.gz"
    block.write_bytes(gzip.compress(b"abc"))
    done = segflow("read-precomputed", "-v", tmp_path / "v", code=1)
    assert "Traceback" not in done.err
    assert str(tmp_path / "v") in done.last
    assert not done.out  # cloud-volume prints there
