"""The chain: streaming, names, skips, errors, checks before the run, pipeline files."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import operators_for_tests as ours
import pytest
import yaml

from segflow.cli import registry, run_chain
from segflow.cli.prefetch import ahead


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    """Add the operators of the tests to the chain, and forget their events."""
    found = {
        f.__name__.replace("_", "-"): SimpleNamespace(load=lambda f=f: f, value=f.__module__)
        for f in ours.ALL
    }
    registry.load.cache_clear()
    monkeypatch.setattr(registry, "third_party", lambda: found)
    ours.events.clear()
    yield ours.events
    registry.load.cache_clear()


def test_states_pass_one_at_a_time(segflow, operators):
    segflow("numbers", "-n", 3, "add", "--by", 10, "record")
    assert operators == [
        ("made", 0), ("", 10, False), ("made", 1), ("", 11, False), ("made", 2), ("", 12, False),
        ("finished", ""),
    ]  # fmt: skip


def test_a_source_in_the_middle_runs_once_a_state(segflow, operators):
    segflow("numbers", "-n", 2, "-o", "a", "numbers", "-n", 2, "-o", "b", "record", "-i", "a,b")
    assert [e[1:3] for e in operators if e[0] == ""] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_stream_joins(segflow, operators):
    segflow("numbers", "-n", 4, "total", "--into", "value", "record")
    assert ("", 6, False) in operators


def test_only_one_state_is_alive(segflow, monkeypatch, operators):
    alive: list[weakref.ref] = []
    most = []

    def watch(state, chunks, note=""):
        alive.append(weakref.ref(state))
        gc.collect()
        most.append(sum(r() is not None for r in alive))

    monkeypatch.setattr(ours.record.__operator__, "function", watch)
    segflow("numbers", "-n", 4, "add", "record", "record")
    assert max(most) <= 2  # the first of a pair sees the state once, the second twice
    assert most[0::2] == [1, 1, 1, 1]


def test_same_operator_twice_is_timed_twice(segflow, tmp_path, operators):
    segflow("--log-dir", tmp_path / "log", "numbers", "-n", 1, "add", "--name", "first", "add", "add")
    import json

    (file,) = (tmp_path / "log").glob("*.json")
    assert {"first", "add", "add#2"} <= set(json.loads(file.read_text())["timer"])


def test_unknown_chunk_is_found_before_the_run(segflow, operators):
    result = segflow("numbers", "-o", "image", "record", "-i", "imagee", code=2)
    assert operators == []
    assert result.err.count("\n") == 1
    assert re.search(r"segflow record: no chunk named 'imagee' \(did you mean 'image'\?\)", result.err)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["recrod"], "no such command 'recrod' (did you mean 'record'?)"),
        (["numbers", "--cuont", 1], "segflow numbers: No such option '--cuont'"),
        (["numbers", "-n", "many"], "segflow numbers: Invalid value for '-n' / '--count'"),
        (["--mipp", 1, "numbers"], "No such option '--mipp'"),
        (["numbers", "run", "x.yaml"], "run stands alone"),
        (["run", "/nowhere/x.yaml"], "/nowhere/x.yaml: no such file or directory"),
    ],
)
def test_usage_errors_are_one_line(segflow, words, text, operators):
    result = segflow(*words, code=2)
    assert text in result.err
    assert result.err.count("\n") == 1
    assert operators == []


def test_old_spellings_and_underscores(segflow, data):
    segflow("--dry-run", "load_tif", "--file_name", data / "ac4_image.tif", "--output-name", "image")


def test_failure_stops(segflow, operators):
    result = segflow("numbers", "fail-at", "record", code=1)
    assert result.last == "segflow fail-at: the value is 1"
    assert ("", 0, False) in operators
    assert ("made", 2) not in operators


def test_failure_continues_when_told(segflow, operators):
    result = segflow("--on-error", "continue", "numbers", "fail-at", "record", code=1)
    assert [e[1] for e in operators if e[0] == ""] == [0, 2]
    assert result.last == "segflow: 1 task failed; see the lines above"
    assert "segflow fail-at: the value is 1" in result.err


def test_our_own_mistake_leaves_a_crash_log(segflow, operators):
    result = segflow("numbers", "crash", code=1)
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    path = Path(result.last.split()[-1])
    assert "KeyError" in path.read_text()
    path.unlink()


def test_debug_shows_the_traceback(process):
    result = process("--debug", "read-tif", "-f", "/nowhere/a.tif", code=None)
    assert result.code != 0
    assert "Traceback" in result.err


def test_skip(segflow, operators):
    segflow("numbers", "skip-at", "record", "close")
    assert [e for e in operators if e[0] == ""] == [("", 0, False), ("", 2, False)]
    assert ("closed", 1, "it is the one") in operators


@pytest.mark.parametrize("to", ["here", "record"])
def test_skip_to_resumes(segflow, operators, to):
    name = ["--name", "here"] if to == "here" else []
    segflow("numbers", "skip-at", "--to", to, "add", "--by", 100, "record", *name, "record", "--note", "n")
    assert [e for e in operators if e[0] == ""] == [("", 100, False), ("", 1, True), ("", 102, False)]
    assert ("n", 1, False) in operators


@pytest.mark.parametrize("count", [0, 1, 3])
def test_prefetch_gives_the_same(segflow, operators, count):
    segflow("--prefetch", count, "numbers", "-n", 5, "add", "record")
    assert [e[1] for e in operators if e[0] == ""] == [1, 2, 3, 4, 5]


def test_prefetch_passes_errors_on(segflow, operators):
    result = segflow("--prefetch", 2, "numbers", "fail-at", "record", code=1)
    assert result.last == "segflow fail-at: the value is 1"


def test_prefetch_runs_ahead_and_stops():
    made = []

    def source():
        for i in range(100):
            made.append(i)
            yield i

    stream = ahead(source(), 2)
    assert next(stream) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == 4  # one given, two queued, one in hand
    stream.close()
    assert len(made) == 4


def test_dry_run_shows_the_plan_and_does_nothing(segflow, operators):
    result = segflow("--dry-run", "numbers", "add", "record")
    assert operators == []
    assert re.search(r"2\s+add\s+value -> value", result.out)
    assert "memory" in result.out


def test_dry_run_of_a_real_line_knows_shapes(segflow, data):
    result = segflow("--dry-run", "read-tif", "-f", data / "ac4_image.tif", "-o", "image")
    assert "20x512x512 uint8" in result.out
    assert "5.2 MB" in result.out


def test_yaml_is_the_same_as_the_line(segflow, tmp_path, operators):
    line = ["numbers", "-n", 2, "add", "--by", -3, "record", "--note", "a b", "-i", "value"]
    segflow("--save", tmp_path / "p.yaml", *line)
    first = list(operators)
    operators.clear()
    segflow("run", tmp_path / "p.yaml")
    assert operators == first
    steps = yaml.safe_load((tmp_path / "p.yaml").read_text())["steps"]
    assert steps[1] == {"add": {"by": -3}}
    segflow("--save", tmp_path / "q.yaml", "--dry-run", "run", tmp_path / "p.yaml")
    assert (tmp_path / "q.yaml").read_text() == (tmp_path / "p.yaml").read_text()


def test_yaml_takes_settings(segflow, tmp_path, operators, monkeypatch):
    file = tmp_path / "p.yaml"
    file.write_text("steps:\n- numbers: {count: '${COUNT}'}\n- add: {by: 1}\n- add: {by: 1}\n- record\n")
    assert "${COUNT} has no value" in segflow("run", file, code=2).err
    segflow("run", file, "--set", "COUNT=1", "--set", "add[1].by=40", "--set", "record.note=x")
    assert ("x", 41, False) in operators
    monkeypatch.setenv("COUNT", "2")
    operators.clear()
    segflow("run", file)
    assert ("", 3, False) in operators
    assert "there are 2 steps 'add'" in segflow("run", file, "--set", "add.by=1", code=2).err
    assert "no step 'addd' (did you mean 'add'?)" in segflow("run", file, "--set", "addd.by=1", code=2).err
    file.write_text("just words")
    assert "holds no pipeline" in segflow("run", file, code=2).err


def test_help_lists_every_command_fast_and_light():
    code = "import sys; from segflow.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    heavy = "{'numpy','torch','h5py','tifffile','boto3','cloudvolume','tensorstore','neuroglancer','yaml'}"
    done = subprocess.run(
        [sys.executable, "-c", code + f"print('HEAVY', {heavy} & set(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "HEAVY set()" in done.stdout
    for name in registry.builtin():
        assert re.search(rf"^  {name}\s", done.stdout, re.M), name


@pytest.mark.parametrize("name", registry.builtin())
def test_every_command_explains_itself(name):
    command = registry.load(name)
    assert command.short_help
    assert "Example:" in (command.epilog or ""), name
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("name", registry.builtin())
def test_an_option_that_is_needed_is_asked_for(name, segflow):
    needed = [p for p in registry.load(name).params if p.required and p.param_type_name == "option"]
    if needed:
        said = segflow(name, code=2).last
        assert f"Missing option '{needed[0].opts[0]}'" in said or "Missing argument" in said


@pytest.mark.parametrize("name", list(registry.builtin()))
def test_defaults_stand_in_the_signature_too(name):
    """The function called from Python does what the command does."""
    import inspect

    command = registry.load(name)
    signature = inspect.signature(command.operator.function).parameters
    for parameter in command.params:
        argument = signature.get(str(parameter.name))
        if argument is None or getattr(parameter, "role", None) or parameter.required:
            continue
        if argument.default is inspect.Parameter.empty or parameter.default is None:
            continue
        shown = parameter.default() if callable(parameter.default) else parameter.default
        if "Sentinel" in type(shown).__name__ or parameter.name == "dtype":
            continue
        forms = (str(shown), str(parameter.type_cast_value(None, shown)))
        assert str(argument.default) in forms, parameter.name


def test_segflow_alone_prints_the_help(process):
    assert process().out.startswith("Usage: segflow")


def test_interrupt_is_one_line():
    words = [sys.executable, "-m", "segflow", "create-chunk", "-s", "8", "8", "8", "neuroglancer", "-p", "0"]
    done = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert done.stdout is not None
    assert done.stdout.readline().startswith("http")
    done.send_signal(2)
    _, err = done.communicate(timeout=30)
    assert done.returncode == 0, err


def test_run_chain_from_python():
    state = run_chain("create-chunk", "--size", "4", "8", "8", "--pattern", "zero", "-o", "image")
    assert state["image"].shape == (4, 8, 8)
