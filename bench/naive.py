"""The second reference: the proxy that one writes in ten minutes with aiohttp. Frozen.

    python -m bench.naive PORT UPSTREAM

It records nothing. It is never improved, so that a ratio to it tells of this program alone.
"""

from __future__ import annotations

import ssl
import sys

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

_DROPPED = {"host", "transfer-encoding", "connection", "content-length"}


def app(upstream: str) -> web.Application:
    async def session(app: web.Application):
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        connector = TCPConnector(limit=0, ssl=tls)
        app["session"] = ClientSession(
            connector=connector, timeout=ClientTimeout(total=None), auto_decompress=False
        )
        yield
        await app["session"].close()

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fields = {k: v for k, v in request.headers.items() if k.lower() not in _DROPPED}
        async with request.app["session"].request(
            request.method, upstream + request.raw_path, data=body, headers=fields
        ) as answer:
            out = web.StreamResponse(
                status=answer.status,
                headers={k: v for k, v in answer.headers.items() if k.lower() not in _DROPPED},
            )
            await out.prepare(request)
            async for piece in answer.content.iter_any():
                await out.write(piece)
            await out.write_eof()
            return out

    found = web.Application(client_max_size=1 << 30)
    found.cleanup_ctx.append(session)
    found.router.add_route("*", "/{path:.*}", forward)
    return found


if __name__ == "__main__":
    web.run_app(
        app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None
    )
