"""Meshes: places in nm, seams between tasks, files that other programs read, manifests."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import ChunkError, VolumeError
from segflow.geometry import Box
from segflow.meshing import (
    Mesh,
    decode_fragment,
    encode_fragment,
    encode_obj,
    encode_ply,
    mesh_objects,
    with_neighbours,
)
from segflow.volumes import open_volume

SIZE = (30.0, 6.0, 6.0)


def volume_of(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6


def area_of(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def unpaired(mesh):
    """Count the directed edges that have no partner of the opposite direction."""
    edges = np.concatenate([mesh.faces[:, [i, (i + 1) % 3]] for i in range(3)]).astype(np.int64)
    balance = defaultdict(int)
    for a, b in edges.tolist():
        balance[min(a, b), max(a, b)] += 1 if a < b else -1
    return sum(v != 0 for v in balance.values())


def rows(mesh):
    """Give the triangles as sorted rows of coordinates, whatever their order."""
    corners = mesh.vertices[mesh.faces]
    order = np.lexsort(np.moveaxis(corners, 2, 0)[::-1], axis=1)
    flat = np.take_along_axis(corners, order[..., None], axis=1).reshape(-1, 9)
    return flat[np.lexsort(flat.T)]


def whole(labels, **options):
    return dict(mesh_objects(np.pad(labels, 1), SIZE, (-1, -1, -1), **options))


def fragments_of(folder):
    found = defaultdict(list)
    for path in sorted(Path(folder).glob("*:0:*")):
        found[int(path.name.split(":")[0])].append(decode_fragment(path.read_bytes()))
    return {label: parts[0].joined(*parts[1:]) for label, parts in found.items()}


@pytest.fixture
def real(data):
    return tifffile.imread(data / "ac4_labels.tif")[:12, 100:196, 200:290]


@pytest.fixture
def volume(real, tmp_path, segflow):
    """A volume of real labels that begins at voxel 5 100 200."""
    tifffile.imwrite(tmp_path / "seg.tif", real)
    segflow(
        "read-tif", "-f", tmp_path / "seg.tif", "--voxel-size", 30, 6, 6, "--voxel-offset", 5, 100, 200,
        "--layer-type", "segmentation", "--dtype", "uint64",
        "save", "-v", f"file://{tmp_path}/seg", "--block-size", 8, 32, 32,
    )  # fmt: skip
    return tmp_path / "seg"


def tasks(volume, *sizes):
    return ("generate-tasks", "-v", f"file://{volume}", "-c", *sizes, "cutout", "-v", f"file://{volume}")


def test_a_box_lies_where_its_voxels_lie():
    """Voxels 2 to 5 fill 2 to 5 times the voxel size: neuroglancer's voxel i is [i, i+1)."""
    labels = np.zeros((9, 9, 9), np.uint64)
    labels[2:5, 3:7, 4:6] = 2**40 + 7
    ((label, mesh),) = mesh_objects(labels, (30, 6, 5.5), (10, 0, 100), simplification_factor=0)
    assert label == 2**40 + 7
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.uint32)
    np.testing.assert_allclose(mesh.vertices.min(0), [104 * 5.5, 18, 360])
    np.testing.assert_allclose(mesh.vertices.max(0), [106 * 5.5, 42, 450])
    assert unpaired(mesh) == 0
    assert 0 < volume_of(mesh) <= labels.astype(bool).sum() * 30 * 6 * 5.5  # positive: faces look outward


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_blocks_of_any_size_give_the_mesh_of_the_whole(data):
    """Without simplification the fragments, put together, are the one-shot mesh, triangle for triangle."""
    shape = data.draw(st.tuples(*[st.integers(2, 7)] * 3))
    seed = data.draw(st.integers(0, 2**20))
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint32)
    block = data.draw(st.tuples(*(st.integers(1, s) for s in shape)))
    parts = defaultdict(list)
    for part in blocks_of(labels, block):
        for label, mesh in mesh_objects(*part, simplification_factor=0):
            parts[label].append(mesh)
    wanted = whole(labels, simplification_factor=0)
    assert parts.keys() == wanted.keys()
    for label, mesh in wanted.items():
        joined = parts[label][0].joined(*parts[label][1:])
        np.testing.assert_array_equal(rows(joined), rows(mesh))


def blocks_of(labels, block):
    """Cut as `with_neighbours` does: the cubes between voxel centres, each in one block."""
    for z in range(0, labels.shape[0], block[0]):
        for y in range(0, labels.shape[1], block[1]):
            for x in range(0, labels.shape[2], block[2]):
                start = (z, y, x)
                padded = np.pad(labels, 1)
                low = [s + (s > 0) for s in start]  # in the padded array
                high = [min(s + b, n) + 2 for s, b, n in zip(start, block, labels.shape)]
                cut = padded[tuple(slice(a, b) for a, b in zip(low, high))]
                yield cut, SIZE, [v - 1 for v in low]


@pytest.mark.parametrize("factor", [0, 100])
def test_fragments_close(volume, real, segflow, factor):
    """Meshes of tasks, put together, have no hole; without simplification they are the one-shot mesh."""
    line = (*tasks(volume, 5, 40, 50), "mesh", "-o", f"file://{volume}", "-f", factor)
    segflow(*line)
    assert json.loads((volume / "info").read_text())["mesh"] == "mesh_mip_0_err_40"
    found = fragments_of(volume / "mesh_mip_0_err_40")
    one = dict(mesh_objects(np.pad(real, 1), SIZE, (4, 99, 199), simplification_factor=factor))
    exact = dict(mesh_objects(np.pad(real, 1), SIZE, (4, 99, 199), simplification_factor=0))
    assert found.keys() == one.keys() == set(np.unique(real).tolist()) - {0}
    assert all(unpaired(mesh) == 0 for mesh in found.values())
    for label, mesh in found.items():
        if factor == 0:
            np.testing.assert_array_equal(rows(mesh), rows(one[label]))
        elif (real == label).sum() > 500:
            assert volume_of(mesh) == pytest.approx(volume_of(exact[label]), rel=0.05)
            assert area_of(mesh) == pytest.approx(area_of(one[label]), rel=0.15)
    bytes_of = {p.name: p.read_bytes() for p in (volume / "mesh_mip_0_err_40").iterdir()}
    segflow(*line)
    assert bytes_of == {p.name: p.read_bytes() for p in (volume / "mesh_mip_0_err_40").iterdir()}


def test_neighbours_of_zarr_and_of_changed_chunks(real, tmp_path, segflow, caplog):
    place = f"zarr://{tmp_path}/seg.zarr"
    tifffile.imwrite(tmp_path / "seg.tif", real)
    segflow("read-tif", "-f", tmp_path / "seg.tif", "--layer-type", "segmentation", "write-zarr", "-f", place)
    target = open_volume(place)
    chunk = target.read(Box((4, 16, 0), (8, 48, 90)))
    around = with_neighbours(chunk)
    assert around.start == (4, 16, -1)
    assert around.shared == ((True, True, False), (True, True, False))
    np.testing.assert_array_equal(around.array[..., 1:-1], real[4:9, 16:49])
    assert not around.array[..., 0].any()
    assert not around.array[..., -1].any()
    assert "is not what" not in caplog.text
    gone = chunk.array[-1, 0, 0]
    other = with_neighbours(chunk.with_array(np.where(chunk.array == gone, 0, chunk.array)))
    assert other.array.shape == (6, 34, 92)
    assert other.shared == ((False,) * 3, (False,) * 3)
    assert "is not what" in caplog.text
    beyond = target.read(Box((8, 80, 80), (16, 100, 100)))
    around = with_neighbours(beyond)  # the part outside is left out
    np.testing.assert_array_equal(around.array, np.pad(real[8:, 80:, 80:], ((0, 1),) * 3))


def test_dust_is_what_lies_wholly_inside():
    labels = np.zeros((6, 6, 6), np.uint16)
    labels[2, 2, 2] = 5  # one voxel inside
    labels[4, 4, 4:6] = 6  # two at a side that a neighbour shares
    labels[1:4, 4:6, 0:2] = 7
    shared = ((False,) * 3, (False, False, True))
    names = [n for n, _ in mesh_objects(labels, SIZE, dust_threshold=3, shared=shared)]
    assert names == [6, 7]
    assert [n for n, _ in mesh_objects(labels, SIZE, dust_threshold=3)] == [7]
    assert [n for n, _ in mesh_objects(labels, SIZE, ids={5, 7, 99}, skip_ids={7})] == [5]
    assert [n for n, _ in mesh_objects(np.zeros((3, 3, 3), np.uint8), SIZE)] == []
    with pytest.raises(ChunkError, match="not of 3-D float32"):
        list(mesh_objects(np.zeros((3, 3, 3), np.float32), SIZE))


def test_ids_that_are_not_there(volume, segflow):
    said = segflow("cutout", "-v", volume, "mesh", "-o", volume, "--ids", 4000000)
    assert "nothing was meshed" in said.err
    assert "wrote" not in said.err


def test_dust_leaves_no_hole(volume, segflow):
    segflow(*tasks(volume, 6, 48, 45), "mesh", "-o", volume, "--dust-threshold", 200)
    found = fragments_of(volume / "mesh_mip_0_err_40")
    assert found
    assert all(unpaired(mesh) == 0 for mesh in found.values())


def test_files_that_others_read(real):
    from cloudvolume.mesh import Mesh as TheirMesh
    from zmesh import Mesh as ZMesh

    ((_, mesh),) = mesh_objects(np.pad(real == real.max(), 1), SIZE)
    for theirs in (
        TheirMesh.from_precomputed(encode_fragment(mesh)),
        decode_fragment(encode_fragment(mesh)),
        ZMesh.from_ply(encode_ply(mesh)),
        ZMesh.from_obj(encode_obj(mesh)),
    ):
        np.testing.assert_allclose(theirs.vertices, mesh.vertices, atol=1e-3)
        np.testing.assert_array_equal(theirs.faces, mesh.faces)
    data = encode_fragment(mesh)
    for broken in (data[:-1], b"", data[:100], data[:-4] + b"\xff\xff\xff\x7f"):
        with pytest.raises(VolumeError, match="fragment"):
            decode_fragment(broken)
    assert len(decode_fragment(encode_fragment(Mesh(mesh.vertices[:0], mesh.faces[:0]))).faces) == 0


def test_tutorial_and_other_readers(data, tmp_path, segflow):
    """T18, T18b and T19, then cloud-volume, from the folder and over plain http."""
    volume, queue = tmp_path / "dataset", f"fq://{tmp_path}/my-queue"
    path = f"file://{volume}"
    segflow(
        "read-tif", "-f", data / "ac4_labels.tif", "--voxel-size", 30, 6, 6, "--layer-type", "segmentation",
        "save", "-v", path, "downsample-upload", "-v", path, "--stop-mip", 4,
    )  # fmt: skip
    raw = json.loads((volume / "info").read_text())
    labels = open_volume(path).read(mip=3).array
    names, counts = np.unique(labels, return_counts=True)
    ids = sorted(int(n) for n in names[np.argsort(counts)] if n)[-4:]
    ids = sorted(n for n in ids if counts[names == n] >= 100) or [int(names[counts.argmax()])]
    start = ("--mip", 3, "fetch-task", "-q", queue, "-v", 600, "-r", 0, "cutout", "-v", path, "--fill-missing",
             "mesh", "--voxel-size", 45, 5, 5, "-o", path, "--dust-threshold", 100)  # fmt: skip
    fill = ("generate-tasks", "-l", path, "-m", 3, "-o", 0, 0, 0, "-c", 10, 40, 40, "-q", queue)
    segflow(*fill)
    meshed = segflow(*start, "--ids", ",".join(map(str, ids)), "delete-task-in-queue")
    assert meshed.err.count("--voxel-size is not used") == 1
    folder = volume / "mesh_mip_3_err_40"
    assert {int(p.name.split(":")[0]) for p in folder.glob("*:0:*")} == set(ids)
    assert not list(folder.glob("*:0"))  # no manifests yet
    segflow(*fill)
    segflow(*start, "delete-task-in-queue")
    first = str(ids[-1])[0]
    segflow("mesh-manifest", "--volume-path", path, "--prefix", first)
    assert {p.name[0] for p in folder.glob("*:0")} == {first}
    segflow("mesh-manifest", "--volume-path", path)
    assert json.loads((volume / "info").read_text()) == {**raw, "mesh": folder.name}
    assert json.loads((folder / "info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    found = fragments_of(folder)
    assert {int(p.name[:-2]) for p in folder.glob("*:0")} == found.keys()
    handler = partial(Quiet, directory=str(volume))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for address in (path, f"http://127.0.0.1:{server.server_address[1]}"):
            check_reading(address, ids, labels, found)
        server.shutdown()


def check_reading(address, ids, labels, found):
    """What cloud-volume reads is what was written, where the voxels (30 48 48 nm) are."""
    from cloudvolume import CloudVolume

    theirs = CloudVolume(f"precomputed://{address}", progress=False)
    for label in ids:
        mesh = theirs.mesh.get(label, remove_duplicate_vertices=True)
        mesh = mesh[label] if isinstance(mesh, dict) else mesh
        assert volume_of(Mesh(mesh.vertices, mesh.faces)) == pytest.approx(volume_of(found[label]), rel=1e-4)
        places = np.argwhere(labels == label)[:, ::-1]
        np.testing.assert_allclose(mesh.vertices.min(0), places.min(0) * (48, 48, 30), atol=45)
        np.testing.assert_allclose(mesh.vertices.max(0), (places.max(0) + 1) * (48, 48, 30), atol=45)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain file server."""

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *words):
        pass


@pytest.mark.skipif(not (which("chromium") and which("chromedriver")), reason="no chromium here")
def test_neuroglancer_shows_it(tmp_path, segflow):
    """The stock viewer draws two fragments, served by a plain web server, as one box in its place."""
    import neuroglancer

    from segflow.view.screenshot import browser

    labels = np.zeros((40, 40, 40), np.uint32)
    labels[10:30, 10:30, 10:30] = 5
    np.save(tmp_path / "seg.npy", labels)
    volume = tmp_path / "seg"
    segflow("read-npy", "-f", tmp_path / "seg.npy", "--voxel-size", 8, 8, 8, "save", "-v", volume)
    segflow(*tasks(volume, 40, 40, 20), "mesh", "-o", volume, "mesh-manifest", "-v", volume)
    handler = partial(Quiet, directory=str(volume))
    neuroglancer.set_server_bind_address("127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        viewer = neuroglancer.Viewer()
        with viewer.txn() as state:
            state.dimensions = neuroglancer.CoordinateSpace(
                names=["x", "y", "z"], units="nm", scales=[8, 8, 8]
            )
            state.layers["seg"] = neuroglancer.SegmentationLayer(
                source=f"precomputed://http://127.0.0.1:{server.server_address[1]}",
                segments=[5], segment_colors={5: "#ff0000"},
            )  # fmt: skip
            state.layout, state.position, state.projection_scale = "3d", [20, 20, 20], 40
            state.show_slices = state.show_axis_lines = state.show_default_annotations = False
        with browser((400, 400)) as driver:
            driver.get(viewer.get_viewer_url())
            shot = viewer.screenshot(size=[400, 400]).screenshot.image_pixels.astype(int)
        server.shutdown()
    red = (shot[..., 0] > 1.5 * shot[..., 1] + 20) & (shot[..., 0] > 1.5 * shot[..., 2] + 20)
    down, right = np.nonzero(red)
    assert red.sum() > 0.95 * np.ptp(down) * np.ptp(right)  # one square without a gap
    assert (down.min() + down.max()) / 2 == pytest.approx(200, abs=6)
    assert (right.min() + right.max()) / 2 == pytest.approx(200, abs=6)


def test_prefixes(tmp_path, volume, segflow, monkeypatch):
    path = f"file://{volume}"
    folder = volume / "mesh_mip_0_err_40"
    segflow("mesh-manifest", "-v", path, code=1)
    segflow(*tasks(volume, 12, 96, 90), "mesh", "-o", path, "--ids", 0, "-f", 0)
    assert segflow("mesh-manifest", "-v", path, code=1).last.endswith("holds no fragments; run mesh first")
    for label in (7, 70, 712, 17, 107):
        (folder / f"{label}:0:0-1_0-1_0-1").write_bytes(b"")
    for prefix, wanted in (("07", []), ("71", [712]), ("7", [7, 70, 712]), ("0", [])):
        for old in folder.glob("*:0"):
            old.unlink()
        done = segflow("mesh-manifest", "-v", path, "-p", prefix)
        assert sorted(int(p.name[:-2]) for p in folder.glob("*:0")) == wanted
        assert ("no fragments of ids that begin with" in done.err) == (not wanted)
    for old in folder.glob("*:0"):
        old.unlink()
    for index in range(100):  # all tasks of two digits: every id once
        if index in (1, 7, 10, 17, 70, 71):
            monkeypatch.setenv("DISBATCH_REPEAT_INDEX", str(index))
            segflow("mesh-manifest", "-v", path, "--disbatch", "--digits", 2)
    assert sorted(int(p.name[:-2]) for p in folder.glob("*:0")) == [7, 17, 70, 107, 712]
    (folder / "7:0:0-2_0-1_0-1").write_bytes(b"")
    assert "fragments of two task sizes" in segflow("mesh-manifest", "-v", path, code=1).last
    assert "give the first digits" in segflow("mesh-manifest", "-v", path, "-p", "x", code=2).last


def test_manifests_at_once_and_other_mips(volume, segflow):
    path = f"file://{volume}"
    segflow("read-precomputed", "-v", path, "downsample-upload", "-v", path, "--stop-mip", 2)
    segflow("--mip", 1, *tasks(volume, 12, 24, 45), "mesh", "-o", path, "--manifest", "-e", 20)
    folder = volume / "mesh_mip_1_err_20"
    listed = {p.name: json.loads(p.read_text())["fragments"] for p in folder.glob("*:0")}
    segflow("mesh-manifest", "-v", path)
    assert listed == {p.name: json.loads(p.read_text())["fragments"] for p in folder.glob("*:0")}
    assert sum(map(len, listed.values())) == len(list(folder.glob("*:0:*"))) > len(listed)
    vertices = np.concatenate([m.vertices for m in fragments_of(folder).values()])
    assert (vertices.min(0) >= (1180, 580, 130)).all()
    assert (vertices.max(0) <= (290 * 6 + 20, 196 * 6 + 20, 17 * 30 + 20)).all()
    again = segflow(*tasks(volume, 12, 96, 90), "mesh", "-o", path)
    assert "showed the meshes in mesh_mip_1_err_20; it now shows mesh_mip_0_err_40" in again.err


def test_many_workers_share_the_info(volume, process):
    line = (*tasks(volume, 6, 96, 90), "mesh", "-o", f"file://{volume}", "--manifest", "-f", 0)
    ends = []
    workers = [threading.Thread(target=lambda: ends.append(process(*line).code)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert ends == [0, 0, 0]
    folder = volume / "mesh_mip_0_err_40"
    listed = [n for p in folder.glob("*:0") for n in json.loads(p.read_text())["fragments"]]
    assert sorted(listed) == sorted(p.name for p in folder.glob("*:0:*"))
    assert not [p for p in folder.iterdir() if p.name.startswith(".") or p.suffix in (".lock", ".gz")]


def test_ply_and_obj(volume, real, tmp_path, segflow):
    label = int(real.max())
    segflow("cutout", "-v", volume, "mesh", "-t", "ply", "-o", tmp_path / "ply", "--ids", label)
    assert [p.name for p in (tmp_path / "ply").iterdir()] == [f"{label}.ply"]
    segflow(*tasks(volume, 6, 96, 90), "mesh", "-t", "obj", "-o", tmp_path / "obj", "--ids", label)
    assert {p.name for p in (tmp_path / "obj").iterdir()} <= {
        f"{label}_5-11_100-196_200-290.obj", f"{label}_11-17_100-196_200-290.obj",
    }  # fmt: skip
    bare = ("read-tif", "-f", tmp_path / "seg.tif", "--layer-type", "segmentation", "mesh", "-t", "ply")
    assert "give --voxel-size" in segflow(*bare, "-o", tmp_path / "x", code=1).last
    segflow(*bare, "-o", tmp_path / "x", "-v", 30, 6, 6, "--ids", label)
    assert (tmp_path / "x" / f"{label}.ply").exists()


def test_bucket(volume, bucket, segflow):
    """In a bucket fragments are gzip and say so; cloud-volume reads them."""
    import boto3

    path = f"{bucket}/seg"
    segflow("cutout", "-v", volume, "save", "-v", path, "mesh", "-o", path, "mesh-manifest", "-v", path)
    names = open_volume(path).store.list("mesh_mip_0_err_40/")
    fragment = next(n for n in names if n.count(":") == 2)
    packed = boto3.client("s3").head_object(Bucket="bkt", Key=f"seg/{fragment}")
    assert packed["ContentEncoding"] == "gzip"
    assert len(decode_fragment(open_volume(path).store.get(fragment)).faces)
    from cloudvolume import CloudVolume

    label = int(fragment.split("/")[1].split(":")[0])
    found = CloudVolume(path, progress=False).mesh.get(label)
    assert len((found[label] if isinstance(found, dict) else found).faces)


def test_refusals(volume, real, tmp_path, segflow, monkeypatch):
    start = ("cutout", "-v", volume, "mesh")
    for words, text in (
        (("-o", tmp_path / "none"), "there is no precomputed volume at"),
        (("-o", volume, "--ids", "3,x"), "--ids has 'x'; give ids as 34,56,78"),
        (("-o", f"zarr://{tmp_path}/z"), "precomputed meshes lie in a precomputed volume"),
        (("-t", "ply", "-v", 0, 6, 6), "must be greater than 0"),
    ):
        assert text in segflow(*start, *words, code=2).last
    segflow("create-chunk", "-s", 4, 8, 8, "save", "-v", tmp_path / "image")
    assert "is of the type image" in segflow(*start, "-o", tmp_path / "image", code=2).last
    moved = Chunk(real, (0, 0, 0), (40, 4, 4), "segmentation")
    from segflow.meshing.save import Target

    with pytest.raises(ChunkError, match="give the chunk's mip with --mip"):
        Target(f"file://{volume}", "precomputed").voxel_size(moved)
    real_find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "zmesh" else real_find(n, *a))
    last = segflow(*start, "-o", volume, code=2).last
    assert last == "segflow mesh: meshes need zmesh; pip install 'segflow[mesh]'"
