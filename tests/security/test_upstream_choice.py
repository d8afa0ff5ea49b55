"""No request chooses where it goes: it names a configured upstream, or it goes nowhere."""

import pytest

from tests.fakes import Upstream, answering, connect, whole
from tests.security.tripwire import noting
from tests.wire.gateways import config_of, running

HOSTS = (b"169.254.169.254", b"127.0.0.1:%PORT", b"[::1]:%PORT", b"localhost:%PORT", b"evil.test")
TARGETS = (
    *(b"http://%HOST/fake/v1/models", b"https://%HOST/", b"//%HOST/fake/v1/models", b"///%HOST/"),
    *(b"@%HOST/", b"fake@%HOST/", b"/fake@%HOST/v1", b"/fake/@%HOST/v1", b"/fake//%HOST/v1"),
    *(b"/fake/http://%HOST/", b"/fake/..//%HOST/", b"/fake/%2f%2f%HOST/", b"/fake\\@%HOST/"),
    *(b"/\\%HOST/", b"\\\\%HOST\\", b"/fake?url=http://%HOST/", b"/fake/v1?@%HOST/", b"%HOST"),
    *(b"/fake/#@%HOST/", b"/fake/;@%HOST/", b"/fake:80@%HOST/", b"/%HOST/v1", b"/http:/%HOST/v1"),
    *(b"/p/x/s/y/http://%HOST/", b"/p/%2f%HOST/fake/v1", b"/s/..%2f%HOST/fake/v1", b"/v1/@%HOST"),
    *(b"/fake/v1/projects/p/locations/%HOST%23/models", b"/t/@%HOST/fake/v1", b"/fake.%HOST/v1"),
    *(
        b"/fake/v1%0d%0aHost:%20%HOST",
        b"/fake/v1?x=%0d%0aHost:%HOST",
        b"/fake/v1/\xe3\x80\x82%HOST",
    ),
)
HEADERS = (
    *(b"Host", b"X-Forwarded-Host", b"X-Forwarded-Server", b"X-Host", b"X-Original-Host", b"Via"),
    *(b"X-Original-URL", b"X-Rewrite-URL", b"Forwarded", b"Destination", b"Location", b"Referer"),
    *(b"X-Base-URL", b"x-headroom-base-url", b"x-prefiller-url", b"Helicone-Target-URL", b"Origin"),
    *(b"x-portkey-custom-host", b"api-base", b"x-upstream", b"x-target-url", b"x-litellm-api-base"),
    *(b"Proxy-Connection", b"X-Forwarded-For", b"X-Real-IP", b"X-HTTP-Host-Override", b"Alt-Used"),
    *(b"x-telemetry-upstream", b"x-goog-api-endpoint", b"OpenAI-Base-URL", b"Proxy-Authorization"),
)
VALUES = (b"%HOST", b"http://%HOST/", b"host=%HOST", b"fake@%HOST")


def requests(port):
    """Hostile requests: each target to each host, each header with each value."""
    for host in HOSTS:
        where = host.replace(b"%PORT", b"%d" % port)
        for target in TARGETS:
            yield b"GET %b HTTP/1.1\r\nHost: x\r\n" % target.replace(b"%HOST", where)
        for name in HEADERS:
            for value in VALUES:
                own = b"" if name == b"Host" else b"Host: x\r\n"
                field = b"%b: %b\r\n" % (name, value.replace(b"%HOST", where))
                yield b"POST /fake/v1/chat/completions HTTP/1.1\r\n" + own + field


BODIES = (
    b'{"api_base":"http://%HOST/","base_url":"http://%HOST/"}',
    b'{"user_config":{"model_list":[{"litellm_params":{"api_base":"http://%HOST"}}]}}',
)


async def test_no_path_header_or_body_chooses_a_host():
    """Some hundreds of requests; the only address that is ever connected to is the upstream's."""
    sent = 0
    async with (
        Upstream(answering(whole(b"trap"))).serving() as trap,
        Upstream(answering(whole(b"ok"))).serving() as upstream,
    ):
        config = config_of({"fake": {"url": f"http://127.0.0.1:{upstream.port}"}})
        async with running(config, None) as gateway:
            address = gateway.addresses[0]
            with noting() as reached:
                for number, request in enumerate(requests(trap.port)):
                    body = BODIES[number % len(BODIES)].replace(
                        b"%HOST", b"127.0.0.1:%d" % trap.port
                    )
                    raw = request + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
                    async with connect(address) as agent:
                        await agent.send(raw + body)
                        answer = await agent.rest()
                    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 40")), raw
                    sent += 1
        assert trap.connections == 0
        assert upstream.connections > 0
    assert sent >= 200
    agents = ("127.0.0.1", address[1])
    assert set(reached) - {agents} == {("127.0.0.1", upstream.port)}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status):
    async with Upstream(answering(whole(b"trap"))).serving() as trap:
        where = b"Location: http://127.0.0.1:%d/" % trap.port
        answer = whole(b"", where, status=b"%d Moved" % status)
        async with Upstream(answering(answer)).serving() as upstream:
            config = config_of({"fake": {"url": f"http://127.0.0.1:{upstream.port}"}})
            async with running(config, None) as gateway, connect(gateway.addresses[0]) as agent:
                await agent.send(b"GET /fake/v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                message = await agent.message()
        assert (message.status, trap.connections) == (status, 0)
        assert message.get(b"location") == where.partition(b" ")[2]
