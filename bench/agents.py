"""Replay recorded agents through a real gateway and say how well turns were understood.

    python -m bench.agents [--write docs/turns.md]

Two sources: what the frameworks of the laboratory sent (`tests/agents`), and recorded coding agents
where they are there. Each with what names sessions and turns, and again without. Starts `serve` on
free ports with a database of its own and a provider that answers each request as recorded, cut
streams and agents that hang up included. Prints what was compared, every miss, and the confusion
matrix of stop reasons.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp

from tests.agents import kept
from tests.e2e.stack import Stack, until
from tests.turns.recorded import (
    FOLDER,
    HAS_RECORDINGS,
    Comparison,
    Judged,
    JudgedTurn,
    Scenario,
    compare,
    confusion,
    endpoint_of,
    headers_of,
    scenarios,
)

IDLE_S = 3
REPLAY_ID = "x-replay-id"
ROWS = """
SELECT id, session_id, turn_id, round, capture -> 'link' ->> 'kind' AS kind
FROM agent_telemetry WHERE record_type = 'llm_call'
"""
TURNS = """
SELECT s.turn_id, s.stop_reason, s.rounds, s.tool_call_count,
    EXISTS (SELECT FROM agent_telemetry c WHERE c.turn_id = s.turn_id
        AND c.capture -> 'link' ->> 'kind' = 'sub_agent') AS is_sub_agent
FROM agent_telemetry s WHERE s.record_type = 'turn_summary'
"""
IS_SETTLED = """
SELECT count(*) = $COUNT AND NOT bool_or(is_pending OR due_at IS NOT NULL) AS done FROM agent_links
"""

BY_HAND = "<!-- Below: by hand; `make agents` keeps it. -->"
INTRODUCTION = """# How well turns are understood

Written by `make agents`. Requests of real agents, replayed through the gateway with scripted
answers; what is true of each turn follows from the script. "as labelled": every call names its
session; "without": nothing does, so that sessions, turns, rounds and endings come from the
histories alone. Every miss is listed.

What the wire does not tell is not asked for: over OpenAI's dialects the Vercel AI SDK sends the
text of an exception as if it were a result, so loops over errors are tried over Anthropic's; and
the call by which LangChain has a conversation summarized shows it as text, so that without a label
it stands alone.
"""


class Provider:
    """Answers with the recorded bytes of the request that a header names."""

    def __init__(self, recorded: Sequence[Scenario]) -> None:
        self._records = {r["id"]: r for s in recorded for r in s.records}
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(
                    line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:-2]
                )
                fields = {name.lower(): value for name, value in fields.items()}
                await reader.readexactly(int(fields.get("content-length", "0")))
                if not await self._answer(self._records[fields[REPLAY_ID]], reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.transport.abort()

    async def _answer(
        self,
        record: Mapping[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether the connection can be used again."""
        response = record["response"]
        body = b64decode(response["body_b64"] or "")
        is_whole = not (record["upstream_cut"] or record["client_closed_early"])
        kind = {k.lower(): v for k, v in response["headers"].items()}.get("content-type", "")
        writer.write(
            f"HTTP/1.1 {response['status']} -\r\nContent-Type: {kind}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        if body:
            writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        if is_whole:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        if record["client_closed_early"]:
            await reader.read()  # until the gateway hangs up, because the agent did
        return is_whole


async def send(
    session: aiohttp.ClientSession, url: str, record: Mapping[str, Any], *, is_bare: bool
) -> UUID:
    """One request as the agent sent it; returns the id of its row."""
    request = record["request"]
    skipped = ("host", "content-length", "accept-encoding", "connection")
    headers = {k: v for k, v in headers_of(record, is_bare=is_bare) if k not in skipped}
    expected = len(b64decode(record["response"]["body_b64"] or ""))
    async with session.post(
        f"{url}/{upstream_of(record)}{request['path']}",
        headers={**headers, REPLAY_ID: record["id"]},
        data=b64decode(request["body_b64"] or ""),
    ) as answer:
        received = 0
        try:
            async for piece in answer.content.iter_any():
                received += len(piece)
                if record["client_closed_early"] and received >= expected:
                    answer.close()
                    break
        except aiohttp.ClientError:
            assert record["upstream_cut"], record["id"]
        return UUID(answer.headers["x-agent-telemetry-id"])


def upstream_of(record: Mapping[str, Any]) -> str:
    dialect = endpoint_of(record).dialect
    assert dialect in ("openai", "anthropic", "gemini")
    return str(dialect)


async def measure(recorded: Sequence[Scenario], *, is_bare: bool) -> Comparison:
    """Replay recordings, wait for the last turn to end, and compare."""
    with tempfile.TemporaryDirectory() as directory:
        async with Provider(recorded) as provider:
            stack = Stack(Path(directory) / "data", provider.url, TURNS__IDLE_S=str(IDLE_S))
            async with stack, aiohttp.ClientSession() as session:
                await stack.until_ready()
                ids = {}
                for scenario in recorded:
                    for record in scenario.records:
                        ids[record["id"]] = await send(session, stack.url, record, is_bare=is_bare)
                return await compared(stack, recorded, ids)


async def compared(
    stack: Stack, recorded: Sequence[Scenario], ids: Mapping[str, UUID]
) -> Comparison:
    """Compare the rows with the truth; `ids` are the rows of the recordings."""

    async def is_settled() -> bool:
        query = IS_SETTLED.replace("$COUNT", str(len(ids)))
        return bool((await stack.fetch(query))[0]["done"])

    await until(is_settled, "all turns have ended", 120)
    rows = {row["id"]: row for row in await stack.fetch(ROWS)}
    calls = {
        record: Judged(
            rows[id]["session_id"], rows[id]["kind"], rows[id]["turn_id"], rows[id]["round"]
        )
        for record, id in ids.items()
    }
    turns = {
        row["turn_id"]: JudgedTurn(
            row["stop_reason"], row["rounds"], row["tool_call_count"], row["is_sub_agent"]
        )
        for row in await stack.fetch(TURNS)
    }
    return compare(recorded, calls, turns)


def report(title: str, result: Comparison) -> str:
    """What was compared, how turns ended, and every miss, as text."""
    lines = [f"## {title}", "", "```"]
    for what in sorted({what for what, _ in result.found}):
        right, wrong = result.found[what, True], result.found[what, False]
        lines.append(f"{what:<16}{right:>5} of {right + wrong:<5}{result.rate(what):8.2%}")
    lines += ["", *confusion(result), "", *(result.misses or ["no misses"]), "```", ""]
    return "\n".join(lines)


def sources(*, is_bare: bool) -> dict[str, Sequence[Scenario]]:
    """What there is to replay, by its title."""
    labels = "without any label" if is_bare else "as labelled"
    found: dict[str, Sequence[Scenario]] = {
        f"Laboratory of frameworks, {labels}": kept.recorded(is_bare=is_bare)
    }
    if HAS_RECORDINGS:
        headers = "without identifying headers" if is_bare else "with their own headers"
        found[f"Recorded coding agents, {headers}"] = scenarios()
    return found


def by_hand(page: Path) -> str:
    """The part of the page that was not written here."""
    written = page.read_text() if page.exists() else ""
    return "".join(written.partition(BY_HAND)[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="also write the figures into this file")
    arguments = parser.parse_args()
    text, misses = [INTRODUCTION], 0
    for is_bare in (False, True):
        for title, recorded in sources(is_bare=is_bare).items():
            size = f"{len(recorded)} scenarios, {sum(len(s.records) for s in recorded)} calls"
            result = asyncio.run(measure(recorded, is_bare=is_bare))
            text.append(report(f"{title} ({size})", result))
            print(text[-1])
            misses += len(result.misses)
    if not HAS_RECORDINGS:
        print(f"no recorded coding agents at {FOLDER}", file=sys.stderr)
    if arguments.write:
        arguments.write.write_text("\n".join([*text, by_hand(arguments.write)]))
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
