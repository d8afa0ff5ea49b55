"""Token: who may see what the admin listener serves. Constant time where secrets are compared.

Programs send `Authorization: Bearer ADMIN_TOKEN`. A person signs in once with a form; the browser
then keeps a cookie that proves it and does not hold the token:

    expires "." HMAC-SHA256(token, "agent-telemetry page " expires), hexadecimal

It is bound to the token, so a new token signs everybody out. Cookies are shared by all ports of a
host name: another server there could read it, and use it for as long as it is good, to read pages.
"""

from __future__ import annotations

import hashlib
import hmac
import time

COOKIE = "agent_telemetry"
GOOD_FOR_S = 7 * 24 * 3600


def is_token(given: str, token: str) -> bool:
    """Whether this is the admin token."""
    # A header may hold any bytes; aiohttp has decoded them so.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def ticket(token: str, now: float | None = None) -> str:
    """A cookie's value that is good for GOOD_FOR_S."""
    expires = str(int((time.time() if now is None else now) + GOOD_FOR_S))
    return f"{expires}.{_seal(token, expires)}"


def is_ticket(given: str, token: str, now: float | None = None) -> bool:
    """Whether this is a cookie's value as `ticket` made it, and still good."""
    expires, _, seal = given.partition(".")
    is_ours = is_token(seal, _seal(token, expires))
    if not is_ours or not expires.isascii() or not expires.isdigit():
        return False
    return int(expires) > (time.time() if now is None else now)


def _seal(token: str, expires: str) -> str:
    text = f"agent-telemetry page {expires}".encode("utf-8", "surrogateescape")
    return hmac.new(token.encode(), text, hashlib.sha256).hexdigest()
