"""The networks that are shipped with segflow, and what is known of them; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segflow.errors import ModelError
from segflow.inference.header import header_of
from segflow.inference.models import digest, shipped

ABOUT = "about.json"


def about(name: str) -> dict[str, Any]:
    """Give what is known of a shipped network, or of a model file.

    The header of its model file, and what else ``about.json`` beside a shipped one says: ``parameters``,
    ``voxel_size`` (zyx, nm), ``outputs``, ``offsets``, ``patch_size``, ``licence``, ``trained_on``; and
    ``file``, ``bytes`` and ``sha256`` of its weights.

    Raises:
        UsageError: no network has this name. ModelError: its file is broken.
    """
    path = Path(name) if Path(name).is_file() else Path(shipped(name))
    found: dict[str, Any] = dict(header_of(path) or {})
    if "record" in found:
        found.setdefault("trained_on", _data(found["record"]))
    if not Path(name).is_file():
        found |= _described(path.with_name(ABOUT))
    if not found:
        raise ModelError(f"{name} is no model file of segflow train; its header is all that can be shown")
    return found | {"file": str(path), "bytes": path.stat().st_size, "sha256": digest(str(path))}


def line(name: str, found: dict[str, Any]) -> str:
    """Give one line of a network: name, parameters, voxel size, training, licence."""
    size = found.get("voxel_size")
    words = [
        f"{name:24}",
        f"{found['parameters'] / 1e6:.2f} M parameters" if "parameters" in found else "parameters unknown",
        f"{'x'.join(f'{v:g}' for v in size)} nm" if size else "any voxel size",
        f"trained on {found['trained_on']}" if "trained_on" in found else "",
        f"licence {found.get('licence') or 'unknown'}",
    ]
    return "  ".join(word for word in words if word)


def _data(record: dict[str, Any]) -> str:
    """Give what a network was trained on, as the record of its training names it."""
    images = record.get("config", {}).get("data", {}).get("images", [])
    return str(record.get("trained_on") or ", ".join(Path(i).name for i in images) or "data not named")


def _described(path: Path) -> dict[str, Any]:
    """Read what is written beside a network, if there is such a file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from error
    return dict(found)
