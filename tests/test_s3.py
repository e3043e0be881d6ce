"""Volumes in a bucket: a local S3 server in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from functools import partial

import h5py
import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.errors import BoxError, VolumeError
from segflow.geometry import Box
from segflow.volumes import info as metadata
from segflow.volumes import open_volume, peek
from segflow.volumes.pyramid import build_pyramid
from segflow.volumes.store import S3Store, change_json


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")[:16, :128, :100]


def make(path, chunk, block=(16, 64, 64), mips=1, encoding="raw"):
    volume = open_volume(path)
    raw = metadata.make(
        chunk.bbox, chunk.dtype.name, layer_type=chunk.layer_type, voxel_size=(30, 6, 6), block_size=block,
        encoding=encoding,
    )  # fmt: skip
    volume.create(metadata.with_mips(raw, mips, (1, 2, 2)))
    return volume


def test_round_trip_and_an_independent_reader(bucket, server, image):
    import tensorstore as ts

    chunk = Chunk(image, (1, 2, 3))
    volume = make(f"{bucket}/a/v", chunk)
    volume.write(chunk)
    found = open_volume(f"{bucket}/a/v").read()
    np.testing.assert_array_equal(found.array, image)
    assert found.voxel_offset == (1, 2, 3)
    store = ts.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "s3", "bucket": "bkt", "path": "a/v/", "endpoint": server,
                        "aws_region": "us-east-1", "aws_credentials": {"type": "environment"}},
        }
    ).result(timeout=30)  # fmt: skip
    np.testing.assert_array_equal(store.read().result(timeout=30).T[0], image)


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation", "compresso"])
def test_labels_and_pyramid(bucket, data, encoding):
    with h5py.File(data / "pinky40_mip1.h5") as file:
        labels = Chunk(file["mip1"][:16, :128, :96])
    volume = make(f"{bucket}/v", labels, mips=2, encoding=encoding)
    volume.write(labels)
    assert build_pyramid(volume) == [1]
    again = open_volume(f"{bucket}/v")
    np.testing.assert_array_equal(again.read(fill_missing=False).array, labels.array)
    assert again.read(mip=1, fill_missing=False).shape == (16, 64, 48)


def test_aligned_or_refused(bucket, image):
    chunk = Chunk(image)
    volume = make(f"{bucket}/v", chunk)
    volume.write(chunk.cutout(Box((0, 64, 64), (16, 128, 100))))  # cut by the volume's end
    with pytest.raises(BoxError, match="write 0-16_0-64_0-64, or"):
        volume.write(chunk.cutout(Box((0, 0, 0), (8, 64, 64))))
    found = volume.read().array
    assert not found[:, :64].any()
    np.testing.assert_array_equal(found[:, 64:, 64:], image[:, 64:, 64:])


def test_missing_blocks_and_volumes(bucket, image):
    chunk = Chunk(image)
    volume = make(f"{bucket}/v", chunk)
    volume.write(chunk.cutout(Box((0, 0, 0), (16, 64, 64))))
    assert not volume.read().array[:, 64:].any()
    with pytest.raises(VolumeError, match="--fill-missing"):
        volume.read(fill_missing=False)
    with pytest.raises(VolumeError, match="no info file"):
        open_volume(f"{bucket}/none").info()
    with pytest.raises(VolumeError, match="NoSuchBucket"):
        open_volume("s3://nobody/none").info()
    assert peek(f"{bucket}/none") is None


def test_the_same_bytes_twice(bucket, image):
    import boto3

    volume = make(f"{bucket}/v", Chunk(image))
    tags = []
    for _ in range(2):
        volume.write(Chunk(image))
        volume.note({"segflow": "0", "chain": []})
        objects = boto3.client("s3").list_objects_v2(Bucket="bkt")["Contents"]
        tags.append({o["Key"]: o["ETag"] for o in objects})
        time.sleep(1.1)
    assert tags[0] == tags[1]


def add(found, key):
    return {**(found or {}), key: 1}


def test_workers_change_the_info_together(bucket):
    store = S3Store(f"{bucket}/v")

    def work(number):
        for step in range(4):
            change_json(S3Store(f"{bucket}/v"), "info", partial(add, key=f"{number}.{step}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.get_json("info")) == 16


def test_peek_imports_nothing_heavy(bucket, image):
    make(f"{bucket}/v", Chunk(image))
    code = (
        "import sys; from segflow.volumes import peek; assert peek(sys.argv[1]).dtype == 'uint8'; "
        "print([m for m in ('numpy', 'torch', 'tensorstore', 'cloudvolume') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, f"{bucket}/v"], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_commands(bucket, segflow, data, tmp_path, image):
    read = ["read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6]
    whole = tifffile.imread(data / "ac4_image.tif")
    segflow(*read, "write-precomputed", "-v", f"{bucket}/v", "--block-size", 20, 128, 128, "--upload-log",
            "--create-thumbnail", "downsample", "-v", f"{bucket}/v", "--mips", 3)  # fmt: skip
    segflow("cutout", "-v", f"{bucket}/v", "--start", 3, 100, 100, "--size", 5, 200, 200, "write-npy",
            "-f", tmp_path / "c.npy")  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), whole[3:8, 100:300, 100:300])
    store = S3Store(f"{bucket}/v")
    assert store.get_json("log/0-20_0-512_0-512.json")["bbox"] == "0-20_0-512_0-512"
    assert store.list("segflow_provenance/")
    assert json.loads(store.get("thumbnail/info"))["data_type"] == "uint8"
    assert open_volume(f"{bucket}/v").info(2).bounds.shape == (20, 128, 128)
    shown = segflow("provenance", f"{bucket}/v").out
    assert shown.startswith("segflow read-tif")
    said = segflow("cutout", "-v", f"{bucket}/none", code=2).last
    assert "no info file" in said
    assert (
        "wholly outside"
        in segflow("cutout", "-v", f"{bucket}/v", "--start", 99, 0, 0, "--size", 1, 1, 1, code=2).last
    )


def test_copy_between_bucket_and_folder(bucket, segflow, tmp_path, image):
    volume = make(f"{bucket}/v", Chunk(image))
    volume.write(Chunk(image))
    segflow("generate-tasks", "-v", f"{bucket}/v", "--chunk-size", 16, 64, 64,
            "read-precomputed", "-v", f"{bucket}/v", "write-precomputed", "-v", tmp_path / "w",
            "write-precomputed", "-v", f"{bucket}/w")  # fmt: skip
    for path in (str(tmp_path / "w"), f"{bucket}/w"):
        np.testing.assert_array_equal(open_volume(path).read(fill_missing=False).array, image)


def test_joined_labels_come_in_whole_chunks(bucket, data, tmp_path):
    from segflow.blocks.cut import Blocks
    from segflow.blocks.folder import open_blocks
    from segflow.blocks.label_job import Output, merge_labels
    from segflow.volumes.hdf5 import read_h5, write_h5

    truth = Chunk(
        tifffile.imread(data / "ac4_labels.tif")[:, :150, :170], (3, 0, 0), (30, 6, 6), "segmentation"
    )
    blocks = Blocks.over(truth.bbox, (12, 60, 70), (4, 12, 12))
    for index, box in enumerate(blocks):
        write_h5(str(tmp_path / f"chunk_{blocks.name(index)}.h5"), truth.cutout(box))
    found = open_blocks(str(tmp_path))
    merge_labels(*found, Output.at(str(tmp_path / "seg.h5"), None))
    output = Output.at(None, f"{bucket}/seg", options={"block_size": (7, 32, 32)})
    counts = merge_labels(*found, output, work_dir=str(tmp_path / "work"))
    assert counts["apply"] == len(blocks)
    assert (open_volume(f"{bucket}/seg").read().array == read_h5(str(tmp_path / "seg.h5")).array).all()
