"""Precomputed volumes against tensorstore alone; downsampling against tinybrain."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import tensorstore
import tifffile
from table import in_turn, row

from segflow.chunk import Chunk, own
from segflow.image.downsample import downsample
from segflow.volumes import open_volume
from segflow.volumes.create import make_volume

DATA = Path(__file__).parent.parent / "tests" / "data"


def read_and_write(name: str, chunk: Chunk, folder: Path) -> None:
    """Time writing a new volume of one chunk, and reading it."""
    path = folder / name

    def ours() -> None:
        shutil.rmtree(path, ignore_errors=True)
        volume = open_volume(f"file://{path}")
        make_volume(volume, chunk)
        volume.write(chunk)

    ours()
    encoding = open_volume(f"file://{path}").info().encoding
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}.ts/"},
        "multiscale_metadata": {
            "data_type": str(chunk.dtype),
            "num_channels": 1,
            "type": "segmentation" if chunk.is_segmentation else "image",
        },
        "scale_metadata": {
            "size": chunk.shape[::-1],
            "resolution": [6, 6, 30],
            "encoding": encoding,
            "chunk_size": [64, 64, 64],
            **({"compressed_segmentation_block_size": [8, 8, 8]} if encoding != "raw" else {}),
        },
    }
    xyz = chunk.array.T[..., None]  # Fortran order, as both like it

    def peer() -> None:
        tensorstore.open(spec, create=True, delete_existing=True).result().write(xyz).result()

    write, peer_write = in_turn(ours, peer)
    row(f"write {name}, {encoding}", write, "tensorstore", peer_write)
    read, peer_read = in_turn(
        lambda: open_volume(f"file://{path}").read(),
        lambda: tensorstore.open(spec, open=True).result().read(order="F").result(),
    )
    row(f"read {name}, {encoding}", read, "tensorstore", peer_read)


def pyramids(image: Chunk, labels: Chunk) -> None:
    """Time one level of 2 x 2 x 2, for an image and for labels."""
    try:
        import tinybrain
    except ImportError:
        print("tinybrain is not installed: pip install .[bench]")
        return
    grey, ids = (own(c.array).T for c in (image, labels))
    ours, peer = in_turn(
        lambda: downsample(image.array, 2), lambda: tinybrain.downsample_with_averaging(grey, (2, 2, 2))
    )
    (theirs,) = tinybrain.downsample_with_averaging(grey, (2, 2, 2))
    off = np.abs(downsample(image.array, 2).astype(int) - theirs.T.reshape(-1, *theirs.T.shape[-2:])).max()
    row("downsample image 2x2x2", ours, "tinybrain", peer, f"values differ by {off} at most")
    ours, peer = in_turn(
        lambda: downsample(labels.array, 2, labels=True),
        lambda: tinybrain.downsample_segmentation(ids, (2, 2, 2)),
    )
    (theirs,) = tinybrain.downsample_segmentation(ids, (2, 2, 2))
    same = (downsample(labels.array, 2, labels=True) == theirs.T.reshape(-1, *theirs.T.shape[-2:])).mean()
    row("downsample labels 2x2x2", ours, "tinybrain", peer, f"{same:.2%} of voxels equal (ties)")


if __name__ == "__main__":
    image = np.tile(tifffile.imread(DATA / "ac4_image.tif"), (6, 1, 1))
    with h5py.File(DATA / "pinky40_mip1.h5") as file:
        labels = np.tile(file["mip1"][:], (1, 2, 2)).astype(np.uint64)
    place = {"voxel_size": (30, 6, 6)}
    with tempfile.TemporaryDirectory() as made:
        read_and_write("image", Chunk(image, **place), Path(made))
        read_and_write("labels", Chunk(labels, **place), Path(made))
    pyramids(Chunk(image), Chunk(labels))
