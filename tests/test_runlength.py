"""Expected run length along skeletons, and the files of skeletons."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ChunkError, UsageError, VolumeError
from segflow.segmentation.runlength import run_length
from segflow.segmentation.skeleton_files import Skeleton, read_skeletons


def along_x(name: str, y: int, stop: int = 11, size: float = 10.0) -> Skeleton:
    """Give a skeleton with a node in the middle of each voxel of a row, 10 nm apart."""
    nodes = np.array([(15.0, size * y + size / 2, size * x + size / 2) for x in range(stop)])
    return Skeleton(name, nodes, np.array([(i + 1, i) for i in range(stop - 1)]))


def volume(rows: dict[int, list[int]]) -> Chunk:
    array = np.zeros((1, 4, 11), np.uint64)
    for y, labels in rows.items():
        array[0, y] = labels
    return Chunk(array, voxel_size=(30, 10, 10), layer_type="segmentation")


# -- by hand --------------------------------------------------------------------------------------


def test_perfect():
    found = run_length(volume({0: [1] * 11, 1: [2] * 11}), [along_x("a", 0), along_x("b", 1, 6)])
    assert found["erl"] == found["erl_truth"] == pytest.approx((100**2 + 50**2) / 150)
    assert (found["nerl"], found["correct"], found["length"]) == (1, 150, 150)
    assert found["merges"] == found["splits"] == []
    assert [row["name"] for row in found["skeletons"]] == ["a", "b"]


def test_a_split_an_omission_and_both_runs():
    """Ten edges of 10 nm: 3 in segment 1, one split, 2 in segment 2, 2 omitted at a 0, 2 in segment 1."""
    found = run_length(volume({0: [1, 1, 1, 1, 2, 2, 2, 0, 1, 1, 1]}), [along_x("a", 0)])
    assert (found["correct"], found["split"], found["omitted"], found["merged"]) == (70, 10, 20, 0)
    assert found["erl"] == pytest.approx((50**2 + 20**2) / 100)
    assert found["nerl"] == pytest.approx(0.29)
    (split,) = found["splits"]
    assert (split["skeleton"], sorted(split["segments"]), split["zyx"]) == ("a", [1, 2], [0, 0, 4])


def test_a_merge_takes_the_whole_segment():
    labels = {0: [1] * 5 + [2] * 6, 1: [3] * 8 + [2] * 3}
    found = run_length(volume(labels), [along_x("a", 0), along_x("b", 1)])
    assert (found["merged"], found["correct"], found["split"]) == (50 + 20, 40 + 70, 20)
    assert found["erl"] == pytest.approx((40**2 + 70**2) / 200)
    (merge,) = found["merges"]
    assert merge["segment"] == 2
    assert merge["skeletons"] == [
        {"name": "a", "nodes": 6, "zyx": [0, 0, 5]}, {"name": "b", "nodes": 3, "zyx": [0, 1, 8]}
    ]  # fmt: skip
    spared = run_length(volume(labels), [along_x("a", 0), along_x("b", 1)], merge_nodes=4)
    assert spared["merged"] == 0
    assert spared["erl"] == pytest.approx((40**2 + 50**2 + 70**2 + 20**2) / 200)


def test_places_units_and_the_edge_of_the_chunk():
    chunk = volume({0: [1] * 11})
    moved = Chunk(chunk.array, (0, 0, 4), (30, 10, 10), "segmentation")
    found = run_length(moved, [along_x("a", 0, 20)])  # nodes at x 4 ... 14 are inside
    assert (found["length"], found["erl"]) == (100, 100)
    voxels = Skeleton("v", np.array([(0, 0, 4), (0, 0, 14), (0, 0, 15)]) * 1.0, np.array([(0, 1), (1, 2)]))
    assert run_length(moved, [voxels], unit="voxel")["erl"] == 100
    unknown = Chunk(chunk.array, (0, 0, 4), layer_type="segmentation")
    assert run_length(unknown, [voxels], unit="voxel")["length"] == 10
    with pytest.raises(ChunkError, match="voxel size"):
        run_length(unknown, [voxels])
    with pytest.raises(ChunkError, match="no edge of 1 skeletons lies in the box 0-1_0-4_4-15"):
        run_length(moved, [along_x("a", 50)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=11, max_size=11), min_size=3, max_size=3))
def test_lengths_add_up_and_names_do_not_matter(rows):
    skeletons = [along_x(name, y) for y, name in enumerate("abc")]
    found = run_length(volume(dict(enumerate(rows))), skeletons)
    kinds = found["correct"] + found["split"] + found["merged"] + found["omitted"]
    assert kinds == pytest.approx(found["length"]) == pytest.approx(300)
    assert 0 <= found["nerl"] <= 1
    renamed = [[(v * 1000 + 7) if v else 0 for v in row] for row in rows]
    assert run_length(volume(dict(enumerate(renamed))), skeletons)["erl"] == pytest.approx(found["erl"])


# -- files ----------------------------------------------------------------------------------------


SWC = "# made by hand\n1 2 5 15 15 1 -1\n2 2 15 15 15 1 1\n\n3 2 25 15 15 1 2\n"
CSV = ('"skeleton_id", "treenode_id", "parent_treenode_id", "x", "y", "z", "r"\n'
       "9, 1, , 5, 15, 15, 0\n9, 2, 1, 15, 15, 15, 0\n9, 3, 2, 25, 15, 15, 0\n")  # fmt: skip
JSON = {
    "nodes": [{"id": f"n{i}", "z": 15, "y": 15, "x": x, "skeleton_id": 9} for i, x in enumerate((5, 15, 25))],
    "links": [{"source": "n1", "target": "n0"}, {"source": "n2", "target": "n1"}],
}


def test_three_formats_hold_one_skeleton(tmp_path):
    (tmp_path / "a.swc").write_text(SWC)
    (tmp_path / "b.csv").write_text(CSV)
    (tmp_path / "c.json").write_text(json.dumps(JSON))
    (tmp_path / "note.txt").write_text("no skeleton")
    found = read_skeletons(tmp_path)
    assert [s.name for s in found] == ["a", "9", "9"]
    for skeleton in found:
        assert skeleton.nodes.tolist() == [[15, 15, 5], [15, 15, 15], [15, 15, 25]]
        assert skeleton.edges.tolist() == [[1, 0], [2, 1]]
    assert len(read_skeletons(tmp_path / "b.csv")) == 1


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.swc", "1 2 5 15\n", "list index"),
        ("a.swc", "1 2 x 15 15 1 -1\n", "could not convert"),
        ("a.swc", "1 2 5 15 15 1 7\n", "parent 7"),
        ("a.swc", "1 2 nan 15 15 1 -1\n", "no number"),
        ("a.swc", "1 2 5 5 5 1 -1\n1 2 5 5 5 1 -1\n", "two nodes"),
        ("a.swc", "# nothing\n", "holds no skeleton"),
        ("a.csv", "x,y,z\n1,2,3\n", "no 'skeleton_id'"),
        ("a.json", "{", "no .json file"),
        ("a.json", '{"nodes": [{"id": 1}], "links": []}', "no 'z'"),
        ("a.json", '{"nodes": [], "links": []}', "holds no skeleton"),
    ],
)
def test_broken_files(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(VolumeError, match="a\\.") as caught:
        read_skeletons(tmp_path / name)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_files(tmp_path):
    (tmp_path / "x.txt").write_text("")
    for path in (tmp_path, tmp_path / "x.txt", tmp_path / "none.swc"):
        with pytest.raises(UsageError, match="skeletons"):
            read_skeletons(path)


# -- the command ----------------------------------------------------------------------------------


def test_command(tmp_path, segflow):
    chunk = volume({1: [1] * 5 + [2] * 6})
    np.save(tmp_path / "seg.npy", chunk.array)
    np.save(tmp_path / "gt.npy", (chunk.array > 0).astype(np.uint32))
    (tmp_path / "a.swc").write_text(SWC)
    words = [w for n in ("seg", "gt") for w in
             ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n, "--voxel-size", 30, 10, 10)]  # fmt: skip
    line = [*words, "evaluate-segmentation", "-s", "seg", "--skeletons", tmp_path / "a.swc"]
    rows = segflow(*line, "-g", "gt", "--report", tmp_path / "r.json", "--json", tmp_path / "s.json").out
    assert "Expected run length: 20.00000000 nm\n" in rows
    assert "NERL: 1.00000000" in rows
    assert json.loads((tmp_path / "s.json").read_text())["nerl"] == 1
    assert json.loads((tmp_path / "r.json").read_text())["run_length"]["skeletons"][0]["name"] == "a"
    assert json.loads((tmp_path / "s.json").read_text())["length_unit"] == "nm"
    alone = segflow(*line)
    assert alone.out.split(":")[0].strip() == "Expected run length"
    assert "does not exist" in segflow("--quiet", *line[:-1], tmp_path / "b.swc", code=2).err


def test_by_threshold(tmp_path, segflow):
    affinities = np.ones((3, 1, 4, 11), np.float32)
    affinities[0, ..., 5] = 0.3
    affinities[2] = 0
    np.save(tmp_path / "affs.npy", affinities)
    np.save(tmp_path / "gt.npy", np.ones((1, 4, 11), np.uint32))
    (tmp_path / "a.swc").write_text(SWC + "4 2 85 15 15 1 3\n")
    words = [w for n in ("affs", "gt") for w in
             ("read-npy", "-f", tmp_path / f"{n}.npy", "-o", n, "--voxel-size", 30, 10, 10)]  # fmt: skip
    line = [*words, "evaluate-segmentation", "-s", "affs", "-g", "gt", "--skeletons", tmp_path / "a.swc"]
    segflow(*line, "--thresholds", "0.5,0.8", "--plot", tmp_path / "c.png")
    rows = json.loads((tmp_path / "c.json").read_text())["thresholds"]
    assert [row["nerl"] for row in rows] == [pytest.approx((20 / 80) ** 2), 1]
    assert "beside the skeletons" in segflow("--quiet", *words[:9], "evaluate-segmentation", "-s", "affs",
        "--skeletons", tmp_path / "a.swc", "--thresholds", "0.5", code=2).err  # fmt: skip
