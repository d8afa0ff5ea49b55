"""Connections: who the servers are, who we are, and what is said where that fails."""

from pathlib import Path

import pytest
import trustme

from proxy.config import Nats
from proxy.errors import ConfigError, StreamMisconfigured, StreamUnavailable
from proxy.fleet.connection import Connection, validate
from proxy.fleet.publisher import Publisher
from tests.fleet.messages import packed
from tests.fleet.servers import Servers, connected, needs_nats

pytestmark = needs_nats


@pytest.fixture
def certificates(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("server", "client"):
        made = authority.issue_cert("127.0.0.1", "localhost")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    return tmp_path


async def test_servers_are_known_by_their_certificate_and_know_ours(certificates: Path, impatient):
    tls = (
        f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key", '
        f'ca_file: "{certificates}/ca.pem", verify: true }}'
    )
    own = {
        "ca_file": certificates / "ca.pem",
        "cert_file": certificates / "client.pem",
        "key_file": certificates / "client.key",
    }
    servers = Servers(certificates / "nats", 1, tls)
    servers.start(0)
    try:
        await servers.until_ready(**own)
        async with connected(servers.settings(**own)) as connection:
            await Publisher(connection, servers.settings()).publish(packed())
        for wrong in ({}, {"ca_file": own["ca_file"]}):
            with pytest.raises((StreamUnavailable, StreamMisconfigured)):
                await Connection.open(servers.settings(**wrong), "test")
    finally:
        servers.kill(0)


@pytest.mark.parametrize(
    ("guard", "right", "wrong"),
    [
        (
            'authorization { user: "me", password: "let me in" }',
            {"user": "me", "password": "let me in"},
            {"user": "me", "password": "no"},
        ),
        ('authorization { token: "t0ken" }', {"token": "t0ken"}, {"token": "no"}),
    ],
)
async def test_credentials_are_shown_and_a_refusal_is_told(
    tmp_path, guard, right, wrong, impatient
):
    servers = Servers(tmp_path, 1, guard)
    servers.start(0)
    try:
        await servers.until_ready(**right)
        for given in (wrong, {}):
            with pytest.raises(StreamMisconfigured, match=r"(?i)authorization"):
                await Connection.open(servers.settings(**given), "test")
    finally:
        servers.kill(0)


def test_a_certificate_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nats\.ca_file"):
        validate(Nats(ca_file=tmp_path / "none.pem"))


async def test_where_nobody_answers_it_is_said_in_time(impatient):
    with pytest.raises(StreamUnavailable, match=r"127\.0\.0\.1:1"):
        await Connection.open(Nats(servers=("nats://127.0.0.1:1",)), "test")
