"""Facts: what linking will want to know of a call, taken from its record.

Taken from the form that is stored (redacted, sanitised), before content is dropped where only
metadata may be kept. Pure, and total: a record of any shape gives facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from proxy.call import Json
from proxy.enrich.canonical import (
    VERSION,
    Called,
    Part,
    Result,
    Said,
    Typed,
    clean,
    plain,
)
from proxy.enrich.digests import Chain, Digests
from proxy.enrich.histories import Histories, History, read_history, setting_of
from proxy.enrich.results import comparable, is_failure
from proxy.injected import Injection
from proxy.record import TelemetryRecord
from proxy.turn import CalledTool, End, Facts, Link, ToolResult

ATOMS_MAX = 40  # of a history's end; what is further back is found by ids of tools
SEEN_MAX = 24  # ids of tools called in the history, the last ones
OPENING_MAX = 6
BEGINNINGS_MAX = 6
SUMMARY_CHARS = 60
HANDED_MAX = 12
HANDED_CHARS = (12, 50_000)  # a shorter text is no task for a sub-agent, a longer one is a file
OUTPUT_CHARS_MAX = 4096
RESULTS_MAX = 128

_RULE = re.compile(r"\n-{3,}\n")
_LIMIT = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_length", "incomplete"}
    | {"model_context_window_exceeded"}
)
_REFUSED = frozenset(
    {"content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist", "spii"}
    | {"prohibited_content", "image_safety", "guardrail_intervened", "error_toxic"}
    | {"model_armor", "jailbreak", "image_prohibited_content", "image_recitation"}
)
# The properties of answers that side calls ask for: Claude Code's title and topic, Gemini CLI's
# router and next speaker.
_SIDE_SCHEMAS: dict[frozenset[str], str] = {
    frozenset({"title"}): "title",
    frozenset({"isNewTopic", "title"}): "title",
    frozenset({"complexity_reasoning", "complexity_score"}): "router",
    frozenset({"reasoning", "model_choice"}): "router",
    frozenset({"reasoning", "next_speaker"}): "router",
}


def link_of(
    record: TelemetryRecord,
    digests: Digests,
    histories: Histories | None = None,
    names: Sequence[bytes | None] = (),
) -> Link:
    """The facts of one call, and the results of tools that its request brings.

    `names` identify the messages of the history; with them, and `histories`, what an earlier call
    has in common with this one is not read again.
    """
    history = read_history(record, digests, histories, names)
    chain = history.chain.copy()
    chain.finish()
    length = len(chain.kinds)
    seen = list(history.seen.values())[-SEEN_MAX:]
    brought = list(history.brought.values())[:RESULTS_MAX]
    facts = Facts(
        id=record.id,
        created_at=record.created_at,
        ended_at=record.created_at + timedelta(milliseconds=record.duration_ms),
        version=VERSION,
        **_said_of_itself(record, digests, histories),
        **_asked(record, history.last),
        **_answered(record, digests),
        kinds="".join(chain.kinds[-ATOMS_MAX:]),
        chain=tuple(chain.values[-ATOMS_MAX:]),
        request=chain.values[-1] if chain.values else None,
        beginnings=tuple(_shorter(history.last, chain, digests)),
        continuation=_continued(history.chain.copy(), record),
        heard=chain.last_answer,
        opening=tuple(_opening(history, chain, digests, record))[:OPENING_MAX],
        seen=tuple((length - 1 - at, id) for at, id in seen),
        results=tuple(_result(result, digests) for result in brought),
    )
    return Link(facts, tuple(_output(result) for result in brought))


def _said_of_itself(
    record: TelemetryRecord, digests: Digests, histories: Histories | None
) -> dict[str, Any]:
    capture = record.capture or {}
    names = tuple(sorted(_tool_names(record.request_params or {})))
    setting = setting_of if histories is None else histories.setting
    hints = capture.get("hints")
    said = hints if isinstance(hints, dict) else {}
    cap = (record.labels or {}).get("round-cap")
    params = record.request_params or {}
    previous = params.get("previous_response_id")
    response = capture.get("response_id")
    return {
        "project": _text(record.project_id),
        "session": _text(record.session_id),
        "turn": _text(capture.get("turn_label")),
        "agent": _text(said.get("agent_id")),
        "program": digests.of("program", record.client) if record.client else None,
        "setting": setting(digests, record.client or "", record.system_prompt, names),
        "round_cap": int(cap) if isinstance(cap, str) and cap.isdigit() and len(cap) < 7 else None,
        "is_partial": capture.get("context") == "partial",
        "previous": digests.of("response", previous) if isinstance(previous, str) else None,
        "response": digests.of("response", response) if isinstance(response, str) else None,
    }


def _tool_names(params: dict[str, Json]) -> Iterator[str]:
    tools = params.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            inner = tool.get("function")
            yield str(inner.get("name") if isinstance(inner, dict) else tool.get("name"))


def _asked(record: TelemetryRecord, last: Part | None) -> dict[str, Any]:
    params = record.request_params or {}
    hints = (record.capture or {}).get("hints")
    injections = last.injections if isinstance(last, Typed) else frozenset[Injection]()
    tools = params.get("tools") or params.get("toolConfig") or params.get("functions")
    is_compaction = isinstance(hints, dict) and hints.get("request_kind") == "compaction"
    side = None
    if is_compaction or Injection.SUMMARY_REQUEST in injections:
        side = "compaction"
    elif not tools:
        side = _side_schema(params)
        if side == "title" and Injection.TITLE_REQUEST not in injections:
            side = None  # programs ask for titles too; what the session's threads do will tell
    stops = params.get("stop")
    return {
        "side": side,
        "has_tools": bool(tools),
        "is_nudged": Injection.NUDGE in injections,
        "is_textual": isinstance(stops, list) and "Observation:" in stops,
    }


def _side_schema(params: dict[str, Json]) -> str | None:
    for schema in _schemas(params):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            return _SIDE_SCHEMAS.get(frozenset(properties))
    return None


_SCHEMA_PLACES = (
    ("output_config", "format", "schema"),  # Anthropic
    ("response_format", "json_schema", "schema"),  # OpenAI chat completions
    ("text", "format", "schema"),  # OpenAI responses
    ("generationConfig", "responseJsonSchema"),  # Gemini
    ("generationConfig", "responseSchema"),
    ("format",),  # Ollama
)


def _schemas(params: dict[str, Json]) -> Iterator[dict[str, Json]]:
    for place in _SCHEMA_PLACES:
        found: Json = params
        for name in place:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            yield found


def _answered(record: TelemetryRecord, digests: Digests) -> dict[str, Any]:
    calls = list(_calls(record))
    open_calls = [called for called, is_server in calls if not is_server]
    return {
        "end": _end(record, bool(open_calls), bool(calls)),
        "is_terse": not plain(record.response_text or ""),
        "said": digests.of_answer(record.response_text or "", open_calls),
        "calls": tuple(
            CalledTool(
                clean(called.name[:64]),
                digests.of_call(called),
                digests.of("tool", called.id) if called.id else None,
                is_server,
            )
            for called, is_server in calls
        ),
        "handed": tuple(_handed(open_calls, digests))[:HANDED_MAX],
    }


def _calls(record: TelemetryRecord) -> Iterator[tuple[Called, bool]]:
    for call in record.tool_calls or ():
        if isinstance(call, dict):
            id = call.get("id")
            called = Called(
                str(call.get("name")), call.get("arguments"), id if isinstance(id, str) else None
            )
            yield called, call.get("server") is True


def _end(record: TelemetryRecord, has_open: bool, has_calls: bool) -> End:
    if record.outcome == "client_disconnected":
        return End.CUT
    if record.outcome != "complete":
        return End.FAILED
    reason = (record.finish_reason or "").lower()
    if reason in _REFUSED:
        return End.REFUSED
    if reason in _LIMIT:
        return End.LIMIT
    if has_open:
        return End.TOOLS
    if (record.capture or {}).get("refusal") is True:
        return End.REFUSED
    is_empty = not has_calls and not plain(record.response_text or "")
    return End.EMPTY if is_empty else End.TEXT


def _continued(chain: Chain, record: TelemetryRecord) -> str | None:
    """The digest of the history with the answer: what the next request will begin with."""
    if record.outcome != "complete":
        return None
    before = len(chain.kinds)
    if record.response_text:
        chain.add(Said(record.response_text))
    for called, is_server in _calls(record):
        if not is_server:
            chain.add(called)
    chain.finish()
    has_grown = len(chain.kinds) > before and chain.kinds[-1] == "m"
    return chain.values[-1] if has_grown else None


def _shorter(last: Part | None, chain: Chain, digests: Digests) -> Iterator[str]:
    """The history as it was before texts were added to its last message, the longest first."""
    if not isinstance(last, Typed) or last.other or chain.kinds[-1:] != ["u"]:
        return
    before = chain.values[-2] if len(chain.values) > 1 else ""
    texts = [plain(text) for text in last.texts]
    for count in range(len(texts) - 1, max(0, len(texts) - 1 - BEGINNINGS_MAX), -1):
        yield digests.of(before, "u", "typed", *texts[:count])


def _opening(
    history: History, chain: Chain, digests: Digests, record: TelemetryRecord
) -> Iterator[str]:
    """What ties a thread to the call that it came of: the first typed message, text by text and
    whole, until the model has answered; of a compaction and what follows it the summary's end."""
    if history.summary:
        yield _summary(history.summary, digests)
    last, first = history.last, history.first
    if isinstance(last, Typed) and Injection.SUMMARY_REQUEST in last.injections:
        yield _summary(record.response_text or "", digests)
    if first is None or "m" in chain.kinds:
        return
    yield digests.of("task", plain(" ".join(first.texts)))
    if len(first.texts) > 1:
        yield from (digests.of("task", plain(text)) for text in first.texts)
    sections = [section for text in first.texts for section in _RULE.split(text)]
    if len(sections) > len(first.texts):  # a task between lines, with words about it around
        yield from (digests.of("task", plain(s.removeprefix("Task:"))) for s in sections)


def _summary(text: str, digests: Digests) -> str:
    """The end of a summary: clients put words of their own in front."""
    return digests.of("summary", plain(text)[-SUMMARY_CHARS:])


def _handed(calls: Iterable[Called], digests: Digests) -> Iterator[str]:
    """The texts that a call hands to its tool: one of them may be a sub-agent's task."""
    least, most = HANDED_CHARS
    for called in calls:
        arguments = called.arguments
        values = arguments.values() if isinstance(arguments, dict) else [arguments]
        for value in values:
            if isinstance(value, str) and least <= len(value) <= most:
                yield digests.of("task", plain(value))


def _result(result: Result, digests: Digests) -> ToolResult:
    is_error = is_failure(result.output, flag=result.is_error)
    return ToolResult(
        digests.of("tool", result.id) if result.id else None,
        _text(result.name and result.name[:64]),
        is_error,
        digests.of("error", comparable(result.output)) if is_error else None,
    )


def _output(result: Result) -> dict[str, Any]:
    output = clean(result.output)
    if len(output) > OUTPUT_CHARS_MAX:
        output = f"{output[:OUTPUT_CHARS_MAX]}… ({len(output) - OUTPUT_CHARS_MAX} more characters)"
    return {
        "id": _text(result.id),
        "name": _text(result.name),
        "is_error": is_failure(result.output, flag=result.is_error),
        "output": output,
    }


def without_content(link: Link) -> Link:
    """The link of a call of which only metadata may be kept."""
    return Link(link.facts, tuple(output | {"output": None} for output in link.outputs))


def _text(value: Json) -> str | None:
    return clean(value) if isinstance(value, str) and value else None
