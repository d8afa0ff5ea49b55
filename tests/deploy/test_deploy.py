"""The files of deploy/: valid by their schemas, and true to the program they run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import promql_parser
import pytest
import yaml

from proxy.app import FLUSH_S
from proxy.environment import load
from tests.docs.catalogue import declared

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SECRET = "0123456789abcdef0123456789abcdef"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# What the image's environment says (Dockerfile).
IMAGE = dict(re.findall(r"(AGENT_TELEMETRY__\w+)=(\S+)", DOCKERFILE.partition("\nENV ")[2]))
METRIC = re.compile(r"\b(?:agent_telemetry|gen_ai)_[a-z0-9_]+\b")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pod_of(path):
    """The pod's specification of the one workload in a file."""
    (workload,) = [d for d in documents(path) if "template" in d.get("spec", {})]
    return workload["spec"]["template"]["spec"]


def documents_with(path, kind):
    return [document for document in documents(path) if document["kind"] == kind]


# --- schemas ---


def test_compose_is_valid():
    pytest.importorskip("check_jsonschema")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_kubernetes_is_valid(path, version):
    schemas = pytest.importorskip("kubernetes_validate")
    assert documents(path)
    for document in documents(path):
        schemas.validate(document, version, strict=True)


def test_a_wrong_manifest_is_noticed():
    """The check of the two above can fail."""
    schemas = pytest.importorskip("kubernetes_validate")
    (wrong,) = documents_with(KUBERNETES[0], "StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(wrong, "1.30", strict=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_valid(tmp_path):
    text = (DEPLOY / "systemd/agent-telemetry.service").read_text()
    program = tmp_path / "agent-telemetry"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "agent-telemetry.service"
    unit.write_text(text.replace("/opt/agent-telemetry/bin/agent-telemetry", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    faults = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, faults) == (0, [])


# --- settings ---


def test_the_settings_of_compose_are_a_valid_configuration():
    service = documents(DEPLOY / "compose.yaml")[0]["services"]["agent-telemetry"]
    given = {k: re.sub(r"\$\{\w+:\?[^}]*\}", SECRET, v) for k, v in service["environment"].items()}
    config = load(None, IMAGE | given)
    assert str(config.data_dir) in [volume.partition(":")[2] for volume in service["volumes"]]
    assert config.gateway.drain_timeout_s + FLUSH_S < int(service["stop_grace_period"][:-1])
    assert service["read_only"]
    assert "agent-telemetry" in config.admin.hosts  # the name by which Prometheus comes


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_the_settings_of_kubernetes_are_a_valid_configuration(path, tmp_path):
    pod = pod_of(path)
    (container,) = [
        c for c in pod.get("initContainers", pod["containers"]) if c["name"] == "agent-telemetry"
    ]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for secret in documents_with(path, "Secret"):
        for name, value in secret["stringData"].items():
            (secrets / name).write_text(value)
    given = {each["name"]: each.get("value", "10.0.0.7") for each in container["env"]}
    environ = {
        name: value.replace("/run/secrets/agent-telemetry", str(secrets)).replace(
            "$(POD_IP)", given["POD_IP"]
        )
        for name, value in given.items()
    }
    file = None
    for document in documents_with(path, "ConfigMap"):
        (text,) = document["data"].values()
        file = tmp_path / "agent-telemetry.toml"
        file.write_text(text.replace("/run/secrets/agent-telemetry", str(secrets)))
        mounted = Path(environ.pop("AGENT_TELEMETRY_CONFIG"))
        assert mounted.name in document["data"]
    config = load(file, IMAGE | environ)
    assert config.dsn == "postgresql://telemetry:change-me@postgres/telemetry"
    assert "10.0.0.7" in config.admin.hosts  # Prometheus comes by the pod's address
    assert config.gateway.drain_timeout_s + FLUSH_S < pod["terminationGracePeriodSeconds"]
    assert {m["mountPath"] for m in container["volumeMounts"]} >= {str(config.data_dir), "/tmp"}
    _assert_hardened(pod, container)


def _assert_hardened(pod, container):
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/readyz", "/healthz")


def test_the_sidecar_is_a_native_one():
    (sidecar,) = pod_of(DEPLOY / "kubernetes/sidecar.yaml")["initContainers"]
    assert sidecar["restartPolicy"] == "Always"


def test_the_image_is_what_the_manifests_expect():
    assert "USER 65532" in DOCKERFILE
    assert "VOLUME /data" in DOCKERFILE
    assert IMAGE["AGENT_TELEMETRY__DATA_DIR"] == "/data"
    assert "EXPOSE 8080 8081" in DOCKERFILE
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for path in KUBERNETES:
        assert f"image: agent-telemetry:{version}" in path.read_text()


# --- Prometheus ---


def expressions():
    """PromQL of the dashboard and of the alerts, each with where it stands."""
    for title, target in targets():
        if "expr" in target:
            yield title, target["expr"]
    for group in documents(DEPLOY / "grafana/alerts.yaml")[0]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def targets():
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target


def test_every_metric_that_is_asked_for_is_declared():
    known = set().union(*(each.series for each in declared()))
    asked = {(title, name) for title, text in expressions() for name in METRIC.findall(text)}
    labels = {label for each in declared() for label in each.labels}
    assert len(asked) > 30
    assert {(title, name) for title, name in asked if name not in known | labels} == set()


@pytest.mark.parametrize(("title", "text"), list(expressions()), ids=lambda value: value[:40])
def test_an_expression_is_valid(title, text):
    promql_parser.parse(text.replace("$__rate_interval", "5m"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_the_alerts_do_what_they_say():
    _promtool("check", "config", str(DEPLOY / "grafana/prometheus.yaml"))
    _promtool("test", "rules", str(DEPLOY / "grafana/alerts.test.yaml"))


def _promtool(*arguments):
    done = subprocess.run(
        ["promtool", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- Grafana ---


def test_the_dashboard_lies_in_a_grid_and_names_its_sources():
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    names = {each["name"] for each in dashboard["templating"]["list"]}
    for _, target in targets():
        assert target["datasource"]["uid"].strip("${}") in names
