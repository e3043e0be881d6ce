"""A user's file as an operator, and operators of other packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shlex import split as words

import numpy as np
import pytest
import tifffile

from segflow.chunk import Chunk
from segflow.cli import run_chain
from segflow.errors import ChunkError, SegflowError, UsageError
from segflow.plugins import find_plugin, load_plugin, parse_args, run_plugin

INVERT = "def execute(chunk, maximum=255):\n    return maximum - chunk.array\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give a working folder, and a function that writes a plugin there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text, name="mine.py"):
    """Write a plugin into the working folder."""
    Path(name).write_text(text)
    load_plugin.cache_clear()
    return find_plugin(name)


# -- what it does -------------------------------------------------------------------------------


def test_a_real_image_inverted(place, data):
    write(INVERT)
    line = f"read-tif -f {data}/ac4_image.tif --voxel-offset 1 2 3 --voxel-size 30 6 6 -o image "
    state = run_chain(*words(line + "plugin -f mine.py -i image -o inverse"))
    np.testing.assert_array_equal(state["inverse"].array, 255 - tifffile.imread(data / "ac4_image.tif"))
    assert state["inverse"].bbox == state["image"].bbox
    assert state["inverse"].voxel_size == (30, 6, 6)
    assert state["inverse"].layer_type == "image"
    assert not state["inverse"].array.flags.writeable
    less = run_chain(*words(line + "plugin -f mine.py -i image -o inverse -a maximum=100"))["inverse"]
    np.testing.assert_array_equal(less.array, 100 - state["image"].array)


@pytest.mark.parametrize("options", ["-f", "--file", "--file-name"])
def test_old_spellings(place, options):
    write(INVERT)
    for name in ("plugin", "custom-operator"):
        line = f"create-chunk {name} {options} mine --input-names chunk --output-names chunk"
        assert run_chain(*words(line))["chunk"].array.max() == 255  # the black centre


def test_several_inputs_and_outputs(place):
    write("def execute(a, b, sign=1):\n    return a.array + b.array, sign * a.array.astype('int64')\n")
    line = "create-chunk -s 4 4 4 -o a create-chunk -s 4 4 4 -p sin -o b plugin -f mine.py -i b,a -o c,d "
    state = run_chain(*words(line + "-a sign=-1"))
    np.testing.assert_array_equal(state["c"].array, state["a"].array + state["b"].array)
    np.testing.assert_array_equal(state["d"].array, -state["b"].array.astype(int))  # b came first
    assert state["d"].layer_type == "segmentation"


def test_no_outputs_and_no_inputs(place):
    write("import numpy\ndef execute(bbox):\n    return numpy.zeros(bbox.shape, 'uint8')\n")
    made = run_chain(*words("create-bbox -s 5 6 7 -z 2 3 4 plugin -f mine.py -o made"))["made"]
    assert str(made.bbox) == "5-7_6-9_7-11"
    write("def execute(chunk):\n    open('seen', 'w').write(str(chunk.shape))\n")
    run_chain(*words("create-chunk -s 4 5 6 plugin -f mine.py -i chunk"))
    assert Path("seen").read_text() == "(4, 5, 6)"


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("chunk.array[1:-1, 2:-2, 3:-3]", (11, 22, 33)),
        ("numpy.pad(chunk.array, 2)", (8, 18, 28)),
        ("numpy.stack([chunk.array[2:-2]] * 3).astype('float32') / 255", (12, 20, 30)),
        ("chunk.cutout(Box((12, 20, 30), (13, 21, 31)))", (12, 20, 30)),
    ],
)
def test_results_share_the_middle_of_the_input(place, text, offset):
    path = write(f"import numpy\nfrom segflow import Box\ndef execute(chunk):\n    return {text}\n")
    chunk = Chunk(np.ones((8, 12, 16), np.uint8), (10, 20, 30), (30, 6, 6))
    (made,) = run_plugin(path, [chunk])
    assert made.voxel_offset == offset
    assert made.voxel_size == (30, 6, 6)


def test_affinities_keep_their_offsets_when_they_can(place):
    offsets = ((-1, 0, 0), (0, -2, 0))
    chunk = Chunk(np.ones((2, 4, 4, 4), np.float32), layer_type="affinity_map", offsets=offsets)
    (same,) = run_plugin(write("def execute(c):\n    return c.array / 2\n"), [chunk])
    assert (same.layer_type, same.offsets) == ("affinity_map", offsets)
    (one,) = run_plugin(write("def execute(c):\n    return c.array[:1]\n"), [chunk])
    assert (one.shape, one.offsets) == ((1, 4, 4, 4), None)


def test_other_values_pass(place):
    write("def execute(chunk):\n    return {'mean': float(chunk.array.mean())}\n")
    state = run_chain(*words("create-chunk -p zero plugin -f mine.py -i chunk -o facts"))
    assert state["facts"] == {"mean": 0.0}


def test_a_file_may_import_its_neighbours(place, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "neighbour_of_plugin.py").write_text("VALUE = 7\n")
    text = "import neighbour_of_plugin\nfrom pathlib import Path\nHERE = Path(__file__).parent\n"
    (other / "mine.py").write_text(
        text + "def execute(chunk):\n    return chunk.array + neighbour_of_plugin.VALUE\n"
    )
    state = run_chain(*words(f"create-chunk -p zero plugin -f {other}/mine -i chunk -o chunk"))
    assert (state["chunk"].array == 7).all()


@pytest.mark.parametrize("variable", ["SEGFLOW_PLUGIN_DIR", "CHUNKFLOW_PLUGIN_DIR"])
def test_folders_of_plugins(place, variable, monkeypatch, tmp_path_factory):
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    (second / "sub").mkdir()
    (second / "sub" / "mine.py").write_text(INVERT)
    monkeypatch.setenv(variable, f"{first}:{second}")
    assert find_plugin("sub/mine") == find_plugin("sub/mine.py") == second / "sub" / "mine.py"
    Path("sub").mkdir()
    Path("sub/mine.py").write_text(INVERT)
    assert find_plugin("sub/mine") == place / "sub" / "mine.py"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, {}),
        ("", {}),
        ("a=1", {"a": 1}),
        ("a=1; b=2.5 ;c=word;", {"a": 1, "b": 2.5, "c": "word"}),
        ("a=(1, 2);b=[3];c=None;d='x'", {"a": (1, 2), "b": [3], "c": None, "d": "x"}),
        ("path=s3://b/k?x=1", {"path": "s3://b/k?x=1"}),
        ('{"a": "x;y=z", "b": [1, 2]}', {"a": "x;y=z", "b": [1, 2]}),
    ],
)
def test_arguments(text, wanted):
    assert parse_args(text) == wanted


@pytest.mark.parametrize("text", ["word", "a=1;word", "a b=1", '{"a": 1', "=3"])
def test_arguments_that_are_none(text):
    with pytest.raises(UsageError, match="--args"):
        parse_args(text)


# -- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("def x(:\n", 2, "mine.py line 1: invalid syntax"),
        ("x = 1\n", 2, "mine.py has no function 'execute'"),
        ("def execute(chunk):\n    pass\n\n    x = chunk.nothing\n", 1, "mine.py line 4: AttributeError"),
        (
            "def execute(chunk):\n    import numpy\n    numpy.linalg.inv(7)\n",
            1,
            "mine.py line 3: LinAlgError",
        ),
        ("import nothing_like_it\ndef execute(c):\n    pass\n", 1, "mine.py line 1: ModuleNotFoundError"),
        ("from os import *\n", 1, "mine.py has no function 'execute'"),
        ("def execute(chunk):\n    raise SystemExit(3)\n", 1, "mine.py line 2: SystemExit: 3"),
        ("def execute(chunk):\n    pass\n", 1, "returned 0 values, but --output-names names 1"),
        ("def execute(chunk):\n    return 1, 2\n", 1, "returned 2 values, but --output-names names 1"),
        ("def execute(chunk):\n    return 5\n", 1, "returned int64 of shape ()"),
        ("def execute(chunk):\n    return chunk.array[0]\n", 1, "returned uint8 of shape (64, 64)"),
        ("def execute(chunk):\n    return chunk.array.astype(object)\n", 1, "returned object"),
        ("def execute():\n    pass\n", 1, "mine.py: TypeError: execute() takes 0 positional arguments"),
        (
            "def execute(chunk):\n    chunk.array[0] = 1\n",
            1,
            "mine.py line 2: ValueError: assignment destination",
        ),
    ],
)
def test_one_line_that_names_file_and_line(place, segflow, text, code, told):
    write(text)
    result = segflow("--quiet", *words("create-chunk plugin -f mine.py -i chunk -o new"), code=code)
    assert told in result.err
    assert result.err.startswith("segflow plugin: ")
    assert result.err.count("\n") == 1


def test_missing_files_and_arguments(place, segflow, monkeypatch):
    write(INVERT)
    monkeypatch.setenv("SEGFLOW_PLUGIN_DIR", "/nowhere/plugins")
    result = segflow(*words("create-chunk plugin -f mime.py -i chunk -o c"), code=2)
    assert "no plugin mime.py here, nor in /nowhere/plugins (did you mean 'mine.py'?)" in result.err
    assert "--args" in segflow(*words("create-chunk plugin -f mine.py -i chunk -o c -a x"), code=2).err
    assert "no chunk named 'chunks'" in segflow(*words("create-chunk plugin -f mine -i chunks"), code=2).err
    with pytest.raises(SegflowError, match="unexpected keyword argument 'no'"):
        run_chain(*words("create-chunk plugin -f mine.py -i chunk -o c -a no=1"))


def test_a_file_that_fails_to_load_ends_before_any_work(place, segflow):
    write("raise RuntimeError('not today')\ndef execute(c):\n    pass\n")
    segflow(*words("create-chunk write-npy -f done.npy plugin -f mine.py -i chunk"), code=1)
    assert not Path("done.npy").exists()


def test_later_names_are_known_or_warned_about(place, segflow):
    write("def execute(chunk):\n    return chunk\n")
    line = "create-chunk plugin -f mine.py -i chunk -o a copy-var -f {} -t b"
    assert "warning" not in segflow(*words(line.format("a"))).err
    result = segflow(*words(line.format("aa")), code=1)
    assert "segflow: warning: copy-var: no chunk named 'aa' (did you mean 'a'?)" in result.err
    assert result.last.startswith(
        "segflow copy-var: no chunk named 'aa' (did you mean 'a'?); the state holds"
    )


def test_wrong_arrays_from_python(place):
    with pytest.raises(ChunkError, match="chunks are zyx or czyx numbers"):
        run_plugin(write("def execute():\n    return 'word'\n"), [])
    write("def execute():\n    return None\n")
    assert run_plugin(find_plugin("mine"), [], outputs=0) == ()


# -- operators of other packages ----------------------------------------------------------------

OTHER = '''
from __future__ import annotations

from segflow.chunk import Chunk
from segflow.cli.operator import name_in, name_out, operator, option


@operator("Plugins", example="segflow create-chunk invert")
@name_in()
@option("--maximum", type=int, default=255, help="The value that 0 becomes.")
@name_out()
def invert(chunk: Chunk, *, maximum: int = 255) -> Chunk:
    """Turn dark into bright."""
    return chunk.with_array(maximum - chunk.array)
'''
SETUP = """
[project]
name = "segflow-invert"
version = "0.1"

[project.entry-points."segflow.operators"]
invert = "segflow_invert:invert"
broken-one = "segflow_invert:nothing"
create_chunk = "segflow_invert:invert"

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
py-modules = ["segflow_invert"]
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Install a tiny package that adds an operator; give the folder it is in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "segflow_invert.py").write_text(OTHER)
    (source / "pyproject.toml").write_text(SETUP)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def test_a_package_adds_an_operator(package, process, tmp_path):
    path = f"{package}"
    shown = process("--help", PYTHONPATH=path).out
    assert "  invert " in shown
    assert "Turn dark into bright" in shown
    assert "Broken:" in shown
    assert "broken-one" in shown
    line = f"create-chunk -p zero invert --maximum 9 write-npy -f {tmp_path}/x.npy"
    process(*words(line), PYTHONPATH=path)
    assert (np.load(tmp_path / "x.npy") == 9).all()
    assert "The value that 0 becomes" in process("invert", "--help", PYTHONPATH=path).out
    result = process("create-chunk", "broken-one", PYTHONPATH=path, code=1)
    assert result.err.count("\n") == 1
    assert "broken-one" in result.err
    assert "no such command 'invert'" in process("create-chunk", "invert", code=2).err
