"""Times of tasks as metrics of Amazon CloudWatch."""

from __future__ import annotations

from typing import Any

BATCH = 500  # metrics a request; the service takes 1000, and 1 MB
LONGEST = 255  # characters of a name


def metrics(seconds: dict[str, float], device: str | None) -> list[dict[str, Any]]:
    """Give one metric for each timer, in seconds, with the dimension ``compute_device``.

    >>> metrics({"save": 0.5}, None)[0]["Dimensions"]
    [{'Name': 'compute_device', 'Value': 'unknown'}]
    """
    dimension = {"Name": "compute_device", "Value": _name(device or "unknown")}
    return [
        {"MetricName": _name(name), "Dimensions": [dimension], "Unit": "Seconds", "Value": float(value)}
        for name, value in seconds.items()
    ]


def _name(text: str) -> str:
    """Give a name that the service takes: ASCII, not empty, not too long."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:LONGEST].strip() or "unknown"


def put(namespace: str, seconds: dict[str, float], device: str | None) -> None:
    """Send the timers of one task.

    Raises:
        botocore.exceptions.BotoCoreError, ClientError: no region or credentials, or no answer.
    """
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    client = boto3.client("cloudwatch", config=patience)
    found = metrics(seconds, device)
    for first in range(0, len(found), BATCH):
        client.put_metric_data(Namespace=namespace, MetricData=found[first : first + BATCH])
