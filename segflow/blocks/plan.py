"""The plan of a block job: what its results depend on, and what a changed plan makes stale."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segflow.errors import UsageError

if TYPE_CHECKING:
    from segflow.blocks.ledger import Stage
    from segflow.geometry import Box, Grid

FORMAT = 1  # of work folders: results of another one are stale

Json = dict[str, Any]


def make_plan(
    job: str,
    options: Mapping[str, Any],
    stages: Sequence[Stage],
    grid: Grid | None = None,
    bounds: Box | None = None,
    known: Json | None = None,
) -> Json:
    """Give the plan as JSON: each stage with its fingerprint, a hash of what its results depend on.

    ``known`` are stages that are planned already, which these may come after.

    Raises:
        ValueError: a stage's name is no name for a folder, or it comes before its predecessors.
    """
    planned: Json = {}
    for stage in stages:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.+=-]*", stage.name) or stage.name == "plan.json":
            raise ValueError(f"'{stage.name}' cannot name a stage's folder")
        entry = _plain({"count": stage.count, "after": list(stage.after), "key": dict(stage.key)})
        planned[stage.name] = {**entry, "fingerprint": stage_fingerprint(entry, {**(known or {}), **planned})}
    shape = {w: list(getattr(grid, w)) for w in ("start", "size", "stride", "counts")} if grid else None
    where = {"grid": shape, "bounds": str(bounds) if bounds else None}
    return {"format": FORMAT, "job": job, "options": _plain(options), **where, "stages": planned}


def stage_fingerprint(entry: Json, stages: Json) -> str:
    """Hash a stage's count and key, and the fingerprints of the stages it comes after.

    Raises:
        ValueError: one of those is not among ``stages``.
    """
    missing = [name for name in entry["after"] if name not in stages]
    if missing:
        raise ValueError(f"a stage comes after '{missing[0]}', which is not there")
    before = [stages[name]["fingerprint"] for name in entry["after"]]
    text = json.dumps([FORMAT, entry["count"], entry["key"], before], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Give what JSON makes of a value; what it does not know becomes text."""
    return json.loads(json.dumps(value, default=str))


def merge_plans(old: Json, new: Json, have: Sequence[str], stale: str, path: str) -> tuple[Json, list[str]]:
    """Give the plan to go on with, and the stages whose results must go before.

    Args:
        old: the plan on disk.
        new: the plan of this run.
        have: stages on disk that have results.
        stale: fail, redo or keep.
        path: of the work folder, for messages.

    Raises:
        UsageError: what is there belongs to another job, or to other parameters and ``stale`` is fail.
    """
    other = [
        f"{word} {_short(old[word])} → {_short(new[word])}"
        for word in ("job", "grid", "bounds")
        if old[word] != new[word]
    ]
    if other:
        if have and (stale != "redo" or old["job"] != new["job"]):
            offer = " or --stale redo to begin anew" if old["job"] == new["job"] else ""
            raise UsageError(
                f"{path} is the work folder of another job: {', '.join(other)}; "
                f"give another --work-dir{offer}"
            )
        return new, list(old["stages"])
    before = old["stages"]
    void = [n for n, s in before.items() if s["fingerprint"] is None]
    differ = [
        n for n, s in new["stages"].items() if n in before and before[n]["fingerprint"] != s["fingerprint"]
    ]
    changed = [name for name in differ if name in have and name not in void]
    lines = [changes(before[name], new["stages"][name]) for name in differ]
    told = list(dict.fromkeys(line for found in lines for line in found))
    if changed and stale == "fail":
        raise UsageError(_refusal(path, changed, told))
    stages = _ordered({**before, **new["stages"]})
    for name in stages:
        kept = before.get(name, {}).get("kept", [])
        if name in changed and stale == "keep":
            stages[name] = {**stages[name], "kept": [*kept, *told]}
        elif kept and name not in changed and name not in void:
            stages[name] = {**stages[name], "kept": kept}
    gone = [*void, *(changed if stale == "redo" else ())]
    return {**new, "stages": stages}, gone


def _ordered(stages: Json) -> Json:
    """Put each stage after its predecessors."""
    placed: Json = {}
    while len(placed) < len(stages):
        ready = {n: s for n, s in stages.items() if n not in placed and placed.keys() >= set(s["after"])}
        placed |= ready or stages
    return placed


def with_dependents(stages: Json, names: Sequence[str]) -> list[str]:
    """Give ``names`` and every stage that comes after one of them, in the order of the plan.

    >>> with_dependents({"a": {"after": []}, "b": {"after": ["a"]}, "c": {"after": ["b"]}}, ["b"])
    ['b', 'c']
    """
    found = set(names)
    for name, stage in stages.items():  # a plan holds each stage after its predecessors
        if found.intersection(stage["after"]):
            found.add(name)
    return [name for name in stages if name in found]


def is_stale(stages: Json, name: str) -> bool:
    """Whether a stage's results were made from other results of earlier stages than those recorded now."""
    entry = stages[name]
    return entry["fingerprint"] != stage_fingerprint(entry, stages)


def _refusal(path: str, names: list[str], told: list[str]) -> str:
    which = f"stage {names[0]}" if len(names) == 1 else f"stages {', '.join(names)}"
    moved = any(line.partition(" ")[0].endswith("path") for line in told)
    what = "is the work folder of another job" if moved else "holds results of other parameters"
    return (
        f"{path} {what} ({', '.join(told) or 'an older format'}); --stale redo computes {which} "
        f"anew, --stale keep goes on with the old results"
    )


def changes(old: Json, new: Json) -> list[str]:
    """Name what differs between two stages of a plan.

    >>> changes({"count": 2, "after": [], "key": {"low": 0.1, "in": {"bytes": 1}}},
    ...         {"count": 2, "after": [], "key": {"low": 0.2, "in": {"bytes": 1}}})
    ['low 0.1 → 0.2']
    """
    a, b = ({"blocks": s["count"], "after": s["after"], **_flat(s["key"])} for s in (old, new))
    return [f"{k} {_short(a.get(k))} → {_short(b.get(k))}" for k in {**a, **b} if a.get(k) != b.get(k)]


def _flat(value: Json, prefix: str = "") -> Json:
    """Give nested dicts as one, keys joined by dots."""
    found: Json = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return found


def _short(value: Any) -> str:
    if isinstance(value, dict):  # a grid
        return f"of blocks {_short(value['size'])} every {_short(value['stride'])}"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
