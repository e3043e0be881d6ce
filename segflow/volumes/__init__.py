"""Volumes on disk and in buckets: one protocol, whatever the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segflow.errors import UsageError
from segflow.volumes.base import Volume, VolumeInfo
from segflow.volumes.store import Store, open_store

__all__ = ["Volume", "VolumeInfo", "bucket_files", "open_volume", "peek", "split_address"]

PLACES = ("file", "s3", "gs", "http", "https")


def split_address(path: str) -> tuple[str, str]:
    """Give the format and the place of a volume's address.

    >>> split_address("s3://bucket/seg"), split_address("zarr://s3://bucket/image")
    (('precomputed', 's3://bucket/seg'), ('zarr', 's3://bucket/image'))

    Raises:
        UsageError: an unknown scheme.
    """
    form, _, rest = path.partition("://")
    if rest and form in ("precomputed", "zarr", "n5"):
        place = rest
    else:
        form, place = "precomputed", path
    scheme, mark, inner = place.partition("://")
    if mark and ":" in inner.partition("@")[0] and "@" in inner.partition("/")[0]:
        raise UsageError(
            f"an address must not hold a password ({scheme}://...@{inner.partition('@')[2]}): it would "
            "stand in logs and provenance; keep credentials where the AWS and GCS libraries look for them"
        )
    if not mark:
        return form, f"file://{Path(place).expanduser().absolute()}"
    if scheme not in PLACES:
        from segflow.errors import did_you_mean

        known = [*PLACES, "precomputed", "zarr", "n5"]
        raise UsageError(
            f"'{path}': no scheme '{scheme}://'{did_you_mean(scheme, known)}; use file, s3, gs, http or "
            "https, with precomputed://, zarr:// or n5:// before it"
        )
    if scheme == "file":
        place = f"file://{Path(place[len('file://') :]).expanduser().absolute()}"
    return form, place.rstrip("/")


def open_volume(path: str, *, use_https: bool = False, threads: int = 0) -> Volume:
    """Open a volume by its address: a folder, file://, s3:// or gs:// (precomputed), zarr://, n5://.

    Nothing is read yet: a missing volume shows when it is used.

    Raises:
        UsageError: an unknown scheme.
    """
    form, place = split_address(path)
    if form == "precomputed":
        from segflow.volumes.precomputed import PrecomputedVolume

        return PrecomputedVolume(place, use_https=use_https, threads=threads)
    from segflow.volumes.zarr import N5Volume, ZarrVolume

    return ZarrVolume(place) if form == "zarr" else N5Volume(place)


def peek(path: str, mip: int = 0) -> VolumeInfo | None:
    """Describe a volume quickly, from its metadata alone; None if it is not there or unknown.

    Unknown are places that are slow to ask: gs and http, and buckets for zarr and n5.

    Raises:
        VolumeError: it is there, but broken or without this mip.
    """
    form, place = split_address(path)
    if form != "precomputed" and place.startswith("file://"):
        volume: Any = open_volume(path)
        return volume.info(mip) if volume.exists else None
    if form != "precomputed" or not place.startswith(("file://", "s3://")):
        return None
    from segflow.volumes.info import parse

    raw = open_store(place).get_json("info")
    return None if raw is None else parse(place, raw, mip)


def bucket_files(path: str) -> Store:
    """Give the small files (info, logs, provenance) below a volume's address."""
    return open_store(split_address(path)[1])
