"""The PostgreSQL that all tests share: one server for the session, one fresh database per test.

Started through the package's own embedded server, as whoever runs the tests, without the promises
to survive a power cut that tests do not need.
"""

import asyncio
import itertools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from proxy.store.embedded import NAME, EmbeddedServer
from proxy.store.links import LinkStore
from proxy.store.migrate import migrate
from proxy.store.postgres import Store
from tests.database import connected
from tests.fleet.servers import MAX_BYTES, Servers, needs_nats

settings.register_profile("usual", deadline=None)  # no verdict depends on a machine's speed
settings.register_profile(
    "fuzz", deadline=None, max_examples=100_000, suppress_health_check=list(HealthCheck)
)
settings.load_profile("usual")

FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    """The connection string of a running server's own database; each test worker has a server."""
    with tempfile.TemporaryDirectory(prefix="agent-telemetry-") as directory:
        server = EmbeddedServer(Path(directory), FAST)
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template(postgres):
    """The name of a migrated database to copy from."""
    name = _created(postgres, "template0")
    asyncio.run(migrate(_dsn_of(postgres, name)))
    return name


@pytest.fixture
def dsn(postgres, template):
    """A fresh, migrated database."""
    name = _created(postgres, template)
    yield _dsn_of(postgres, name)
    _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def module_dsn(postgres, template):
    """A migrated database that all tests of a module share."""
    name = _created(postgres, template)
    yield _dsn_of(postgres, name)
    _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def other_dsn(postgres, template):
    """A second fresh, migrated database."""
    name = _created(postgres, template)
    yield _dsn_of(postgres, name)
    _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_dsn(postgres):
    """A fresh database without any table."""
    name = _created(postgres, "template0")
    yield _dsn_of(postgres, name)
    _run(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(dsn):
    async with Store(dsn) as opened:
        yield opened


@pytest.fixture
async def links(dsn):
    async with LinkStore(dsn) as opened:
        yield opened


@pytest.fixture
async def connection(dsn):
    """Somebody else's connection to the same database."""
    async with connected(dsn) as opened:
        yield opened


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory):
    """One server of NATS; each test worker has one."""
    servers = Servers(tmp_path_factory.mktemp("nats"), 1)
    servers.start(0)
    try:
        asyncio.run(servers.until_ready())
        yield servers
    finally:
        servers.kill(0)


@pytest.fixture
def nats(nats_server):
    """The settings of a stream that no other test uses."""
    number = next(_numbers)
    return {
        "servers": nats_server.urls,
        "stream": f"T{number}",
        "subject_prefix": f"t{number}",
        "replicas": 1,
        "max_bytes": MAX_BYTES,
        "ack_wait_s": 1,
    }


@pytest.fixture(params=["local", pytest.param("nats", marks=needs_nats)])
def transport(request):
    """Sections of a configuration, for a test that has to hold whichever way calls are moved."""
    if request.param == "local":
        return {}
    return {"spool": {"transport": "nats"}, "nats": request.getfixturevalue("nats")}


def _created(postgres, template):
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _run(postgres, f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
    return name


def _dsn_of(postgres, name):
    return postgres.replace(f"@/{NAME}?", f"@/{name}?")


def _run(postgres, statement):
    async def run():
        async with connected(postgres) as connection:
            await connection.execute(statement)

    asyncio.run(run())
