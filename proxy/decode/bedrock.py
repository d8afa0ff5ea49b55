"""Amazon Bedrock: Converse, and `invoke` with the bodies of the model families behind it.

Converse has one shape for all models. `invoke` passes the family's own body through, streamed as
event-stream messages that carry it in base64: Anthropic's are read as Messages, Nova's as
Converse, OpenAI-like ones as Chat Completions or, where their choices hold bare text, Completions,
and of the older families what is plain to see.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator

from proxy.call import Json, Prompt, Usage
from proxy.decode import anthropic, openai_chat, openai_completions
from proxy.decode.accumulate import Growing
from proxy.decode.failure import error_text
from proxy.decode.framing import Event
from proxy.decode.jsonvalue import (
    BROKEN,
    at,
    elements,
    first_count,
    members,
    read_json,
    string,
    whole,
    word,
)
from proxy.decode.problems import Problems
from proxy.decode.prompts import (
    joined,
    last_user_text,
    messages_of,
    text_parts,
    user_message,
    without,
)
from proxy.decode.usage import known_sum, usage_of

# Bodies of older families: where text, finish reason and counts stand in a plain answer or event.
_TEXT_PLACES: tuple[tuple[str | int, ...], ...] = (
    ("results", 0, "outputText"),  # Titan
    ("outputText",),
    ("generation",),  # Llama
    ("generations", 0, "text"),  # Cohere Command
    ("completion",),  # Claude before Messages
    ("completions", 0, "data", "text"),  # Jurassic
    ("outputs", 0, "text"),  # Mistral before chat
    ("text",),
)
_FINISH_PLACES: tuple[tuple[str | int, ...], ...] = (
    ("results", 0, "completionReason"),
    ("completionReason",),
    ("stop_reason",),
    ("generations", 0, "finish_reason"),
    ("completions", 0, "finishReason", "reason"),
    ("outputs", 0, "stop_reason"),
    ("finish_reason",),
)
_PROMPT_NAMES = ("prompt", "inputText")
_METRICS = "amazon-bedrock-invocationMetrics"


def read_converse_prompt(body: dict[str, Json]) -> Prompt:
    """The request of Converse. Model and streaming are said by the path alone."""
    messages = messages_of(body)
    return Prompt(
        system_prompt=joined(text_parts(body.get("system"))),
        chat_history=tuple(messages),
        user_message=last_user_text(messages, _typed),
        request_params=without(body, "messages", "system"),
    )


def _typed(message: dict[str, Json]) -> list[str] | None:
    if message.get("role") != "user":
        return None
    content = message.get("content")
    texts = text_parts(content)
    is_result = any(at(block, "toolResult") is not None for block in elements(content))
    return None if is_result and not texts else texts


def read_invoke_prompt(body: dict[str, Json]) -> Prompt:
    """The request of `invoke`, with messages or a bare prompt."""
    if "messages" in body:
        if "anthropic_version" in body:
            return anthropic.read_prompt(body)
        if "system" in body or "inferenceConfig" in body or "schemaVersion" in body:
            return read_converse_prompt(body)
        return openai_chat.read_prompt(body)
    name = next((name for name in _PROMPT_NAMES if name in body), None)
    prompt = body.get(name) if name else None
    return Prompt(
        chat_history=() if prompt is None else (user_message(prompt),),
        user_message=word(prompt),
        request_params=without(body, *_PROMPT_NAMES),
    )


def read_converse_answer(events: Iterable[Event], answer: Growing) -> None:
    """An answer of Converse, whole or as events."""
    open_blocks: set[int] = set()
    for event in events:
        answer.reach(event.end)
        if _read_exception(event, answer):
            continue
        # Converse names its events in a header, Nova's own stream by their only member.
        value = members(event.value)
        wrapped = next((name for name in _EVENTS if members(value.get(name))), None)
        kind = wrapped or event.name
        _read_event(kind, members(value.get(kind)) if wrapped else value, open_blocks, answer)
    if answer.finish_reason() and not answer.is_plain:
        answer.is_terminated = True


_EVENTS = (
    *("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop"),
    *("messageStop", "metadata"),
)


def _read_event(kind: str, value: dict[str, Json], open_blocks: set[int], answer: Growing) -> None:
    index = whole(value.get("contentBlockIndex")) or 0
    if kind == "contentBlockStart":
        open_blocks.add(index)
        _read_block(members(value.get("start")), index, answer)
    elif kind == "contentBlockDelta":
        open_blocks.add(index)
        _read_block(members(value.get("delta")), index, answer)
    elif kind == "contentBlockStop":
        open_blocks.discard(index)
        answer.has_finished_item = not open_blocks
    else:  # messageStop, metadata, or a plain answer with all of it
        for number, block in enumerate(elements(at(value, "output", "message", "content"))):
            _read_block(members(block), number, answer)
        answer.finish(word(value.get("stopReason")))
        if members(value.get("usage")):
            answer.usage = _usage(value.get("usage"))


def _read_block(block: dict[str, Json], index: int, answer: Growing) -> None:
    """A content block or a delta of one: they name the same members."""
    answer.say(string(block.get("text")))
    for cited in elements(at(block, "citationsContent", "content")):
        answer.say(string(at(cited, "text")))
    reasoning = members(block.get("reasoningContent"))
    answer.think(string(reasoning.get("text")), index)
    answer.think(string(at(reasoning, "reasoningText", "text")), index)
    if at(block, "image", "source") is not None:
        answer.show({"image": block.get("image")})
    if isinstance(block.get("toolUse"), dict):
        use = members(block.get("toolUse"))
        call = answer.call(index)
        call.id = call.id or word(use.get("toolUseId"))
        call.name = call.name or string(use.get("name"))
        call.is_server = call.is_server or use.get("type") == "server_tool_use"
        if isinstance(use.get("input"), str):
            call.pieces.append(string(use.get("input")))
        elif use.get("input") is not None:
            call.value = use.get("input")


def _read_exception(event: Event, answer: Growing) -> bool:
    if not event.name.startswith("exception:"):
        return False
    answer.fail(error_text(event.value) or event.name.removeprefix("exception:"))
    return True


def _usage(raw: Json) -> Usage:
    usage = members(raw)
    read, written = (
        first_count(usage, f"cache{kind}InputTokens", f"cache{kind}InputTokenCount")
        for kind in ("Read", "Write")
    )
    return usage_of(
        raw,
        known_sum(whole(usage.get("inputTokens")), read, written),
        whole(usage.get("outputTokens")),
        whole(usage.get("totalTokens")),
        cached=read,
        cache_write=written,
    )


def read_invoke_answer(events: Iterable[Event], answer: Growing) -> None:
    """An answer of `invoke`, whole or as events, by the shape of its first document."""
    documents = list(_unwrapped(events, answer))
    first = members(documents[0].value) if documents else {}
    kind = string(first.get("type"))
    if kind.startswith(("message", "content_block")):
        anthropic.read_answer(documents, answer)
    elif any(name in first for name in (*_EVENTS, "output")):
        read_converse_answer(documents, answer)
    elif elements(first.get("choices")):
        has_bare_text = at(first, "choices", 0, "text") is not None
        dialect = openai_completions if has_bare_text else openai_chat
        dialect.read_answer(documents, answer)
    else:
        _read_older_family(documents, answer)


def _unwrapped(events: Iterable[Event], answer: Growing) -> Iterator[Event]:
    """The family's own documents, taken out of the `chunk` messages of a stream."""
    for event in events:
        if event.name == "":
            yield event
        elif not _read_exception(event, answer):
            value = _document(string(at(event.value, "bytes")), answer.problems)
            if value is not None:
                yield Event("", value, event.end)


def _document(encoded: str, problems: Problems) -> Json:
    try:
        data = b64decode(encoded, validate=True)
    except (Base64Error, ValueError):
        problems.add("event is not valid base64")
        return None
    value = read_json(data, problems, "event")
    if value is BROKEN:
        problems.add("event is not valid JSON")
        return None
    return value


def _read_older_family(documents: list[Event], answer: Growing) -> None:
    for event in documents:
        answer.reach(event.end)
        text = next((t for place in _TEXT_PLACES if (t := word(at(event.value, *place)))), "")
        answer.say(text)
        reason = next((r for p in _FINISH_PLACES if (r := word(at(event.value, *p)))), None)
        answer.finish(reason)
        answer.is_terminated = answer.is_terminated or reason is not None
        metrics = members(at(event.value, _METRICS))
        counts = metrics or members(event.value)
        prompt = first_count(counts, "inputTokenCount", "prompt_token_count", "inputTextTokenCount")
        completion = first_count(counts, "outputTokenCount", "generation_token_count")
        if completion is None:
            completion = whole(at(event.value, "results", 0, "tokenCount"))
        if prompt is not None and completion is not None:
            answer.usage = usage_of(metrics or None, prompt, completion)
