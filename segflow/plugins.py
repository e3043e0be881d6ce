"""A user's function as an operator: a Python file with ``execute(*inputs, **args)``."""

from __future__ import annotations

import ast
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.errors import ChunkError, SegflowError, UsageError
from segflow.geometry import vec

if TYPE_CHECKING:
    from segflow.geometry import Box

FOLDERS = ("SEGFLOW_PLUGIN_DIR", "CHUNKFLOW_PLUGIN_DIR")
ENTRY = "execute"
PLAIN = (int, float, str, bytes)  # no chunk, nor anything that a later step could read


def find_plugin(file: str) -> Path:
    """Find a plugin: as named, else in the folders of $SEGFLOW_PLUGIN_DIR and $CHUNKFLOW_PLUGIN_DIR.

    The name may leave out ``.py``; the variables may hold several folders, separated by colons.

    Raises:
        UsageError: it is nowhere.
    """
    named = Path(file).expanduser()
    folders = [Path(f) for key in FOLDERS for f in os.environ.get(key, "").split(os.pathsep) if f]
    for place in [named, *(folder.expanduser() / named for folder in folders)]:
        for path in (place, place.with_name(place.name + ".py")):
            if path.is_file():
                return path.absolute()
    near = _near(named)
    where = "".join(f", nor in {folder}" for folder in folders)
    raise UsageError(
        f"there is no plugin {file} here{where}{near}; give a file, or its folder in ${FOLDERS[0]}"
    )


def _near(named: Path) -> str:
    from segflow.errors import did_you_mean

    return did_you_mean(named.name, [p.name for p in named.parent.glob("*.py")])


def check_plugin(path: Path) -> None:
    """Check a plugin's text without running it.

    Raises:
        UsageError: a syntax error, or nothing in it can be ``execute``.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(f"{path}{line}: {what}; it is no Python that runs") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    names = {n for node in tree.body for n in _names(node)}
    if ENTRY not in names and "*" not in names:
        raise UsageError(f"{path} has no function '{ENTRY}'; a plugin needs def {ENTRY}(chunk): ...")


def _names(node: ast.stmt) -> Iterator[str]:
    for part in ast.walk(node) if not isinstance(node, ast.FunctionDef | ast.ClassDef) else [node]:
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.alias):
            yield part.asname or part.name


@cache
def load_plugin(path: Path) -> Callable[..., Any]:
    """Run a plugin's file and give its ``execute``; the file's folder is importable from it.

    Raises:
        SegflowError: the file fails; the line is named.
    """
    name = f"segflow_plugin_{path.stem}_{abs(hash(path)):x}"
    spec = spec_from_loader(name, SourceFileLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise SegflowError(f"{path} cannot be loaded")
    module = module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    with _placed(path):
        spec.loader.exec_module(module)
    function = getattr(module, ENTRY, None)
    if not callable(function):
        raise SegflowError(f"{path} has no function '{ENTRY}'; a plugin needs def {ENTRY}(chunk): ...")
    return function


@contextmanager
def _placed(path: Path) -> Iterator[None]:
    """Turn what the user's code raises into one line that names its file and line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(path)]
        where = f"{path} line {lines[-1]}" if lines else str(path)
        raise SegflowError(f"{where}: {type(error).__name__}: {error}") from error


def parse_args(text: str | None) -> dict[str, Any]:
    """Read a plugin's arguments: a JSON object, or ``k=v;k2=v2``.

    Values of the short form are Python literals where they are any, else words; one that holds a
    semicolon needs JSON.

    Raises:
        UsageError: neither.

    >>> parse_args("size=(3, 1, 1);mode=reflect;f=a=b")
    {'size': (3, 1, 1), 'mode': 'reflect', 'f': 'a=b'}
    >>> parse_args('{"text": "a;b=c"}')
    {'text': 'a;b=c'}
    """
    found: dict[str, Any] = {}
    if not text or not text.strip():
        return found
    if text.strip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise UsageError(f"--args {text} is no JSON: {error}") from error
    for item in text.split(";"):
        name, mark, value = (part.strip() for part in item.partition("="))
        if not item.strip():
            continue
        if not mark or not name.isidentifier():
            raise UsageError(f"--args: '{item}' is not name=value; write k=v;k2=v2 or a JSON object")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def run_plugin(
    path: Path,
    inputs: Sequence[Any],
    args: dict[str, Any] | None = None,
    outputs: int = 1,
    bbox: Box | None = None,
) -> tuple[Any, ...]:
    """Call a plugin and give its results as a tuple.

    Arrays become Chunks at the first input's place; where they are smaller or larger than it, they
    share its middle. Without inputs they begin at ``bbox``. Chunks and other values stay, as does a
    None in a list of results, which skip-none looks for.

    Args:
        path: the plugin's file.
        inputs: what ``execute`` gets, in order.
        args: its keywords.
        outputs: how many results it has to return.
        bbox: the task's box; ``execute`` gets it when it has an argument ``bbox``.

    Raises:
        SegflowError: its code fails (the line is named), or another number of results comes back.
    """
    function, keywords = load_plugin(path), dict(args or {})
    if "bbox" in _arguments(function)[len(inputs) :]:
        keywords.setdefault("bbox", bbox)
    with _placed(path):
        result = function(*inputs, **keywords)
    results = () if result is None else tuple(result) if isinstance(result, tuple | list) else (result,)
    if len(results) != outputs:
        raise SegflowError(
            f"{path}: {ENTRY} returned {len(results)} values, but --output-names names {outputs}"
        )
    return tuple(_chunk(value, inputs, bbox, path) for value in results)


def _arguments(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # compiled code tells no signature
        return []


def _chunk(value: Any, inputs: Sequence[Any], bbox: Box | None, path: Path) -> Any:
    import numpy as np

    from segflow.chunk import Chunk

    if isinstance(value, Chunk) or not (hasattr(value, "__array__") or isinstance(value, PLAIN)):
        return value
    value = np.asarray(value)
    if value.ndim not in (3, 4) or value.dtype.kind not in "buif":
        raise ChunkError(
            f"{path}: {ENTRY} returned {value.dtype} of shape {value.shape}; chunks are zyx or czyx numbers"
        )
    first = next((c for c in inputs if isinstance(c, Chunk)), None)
    if first is None:
        return Chunk(value, bbox.start if bbox is not None else (0, 0, 0))
    sizes = zip(first.voxel_offset, first.shape[-3:], value.shape[-3:])
    same = (value.dtype, value.shape[:-3]) == (first.dtype, first.shape[:-3])
    return Chunk(
        value,
        vec([o + (a - b) // 2 for o, a, b in sizes]),
        first.voxel_size,
        first.layer_type if same else None,
        first.offsets if same else None,
        first.source,
    )
