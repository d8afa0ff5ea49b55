"""Results of tools: whether one failed, and whether two failed alike.

Most dialects have no flag for it, so a failure is also told by the shape of its text. The shapes
are data, as seen from Claude Code, Codex, Gemini CLI, Pydantic AI, LangChain and the
OpenAI Agents SDK. Pure.
"""

from __future__ import annotations

import re

_ERROR = re.compile(
    r"""\s*(?:
        error\b | an\ error\ (?:occurred|was) | <error> | tool\ (?:call|execution)\ (?:failed|error)
        | failed\ to\ | fatal:\ | traceback\ \(most\ recent | exception\b | <tool_use_error>
        | unsupported\ call: | exit\ code:?\ [1-9] | command\ failed | permission\ denied
        | [\w.]*(?:Error|Exception):\  | \{\s*"error"\s*: | \{"detail"\s*:\s*"error
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_SHELL = re.compile(r"(?:Process exited with code|Exit Code:) (-?\d+)")  # Codex, Gemini CLI
_RETRY = "Fix the errors and try again."  # Pydantic AI
_HEAD_CHARS = 2000

_CHANGING = re.compile(
    r"""Chunk\ ID:\ \S+ | Wall\ time:\ .* | Process\ Group\ PGID:\ \d+
        | \b0x[0-9a-f]+\b | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b
        | \b(?=[0-9a-f]*\d)[0-9a-f]{6,}\b | \b\d{4,}\b | \b\d+\.\d+\b | \d{1,2}:\d{2}:\d{2}
    """,
    re.VERBOSE,
)


def is_failure(output: str, *, flag: bool | None) -> bool:
    """Whether a tool failed: as the client says, else as its output looks."""
    if flag is not None:
        return flag
    head = output[:_HEAD_CHARS]
    shell = _SHELL.search(head)
    if shell:
        return int(shell[1]) != 0
    return _ERROR.match(head) is not None or output.rstrip().endswith(_RETRY)


def comparable(output: str) -> str:
    """The text of a failure without what changes at each call: ids, times, numbers of processes."""
    return " ".join(_CHANGING.sub("", output[:_HEAD_CHARS]).split())
