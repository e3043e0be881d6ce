"""setup-env: the search for sizes, infos, the queue, and the printed line, which is run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import UsageError
from segflow.geometry import Box, vec, words
from segflow.inference.patches import Patch, layout
from segflow.tasks.queues import open_queue
from segflow.tasks.setup_env import find_sizes
from segflow.volumes import info as metadata
from segflow.volumes import open_volume

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x * self.scale).repeat(1, 3, 1, 1, 1)

InstantiatedModel = Net()
"""

# ram, channels, mip, input patch, output patch, overlap, margin, max mip ->
# patches, output, input, expand margin, block: what chunkflow gives
GOLDEN = [
    ((14, 3, 1, (20, 256, 256), None, None, None, 6),
     ((11, 18, 18), (100, 2176, 2176), (120, 2432, 2432), (10, 128, 128), (50, 272, 272))),
    ((14, 4, 1, (20, 256, 256), (16, 192, 192), (2, 32, 32), (8, 96, 96), 8),
     ((14, 9, 9), (182, 1280, 1280), (202, 1536, 1536), (10, 128, 128), (91, 160, 160))),
    ((14, 3, 0, (20, 128, 128), (16, 96, 96), (6, 32, 32), None, 5),
     ((27, 23, 23), (264, 1440, 1440), (280, 1536, 1536), (8, 48, 48), (264, 180, 180))),
    ((4, 1, 0, (20, 128, 128), None, (4, 32, 32), None, 5),
     ((20, 13, 13), (316, 1216, 1216), (324, 1280, 1280), (4, 32, 32), (316, 152, 152))),
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), GOLDEN)
def test_golden_rows(given, wanted, tmp_path, segflow):
    ram, channels, mip, patch_in, patch_out, overlap, margin, max_mip = given
    out = patch_out or patch_in
    patch = Patch.of(patch_in, out, overlap or [n // 2 for n in out])
    sizes = find_sizes(patch, ram=ram, channels=channels, margin=margin, mip=mip, max_mip=max_mip)
    assert (sizes.patch_num, sizes.output, sizes.input, sizes.expand, sizes.block(mip, 6)) == wanted
    line = ["setup-env", "-l", tmp_path / "out", "-r", ram, "-c", channels, "-m", mip, "-x", max_mip]
    line += ["-i", *patch_in, "-z", *out, "--volume-size", 400, 9000, 9000]
    line += ["-o", *overlap] if overlap else []
    line += ["--crop-chunk-margin", *margin] if margin else []
    (text,) = segflow(*line).out.splitlines()
    for name, numbers in zip(("patch-num", "", "", "expand-margin-size"), wanted):
        assert not name or f"--{name} {words(numbers)} " in text
    assert open_volume(str(tmp_path / "out")).info(mip).block_size == wanted[-1]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(2, 12)] * 2), st.tuples(*[st.integers(0, 3)] * 2),
    st.tuples(*[st.floats(0, 0.9)] * 2), st.floats(1e-5, 1e-3), st.integers(1, 3), st.integers(0, 2),
    st.integers(0, 4),
)  # fmt: skip
def test_sizes_are_whole_patches_that_divide_and_fit(out, rim, share, ram, channels, mip, max_mip):
    (oz, oy), (rz, ry) = out, rim
    overlap = [int(oz * share[0]), *[int(oy * share[1])] * 2]
    patch = Patch.of((oz + 2 * rz, *[oy + 2 * ry] * 2), (oz, oy, oy), overlap)
    try:
        sizes = find_sizes(patch, ram=ram, channels=channels, mip=mip, max_mip=max_mip)
    except UsageError:
        return
    box = Box.of((5, 7, 9), sizes.output)
    found = layout(box.grow(sizes.expand), patch, crop_margin=sizes.margin, patch_num=sizes.patch_num)
    assert found.output == box
    assert all(a % 2**e == 0 for a, e in zip(sizes.output, (mip, max_mip, max_mip)))
    assert np.prod(sizes.blended) * channels * 4 <= ram * 1e9
    assert all(a % b == 0 for a, b in zip(sizes.output, sizes.block(mip, 6)))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ("-r 14 -z 20 250 250 -o 4 31 31 --crop-chunk-margin 4 30 30 --max-mip 9", "--max-mip"),
        ("-r 14 -z 20 255 256 -o 4 32 32", "--max-mip"),
        ("-r 14 -z 21 256 256 -o 0 32 32 --crop-chunk-margin 0 0 0 --mip 30", "makes a task's z"),
        ("-r 0.0001 -z 20 256 256", "holds no patch; give at least 0.0014"),
        ("-r 14 -z 20 256 256 -i 20 128 128", "--output-patch-size 256 in y must lie between"),
        ("-r 14 -z 20 256 256 -o 20 256 256", "must be smaller than the output patch"),
        ("-r 14 -z 20 256 256 -q what://x", "names no queue"),
        ("-r 14 -z 20 256 256 -e fpzip", "--dtype float32"),
        ("-r 14 -z 20 256 256 -l zarr:///tmp/x", "must be a precomputed volume"),
    ],
)
def test_what_cannot_work_is_one_line(more, text, tmp_path, segflow):
    place = tmp_path / "out"
    result = segflow("setup-env", "-l", place, "--volume-size", 100, 900, 900, *more.split(), code=2)
    assert text in result.err
    assert result.err.startswith("segflow setup-env: ")
    assert result.err.count("\n") == 1
    assert not place.exists()


# -- the tutorial's line ------------------------------------------------------------------------

T14 = (
    'setup-env -l "file://{}/my/output/layer/path" -r 14 -z 20 256 256 -c 3 -m 1 --thumbnail -e raw '
    "-v 40 4 4 --max-mip 6 -q my-sqs-queue-name"
)


def test_t14_word_for_word(tmp_path, segflow, bucket):
    place = tmp_path / "my/output/layer/path"
    line = shlex.split(T14.format(tmp_path))
    result = segflow(*line, code=2)
    assert "give --volume-size (or --volume-stop)" in result.err
    segflow("create-info", "-v", place, "--volume-size", 150, 4500, 4400, "--block-size", 50, 272, 272,
            "-c", 3, "--voxel-size", 40, 4, 4, "--data-type", "uint8")  # fmt: skip
    before = json.loads((place / "info").read_text())
    dry = segflow("--dry-run", *line)
    assert not (place / "thumbnail").exists()
    result = segflow(*line)
    assert dry.out.splitlines()[-1] == result.out.strip()
    words_ = shlex.split(result.out)
    assert words_[:9] == [
        "segflow", "--mip", "1", "fetch-task", "--queue-name", "my-sqs-queue-name", "--visibility-timeout",
        "3600", "read-precomputed",
    ]  # fmt: skip
    assert "--patch-num 11 18 18 write-precomputed" in result.out
    assert "warning" not in result.err
    after = json.loads((place / "info").read_text())
    assert {**after, "scales": after["scales"][:1]} == before  # kept; it has mip 1 now
    assert [s["size"] for s in after["scales"]] == [[4400, 4500, 150], [2200, 2250, 150]]
    small = open_volume(str(place / "thumbnail"))
    assert small.info().mips == 7
    assert (small.info(6).dtype, small.info(6).channels, small.info(6).block_size) == (
        "uint8",
        1,
        (50, 34, 34),
    )
    queue = open_queue("sqs://my-sqs-queue-name")
    assert queue.counts().waiting == 8
    boxes = set()
    while (held := queue.lease(60)) is not None:
        assert held.message["mip"] == 1
        boxes.add(held.message["bbox"])
        held.done()
    assert len(boxes) == 8
    assert {"0-100_0-2176_0-2176", "100-200_2176-4352_2176-4352"} <= boxes


# -- infos --------------------------------------------------------------------------------------

SMALL = "setup-env -r 2e-5 -z 4 16 16 -o 2 4 4 -c 3 --max-mip 2 -b 2 "


def small(tmp_path, *more):
    return [*SMALL.split(), "-l", tmp_path / "out", *more]


def test_an_info_is_kept_unless_told(tmp_path, segflow):
    segflow(*small(tmp_path, "--volume-start", 2, 4, 8, "--volume-stop", 30, 90, 80, "-v", 30, 6, 6))
    found = open_volume(str(tmp_path / "out"))
    assert (found.info().bounds, found.info().dtype) == (Box((2, 4, 8), (30, 90, 80)), "uint8")
    assert (found.info().voxel_size, found.info().layer_type) == ((30, 6, 6), "affinity_map")
    again = segflow(*small(tmp_path, "-d", "float32", "-v", 40, 4, 4))
    assert "is kept: dtype uint8, not float32; voxel size 30 6 6, not 40 4 4" in again.err
    assert open_volume(str(tmp_path / "out")).info() == found.info()
    segflow(*small(tmp_path, "-d", "float32", "--overwrite-info"))
    anew = open_volume(str(tmp_path / "out")).info()
    assert (anew.bounds, anew.dtype, anew.voxel_size) == (found.info().bounds, "float32", (30, 6, 6))


def test_an_info_that_does_not_fit(tmp_path, segflow):
    segflow(*small(tmp_path, "--volume-size", 30, 90, 80))
    line = small(tmp_path)
    assert "has 3 channel(s), not 1" in segflow(*line, "-c", 1, code=2).err
    assert "goes beyond" in segflow(*line, "--volume-size", 30, 90, 81, code=2).err
    assert (
        "wholly outside" in segflow(*line, "--volume-start", 30, 0, 0, "--volume-size", 1, 1, 1, code=2).err
    )


def test_a_bucket_needs_whole_blocks(segflow, bucket):
    segflow("create-info", "-v", f"{bucket}/a", "--volume-size", 30, 90, 80, "--block-size", 7, 64, 64,
            "-c", 3, "--voxel-size", 40, 4, 4)  # fmt: skip
    line = [*SMALL.split(), "-l", f"{bucket}/a"]
    assert "as a bucket needs; --overwrite-info" in segflow(*line, code=2).err
    out = segflow(*line, "--overwrite-info").out
    assert f"--volume-path {bucket}/a " in out


def test_a_thumbnail_ends_where_tasks_divide(tmp_path, segflow):
    result = segflow(*small(tmp_path, "--volume-size", 30, 90, 80, "-b", 6))
    assert "the thumbnail ends at mip" in result.err
    last = open_volume(str(tmp_path / "out/thumbnail")).info().mips - 1
    assert 2 <= last < 6
    segflow(*[*SMALL.split(), "-l", tmp_path / "plain"], "--volume-size", 30, 90, 80, "--no-thumbnail")
    assert not (tmp_path / "plain/thumbnail").exists()


# -- the printed line is run --------------------------------------------------------------------


def environment(tmp_path):
    """Make a network whose answer is its input, three times; give what the line's user sets."""
    import torch

    (tmp_path / "net.py").write_text(NET)
    torch.save({"scale": torch.ones(1)}, tmp_path / "net.pt")
    return {
        "IMAGE_LAYER_PATH": f"file://{tmp_path}/image", "CONVNET_MODEL_FILE": str(tmp_path / "net.py"),
        "CONVNET_WEIGHT_FILE": str(tmp_path / "net.pt"), "SEGFLOW_POLL_MAX": "0.01",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
    }  # fmt: skip


def image_at(tmp_path, box, mip):
    """Write an image without zeros into a volume at a mip."""
    array = np.random.default_rng(1).integers(1, 256, box.shape, dtype="uint8")
    volume = open_volume(str(tmp_path / "image"))
    full = Box(vec([a * f for a, f in zip(box.start, (1, 2**mip, 2**mip))]),
               vec([a * f for a, f in zip(box.stop, (1, 2**mip, 2**mip))]))  # fmt: skip
    raw = metadata.make(full, "uint8", voxel_size=(30, 6, 6), block_size=(8, 16, 16))
    volume.create(metadata.with_mips(raw, mip + 1, (1, 2, 2)))
    volume.write(Chunk(array, box.start, (30, 6 * 2**mip, 6 * 2**mip), "image"), mip)
    return array, full


@pytest.mark.parametrize(
    ("box", "mip", "options", "process"),
    [
        # sizes that do not divide, an offset, the input patch larger than the output patch
        (Box((3, 8, 4), (26, 61, 50)), 1, "-i 8 20 20 -z 4 16 16 -o 2 4 4 -r 2e-4 -x 2 -b 2", True),
        # the same patches in and out; exactly two tasks along each axis
        (Box((0, 0, 0), (24, 80, 80)), 0, "-z 4 16 16 -o 1 4 4 --crop-chunk-margin 2 6 6 -r 4e-4 -x 2 -b 2", False),
        # smaller than a task
        (Box((0, 0, 0), (5, 11, 7)), 0, "-z 4 16 16 -r 5e-4 -x 2 --no-thumbnail", False),
    ],
)  # fmt: skip
def test_the_printed_line_covers_the_volume_once(box, mip, options, process, tmp_path, segflow, monkeypatch):
    image, full = image_at(tmp_path, box, mip)
    told = environment(tmp_path)
    place = tmp_path / "out"
    line = segflow("setup-env", "-l", place, "-c", 3, "-m", mip, "--volume-start", *full.start, "--volume-size",
                   *full.shape, *options.split(), "-q", f"fq://{tmp_path}/queue").out  # fmt: skip
    count = open_queue(f"fq://{tmp_path}/queue").counts().waiting
    if process:
        subprocess.run(["sh", "-c", line], env={**os.environ, **told}, check=True, cwd=tmp_path, timeout=120)
    else:
        expanded = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], env=told, capture_output=True)
        monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.01")
        segflow(*expanded.stdout.decode().split("\0")[1:-1])
    assert open_queue(f"fq://{tmp_path}/queue").counts() == (0, 0, 0)
    found = open_volume(str(place)).read(box, mip)
    assert all(np.array_equal(channel, image) for channel in found.array)
    boxes = [Box.parse(p.name) for p in (place / "log").iterdir()]
    assert len(boxes) == count
    assert count > 1 or max(box.shape) < 12
    assert sum(b.intersect(box).voxels for b in boxes) == box.voxels  # covered, so none twice
    if "--no-thumbnail" not in options:
        thumbnail = open_volume(str(place / "thumbnail"))
        assert thumbnail.read(mip=2).array.min() > 0


def test_without_a_queue_the_tasks_go_on(tmp_path, segflow, monkeypatch):
    box = Box((0, 0, 0), (12, 40, 40))
    image, _ = image_at(tmp_path, box, 0)
    setup = small(tmp_path, "--volume-size", *box.shape, "-r", 2e-4)
    result = segflow(*setup, "create-chunk", "-o", "x", "write-npy", "-i", "x", "-f", f"{tmp_path}/npy/")
    line = result.out.strip()
    assert "generate-tasks --bounding-box 0-" in line
    assert "-task " not in line
    assert "delete-task" not in line
    count = len(list((tmp_path / "npy").glob("*.npy")))
    assert count > 1
    told = environment(tmp_path)
    expanded = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], env=told, capture_output=True)
    segflow(*expanded.stdout.decode().split("\0")[1:-1])
    assert np.array_equal(open_volume(str(tmp_path / "out")).read().array[2], image)
    assert len(list((tmp_path / "out/log").iterdir())) == count


def test_the_printed_line_in_a_bucket(tmp_path, segflow, bucket, monkeypatch):
    box = Box((0, 0, 0), (9, 50, 41))  # no whole number of tasks along any axis
    image, _ = image_at(tmp_path, box, 0)
    line = segflow("setup-env", "-l", f"{bucket}/affs", "-c", 3, "--volume-size", *box.shape, "-z", 4, 16, 16,
                   "-o", 2, 4, 4, "-r", 8e-4, "-x", 2, "-b", 2, "-q", "sqs://line")  # fmt: skip
    told = {**os.environ, **environment(tmp_path)}
    expanded = subprocess.run(["sh", "-c", f"printf '%s\\0' {line.out}"], env=told, capture_output=True)
    monkeypatch.setenv("SEGFLOW_POLL_MAX", "0.01")
    segflow(*expanded.stdout.decode().split("\0")[1:-1])
    assert sum(open_queue("sqs://line").counts()) == 0
    found = open_volume(f"{bucket}/affs").read(fill_missing=False)
    assert all(np.array_equal(channel, image) for channel in found.array)
