"""Connection: what it does when asyncio calls it in an unkind order."""

import asyncio

import pytest

from proxy.wire.answer import HeadLimits
from proxy.wire.connection import Connection
from proxy.wire.faults import UpstreamReset, UpstreamTimeout
from tests.fakes import PATIENCE_S, whole


class FakeTransport(asyncio.Transport):
    """Remembers what was asked of it; closes when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.is_reading_ = True

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def write(self, data):
        self.written += data

    def pause_reading(self):
        self.is_reading_ = False

    def resume_reading(self):
        self.is_reading_ = True

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    abort = close


class Receiver(asyncio.Protocol):
    """One end of a tunnel that remembers what it was told."""

    def __init__(self) -> None:
        self.heard = []

    def data_received(self, data):
        self.heard.append(data)

    def eof_received(self):
        self.heard.append("eof")
        return True

    def connection_lost(self, exc):
        self.heard.append("lost")

    def pause_writing(self):
        self.heard.append("pause")

    def resume_writing(self):
        self.heard.append("resume")


@pytest.fixture
async def made():
    connection = Connection(HeadLimits(10_000, 10_000, 100), idle_timeout_s=PATIENCE_S)
    transport = FakeTransport()
    connection.connection_made(transport)
    yield connection, transport
    connection.finish()


async def test_bytes_between_exchanges_close_it(made):
    connection, transport = made
    connection.data_received(whole(b"unasked"))
    assert transport.is_closed


async def test_a_connection_lost_before_the_exchange_is_told_at_once(made):
    connection, _ = made
    connection.connection_lost(None)
    connection.begin(is_head_only=False)
    connection.write(b"dropped")
    await connection.drain()
    with pytest.raises(UpstreamReset, match="before its answer"):
        await connection.head()
    connection.abort()
    connection.close()
    assert (connection.is_open, connection.has_unread) == (False, True)
    assert connection.finish() is False


async def test_a_writer_that_waits_is_woken_when_the_connection_is_lost(made):
    connection, _ = made
    connection.begin(is_head_only=False)
    connection.pause_writing()
    waiting = asyncio.create_task(connection.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.connection_lost(ConnectionResetError())
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_writer_that_waits_is_woken_when_there_is_room(made):
    connection, transport = made
    connection.begin(is_head_only=False)
    connection.pause_writing()
    waiting = asyncio.create_task(connection.drain())
    await asyncio.sleep(0)
    connection.resume_writing()
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert transport.high is not None


async def test_pieces_that_arrived_come_before_the_fault(made):
    connection, _ = made
    connection.begin(is_head_only=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
    connection.data_received(b"cd")
    connection.connection_lost(ConnectionResetError())
    assert (await connection.head()).status == 200
    assert [await connection.read(), await connection.read()] == [b"ab", b"cd"]
    with pytest.raises(UpstreamReset, match="in the middle"):
        await connection.read()


async def test_reading_stops_at_high_water_and_goes_on_at_low(made):
    connection, transport = made
    connection.begin(is_head_only=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(3):
        connection.data_received(b"x" * 65536)
    assert not transport.is_reading_
    await connection.read()
    await connection.read()
    assert not transport.is_reading_
    await connection.read()
    assert transport.is_reading_


async def test_a_finished_exchange_leaves_it_usable_and_an_unfinished_one_does_not(made):
    connection, transport = made
    connection.begin(is_head_only=False)
    connection.sent()
    connection.data_received(whole(b"ok"))
    assert not connection.is_drained
    assert await connection.read() == b"ok"
    assert await connection.read() == b""
    assert connection.finish()
    connection.begin(is_head_only=False)
    connection.data_received(whole(b"ok"))
    assert await connection.read() == b"ok"
    assert not connection.finish()  # the request was not sent to its end
    assert transport.is_closed


async def test_silence_counts_only_while_the_upstream_owes_an_answer():
    connection = Connection(HeadLimits(10_000, 10_000, 100), idle_timeout_s=0.01)
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.begin(is_head_only=False)
    waiting = asyncio.create_task(connection.head())
    # The agent still sends its request: many idle timeouts may pass.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert not transport.is_closed
    connection.sent()
    with pytest.raises(UpstreamTimeout):
        await asyncio.wait_for(waiting, PATIENCE_S)
    assert transport.is_closed
    connection.connection_lost(None)
    connection.finish()


async def test_silence_is_found_in_a_later_exchange_too():
    connection = Connection(HeadLimits(10_000, 10_000, 100), idle_timeout_s=0.01)
    transport = FakeTransport()
    connection.connection_made(transport)
    for _ in range(2):
        connection.begin(is_head_only=False)
        connection.sent()
        connection.data_received(whole(b"ok"))
        assert await connection.read() == b"ok"
        assert connection.finish()
    connection.begin(is_head_only=False)
    connection.sent()
    with pytest.raises(UpstreamTimeout):
        await asyncio.wait_for(connection.head(), PATIENCE_S)
    connection.connection_lost(None)
    connection.finish()


async def test_nothing_is_left_to_a_transport_that_is_closing(made):
    connection, transport = made
    connection.begin(is_head_only=False)
    connection.write_all([b"a", b"b"])
    assert transport.written == b"ab"
    transport.abort()
    connection.write_all([b"c"])
    assert transport.written == b"ab"
    connection.connection_lost(None)


async def test_a_tunnel_gets_everything_in_order(made):
    connection, _ = made
    connection.begin(is_head_only=False)
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    connection.data_received(switch + b"first")
    receiver = Receiver()
    connection.become_tunnel(receiver)
    connection.data_received(b"second")
    connection.pause_writing()
    connection.resume_writing()
    assert connection.eof_received()
    connection.connection_lost(None)
    heard = [b"first", b"second", "pause", "resume", "eof", "lost"]
    assert receiver.heard == heard
    assert not connection.finish()


async def test_a_tunnel_over_a_lost_connection_ends_at_once(made):
    connection, _ = made
    connection.begin(is_head_only=False)
    connection.connection_lost(None)
    receiver = Receiver()
    connection.become_tunnel(receiver)
    assert receiver.heard == ["lost"]
