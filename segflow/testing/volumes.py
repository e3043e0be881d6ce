"""What every volume format must keep; a format is done when a subclass of this passes.

::

    class TestMine(VolumeContract):
        def create(self, place, shape, dtype, voxel_offset):
            ...  # make an empty volume below the folder ``place`` and give it
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segflow.chunk import Chunk
from segflow.errors import BoxError
from segflow.geometry import Box, Vec
from segflow.volumes.base import Volume

SHAPE, OFFSET = (7, 20, 33), (2, 0, 5)


@st.composite
def boxes(draw: Any, inside: Box) -> Box:
    """Draw a box of at least one voxel inside ``inside``."""
    start, stop = [], []
    for low, high in zip(inside.start, inside.stop):
        a = draw(st.integers(low, high - 1))
        start.append(a)
        stop.append(draw(st.integers(a + 1, high)))
    return Box(tuple(start), tuple(stop))


class VolumeContract:
    """Tests that any Volume passes."""

    dtype = "uint8"
    layer_type = "image"

    def create(self, place: Path, shape: Vec, dtype: str, voxel_offset: Vec) -> Volume:
        """Make an empty volume of ``shape`` (zyx) at ``voxel_offset`` below ``place``."""
        raise TypeError("a subclass makes the volume")

    @pytest.fixture
    def volume(self, tmp_path: Path) -> Volume:
        """Give an empty volume."""
        return self.create(tmp_path, SHAPE, self.dtype, OFFSET)

    def pattern(self, box: Box, add: int = 1) -> Chunk:
        """Give a chunk whose values tell their place."""
        z, y, x = np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop)), indexing="ij")
        values = ((z * 31 + y * 7 + x + add) % 200 + 1).astype(self.dtype)
        return Chunk(values, voxel_offset=box.start, layer_type=self.layer_type)

    def test_it_is_a_volume(self, volume: Volume) -> None:
        assert isinstance(volume, Volume)
        info = volume.info()
        assert info.bounds == Box.of(OFFSET, SHAPE)
        assert info.dtype == self.dtype

    def test_round_trip(self, volume: Volume) -> None:
        chunk = self.pattern(volume.info().bounds)
        volume.write(chunk)
        found = volume.read()
        assert found.bbox == chunk.bbox
        np.testing.assert_array_equal(found.array, chunk.array)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_box_written_and_read(self, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
        bounds = Box.of(OFFSET, SHAPE)
        volume = self.create(tmp_path_factory.mktemp("volume"), SHAPE, self.dtype, OFFSET)
        truth = np.zeros(SHAPE, self.dtype)
        for add in range(3):
            chunk = self.pattern(data.draw(boxes(bounds)), add)
            volume.write(chunk)
            truth[chunk.bbox.slices(OFFSET)] = chunk.array
        box = data.draw(boxes(bounds))
        np.testing.assert_array_equal(volume.read(box).array, truth[box.slices(OFFSET)])

    def test_partly_outside_is_zero_there(self, volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
        chunk = self.pattern(volume.info().bounds)
        volume.write(chunk)
        box = volume.info().bounds.grow(2)
        logging.getLogger("segflow").propagate = True
        with caplog.at_level("WARNING", logger="segflow"):
            found = volume.read(box)
        assert found.bbox == box
        np.testing.assert_array_equal(found.array, chunk.pad_to(box).array)
        assert caplog.records

    def test_wholly_outside_is_an_error(self, volume: Volume) -> None:
        with pytest.raises(BoxError, match="outside"):
            volume.read(Box((100, 0, 0), (101, 4, 4)))

    def test_writing_twice_gives_the_same_bytes(self, volume: Volume, tmp_path: Path) -> None:
        chunk = self.pattern(volume.info().bounds)
        volume.write(chunk)
        first = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        volume.write(chunk)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == first
