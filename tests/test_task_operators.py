"""Operators that make, move, skip and mark tasks, and what the production lines need of volumes."""

from __future__ import annotations

import json
from shlex import split as words

import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.cli.main import chain_from_tokens
from segflow.errors import UsageError, VolumeError
from segflow.geometry import Box, blocks
from segflow.image.downsample import downsample, downsample_chunk
from segflow.tasks.boxfile import chosen, read_boxes, write_boxes
from segflow.tasks.queues import open_queue
from segflow.volumes import open_volume
from segflow.volumes.create import thumbnail_of
from segflow.volumes.presence import missing_blocks


def boxes(line):
    """Run a line and give the boxes of the tasks that are not passed over."""
    return [str(s.bbox) for s in chain_from_tokens(words(line)).states() if s.skipped is None]


@pytest.fixture
def image(data):
    return tifffile.imread(data / "ac4_image.tif")[:, :256, :256]


@pytest.fixture
def em(image, tmp_path, segflow):
    tifffile.imwrite(tmp_path / "em.tif", image, photometric="minisblack")
    segflow("read-tif", "-f", tmp_path / "em.tif", *words("--voxel-size 30 6 6 save --block-size 10 64 64"),
            "-v", tmp_path / "em")  # fmt: skip
    return f"file://{tmp_path}/em"


FOUR = "generate-tasks -c 4 8 8 -g 4 1 1"


# -- files of tasks -----------------------------------------------------------------------------


def test_boxes_go_through_a_file(tmp_path, segflow):
    wanted = boxes(FOUR)
    queue = f"fq://{tmp_path}/queue"
    segflow(*words(f"{FOUR} --file-path {tmp_path}/t -q {queue} create-chunk write-npy -f {tmp_path}/no/"))
    assert {told["bbox"] for told in open_queue(queue).peek(9)} == set(wanted)
    assert not (tmp_path / "no").exists()
    rows = np.load(tmp_path / "t.npy")
    assert rows.dtype == np.int64
    assert rows[1].tolist() == [4, 0, 0, 8, 8, 8]
    fetch = f"fetch-task-from-file -f {tmp_path}/t.npy"
    assert boxes(fetch) == wanted
    assert boxes(f"{fetch} --job-index 2") == wanted[2:3]
    assert boxes(f"{fetch} -i 1 -g 3") == wanted[3:]
    states = list(chain_from_tokens(words(f"--mip 2 {fetch} -i 1 --granularity 2")).states())
    assert [(s.index, s.count, s.mip) for s in states] == [(2, 4, 2), (3, 4, 2)]


def test_slurm_array(tmp_path, segflow, monkeypatch):
    write_boxes(str(tmp_path / "t.npy"), [Box.of((i, -2, 0), 3) for i in range(5)], 5)
    fetch = f"fetch-task-from-file --file-path {tmp_path}/t.npy --slurm-job-array -g 2"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert boxes(fetch) == ["2-5_-2-1_0-3", "3-6_-2-1_0-3"]
    assert "not both" in segflow(*words(f"{fetch} -i 1"), code=2).last
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert "job 3 has no task: the file's 5 tasks, 2 a job, are 3 jobs" in segflow(*words(fetch), code=2).last
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert "$SLURM_ARRAY_TASK_ID" in segflow(*words(fetch), code=2).last


def test_every_task_is_some_jobs():
    for count in range(1, 12):
        for granularity in range(1, 5):
            jobs = -(-count // granularity)
            assert [i for job in range(jobs) for i in chosen(count, job, granularity, False)] == list(
                range(count)
            )
            with pytest.raises(UsageError, match="has no task"):
                chosen(count, jobs, granularity, False)


def test_many_boxes_take_little_memory(tmp_path):
    import tracemalloc

    tracemalloc.start()
    write_boxes(str(tmp_path / "t.npy"), (Box.of((i, 0, 0), 1) for i in range(150_000)), 150_000)
    assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    tracemalloc.stop()
    assert read_boxes(str(tmp_path / "t.npy"))[149_999].tolist() == [149_999, 0, 0, 150_000, 1, 1]


def test_files_that_are_no_tasks(tmp_path, segflow):
    np.save(tmp_path / "flat.npy", np.ones(6, int))
    np.save(tmp_path / "float.npy", np.ones((2, 6)))
    np.save(tmp_path / "empty.npy", np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1]]))
    (tmp_path / "text.npy").write_text("no")
    fetch = "fetch-task-from-file -f"
    for name, text in (("flat", "N x 6"), ("float", "N x 6"), ("text", "is broken"), ("none", "not exist")):
        assert text in segflow(*words(f"{fetch} {tmp_path}/{name}.npy"), code=2).last
    assert "pickle" not in segflow(*words(f"{fetch} {tmp_path}/text.npy"), code=2).last
    assert "row 1 of" in segflow(*words(f"{fetch} {tmp_path}/empty.npy"), code=1).last
    assert "does not exist; make it first" in segflow(*words(f"{FOUR} -f {tmp_path}/none/t"), code=2).last


# -- boxes --------------------------------------------------------------------------------------


def test_adjust_bbox(segflow):
    assert boxes("create-bbox -s 4 4 4 -p 8 9 10 adjust-bbox -c -1 0 2 3 -1 0") == ["3-11_4-8_6-10"]
    assert boxes(f"{FOUR} adjust-bbox --corner-offset -1 -1 -1 1 1 1")[1] == "3-9_-1-9_-1-9"
    line = "create-bbox -s 4 4 4 -p 8 9 10 adjust-bbox -c 4 0 0 0 0 0"
    assert "leaves nothing of 4-8_4-9_4-10" in segflow(*words(line), code=2).last
    assert "has no box" in segflow(*words("create-chunk adjust-bbox -c 1 0 0 0 0 0"), code=2).last


# -- skips and marks ----------------------------------------------------------------------------


def test_marked_tasks_are_not_done_again(tmp_path, segflow):
    line = (
        f"{FOUR} skip-task-by-file --prefix {tmp_path}/done/a- -s .ok create-chunk --pattern random "
        f"write-npy -f {tmp_path}/out/ mark-complete -p {tmp_path}/done/a- --suffix .ok"
    )
    segflow(*words(line.replace("-g 4 1 1", "-g 4 1 1 -p 3")))
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == [
        f"a-{z}-{z + 4}_0-8_0-8.ok" for z in (0, 4, 8)
    ]
    assert all(p.stat().st_size == 0 for p in (tmp_path / "done").iterdir())
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    segflow(*words(line))
    assert len(list((tmp_path / "out").glob("*.npy"))) == 4
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())


def test_a_failed_task_is_not_marked(tmp_path, segflow):
    (tmp_path / "fail.py").write_text("def execute(a):\n    raise ValueError('no')\n")
    segflow("--on-error", "continue", *words(f"{FOUR} create-chunk plugin -f {tmp_path}/fail.py -i chunk "
            f"-o chunk mark-complete -p {tmp_path}/done/"), code=1)  # fmt: skip
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("mode", "left"),
    [("exist", ["8-12", "12-16"]), ("missing", ["0-4", "4-8"]), ("empty", ["0-4", "8-12", "12-16"])],
)
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_modes(tmp_path, mode, left, place, request):
    prefix = f"{tmp_path}/r-" if place == "folder" else f"{request.getfixturevalue('bucket')}/some/r-"
    for z, text in ((0, b"x"), (4, b"")):
        name = f"{z - 1}-{z + 5}_-1-9_-1-9.h5"
        if place == "folder":
            (tmp_path / f"r-{name}").write_bytes(text)
        else:
            import boto3

            boto3.client("s3").put_object(Bucket="bkt", Key=f"some/r-{name}", Body=text)
    for command in ("skip-task-by-file", "skip-task"):
        found = boxes(f"{FOUR} {command} -p {prefix} -s .h5 -m {mode} --adjust-size 1")
        assert [b.split("_")[0] for b in found] == left


def test_skip_none(tmp_path, segflow):
    (tmp_path / "odd.py").write_text("def execute(a):\n    return [a if a.bbox.start[0] % 8 else None]\n")
    line = f"{FOUR} create-chunk plugin -f {tmp_path}/odd.py -i chunk -o found skip-none -i found"
    assert [b.split("_")[0] for b in boxes(line)] == ["0-4", "4-8", "8-12", "12-16"][1::2]
    assert len(boxes(f"{line} -p {tmp_path}/none- -s .txt")) == 2
    assert len(boxes(f"{line} --no-touch -p {tmp_path}/other-")) == 2
    assert sorted(p.name for p in tmp_path.glob("*-*")) == ["none-0-4_0-8_0-8.txt", "none-8-12_0-8_0-8.txt"]
    (reason,) = {s.skipped for s in chain_from_tokens(words(line)).states()} - {None}
    assert reason == "no chunk 'found'"


def test_tasks_need_a_box(segflow, tmp_path):
    for line in (f"mark-complete -p {tmp_path}/x", f"skip-task-by-file -p {tmp_path}/x"):
        assert "the task has no box" in segflow(*words(f"create-chunk {line}"), code=None).last


def test_blocks_in_a_volume(em, tmp_path, segflow):
    line = f"generate-tasks -v {em} -c 10 128 128 skip-task-by-blocks-in-volume -v {em}"
    assert boxes(line) == []
    target = open_volume(em)
    next((tmp_path / "em" / "6_6_30").glob("192-256_128-192_10-20")).unlink()
    assert missing_blocks(target, Box((0, 0, 0), (20, 256, 256))) == [Box((10, 128, 192), (20, 192, 256))]
    assert boxes(line) == ["10-20_128-256_128-256"]
    segflow("create-info", *words("--volume-size 20 256 256 --voxel-size 30 6 6 --block-size 10 64 64"),
            "-v", tmp_path / "out", "-m", 1, "-f", 1, 2, 2)  # fmt: skip
    work = (
        f"generate-tasks -v {em} -c 10 128 128 skip-task-by-blocks-in-volume -v {tmp_path}/out "
        f"cutout -v {em} save -v {tmp_path}/out"
    )
    assert len(boxes(work)) == 8
    assert boxes(work) == []  # blocks of zeros are stored too
    assert (
        len(
            boxes(
                f"generate-tasks -v {em} -c 10 128 128 skip-task-by-blocks-in-volume -v {tmp_path}/out -m 1"
            )
        )
        == 8
    )
    segflow("cutout", "-v", em, "write-zarr", "-v", tmp_path / "z.zarr")
    with pytest.raises(VolumeError, match="not told by its files"):
        missing_blocks(open_volume(f"zarr://{tmp_path}/z.zarr"), Box((0, 0, 0), (1, 1, 1)))


def test_blocks_in_a_bucket(em, bucket):
    boxes(
        f"generate-tasks -v {em} -c 10 128 128 -p 2 cutout -v {em} save -v {bucket}/v --block-size 10 64 64"
    )
    line = f"generate-tasks -v {em} -c 10 128 128 skip-task-by-blocks-in-volume -v {bucket}/v"
    assert len(boxes(line)) == 6


# -- pyramids, infos, thumbnails, logs -----------------------------------------------------------


def test_factors_come_from_the_info(em, image, tmp_path, segflow):
    """Boxes that no block divides; factors that the volume names; then a second pass from mip 5."""
    make = "create-info --volume-size 20 256 256 --voxel-size 30 6 6 --block-size 16 48 48 -t image"
    segflow(*words(f"{make} -v {tmp_path}/v -m 2 -f 1 2 2"))
    segflow(*words(f"{make} -v {tmp_path}/v -m 4"))  # keeps 1 2 2, then 2 2 2
    sizes = [s["resolution"] for s in json.loads((tmp_path / "v/info").read_text())["scales"]]
    assert sizes == [[6, 6, 30], [12, 12, 30], [24, 24, 30], [48, 48, 60], [96, 96, 120]]
    said = segflow(*words(f"{make} -v {tmp_path}/v -m 4 -f 2 2 2"), code=1).last
    assert "its mip 1 is 0-20_0-128_0-128" in said
    volume = open_volume(str(tmp_path / "v"))
    cut = f"cutout -v {em} save -v {tmp_path}/v downsample-upload -v {tmp_path}/v --start-mip 1"
    segflow(*words(f"generate-tasks -v {em} -c 12 160 112 --respect-stop {cut} --stop-mip 5"))
    wanted = image
    for mip, step in enumerate([(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)], 1):
        wanted = downsample(wanted, step)
        np.testing.assert_array_equal(volume.read(mip=mip, fill_missing=False).array, wanted)
    segflow(*words(f"{make} -v {tmp_path}/w -m 2 -f 1 2 2"))
    cut = cut.replace(f"{tmp_path}/v", f"{tmp_path}/w")
    segflow(*words(f"generate-tasks -v {em} -c 7 150 111 --respect-stop {cut} --stop-mip 3"))
    for mip in range(3):  # boxes that do not divide are completed by what the neighbours saved
        found = open_volume(str(tmp_path / "w")).read(mip=mip, fill_missing=False).array
        np.testing.assert_array_equal(found, volume.read(mip=mip).array)


def test_a_second_pass(em, image, tmp_path, segflow):
    first = f"generate-tasks -v {em} -c 20 128 128 cutout -v {em} downsample-upload -v {em} --stop-mip 6"
    segflow(*words(first))
    second = (
        f"--mip 5 generate-tasks -v {em} -c 20 2048 2048 cutout -v {em} --fill-missing downsample-upload "
        f"-v {em} --start-mip 6 --stop-mip 10"
    )
    segflow(*words(second))
    wanted = image
    volume = open_volume(em)
    assert volume.info().mips == 10
    for mip in range(1, 10):
        wanted = downsample(wanted, (1, 2, 2))
        np.testing.assert_array_equal(volume.read(mip=mip, fill_missing=False).array, wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnail_and_log(em, image, tmp_path, segflow, channels):
    (tmp_path / "more.py").write_text(
        "import numpy as np\n\n\ndef execute(a):\n    grey = np.asarray(a, np.float32) / 255\n"
        f"    return np.stack([grey * 0] * {channels - 1} + [grey]) if {channels} > 1 else np.asarray(a)\n"
    )
    line = (
        f"--mip 0 generate-tasks -v {em} -c 10 128 128 cutout -v {em} plugin -f {tmp_path}/more.py -i chunk "
        f"-o chunk save -v {tmp_path}/out --upload-log --nproc 0 --create-thumbnail"
    )
    segflow(*words(line))
    logs = sorted(p.name for p in (tmp_path / "out/log").iterdir())
    assert len(logs) == 8
    log = json.loads((tmp_path / "out/log" / logs[0]).read_text())
    assert log["bbox"] == logs[0].removesuffix(".json") == "0-10_0-128_0-128"
    assert "plugin" in log["timer"]
    thumbnail = open_volume(str(tmp_path / "out/thumbnail"))
    assert (thumbnail.info().mips, thumbnail.info().channels) == (7, 1)
    found = thumbnail.read(mip=6, fill_missing=False).array
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, downsample(image, (1, 64, 64)))


@pytest.mark.parametrize(("start", "task"), [(100, 96), (101, 64), (0, 40)])
def test_thumbnail_windows_that_tasks_share(image, bucket, segflow, start, task):
    """They are one task's each, so a bucket takes them and the order of the tasks does not matter."""
    chunk = Chunk(np.maximum(image[:2, :150, :150], 50), (7, start, 30), (30, 6, 6), "image")
    where, small = f"{bucket}/out", []
    info = ["create-info", "-v", where, "--block-size", 2, 8, 8, "--volume-size", *chunk.shape]
    segflow(*info, "--voxel-offset", *chunk.voxel_offset, "--voxel-size", 30, 6, 6)
    grid = list(blocks(chunk.bbox, (2, task, task)))
    volume = open_volume(where)
    for order in (grid, grid[::-1]):
        for box in order:
            thumbnail_of(volume, chunk.pad_to(box), 0)
        small.append(open_volume(f"{where}/thumbnail").read(mip=6, fill_missing=False))
    np.testing.assert_array_equal(small[0].array, small[1].array)
    assert small[0].bbox == downsample_chunk(chunk, (1, 64, 64)).bbox
    assert small[0].array.min() >= 50  # no window is of what lies beyond the volume
