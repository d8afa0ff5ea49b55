"""Hostile: five thousand strings that try to forge a line or to drive a terminal."""

import random

_PARTS = (
    *("\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\t", "\0", "\x7f"),
    *("\x1b[2J", "\x1b[31m", "\x1b]8;;http://evil.test\x1b\\link", "\x1b]52;c;ZXZpbA==\x07"),
    *("\x1b]0;title\x07", "\x9b2J", "\x9d52;c;eA==\x9c", "\x90q", "\x1bc", "\b\b\b"),
    *("\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\ufeff", "\ud800", "\udc9b", "\U000e0041"),
    *('"}', '{"level":"error","event":"forged"}', '","level":"error', "\\u000a", "\\n", "%0d%0a"),
    *("2026-01-01 12:00:00 error: forged", "'; DROP TABLE agent_telemetry;--", "%s%d%n", "{0}"),
    *("\\copy agent_telemetry to program 'id'", "${jndi:ldap://x}", "<script>", "a" * 300, "é😀"),
)  # fmt: skip


def strings(number: int = 5_000) -> list[str]:
    rng = random.Random(1)
    drawn = ("".join(rng.choices(_PARTS, k=rng.randint(1, 5))) for _ in range(number))
    return [f"x{text}x" for text in drawn]


def unsafe_in(text: str) -> set[str]:
    """The characters of one printed line that could forge another or drive a terminal."""
    controls = {chr(code) for code in (*range(32), *range(0x7F, 0xA0))}
    return set(text) & (
        controls | set("\u2028\u2029\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff")
    )
