"""Chunks as layers of neuroglancer: dtypes, shaders, places in nm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segflow.chunk import Chunk
from segflow.errors import ChunkError
from segflow.view.colours import colour_channels, value_range
from segflow.view.names import Named

if TYPE_CHECKING:
    import neuroglancer

OVER = 0.4  # opacity of a layer that covers another one

GREY = """#uicontrol invlerp normalized
void main() {
  emitGrayscale(normalized());
}
"""
TINTED = """#uicontrol invlerp normalized
#uicontrol vec3 color color(default="%s")
void main() {
  emitRGB(color * normalized());
}
"""
SLIDER = """#uicontrol invlerp normalized
#uicontrol int channel slider(min=0, max=%d)
void main() {
  emitGrayscale(normalized(getDataValue(channel)));
}
"""
COLOURED = """#uicontrol invlerp normalized
void main() {
  emitRGB(vec3(%s));
}
"""


def as_labels(array: NDArray[Any]) -> NDArray[Any]:
    """Give labels in a dtype that neuroglancer draws as segments: uint32, or uint64 where wider."""
    if array.dtype.kind not in "bui":
        raise ChunkError(f"a segmentation layer holds integers, not {array.dtype}")
    return array.astype(np.uint64 if array.dtype.itemsize == 8 else np.uint32, copy=False)


def as_values(array: NDArray[Any]) -> NDArray[Any]:
    """Give an image in a dtype that neuroglancer draws: bool as uint8, 64 bit and half as float32."""
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind in "ui" and array.dtype.itemsize < 8:
        return array
    return array.astype(np.float32, copy=False)


def resolution(chunk: Chunk, voxel_size: Sequence[float] | None = None) -> tuple[float, float, float]:
    """Give the voxel size to show, zyx in nm: the given one, else the chunk's, else 1 1 1."""
    z, y, x = (float(v) for v in voxel_size or chunk.voxel_size or (1, 1, 1))
    return z, y, x


def local_volume(
    array: NDArray[Any], chunk: Chunk, voxel_size: Sequence[float], kind: str
) -> neuroglancer.LocalVolume:
    """Give ``array`` (zyx or czyx) at the chunk's place as a source; its axes become x, y, z, c."""
    import neuroglancer

    channel = array.ndim == 4
    space = neuroglancer.CoordinateSpace(
        names=["x", "y", "z"] + ["c^"] * channel,
        units=["nm", "nm", "nm"] + [""] * channel,
        scales=[*reversed([float(v) for v in voxel_size])] + [1] * channel,
    )
    offset = [*reversed(chunk.voxel_offset)] + [0] * channel
    return neuroglancer.LocalVolume(
        array.transpose(), dimensions=space, voxel_offset=offset, volume_type=kind
    )


def layer(
    chunk: Chunk,
    voxel_size: Sequence[float] | None = None,
    options: Named | None = None,
    *,
    over: bool = False,
) -> neuroglancer.Layer:
    """Give the layer that shows a chunk.

    A segmentation becomes a segmentation layer. All else is an image layer: one channel in grey,
    affinities and other maps in red, green and blue (affinities to x, y, z), an image of several
    channels with a slider.

    Args:
        chunk: zyx or czyx, any dtype.
        voxel_size: zyx, nm; default: the chunk's own.
        options: colour, type and opacity asked for.
        over: another image lies below, so this one is not opaque unless ``options`` says so.

    Raises:
        ChunkError: the chunk is empty, or shown as a segmentation without being one of integers.
    """
    import neuroglancer

    wanted = options or Named("chunk")
    if chunk.bbox.empty:
        raise ChunkError(f"a chunk of shape {chunk.shape} holds no voxel to show")
    size = resolution(chunk, voxel_size)
    array = chunk.array[0] if chunk.array.ndim == 4 and chunk.channels == 1 else chunk.array
    if (wanted.type or chunk.layer_type) == "segmentation":
        if array.ndim == 4:
            raise ChunkError(f"a segmentation of {chunk.channels} channels cannot be shown as one layer")
        made = neuroglancer.SegmentationLayer(
            source=local_volume(as_labels(array), chunk, size, "segmentation"),
            selected_alpha=OVER if wanted.opacity is None else wanted.opacity,
        )
        made.segment_default_color = wanted.color
        return made
    array = as_values(array)
    return neuroglancer.ImageLayer(
        source=local_volume(array, chunk, size, "image"),
        shader=shader(array, chunk, wanted.color),
        shader_controls={"normalized": {"range": list(value_range(array))}},
        opacity=(OVER if over else 1.0) if wanted.opacity is None else wanted.opacity,
    )


def shader(array: NDArray[Any], chunk: Chunk, color: str | None = None) -> str:
    """Give the shader for an image's channels."""
    if array.ndim == 3:
        return TINTED % color if color else GREY
    if chunk.layer_type == "image":
        return SLIDER % (chunk.channels - 1)
    values = [f"normalized(getDataValue({c}))" for c in colour_channels(chunk)]
    return COLOURED % ", ".join([*values, *["0.0"] * (3 - len(values))])


def bounds_nm(
    chunks: Mapping[str, Chunk], voxel_size: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the corners, zyx in nm, of the box around all ``chunks``."""
    starts, stops = [], []
    for chunk in chunks.values():
        size = np.array(resolution(chunk, voxel_size))
        starts.append(np.array(chunk.bbox.start) * size)
        stops.append(np.array(chunk.bbox.stop) * size)
    return np.min(starts, axis=0), np.max(stops, axis=0)
