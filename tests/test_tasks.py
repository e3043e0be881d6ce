"""Boxes from sizes, the stream of tasks, skips, names, timing logs and their summary."""

from __future__ import annotations

import json
from shlex import split as words

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.cli import run_chain
from segflow.cli.main import chain_from_tokens
from segflow.errors import BoxError, UsageError, VolumeError
from segflow.geometry import Box, Grid, blocks
from segflow.state import Record, Run, State
from segflow.tasks.log import log_dict, read_logs, write_log
from segflow.tasks.summary import summary, timings
from segflow.tasks.tasks import make_tasks

ROI = Box((0, 0, 0), (30, 100, 64))
small = st.tuples(*[st.integers(1, 9)] * 3)


def boxes(line):
    """Run a line and give its tasks' boxes."""
    return [str(state.bbox) for state in chain_from_tokens(words(line)).states()]


# -- the grid -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-9, 9)] * 3), st.tuples(*[st.integers(1, 14)] * 3), small, small)
def test_blocks_cover_a_box_and_none_is_needless(start, shape, size, stride):
    box = Box.of(start, shape)
    grid = Grid.over(box, size, stride)
    found = list(blocks(box, size, stride))
    assert found == list(grid) == [grid[i] for i in range(len(grid))]
    assert found == sorted(found)
    for axis in range(3):
        first = sorted({b.start[axis] for b in found})
        assert first[0] == start[axis]
        assert all(b - a == stride[axis] for a, b in zip(first, first[1:]))
        if stride[axis] <= size[axis]:
            assert first[-1] + size[axis] >= box.stop[axis]
            before = first[-2] + size[axis] if len(first) > 1 else start[axis]
            assert before < box.stop[axis]  # the last adds voxels to those before it
        else:
            assert first[-1] < box.stop[axis] <= first[-1] + stride[axis]


def test_grid_ends():
    grid = Grid.over(ROI, (20, 50, 64), (16, 50, 64))
    assert (grid.counts, len(grid)) == ((2, 2, 1), 4)
    with pytest.raises(IndexError):
        grid[4]
    for size, stride in (((0, 1, 1), None), ((4, 4, 4), (4, 0, 4))):
        with pytest.raises(BoxError, match="positive"):
            Grid.over(ROI, size, stride)


# -- tasks from sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"chunk_size": (30, 64, 64)}, ["0-30_0-64_0-64", "0-30_64-128_0-64"]),
        ({"chunk_size": (30, 64, 64), "respect_chunk_size": False}, ["0-30_0-64_0-64", "0-30_64-100_0-64"]),
        ({}, ["0-30_0-100_0-64"]),
        ({"chunk_size": (20, 100, 64), "overlap": (4, 0, 0)}, ["0-20_0-100_0-64", "16-36_0-100_0-64"]),
        ({"chunk_size": (17, 100, 64), "overlap": (4, 0, 0)}, ["0-17_0-100_0-64", "13-30_0-100_0-64"]),
        ({"chunk_size": (8, 100, 64), "stride": (25, 100, 64)}, ["0-8_0-100_0-64", "25-33_0-100_0-64"]),
        ({"chunk_size": (8, 8, 8), "grid_size": (1, 1, 2)}, ["0-8_0-8_0-8", "0-8_0-8_8-16"]),
        ({"roi_start": (2, 3, 4)}, ["2-30_3-100_4-64"]),
        ({"roi_start": (2, 3, 4), "roi_size": (5, 5, 5)}, ["2-7_3-8_4-9"]),
        ({"roi_stop": (5, 6, 7)}, ["0-5_0-6_0-7"]),
        ({"roi_stop": (5, 6, 7), "roi_size": (5, 6, 7)}, ["0-5_0-6_0-7"]),
        ({"bounding_box": Box((1, 1, 1), (3, 3, 3))}, ["1-3_1-3_1-3"]),
        (
            {"roi_start": (3, 0, 0), "roi_stop": (9, 8, 8), "aligned_block_size": (8, 8, 8), "chunk_size": (8, 8, 8)},
            ["0-8_0-8_0-8", "8-16_0-8_0-8"],
        ),
    ],
)  # fmt: skip
def test_tasks_of_a_volume(options, wanted):
    tasks = make_tasks(ROI, **options)
    assert [str(box) for _, box in tasks] == wanted
    assert len(tasks) == len(wanted)


def test_blocks_are_those_of_the_volume():
    bounds = Box((7, 104, 200), (27, 360, 456))
    tasks = make_tasks(bounds, roi_start=(9, 170, 201), roi_stop=(20, 171, 210), chunk_size=(20, 64, 64),
                       aligned_block_size=(20, 64, 64))  # fmt: skip
    assert [str(box) for _, box in tasks] == ["7-27_168-232_200-264"]


def test_grid_without_a_region():
    tasks = make_tasks(chunk_size=(8, 8, 8), grid_size=(2, 1, 1), stride=(10, 0, 0), roi_start=(1, 2, 3))
    assert [str(box) for _, box in tasks] == ["1-9_2-10_3-11", "11-19_2-10_3-11"]


def test_part_of_the_tasks_keeps_its_numbers():
    sizes = {"chunk_size": (8, 8, 8), "grid_size": (2, 3, 1)}
    every = dict(make_tasks(**sizes))
    part = make_tasks(**sizes, index_start=2, index_stop=5)
    assert list(part) == [(i, every[i]) for i in (2, 3, 4)]
    assert len(make_tasks(**sizes, index_start=4, index_stop=99)) == 2


def test_many_tasks_cost_nothing():
    tasks = make_tasks(chunk_size=(1, 1, 1), grid_size=(1000, 10000, 10000))
    assert len(tasks) == 10**11
    assert tasks.box(10**11 - 1).start == (999, 9999, 9999)


@pytest.mark.parametrize(
    ("bounds", "options", "text"),
    [
        (None, {"chunk_size": (8, 8, 8)}, "nothing says which region"),
        (None, {"grid_size": (1, 1, 1)}, "nothing says which region"),
        (ROI, {"chunk_size": (0, 8, 8)}, "chunk size 0 8 8 must be positive"),
        (ROI, {"chunk_size": (8, 8, 8), "overlap": (8, 0, 0)}, "less than the chunk 8 8 8"),
        (ROI, {"chunk_size": (8, 8, 8), "overlap": (-1, 0, 0)}, "less than the chunk 8 8 8"),
        (ROI, {"chunk_size": (8, 8, 8), "overlap": (1, 1, 1), "stride": (1, 1, 1)}, "say the same"),
        (None, {"chunk_size": (8, 8, 8), "grid_size": (2, 1, 1), "stride": (0, 0, 0)}, "would not move on"),
        (ROI, {"chunk_size": (8, 8, 8), "stride": (0, 8, 8)}, "would not move on"),
        (ROI, {"roi_start": (0, 0, 0), "bounding_box": ROI}, "the whole region"),
        (ROI, {"roi_stop": (5, 5, 5), "roi_size": (4, 4, 4)}, "ends at 4 4 4, not at 5 5 5"),
        (ROI, {"roi_start": (9, 9, 9), "roi_stop": (9, 10, 10)}, "is empty"),
        (
            ROI,
            {"roi_start": (90, 0, 0), "roi_stop": (99, 9, 9)},
            "wholly outside the volume's 0-30_0-100_0-64",
        ),
        (
            ROI,
            {"chunk_size": (8, 9, 8), "aligned_block_size": (8, 8, 8)},
            "chunk size 8 9 8 is not whole blocks",
        ),
        (ROI, {"chunk_size": (8, 8, 8), "overlap": (1, 0, 0), "aligned_block_size": (8, 8, 8)}, "stride"),
        (ROI, {"chunk_size": (8, 8, 8), "grid_size": (9, 1, 1), "respect_chunk_size": False}, "goes beyond"),
        (ROI, {"chunk_size": (8, 8, 8), "grid_size": (0, 1, 1)}, "grid size 0 1 1 must be positive"),
        (ROI, {"index_start": 1}, "there are 1 tasks, 0 to 0"),
    ],
)
def test_sizes_that_contradict(bounds, options, text):
    with pytest.raises(UsageError, match=text):
        make_tasks(bounds, **options)


# -- generate-tasks and create-bbox -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        # the tutorial's own sizes
        ("--chunk-size 128 1024 1024 --grid-size 2 1 1 --stride 128 1024 1024",
         ["0-128_0-1024_0-1024", "128-256_0-1024_0-1024"]),
        ("-c 8 8 8 -g 1 1 2", ["0-8_0-8_0-8", "0-8_0-8_8-16"]),
        ("-c 8 8 8 --roi-start -4 0 0 --roi-stop 6 8 8", ["-4-4_0-8_0-8", "4-12_0-8_0-8"]),
        ("-c 8 8 8 -s -4 0 0 -z 10 8 8 --respect-stop", ["-4-4_0-8_0-8", "4-6_0-8_0-8"]),
        ("-c 8 8 8 --bounding-box 0-12_0-8_0-8 -o 4 0 0", ["0-8_0-8_0-8", "4-12_0-8_0-8"]),
        ("-c 8 8 8 -g 4 1 1 --task-index-start 1 --task-index-stop 3", ["8-16_0-8_0-8", "16-24_0-8_0-8"]),
        ("-c 8 8 8 -r 12 8 8 -a 16 8 8 -g 1 1 1 -c 16 8 8", ["0-16_0-8_0-8"]),
    ],
)  # fmt: skip
def test_generate_tasks(options, wanted):
    assert boxes("generate-tasks " + options) == wanted


def test_tasks_know_their_place():
    chain = chain_from_tokens(words("--mip 1 generate-tasks -c 8 8 8 -g 3 1 1 -i 1"))
    assert [(s.index, s.count, s.mip) for s in chain.states()] == [(1, 3, 1), (2, 3, 1)]
    assert run_chain(*words("--mip 1 generate-tasks -m 2 -c 8 8 8 -g 1 1 1")).mip == 2


def test_the_closing_lines_are_few(segflow, tmp_path):
    said = segflow(*words(f"generate-tasks -c 1 4 4 -g 14 1 1 create-chunk write-npy -f {tmp_path}/out/")).err
    assert said.count("wrote") == 10
    assert "and 4 more" in said


def test_disbatch_takes_one_task(monkeypatch, segflow):
    monkeypatch.setenv("DISBATCH_REPEAT_INDEX", "2")
    assert boxes("generate-tasks -c 8 8 8 -g 3 1 1 --disbatch") == ["16-24_0-8_0-8"]
    monkeypatch.delenv("DISBATCH_REPEAT_INDEX")
    assert "$DISBATCH_REPEAT_INDEX" in segflow(*words("generate-tasks -c 8 8 8 -g 3 1 1 -d"), code=2).err


def test_tasks_of_a_real_volume(data, tmp_path, segflow):
    image = tifffile.imread(data / "ac4_image.tif")[:, :128, :100]
    np.save(tmp_path / "image.npy", image)
    volume = f"file://{tmp_path}/image"
    segflow("read-npy", "-f", tmp_path / "image.npy", "--voxel-offset", 10, 0, 0, "--voxel-size", 30, 6, 6,
            "write-precomputed", "-v", volume)  # fmt: skip
    wanted = ["10-30_0-64_0-100", "10-30_64-128_0-100"]
    for old in ("-v", "-l", "--volume-path"):
        assert boxes(f"generate-tasks {old} {volume} -m 0 -o 0 0 0 -c 20 64 100") == wanted
    assert boxes(f"generate-tasks -v {volume}") == ["10-30_0-128_0-100"]
    assert boxes(f"generate-tasks -v {volume} -c 20 64 64 --respect-stop")[1] == "10-30_0-64_64-100"
    line = f"generate-tasks -v {volume} -c 10 64 100 cutout -v {volume} write-npy -f {tmp_path}/parts/"
    segflow(*words(line))
    for path in (tmp_path / "parts").glob("*.npy"):
        box = Box.parse(path.name)
        np.testing.assert_array_equal(np.load(path), image[box.slices((10, 0, 0))])
    assert len(list((tmp_path / "parts").glob("*.npy"))) == 4
    shown = segflow("--dry-run", *words(f"generate-tasks -v {volume} -c 10 64 100")).out
    assert "box 10-20_0-64_0-100" in shown
    for options, text in (("-m 3", "no mip 3"), ("--roi-stop 9 9 9", "empty"), ("-b 1-2", "holds no box")):
        assert text in segflow(*words(f"generate-tasks -v {volume} {options}"), code=2).err
    assert (
        "no precomputed volume" in segflow(*words("generate-tasks -v file:///nowhere -c 8 8 8"), code=2).err
    )


def test_tasks_of_a_volume_made_earlier(tmp_path):
    volume = f"file://{tmp_path}/made"
    line = f"create-chunk -s 8 8 8 write-precomputed -v {volume} generate-tasks -v {volume} -c 4 8 8"
    assert boxes(line) == ["0-4_0-8_0-8", "4-8_0-8_0-8"]


def test_a_source_in_the_middle_keeps_what_was_there():
    state = run_chain(*words("create-chunk -s 4 4 4 -o image generate-tasks -c 8 8 8 -g 2 1 1"))
    assert state["image"].shape == (4, 4, 4)
    assert boxes("generate-tasks -c 8 8 8 -g 2 1 1 create-bbox -s 0 0 0 -p 1 2 3") == ["0-1_0-2_0-3"] * 2


def test_one_file_for_several_tasks_is_refused(segflow, tmp_path):
    line = f"generate-tasks -c 4 8 8 -g 2 1 1 create-chunk write-npy -f {tmp_path}/x.npy"
    assert "{bbox}" in segflow(*words(line), code=2).err
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize("options", ["--stop 4 6 8", "-p 4 6 8", "--size 3 4 5", "-z 3 4 5"])
def test_create_bbox(options, segflow):
    assert boxes(f"create-bbox --start 1 2 3 {options}") == ["1-4_2-6_3-8"]
    assert "box 1-4_2-6_3-8" in segflow("--dry-run", *words(f"create-bbox -s 1 2 3 {options}")).out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("-s 1 2 3", "give --stop or --size"),
        ("-s 1 2 3 -p 1 2 3", "empty"),
        ("-s 1 2 3 -p 9 9 9 -z 1 1 1", "ends at 2 3 4, not at 9 9 9"),
        ("-z 1 1 1", "--start"),
    ],
)
def test_create_bbox_refuses(options, text, segflow):
    assert text in segflow(*words(f"create-bbox {options}"), code=2).err


# -- skips and names ----------------------------------------------------------------------------

ZERO = "generate-tasks -c 4 8 8 -g 2 1 1 create-chunk -p zero "


def test_skip_all_zero(tmp_path, segflow):
    states = list(chain_from_tokens(words(ZERO + "skip-all-zero copy-var -t later")).states())
    assert [(s.skipped, "later" in s) for s in states] == [("all zero", False)] * 2
    state = run_chain(*words("create-chunk skip-all-zero copy-var -t later"))
    assert state.skipped is None
    assert "later" in state
    line = words(f"{ZERO} -o image skip-all-zero -i image write-npy -i image -f {tmp_path}/out/")
    assert "2 tasks passed over" in segflow(*line).err
    assert "task 4-8_0-8_0-8 is passed over: all zero" in segflow("--verbose", *line).err
    assert not list(tmp_path.glob("out/*.npy"))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", ["0-4_0-8_0-8", "4-8_0-8_0-8"]),
        ("--suffix .zero", ["0-4_0-8_0-8.zero", "4-8_0-8_0-8.zero"]),
        ("-s .zero -a 1", ["-1-5_-1-9_-1-9.zero", "3-9_-1-9_-1-9.zero"]),
        ("--adjust-size -1 --task-bbox", ["1-3_1-7_1-7", "5-7_1-7_1-7"]),
    ],
)
def test_skip_all_zero_leaves_a_file(options, wanted, tmp_path):
    boxes(f"{ZERO} skip-all-zero --prefix {tmp_path}/done/ {options}")
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == wanted


def test_skip_all_zero_names_the_box_of_the_chunk_or_the_task(tmp_path, segflow):
    line = f"create-bbox -s 0 0 0 -z 9 9 9 create-chunk -p zero -s 4 4 4 skip-all-zero -p {tmp_path}/"
    boxes(line)
    boxes(line + " --task-bbox")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0-4_0-4_0-4", "0-9_0-9_0-9"]
    result = segflow(*words(f"create-chunk -p zero skip-all-zero --task-bbox -p {tmp_path}/"), code=2)
    assert "use --chunk-bbox" in result.err
    boxes(f"{line.rpartition(' -p ')[0]} -p file://{tmp_path}/address/")
    assert [p.name for p in (tmp_path / "address").iterdir()] == ["0-4_0-4_0-4"]
    result = segflow(*words("create-chunk -p zero skip-all-zero -p /proc/nowhere/"), code=1)
    assert result.err.count("\n") == 1
    assert "/proc/nowhere" in result.err


def test_copy_var():
    state = run_chain(*words("create-chunk copy-var --from-name chunk --to-name image"))
    assert state["image"] is state["chunk"]
    deep = run_chain(*words("create-chunk copy-var -f chunk -t image --deep-copy"))
    assert not np.shares_memory(deep["image"].array, deep["chunk"].array)
    np.testing.assert_array_equal(deep["image"].array, deep["chunk"].array)
    assert not deep["image"].array.flags.writeable


def test_delete_var(segflow):
    line = "create-chunk -o a create-chunk -o b create-chunk -o c delete-var "
    assert list(run_chain(*words(line + "--var-names a,c"))) == ["b"]
    assert list(run_chain(*words(line.replace("delete-var", "delete-chunk") + "-v b"))) == ["a", "c"]
    assert "did you mean 'a'" in segflow(*words(line + "-v aa"), code=2).err
    result = segflow(*words(line + "-v a copy-var -f a -t d"), code=2)
    assert "copy-var: no chunk named 'a'" in result.err


# -- timing logs --------------------------------------------------------------------------------


def logged(box=None, seconds=1.0, device="cpu", **attributes):
    """Give a state that has been through two steps."""
    state = State(run=Run(device=device))
    state.bbox = Box.parse(box) if box else None
    state.log = [Record(1, "inference", "inference", seconds), Record(2, "save", "write-npy", 0.5)]
    for key, value in attributes.items():
        setattr(state, key, value)
    return state


def test_log_of_a_task(tmp_path):
    state = logged("0-4_0-8_0-8")
    state.log.append(Record(3, "save", "write-h5", 0.25))
    path = write_log(state, tmp_path / "new" / "log")
    assert path.name == "0-4_0-8_0-8.json"
    found = json.loads(path.read_text())
    assert found["timer"] == {"inference": 1.0, "save": 0.5, "save#2": 0.25}
    assert (found["bbox"], found["compute_device"]) == ("0-4_0-8_0-8", "cpu")
    assert found["records"][2] == {"step": 3, "name": "save", "operator": "write-h5", "seconds": 0.25}
    assert write_log(logged(index=7), tmp_path).name == "7.json"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7.json", "new"]
    plain = log_dict(logged(device=None))
    assert not {"compute_device", "skipped", "error"} & set(plain)
    assert log_dict(logged(skipped="all zero", error=ValueError("bad")))["skipped"] == "all zero"


def test_log_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeError, match="file/0.json cannot be written"):
        write_log(logged(), tmp_path / "file")


def test_logs_of_a_run_are_read_back(tmp_path, segflow):
    segflow(
        "--log-dir", tmp_path / "log", *words("generate-tasks -c 4 8 8 -g 3 1 1 create-chunk --name make")
    )
    assert len(list((tmp_path / "log").glob("*.json"))) == 3
    out = segflow("log-summary", "-l", tmp_path / "log", "-s", 4, 8, 8).out
    assert out.startswith("compute device: unknown (3 tasks)")
    assert "\nmake " in out
    assert "mean speed (Mvoxel/s)" in out


def test_summary_numbers():
    logs = [log_dict(logged(seconds=s)) for s in (996.0, 498.0)]
    logs += [log_dict(logged(seconds=3.0, device="H200"))]
    logs += [log_dict(logged(seconds=9.0, skipped="all zero")), log_dict(logged(error=ValueError("x")))]
    cpu = {t.name: t for t in timings(logs)["cpu"]}
    assert list(cpu) == ["inference", "save", "complete_task"]
    assert cpu["inference"].seconds == (996.0, 498.0)
    assert cpu["complete_task"].mean == 747.5
    assert cpu["inference"].speed((156, 1280, 1280)) == pytest.approx(156 * 1280 * 1280 / 747 / 1e6)
    text = summary(logs, (156, 1280, 1280))
    assert "compute device: H200 (1 task)" in text
    assert "compute device: cpu (2 tasks, 1 skipped, 1 failed)" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("inference") and " 2 " in line]
    assert row == ["inference", "2", "747.000", "996.000", "498.000", "0.4150", "99.9", "0.342"]
    assert "Mvoxel" not in summary(logs)


def test_summary_of_other_programs_logs(tmp_path, segflow):
    def write(name, value):
        (tmp_path / name).write_text(value)

    write("a.json", json.dumps({"timer": {"inference": 2}, "bbox": "0-1_0-1_0-1", "compute_device": "cpu"}))
    write("b.json", json.dumps(json.dumps({"timer": {"inference": 4, "mask": 1.0}, "compute_device": "cpu"})))
    write("c.json", json.dumps({"timer": {"save": 1}}))
    for name, text in (
        ("d.json", "{"),
        ("e.json", "[1]"),
        ("f.json", '{"timer": {"a": "x"}}'),
        ("g.txt", "{}"),
    ):
        write(name, text)
    result = segflow("log-summary", "--log-dir", tmp_path)
    assert result.err.count("is no timing log") == 3
    assert "compute device: cpu (2 tasks)" in result.out
    assert "compute device: unknown (1 task)" in result.out
    groups = timings(read_logs(str(tmp_path)))
    assert [(t.name, t.seconds) for t in groups["cpu"]] == [
        ("inference", (2, 4)), ("mask", (1,)), ("complete_task", (2, 5)),
    ]  # fmt: skip
    assert segflow("--quiet", "log-summary", "-l", f"file://{tmp_path}").out == result.out


def test_summary_of_nothing(tmp_path, segflow, monkeypatch):
    assert "there is no timing log" in segflow("log-summary", "-l", tmp_path, code=1).err
    assert "there is no folder" in segflow("log-summary", "-l", tmp_path / "no", code=2).err
    monkeypatch.chdir(tmp_path)
    assert "./log" in segflow("log-summary", code=2).err
