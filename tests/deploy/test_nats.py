"""The files of deploy/nats/: valid by their schemas, true to the program, and enough for it."""

import asyncio
import contextlib
import shutil
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from proxy.environment import load
from proxy.errors import ProxyError
from proxy.exchange import Labels
from proxy.fleet.member import GATEWAY, RECORDER, Member
from proxy.fleet.members import Members
from proxy.fleet.publisher import Publisher
from proxy.fleet.stream import ensure
from tests.deploy.test_deploy import DEPLOY, IMAGE, documents, documents_with
from tests.e2e.stack import until
from tests.fleet.messages import consuming, packed, taken
from tests.fleet.servers import Servers, connected, needs_nats

NATS = DEPLOY / "nats"
MANIFESTS = sorted(NATS.glob("*.yaml"))


def workloads():
    """Every container of ours, with its pod, by role."""
    for path in MANIFESTS:
        for document in documents(path):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
                if container["image"].startswith("agent-telemetry:"):
                    yield container["args"][0], pod, container


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_manifests_are_valid(path, version):
    schemas = pytest.importorskip("kubernetes_validate")
    for document in documents(path):
        schemas.validate(document, version, strict=True)


def test_there_is_a_workload_for_each_role():
    assert sorted(role for role, _, _ in workloads()) == ["admin", "gateway", "recorder"]


@pytest.mark.parametrize("role", ["admin", "gateway", "recorder"])
def test_settings_are_a_valid_configuration(role, tmp_path):
    (secret,) = documents_with(NATS / "kubernetes.yaml", "Secret")
    for name, value in secret["stringData"].items():
        (tmp_path / name).write_text(value)
    ((pod, container),) = [(pod, each) for name, pod, each in workloads() if name == role]
    secrets = "/run/secrets/agent-telemetry"
    given = {e["name"]: e["value"].replace(secrets, str(tmp_path)) for e in container["env"]}
    config = load(None, IMAGE | given)
    assert config.spool.transport == "nats"
    servers = documents_with(NATS / "kubernetes.yaml", "StatefulSet")[0]
    assert config.nats.replicas == servers["spec"]["replicas"] == len(config.nats.servers)
    assert (config.dsn is None) == (role == "gateway")  # a sidecar does not know the database
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {str(config.data_dir), "/tmp", secrets}


@needs_nats
async def test_the_users_may_do_what_they_have_to_and_no_more(tmp_path, monkeypatch):
    for role in ("SIDECAR", "RECORDER"):
        monkeypatch.setenv(f"{role}_PASSWORD", f"{role.lower()}-secret")
    (tmp_path / "0").mkdir()
    shutil.copy(NATS / "users.conf", tmp_path / "0" / "users.conf")
    servers = Servers(tmp_path, 1, "include ./users.conf")
    sidecar = servers.settings(user="sidecar", password="sidecar-secret")
    recorder = servers.settings(user="recorder", password="recorder-secret")
    servers.start(0)
    try:
        await servers.until_ready(user="recorder", password="recorder-secret")
        async with connected(sidecar) as own, connected(recorder) as central:
            await _work(own, central, sidecar, recorder)
            with pytest.raises(ProxyError):
                await ensure(own, sidecar)
            with pytest.raises(ProxyError):
                await asyncio.wait_for(Members(own, sidecar).read(), 20)
    finally:
        servers.kill(0)


async def _work(own, central, sidecar, recorder) -> None:
    publisher = Publisher(own, sidecar)
    for size_bytes in (100, 2_000_000):
        await publisher.publish(packed(size_bytes, labels=Labels(project="shop")))
    async with consuming(central, recorder, 10) as consumer:
        found = await taken(consumer, 2)
        await consumer.acknowledge(found[:1])
        await consumer.set_aside(found[1:], "refused")

        async def gone() -> bool:
            with contextlib.suppress(ProxyError):
                fleet = await Members(central, recorder).read()
                return (fleet.messages_in_stream, fleet.large_bytes, fleet.set_aside) == (0, 0, 1)
            return False

        await until(gone, "everything is acknowledged and cleaned")
    for members, role in ((Members(own, sidecar), GATEWAY), (Members(central, recorder), RECORDER)):
        member = Member(role, str(uuid4()), "h", "1", datetime.now(UTC) - timedelta(days=2))
        await members.say(member)
    gone = (await Members(central, recorder).read()).gateways[0]
    assert await Members(central, recorder).depart(datetime.now(UTC)) == 1
    await Members(own, sidecar).say(gone)
    await Members(own, sidecar).come_back(gone.id)
    assert len((await Members(central, recorder).read()).members) == 2
