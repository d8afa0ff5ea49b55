"""Credentials: find a call's own credential again in text, known only by length and keyed hash.

The wire saw the credential in a header or the query and left `Secret`s, so that it never reaches
the disk. An agent may have put it into the body too. Tested are windows of a secret's length in
every run of visible ASCII, also percent-decoded, JSON-unescaped and base64-decoded:

- a run little longer than the secret: at every offset, whatever is glued to it;
- a longer one (minified JSON, a URL, an image): where the window begins and ends a token, so that
  the work stays near one hash per character at worst (0.8 µs each).

Not a search for secrets in general: that is `redact_rules`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from hashlib import blake2b

import re2

from proxy.exchange import Secret, Start

MARK = "[REDACTED:credential]"
LENGTH_MIN = 16  # shorter ones are placeholders such as `test`, and stay where they are
GLUED_CHARS_MAX = 256  # how much longer than the secret a run may be to be tested everywhere
DIGEST_BYTES = 16
RUN_CHARS_MAX = 256  # RE2 allows counts up to 1,000; a longer run is found by its beginning

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|\\u00([0-9A-Fa-f]{2})|\\([/nrtbf\"\\])")
_TOKEN_START = re.compile(r"(?<![A-Za-z0-9_\-])[A-Za-z0-9_\-]|(?<=\\[nrtbf])[A-Za-z0-9_\-]")
_TOKEN_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_NAMED_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")

Span = tuple[int, int]


class Credentials:
    """The credentials of one call; the same for all calls that an agent makes with one key."""

    def __init__(self, salt: str, secrets: tuple[Secret, ...]) -> None:
        self._digests: dict[int, set[bytes]] = {}
        for secret in secrets:
            if secret.length >= LENGTH_MIN:
                self._digests.setdefault(secret.length, set()).add(bytes.fromhex(secret.digest))
        self._keyed = blake2b(key=bytes.fromhex(salt), digest_size=DIGEST_BYTES)
        self._shortest = min(self._digests, default=0)
        self._run = re.compile(rf"(?<![!-~])[!-~]{{{self._shortest},}}")
        self._any_run = re2.compile(b"[!-~]{%d}" % min(self._shortest, RUN_CHARS_MAX))
        encoded = self._shortest * 4 // 3
        self._base64_run = re.compile(
            rf"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{{{encoded},}}={{0,2}}"
        )

    @classmethod
    def of(cls, start: Start) -> Credentials:
        return cls(start.salt, start.secrets)

    def scrub(self, text: str) -> tuple[str, int]:
        """The text with each credential replaced, and how many there were."""
        if not self._digests or len(text) < self._shortest or not self._has_run(text):
            return text, 0
        kept: list[str] = []
        count = end = 0
        for span in self._merged(text):
            kept += (text[end : span[0]], MARK)
            count, end = count + 1, span[1]
        return ("".join((*kept, text[end:])), count) if count else (text, 0)

    def _has_run(self, text: str) -> bool:
        """Whether any run is long enough. RE2 tells that at a tenth of the cost."""
        return self._any_run.search(text.encode("utf-8", "surrogatepass")) is not None

    def _merged(self, text: str) -> Iterator[Span]:
        """The spans that hold a credential, in order and without overlap."""
        open_span: Span | None = None
        for span in sorted({span for run in self._run.finditer(text) for span in self._in(run)}):
            if open_span is None:
                open_span = span
            elif span[0] < open_span[1]:
                open_span = open_span[0], max(open_span[1], span[1])
            else:
                yield open_span
                open_span = span
        if open_span is not None:
            yield open_span

    def _in(self, found: re.Match[str]) -> Iterator[Span]:
        run, base = found.group(), found.start()
        for start, end in self._windows(run):
            yield base + start, base + end
        if "%" in run or "\\" in run:
            plain, offsets = _unescaped(run)
            for start, end in self._windows(plain):
                yield base + offsets[start], base + offsets[end]
        for encoded in self._base64_run.finditer(run):
            if self._is_inside_base64(encoded.group()):
                yield base + encoded.start(), base + encoded.end()

    def _windows(self, run: str) -> Iterator[Span]:
        for length, digests in self._digests.items():
            for start in _starts(run, length):
                if self._digest(run[start : start + length]) in digests:
                    yield start, start + length

    def _is_inside_base64(self, encoded: str) -> bool:
        """The text of a Basic header, or a configuration file that was sent encoded."""
        standard = encoded.rstrip("=").translate(_URL_SAFE_TO_STANDARD)
        whole = len(standard) // 4 * 4
        tail = standard[whole:] if len(standard) - whole > 1 else ""
        data = base64.b64decode(standard[:whole] + tail + "=" * (-len(tail) % 4))
        text = data.decode("iso-8859-1")
        return any(True for run in self._run.finditer(text) for _ in self._windows(run.group()))

    def _digest(self, window: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(window.encode("iso-8859-1", "replace"))
        return keyed.digest()


def _starts(run: str, length: int) -> Iterator[int]:
    surplus = len(run) - length
    if surplus <= GLUED_CHARS_MAX:
        yield from range(surplus + 1)
        return
    for found in _TOKEN_START.finditer(run):
        start = found.start()
        if start > surplus:
            return
        if start == surplus or run[start + length] not in _TOKEN_CHARS:
            yield start


def _unescaped(run: str) -> tuple[str, list[int]]:
    """The run without percent and JSON escapes, and where each of its characters came from."""
    plain: list[str] = []
    offsets: list[int] = []
    end = 0
    for found in _ESCAPE.finditer(run):
        plain += run[end : found.start()]
        offsets += range(end, found.start())
        percent, unicode, named = found.groups()
        code = percent or unicode
        plain.append(chr(int(code, 16)) if code else _NAMED_ESCAPES.get(named, named))
        offsets.append(found.start())
        end = found.end()
    plain += run[end:]
    offsets += range(end, len(run) + 1)
    return "".join(plain), offsets
