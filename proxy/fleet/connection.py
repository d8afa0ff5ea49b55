"""Connection: to the NATS servers, kept for the life of a process.

The client finds another server by itself where one is gone. Everything asked of the servers goes
through `translated`, which tells what passes by itself from what the operator has to mend.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from proxy.config import Nats
from proxy.errors import ConfigError, StreamMisconfigured, StreamUnavailable
from proxy.tasks import within

try:
    from nats.aio.client import Client
    from nats.errors import AuthorizationError, Error, NoRespondersError
    from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError
except ModuleNotFoundError as error:
    raise ConfigError(
        'spool.transport: "nats" needs the extra: pip install "agent-telemetry[nats]"'
    ) from error

if TYPE_CHECKING:
    from nats.js import JetStreamContext

CONNECT_S = 5.0
RECONNECT_S = 0.5
ANSWER_S = 5.0
CLOSE_S = 1.0
PING_S = 5
SEEN_MAX = 10
OUTBOUND_BYTES_MAX = 64 * 1024 * 1024
_REFUSED = "Authorization Violation"  # of the protocol of NATS
_OUTAGE_CODES = frozenset({500, 503})


class Connection:
    """One connection, opened by `open` and again by the client for as long as it takes."""

    def __init__(self, client: Client, over: asyncio.Event) -> None:
        self._client = client
        self.over = over  # the client gave up: a server refused who we are, for example
        self.js: JetStreamContext = client.jetstream(timeout=ANSWER_S)

    @classmethod
    async def open(cls, settings: Nats, name: str) -> Connection:
        """Raises StreamUnavailable, StreamMisconfigured, or ConfigError for a file."""
        seen: list[Exception] = []

        async def note(error: Exception) -> None:
            seen.append(error)
            del seen[:-SEEN_MAX]

        client, over = Client(), asyncio.Event()

        async def end() -> None:
            over.set()

        try:
            async with asyncio.timeout(CONNECT_S):
                options = _options(settings)
                await client.connect(**options, name=name, error_cb=note, closed_cb=end)
        except (OSError, Error) as error:  # a timeout among them
            with contextlib.suppress(Exception):
                await client.close()
            raise _reason([*seen, error], settings) from None
        return cls(client, over)

    @property
    def client(self) -> Client:
        return self._client

    @property
    def is_usable(self) -> bool:
        """Whether something can be asked of the servers now."""
        return self._client.is_connected

    @property
    def payload_bytes_max(self) -> int:
        return self._client.max_payload

    async def close(self) -> None:
        """Close, and send what waits where a server takes it."""
        await within(CLOSE_S, self._close(), "NATS")

    async def _close(self) -> None:
        # RuntimeError: the client writes into a transport that was lost.
        with contextlib.suppress(Error, OSError, RuntimeError):
            await self._client.close()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of the client as this program's own."""
    try:
        yield
    except NotFoundError as error:
        raise StreamMisconfigured(
            f"NATS: {error.description or 'the stream is not there'}; run agent-telemetry migrate"
        ) from None
    except ServiceUnavailableError as error:
        raise StreamUnavailable(f"NATS: {error.description or 'no answer'}") from None
    except APIError as error:
        text = f"NATS: {error.description} ({error.err_code})"
        if error.code in _OUTAGE_CODES:
            raise StreamUnavailable(text) from None
        raise StreamMisconfigured(text) from None
    except (AuthorizationError, ssl.SSLError) as error:
        raise StreamMisconfigured(f"NATS: {error}") from None
    except NoRespondersError:
        raise StreamUnavailable("NATS: JetStream does not answer; is it enabled?") from None
    except (Error, OSError) as error:
        raise StreamUnavailable(f"NATS: {str(error) or type(error).__name__}") from None


def validate(settings: Nats) -> None:
    """Try what only use shows. Raises ConfigError."""
    _tls(settings)


def _reason(seen: Sequence[Exception], settings: Nats) -> Exception:
    """Of what was seen: a refusal, else what came last with words."""
    refusals = [each for each in seen if _is_refusal(each)]
    error = next((each for each in (*refusals, *reversed(seen)) if str(each)), seen[-1])
    text = f"NATS: {', '.join(settings.servers)}: {str(error) or type(error).__name__}"
    return StreamMisconfigured(text) if refusals else StreamUnavailable(text)


def _is_refusal(error: Exception) -> bool:
    # Before a connection stands, the client hands the servers' word on as it is.
    return isinstance(error, AuthorizationError | ssl.SSLError) or _REFUSED in str(error)


def _options(settings: Nats) -> dict[str, Any]:
    return {
        "servers": list(settings.servers),
        "user": settings.user,
        "password": settings.password.get_secret_value() if settings.password else None,
        "token": settings.token.get_secret_value() if settings.token else None,
        "user_credentials": str(settings.credentials_file) if settings.credentials_file else None,
        "tls": _tls(settings),
        "connect_timeout": 2,
        "reconnect_time_wait": RECONNECT_S,
        "max_reconnect_attempts": -1,
        "ping_interval": PING_S,
        "pending_size": OUTBOUND_BYTES_MAX,
    }


def _tls(settings: Nats) -> ssl.SSLContext | None:
    """None where nothing asks for it. Raises ConfigError."""
    is_asked = any(url.startswith("tls:") for url in settings.servers)
    if not (is_asked or settings.ca_file or settings.cert_file):
        return None
    key = "nats.ca_file"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file and settings.key_file:
            key = "nats.cert_file"
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{key}: {error.strerror or error}") from None
    return context
