"""A stream of the test's own, and a connection to it."""

import pytest

from proxy.config import Nats
from proxy.fleet import connection as connecting
from proxy.fleet.stream import ensure
from tests.fleet.servers import connected


@pytest.fixture
def impatient(monkeypatch):
    """Nobody who will be refused has to be waited for."""
    monkeypatch.setattr(connecting, "CONNECT_S", 1.0)


@pytest.fixture
def settings(nats):
    return Nats(**nats)


@pytest.fixture
async def connection(settings):
    async with connected(settings) as found:
        await ensure(found, settings)
        yield found
