"""Subjects: what a message is, told by its address.

    PREFIX.v1.call.PROJECT            a captured call
    PREFIX.v1.call.PROJECT.ID         the same; its bytes lie in the object store under ID
    PREFIX.v1.part.PROJECT[.ID]       a call that was cut from a WebSocket: no captured call of
                                      its own

A recorder asks for the versions it knows. Messages of a later version stay in the stream, in
nobody's way, until a recorder comes that knows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote
from uuid import UUID

VERSION = 1
KNOWN = (1,)  # versions that are read
CALL, PART = "call", "part"
_TOKEN_CHARS_MAX = 160
_NOBODY = "_"


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects under one prefix."""

    prefix: str

    @property
    def everything(self) -> str:
        return f"{self.prefix}.>"

    def of_version(self, version: int) -> str:
        return f"{self.prefix}.v{version}.>"

    def message(self, project: str | None, *, is_part: bool, large: UUID | None = None) -> str:
        """Where a message of this program is sent."""
        kind = PART if is_part else CALL
        subject = f"{self.prefix}.v{VERSION}.{kind}.{token(project)}"
        return f"{subject}.{large}" if large else subject

    def of_object(self, id: UUID) -> str:
        """The messages that name this object, of any version, kind and project."""
        return f"{self.prefix}.*.*.*.{id}"

    def kind(self, subject: str) -> tuple[str, str]:
        """Version and kind in a subject, `v1` and `call`; of later versions the kind may be new."""
        version, _, rest = subject.removeprefix(f"{self.prefix}.").partition(".")
        return version, rest.partition(".")[0]


def token(project: str | None) -> str:
    """A project as one token of a subject. Different projects give different tokens."""
    if not project:
        return _NOBODY
    escaped = quote(project, safe="", errors="surrogatepass").replace(".", "%2E")
    if escaped == _NOBODY:
        return "%5F"
    if len(escaped) <= _TOKEN_CHARS_MAX:
        return escaped
    digest = sha256(project.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{escaped[:_TOKEN_CHARS_MAX]}%{digest}"
