"""A web page in a local browser: it can neither spend a key nor read the admin listener.

A page may send any path, method and body to a loopback port, with headers that the browser sets and
the page cannot choose: `Host` (also a name of its own that resolves to loopback), `Origin`,
`Sec-Fetch-Site`.
"""

import pytest

from tests.fakes import answering, connect, whole
from tests.wire.gateways import stand

KEY = {"api_key": "sk-operators-0123456789"}
PAGES = {
    "a form": b"Origin: https://evil.test\r\nSec-Fetch-Site: cross-site\r\n",
    "an old browser's form": b"Origin: https://evil.test\r\n",
    "a sandboxed frame": b"Origin: null\r\n",
    "an image": b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
    "a sibling": b"Sec-Fetch-Site: same-site\r\n",
    "another port's page": b"Origin: http://127.0.0.1:3000\r\nSec-Fetch-Site: same-site\r\n",
    "odd case": b"origin: x\r\nSEC-FETCH-SITE: Cross-Site\r\n",
}
FOREIGN = (
    *(b"evil.test", b"evil.test:8080", b"127.0.0.1.evil.test", b"localhost.evil.test", b"8.8.8.8"),
    *(b"127.0.0.1@evil.test", b"evil.test#127.0.0.1", b"[2001:db8::1]", b"xn--lcalhost-x5a", b""),
    *(b"localhost.", b"127.0.0.1\x2eevil.test", b"2130706433.evil.test", b"0x7f.1.evil.test"),
)
OWN = (b"127.0.0.1", b"localhost:8080", b"[::1]:9", b"LOCALHOST", b"127.9.9.9:1")


async def ask(address, path, host, lines=b"", method=b"POST"):
    raw = b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with connect(address) as agent:
        await agent.send(raw % (method, path, host, lines))
        return await agent.rest()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("path", [b"/fake/v1/chat/completions", b"/telemetry/v1/turns"])
async def test_a_page_cannot_call(page, path):
    async with stand(answering(whole(b"spent")), KEY) as s:
        for method in (b"POST", b"GET", b"OPTIONS"):
            answer = await ask(s.address, path, b"127.0.0.1", PAGES[page], method)
            assert answer.startswith(b"HTTP/1.1 403")
            assert b"access-control" not in answer.lower()
        assert s.upstream.connections == 0


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_name_that_resolves_to_loopback_cannot_call(host):
    async with stand(answering(whole(b"spent")), KEY) as s:
        answer = await ask(s.address, b"/fake/v1/models", host)
        assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))
        assert s.upstream.connections == 0


@pytest.mark.parametrize("host", OWN)
async def test_an_agent_on_this_machine_can_call(host):
    async with stand(answering(whole(b"answer")), KEY) as s:
        assert (await ask(s.address, b"/fake/v1/models", host)).endswith(b"answer")
        site = b"Sec-Fetch-Site: none\r\n"
        assert (await ask(s.address, b"/fake/v1/models", host, site)).endswith(b"answer")


async def test_a_page_may_use_its_own_key_since_it_gains_nothing():
    async with stand(answering(whole(b"answer"))) as s:
        answer = await ask(s.address, b"/fake/v1/models", b"x", PAGES["a form"])
        assert answer.endswith(b"answer")
