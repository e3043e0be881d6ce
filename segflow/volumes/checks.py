"""What a reader may do about bad data: sections to black out, a coarser mip to compare with."""

from __future__ import annotations

from segflow.chunk import Chunk
from segflow.errors import UsageError, VolumeError
from segflow.geometry import vec
from segflow.volumes import bucket_files
from segflow.volumes.bounded import BoundedVolume

BLACKOUT = "blackout_section_ids.json"


def black_out(volume: BoundedVolume, chunk: Chunk, mip: int) -> Chunk:
    """Set sections to zero that ``blackout_section_ids.json`` of a volume names at mip 0.

    The file is ``{"section_ids": [z, ...]}``.

    Raises:
        VolumeError: there is no such file, or it holds something else.
    """
    found = bucket_files(volume.path).get_json(BLACKOUT)
    if not isinstance(found, dict) or not isinstance(found.get("section_ids"), list):
        raise VolumeError(f'{volume.path}/{BLACKOUT} is needed and must be {{"section_ids": [z, ...]}}')
    factor = volume.ratio(0, mip)[1][0]
    depth = chunk.shape[-3]
    rows = {int(z) // factor - chunk.voxel_offset[0] for z in found["section_ids"]}
    array = chunk.array.copy()
    array[..., [z for z in sorted(rows) if 0 <= z < depth], :, :] = 0
    return chunk.with_array(array)


def check_against(volume: BoundedVolume, chunk: Chunk, mip: int, coarse: int) -> None:
    """Compare a chunk with a coarser mip of its volume.

    Every voxel, downsampled, may differ by one grey level for each mip between and one more.

    Raises:
        UsageError: ``coarse`` is not coarser, or the volume holds labels.
        VolumeError: they differ.
        BoxError: the chunk's box does not divide.
    """
    import numpy as np

    from segflow.image.downsample import downsample

    if coarse <= mip or chunk.is_segmentation:
        raise UsageError("--validate-mip compares an image with a coarser mip than the one that is read")
    box = chunk.bbox.scale(*volume.ratio(mip, coarse))
    theirs = volume.read(box, coarse).array.astype(np.float64)
    factor = vec([a // b for a, b in zip(chunk.bbox.shape, box.shape)])
    ours = downsample(chunk.array.astype(np.float64), factor)
    step = 1.0 if chunk.dtype.kind in "iu" else 1e-3
    wrong = int(np.count_nonzero(np.abs(ours - theirs) > (coarse - mip + 1) * step))
    if wrong:
        raise VolumeError(
            f"{volume.path}: {wrong} of {ours.size} voxels in {chunk.bbox} do not match mip {coarse}; "
            "blocks of either mip may be missing or damaged"
        )
