"""Skeletons from the files that people keep them in: SWC, CATMAID's CSV, node-link JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segflow.errors import UsageError, VolumeError


@dataclass(frozen=True)
class Skeleton:
    """A traced neuron: node places, zyx (n, 3), in nm unless said otherwise, and pairs of nodes (m, 2)."""

    name: str
    nodes: NDArray[np.float64]
    edges: NDArray[np.int64]


def read_skeletons(path: str | Path) -> list[Skeleton]:
    """Read skeletons from a file, or from all files of a folder, in the order of their names.

    - ``.swc``: one skeleton, rows of id, type, x, y, z, radius, parent (-1: none).
    - ``.csv``: columns ``skeleton_id``, ``treenode_id``, ``parent_treenode_id``, ``x``, ``y``, ``z``, as
      CATMAID exports them; also ``node_id`` and ``parent_id``. An empty parent, or -1, is none.
    - ``.json``: networkx's node-link data, ``nodes`` with ``id``, ``x``, ``y``, ``z`` (or ``position``, zyx)
      and ``skeleton_id``, and ``links`` or ``edges`` with ``source`` and ``target``.

    Raises:
        UsageError: nothing there, or no such ending.
        VolumeError: a file is broken.
    """
    return [skeleton for file in check_skeletons(path) for skeleton in _read(file)]


def check_skeletons(path: str | Path) -> list[Path]:
    """Give the files of skeletons at ``path``; raise UsageError if there are none."""
    place = Path(path).expanduser()
    endings = ", ".join(READERS)
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in READERS)
        if not files:
            raise UsageError(f"the folder {path} holds no skeletons ({endings})")
        return files
    if not place.is_file():
        raise UsageError(f"{path} does not exist; give skeletons ({endings}), or a folder of them")
    if place.suffix.lower() not in READERS:
        raise UsageError(f"{path} holds no skeletons that can be read; give {endings}")
    return [place]


def _read(path: Path) -> list[Skeleton]:
    try:
        found = READERS[path.suffix.lower()](path)
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        what = f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)
        raise VolumeError(f"{path} is no {path.suffix} file of skeletons: {what}") from error
    if not found:
        raise VolumeError(f"{path} holds no skeleton")
    return found


def _swc(path: Path) -> list[Skeleton]:
    rows = [line.split() for line in path.read_text().splitlines() if line.split("#")[0].strip()]
    table = [(path.stem, r[0], r[6], tuple(float(v) for v in (r[4], r[3], r[2]))) for r in rows]
    return _trees(table)


def _csv(path: Path) -> list[Skeleton]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    names = {key.strip(): key for key in (rows[0] if rows else {})}

    def column(*known: str) -> str:
        for name in known:
            if name in names:
                return names[name]
        raise KeyError(known[0])

    if not rows:
        return []
    keys = [column("skeleton_id", "skeleton"), column("treenode_id", "node_id"),
            column("parent_treenode_id", "parent_id", "parent")]  # fmt: skip
    axes = [column(axis) for axis in "zyx"]
    return _trees((*(row[k].strip() for k in keys), tuple(float(row[a]) for a in axes)) for row in rows)


def _trees(rows: Iterable[Any]) -> list[Skeleton]:
    """Make skeletons of rows: name, node, parent, place."""
    by_name: dict[str, list[tuple[str, str, tuple[float, ...]]]] = {}
    for name, node, parent, place in rows:
        by_name.setdefault(str(name), []).append((node, parent, place))
    made = []
    for name, nodes in by_name.items():
        index = {node: i for i, (node, _, _) in enumerate(nodes)}
        if len(index) < len(nodes):
            raise ValueError(f"skeleton {name} has two nodes with one id")
        edges = []
        for node, parent, _ in nodes:
            if parent in ("", "-1", "None", "null"):
                continue
            if parent not in index:
                raise ValueError(f"the parent {parent} of node {node} is not there")
            edges.append((index[node], index[parent]))
        made.append(_skeleton(name, [place for _, _, place in nodes], edges))
    return made


def _json(path: Path) -> list[Skeleton]:
    content = json.loads(path.read_text())
    by_name: dict[str, dict[Any, int]] = {}
    places: dict[str, list[Any]] = {}
    owner: dict[Any, str] = {}
    for node in content["nodes"]:
        name = str(node.get("skeleton_id", path.stem))
        place = node["position"] if "position" in node else [node[axis] for axis in "zyx"]
        by_name.setdefault(name, {})[node["id"]] = len(places.setdefault(name, []))
        places[name].append([float(v) for v in place])
        owner[node["id"]] = name
    edges: dict[str, list[tuple[int, int]]] = {name: [] for name in by_name}
    for link in content["links"] if "links" in content else content["edges"]:
        ends = link["source"], link["target"]
        name = owner[ends[0]]
        if owner[ends[1]] != name:
            raise ValueError(f"the edge {ends[0]} - {ends[1]} joins two skeletons")
        edges[name].append((by_name[name][ends[0]], by_name[name][ends[1]]))
    return [_skeleton(name, places[name], edges[name]) for name in by_name]


def _skeleton(name: str, places: Any, edges: Any) -> Skeleton:
    nodes = np.asarray(places, np.float64).reshape(-1, 3)
    if not np.isfinite(nodes).all():
        raise ValueError(f"skeleton {name} has a place that is no number")
    return Skeleton(name, nodes, np.asarray(edges, np.int64).reshape(-1, 2))


READERS: dict[str, Callable[[Path], list[Skeleton]]] = {".swc": _swc, ".csv": _csv, ".json": _json}
