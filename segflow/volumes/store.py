"""Small files of a volume (info, logs, provenance), wherever it is: whole or absent, changed conditionally.

Light: reading a local file or an S3 object imports neither cloud-volume nor tensorstore.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from uuid import uuid4

from segflow.errors import VolumeError
from segflow.volumes.packing import unpacked

_ONE = Lock()
Token = Any  # what a store tells of a version of a file; None where there is no file


class Store(Protocol):
    """Files below one address."""

    path: str

    def get(self, name: str) -> bytes | None:
        """Give a file's bytes, None where there is none."""
        ...

    def get_json(self, name: str) -> Any:
        """Read a JSON file; None where there is none; raise VolumeError if it is not JSON."""
        data = self.get(name)
        return None if data is None else _parse(self, name, data)

    def versioned(self, name: str) -> tuple[bytes | None, Token]:
        """Give a file's bytes and the token of this version."""
        ...

    def put(self, name: str, data: bytes, *, packed: bool = False) -> None:
        """Write a file, whole or not at all; ``packed``: a bucket keeps it as gzip, and says so."""
        ...

    def put_if(self, name: str, data: bytes, token: Token) -> bool:
        """Write a file unless it is no longer the version of ``token``; give whether it was written."""
        ...

    def size(self, name: str) -> int | None:
        """Give how many bytes a file has, None where there is none."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Give the names of files that begin with ``prefix``."""
        ...


def _parse(store: Store, name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise VolumeError(f"{store.path}/{name} is not JSON ({error}); repair or replace it") from error


def dump_json(value: Any) -> bytes:
    """Give the bytes of a JSON file: the same for equal values."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def change_json(store: Store, name: str, edit: Callable[[Any], Any], tries: int = 100) -> Any:
    """Change a JSON file that several processes share; the one way in which segflow does.

    Reads it, lets ``edit`` give the new value (it gets None where there is no file), and writes it
    only if nobody else did meanwhile; else begins anew. An equal value writes nothing.

    Returns:
        the value that the file now has.

    Raises:
        VolumeError: the file is broken or cannot be written, or others always came first.
    """
    for attempt in range(tries):
        data, token = store.versioned(name)
        old = None if data is None else _parse(store, name, data)
        new = edit(json.loads(data) if data is not None else None)
        if data is not None and new == old:
            return old
        if store.put_if(name, dump_json(new), token):
            return new
        time.sleep(min(0.01 * 2 ** min(attempt, 6), 0.5) * (0.5 + int(uuid4()) % 100 / 100))
    raise VolumeError(f"{store.path}/{name} could not be changed: other programs keep changing it")


def open_store(path: str, use_https: bool = False) -> Store:
    """Give the store of a volume's address: a folder, file://, s3://, gs:// or http(s)://."""
    if path.startswith("file://"):
        return FileStore(path)
    if path.startswith("s3://") and not use_https:
        return S3Store(path)
    return CloudStore(path, use_https)


def local_path(path: str) -> Path | None:
    """Give the folder of a file:// address, None for others.

    >>> local_path("file:///data/seg/")
    PosixPath('/data/seg')
    """
    return Path(path[len("file://") :]).expanduser() if path.startswith("file://") else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``<path>.lock``; a holder that is killed lets go of it."""
    import fcntl

    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(handle, lock):  # its last holder removed it while we waited
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def replace_file(path: Path, data: bytes) -> None:
    """Write a file beside and move it to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn what the system or a cloud library raises into a VolumeError that names the volume."""
    try:
        yield
    except VolumeError:
        raise
    except OSError as error:
        raise VolumeError(f"{path}: {os.strerror(error.errno).lower() if error.errno else error}") from error
    except Exception as error:
        raise VolumeError(f"{path} cannot be reached: {type(error).__name__}: {error}") from error


class FileStore(Store):
    """Files in a folder; conditional writes hold a lock file."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.folder = Path(self.path.removeprefix("file://")).expanduser()

    def get(self, name: str) -> bytes | None:
        with _told(f"{self.path}/{name}"):
            try:
                return (self.folder / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def versioned(self, name: str) -> tuple[bytes | None, Token]:
        data = self.get(name)
        return data, data

    def put(self, name: str, data: bytes, *, packed: bool = False) -> None:
        with _told(f"{self.path}/{name}"):
            replace_file(self.folder / name, data)

    def put_if(self, name: str, data: bytes, token: Token) -> bool:
        with _told(f"{self.path}/{name}"), locked(self.folder / name):
            if self.get(name) != token:
                return False
            replace_file(self.folder / name, data)
            return True

    def size(self, name: str) -> int | None:
        with _told(f"{self.path}/{name}"):
            try:
                return (self.folder / name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str = "") -> list[str]:
        folder, _, start = prefix.rpartition("/")
        place = self.folder / folder
        if not place.is_dir():
            return []
        names = (f"{folder}/{p.name}".lstrip("/") for p in place.iterdir())
        return sorted(n for n in names if n.startswith(prefix))


class S3Store(Store):
    """Objects of an S3 bucket (``AWS_ENDPOINT_URL`` names another server); If-Match writes."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.bucket, _, self.prefix = self.path[len("s3://") :].partition("/")

    def _client(self) -> Any:
        return s3_client()

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")

    def get(self, name: str) -> bytes | None:
        return self.versioned(name)[0]

    def versioned(self, name: str) -> tuple[bytes | None, Token]:
        client = self._client()
        with _told(f"{self.path}/{name}"):
            try:
                found = client.get_object(Bucket=self.bucket, Key=self._key(name))
            except client.exceptions.NoSuchKey:
                return None, None
            data = found["Body"].read()
            return unpacked(data, found.get("ContentEncoding")), found["ETag"]

    def put(self, name: str, data: bytes, *, packed: bool = False) -> None:
        import gzip

        with _told(f"{self.path}/{name}"):
            if packed:
                self._put(name, gzip.compress(data, 6, mtime=0), ContentEncoding="gzip")
            else:
                self._put(name, data)

    def put_if(self, name: str, data: bytes, token: Token) -> bool:
        client = self._client()
        condition = {"IfNoneMatch": "*"} if token is None else {"IfMatch": token}
        with _told(f"{self.path}/{name}"):
            try:
                self._put(name, data, **condition)
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                    return False
                raise
        return True

    def _put(self, name: str, data: bytes, **condition: str) -> None:
        kind = "application/json" if name == "info" or name.endswith(".json") else "application/octet-stream"
        self._client().put_object(
            Bucket=self.bucket, Key=self._key(name), Body=data, ContentType=kind, **condition
        )

    def size(self, name: str) -> int | None:
        client = self._client()
        with _told(f"{self.path}/{name}"):
            try:
                return int(client.head_object(Bucket=self.bucket, Key=self._key(name))["ContentLength"])
            except client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise

    def list(self, prefix: str = "") -> list[str]:
        pages = self._client().get_paginator("list_objects_v2")
        cut = len(self._key(""))
        with _told(self.path):
            found = pages.paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            return sorted(o["Key"][cut:] for page in found for o in page.get("Contents", []))


def s3_client() -> Any:
    """Give a boto3 client: credentials as boto3 finds them, else cloud-volume's, else none at all."""
    settings = (v for k, v in sorted(os.environ.items()) if k == "HOME" or k.startswith("AWS_"))
    with _ONE:
        return _s3_client(tuple(settings))


@cache
def _s3_client(settings: tuple[str, ...]) -> Any:
    """Make a client for the settings in the environment; it takes a while, and threads may share it."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    secret = Path("~/.cloudvolume/secrets/aws-secret.json").expanduser()
    session = boto3.Session()
    if session.get_credentials() is None and secret.exists():
        keys = json.loads(secret.read_text())
        session = boto3.Session(keys.get("AWS_ACCESS_KEY_ID"), keys.get("AWS_SECRET_ACCESS_KEY"))
    anonymous = Config(signature_version=UNSIGNED) if session.get_credentials() is None else None
    return session.client("s3", config=anonymous)


class CloudStore(Store):
    """What cloud-files reaches: gs:// (conditional by generation) and http(s)://, which is read only."""

    def __init__(self, path: str, use_https: bool = False) -> None:
        self.path = path.rstrip("/")
        self.use_https = use_https

    def _files(self) -> Any:
        ready_cloud_libraries()
        from cloudfiles import CloudFiles

        if self.path.startswith("gs://") and not self.use_https:
            from segflow.volumes.google import need_google

            need_google(self.path[len("gs://") :].partition("/")[0])
        return CloudFiles(self.path, use_https=self.use_https, progress=False)

    def _blob(self, name: str) -> Any:
        ready_cloud_libraries()
        from cloudfiles.secrets import google_credentials
        from google.cloud.storage import Client

        bucket, _, prefix = self.path[len("gs://") :].partition("/")
        project, credentials = google_credentials(bucket)
        return Client(project=project, credentials=credentials).bucket(bucket).blob(f"{prefix}/{name}")

    def get(self, name: str) -> bytes | None:
        with _told(f"{self.path}/{name}"):
            return self._files().get(name)

    def versioned(self, name: str) -> tuple[bytes | None, Token]:
        self._writable()
        with _told(f"{self.path}/{name}"):
            from google.api_core.exceptions import NotFound

            blob = self._blob(name)
            try:
                blob.reload()
                return blob.download_as_bytes(if_generation_match=blob.generation), blob.generation
            except NotFound:
                return None, None

    def put(self, name: str, data: bytes, *, packed: bool = False) -> None:
        self._writable()
        with _told(f"{self.path}/{name}"):
            compress = "gzip" if packed else None
            self._files().put(name, data, compress=compress, cache_control="no-cache")

    def put_if(self, name: str, data: bytes, token: Token) -> bool:
        self._writable()
        with _told(f"{self.path}/{name}"):
            from google.api_core.exceptions import PreconditionFailed

            try:
                self._blob(name).upload_from_string(data, "application/json", if_generation_match=token or 0)
            except PreconditionFailed:
                return False
            return True

    def size(self, name: str) -> int | None:
        with _told(f"{self.path}/{name}"):
            found = self._files().size(name)
            return None if found is None else int(found)

    def list(self, prefix: str = "") -> list[str]:
        with _told(self.path):
            return sorted(self._files().list(prefix=prefix))

    def _writable(self) -> None:
        if self.use_https or not self.path.startswith("gs://"):
            raise VolumeError(f"{self.path} can only be read; write to file://, s3:// or gs://")


def ready_cloud_libraries() -> None:
    """Import cloud-files so that it works and keeps quiet; call it before cloud-volume is used too.

    They fail without a session token when keys stand in the environment, and print to stdout, where
    results belong: what they print goes to the debug log.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ:
        os.environ.setdefault("AWS_SESSION_TOKEN", "")
    import cloudfiles  # noqa: F401

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("cloudvolume", "cloudfiles"):
            module.__dict__["print"] = _log_instead


def _log_instead(*words: Any, **options: Any) -> None:
    logging.getLogger("segflow").debug("%s", " ".join(map(str, words)).strip())
