"""How a file or volume was made: the record that every writer leaves, found again by its path.

The record is JSON: ``segflow`` (the version), ``chain`` (the words of the line) and facts such as
hashes of weights; no times and no hosts, so equal runs write equal bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segflow.errors import VolumeError

FOLDER = "segflow_provenance"


def name_of(record: dict[str, Any]) -> str:
    """Give the content-named file for a record: the first 12 digits of its SHA-1, ``.json``."""
    import hashlib

    return hashlib.sha1(dump(record).encode()).hexdigest()[:12] + ".json"


def dump(record: dict[str, Any]) -> str:
    """Give the record as JSON with sorted keys."""
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def find(path: str) -> list[dict[str, Any]]:
    """Give the records of an h5, tif, npy or zarr file or of a volume.

    Raises:
        VolumeError: there is nothing at ``path``, or it holds no record.
    """
    for scheme in ("precomputed://", "zarr://"):
        path = path.removeprefix(scheme)
    if "://" in path and not path.startswith("file://"):
        records = _in_volume(path)
    else:
        place = Path(path.removeprefix("file://")).expanduser()
        if not place.exists():
            raise VolumeError(f"{path} does not exist")
        records = _in_volume(f"file://{place}") if place.is_dir() else _in_file(place)
    if not records:
        raise VolumeError(f"{path} does not say how it was made; segflow did not write it")
    return records


def _in_volume(path: str) -> list[dict[str, Any]]:
    from segflow.volumes import bucket_files

    files = bucket_files(path)
    names = sorted(n for n in files.list(prefix=f"{FOLDER}/") if n.endswith(".json"))
    return [files.get_json(n) for n in names]


def _in_file(place: Path) -> list[dict[str, Any]]:
    beside = place.with_name(place.name + ".provenance.json")
    if beside.exists():
        return [json.loads(beside.read_text())]
    text = None
    if place.suffix.lower() in (".h5", ".hdf5", ".hdf"):
        import h5py

        with h5py.File(place) as file:
            text = file.attrs.get("provenance")
    elif place.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(place) as tif:
            try:
                text = json.loads(tif.pages[0].description).get("provenance")  # type: ignore[union-attr]
            except (ValueError, AttributeError):
                text = None
    if text is None:
        return []
    return [json.loads(text) if isinstance(text, (str, bytes)) else text]
