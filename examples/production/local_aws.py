"""S3, SQS and CloudWatch on this machine: moto's server, and the buckets that the examples use.

``local_aws.py`` serves until Ctrl+C; ``--check`` tells whether it does. What is in it is in memory, and
ends with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import urllib.request


def serve(host: str, port: int, buckets: list[str]) -> None:
    """Serve until Ctrl+C or SIGTERM; the buckets are there before the address is told."""
    import boto3
    from moto.server import ThreadedMotoServer

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = ThreadedMotoServer(host, port, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)
    print(f"http://127.0.0.1:{port}", flush=True)
    ended.wait()
    server.stop()


def check(port: int) -> int:
    """Give 0 if the server answers."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=3).close()
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at")
    parser.add_argument("--port", type=int, default=5005, help="0: any that is free")
    parser.add_argument("--bucket", action="append", help="bucket to make; default: segflow-demo")
    parser.add_argument("--check", action="store_true", help="only tell whether the server answers")
    options = parser.parse_args()
    if options.check:
        return check(options.port)
    os.environ.pop("AWS_ENDPOINT_URL", None)
    serve(options.host, options.port, options.bucket or ["segflow-demo"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
