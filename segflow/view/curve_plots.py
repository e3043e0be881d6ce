"""Pictures of curves over thresholds, and of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segflow.view.plot import Line, Panel, save

Rows = Sequence[dict[str, Any]]


def save_scores(rows: Rows, best: dict[str, Any], path: str | Path) -> None:
    """Draw VOI split against merge, and VOI and adapted Rand error by threshold, into a PNG file."""
    at = [row["threshold"] for row in rows]
    every = max(1, -(-len(rows) // 9))
    notes = [f"{t:g}" if i % every == 0 or row is best else "" for i, (t, row) in enumerate(zip(at, rows))]
    mark = [(best["threshold"], f"best {best['threshold']:g}")]

    def column(key: str) -> list[float]:
        return [row[key] for row in rows]

    near = [i for i, row in enumerate(rows) if row["voi_merge"] <= max(1.0, 3 * best["voi"])]
    split, merge = ([column(key)[i] for i in near] for key in ("voi_split", "voi_merge"))
    trade = Line("", merge, split, [notes[i] for i in near], dots=True)
    voi = [
        Line(n, at, column(k)) for n, k in (("split", "voi_split"), ("merge", "voi_merge"), ("sum", "voi"))
    ]
    error = Line("", at, column("adapted_rand_error"), dots=True)
    cut = "" if len(near) == len(rows) else ", large merges cut off"
    panels = [
        Panel(f"VOI, thresholds beside the points{cut}", "VOI merge (bits)", "VOI split (bits)", [trade]),
        Panel("VOI by threshold", "threshold", "VOI (bits)", voi),
        Panel("adapted Rand error by threshold", "threshold", "adapted Rand error", [error], mark),
    ]
    save(panels, path)


def save_sizes(rows: Rows, found: dict[str, Any], size: int, path: str | Path) -> None:
    """Draw change, number of segments and the largest one by threshold, with the proposal, into a PNG."""
    at = [row["threshold"] for row in rows]
    marks = [(found["threshold"], f"{found['threshold']:g}")]

    def line(name: str, key: str) -> Line:
        return Line(name, at, [row[key] for row in rows], dots=True)

    change = Line("", at[1:], [row["voi"] for row in rows[1:]], dots=True)
    before = [row["voi"] for row in rows if row["threshold"] <= found["stretch"][1]]
    shown = (0.0, max(3 * max(before), 0.01))
    panels = [
        Panel(
            "change between neighbours (cut off)", "threshold", "VOI (bits)", [change], marks, y_range=shown
        ),
        Panel(f"segments of more than {size} voxels", "threshold", "number", [line("", "large")], marks),
        Panel("largest segment", "threshold", "share of voxels", [line("", "largest")], marks),
    ]
    save(panels, path)


def save_precision_recall(channels: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw precision against recall of each channel of affinities, and F1 by threshold, into a PNG."""

    def lines(x: str, y: str) -> list[Line]:
        made = []
        for channel in channels:
            rows = [r for r in channel["thresholds"] if r[x] is not None and r[y] is not None]
            made.append(Line(str(tuple(channel["offset"])), [r[x] for r in rows], [r[y] for r in rows]))
        return made

    panels = [
        Panel("affinities by offset", "recall", "precision", lines("recall", "precision")),
        Panel("F1 by threshold", "threshold", "F1", lines("threshold", "f1")),
    ]
    save(panels, path)


def save_selection(rows: Rows, path: str | Path) -> None:
    """Draw the scores of networks (see training.selection.select) by threshold and iteration into a PNG.

    Of many networks the curves of the best six are drawn.
    """
    panels = []
    for key, title in (("voi", "VOI (bits)"), ("adapted_rand_error", "adapted Rand error")):
        lines = [
            Line(Path(row["file"]).name, [r["threshold"] for r in row["thresholds"]],
                 [r[key] for r in row["thresholds"]])
            for row in rows[:6]
        ]  # fmt: skip
        panels.append(Panel(f"{title} by threshold", "threshold", title, lines))
    steps = sorted((row["iteration"], row["voi"]) for row in rows if row["iteration"] is not None)
    if len({at for at, _ in steps}) > 1:
        line = Line("", [at for at, _ in steps], [voi for _, voi in steps], dots=True)
        panels.append(Panel("best VOI by iteration", "iteration", "VOI (bits)", [line]))
    save(panels, path)


def save_training(rows: Rows, path: str | Path) -> None:
    """Draw the curve of a training into a PNG: loss, learning rate, and the scores of its validations.

    ``rows`` are the lines of its ``log.jsonl``: ``iteration``, and ``loss`` and ``lr`` or ``validation/...``.
    """

    def line(name: str, key: str) -> Line:
        found = [row for row in rows if row.get(key) is not None]
        at, values = [row["iteration"] for row in found], [row[key] for row in found]
        return Line(name, at, values, dots=len(found) < 30)

    panels = []
    for title, keys in (
        ("loss", {"training": "loss", "validation": "validation/loss"}),
        ("learning rate", {"": "lr"}),
        ("validation", {"VOI (bits)": "validation/voi", "adapted Rand error": "validation/are"}),
    ):
        lines = [found for name, key in keys.items() if (found := line(name, key)).x]
        if lines:
            panels.append(Panel(title, "iteration", title, lines, x_range=(0, rows[-1]["iteration"])))
    save(panels, path)
