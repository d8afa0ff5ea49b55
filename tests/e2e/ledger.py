"""Ledger against table: what a client saw, and what reached the provider, has its one row."""

import json

from tests.e2e.provider import Entry, Provider, text_of
from tests.e2e.stack import Stack, until_settled

CALLS = "FROM agent_telemetry WHERE record_type = 'llm_call'"


async def rows_of(stack: Stack, provider: Provider, ledger: list[Entry]) -> dict[str, list]:
    """The rows of these calls by session, once every one that must have a row has it."""
    names = {entry.name for entry in ledger}
    due = (provider.called & names) | {entry.name for entry in ledger if entry.terminal}
    known: set[str] = set()

    async def complete() -> bool:
        query = f"SELECT session_id {CALLS} AND session_id = ANY($1)"
        known.update(row["session_id"] for row in await stack.fetch(query, list(names - known)))
        return due <= known

    await stack.until_ready()
    await until_settled(complete, lambda: len(known), "every call has a row")
    found: dict[str, list] = {}
    for row in await stack.fetch(f"SELECT * {CALLS} AND session_id = ANY($1)", list(names)):
        found.setdefault(row["session_id"], []).append(row)
    return found


def check(provider: Provider, ledger: list[Entry], rows: dict[str, list]) -> tuple[int, int]:
    """Compare each call with its row. Returns how many clients saw to the end, and were cut."""
    assert all(len(found) == 1 for found in rows.values()), "double rows"
    seen = [entry for entry in ledger if entry.terminal]
    cut = [entry for entry in ledger if not entry.terminal and entry.name in provider.called]
    for entry in seen:
        _check_whole(entry, rows[entry.name][0])
    for entry in cut:
        _check_cut(entry, rows[entry.name][0])
    return len(seen), len(cut)


def _check_whole(entry: Entry, row) -> None:
    assert row["outcome"] == "complete", entry
    assert row["response_text"] == text_of(entry.name)
    assert [c["arguments"] for c in json.loads(row["tool_calls"])] == [{"call": entry.name}]
    assert str(row["id"]) == entry.row_id
    if entry.ended:
        assert json.loads(row["capture"])["response_sha256"] == entry.sha256


def _check_cut(entry: Entry, row) -> None:
    """A call that was in flight: what passed is kept, at least what the client received."""
    assert row["outcome"] in ("proxy_crashed", "complete")
    assert row["user_message"] == entry.name
    capture = json.loads(row["capture"])
    assert capture["response_bytes"] >= len(entry.body)
    if row["outcome"] == "proxy_crashed" and row["response_text"]:
        assert text_of(entry.name).startswith(row["response_text"])
