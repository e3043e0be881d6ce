"""The container files: linted, checked by schema, and what neither sees: names, limits, command lines."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILES = ["cpu.Dockerfile", "cuda.Dockerfile"]
BUILT = {"segflow:cpu", "segflow:cuda"}
WORKERS = ["segflow-worker", "segflow-worker-gpu", "segflow-worker-job"]


@cache
def manifests():
    return {
        path.name: list(yaml.safe_load_all(path.read_text()))
        for path in sorted((ROOT / "docker/kubernetes").glob("*.yaml"))
    }


def resource(kind, name):
    found = [
        d for docs in manifests().values() for d in docs if (d["kind"], d["metadata"]["name"]) == (kind, name)
    ]
    assert len(found) == 1, (kind, name)
    return found[0]


def with_pods():
    return [d for docs in manifests().values() for d in docs if d["kind"] in ("Job", "Deployment")]


def pod_of(document):
    return document["spec"]["template"]["spec"]


def container(document):
    (only,) = pod_of(document)["containers"]
    return only


def compose(workers="2"):
    text = re.sub(r"\$\{WORKERS:-2\}", workers, (ROOT / "docker/compose.yaml").read_text())
    return yaml.safe_load(re.sub(r"\$\{(\w+):-\}", "", text.replace(f'"{workers}"', workers)))


def hadolint(path):
    command = [str(Path(sys.executable).with_name("hadolint")), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def instructions(name):
    """(word, rest) of each instruction, with lines that go on joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "docker" / name).read_text(), flags=re.M)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


# images


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_are_clean(name):
    done = hadolint(ROOT / "docker" / name)
    assert done.returncode == 0, done.stdout


def test_the_linter_finds_faults(tmp_path):
    poor = tmp_path / "Dockerfile"
    poor.write_text("FROM python\nRUN pip install torch && cd /\nENTRYPOINT segflow\n")
    done = hadolint(poor)
    assert done.returncode == 1
    assert {"DL3006", "DL3013", "DL3025"} <= set(re.findall(r"DL\d+", done.stdout))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_pinned_and_run_as_a_user(name):
    steps = instructions(name)
    last = max(n for n, (word, _) in enumerate(steps) if word == "FROM")
    final = dict(steps[last:])
    assert final["USER"] == "1000:1000"
    assert json.loads(final["ENTRYPOINT"]) == ["segflow"]  # exec form: signals arrive
    assert json.loads(final["HEALTHCHECK"].split("CMD", 1)[1])[-1].endswith("worker --check /tmp/health.json")
    assert dict(steps)["ARG"]
    assert next(rest for word, rest in steps if word == "ARG").startswith("BASE=python:3.11-slim")
    installs = [rest for _, rest in steps if "pip install" in rest]
    assert installs
    assert all("--no-cache-dir" in rest and "-c constraints.txt" in rest for rest in installs)
    assert "pip" not in " ".join(rest for word, rest in steps[last:] if word == "RUN")


def test_the_cuda_image_is_the_cpu_image_with_another_torch():
    cpu, cuda = (instructions(name) for name in DOCKERFILES)
    different = [rest for word, rest in cuda if (word, rest) not in cpu]
    assert len(different) == 3
    assert "torch.version.cuda" in different[0]
    assert "on GPUs" in different[1]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in different[2]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_sent(name):
    lines = (ROOT / ".dockerignore").read_text().split()
    sent = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in sent, source
    assert "*" in lines


# Kubernetes


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.34", "1.37"])
def test_manifests_keep_the_schema(version):
    import kubernetes_validate

    own = [d for docs in manifests().values() for d in docs if not d["apiVersion"].startswith("keda")]
    assert len(own) == 6
    for document in own:
        kubernetes_validate.validate(document, version, strict=True)
    worse = {**own[-1], "spec": {**own[-1]["spec"], "terminationGracePeriodSecs": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(worse, version, strict=True)


def test_selectors_match_their_pods_alone():
    pods = {d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in with_pods()}
    for document in with_pods():
        if document["kind"] == "Deployment":
            wanted = document["spec"]["selector"]["matchLabels"].items()
            matching = [name for name, labels in pods.items() if wanted <= labels.items()]
            assert matching == [document["metadata"]["name"]]


def test_names_that_are_referred_to_exist():
    for document in with_pods():
        pod, main = pod_of(document), container(document)
        resource("ServiceAccount", pod["serviceAccountName"])
        sources = {kind: value for source in main["envFrom"] for kind, value in source.items()}
        known = resource("ConfigMap", sources["configMapRef"]["name"])["data"]
        used = set(re.findall(r"\$\((\w+)\)", " ".join(main["args"])))
        assert used
        assert used <= set(known)
        assert {m["name"] for m in main["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert main["image"] in BUILT
        assert ("nvidia.com/gpu" in main["resources"]["limits"]) == (main["image"] == "segflow:cuda")


def test_the_autoscaler_scales_the_workers():
    scaled = resource("ScaledObject", "segflow-worker")["spec"]
    target = resource(scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"]
    (trigger,) = scaled["triggers"]
    settings = resource("ConfigMap", "segflow")["data"]
    assert trigger["metadata"]["queueURLFromEnv"] in settings
    assert trigger["metadata"]["awsRegion"] == settings["AWS_DEFAULT_REGION"]
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    resource("TriggerAuthentication", trigger["authenticationRef"]["name"])
    (timeout,) = option("--visibility-timeout", container(target)["args"])
    assert scaled["cooldownPeriod"] >= int(timeout)


def test_no_secrets_and_no_rights():
    assert not [d for docs in manifests().values() for d in docs if d["kind"] == "Secret"]
    for document in with_pods():
        pod, main = pod_of(document), container(document)
        assert {"secretRef": {"name": "segflow-aws", "optional": True}} in main["envFrom"]
        assert "env" not in main
        assert pod["securityContext"]["runAsNonRoot"]
        assert main["securityContext"]["readOnlyRootFilesystem"]
        assert not main["securityContext"]["allowPrivilegeEscalation"]
        assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for name in ("docker", "examples/production"):
        for path in (ROOT / name).rglob("*"):
            if path.is_file():
                assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY", path.read_text()), path


def option(name, args):
    return [word.split("=", 1)[1] for word in args if word.startswith(f"{name}=")]


@pytest.mark.parametrize("name", WORKERS)
def test_a_spot_node_gives_tasks_back(name):
    from segflow.tasks.supervise import HEALTH, PATIENCE

    document = next(d for d in with_pods() if d["metadata"]["name"] == name)
    pod, main = pod_of(document), container(document)
    assert PATIENCE < pod["terminationGracePeriodSeconds"] <= 30  # a spot node gives no more
    (place,) = option("--health", main["args"])
    for probe in ("startupProbe", "livenessProbe"):
        command = main[probe]["exec"]["command"]
        assert command[:4] == ["segflow", "worker", "--check", place]
    assert float(command[-1]) > 5 * HEALTH
    assert any(place.startswith(m["mountPath"]) for m in main["volumeMounts"])
    (retries,) = option("--retry-times", main["args"])
    if document["kind"] == "Deployment":
        assert int(retries) >= 100_000  # it is not started anew whenever the queue is empty
        assert any("spot" in t["key"] + t.get("value", "") for t in pod["tolerations"])
    else:
        assert int(retries) <= 100
        assert pod["restartPolicy"] == "Never"


def test_the_lines_of_the_manifests_work_together(segflow, tmp_path):
    """The setup's line prints the workers' sizes; the workers' lines pass the check before the run."""
    settings = {
        "QUEUE": f"fq://{tmp_path}/q",
        "IMAGE_LAYER": f"{tmp_path}/em",
        "AFFS_LAYER": f"{tmp_path}/affs",
    }

    def words(document):
        return [re.sub(r"\$\((\w+)\)", lambda m: settings[m[1]], w) for w in container(document)["args"]]

    segflow("create-info", "-v", tmp_path / "em", "--volume-size", 1000, 10240, 10240, "--voxel-size", 30, 6, 6,
            "--block-size", 64, 256, 256)  # fmt: skip
    shown = segflow(*words(resource("Job", "segflow-setup")))
    printed = shlex.split(next(line for line in shown.out.splitlines() if line.startswith("segflow ")))
    for name in WORKERS:
        line = words(next(d for d in with_pods() if d["metadata"]["name"] == name))
        segflow("--dry-run", *line)
        flat = " ".join(line).replace("=", " ").split()
        for word in ("--expand-margin-size", "--input-patch-size", "--output-patch-size", "--patch-num",
                     "--output-patch-overlap", "--output-crop-margin", "--num-output-channels"):  # fmt: skip
            count = 1 if "channels" in word else 3
            start, wanted = flat.index(word) + 1, printed.index(word) + 1
            assert flat[start : start + count] == printed[wanted : wanted + count], (name, word)
        assert (
            flat[flat.index("--visibility-timeout") + 1] == printed[printed.index("--visibility-timeout") + 1]
        )
    worse = ["--patch-nums" if w == "--patch-num" else w for w in line]
    assert "--patch-nums" in segflow("--dry-run", *worse, code=2).last


# compose


def test_compose_keeps_the_schema():
    from compose_spec import PyCompose

    def read(document):
        return PyCompose.from_yaml(yaml.safe_dump(document))

    assert len(read(compose()).service_names()) == 7
    for key, value in (("depend_on", {}), ("read_only", "perhaps"), ("stop_grace_period", "30x")):
        worse = compose()
        worse["services"]["worker"][key] = value
        with pytest.raises(ValueError):
            read(worse)


def test_compose_names_exist():
    document = compose()
    services = document["services"]
    for name, service in services.items():
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for other in service.get("depends_on", {}):
            assert services[other]["profiles"] == service["profiles"], name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in document["volumes"] or (ROOT / "docker" / source).is_dir()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["cap_drop"] == ["ALL"]
    assert "AS local-aws\n" in (ROOT / "docker/cpu.Dockerfile").read_text()


@pytest.mark.parametrize("profile", ["files", "aws"])
def test_the_lines_of_compose_work_together(profile, segflow, tmp_path, data, bucket, monkeypatch):
    """Ingest and setup run; the worker's line passes the check before the run."""
    if profile == "aws":
        import boto3

        boto3.client("s3").create_bucket(Bucket="segflow-demo")
    chain = [
        s["command"] for s in compose()["services"].values() if s["profiles"] == [profile] and "command" in s
    ]
    ingest, setup, worker = (
        shlex.split(
            c.replace("/data", str(tmp_path))
            .replace("/image/", f"{data}/")
            .replace("/tmp/health", f"{tmp_path}/h")
        )
        for c in chain
    )
    segflow(*ingest)
    printed = segflow(*setup).out
    segflow("--dry-run", *worker)
    line = " ".join(worker)
    for word in ("--patch-num", "--expand-margin-size", "--output-crop-margin", "--output-patch-overlap"):
        sizes = re.search(rf"{word} (\d+ \d+ \d+)", printed)
        assert f"{word} {sizes[1]}" in line
