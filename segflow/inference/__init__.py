"""Networks over chunks: patches, blending, backends. Importing this loads neither torch nor numba."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "infer": "engine",
    "best_patch": "engine",
    "Identity": "backends",
    "PyTorch": "backends",
    "Universal": "backends",
    "load_backend": "backends",
    "Patch": "patches",
    "Layout": "patches",
    "layout": "patches",
    "Blender": "blend",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"segflow.inference.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'segflow.inference' has no attribute '{name}'")
