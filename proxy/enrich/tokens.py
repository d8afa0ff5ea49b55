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
from dataclasses import replace
from hashlib import blake2b

import orjson

from proxy.call import Json, ModelCall
from proxy.enrich import images
from proxy.enrich.tool_schema import as_typescript, written
from proxy.enrich.uncounted import uncounted
from proxy.enrich.vocabulary import encoding, encoding_name
from proxy.nouns import noun

PIECE_CHARS = 16_384  # at most 64 KiB; the tokenizer is superlinear on long runs of one character
TEXT_BYTES_MAX = 4 * 1024 * 1024  # of one text; half a second at worst
BYTES_PER_TOKEN = 4  # English text; only for what lies beyond the limit or breaks the tokenizer
CACHE_ENTRIES_MAX = 20_000


@noun(frozen=True, slots=True)
class Framing:
    """Tokens that a family of models spends around the text, and how its count compares to ours.

    A count is `factor` × o200k's. OpenAI's figures follow its cookbook "How to count tokens with
    tiktoken" and are exact for text; the others were fitted to the usage of recorded calls.
    """

    message: int = 4
    reply: int = 3  # the beginning of the answer, in the prompt
    tools: int = 0  # the instructions that any tool brings
    tools_factor: float = 1.0
    call: int = 4  # an only tool call of a message
    parallel: tuple[int, int] = (0, 4)  # several: for their wrapper, for each
    answer: int = 0
    factor: float = 1.0


FAMILIES: tuple[tuple[tuple[str, ...], Framing], ...] = (
    # Part of the model's name → framing; the first that fits.
    (("gpt-5.",), Framing(tools=89, call=7, parallel=(5, 12), answer=3)),
    (("gpt-5",), Framing(tools=89, call=7, parallel=(5, 12), answer=9)),
    (("claude-sonnet-5", "claude-opus-5"), Framing(4, 3, 480, 1.0, 38, (0, 38), 3, 1.45)),
    (("claude",), Framing(4, 3, 480, 1.0, 38, (0, 38), 3, 1.07)),
    (("gemini-1", "gemini-2.0"), Framing(0, 0, 0, 0.5, 0, (0, 0))),
    (("gemini", "gemma"), Framing(0, 0, 0, 2.0, 0, (0, 0))),
    (("mistral", "ministral", "codestral"), Framing(tools_factor=1.6, factor=1.05)),
    (("gpt-", "gpt4", "o1", "o3", "o4", "davinci"), Framing(tools=9, call=7, parallel=(5, 12))),
)
# Where the name tells nothing (a deployment, a fine-tune), the endpoint does.
BY_ENDPOINT = {"chat.completions": "gpt-4o", "responses": "gpt-4o", "messages": "claude"}
OTHER = Framing()

NAME_TOKENS = 1
SYSTEM_JOINED_TOKENS = 4  # OpenAI: tools join the system message that is there already
SCHEMA_TOKENS = 5  # OpenAI: around the schema of a structured answer
RESPONSES_TOOLS_TOKENS = 3  # Responses: in the place of the family's `tools`
RESPONSES_ANSWER_TOKENS = 1  # the end of a message counts there, not in chat completions

# Names in a message whose values are not text that the model reads.
_NOT_TEXT = frozenset(
    {"type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "toolUseId", "index"}
    | {"signature", "thoughtSignature", "thought_signature", "encrypted_content", "status"}
    | {"cache_control", "cachePoint", "mime_type", "mimeType", "media_type", "format", "detail"}
    | {"annotations", "logprobs", "file_id", "file_data", "fileData", "data", "object", "created"}
)
# Names whose value the model reads as JSON text.
_JSON_TEXT = frozenset({"arguments", "args", "input", "response", "json", "parameters"})


@noun(frozen=True, slots=True)
class Estimate:
    """Estimated tokens. `problems` says what was guessed, and what is left out."""

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

    def estimate(self, call: ModelCall, endpoint: str) -> Estimate:
        """Both sides of a call; `endpoint` is the name in the column of that name."""
        self._guessed_bytes = 0
        prompt = self.estimate_prompt(call, endpoint)
        completion = self.estimate_completion(call, endpoint)
        problems = []
        if guessed := self._guessed_bytes:
            problems.append(f"tokens: {guessed} bytes of text estimated from length")
        if missing := uncounted(call):
            problems.append(f"tokens: the estimate leaves out {', '.join(missing)}")
        return Estimate(prompt, completion, tuple(problems))

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

    def estimate_prompt(self, call: ModelCall, endpoint: str) -> int:
        """Tokens of the request: system, messages, tools, images, the answer's schema."""
        prompt, framing = call.prompt, framing_of(call.model, endpoint)
        total = framing.reply
        if prompt.system_prompt:
            total += framing.message + self.count(prompt.system_prompt, call.model)
        for message in prompt.chat_history:
            total += self._remembered(message, call.model, framing)
        params = prompt.request_params or {}
        if schema := _answer_schema(params):
            total += SCHEMA_TOKENS + self.count(_as_text(schema), call.model)
        total = round(total * framing.factor)
        if tools := _tools_of(params):
            if endpoint == "responses":
                framing = replace(framing, tools=RESPONSES_TOOLS_TOKENS)
            total += self._tools(tools, call, framing)
        return total

    def estimate_completion(self, call: ModelCall, endpoint: str) -> int:
        """Tokens of the answer: text, visible thoughts, tool calls; first choice and further."""
        answer, model = call.answer, call.model
        framing = framing_of(model, endpoint)
        texts = [answer.text, answer.thoughts]
        texts += [_text_of(choice) for choice in answer.choices]
        total = sum(self.count(text, model) for text in texts if text)
        own = [tool for tool in answer.tool_calls if not tool.is_server]
        for tool in own:
            arguments = tool.raw if tool.raw is not None else _as_text(tool.arguments)
            total += self.count(tool.name, model) + self.count(arguments, model)
        total = round(total * framing.factor) + _calls_frame(len(own), framing)
        if total:
            total += framing.answer
            total += RESPONSES_ANSWER_TOKENS if endpoint == "responses" else 0
        return total

    def _remembered(self, message: Json, model: str, framing: Framing) -> int:
        try:
            dumped = orjson.dumps(message)
        except TypeError:  # lone surrogates, integers over 64 bits, too deep
            return self._message(message, model, framing)
        prefix = f"{model} {framing.message} ".encode(errors="replace")
        key = blake2b(prefix + dumped, digest_size=16).digest()
        known = self._seen.get(key)
        if known is None:
            known = self._seen[key] = self._message(message, model, framing)
            if len(self._seen) > CACHE_ENTRIES_MAX:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        return known

    def _message(self, message: Json, model: str, framing: Framing) -> int:
        total = framing.message
        if isinstance(message, dict):
            total += NAME_TOKENS if "name" in message else 0
            total += _calls_frame(_calls_of(message), framing)
        for item in _readable(message):
            if isinstance(item, str):
                total += self.count(item, model)
            else:
                total += item.tokens(model)
        return total

    def _tools(self, tools: list[Json], call: ModelCall, framing: Framing) -> int:
        """OpenAI's models read TypeScript; of the others the JSON text is what can be counted."""
        is_openai = framing.parallel[0] > 0
        text = as_typescript(tools) if is_openai else _as_text(tools)
        total = framing.tools + round(framing.tools_factor * self._text(text, call.model))
        return total - (SYSTEM_JOINED_TOKENS if is_openai and call.prompt.system_prompt else 0)

    def _text(self, text: str, model: str) -> int:
        return self._remembered(text, model, _BARE)

    def _guess(self, text: str) -> int:
        length = len(text.encode("utf-8", "surrogatepass"))
        self._guessed_bytes += length
        return length // BYTES_PER_TOKEN


_BARE = Framing(message=0, reply=0)


def framing_of(model: str, endpoint: str) -> Framing:
    """The framing of a model's family; the endpoint's usual one where its name tells nothing."""
    if endpoint == "completions":  # a bare prompt, which nothing surrounds
        return _BARE
    for name in (model.lower(), BY_ENDPOINT.get(endpoint, "")):
        for parts, framing in FAMILIES:
            if name and any(_names(part, name) for part in parts):
                return framing
        if "/" in name:  # a router's name of a model of none of these families
            break
    return OTHER


def _names(part: str, name: str) -> bool:
    """Whether a family's part begins the name, or a word of it: `us.anthropic.claude-…`."""
    at = name.find(part)
    return at == 0 or (at > 0 and not name[at - 1].isalnum())


def _calls_frame(count: int, framing: Framing) -> int:
    if count > 1:
        return framing.parallel[0] + framing.parallel[1] * count
    return framing.call * count


def _calls_of(message: dict[str, Json]) -> int:
    """How many tool calls stand in a message, in OpenAI's, Responses' or Anthropic's shape."""
    calls, parts = message.get("tool_calls"), message.get("content")
    if isinstance(calls, list):
        return len(calls)
    if message.get("type") == "function_call":
        return 1
    found = parts if isinstance(parts, list) else ()
    return sum(isinstance(part, dict) and part.get("type") == "tool_use" for part in found)


def _tools_of(params: dict[str, Json]) -> list[Json]:
    """The tools of a request; Bedrock's Converse has them one level deeper."""
    config = params.get("toolConfig")
    tools = config.get("tools") if isinstance(config, dict) else params.get("tools")
    return tools if isinstance(tools, list) else []


def _answer_schema(params: dict[str, Json]) -> Json:
    """The schema of a structured answer: chat completions' `response_format`, Responses' `text`."""
    wrapped = params.get("response_format")
    holder = wrapped.get("json_schema") if isinstance(wrapped, dict) else None
    text = params.get("text")
    if holder is None and isinstance(text, dict):
        holder = text.get("format")
    return holder.get("schema") if isinstance(holder, dict) else None


@noun(frozen=True, slots=True)
class _Image:
    """An image part: where its bytes or its address stand."""

    source: str
    detail: str | None

    def tokens(self, model: str) -> int:
        size = images.size_of_base64(self.source) if self.source else None
        if "gemini" in model:
            return images.gemini_tokens(size)
        if "claude" in model:
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
    return value if isinstance(value, str) else written(value)


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
