"""Signing: requests to Amazon Bedrock signed anew, with the gateway's own AWS credentials.

A signature (AWS Signature Version 4) covers the host, so the agent's cannot hold through a gateway.
It covers the body too, and no operation of Bedrock takes an unsigned one; so the body is read to
its end, up to a bound, before the request goes on. Credentials are those that botocore finds:
environment, files, instance role; it also renews them. botocore is optional (extra `bedrock`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from proxy.config import Config
from proxy.wire import headers
from proxy.wire.credentials import KEY_HEADERS, PROTOCOLS
from proxy.wire.faults import Unsigned
from proxy.wire.fields import Fields, first

if TYPE_CHECKING:
    from botocore.credentials import Credentials

SERVICE = "bedrock"
BODY_BYTES_MAX = 32 * 1024 * 1024  # Bedrock takes 25 MB

# Replaced by the new signature, keys included, of which one may be a client token; no WebSocket is
# signed. The length is that of the body as it was read.
_REPLACED = KEY_HEADERS.union(
    {PROTOCOLS, b"content-length", b"date", b"host", b"transfer-encoding"}
    | {b"x-amz-content-sha256", b"x-amz-date", b"x-amz-security-token"}
)

_log = logging.getLogger("proxy.wire")


class Signer:
    """Signs for one region. The credentials are looked for when first needed."""

    def __init__(self, region: str, url: str) -> None:
        parts = urlsplit(url)
        self._region = region
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._found: Credentials | None = None

    async def signed(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        """The request's fields with a signature in place of the agent's. Raises Unsigned."""
        from botocore.exceptions import BotoCoreError

        try:
            # In a thread: finding and renewing credentials reads files and asks the network.
            added = await asyncio.to_thread(self._signature, method, target, fields, body)
        except BotoCoreError as error:
            raise Unsigned(
                f"the request cannot be signed ({type(error).__name__}); check the gateway's AWS "
                "credentials"
            ) from None
        kept = tuple(field for field in fields if field[0] not in _REPLACED)
        length = (b"content-length", b"Content-Length", b"%d" % len(body))
        return (*kept, length, *added) if body or method == "POST" else (*kept, *added)

    async def request(
        self, method: str, target: bytes, host: bytes, fields: Fields, body: bytes
    ) -> bytes:
        """The whole request for the upstream, signed. Raises Unsigned."""
        signed = await self.signed(method, target, fields, body)
        start = b"%b %b HTTP/1.1\r\n" % (method.encode(), target)
        return b"".join((start, *headers.to_upstream(signed, host, None), b"\r\n", body))

    def _signature(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(
            method, self._origin + target.decode("latin-1"), _to_sign(fields), data=body
        )
        SigV4Auth(self._credentials().get_frozen_credentials(), SERVICE, self._region).add_auth(
            request
        )
        names = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")
        return tuple(
            (name.lower().encode(), name.encode(), request.headers[name].encode())
            for name in names
            if name in request.headers
        )

    def _credentials(self) -> Credentials:
        if self._found is None:
            from botocore.session import Session

            self._found = Session().get_credentials()
        if self._found is None:
            raise Unsigned(
                "the gateway has no AWS credentials to sign the request with; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give it a role"
            )
        return self._found


def signers_of(config: Config) -> Mapping[str, Signer]:
    """A signer for each upstream with a region, where botocore is installed."""
    regions = {name: u.aws_region for name, u in config.upstreams.items() if u.aws_region}
    if regions and find_spec("botocore") is None:
        _log.warning("upstreams.*.aws_region: install agent-telemetry[bedrock] to sign requests")
        return {}
    logging.getLogger("botocore").setLevel(logging.INFO)  # its debug lines hold session tokens
    return {name: Signer(region, config.upstreams[name].url) for name, region in regions.items()}


def _to_sign(fields: Fields) -> dict[str, str]:
    """What a signature must cover besides the host: the type of the body, and AWS's own headers."""
    found = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, _, value in fields
        if name.startswith(b"x-amz") and name not in _REPLACED
    }
    kind = first(fields, b"content-type")
    return found if kind is None else found | {"content-type": kind.decode("latin-1")}
