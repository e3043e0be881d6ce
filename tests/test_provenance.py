"""Files say how they were made, and can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

IMAGE = ["read-tif", "-f", "{data}/ac4_image.tif", "--voxel-size", 30, 6, 6]


def line(data, *more):
    return [str(w).format(data=data) for w in (*IMAGE, *more)]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        (["write-h5", "-f", "a.h5"], "a.h5"),
        (["write-tif", "-f", "a.tif"], "a.tif"),
        (["write-npy", "-f", "a.npy"], "a.npy"),
        (["write-zarr", "-f", "a.zarr"], "a.zarr"),
        (["write-precomputed", "-v", "file://vol"], "file://vol"),
    ],
)
def test_shown_and_rerun(segflow, data, tmp_path, monkeypatch, more, path):
    monkeypatch.chdir(tmp_path)
    segflow(*line(data, *more))
    place = Path(path.removeprefix("file://"))
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    first = {p: p.read_bytes() for p in files}
    shown = segflow("provenance", path).out
    assert shown.startswith("segflow read-tif --file-name")
    assert "--voxel-size 30 6 6" in shown
    record = json.loads(segflow("provenance", path, "--json").out)
    assert set(record) >= {"segflow", "chain"}
    for file in files:
        if file != place and "provenance" not in str(file):
            file.unlink()
    segflow("rerun", path)
    assert {p: p.read_bytes() for p in files} == first


def test_a_file_that_does_not_tell(segflow, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2, 2), np.uint8))
    assert "does not say how it was made" in segflow("provenance", tmp_path / "x.npy", code=1).err
    assert "does not exist" in segflow("rerun", tmp_path / "y.npy", code=1).err
