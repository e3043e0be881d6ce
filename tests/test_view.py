"""Viewing: layers, the servers and how they end, pictures by a headless browser, the sheet of sections."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segflow.chunk import Chunk
from segflow.errors import BoxError, ChunkError, MissingChunk, SegflowError, UsageError
from segflow.state import State
from segflow.view import layers, screenshot, server
from segflow.view.colours import borders, grey, label_colours, value_range
from segflow.view.names import Named, parse_sections, shown
from segflow.view.overlay import overlay, sections_of
from segflow.view.section import blend, section_picture
from segflow.view.slices import Pages, PageServer

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here"
)
SIZE = (30, 6, 6)


@pytest.fixture
def image(data):
    return Chunk(tifffile.imread(data / "ac4_image.tif"), (80, 256, 256), SIZE)


@pytest.fixture
def labels(data):
    return Chunk(tifffile.imread(data / "ac4_labels.tif"), (80, 256, 256), SIZE, "segmentation")


@pytest.fixture
def affs(labels):
    a = labels.array[:, :256, :256]
    maps = np.zeros((3, *a.shape), np.float32)
    maps[0, :, :, 1:] = a[:, :, 1:] == a[:, :, :-1]
    maps[1, :, 1:] = a[:, 1:] == a[:, :-1]
    maps[2, 1:] = a[1:] == a[:-1]
    return Chunk(maps * (a > 0), labels.voxel_offset, SIZE)


# -- layers ---------------------------------------------------------------------------------


def source(layer):
    return layer.source[0].url


@pytest.mark.parametrize(
    ("dtype", "drawn"),
    [("bool", "uint32"), ("uint8", "uint32"), ("uint16", "uint32"), ("uint32", "uint32"), ("uint64", "uint64"),
     ("int8", "uint32"), ("int32", "uint32"), ("int64", "uint64")],
)  # fmt: skip
def test_segmentations_become_uint32_or_uint64(dtype, drawn):
    made = layers.layer(Chunk(np.ones((2, 3, 4), dtype), layer_type="segmentation"))
    assert made.type == "segmentation"
    assert source(made).data_type == drawn


@pytest.mark.parametrize(
    ("dtype", "drawn"),
    [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "int16"), ("float16", "float32"),
     ("float32", "float32"), ("float64", "float32"), ("int64", "float32"), ("bool", "uint8")],
)  # fmt: skip
def test_images_keep_the_dtypes_that_can_be_drawn(dtype, drawn):
    made = layers.layer(Chunk(np.ones((2, 3, 4), dtype), layer_type="image"))
    assert made.type == "image"
    assert source(made).data_type == drawn
    assert "#uicontrol invlerp normalized" in made.shader
    assert "emitGrayscale" in made.shader


def test_place_and_axes_are_respected(image):
    volume = source(layers.layer(image))
    assert volume.shape == (512, 512, 20)
    assert volume.voxel_offset.tolist() == [256, 256, 80]
    assert list(volume.dimensions.names) == ["x", "y", "z"]
    np.testing.assert_allclose(volume.dimensions.scales, [6e-9, 6e-9, 30e-9])
    assert volume.data[7, 11, 3] == image.array[3, 11, 7]
    other = source(layers.layer(image, (40, 4, 4)))
    np.testing.assert_allclose(other.dimensions.scales, [4e-9, 4e-9, 40e-9])


def test_unknown_voxel_size_is_shown_as_one():
    np.testing.assert_allclose(
        source(layers.layer(Chunk(np.zeros((2, 2, 2), np.uint8)))).dimensions.scales, [1e-9] * 3
    )


@pytest.mark.parametrize(
    ("channels", "text"),
    [
        (1, "emitGrayscale"),
        (2, "normalized(getDataValue(1)), 0.0"),
        (3, "getDataValue(2)"),
        (5, "getDataValue(2)"),
    ],
)
def test_maps_by_their_channels(channels, text):
    chunk = Chunk(
        np.random.default_rng(0).random((channels, 2, 3, 4), np.float32), layer_type="probability_map"
    )
    made = layers.layer(chunk)
    assert text in made.shader
    volume = source(made)
    assert len(volume.shape) == (3 if channels == 1 else 4)
    if channels > 1:
        assert volume.dimensions.names[-1] == "c^"
    assert list(made.shader_controls["normalized"].range) == [0, 1]


def test_a_flat_float_map_is_an_image_layer():
    made = layers.layer(Chunk(np.zeros((2, 3, 4), np.float32), layer_type="probability_map"))
    assert made.type == "image"
    assert "emitGrayscale" in made.shader


def test_affinities_are_picked_by_offset():
    zyx = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    chunk = Chunk(np.zeros((3, 2, 3, 4), np.float32), layer_type="affinity_map", offsets=zyx)
    text = layers.layer(chunk).shader
    assert text.index("getDataValue(2)") < text.index("getDataValue(1)") < text.index("getDataValue(0)")


def test_an_image_of_several_channels_has_a_slider():
    made = layers.layer(Chunk(np.zeros((4, 2, 3, 4), np.uint8), layer_type="image"))
    assert "slider(min=0, max=3)" in made.shader


def test_ranges_of_values():
    assert value_range(np.zeros((1, 2, 2), np.uint8)) == (0, 255)
    assert value_range(np.array([[[0.1, np.nan, 0.4]]])) == (0, 1)
    low, high = value_range(np.arange(1000, 3000, dtype=np.uint16).reshape(2, 10, 100))
    assert 1000 <= low < 1010
    assert 2990 < high <= 2999
    assert value_range(np.full((1, 2, 2), 7, np.int32)) == (7, 8)
    assert value_range(np.full((1, 2, 2), np.nan, np.float32)) == (0, 1)
    np.testing.assert_array_equal(grey(np.array([0, 10, 30, np.nan], np.float32), 10, 30), [0, 0, 255, 0])


def test_what_cannot_be_a_layer():
    with pytest.raises(ChunkError, match="integers, not float32"):
        layers.layer(Chunk(np.zeros((2, 2, 2), np.float32), layer_type="segmentation"))
    with pytest.raises(ChunkError, match="no voxel"):
        layers.layer(Chunk(np.zeros((0, 2, 2), np.uint8)))
    with pytest.raises(ChunkError, match="2 channels"):
        layers.layer(Chunk(np.zeros((2, 2, 2, 2), np.uint8), layer_type="segmentation"))


def test_names_with_options():
    made = layers.layer(
        Chunk(np.zeros((2, 2, 2), np.uint8)), options=Named.parse("a[color=red;opacity=0.25]")
    )
    assert 'color(default="red")' in made.shader
    assert made.opacity == 0.25
    undecided = Chunk(np.zeros((2, 2, 2), np.uint16))
    assert layers.layer(undecided).type == "image"
    assert layers.layer(undecided, options=Named.parse("a[type=segmentation]")).type == "segmentation"
    for bad, text in (
        ("a[colour=red]", "did you mean 'color'"), ("a[color", "no chunk name"), ("a[type=mesh]", "none of"),
        ("a[opacity=much]", "no number"), ("[color=red]", "no chunk name"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=text.replace("[", r"\[")):
            Named.parse(bad)


def test_what_is_shown_without_names():
    one, two = Chunk(np.zeros((1, 1, 1), np.uint8)), Chunk(np.zeros((1, 1, 1), np.uint8))
    assert list(shown(None, {"chunk": one, "seg": two})) == ["chunk"]
    assert list(shown(None, {"image": one, "seg": two, "table": 3})) == ["image", "seg"]
    assert list(shown({"seg": two}, {"chunk": one})) == ["seg"]
    with pytest.raises(MissingChunk):
        shown(None, {"table": 3})
    with pytest.raises(ChunkError, match="'table' is no chunk"):
        shown({"table": 3}, {})


def test_later_states_add_layers(image, labels):
    from segflow.view.scene import Neuroglancer

    viewer = Neuroglancer()
    try:
        assert viewer.add({"image": image, "seg": labels}) == ["image", "seg"]
        later = Chunk(image.array, (100, 256, 256), SIZE)
        assert viewer.add({"image": later}) == ["image_100-120_256-768_256-768"]
        assert viewer.add({"image": later}) == ["image_100-120_256-768_256-768#2"]
        scene = viewer.viewer.state
        assert [item.name for item in scene.layers][:2] == ["image", "seg"]
        np.testing.assert_allclose(scene.position, [512.5, 512.5, 90.5])  # x y z, where the first ones lie
        np.testing.assert_allclose(scene.dimensions.scales, [6e-9, 6e-9, 30e-9])
        assert scene.cross_section_scale == pytest.approx(512 * 2 / 900 * 1.02)
        page = urllib.request.urlopen(viewer.url, timeout=10).read().decode()
        assert "neuroglancer" in page.lower()
    finally:
        viewer.close()


# -- colours and sections -------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30, unique=True))
def test_a_label_has_one_colour_everywhere(ids):
    ids = np.array(ids, np.uint64)
    colours = label_colours(ids)
    for value, colour in zip(ids, colours):
        np.testing.assert_array_equal(label_colours(np.array([value, 3], np.uint64))[0], colour)
        assert (colour.max() >= 190) if value else (colour == 0).all()


def test_colours_of_real_labels_differ(labels):
    ids = np.unique(labels.array)
    assert len(np.unique(label_colours(ids), axis=0)) > 0.98 * len(ids)


def test_lines_and_blending():
    labels = np.array([[1, 1, 2], [1, 1, 2], [0, 0, 0]])
    np.testing.assert_array_equal(
        borders(labels), [[False, True, False], [True, True, True], [False, False, False]]
    )
    picture = np.full((3, 3, 3), 100, np.uint8)
    mixed = blend(picture, labels, alpha=0.5, line=1.0)
    np.testing.assert_array_equal(mixed[2], picture[2])  # 0 stays clear
    np.testing.assert_array_equal(mixed[0, 1], label_colours(labels)[0, 1])
    np.testing.assert_allclose(mixed[0, 0], (100.0 + label_colours(labels)[0, 0]) / 2, atol=1)


def test_sections_in_grey_colour_and_rgb(image, labels, affs):
    np.testing.assert_array_equal(section_picture(image, 4)[..., 1], image.array[4])
    np.testing.assert_array_equal(section_picture(labels, 4), label_colours(labels.array[4]))
    rgb = section_picture(affs, 4)
    np.testing.assert_array_equal(rgb[..., 0] == 255, affs.array[0, 4] == 1)
    np.testing.assert_array_equal(rgb[..., 2] == 255, affs.array[2, 4] == 1)
    turned = affs.with_array(affs.array[::-1], offsets=affs.offsets[::-1])
    np.testing.assert_array_equal(section_picture(turned, 4), rgb)


# -- the sheet ------------------------------------------------------------------------------


def test_overlay_shows_what_the_chunks_hold(image, labels, affs):
    sheet = overlay(image, affs, labels, labels, sections=[83, 90], tile=256)
    left, head, gap, tile = 20, 46, 10, 256
    assert sheet.size == (2 * left + 4 * tile + 3 * gap, head + left + 2 * tile + gap)
    pixels = np.asarray(sheet)
    tiles = [pixels[head : head + tile, x : x + tile] for x in range(left, sheet.size[0] - left, tile + gap)]
    inner = np.s_[64:192, 64:192]  # the affinities cover 256 x 256, so one pixel is one voxel
    np.testing.assert_array_equal(tiles[0][inner][..., 0], image.array[3, 64:192, 64:192])
    np.testing.assert_array_equal(tiles[1][inner], section_picture(affs, 3)[inner])
    np.testing.assert_array_equal(
        tiles[2][inner], blend(section_picture(image, 3)[:256, :256], labels.array[3, :256, :256])[inner]
    )
    np.testing.assert_array_equal(tiles[2][inner], tiles[3][inner])


def test_sections_of_the_sheet(image):
    assert sections_of(image.bbox, 1) == [90]
    assert len(sections_of(image.bbox, 100)) == 20
    with pytest.raises(BoxError, match="section 79 is outside; there are 80 to 99"):
        overlay(image, sections=[79])
    with pytest.raises(ChunkError, match="no voxel in common"):
        overlay(image, segmentation=Chunk(np.zeros((2, 2, 2), np.uint32)))
    with pytest.raises(ChunkError, match="labels are integers"):
        overlay(image, segmentation=image.with_array(image.array.astype(np.float32)))
    with pytest.raises(UsageError, match="neither a list"):
        parse_sections("all")


def test_overlay_operator(data, tmp_path, segflow):
    read = ["read-tif", "-f", data / "ac4_image.tif", "--voxel-size", 30, 6, 6, "-o", "image"]
    read += ["read-tif", "-f", data / "ac4_labels.tif", "-o", "seg", "--layer-type", "segmentation"]
    line = ["overlay", "-i", "image", "--segmentation", "seg", "--tile", 128, "-f", tmp_path / "a.png"]
    segflow(*read, *line)
    assert Image.open(tmp_path / "a.png").size == (40 + 2 * 128 + 10, 46 + 20 + 3 * 128 + 20)
    segflow(*read, *line, "--sections", "2x", "--groundtruth", "seg")
    assert Image.open(tmp_path / "a.png").size == (40 + 3 * 128 + 20, 46 + 20 + 2 * 128 + 10)
    assert "neither a list" in segflow(*read, *line, "--sections", "x", code=2).last
    assert "section 20 is outside" in segflow(*read, *line, "--sections", "20", code=1).last
    assert "no chunk named 'sge' (did you mean 'seg'?)" in segflow(
        *read, "overlay", "-i", "image", "--segmentation", "sge", "-f", tmp_path / "b.png", code=2
    ).last  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# -- the page -------------------------------------------------------------------------------


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def test_page_of_sections(image, labels):
    page = PageServer(image, labels, port=0)
    try:
        text = get(page.url).decode()
        for outside in ("https:", "http:", 'src="//', "@import"):
            assert outside not in text
        shown = np.asarray(Image.open(io.BytesIO(get(page.url + "image.png?z=5"))))
        np.testing.assert_array_equal(shown[..., 0], image.array[5])
        colours = np.asarray(Image.open(io.BytesIO(get(page.url + "labels.png?z=5"))))
        np.testing.assert_array_equal(colours[..., :3], label_colours(labels.array[5]))
        np.testing.assert_array_equal(colours[..., 3] > 0, labels.array[5] > 0)
        at = json.loads(get(page.url + "at?z=5&y=7&x=9"))
        assert at == {"value": [int(image.array[5, 7, 9])], "label": str(labels.array[5, 7, 9])}
        for bad in (
            "image.png?z=20",
            "image.png?z=-1",
            "image.png?z=a",
            "image.png",
            "at?z=0&y=512&x=0",
            "etc/passwd",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(page.url + bad)
        page.show(Chunk(np.full((1, 4, 4), 7, np.uint8)))
        assert json.loads(get(page.url + "at?z=0&y=0&x=0")) == {"value": [7]}
    finally:
        page.close()


def test_page_of_labels_alone_and_of_wrong_ones(image, labels):
    pages = Pages(labels)
    assert pages.info()["labels"]
    assert not pages.info()["both"]
    assert not np.asarray(Image.open(io.BytesIO(pages.answer("/image.png?z=0")[0]))).any()
    with pytest.raises(ChunkError, match="same size"):
        Pages(image, labels.cutout(labels.bbox.grow((-1, 0, 0))))
    with pytest.raises(ChunkError, match="labels are integers"):
        Pages(image, image.with_array(image.array.astype(np.float32)))


# -- serving and ending ---------------------------------------------------------------------


@contextmanager
def running(*words, **environment):
    """Give a process of a viewer and the first line it prints; it has no terminal."""
    done = subprocess.Popen(
        [sys.executable, "-m", "segflow", *map(str, words)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        yield done, done.stdout.readline()
    finally:
        done.kill()
        done.communicate()


CREATE = ("create-chunk", "-s", 8, 32, 32)


@pytest.mark.parametrize("viewer", ["neuroglancer", "view"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal_then_exits_0(viewer, number):
    with running(*CREATE, viewer, "-p", 0) as (process, first):
        assert first.startswith("http://127.0.0.1:")
        assert get(first.strip())
        if number == signal.SIGTERM:
            time.sleep(0.8)  # longer than the grace: it holds
            assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert out == ""
        assert "Traceback" not in err


def test_ends_at_once_when_asked_before_the_hold(tmp_path):
    """Ctrl+C right behind the address ends the viewing, even in a shell that ignores SIGINT."""
    script = f"trap '' INT; exec {sys.executable} -m segflow create-chunk -s 8 32 32 neuroglancer"
    process = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("http")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_ctrl_c_in_the_middle_of_the_work_is_an_interruption(tmp_path):
    slow = tmp_path / "slow.py"
    # Python loses a signal that comes as a sleep begins, until that sleep ends: so they are short
    slow.write_text(
        "import time\n\n\ndef execute(chunk):\n    for _ in range(600):\n        time.sleep(0.1)\n"
    )
    line = (*CREATE, "neuroglancer", "plugin", "-f", slow, "-i", "chunk", "-o", "chunk")
    with running(*line) as (process, first):
        assert first.startswith("http")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert time.monotonic() - began < 20


def test_two_viewers_end_together_and_writers_come_first(tmp_path):
    line = (*CREATE, "view", "-p", 0, "neuroglancer", "write-npy", "-f", tmp_path / "a.npy")
    with running(*line) as (process, first):
        assert get(first.strip())
        assert get(process.stdout.readline().strip())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert np.load(tmp_path / "a.npy").shape == (8, 32, 32)


def test_over_ssh_the_tunnel_is_printed():
    with running(*CREATE, "neuroglancer", SSH_CONNECTION="10.0.0.2 50000 10.0.0.9 22") as (process, first):
        port = first.split(":")[2].partition("/")[0]
        assert f"-L {port}:127.0.0.1:{port} " in process.stdout.readline()
    lines = server.announce("http://127.0.0.1:1/", 1, {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.9 2222"})
    assert "ssh -p 2222 -L 1:127.0.0.1:1 " in lines[1]
    assert lines[1].endswith("@10.0.0.9")
    assert server.announce("http://127.0.0.1:1/", 1, {}) == ["http://127.0.0.1:1/"]


@pytest.mark.parametrize("viewer", ["neuroglancer", "view"])
def test_a_taken_port_ends_the_check(viewer, segflow):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"segflow {viewer}: port {port} is in use" in segflow(*CREATE, viewer, "-p", port, code=2).last
    assert (
        "no address of this machine" in segflow(*CREATE, viewer, "-p", 0, "--bind", "192.0.2.1", code=2).last
    )


def test_a_port_taken_after_the_check(image):
    from segflow.view.scene import Neuroglancer

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SegflowError, match=f"port {port} is in use"):
            Neuroglancer(port=port)
        with pytest.raises(SegflowError, match=f"port {port} is in use"):
            PageServer(image, port=port)
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", PageServer.DEFAULT))
            taken.listen()
        except OSError:
            pass  # someone else has it, which serves as well
        page = PageServer(image)  # none asked for: any free one
        assert page.port != PageServer.DEFAULT
        page.close()


def test_bind_to_all_addresses(segflow):
    with running(*CREATE, "view", "-p", 0, "--bind", "0.0.0.0") as (_, first):
        port = first.rstrip("/\n").rpartition(":")[2]
        assert socket.gethostname() in first
        assert get(f"http://127.0.0.1:{port}/")


def test_names_are_checked_before_the_run(segflow):
    assert (
        "did you mean 'image'" in segflow(*CREATE, "-o", "image", "neuroglancer", "-c", "imag", code=2).last
    )
    assert "did you mean 'color'" in segflow(*CREATE, "neuroglancer", "-c", "chunk[colr=red]", code=2).last
    assert "no chunk to show" in segflow("neuroglancer", code=2).last
    assert "no chunk named 'seg'" in segflow(*CREATE, "view", "--segmentation-chunk-name", "seg", code=2).last


# -- pictures -------------------------------------------------------------------------------


def share(picture, name):
    """Give the share of pixels that are clearly of a colour."""
    r, g, b = (picture[..., i].astype(float) for i in range(3))
    found = {
        "red": (r > 1.5 * g + 20) & (r > 1.5 * b + 20),
        "green": (g > 1.5 * r + 20) & (g > 1.5 * b + 20),
        "blue": (b > 1.5 * r + 20) & (b > 1.5 * g + 20),
    }[name]
    return found.mean()


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@needs_browser
def test_screenshot_in_a_chain(tmp_path, segflow):
    """Two halves of an image with labels on a quarter: the greys and the colour stand where they should."""
    grey_halves = np.full((6, 60, 80), 40, np.uint8)
    grey_halves[:, 30:] = 200
    quarter = np.zeros((6, 60, 80), np.uint32)
    quarter[:, :30, :40] = 9
    np.save(tmp_path / "image.npy", grey_halves)
    np.save(tmp_path / "seg.npy", quarter)
    segflow(
        "read-npy", "-f", tmp_path / "image.npy", "-o", "image", "--voxel-offset", 5, 100, 200,
        "read-npy", "-f", tmp_path / "seg.npy", "-o", "seg", "--voxel-offset", 5, 100, 200,
        "neuroglancer", "-c", "image,seg[color=red opacity=0.5]", "-v", 30, 6, 6,
        "--screenshot", tmp_path / "shot.png", "--size", 400, 300,
        "write-npy", "-i", "seg", "-f", tmp_path / "after.npy",
    )  # fmt: skip
    assert (tmp_path / "after.npy").exists()  # the chain went on
    shot = pixels((tmp_path / "shot.png").read_bytes())
    assert shot.shape == (300, 400, 3)
    parts = {
        (i, j): shot[50 + 140 * i : 110 + 140 * i, 60 + 180 * j : 160 + 180 * j]
        for i in (0, 1)
        for j in (0, 1)
    }
    np.testing.assert_allclose(parts[0, 1], 40, atol=3)
    np.testing.assert_allclose(np.median(parts[1, 1]), 200, atol=3)
    np.testing.assert_allclose(np.median(parts[1, 0][:40]), 200, atol=3)
    assert share(parts[0, 0], "red") > 0.99
    assert share(parts[0, 1], "red") == share(parts[1, 1], "red") == 0


@needs_browser
def test_screenshot_of_affinities_and_meshes(labels):
    bands = np.zeros((3, 4, 60, 60), np.float32)
    for channel in range(3):
        bands[channel, :, :, 20 * channel : 20 * channel + 20] = 1
    shot = pixels(screenshot.shoot({"affs": Chunk(bands, (0, 10, 10), (6, 6, 6))}, size=(300, 300)))
    for channel, name in enumerate(("red", "green", "blue")):  # x, y, z from left to right
        assert share(shot[20:-40, 100 * channel + 15 : 100 * channel + 85], name) > 0.97
    small = labels.cutout(labels.bbox.grow((-4, -160, -160)))
    shot = pixels(screenshot.shoot({"seg": small}, size=(600, 300), layout="xy-3d"))
    flat, solid = shot[:, :300], shot[:, 300:]
    assert (np.ptp(flat.astype(int), axis=2) > 60).mean() > 0.5
    assert (np.ptp(solid.astype(int), axis=2) > 60).mean() > 0.05  # the meshes of the largest segments


@needs_browser
def test_picture_of_the_page(image, labels, tmp_path, segflow):
    np.save(tmp_path / "seg.npy", (labels.array > 0).astype(np.uint32))
    segflow(
        "create-chunk", "--pattern", "zero", "-s", 20, 512, 512,
        "read-npy", "-f", tmp_path / "seg.npy", "-o", "seg",
        "view", "--segmentation-chunk-name", "seg", "--screenshot", tmp_path / "shot.png", "--size", 500, 400,
    )  # fmt: skip
    shot = pixels((tmp_path / "shot.png").read_bytes())
    assert shot.shape == (400, 500, 3)
    wanted = label_colours(np.array([1]))[0] * 0.5 * 200 / 255
    box = shot[44:355, 95:405].astype(float)  # the section fills the height between the bars
    near = np.abs(box - wanted).max(axis=2) < 12
    assert near.mean() == pytest.approx((labels.array[10] > 0).mean(), abs=0.12)


def test_no_browser_and_no_picture_in_time(image, monkeypatch, tmp_path, segflow):
    class Blind:
        def get(self, url):
            """Open nothing."""

        def get_log(self, kind):
            return [{"level": "SEVERE", "message": "no\nWebGL"}]

    @contextmanager
    def blind(size):
        yield Blind()

    monkeypatch.setattr(screenshot, "browser", blind)
    monkeypatch.setattr(screenshot, "find_browser", lambda: ("a", "b"))
    with pytest.raises(SegflowError, match="no picture within 0 s; the browser says: no WebGL"):
        screenshot.shoot({"image": image}, timeout=0.3)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(screenshot, "DRIVERS", ())
    for viewer in ("neuroglancer", "view"):
        last = segflow(*CREATE, viewer, "--screenshot", tmp_path / "shot.png", code=2).last
        assert last.startswith(f"segflow {viewer}: a screenshot needs a browser")
        assert "apt-get install chromium chromium-driver" in last
    monkeypatch.setattr(screenshot.importlib.util, "find_spec", lambda name: None)
    assert (
        "pip install 'segflow[screenshot]'"
        in segflow(*CREATE, "view", "--screenshot", tmp_path / "s.png", code=2).last
    )
    assert not list(tmp_path.iterdir())


def test_what_a_thread_raises_comes_out():
    with pytest.raises(ZeroDivisionError):
        screenshot.within(5, lambda: 1 // 0, str)
    assert screenshot.within(5, lambda: 3, str) == 3


def test_serving_is_one_for_a_run():
    state = State()
    serving = server.Serving.of(state.run.memory)
    assert server.Serving.of(state.run.memory) is serving
    serving.hold()  # nothing is served: it returns at once


def test_dust_stays_clear():
    import numpy as np

    from segflow.chunk import Chunk
    from segflow.view.overlay import overlay

    image = Chunk(np.full((1, 32, 32), 100, np.uint8))
    labels = np.ones((1, 32, 32), np.uint32)
    labels[0, 10, 10] = 7
    plain = np.asarray(overlay(image, None, Chunk(labels), tile=64))
    clean = np.asarray(overlay(image, None, Chunk(labels), tile=64, dust_threshold=2))
    assert (plain != clean).any()
