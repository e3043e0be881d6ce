"""segflow: electron-microscopy volumes to segmented neurons."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Box": "segflow.geometry",
    "Chunk": "segflow.chunk",
    "State": "segflow.state",
    "SegflowError": "segflow.errors",
    "open_volume": "segflow.volumes",
    "infer": "segflow.inference",
    "watershed": "segflow.segmentation",
    "agglomerate": "segflow.segmentation",
    "connected_components": "segflow.segmentation",
    "evaluate": "segflow.segmentation",
    "downsample": "segflow.image",
    "quantize": "segflow.image",
    "normalize_contrast": "segflow.image",
    "normalize_intensity": "segflow.image",
    "run_chain": "segflow.cli",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'segflow' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
