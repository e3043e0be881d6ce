"""Undo what an object's Content-Encoding says."""

from __future__ import annotations


def unpacked(data: bytes, encoding: str | None) -> bytes:
    """Give the bytes that were packed by ``gzip``, ``br`` or ``zstd``; those of others as they are.

    Raises what the codec raises: EOFError, zlib.error, cloud-files' DecompressionError.
    """
    if encoding == "gzip":
        import gzip

        return gzip.decompress(data)
    if encoding not in ("br", "zstd"):
        return data
    from segflow.volumes.store import ready_cloud_libraries

    ready_cloud_libraries()
    from cloudfiles.compression import decompress

    return bytes(decompress(data, encoding))
