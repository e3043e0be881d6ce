"""verify: planted faults are found, and nothing else is."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import BoxError, VolumeError
from segflow.geometry import Box
from segflow.volumes import checksums, open_volume
from segflow.volumes import info as metadata
from segflow.volumes.checksums import FOLDER, merged
from segflow.volumes.verify import verify

BLOCK = (8, 32, 32)


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")[:16, :128, :100]


@pytest.fixture
def labels(data):
    return tifffile.imread(data / "ac4_labels.tif")[:16, :128, :100].astype(np.uint64)


def make(path, array, *, encoding="raw", layer_type="image", write=True, mips=1, offset=(1, 2, 3)):
    """Make a volume of whole blocks at an odd place."""
    chunk = Chunk(array, offset, (30, 6, 6), layer_type)
    volume = open_volume(path)
    raw = metadata.make(
        chunk.bbox, array.dtype.name, layer_type=layer_type, voxel_size=(30, 6, 6), block_size=BLOCK,
        encoding=encoding,
    )  # fmt: skip
    volume.create(metadata.with_mips(raw, mips, (1, 2, 2)))
    if write:
        volume.write(chunk)
    return volume


def files(tmp_path, name="v"):
    return sorted(p for p in (tmp_path / name / "6_6_30").iterdir())


def kinds(volume, **options):
    return verify(volume, **options).counts


# -- nothing is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "encoding"),
    [
        *(("file", e) for e in ("raw", "png", "compressed_segmentation", "compresso", "jpeg")),
        *(("bucket", e) for e in ("raw", "compressed_segmentation")),
    ],
)
def test_an_intact_volume(place, encoding, request, tmp_path, image, labels):
    base = f"file://{tmp_path}" if place == "file" else request.getfixturevalue("bucket")
    wide = encoding.startswith("compress")
    array, kind = (labels, "segmentation") if wide else (image, "image")
    volume = make(f"{base}/v", array, encoding=encoding, layer_type=kind)
    found = verify(volume)
    assert (found.counts, found.blocks, found.voxels) == ({}, 2 * 4 * 4, array.size)
    assert found.unchecked == (32 if encoding == "jpeg" else 0)
    assert kinds(open_volume(volume.path), threads=1) == {}


def test_channels_floats_and_parts_of_blocks(tmp_path):
    array = np.random.default_rng(0).random((3, 9, 20, 21), np.float32)
    raw = metadata.make(
        Box.of((0, 0, 0), (9, 20, 21)), "float32", channels=3, layer_type="affinity_map", block_size=(4, 8, 8)
    )
    volume = open_volume(f"file://{tmp_path}/v")
    volume.create(raw)
    for z in range(0, 9, 3):  # no write is of whole blocks
        for y in range(0, 20, 7):
            part = array[:, z : z + 3, y : y + 7]
            volume.write(Chunk(part, (z, y, 0), layer_type="affinity_map"))
    np.testing.assert_array_equal(volume.read().array, array)
    assert kinds(volume) == {}


def test_sharded_volumes_and_zarr_are_read(tmp_path, image, segflow):
    import tensorstore as ts

    ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{tmp_path}/s/"},
            "multiscale_metadata": {"data_type": "uint8", "num_channels": 1, "type": "image"},
            "scale_metadata": {
                "size": [100, 128, 16], "resolution": [6, 6, 30], "encoding": "raw", "chunk_size": [32, 32, 8],
                "sharding": {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "minishard_bits": 1,
                             "shard_bits": 1, "hash": "identity"},
            },
        },
        create=True,
    ).result()[:, :64].write(image.T[:, :64][..., None]).result()  # fmt: skip
    found = verify(open_volume(f"file://{tmp_path}/s"))
    assert found.counts == {"missing": 16}
    assert found.unchecked == 16
    tifffile.imwrite(tmp_path / "a.tif", image)
    segflow("read-tif", "-f", tmp_path / "a.tif", "write-zarr", "-f", f"{tmp_path}/z", "--block-size", *BLOCK)
    said = segflow("verify", f"zarr://{tmp_path}/z")
    assert "32 readable, but without a checksum" in said.out
    assert f"it is zarr: write zarr://file://{tmp_path}/z" in segflow("verify", tmp_path / "z", code=1).last
    block = next(p for p in (tmp_path / "z").rglob("*") if p.is_file() and "/c/" in str(p))
    block.write_bytes(block.read_bytes()[:-7])
    assert "truncated" in segflow("verify", f"zarr://{tmp_path}/z", code=1).out
    block.unlink()
    assert "missing" in segflow("verify", f"zarr://{tmp_path}/z", code=1).out


# -- planted faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso"])
def test_planted_faults_are_found(tmp_path, image, labels, encoding, segflow):
    array, kind = (image, "image") if encoding == "raw" else (labels, "segmentation")
    volume = make(f"file://{tmp_path}/v", array, encoding=encoding, layer_type=kind)
    blocks = files(tmp_path)
    older = make(f"file://{tmp_path}/old", array + 1, encoding=encoding, layer_type=kind)
    missing, short, empty, blank, stale = (blocks[i] for i in (3, 7, 11, 19, 23))
    missing.unlink()
    short.write_bytes(short.read_bytes()[: short.stat().st_size // 2])
    empty.write_bytes(b"")
    blank.write_bytes(bytes(blank.stat().st_size))
    stale.write_bytes((tmp_path / "old" / "6_6_30" / stale.name).read_bytes())
    assert kinds(older) == {}
    said = segflow("verify", volume.path, "--json", tmp_path / "f.json", "-n", 2, code=1)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["faults"] == {"missing": 1, "truncated": 2, "zeroed": 1, "stale": 1}
    assert not found["ok"]
    of = {tuple(f["bbox"].split("_")): f["fault"] for f in found["blocks_with_faults"]}
    for path, fault in (missing, "missing"), (short, "truncated"), (blank, "zeroed"), (stale, "stale"):
        assert of[tuple(path.name.split("_")[::-1])] == fault
    assert "and 3 more" in said.out
    assert "5 blocks are not as they should be" in said.out


def test_planted_faults_in_a_bucket(bucket, image):
    import boto3

    volume = make(f"{bucket}/v", image)
    s3 = boto3.client("s3")
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket="bkt", Prefix="v/6_6_30/")["Contents"]]
    assert len(keys) == 32

    def change(key, data, **words):
        s3.put_object(Bucket="bkt", Key=key, Body=data, **words)

    body = s3.get_object(Bucket="bkt", Key=keys[0])["Body"].read()
    change(keys[1], body[: len(body) // 2], ContentEncoding="gzip")
    change(keys[2], bytes(8 * 32 * 32))
    change(keys[3], b"abc")
    s3.delete_object(Bucket="bkt", Key=keys[4])
    change(keys[5], body, ContentEncoding="gzip")
    assert kinds(volume) == {"missing": 1, "truncated": 2, "zeroed": 1, "stale": 1}


def test_a_mip_that_nobody_filled(tmp_path, image, segflow):
    volume = make(f"file://{tmp_path}/v", image, mips=2)
    assert kinds(volume, mips=[0]) == {}
    said = segflow("verify", volume.path, code=1)
    assert f"{2 * 2 * 2} missing: not stored" in said.out
    assert "nobody wrote it" in said.out
    segflow("downsample", "-v", volume.path)
    assert "complete and as it was written" in segflow("verify", volume.path, "-m", 1, "-m", 0).out


def test_a_lost_task_inside_a_stored_block(tmp_path, image):
    volume = make(f"file://{tmp_path}/v", image, write=False)
    volume.write(Chunk(image[:4], (1, 2, 3)))
    volume.write(Chunk(image[8:], (9, 2, 3)))
    assert kinds(volume) == {"incomplete": 16}
    volume.write(Chunk(image[4:8], (5, 2, 3)))
    assert kinds(volume) == {}


def test_a_part_that_another_wrote_over_is_stale(tmp_path, image):
    """A task's part of a block is checked, though others changed the rest of it."""
    volume = make(f"file://{tmp_path}/v", image, write=False)
    for z in range(0, 16, 4):
        volume.write(Chunk(image[z : z + 4], (1 + z, 2, 3)))
    path = next(p for p in files(tmp_path) if p.name.endswith("1-9"))
    values = np.frombuffer(path.read_bytes(), np.uint8).copy()
    values[-1] ^= 1
    path.write_bytes(values.tobytes())
    (fault,) = verify(volume).faults
    assert (fault.kind, fault.text.startswith("in 5-9_")) == ("stale", True)


def test_the_newest_write_counts(tmp_path, image):
    volume = make(f"file://{tmp_path}/v", image)
    volume.write(Chunk(255 - image, (1, 2, 3)))
    assert kinds(volume) == {}
    volume.write(Chunk(image[:, 5:70, :70], (1, 7, 3)))  # other boxes than the first
    assert kinds(volume) == {}
    volume.write(Chunk(image[3:9, 60:90, 5:], (4, 62, 8)))  # over parts of both
    assert kinds(volume) == {}
    volume.write(Chunk(image, (1, 2, 3)))
    assert verify(volume).unchecked == 0


def test_a_worker_killed_before_it_wrote_leaves_a_stale_block(tmp_path, image):
    """The entry comes first: an older run's voxels are never taken for the new ones."""
    volume = make(f"file://{tmp_path}/v", image)
    info = volume.info()
    box = Box.of((1, 2, 3), BLOCK)
    checksums.record(volume.store, info, box, 255 - image[None, :8, :32, :32])
    assert kinds(volume) == {"stale": 1}
    volume.write(Chunk(255 - image[:8, :32, :32], box.start))
    assert kinds(volume) == {}


def test_background_that_is_not_stored(tmp_path, image):
    dark = image.copy()
    dark[:, 32:64] = 0
    out = f"file://{tmp_path}/v"
    make(out, dark, write=False, offset=(0, 0, 0))
    volume = open_volume(out)
    for cell in checksums.cells(volume.info(), volume.info().bounds):
        part = dark[cell.slices()]
        if part.any():
            volume.write(Chunk(part, cell.start))
        elif cell.start[2] < 96:
            volume.leave_out(cell)
    assert kinds(volume) == {"missing": 2}  # left out without a word
    found = verify(volume, fill_missing=True)
    assert (found.counts, found.background) == ({}, 8)
    for path in files(tmp_path)[:1]:
        path.unlink()
    assert kinds(volume, fill_missing=True) == {"missing": 1}  # that one was written


def test_the_threshold_of_the_writer_is_told_from_a_lost_block(tmp_path, image, segflow):
    tifffile.imwrite(tmp_path / "a.tif", image * 0)
    volume = make(f"file://{tmp_path}/v", image, write=False, offset=(0, 0, 0))
    line = ["read-tif", "-f", tmp_path / "a.tif", "write-precomputed", "-v", volume.path]
    assert "32 missing" in segflow("verify", volume.path, code=1).out
    segflow(*line, "--intensity-threshold", 0)
    assert "32 background that is not stored" in segflow("verify", volume.path).out


# -- many writers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["file", "bucket"])
def test_writers_at_once_lose_no_entry(place, request, tmp_path, image):
    base = f"file://{tmp_path}" if place == "file" else request.getfixturevalue("bucket")
    make(f"{base}/v", image, write=False, offset=(0, 0, 0))
    wrong = []

    def work(first):
        volume = open_volume(f"{base}/v")
        try:
            for cell in list(checksums.cells(volume.info(), volume.info().bounds))[first::4]:
                volume.write(Chunk(image[cell.slices()], cell.start))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    found = verify(open_volume(f"{base}/v"))
    assert (found.counts, found.unchecked) == ({}, 0)


def test_equal_runs_leave_equal_bytes_and_few_files(tmp_path, image):
    for name, order in ("a", 1), ("b", -1):
        volume = make(f"file://{tmp_path}/{name}", image, write=False)
        for z in list(range(0, 16, 4))[::order]:
            volume.write(Chunk(image[z : z + 4], (1 + z, 2, 3)))
    a, b = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in "ab"
    )
    assert a == b
    assert sum(FOLDER in str(name) for name in a) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(1, 4))] * 3), min_size=1, max_size=6))
def test_entries_tell_the_last_write_of_every_voxel(writes):
    """Law: what an entry says of a part is what was written last there; what was written is covered."""
    cell = Box((0, 0, 0), (4, 4, 4))
    last, entries = np.full(cell.shape, -1), None
    for number, spans in enumerate(writes):
        box = Box(tuple(a for a, _ in spans), tuple(min(4, a + n) for a, n in spans))
        last[box.slices()] = number
        entries = merged(entries, {str(cell): (str(box), str(number))})
    (entry,) = entries.values()
    parts = {str(cell): entry} if isinstance(entry, str) else entry
    covered = np.zeros(cell.shape, bool)
    for name, value in parts.items():
        where = Box.parse(name).slices()
        covered[where] = True
        if value is not None:
            assert (last[where] == int(value)).all()
    assert (covered == (last >= 0)).all()


# -- what cannot be done ------------------------------------------------------------------------------------


def test_a_refused_write_leaves_no_entry(bucket, image):
    volume = make(f"{bucket}/v", image, write=False)
    with pytest.raises(BoxError, match="not aligned"):
        volume.write(Chunk(image[:3], (1, 2, 3)))
    assert volume.store.list(FOLDER) == []


def test_bad_volumes_are_one_line(tmp_path, image, segflow):
    said = segflow("verify", f"{tmp_path}/no", code=1)
    assert said.last.startswith("segflow verify: there is no precomputed volume")
    volume = make(f"file://{tmp_path}/v", image)
    assert "has no mip 4" in segflow("verify", volume.path, "-m", 4, code=1).last
    place = tmp_path / "v" / FOLDER / "6_6_30" / "0_0_0.json"
    place.write_text("[1")
    assert "is not JSON" in segflow("verify", volume.path, code=1).last
    place.write_text("[1]")
    assert "holds no checksums" in segflow("verify", volume.path, code=1).last


def test_a_server_that_is_gone_is_no_missing_block(bucket, image, monkeypatch):
    volume = make(f"{bucket}/v", image)
    info = volume.info()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    began = time.monotonic()
    with pytest.raises(VolumeError, match="cannot be reached"):
        verify(volume, [info.mip])
    assert time.monotonic() - began < 20
