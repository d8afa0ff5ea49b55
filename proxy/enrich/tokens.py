"""Tokens: an estimate of a call's tokens where the provider reported none.

For OpenAI's models the count follows OpenAI's own rules and vocabulary; for all other providers,
whose vocabularies are not public, it is the o200k count of everything the model reads or writes,
times a factor measured on recorded calls (`bench/token_accuracy.py`). Hidden reasoning cannot be
seen and is not in it. A row says `usage_source = tokenizer`, never more.

Total: any JSON gives a number. Text beyond TEXT_BYTES_MAX is estimated from its length.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from proxy.call import Json, ModelCall
from proxy.enrich import images
from proxy.enrich.tool_schema import as_typescript
from proxy.enrich.vocabulary import encoding, encoding_name

PIECE_CHARS = 16_384  # at most 64 KiB; the tokenizer is superlinear on long runs of one character
TEXT_BYTES_MAX = 4 * 1024 * 1024  # of one text; half a second at worst
BYTES_PER_TOKEN = 4  # English text; only for what lies beyond the limit or breaks the tokenizer
CACHE_ENTRIES_MAX = 20_000

# Framing, from OpenAI's cookbook "How to count tokens with tiktoken" and the calls it was held
# against: each message 3 and its role 1, a name 1 more, and 3 for the answer's beginning.
MESSAGE_TOKENS = 4
NAME_TOKENS = 1
REPLY_TOKENS = 3
TOOLS_TOKENS = 9
TOOLS_IN_SYSTEM_TOKENS = 5  # they join a system message that is there already
SCHEMA_TOKENS = 5
CALL_TOKENS = 7  # an only tool call of a message
PARALLEL_TOKENS = (5, 12)  # several: for their wrapper, for each

# Models that read instructions of OpenAI's with any tool, and frame each answer:
# prefix → (with tools, per answer), the first that fits.
_REASONING_FRAMES = (("gpt-5.", (80, 3)), ("gpt-5", (80, 9)))

# Anthropic's docs, "Tool use": the system prompt that tools add. Newer models than listed: same.
ANTHROPIC_TOOLS_TOKENS = 346

# Tokens by each provider's count for one by o200k: prompt, completion.
FACTORS: dict[str, tuple[float, float]] = {}

# Names in a message whose values are not text that the model reads.
_NOT_TEXT = frozenset(
    {"type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "toolUseId", "index"}
    | {"signature", "thoughtSignature", "thought_signature", "encrypted_content", "status"}
    | {"cache_control", "cachePoint", "mime_type", "mimeType", "media_type", "format", "detail"}
    | {"annotations", "logprobs", "file_id", "file_data", "fileData", "data", "object", "created"}
)
# Names whose value the model reads as JSON text.
_JSON_TEXT = frozenset({"arguments", "args", "input", "response", "json", "parameters"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated tokens. `problems` says what was not counted but guessed."""

    prompt_tokens: int
    completion_tokens: int
    problems: tuple[str, ...] = ()

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class TokenCounter:
    """Counts, and remembers what it counted: agents send the same history in each round.

    Not safe for use by several threads at once.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._guessed_bytes = 0

    def estimate(self, call: ModelCall, dialect: str) -> Estimate:
        """Both sides of a call; `dialect` is the endpoint's."""
        self._guessed_bytes = 0
        prompt = self.estimate_prompt(call, dialect)
        completion = self.estimate_completion(call, dialect)
        guessed = self._guessed_bytes
        problems = (f"tokens: {guessed} bytes of text estimated from length",) if guessed else ()
        return Estimate(prompt, completion, problems)

    def count(self, text: str, model: str) -> int:
        """Tokens of a text in the encoding of this model. Special tokens count as plain text."""
        name = encoding_name(model)
        total = characters = 0
        for piece in _pieces(text):
            if characters >= TEXT_BYTES_MAX:
                return total + self._guess(text[characters:])
            characters += len(piece)
            try:
                total += len(encoding(name).encode(piece, disallowed_special=()))
            except BaseException as panic:  # Rust's panic is no Exception
                if type(panic).__name__ != "PanicException":
                    raise
                total += self._guess(piece)
        return total

    def estimate_prompt(self, call: ModelCall, dialect: str) -> int:
        """Tokens of the request: system, messages, tools, images."""
        prompt = call.prompt
        total = REPLY_TOKENS
        if prompt.system_prompt:
            total += MESSAGE_TOKENS + self.count(prompt.system_prompt, call.model)
        for message in prompt.chat_history:
            total += self._cached(message, call.model, dialect)
        params = prompt.request_params or {}
        if tools := params.get("tools"):
            total += self._tools(tools, call.model, dialect, bool(prompt.system_prompt))
        if schema := _answer_schema(params):
            total += SCHEMA_TOKENS + self.count(_as_text(schema), call.model)
        return round(total * FACTORS.get(dialect, (1.0, 1.0))[0])

    def estimate_completion(self, call: ModelCall, dialect: str) -> int:
        """Tokens of the answer: text, visible thoughts, tool calls; first choice and further."""
        answer, model = call.answer, call.model
        texts = [answer.text, answer.thoughts]
        texts += [_text_of(choice) for choice in answer.choices]
        total = sum(self.count(text, model) for text in texts if text)
        own = [tool for tool in answer.tool_calls if not tool.is_server]
        for tool in own:
            arguments = tool.raw if tool.raw is not None else _as_text(tool.arguments)
            total += self.count(tool.name, model) + self.count(arguments, model)
        total += _calls_frame(len(own))
        if dialect == "openai":
            total += _reasoning_frame(model)[1]
        return round(total * FACTORS.get(dialect, (1.0, 1.0))[1])

    def _cached(self, message: Json, model: str, dialect: str) -> int:
        try:
            dumped = orjson.dumps(message)
        except TypeError:  # lone surrogates, integers over 64 bits, too deep
            return self._message(message, model, dialect)
        key = blake2b(f"{dialect} {model} ".encode(errors="replace") + dumped, digest_size=16)
        known = self._seen.get(key.digest())
        if known is None:
            known = self._seen[key.digest()] = self._message(message, model, dialect)
            if len(self._seen) > CACHE_ENTRIES_MAX:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key.digest())
        return known

    def _message(self, message: Json, model: str, dialect: str) -> int:
        total = MESSAGE_TOKENS
        if isinstance(message, dict) and "name" in message:
            total += NAME_TOKENS
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        total += _calls_frame(len(calls) if isinstance(calls, list) else 0)
        for item in _readable(message):
            if isinstance(item, str):
                total += self.count(item, model)
            else:
                total += item.tokens(model, dialect)
        return total

    def _tools(self, tools: Json, model: str, dialect: str, has_system: bool) -> int:
        if not isinstance(tools, list):
            return 0
        if dialect == "openai":
            framing = TOOLS_IN_SYSTEM_TOKENS if has_system else TOOLS_TOKENS
            framing += _reasoning_frame(model)[0]
            return framing + self._cached(as_typescript(tools), model, dialect)
        total = sum(self._cached(_as_text(tool), model, dialect) for tool in tools)
        return total + (ANTHROPIC_TOOLS_TOKENS if dialect == "anthropic" else 0)

    def _guess(self, text: str) -> int:
        length = len(text.encode("utf-8", "surrogatepass"))
        self._guessed_bytes += length
        return length // BYTES_PER_TOKEN


def _calls_frame(count: int) -> int:
    if count > 1:
        return PARALLEL_TOKENS[0] + PARALLEL_TOKENS[1] * count
    return CALL_TOKENS * count


def _reasoning_frame(model: str) -> tuple[int, int]:
    return next((frame for prefix, frame in _REASONING_FRAMES if model.startswith(prefix)), (0, 0))


def _answer_schema(params: dict[str, Json]) -> Json:
    """The schema of a structured answer: chat completions' `response_format`, Responses' `text`."""
    wrapped = params.get("response_format")
    holder = wrapped.get("json_schema") if isinstance(wrapped, dict) else None
    text = params.get("text")
    if holder is None and isinstance(text, dict):
        holder = text.get("format")
    return holder.get("schema") if isinstance(holder, dict) else None


@dataclass(frozen=True, slots=True)
class _Image:
    """An image part: where its bytes or its address stand."""

    source: str
    detail: str | None

    def tokens(self, model: str, dialect: str) -> int:
        size = images.size_of_base64(self.source) if self.source else None
        if dialect == "gemini":
            return images.gemini_tokens(size)
        if dialect in ("anthropic", "bedrock"):
            return images.anthropic_tokens(size)
        return images.openai_tokens(model, size, self.detail)


def _readable(value: Json) -> Iterator[str | _Image]:
    """What the model reads of a message, in any provider's shape. Deep nesting ends in JSON."""
    pending: list[Json] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            pending += reversed(item)
        elif isinstance(item, dict):
            image = _image(item)
            if image is not None:
                yield image
                continue
            for name, inner in reversed(item.items()):
                if name in _JSON_TEXT and isinstance(inner, (dict, list)):
                    pending.append(_as_text(inner))
                elif name not in _NOT_TEXT:
                    pending.append(inner)


def _image(part: dict[str, Json]) -> _Image | None:
    """The image in a part of OpenAI's, Anthropic's, Gemini's or Bedrock's shape."""
    for name in ("image_url", "source", "inlineData", "inline_data", "image", "fileData"):
        inner = part.get(name)
        if isinstance(inner, str):
            inner = {"url": inner}
        if isinstance(inner, dict) and _is_image(part, inner, name):
            detail = inner.get("detail", part.get("detail"))
            return _Image(_source(inner), detail if isinstance(detail, str) else None)
    return None


def _is_image(part: dict[str, Json], inner: dict[str, Json], name: str) -> bool:
    if name in ("inlineData", "inline_data", "fileData"):
        return str(inner.get("mimeType", inner.get("mime_type", ""))).startswith("image/")
    return name in ("image_url", "image") or part.get("type") == "image"


def _source(inner: dict[str, Json]) -> str:
    nested = inner.get("source")
    holder = nested if isinstance(nested, dict) else inner
    for name in ("data", "url", "bytes"):
        if isinstance(found := holder.get(name), str):
            return found
    return ""


def _text_of(choice: Json) -> str | None:
    text = choice.get("text") if isinstance(choice, dict) else None
    return text if isinstance(text, str) else None


def _as_text(value: Json) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # lone surrogates, integers over 64 bits, too deep
        pass
    try:
        return repr(value)
    except RecursionError:
        return ""


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most PIECE_CHARS, cut before a word where there is one."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = start + PIECE_CHARS
        space = text.rfind(" ", start + PIECE_CHARS // 2, end)
        end = space if space > 0 else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
