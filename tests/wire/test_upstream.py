"""Upstream: which connections are used again, which never, and how new ones are made."""

import asyncio
import ssl
from datetime import UTC, datetime

import pytest
import trustme

from proxy.errors import ConfigError
from proxy.exchange import Outcome
from proxy.wire import upstream as upstream_module
from tests.fakes import MemorySink, Peer, Upstream, answering, chunked, connect, post, until, whole
from tests.wire.gateways import CHAT, config_of, running, stand


async def ask(s, request=None):
    await s.agent.send(request or post(CHAT))
    return await s.agent.message()


async def test_a_connection_is_used_again_after_a_whole_answer():
    async with stand(answering(whole(b"ok"))) as s:
        for _ in range(3):
            await ask(s)
        assert s.upstream.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"ok", b"Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        whole(b"ok") + b"surplus",
        whole(b"ok") + whole(b"a second answer"),
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_in_doubt_is_never_used_again(answer):
    async with stand(answering(answer)) as s:
        for count in (1, 2):
            await ask(s, b"GET /fake/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.upstream.connections == count


async def test_bytes_that_come_unasked_close_the_connection():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(whole(b"ok"))
        await peer.send(whole(b"poison"))
        await peer.until_gone()

    async with stand(script) as s:
        assert (await ask(s)).body == b"ok"
        await s.upstream.until_left()
        assert (await ask(s)).body == b"ok"
        assert s.upstream.connections == 2


async def test_a_head_request_leaves_no_body_behind():
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.message()
            head, _, body = whole(b"body").partition(b"\r\n\r\n")
            is_head = message.first_line.startswith(b"HEAD")
            await peer.send(head + b"\r\n\r\n" + (b"" if is_head else body))

    async with stand(script) as s:
        await s.agent.send(b"HEAD /fake/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await s.agent.message(has_no_body=True)).get(b"content-length") == b"4"
        assert (await ask(s)).body == b"body"
        assert s.upstream.connections == 1


class Stale:
    """Answers once, then breaks each later request on the same connection unanswered."""

    def __init__(self, said: bytes = b"") -> None:
        self.said = said
        self.requests = []

    async def __call__(self, peer: Peer) -> None:
        self.requests.append(await peer.message())
        await peer.send(whole(b"ok"))
        self.requests.append(await peer.message())
        await peer.send(self.said)
        peer.close()


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_request_on_a_stale_connection_is_sent_again_once(is_chunked):
    script = Stale()
    request = post(CHAT, b"question")
    if is_chunked:
        head = b"POST " + CHAT + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        request = head + chunked([b"ques", b"tion"])
    async with stand(script) as s:
        for _ in range(2):
            async with connect(s.address) as agent:
                await agent.send(request)
                assert (await agent.message()).body == b"ok"
        assert s.upstream.connections == 2
    assert [message.body for message in script.requests] == [b"question"] * 3
    assert [e.request for e in s.sink.ended] == [b"question"] * 2
    assert [e.end.outcome for e in s.sink.ended] == [Outcome.COMPLETE] * 2


async def test_a_half_sent_request_on_a_stale_connection_is_sent_again():
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(whole(b"ok"))
        await peer.head()  # of the second request, whose body is still coming
        assert await peer.reader.readexactly(3) == b"abc"
        if s.upstream.connections == 1:
            peer.close()

    async def second(peer: Peer) -> None:
        got.append(await peer.message())
        await peer.send(whole(b"second"))

    async def each(peer: Peer) -> None:
        await (script if s.upstream.connections == 1 else second)(peer)

    got = []
    async with stand(each) as s:
        await ask(s)
        await s.agent.send(post(CHAT, b"abcdef")[:-3])
        await until(lambda: s.upstream.connections == 2)
        await s.agent.send(b"def")
        assert (await s.agent.message()).body == b"second"
    assert got[0].body == b"abcdef"
    assert s.sink.ended[1].request == b"abcdef"


async def test_an_answer_that_began_is_not_asked_for_again():
    script = Stale(b"H")
    async with stand(script) as s:
        await ask(s)
        assert (await ask(s)).status == 502
        assert s.upstream.connections == 1


async def test_a_request_too_large_to_keep_is_not_sent_again(monkeypatch):
    monkeypatch.setattr("proxy.wire.upload.REPEAT_BYTES_MAX", 4)
    async with stand(Stale()) as s:
        await ask(s)
        assert (await ask(s, post(CHAT, b"question"))).status == 502
        assert s.upstream.connections == 1


async def test_a_fresh_connection_that_breaks_is_not_retried():
    async def script(peer: Peer) -> None:
        await peer.message()
        peer.close()

    async with stand(script) as s:
        assert (await ask(s)).status == 502
        assert s.upstream.connections == 1


async def test_idle_connections_are_dropped_in_time(monkeypatch):
    monkeypatch.setattr(upstream_module, "IDLE_MAX_S", 0.02)

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(whole(b"ok"))
        await peer.until_gone()

    async with stand(script) as s:
        await ask(s)
        await s.upstream.until_left()


async def test_an_old_idle_connection_is_not_used(monkeypatch):
    monkeypatch.setattr(upstream_module, "IDLE_MAX_S", 0.0)
    async with stand(answering(whole(b"ok"))) as s:
        await ask(s)
        await ask(s)
        assert s.upstream.connections == 2


async def test_no_more_idle_connections_are_kept_than_allowed(monkeypatch):
    monkeypatch.setattr(upstream_module, "IDLE_MAX", 0)
    async with stand(answering(whole(b"ok"))) as s:
        await ask(s)
        await ask(s)
        assert s.upstream.connections == 2


async def test_a_refused_connection_is_told_with_the_remedy(unused_tcp_port):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with stand(answering(b""), {"url": url}) as s:
        answer = await ask(s)
    assert answer.status == 502
    assert b"Connection refused" in answer.body
    assert b"check its url" in answer.body
    assert s.sink.only.end.outcome is Outcome.UPSTREAM_UNREACHABLE
    assert s.sink.only.head.status == 502


async def test_a_name_without_address_is_told():
    async with stand(answering(b""), {"url": "http://nowhere.invalid"}) as s:
        answer = await ask(s)
    assert (answer.status, s.sink.only.end.outcome) == (502, Outcome.UPSTREAM_UNREACHABLE)


async def test_a_connection_that_does_not_come_about_times_out():
    async def script(peer: Peer) -> None:  # accepts, and never shakes hands
        await peer.until_gone()

    async with Upstream(script).serving() as upstream:
        fake = {"url": f"https://127.0.0.1:{upstream.port}"}
        gateway = {"connect_timeout_s": 0.05}
        async with stand(answering(b""), fake, gateway=gateway) as s:
            answer = await ask(s)
    assert (answer.status, s.sink.only.end.outcome) == (504, Outcome.UPSTREAM_TIMEOUT)


# --- TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def serving_as(authority, *names, **options):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


async def through_tls(context, **settings):
    """The answer to one call over TLS, what the provider saw, and the sink."""
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.message())
            await peer.send(whole(b"ok"))

    sink = MemorySink()
    async with Upstream(script).serving(context) as upstream:
        fake = {"url": f"https://localhost:{upstream.port}"} | settings
        async with (
            running(config_of({"fake": fake}), sink) as gateway,
            connect(gateway.addresses[0]) as agent,
        ):
            for _ in range(2):
                await agent.send(post(CHAT, b"{}", b"Authorization: Bearer secret"))
                answer = await agent.message()
                if answer.get(b"connection") == b"close":
                    break
        return answer, seen, sink.ended[-1].end.outcome, upstream.connections


async def test_tls_is_verified_with_the_given_authority(authority, ca_file):
    context = serving_as(authority, "localhost")
    answer, seen, outcome, connections = await through_tls(context, ca_file=ca_file)
    assert (answer.body, len(seen), outcome) == (b"ok", 2, Outcome.COMPLETE)
    assert connections == 1


@pytest.mark.parametrize(
    ("names", "options", "is_known"),
    [
        (["another.test"], {}, True),
        (["*.localhost"], {}, True),
        (["127.0.0.1"], {}, True),
        (["localhost"], {"not_after": datetime(2020, 1, 1, tzinfo=UTC)}, True),
        (["localhost"], {"not_before": datetime(2999, 1, 1, tzinfo=UTC)}, True),
        (["localhost"], {}, False),
    ],
    ids=["wrong name", "wildcard", "address", "expired", "not yet valid", "unknown authority"],
)
async def test_a_bad_certificate_gets_no_request(authority, ca_file, names, options, is_known):
    context = serving_as(authority, *names, **options)
    settings = {"ca_file": ca_file} if is_known else {}
    answer, seen, outcome, _ = await through_tls(context, **settings)
    assert (answer.status, outcome) == (502, Outcome.UPSTREAM_UNREACHABLE)
    assert b"certificate" in answer.body
    assert seen == []


async def test_a_certificate_that_vouches_for_itself_gets_no_request():
    itself = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with itself.private_key_pem.tempfile() as key, itself.cert_pem.tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    answer, seen, outcome, _ = await through_tls(context)
    assert (answer.status, outcome, seen) == (502, Outcome.UPSTREAM_UNREACHABLE, [])
    assert b"certificate" in answer.body


async def test_insecure_is_possible_and_warned_of(authority, caplog):
    context = serving_as(authority, "another.test")
    answer, _, _, _ = await through_tls(context, insecure=True)
    assert answer.body == b"ok"
    assert "not verified" in caplog.text


async def test_an_upstream_without_tls_is_told():
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Upstream(script).serving() as upstream:
        fake = {"url": f"https://127.0.0.1:{upstream.port}"}
        async with stand(answering(b""), fake) as s:
            answer = await ask(s)
    assert (answer.status, b"no TLS" in answer.body) == (502, True)


def test_a_ca_file_that_cannot_be_used_stops_the_start(tmp_path):
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        config = config_of({"fake": {"url": "https://x.test", "ca_file": tmp_path / name}})
        with pytest.raises(ConfigError, match=r"upstreams\.fake\.ca_file"):
            upstream_module.upstreams_of(config)


# --- egress proxy


class Egress:
    """A CONNECT proxy that lets everything through to one provider."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connected\r\nX: 1\r\n\r\n") -> None:
        self.answer = answer
        self.asked = []
        self.port = 0

    async def __call__(self, peer: Peer) -> None:
        self.asked.append(await peer.head())
        await peer.send(self.answer)
        if b" 200 " not in self.answer[:16]:
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        far = Peer(reader, writer)
        try:
            await asyncio.gather(self._pump(peer, far), self._pump(far, peer))
        finally:
            far.writer.transport.abort()

    async def _pump(self, source: Peer, target: Peer) -> None:
        while data := await source.reader.read(65536):
            await target.send(data)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_an_egress_proxy_is_asked_by_connect(authority, ca_file, is_tls):
    context = serving_as(authority, "localhost") if is_tls else None
    egress = Egress()
    async with (
        Upstream(answering(whole(b"ok"))).serving(context) as upstream,
        Upstream(egress).serving() as way,
    ):
        egress.port = upstream.port
        fake = {
            "url": f"{'https' if is_tls else 'http'}://localhost:{upstream.port}",
            "http_proxy": f"http://user:p%40ss@127.0.0.1:{way.port}",
            "ca_file": ca_file,
        }
        async with stand(answering(b""), fake) as s:
            assert (await ask(s)).body == b"ok"
    assert egress.asked[0].first_line == b"CONNECT localhost:%d HTTP/1.1" % upstream.port
    assert egress.asked[0].get(b"proxy-authorization") == b"Basic dXNlcjpwQHNz"
    assert egress.asked[0].get(b"authorization") is None


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"with 407"),
        (b"HTTP/1.1\r\n\r\n", b"with nothing"),
        (b"HTTP/1.1 200 half a head\r\n", b"did not answer CONNECT"),
        (b"HTTP/1.1 503 Oh\r\n" + b"X: y\r\n" * 4000, b"did not answer CONNECT"),
    ],
)
async def test_an_egress_proxy_that_refuses_is_told(answer, told):
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)

    async with Upstream(script).serving() as way:
        fake = {"url": "https://x.test", "http_proxy": f"http://127.0.0.1:{way.port}"}
        async with stand(answering(b""), fake) as s:
            reply = await ask(s)
    assert (reply.status, s.sink.only.end.outcome) == (502, Outcome.UPSTREAM_UNREACHABLE)
    assert told in reply.body
