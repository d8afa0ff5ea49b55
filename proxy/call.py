"""ModelCall: what an exchange means, read out of its bytes by `decode`.

Everything is in the provider's own words; nothing is redacted, counted or linked yet. A decoder
never raises for what other people sent: what it could not read is said in `problems`.
"""

from __future__ import annotations

from proxy.nouns import noun

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A JSON value. Strings may hold NUL and lone surrogates; numbers may be of any size."""


@noun(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that the model asked for.

    `arguments` is parsed where the text is valid JSON, else the text itself; none or `""` is `{}`.
    `raw` keeps the argument text where parsing changes it (key order, duplicates, numbers).
    `is_server` marks tools that the provider runs; shell, apply_patch, computer are the client's.
    """

    id: str | None
    name: str
    arguments: Json
    raw: str | None = None
    is_server: bool = False

    def as_json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"id": self.id, "name": self.name, "arguments": self.arguments}
        if self.raw is not None:
            found["raw"] = self.raw
        if self.is_server:
            found["server"] = True
        return found


@noun(frozen=True, slots=True)
class Usage:
    """Token counts as the provider reported them.

    `prompt_tokens` includes cache reads and writes in every dialect; `completion_tokens` includes
    reasoning. `raw` is the provider's own object. `is_final` is False where a stream ended before
    its last usage report.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: Json = None
    is_final: bool = True


@noun(frozen=True, slots=True)
class Prompt:
    """The request side of a call."""

    model: str | None = None
    system_prompt: str = ""
    chat_history: tuple[Json, ...] = ()
    user_message: str | None = None
    request_params: dict[str, Json] | None = None  # the body without messages and system
    is_stream: bool = False  # a streamed answer was asked for
    is_partial_context: bool = False  # the wire holds only what is new (previous_response_id …)
    session_hint: str | None = None  # what the body itself says about its conversation
    labels: tuple[tuple[str, str], ...] = ()  # user, safety_identifier: persons, not sessions
    is_truncated: bool = False  # the body was longer than is kept
    problems: tuple[str, ...] = ()


@noun(frozen=True, slots=True)
class Answer:
    """The answer side of a call. All empty where no answer was recorded."""

    model: str | None = None
    text: str | None = None
    thoughts: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    is_refusal: bool = False  # the model said that it would not, in a member made for that
    choices: tuple[Json, ...] = ()  # further choices: {"index", "text", "finish_reason", …}
    media: tuple[Json, ...] = ()  # generated images, audio …: the parts in the provider's own shape
    response_id: str | None = None  # the provider's id of the answer object
    is_stream: bool = False  # the answer came as a stream (SSE, NDJSON, event stream, JSON array)
    is_terminated: bool = False  # the dialect's terminal event or the whole JSON body was seen
    has_finished_item: bool = False  # at least one output item done and none open
    error: str | None = None  # the provider's error, as text
    is_stream_error: bool = False  # an error event after status 200
    first_content_us: int | None = None  # arrival of the first content of a stream
    is_truncated: bool = False  # the body was longer than is kept
    problems: tuple[str, ...] = ()


@noun(frozen=True, slots=True)
class ModelCall:
    """A decoded exchange."""

    prompt: Prompt
    answer: Answer

    @property
    def model(self) -> str:
        """The model the answer names, else the request's or path's, else `unknown`."""
        return self.answer.model or self.prompt.model or "unknown"

    @property
    def problems(self) -> tuple[str, ...]:
        return self.prompt.problems + self.answer.problems
