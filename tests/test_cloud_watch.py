"""cloud-watch against a server that speaks CloudWatch."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from shlex import split

import boto3
import pytest

LINE = split("generate-tasks -c 4 8 8 -g 2 1 1 create-chunk --name make cloud-watch")


def statistics(namespace, name):
    """Give (count, sum) of a metric."""
    client, now = boto3.client("cloudwatch"), datetime.now(UTC)
    points = client.get_metric_statistics(
        Namespace=namespace, MetricName=name, Period=7200, Statistics=["Sum", "SampleCount"], Unit="Seconds",
        Dimensions=[{"Name": "compute_device", "Value": "unknown"}],
        StartTime=now - timedelta(hours=2), EndTime=now + timedelta(hours=2),
    )["Datapoints"]  # fmt: skip
    return sum(p["SampleCount"] for p in points), sum(p["Sum"] for p in points)


def test_every_timer_is_a_metric(bucket, segflow):
    segflow(*LINE)
    found = boto3.client("cloudwatch").list_metrics(Namespace="chunkflow")["Metrics"]
    assert {m["MetricName"] for m in found} == {"generate-tasks", "make"}
    assert {d["Name"]: d["Value"] for m in found for d in m["Dimensions"]} == {"compute_device": "unknown"}
    count, seconds = statistics("chunkflow", "make")
    assert count == 2
    assert 0 < seconds < 60


def test_names(bucket, segflow):
    segflow("create-chunk", "--name", "größe", "cloud-watch", "--log-name", "lab/segflow")
    found = boto3.client("cloudwatch").list_metrics(Namespace="lab/segflow")["Metrics"]
    assert [m["MetricName"] for m in found] == ["gr??e"]


@pytest.mark.parametrize("name", ["", "AWS/EC2", "a b", "x" * 256])
def test_a_namespace_that_is_none(name, segflow):
    assert "is no namespace of CloudWatch" in segflow(*LINE, "--log-name", name, code=2).err


def test_a_service_that_is_away_fails_no_task(tmp_path, segflow, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SKSECRET")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    result = segflow(*LINE, "write-npy", "-f", f"{tmp_path}/npy/")
    assert result.err.count("no metrics are sent") == 1
    assert "SECRET" not in result.err
    assert len(list((tmp_path / "npy").glob("*.npy"))) == 2


def test_without_region_or_credentials(segflow, monkeypatch):
    for name in (
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    logging.getLogger("segflow").setLevel("INFO")
    result = segflow(*LINE)
    assert result.err.count("no metrics are sent") == 1
    assert "region" in result.err
